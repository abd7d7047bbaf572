"""Phantoms and stacked digits: embedded, so tested in full."""

import numpy as np

from jimgen.data import load
from jimgen.data.recipes.phantom import ATTRIBUTES, RADII, REGIONS, Ellipse, _cover, phantom
from jimgen.data.recipes.stacked_digits import open_stacked_digits


def test_a_phantom_is_a_function_of_seed_index_and_size():
    one, same = phantom(0, 3, (32, 32)), phantom(0, 3, (32, 32))
    np.testing.assert_array_equal(one.image, same.image)
    assert (one.image != phantom(0, 4, (32, 32)).image).any() and (one.image != phantom(1, 3, (32, 32)).image).any()


def test_anatomy_does_not_depend_on_the_size():
    for index in range(8):
        small, large = phantom(0, index, (32, 48)), phantom(0, index, (128, 192))
        assert small.label == large.label and large.image.shape == (128, 192, 1)
        shares = [[(one.regions == region).mean() for region in range(len(REGIONS))] for one in (small, large)]
        np.testing.assert_allclose(*shares, atol=0.03)


def test_the_label_tells_where_a_lesion_is_and_how_large():
    found = [phantom(0, index, (128, 128)) for index in range(60)]
    lesion = REGIONS.index("lesion")
    for one in found:
        label, side, kind = one.label
        area = (one.regions == lesion).sum() / 64**2  # in units of the half side, squared
        assert bool(label) == bool(side) == bool(kind) == (area > 0)
        if label:
            columns = np.flatnonzero((one.regions == lesion).any(axis=0))
            assert (columns.mean() > 63.5) == (ATTRIBUTES[0].values[side] == "right")
            low, high = RADII[ATTRIBUTES[1].values[kind]]
            assert np.pi * low**2 * 0.8 <= area <= np.pi * high**2 * 1.2
    assert 15 < sum(one.label[0] for one in found) < 45


def test_a_pixel_is_covered_in_proportion_at_an_edge():
    """The edge of an ellipse at x = 1/2 halves the pixel whose centre it crosses."""
    x, y = np.array([[0.0, 0.45, 0.5, 0.55, 0.9]]), np.zeros((1, 1))
    covered = _cover(Ellipse(1, 0, 0, 0.5, 0.25, 0, 0), x, y, 0.2)
    np.testing.assert_allclose(covered[0, 1:], [0.75, 0.5, 0.25, 0], atol=1e-6)
    assert covered[0, 0] == 1


def test_stacked_digits_are_digits_of_their_own_split():
    digits, stacked = load("digits"), open_stacked_digits("20", None)
    for ours, theirs in ((stacked.train, digits.train), (stacked.test, digits.test)):
        for channel in range(3):
            for image, label in zip(ours.images[..., channel], ours.labels[:, channel + 1], strict=True):
                equal = (theirs.images[..., 0] == image).all(axis=(1, 2))
                assert label in theirs.labels[equal]


def test_more_stacked_digits_begin_with_the_same_ones():
    few, many = open_stacked_digits("20", None), open_stacked_digits("40", None)
    np.testing.assert_array_equal(few.train.images, many.train.images[:20])
