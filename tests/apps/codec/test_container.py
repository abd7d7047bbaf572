"""The container: what it writes it reads, and whatever else it is given it refuses."""

import contextlib
import zlib

import pytest

from jimgen.apps.codec.container import MOST_PIXELS, Block, Container, Kind, pack, unpack
from jimgen.apps.codec.errors import DamagedFile, TooLarge

BLOCKS = (Block(2, (28, 300, 1), 3, 0xDEADBEEF, (b"abcd", b"")), Block(1, (8, 8, 4), 0, 0, (bytes(200),)))
SMALL = Container(Kind.LATENTS, b"12345678", BLOCKS, ("a", "ö b", "c"))


def signed(body: bytes) -> bytes:
    """A file with a right checksum, so that what is behind the checksum is tested."""
    return body + zlib.crc32(body).to_bytes(4, "little")


@pytest.mark.parametrize("changes", [{}, {"names": None, "kind": Kind.PIXELS}, {"names": None, "blocks": ()}])
def test_a_container_comes_back(changes):
    container = SMALL._replace(**changes)
    assert unpack(pack(container)) == container


def test_the_header_of_one_grey_picture_is_small():
    """4 + 1 + 1 + 1 + 8 + 1, a block of 6 + 4 + 2 and the code, and 4: 32 bytes."""
    one = Container(Kind.LATENTS, bytes(8), (Block(1, (28, 28, 1), 0, 0, (b"code",)),))
    assert len(pack(one)) == 32 + 4


def test_every_truncation_and_every_changed_byte_is_refused():
    data = pack(SMALL)
    for length in range(len(data)):
        with pytest.raises(DamagedFile):
            unpack(data[:length])
    for place in range(len(data)):
        with pytest.raises(DamagedFile):
            unpack(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])


def test_behind_a_right_checksum_every_changed_byte_gives_a_typed_error_or_a_valid_container():
    body = pack(SMALL)[:-4]
    for place in range(len(body)):
        for value in (0, 1, 127, 128, 255):
            data = signed(body[:place] + bytes([value]) + body[place + 1 :])
            with contextlib.suppress(DamagedFile, TooLarge):
                assert pack(unpack(data))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"num": 0}, DamagedFile, "0 pictures"),
        ({"shape": (28, 28, 2)}, DamagedFile, r"\[28, 28, 2\]"),
        ({"bit_depth": 16}, DamagedFile, "16 bits"),
        ({"shape": (1, MOST_PIXELS + 1, 1)}, TooLarge, "more than"),
        ({"num": 2**31}, TooLarge, "more than"),
    ],
)
def test_impossible_blocks_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        pack(Container(Kind.LATENTS, bytes(8), (BLOCKS[0]._replace(**changes),)))


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a\\b", "/etc/passwd", "a\0b", "C:x", "x" * 300])
def test_names_that_could_leave_the_folder_are_refused(name):
    with pytest.raises(DamagedFile):
        pack(SMALL._replace(names=("a", name, "c")))


def test_two_pictures_of_one_name_are_refused():
    with pytest.raises(DamagedFile, match="one name, .*: a, A\\."):
        pack(SMALL._replace(names=("a", "A", "c")))


def test_other_names_than_pictures_are_refused_before_they_are_taken_apart():
    body = pack(SMALL)[:-4]
    start = len(pack(SMALL._replace(names=None))) - 4
    names = zlib.compress(b"a\0b")
    with pytest.raises(DamagedFile, match="2 names for 3 pictures"):
        unpack(signed(body[:start] + bytes([len(names)]) + names))


def test_a_name_may_have_200_bytes():
    pack(SMALL._replace(names=("a", "x" * 200, "c")))
    with pytest.raises(DamagedFile, match="more than 200 bytes"):
        pack(SMALL._replace(names=("a", "x" * 201, "c")))


def test_names_that_inflate_without_end_are_refused():
    bomb = zlib.compress(bytes(2**25))
    body = pack(SMALL._replace(names=None))[:-4]
    length = bytes([len(bomb) & 127 | 128, len(bomb) >> 7 & 127 | 128, len(bomb) >> 14])
    with pytest.raises(DamagedFile, match="names"):
        unpack(signed(body[:6] + b"\1" + body[7:] + length + bomb))
