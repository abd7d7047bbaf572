"""Pictures brought to one size and number of channels: exact pixels, windows and what is refused."""

import numpy as np
import pytest
from PIL import Image

from jimgen.alpha import WHITE, composite, premultiply
from jimgen.data.fitting import (
    Fitting,
    centre_window,
    fit_images,
    fit_window,
    fitting_of,
    misfit,
    pad,
    random_window,
    resize,
)
from jimgen.errors import UserError

GREY = np.array([[0, 50, 100], [150, 200, 255]], np.uint8)
ORANGE = (255, 128, 0)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def soft_disc(side: int = 64, colour=(255, 0, 0)) -> np.ndarray:
    """Straight RGBA uint8 [side, side, 4]: a disc whose edge fades out; green hides under full transparency."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    alpha = np.clip((side * 0.35 - np.hypot(y, x)) / 6 + 0.5, 0, 1)
    rgba = np.empty((side, side, 4), np.uint8)
    rgba[..., :3] = np.where(alpha[..., None] > 0, colour, (0, 255, 0))
    rgba[..., 3] = np.rint(alpha * 255)
    return rgba


def test_resizing_is_pillows_bicubic_per_channel_in_float():
    image = noise(2, 9, 13, 3)
    for size in ((5, 5), (20, 20), (7, 30)):
        planes = [
            [
                Image.fromarray(image[n, :, :, c].astype(np.float32)).resize(size[::-1], Image.Resampling.BICUBIC)
                for c in range(3)
            ]
            for n in range(2)
        ]
        expected = np.rint(np.moveaxis(np.array(planes), 1, -1).clip(0, 255)).astype(np.uint8)
        np.testing.assert_array_equal(resize(image, size), expected)
        np.testing.assert_array_equal(resize(image[0], size), expected[0])


def test_resizing_keeps_a_constant_and_clips_overshoot():
    assert (resize(np.full((4, 6, 1), 77, np.uint8), (9, 9)) == 77).all()
    edge = np.repeat(np.array([[0, 0, 255, 255]], np.uint8), 4, axis=0)[..., None]
    assert resize(edge, (16, 16)).min() == 0 and resize(edge, (16, 16)).max() == 255


def test_the_nearest_pixel_keeps_colours_and_makes_blocks():
    image = noise(3, 4, 3)
    np.testing.assert_array_equal(resize(image, (6, 12), "nearest"), image.repeat(2, axis=0).repeat(3, axis=1))
    np.testing.assert_array_equal(resize(image.repeat(3, axis=0).repeat(3, axis=1), (3, 4), "nearest"), image)
    seen = resize(image, (5, 9), "nearest").reshape(-1, 3).tolist()
    assert all(pixel in image.reshape(-1, 3).tolist() for pixel in seen)


def test_padding_centres_on_the_background():
    padded = pad(GREY[..., None], (5, 5))
    np.testing.assert_array_equal(padded[1:3, 1:4, 0], GREY)
    assert padded.sum() == GREY.sum()
    red = np.full((1, 1, 3), (255, 0, 0), np.uint8)
    padded = fit_images(red, Fitting((2, 3), "pad", 3, ORANGE))
    assert padded.tolist() == [[[*ORANGE], [255, 0, 0], [*ORANGE]], [[*ORANGE]] * 3]
    assert fit_images(red[..., :1], Fitting((2, 3), "pad", 1, WHITE))[1, 0, 0] == 255
    assert fit_images(red[..., :1], Fitting((2, 3), "pad", 3, ORANGE))[1].tolist() == [[*ORANGE]] * 3


def test_padding_with_four_channels_is_transparent():
    red = np.full((1, 1, 3), (255, 0, 0), np.uint8)
    padded = fit_images(red, Fitting((1, 3), "pad", 4, ORANGE))
    assert padded.tolist() == [[[0, 0, 0, 0], [255, 0, 0, 255], [0, 0, 0, 0]]]


@pytest.mark.parametrize("size", [(4, 4), (4, 8), (8, 4), (3, 5)])
def test_cropping_is_resizing_of_the_largest_centred_window(size):
    image = noise(24, 16, 3)
    top, left, height, width = centre_window(24, 16, size)
    expected = resize(image[top : top + height, left : left + width], size)
    np.testing.assert_array_equal(fit_images(image, Fitting(size)), expected)
    assert abs(height / width - size[0] / size[1]) < 0.1 and (height == 24 or width == 16)
    assert abs((24 - height) - 2 * top) <= 1 and abs((16 - width) - 2 * left) <= 1


@pytest.mark.parametrize(("stored", "size"), [((16, 16), (7, 7)), ((24, 16), (12, 8)), ((9, 21), (6, 14))])
def test_cropping_is_resizing_where_the_aspect_ratio_is_the_same(stored, size):
    image = noise(*stored, 3)
    np.testing.assert_array_equal(fit_images(image, Fitting(size)), fit_images(image, Fitting(size, "resize")))


def test_random_windows_are_inside_and_of_every_size_that_is_allowed():
    random, size = np.random.default_rng(0), (2, 3)
    found = [random_window(40, 30, size, 0.5, random) for _ in range(300)]
    for top, left, height, width in found:
        assert 0 <= top <= 40 - height and 0 <= left <= 30 - width and abs(height - width * 2 / 3) <= 1
    widths = [window.width for window in found]
    assert min(widths) == 15 and max(widths) == 30
    whole = {random_window(40, 30, size, 1.0, random) for _ in range(100)}
    assert {(window.height, window.width) for window in whole} == {(20, 30)} and len({w.top for w in whole}) > 15


def test_a_window_without_resizing_is_a_part_of_the_picture():
    image = noise(10, 12, 3)
    window = random_window(10, 12, (10, 10), 1.0, np.random.default_rng(1))
    part = fit_window(image, window, (10, 10), Fitting(channels=3))
    np.testing.assert_array_equal(part, image[:, window.left : window.left + 10])


def test_channels():
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]]], np.uint8)
    np.testing.assert_array_equal(fit_images(colours, Fitting(channels=1))[..., 0], [[76, 150, 29, 9]])
    np.testing.assert_array_equal(fit_images(GREY[..., None], Fitting(channels=3)), np.dstack([GREY] * 3))
    assert fit_images(colours[None].repeat(4, 1), Fitting((8, 8), channels=1)).shape == (1, 8, 8, 1)
    opaque = fit_images(GREY[..., None], Fitting(channels=4))
    np.testing.assert_array_equal(opaque, np.dstack([GREY] * 3 + [np.full_like(GREY, 255)]))
    half = np.array([[[100, 0, 0, 128]]], np.uint8)
    assert fit_images(half, Fitting(channels=3, background=WHITE)).tolist() == [[[227, 127, 127]]]
    assert fit_images(half, Fitting(channels=1)).tolist() == [[[30]]]
    assert fit_images(half, Fitting()).shape == (1, 1, 4)


@pytest.mark.parametrize("background", [(0, 0, 0), WHITE, ORANGE])
@pytest.mark.parametrize("size", [(16, 16), (23, 37), (128, 128)])
def test_a_soft_edge_has_no_fringe_when_resized(background, size):
    """Resizing premultiplied pixels and then compositing is compositing and then resizing, on any background."""
    disc = premultiply(soft_disc())
    found = composite(fit_images(disc, Fitting(size, "resize", 4)), background)
    expected = resize(composite(disc, background), size)
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 2


@pytest.mark.parametrize("colour", [(255, 0, 0), (200, 30, 30), (90, 120, 90)])
def test_no_edge_is_darker_or_brighter_than_both_of_its_sides(colour):
    """A hard edge too, where the filter overshoots alpha and colour together."""
    disc = soft_disc(colour=colour)
    disc[..., 3] = np.where(disc[..., 3] > 127, 255, 0)
    for background in ((0, 0, 0), WHITE, ORANGE):
        found = composite(resize(premultiply(disc), (29, 29)), background).astype(int)
        low, high = np.minimum(colour, background), np.maximum(colour, background)
        assert (found >= low - 1).all() and (found <= high + 1).all()


def test_premultiplied_colour_never_exceeds_alpha():
    hard = np.zeros((8, 8, 4), np.uint8)
    hard[2:6, 2:6] = 255
    found = resize(hard, (21, 21))
    assert (found[..., :3] <= found[..., 3:]).all()


@pytest.mark.parametrize(
    ("stored", "size", "fit", "message"),
    [
        ((2, 3), (2, 2), "pad", "2x3 does not fit into size 2: .*resize"),
        ((2, 3), (17, 17), "resize", "2x3 is too small for size 17: .*pad"),
        ((2, 3), (17, 8), "crop", "2x3 is too small for size 17x8: .*pad"),
        ((2, 300), (8, 1200), "resize", None),
        ((2, 300), (17, 17), "crop", "too small"),
        ((2, 3), (2, 3), "pad", None),
        ((2, 3), (16, 24), "crop", None),
    ],
)
def test_sizes_that_cannot_be(stored, size, fit, message):
    image = np.zeros((*stored, 1), np.uint8)
    if message is None:
        assert misfit(*stored, size, fit) is None and fit_images(image, Fitting(size, fit)).shape == (*size, 1)
    else:
        with pytest.raises(UserError, match=message):
            fit_images(image, Fitting(size, fit))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size is 0: "),
        ({"size": (0, 64)}, "size is .0, 64.: .*64x96"),
        ({"size": (1, 2, 3)}, "size is .1, 2, 3.: "),
        ({"fit": "stretch"}, "fit is 'stretch': choose 'crop', 'resize' or 'pad'"),
        ({"channels": 2}, r"channels is 2: choose 1 \(grey\), 3 \(RGB\) or 4 \(RGBA\), or leave it out"),
        ({"resample": "cubic"}, "resample is 'cubic': choose 'bicubic' or 'nearest'"),
        ({"background": "blue"}, "background 'blue' is no colour: give black, white or #rrggbb"),
        ({"background": "#12345"}, "no colour"),
        ({"bits": 17}, "bits is 17"),
        ({"crop_scale": 0.0, "crop": "random"}, "crop scale is 0.0"),
        ({"crop_scale": 0.5}, "--crop random"),
        ({"crop": "random", "fit": "pad"}, "choose fit 'crop'"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        fitting_of(**options)


def test_backgrounds_by_their_text():
    texts = ("black", "WHITE", "#ff8000")
    assert [fitting_of(background=text).background for text in texts] == [(0, 0, 0), WHITE, ORANGE]


def test_the_identity_names_what_is_not_usual():
    """Hashes of data from before there were more options stay as they are."""
    assert [fitting_of(8, fit).identity for fit in ("crop", "resize", "pad")] == ["crop", "resize", "pad"]
    assert fitting_of(bits=12, fit="pad").identity == "pad 12 bits"
    assert fitting_of(background="#ff8000", resample="nearest").identity == "crop background #ff8000 nearest"
    assert fitting_of(background="white", channels=4).identity == "crop"  # nothing is composited
