"""Pictures: exact pixels of grids, and files that read back unchanged."""

import numpy as np
import pytest
from PIL import Image

from jimgen import pictures

PIXELS = np.linspace(-1, 1, 4 * 8 * 8).reshape(4, 8, 8, 1)


def test_to_uint8_maps_rounds_and_clips():
    images = np.array([-1, -0.5, 0, 0.25, 1, -3, np.inf], np.float32)
    np.testing.assert_array_equal(pictures.to_uint8(images), np.array([0, 64, 128, 159, 255, 0, 255], np.uint8))


def test_to_uint8_passes_uint8_and_undoes_scaling():
    pixels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(pictures.to_uint8(pixels), pixels)
    np.testing.assert_array_equal(pictures.to_uint8(pixels / 127.5 - 1), pixels)


@pytest.mark.parametrize(("images", "message"), [([0.0, np.nan], "1 NaN of 2"), ([0, 255], "not int64")])
def test_to_uint8_refuses(images, message):
    with pytest.raises(ValueError, match=message):
        pictures.to_uint8(np.array(images))


def test_grid_places_tiles_exactly():
    images = np.array([10, 20, 30], np.uint8).reshape(3, 1, 1, 1)
    sheet = pictures.grid(images, columns=2, scale=2, gap=1)
    g = pictures.GAP_COLOUR
    expected = [
        [10, 10, g, g, 20, 20],
        [10, 10, g, g, 20, 20],
        [g, g, g, g, g, g],
        [g, g, g, g, g, g],
        [30, 30, g, g, g, g],
        [30, 30, g, g, g, g],
    ]
    assert sheet.dtype == np.uint8 and sheet.shape == (6, 6, 3)
    np.testing.assert_array_equal(sheet, np.repeat(np.array(expected, np.uint8)[..., None], 3, axis=-1))


def test_grid_keeps_colours_and_orientation():
    images = np.arange(2 * 2 * 3 * 3, dtype=np.uint8).reshape(2, 2, 3, 3)
    np.testing.assert_array_equal(pictures.grid(images, columns=2, scale=1, gap=0), np.concatenate(images, axis=1))


@pytest.mark.parametrize(
    ("n", "size", "shape"),
    [
        (4, 8, (102, 102)),  # 8 pixels are enlarged six times: 2 * 48 + 6
        (1, 28, (56, 56)),
        (1, 64, (64, 64)),
        (32, 64, (259, 519)),  # 4 rows of 8 and no holes, rather than 6 by 6
        (7, 64, (194, 194)),  # a prime: 3 by 3 with two holes
    ],
)
def test_grid_defaults(n, size, shape):
    assert pictures.grid(np.zeros((n, size, size, 1))).shape == (*shape, 3)


@pytest.mark.parametrize("shape", [(0, 8, 8, 1), (8, 8, 1), (2, 8, 8, 2)])
def test_grid_refuses_shapes(shape):
    with pytest.raises(ValueError, match="a grid takes"):
        pictures.grid(np.zeros(shape))


@pytest.mark.parametrize("options", [{"columns": 0}, {"scale": 0}, {"gap": -1}])
def test_grid_refuses_sizes(options):
    with pytest.raises(ValueError, match="at least"):
        pictures.grid(PIXELS, **options)


def test_rows_of_a_grid_may_differ_in_length():
    """A sheet is empty after a short row; a grid has no more columns than tiles."""
    levels = np.arange(10, 60, 10, dtype=np.uint8).reshape(5, 1, 1, 1)
    g = pictures.GAP_COLOUR
    sheet = pictures.grid_of_rows([levels[:1], levels[1:4], levels[4:]], scale=1, gap=0)[..., 0]
    np.testing.assert_array_equal(sheet, [[10, g, g], [20, 30, 40], [50, g, g]])
    assert pictures.grid(levels[:1], columns=10, scale=1).shape == (1, 1, 3)
    with pytest.raises(ValueError, match="of one shape"):
        pictures.grid_of_rows([levels, levels.reshape(1, 5, 1, 1)])


@pytest.mark.parametrize("side", [1, 8, 28, 64, 256, 1024, 4096, 20_000])
def test_sheets_of_most_tiles_are_no_decompression_bomb(side):
    """Pillow warns from 89 million pixels on; a single larger image is still drawn."""
    most = pictures.most_tiles(side, side)
    assert 1 <= most <= 1024 and most == (1024 if side <= 256 else most)
    scale = -(-48 // side)
    assert most == 1 or most * (side + 1) ** 2 * scale**2 < Image.MAX_IMAGE_PIXELS


def test_transparent_tiles_show_a_checkerboard():
    """Premultiplied red of alpha 0, half and 1, over greys in squares of about 8 pixels of the sheet."""
    tile = np.zeros((1, 2, 6, 4), np.uint8)
    tile[..., 2:4, :], tile[..., 4:, :] = (128, 0, 0, 128), (255, 0, 0, 255)
    dark, light = pictures.CHECKS
    assert pictures.GAP_COLOUR not in pictures.CHECKS
    sheet = pictures.grid(tile, scale=8)[::8, ::8]
    assert sheet[0, :2].tolist() == [[dark] * 3, [light] * 3] and sheet[1, :2].tolist() == [[light] * 3, [dark] * 3]
    half = [round(grey * (1 - 128 / 255)) for grey in (dark, light)]
    assert sheet[0, 2:4].tolist() == [[128 + half[0], half[0], half[0]], [128 + half[1], half[1], half[1]]]
    assert (sheet[:, 4:] == (255, 0, 0)).all()
    large = pictures.grid(np.zeros((1, 64, 64, 4), np.uint8))
    assert large[7, 7, 0] == dark == large[8, 8, 0] and large[7, 8, 0] == light
    scaled = pictures.grid(tile / 127.5 - 1, scale=8)
    np.testing.assert_array_equal(scaled[::8, ::8], sheet)


def test_save_png_round_trip(tmp_path):
    sheet = pictures.grid(PIXELS)
    pictures.save_png(tmp_path / "deep" / "x.png", sheet)
    with Image.open(tmp_path / "deep" / "x.png") as image:
        np.testing.assert_array_equal(np.asarray(image), sheet)
    with pytest.raises(ValueError, match="to_uint8"):
        pictures.save_png(tmp_path / "y.png", np.zeros((2, 2, 3)))
