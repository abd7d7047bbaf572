"""The container of compressed pictures: many pictures under one header, checked as a whole before anything is decoded.

    magic "JGC\\x1a" | version | kind | flags | model id (8 bytes) | blocks | [names] | CRC32 of all before

One-byte fields are unsigned, other numbers are varints (7 bits a byte, the lowest first, the high bit set where more
follow), checksums are 4 bytes, little-endian. Blocks and names are

    number of blocks, then for each: pictures, height, width, channels, bit depth, rate, CRC32 of the content, number of
    parts, their lengths, the parts
    length, names joined by zero bytes and deflated: one name for each picture, if flag 1 is set

The parts of a block and what its checksum covers depend on the kind: integer latents of lossy kinds, pixels of lossless
ones. A container does not know how to code them.
"""

import enum
import struct
import zlib
from collections import Counter
from typing import NamedTuple

from jimgen.apps.codec.errors import DamagedFile, TooLarge
from jimgen.files import some_of

MAGIC, VERSION = b"JGC\x1a", 1
NAMED = 1  # flag
MOST_PIXELS = 2**22  # height times width, summed over the pictures of a block
MOST_PIXELS_IN_ALL = 2**28
_MOST_NAME_BYTES = 2**24  # of all names, inflated
_LONGEST_NAME = 200  # bytes: a file's name takes a suffix, and while it is written another one
_FIXED = struct.Struct("<4sBBB8s")
_CHECKSUM = struct.Struct("<I")


class Kind(enum.IntEnum):
    """How pictures are coded."""

    LATENTS = 0  # lossy: rounded latents (lossy.py)
    PIXELS = 1  # lossless: a likelihood of pixels one after another (pixels.py)
    BITS_BACK = 2  # lossless: a hierarchical VAE (bits_back.py)


class Block(NamedTuple):
    """Consecutive pictures of one shape."""

    num: int
    shape: tuple[int, int, int]  # height, width, channels: 1 grey, 3 colour, 4 with transparency
    rate: int  # 0 where the kind has only one
    checksum: int  # CRC32
    parts: tuple[bytes, ...]
    bit_depth: int = 8


class Container(NamedTuple):
    kind: Kind
    model: bytes  # 8 bytes
    blocks: tuple[Block, ...]
    names: tuple[str, ...] | None = None  # of all pictures in order; None where none are stored

    @property
    def num(self) -> int:
        """The number of pictures."""
        return sum(block.num for block in self.blocks)


def pack(container: Container) -> bytes:
    """The bytes of a container; `unpack` is the inverse.

    Raises:
        DamagedFile, TooLarge: `unpack` would refuse it.
    """
    _check(container)
    flags = NAMED if container.names is not None else 0
    out = bytearray(_FIXED.pack(MAGIC, VERSION, container.kind, flags, container.model))
    out += _varint(len(container.blocks))
    for block in container.blocks:
        for number in (block.num, *block.shape, block.bit_depth, block.rate):
            out += _varint(number)
        out += _CHECKSUM.pack(block.checksum) + _varint(len(block.parts))
        for part in block.parts:
            out += _varint(len(part))
        out += b"".join(block.parts)
    if container.names is not None:
        deflated = zlib.compress(_joined(container.names), 9)
        out += _varint(len(deflated)) + deflated
    return bytes(out) + _CHECKSUM.pack(zlib.crc32(out))


def unpack(data: bytes) -> Container:
    """Reads a container, with all its limits checked. Nothing is decoded; names take at most 16 MB.

    Raises:
        DamagedFile: not a container, of another version, cut off, or with a wrong checksum or impossible content.
        TooLarge: too many pixels.
    """
    if len(data) < _FIXED.size + _CHECKSUM.size or data[: len(MAGIC)] != MAGIC:
        raise DamagedFile("not a file of `jimgen compress`, or cut off at its start")
    _, version, kind, flags, model = _FIXED.unpack_from(data)
    if version != VERSION:
        raise DamagedFile(f"version {version} of the format: this jimgen reads version {VERSION}")
    if zlib.crc32(data[: -_CHECKSUM.size]) != _CHECKSUM.unpack(data[-_CHECKSUM.size :])[0]:
        raise DamagedFile("its checksum is wrong: the file is damaged or cut off")
    if kind not in [*Kind] or flags & ~NAMED:
        raise DamagedFile(f"kind {kind} with flags {flags}: a newer jimgen may read it")
    reader = _Reader(data[_FIXED.size : -_CHECKSUM.size])
    blocks = tuple(_block(reader) for _ in range(reader.count("blocks")))
    num = sum(block.num for block in blocks)
    names = _names(reader.take(reader.varint()), num) if flags & NAMED else None
    if reader.left:
        raise DamagedFile(f"{reader.left} bytes after its end")
    container = Container(Kind(kind), model, blocks, names)
    _check(container)
    return container


