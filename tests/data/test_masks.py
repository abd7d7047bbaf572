"""Masks: which pixels are known, in all forms of files."""

import numpy as np
import pytest
from PIL import Image

from jimgen.data.fitting import fitting_of
from jimgen.data.masks import fit_mask, read_mask
from jimgen.errors import UserError

KNOWN = np.array([[True, True, False], [False, True, False]])


def rgba(colour, alpha) -> Image.Image:
    return Image.fromarray(np.concatenate([np.broadcast_to(colour, (2, 3, 3)), alpha[..., None]], -1).astype(np.uint8))


def palette(colours) -> Image.Image:
    image = Image.fromarray(KNOWN.astype(np.uint8), "P")
    image.putpalette(colours)
    return image


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("8.png", Image.fromarray(KNOWN * np.uint8(255))),
        ("01.png", Image.fromarray(KNOWN * np.uint8(1))),
        ("bit.png", Image.fromarray(KNOWN)),
        ("grey.png", Image.fromarray(np.where(KNOWN, 128, 127).astype(np.uint8))),
        ("colour.png", Image.fromarray((KNOWN * np.uint8(255))[..., None].repeat(3, -1))),
        ("colour01.png", Image.fromarray(KNOWN.astype(np.uint8)[..., None].repeat(3, -1))),
        ("16.png", Image.fromarray(KNOWN * np.uint16(65535))),
        ("grey16.png", Image.fromarray(np.where(KNOWN, 32768, 32767).astype(np.uint16))),
        ("16of8.png", Image.fromarray(KNOWN * np.uint16(255))),
        ("16of1.png", Image.fromarray(KNOWN * np.uint16(1))),
        ("32.tiff", Image.fromarray(KNOWN * np.int32(1))),
        ("float.tiff", Image.fromarray(KNOWN * np.float32(255))),
        ("float01.tiff", Image.fromarray(np.where(KNOWN, 0.75, 0.25).astype(np.float32))),
        ("alpha.png", rgba(255, KNOWN * 255)),
        ("opaque.png", rgba((KNOWN * 255)[..., None], np.full((2, 3), 255))),
        ("palette.png", palette([0, 0, 0, 255, 255, 255])),
        ("indices.png", palette([0, 0, 0, 1, 1, 1])),
    ],
)
def test_masks_of_any_depth_mean_the_same(tmp_path, name, image):
    """White is known and black missing, in 1, 8, 16 and 32 bits, as 0 and 1, in colour, with alpha, by a palette; grey
    is cut at half the range."""
    image.save(tmp_path / name)
    np.testing.assert_array_equal(read_mask(tmp_path / name), KNOWN)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((2, 2), np.uint8), "no white .known. pixel: its values lie within 0 and 0"),
        (np.full((2, 2), 255, np.uint8), "no black .missing. pixel"),
        (np.full((2, 2), 1, np.uint8), "no black .missing. pixel"),
        (np.array([[0, 127]], np.uint8), "no white .known. pixel: its values lie within 0 and 127"),
        (np.full((2, 2), 65535, np.uint16), "no black .missing. pixel"),
        (np.array([[0, -1]], np.float32), "values from -1.0 to 0.0"),
        (np.array([[0, np.nan]], np.float32), "values from nan to nan"),
        (np.array([[0, 70000]], np.int32), "values from 0 to 70000"),
    ],
)
def test_masks_that_say_nothing_are_refused(tmp_path, values, message):
    Image.fromarray(values).save(tmp_path / "x.tiff")
    with pytest.raises(UserError, match=message):
        read_mask(tmp_path / "x.tiff")


def test_a_file_that_is_no_picture_is_named(tmp_path):
    (tmp_path / "x.png").write_bytes(b"mask")
    with pytest.raises(UserError, match="x.png: not a picture"):
        read_mask(tmp_path / "x.png")


def test_a_fitted_pixel_is_known_if_all_that_it_was_made_of_is():
    """Halved: a pixel is missing if one of its four is. Padded: the background is known."""
    known = np.ones((8, 8), bool)
    known[0, 0] = False
    halved = fit_mask(known, fitting_of(size=4, fit="resize"))
    assert not halved[0, 0] and halved[2:, 2:].all()
    padded = fit_mask(known, fitting_of(size=10, fit="pad"))
    assert not padded[1, 1] and padded.sum() == 99


@pytest.mark.parametrize("what", ["known", "missing"])
def test_parts_that_vanish_when_a_mask_shrinks_are_told(what):
    """Known lines one pixel wide, and one missing pixel of 65,536, at an eighth and a 64th of the size."""
    known = np.zeros((64, 64), bool) if what == "known" else np.ones((256, 256), bool)
    known[::8] = what == "known"
    if what == "missing":
        known[:], known[100, 100] = True, False
    with pytest.raises(UserError, match=f"no {what} pixel is left at size"):
        fit_mask(known, fitting_of(size=8 if what == "known" else 4, fit="resize"))
