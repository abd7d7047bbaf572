import io

import numpy as np
import pytest
from PIL import Image

from jimgen.data import images as pictures
from jimgen.data.images import UnreadableImage, decode, fit_images, pad, read_shape, resize
from jimgen.errors import UserError

GREY = np.array([[0, 50, 100], [150, 200, 255]], np.uint8)
RED = np.array([[[255, 0, 0]] * 3] * 2, np.uint8)


def decoded(image: Image.Image, suffix: str = "png", **save) -> np.ndarray:
    file = io.BytesIO()
    image.save(file, suffix, **save)
    file.seek(0)
    return decode(file)


def test_grey_modes_have_one_channel():
    np.testing.assert_array_equal(decoded(Image.fromarray(GREY)), GREY[..., None])
    bilevel = decoded(Image.fromarray(GREY >= 150))
    np.testing.assert_array_equal(bilevel[..., 0], [[0, 0, 0], [255, 255, 255]])


def test_sixteen_bits_are_scaled_and_not_cut_off():
    levels = np.array([[0, 1, 128, 129, 257, 32768, 65535]], np.uint16)
    expected = [[0, 0, 0, 1, 1, 128, 255]]  # v / 257, rounded
    np.testing.assert_array_equal(decoded(Image.fromarray(levels))[..., 0], expected)
    np.testing.assert_array_equal(decoded(Image.fromarray(levels), "tiff")[..., 0], expected)
    np.testing.assert_array_equal(decoded(Image.fromarray(levels.astype(np.int32)), "tiff")[..., 0], expected)
    np.testing.assert_array_equal(
        decoded(Image.frombytes("I;16B", (7, 1), levels.astype(">u2").tobytes()), "tiff")[..., 0], expected
    )


def test_floats_are_taken_as_zero_to_one():
    values = np.array([[0.0, 0.5, 1.0]], np.float32)
    np.testing.assert_array_equal(decoded(Image.fromarray(values), "tiff")[..., 0], [[0, 128, 255]])
    for bad in (255.0, -0.1, np.nan):
        with pytest.raises(UnreadableImage, match="expected 0 to 1"):
            decoded(Image.fromarray(np.array([[0.0, bad]], np.float32)), "tiff")
    with pytest.raises(UnreadableImage, match="expected 0 to 65535"):
        decoded(Image.fromarray(np.array([[-1]], np.int32)), "tiff")


def test_alpha_is_composited_over_the_background():
    alpha = np.array([[0, 102, 255]] * 2, np.uint8)
    rgba = Image.fromarray(np.dstack([RED, alpha]))
    np.testing.assert_array_equal(decoded(rgba)[0, :, 0], [0, 102, 255])
    np.testing.assert_array_equal(decoded(rgba)[..., 1:], 0)
    file = io.BytesIO()
    rgba.save(file, "png")
    np.testing.assert_array_equal(decode(file, background=255)[0, :, 1], [255, 153, 0])

    grey = decoded(Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(alpha)]))
    np.testing.assert_array_equal(grey[..., 0], [[0, 20, 100], [0, 80, 255]])


def test_the_colour_under_full_transparency_does_not_bleed_when_resized():
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[:, :2] = (0, 0, 255, 255)
    rgba[:, 2:] = (255, 0, 0, 0)  # red, but transparent
    assert resize(decoded(Image.fromarray(rgba)), 2)[..., 0].max() == 0


