"""Ways to damage files: any bytes, JSON, zip archives, arrays, PNG and JPEG."""

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.random import Generator

HUGE = (0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 0x10000000, 0x00FFFFFF, 0xFFFF, 1, 0)
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 7, 1e308, float("nan"), float("inf"), 10**30, 2**63, -(10**400), 0.5),
    *("", "x", "[/b]", "../../etc", "\x00", "\ud800", "é" * 300, "digits", "1", "nan"),
    *([], {}, [[]], [1, "a", None], {"a": {"b": 1}}, [[[[[[0]]]]]]),
)
METHODS = (1, 6, 9, 12, 14, 93, 98, 99)  # of compression: unknown to Python, or not used in the archive


def damage(data: bytes, rng: Generator) -> bytes:
    """Makes one to three faults of a disk, a network or an editor."""
    for _ in range(rng.integers(1, 4)):
        data = _FAULTS[rng.integers(len(_FAULTS))](data, rng)
    return data


def flip_bits(data: bytes, rng: Generator) -> bytes:
    out = bytearray(data)
    for place in rng.integers(max(len(out), 1), size=rng.integers(1, 9)):
        if out:
            out[place] ^= 1 << int(rng.integers(8))
    return bytes(out)


def truncate(data: bytes, rng: Generator) -> bytes:
    return data[: _place(data, rng)]


def _overwrite_with_extreme(data: bytes, rng: Generator) -> bytes:
    place, order, width = _place(data, rng), rng.choice(["<", ">"]), rng.choice([1, 2, 4])
    return data[:place] + struct.pack(f"{order}Q", HUGE[rng.integers(len(HUGE))])[:width] + data[place + width :]


def _overwrite_with_zeros(data: bytes, rng: Generator) -> bytes:
    start, stop = _range(data, rng)
    return data[:start] + bytes(stop - start) + data[stop:]


def _remove(data: bytes, rng: Generator) -> bytes:
    start, stop = _range(data, rng)
    return data[:start] + data[stop:]


def _copy_elsewhere(data: bytes, rng: Generator) -> bytes:
    start, stop = _range(data, rng)
    place = _place(data, rng)
    return data[:place] + data[start:stop] + data[place + int(rng.integers(2)) * (stop - start) :]


def _insert_noise(data: bytes, rng: Generator) -> bytes:
    place = _place(data, rng)
    return data[:place] + rng.bytes(int(rng.integers(1, 40))) + data[place:]


_FAULTS: tuple[Callable[[bytes, Generator], bytes], ...] = (
    flip_bits,
    flip_bits,
    truncate,
    _overwrite_with_extreme,
    _overwrite_with_extreme,
    _overwrite_with_zeros,
    _remove,
    _copy_elsewhere,
    _insert_noise,
)


def _place(data: bytes, rng: Generator) -> int:
    """A random position, half the time in the first 64 bytes, where headers are."""
    return int(rng.integers(min(len(data), 64 if rng.random() < 0.5 else len(data)) + 1))


def _range(data: bytes, rng: Generator) -> tuple[int, int]:
    start = _place(data, rng)
    return start, min(len(data), start + int(rng.integers(1, 65)))


def damage_json(value: Any, rng: Generator) -> bytes:
    """JSON text of a changed value, or text that is almost JSON."""
    text = json.dumps(value).encode()
    match rng.integers(10):
        case 0:
            return damage(text, rng)
        case 1:
            return (b"", b"null", b"[]", b"{}", b"3", b'"x"', b"{", b"\xff\xfe", b"\n\n", bytes(100))[rng.integers(10)]
        case 2:
            return (b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000, text.decode().encode("utf-16"))[rng.integers(4)]
        case 3:
            return b"\xef\xbb\xbf" + text  # the byte order mark of some editors
    for _ in range(rng.integers(1, 4)):
        value = _changed(value, rng)
    return json.dumps(value).encode()


def _changed(value: Any, rng: Generator) -> Any:
    """The value with one node, at any depth, replaced, removed, renamed or moved."""
    if not isinstance(value, (dict, list)) or not value or rng.random() < 0.1:
        return ODD_VALUES[rng.integers(len(ODD_VALUES))]
    if isinstance(value, list):
        place = int(rng.integers(len(value)))
        return [*value[:place], _changed(value[place], rng), *value[place + 1 :]]
    names = list(value)
    name, other = names[rng.integers(len(names))], names[rng.integers(len(names))]
    match rng.integers(6):
        case 0:
            return {key: item for key, item in value.items() if key != name}
        case 1:
            return {**value, "added": ODD_VALUES[rng.integers(len(ODD_VALUES))]}
        case 2:
            return {**value, name: value[other]}
    return {**value, name: _changed(value[name], rng)}


