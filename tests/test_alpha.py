"""Transparency: premultiplied inside, straight in files."""

import numpy as np

from jimgen.alpha import WHITE, composite, premultiply, unpremultiply

ALL_LEVELS = np.stack([*np.meshgrid(*[np.arange(256, dtype=np.uint8)] * 2, indexing="ij")], -1)  # (colour, alpha)
EVERY = ALL_LEVELS[..., [0, 0, 0, 1]]


def test_opaque_and_transparent_pixels():
    pixels = np.array([[10, 20, 30, 255], [10, 20, 30, 0], [200, 100, 0, 128]], np.uint8)
    assert premultiply(pixels).tolist() == [[10, 20, 30, 255], [0, 0, 0, 0], [100, 50, 0, 128]]
    assert composite(premultiply(pixels), WHITE).tolist() == [[10, 20, 30], [255, 255, 255], [227, 177, 127]]


def test_alpha_comes_back_exactly_and_composites_within_one_level():
    back = unpremultiply(premultiply(EVERY))
    assert (back[..., 3] == EVERY[..., 3]).all()
    for background in (0, 77, 255):
        straight = EVERY[..., :3] * (EVERY[..., 3:] / 255) + (1 - EVERY[..., 3:] / 255) * background
        for seen in (premultiply(EVERY), premultiply(back)):
            assert np.abs(composite(seen, (background,) * 3) - straight).max() <= 1


def test_colour_brighter_than_alpha_allows_is_cut():
    assert unpremultiply(np.array([[200, 0, 0, 100]], np.uint8)).tolist() == [[255, 0, 0, 100]]
    assert composite(np.array([[[255, 0, 0, 0]]], np.uint8), WHITE).tolist() == [[[255, 255, 255]]]