def test_palettes_with_and_without_transparency():
    palette = Image.new("P", (3, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.putdata([0, 1, 2])
    np.testing.assert_array_equal(decoded(palette)[0], [[255, 0, 0], [0, 255, 0], [0, 0, 255]])
    one_colour = decoded(palette, transparency=1)
    np.testing.assert_array_equal(one_colour[0], [[255, 0, 0], [0, 0, 0], [0, 0, 255]])
    half = decoded(palette, transparency=bytes([255, 51, 0]))
    np.testing.assert_array_equal(half[0], [[255, 0, 0], [0, 51, 0], [0, 0, 0]])


def test_a_transparent_colour_of_rgb_and_grey_files():
    np.testing.assert_array_equal(decoded(Image.fromarray(RED), transparency=(255, 0, 0)), 0)
    np.testing.assert_array_equal(
        decoded(Image.fromarray(GREY), transparency=255)[..., 0], np.where(GREY == 255, 0, GREY)
    )


@pytest.mark.parametrize("mode", ["PA", "La", "RGBa", "RGBX", "YCbCr", "HSV", "CMYK"])
def test_modes_that_files_seldom_have(mode, monkeypatch):
    via = {"PA": "P", "La": "LA", "RGBa": "RGBA"}.get(mode, "RGB")
    image = Image.fromarray(RED).convert(via).convert(mode)
    monkeypatch.setattr(pictures.Image, "open", lambda _: image)
    pixel = decode(io.BytesIO())[0, 0]
    np.testing.assert_allclose(pixel, [76] if mode == "La" else [255, 0, 0], atol=1)


def test_cmyk_jpeg():
    red = Image.fromarray(np.tile(RED[:1, :1], (8, 8, 1))).convert("CMYK")
    np.testing.assert_allclose(decoded(red, "jpeg")[0, 0], [255, 0, 0], atol=3)


def test_exif_orientation_turns_the_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(GREY).save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(decode(tmp_path / "x.png")[..., 0], np.rot90(GREY, -1))
    assert read_shape(tmp_path / "x.png") == (3, 2, 1)


def test_a_header_tells_what_decoding_gives(tmp_path):
    for number, image in enumerate(
        [Image.fromarray(GREY), Image.fromarray(RED), Image.fromarray(RED).convert("P"), Image.fromarray(GREY > 0)]
    ):
        path = tmp_path / f"{number}.png"
        image.save(path)
        assert read_shape(path) == decode(path).shape


def test_what_is_no_picture_is_named(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:300])
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.jpg").touch()
    for name in ("cut.png", "text.png", "empty.jpg", "missing.png"):
        with pytest.raises(UnreadableImage, match=name):
            decode(tmp_path / name)
    with pytest.raises(UnreadableImage, match="row 7: not a picture"):
        decode(io.BytesIO(b"hello"), name="row 7")


def test_resizing_is_pillows_bicubic_per_channel_in_float():
    image = np.random.default_rng(0).integers(0, 256, (2, 9, 13, 3), np.uint8)
    for size in (5, 20):
        planes = [
            [
                Image.fromarray(image[n, :, :, c].astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC)
                for c in range(3)
            ]
            for n in range(2)
        ]
        expected = np.rint(np.moveaxis(np.array(planes), 1, -1).clip(0, 255)).astype(np.uint8)
        np.testing.assert_array_equal(resize(image, size), expected)
        np.testing.assert_array_equal(resize(image[0], size), expected[0])


def test_resizing_keeps_a_constant_and_clips_overshoot():
    assert (resize(np.full((4, 6, 1), 77, np.uint8), 9) == 77).all()
    edge = np.repeat(np.array([[0, 0, 255, 255]], np.uint8), 4, axis=0)[..., None]
    assert resize(edge, 16).min() == 0 and resize(edge, 16).max() == 255


def test_padding_centres_on_black():
    padded = pad(GREY[..., None], 5)
    np.testing.assert_array_equal(padded[1:3, 1:4, 0], GREY)
    assert padded.sum() == GREY.sum()


def test_sizes_that_cannot_be():
    with pytest.raises(UserError, match="2x3 .* size 2.*resize"):
        pad(GREY[..., None], 2)
    with pytest.raises(UserError, match="2x3 is too small for size 17"):
        resize(GREY[..., None], 17)


def test_channels():
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]]], np.uint8)
    np.testing.assert_array_equal(fit_images(colours, size=None, channels=1)[..., 0], [[76, 150, 29, 9]])
    np.testing.assert_array_equal(fit_images(GREY[..., None], size=None, channels=3), np.dstack([GREY] * 3))
    assert fit_images(colours[None].repeat(4, 1), size=8, channels=1).shape == (1, 8, 8, 1)
