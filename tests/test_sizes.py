"""Sizes: as text, and as a flag."""

import pytest
import tyro

from jimgen.errors import UserError
from jimgen.sizes import Size, parse_size, size_text


@pytest.mark.parametrize(("text", "size"), [("64", 64), ("64x96", (64, 96)), ("64x64", 64), ("1x2", (1, 2))])
def test_sizes_by_their_text(text, size):
    assert parse_size(text) == size and parse_size(size_text(size)) == size


@pytest.mark.parametrize("text", ["", "0", "64x", "x64", "0x64", "64x0", "64X96", "-1", "6.5", "64x96x3", "9999999"])
def test_texts_that_are_no_size(text):
    with pytest.raises(UserError, match="64 or 64x96"):
        parse_size(text)


@pytest.mark.parametrize(("flags", "size"), [([], None), (["--size", "64"], 64), (["--size", "64x96"], (64, 96))])
def test_sizes_as_flags(flags, size):
    def command(size: Size = None):
        return size

    assert tyro.cli(command, args=flags) == size


def test_a_flag_that_is_no_size_is_told():
    def command(size: Size = None):
        return size

    with pytest.raises(UserError, match="'64x' is no size: .* 64 or 64x96"):
        tyro.cli(command, args=["--size", "64x"])