def require_valid_names(names: tuple[str, ...]) -> None:
    """Raises DamagedFile for names that could leave a folder, are empty or too long, or occur twice."""
    for name in names:
        if name in ("", ".", "..") or any(c in name for c in "/\\\0:"):
            raise DamagedFile(
                f"a picture named {name[:100]!r}, which is not the name of a file on every system: rename it, or leave "
                "names out (--no-names)"
            )
        if len(name.encode(errors="replace")) > _LONGEST_NAME:
            raise DamagedFile(f"a picture named {name[:100]!r}...: more than {_LONGEST_NAME} bytes; rename it")
    counts = Counter(name.casefold() for name in names)
    if twice := [name for name in names if counts[name.casefold()] > 1]:
        raise DamagedFile(
            f"pictures of one name, which has no suffix: {some_of(twice)}. Rename them, or leave names out (--no-names)"
        )


def _check(container: Container) -> None:
    if len(container.model) != 8:
        raise DamagedFile(f"a model id of {len(container.model)} bytes")
    total = 0
    for block in container.blocks:
        height, width, channels = block.shape
        if min(block.num, height, width) < 1 or channels not in (1, 3, 4) or block.bit_depth != 8:
            raise DamagedFile(f"{block.num} pictures {list(block.shape)} of {block.bit_depth} bits")
        if block.num * height * width > MOST_PIXELS:
            what = f"{block.num} pictures of {height}x{width} pixels"
            raise TooLarge(f"{what} in a block: more than {MOST_PIXELS} pixels; make them smaller")
        if not 0 <= block.checksum < 2**32:
            raise DamagedFile("a checksum beyond 32 bits")
        total += block.num * height * width
    if total > MOST_PIXELS_IN_ALL:
        raise TooLarge(f"{total} pixels in all, more than {MOST_PIXELS_IN_ALL}: use several files")
    if container.names is not None:
        if len(container.names) != container.num:
            raise DamagedFile(f"{len(container.names)} names for {container.num} pictures")
        require_valid_names(container.names)
        if len(_joined(container.names)) > _MOST_NAME_BYTES:
            raise TooLarge(f"names of more than {_MOST_NAME_BYTES} bytes: use several files")


def _block(reader: "_Reader") -> Block:
    num, height, width, channels, bit_depth, rate = (reader.varint() for _ in range(6))
    (checksum,) = _CHECKSUM.unpack(reader.take(_CHECKSUM.size))
    lengths = [reader.varint() for _ in range(reader.count("parts"))]
    parts = tuple(reader.take(length) for length in lengths)
    return Block(num, (height, width, channels), rate, checksum, parts, bit_depth)


def _joined(names: tuple[str, ...]) -> bytes:
    return "\0".join(names).encode()


def _names(deflated: bytes, num: int) -> tuple[str, ...]:
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(deflated, _MOST_NAME_BYTES)
        if not inflater.eof or inflater.unused_data:
            raise DamagedFile("its names are cut off, or too long")
        if (found := text.count(0) + 1) != num:
            raise DamagedFile(f"{found} names for {num} pictures")
        return tuple(text.decode().split("\0"))
    except (zlib.error, UnicodeDecodeError) as error:
        raise DamagedFile(f"its names are damaged: {error}") from error


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 128:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


class _Reader:
    """Takes bytes and numbers from the front of a buffer."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, length: int) -> bytes:
        if length > self.left:
            raise DamagedFile(f"{length} bytes wanted where {self.left} are left")
        self._at += length
        return self._data[self._at - length : self._at]

    def varint(self) -> int:
        """A number below 2^32."""
        number = 0
        for shift in range(0, 35, 7):
            byte = self.take(1)[0]
            number |= (byte & 127) << shift
            if byte < 128:
                if number >= 2**32 or (shift and not byte):
                    raise DamagedFile("a number that no encoder writes")
                return number
        raise DamagedFile("a number of more than 5 bytes")

    def count(self, what: str) -> int:
        """A number of things that take at least one byte each."""
        number = self.varint()
        if number > self.left:
            raise DamagedFile(f"{number} {what} in {self.left} bytes")
        return number