def damage_zip(data: bytes, rng: Generator) -> bytes:
    """A zip archive with one header field changed, in one or all members, in both headers of each member."""
    out = bytearray(data)
    what, everywhere = rng.integers(5), rng.random() < 0.5
    method, size = int(rng.choice(METHODS)), HUGE[rng.integers(len(HUGE))]
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = out.find(signature)
        while at >= 0:
            match what:
                case 0:
                    out[at + flags] |= 1  # encrypted
                case 1:
                    out[at + flags + 2 : at + flags + 4] = struct.pack("<H", method)
                case 2:
                    out[at + flags + 8 : at + flags + 12] = struct.pack("<I", size)  # checksum
                case 3:
                    out[at + flags + 12 : at + flags + 16] = struct.pack("<I", size)  # compressed size
                case 4:
                    out[at + flags + 16 : at + flags + 20] = struct.pack("<I", size)  # size
            at = out.find(signature, at + 1) if everywhere else -1
    return bytes(out)


def zip_of(members: dict[str, bytes], compress: bool = False) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, archive.compression)
    return file.getvalue()


def damage_npy(data: bytes, rng: Generator) -> bytes:
    """The bytes of an .npy file with another header, or with damage."""
    shapes = ("(1000000000, 1000, 1000)", "(-1, 8)", "()", "(2, 3", "(0,)", "(1, 1, 1)", "(" + "1," * 70 + ")", "None")
    descriptors = ("'|u1'", "'<f8'", "'|O'", "'|S9999'", "'>i4'", "'<U3'", "'<m8'", "[('a', '<u2')]", "'?'", "'x'", "7")
    shape = shapes[rng.integers(len(shapes))]
    descriptor = descriptors[rng.integers(len(descriptors))]
    header = f"{{'descr': {descriptor}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    match rng.integers(4):
        case 0:
            return damage(data, rng)
        case 1:
            return data[:8] + struct.pack("<H", 65535) + data[10:]  # the header's length
        case 2:
            return data[:6] + bytes([rng.integers(5), rng.integers(2)]) + data[8:]  # the version
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data[128:]


Chunk = tuple[bytes, bytes]


def png_chunks(data: bytes) -> list[Chunk]:
    """(name, content) of each chunk of a valid PNG."""
    found, at = [], 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += length + 12
    return found


def png_of(chunks: list[Chunk]) -> bytes:
    """A PNG with correct checksums."""
    out = b"\x89PNG\r\n\x1a\n"
    for name, content in chunks:
        checksum = struct.pack(">I", zlib.crc32(name + content))
        out += struct.pack(">I", len(content)) + name + content + checksum
    return out


def damage_png(data: bytes, rng: Generator) -> bytes:
    """Removes, repeats, swaps or changes chunks, with correct checksums."""
    chunks = png_chunks(data)
    at, other = (int(i) for i in rng.integers(len(chunks), size=2))
    match rng.integers(5):
        case 0:
            del chunks[at]
        case 1:
            chunks.insert(other, chunks[at])
        case 2:
            chunks[at], chunks[other] = chunks[other], chunks[at]
        case 3:
            chunks[at] = (chunks[at][0], damage(chunks[at][1], rng))
        case _:  # a header of any size, depth, colour type and interlacing
            sides = [int(rng.choice([0, 1, 8, 9, 5000, 60_000, 2**31 - 1])) for _ in range(2)]
            depth, colour = int(rng.choice([1, 2, 4, 8, 16, 3])), int(rng.choice([0, 2, 3, 4, 6, 1]))
            chunks[0] = (b"IHDR", struct.pack(">IIBBBBB", *sides, depth, colour, 0, 0, int(rng.integers(2))))
    return png_of(chunks)


def damage_jpeg(data: bytes, rng: Generator) -> bytes:
    """Removes, repeats, swaps or damages segments before the scan."""
    segments, at = [], 2
    while at < len(data) and data[at + 1] != 0xDA:
        length = 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        segments.append(data[at : at + length])
        at += length
    i, j = (int(i) for i in rng.integers(len(segments), size=2))
    match rng.integers(4):
        case 0:
            del segments[i]
        case 1:
            segments.insert(j, segments[i])
        case 2:
            segments[i], segments[j] = segments[j], segments[i]
        case _:
            segments[i] = segments[i][:4] + damage(segments[i][4:], rng)
    return data[:2] + b"".join(segments) + data[at:]


def npy_of(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=(1, 0), allow_pickle=True)
    return file.getvalue()
