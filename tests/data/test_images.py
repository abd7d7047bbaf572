import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, features

from jimgen.data import images as pictures
from jimgen.data.fitting import resize
from jimgen.data.images import UnreadableImage, decode, read_shape
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
    assert resize(decoded(Image.fromarray(rgba)), (2, 2))[..., 0].max() == 0


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


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "tiff", "avif", "xmp in tiff", "both in tiff"])
def test_a_header_tells_the_size_of_the_turned_picture(tmp_path, kind, orientation):
    """Pillow itself turns TIFF files, but no others."""
    if kind == "avif" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    corner = np.zeros((16, 24, 3), np.uint8)
    corner[:8, :8] = 255
    exif, path = Image.Exif(), tmp_path / "x"
    exif[0x0112] = orientation
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    xmp += b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="%d"/></rdf:RDF></x:xmpmeta>'
    tags = {"xmp in tiff": {700: xmp % orientation}, "both in tiff": {700: xmp % orientation, 274: orientation}}
    options = {"tiffinfo": tags[kind]} if kind in tags else {"exif": exif if kind == "tiff" else exif.tobytes()}
    Image.fromarray(corner).save(path, kind.rpartition(" ")[2], **options)
    pixels = decode(path)
    assert read_shape(path) == pixels.shape == ((16, 24, 3) if orientation < 5 else (24, 16, 3))
    top, left = {1: (1, 1), 2: (1, 0), 3: (0, 0), 4: (0, 1), 5: (1, 1), 6: (1, 0), 7: (0, 0), 8: (0, 1)}[orientation]
    bright = pixels[..., 0] > 128
    assert bright[0 if top else -1, 0 if left else -1] and bright.sum() < 100


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def raw_png(levels: np.ndarray, bits: int, transparent: int | tuple[int, ...] | None = None, alpha: bool = False):
    """A PNG of one row, grey [n], grey and alpha [n, 2] or RGB [n, 3], written by the format's specification."""
    colour = 0 if levels.ndim == 1 else 4 if alpha else 2
    packed = "".join(f"{level:0{bits}b}" for level in levels.reshape(-1))
    packed += "0" * (-len(packed) % 8)
    row = bytes(int(packed[i : i + 8], 2) for i in range(0, len(packed), 8))
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", len(levels), 1, bits, colour, 0, 0, 0))
    if transparent is not None:
        content += chunk(b"tRNS", np.atleast_1d(np.asarray(transparent, ">u2")).tobytes())
    return io.BytesIO(content + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b""))


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_level_of_grey_is_found_at_any_depth(bits):
    largest = 2**bits - 1
    levels = np.array([0, largest // 2 + 1, largest])
    expected = np.rint(levels * 255 / largest)
    assert decode(raw_png(levels, bits))[0, :, 0].tolist() == expected.tolist()
    expected[1] = 7
    if bits == 1:
        expected[2] = 7
    decoded_levels = decode(raw_png(levels, bits, int(levels[1])), background=7)
    assert decoded_levels.shape == (1, 3, 1) and decoded_levels[0, :, 0].tolist() == expected.tolist()


def test_a_transparent_colour_of_sixteen_bits():
    colours = np.array([[0x1234, 0x5678, 0x9ABC], [0x1234, 0x5678, 0xFABC]])
    found = decode(raw_png(colours, 16, tuple(colours[0])), background=7)
    assert found[0].tolist() == [[7, 7, 7], [0x12, 0x56, 0xFA]]


def test_grey_with_alpha_of_sixteen_bits_is_grey(tmp_path):
    levels = np.array([[0x8000, 0xFFFF], [0x8000, 0x0000]])
    (tmp_path / "x.png").write_bytes(raw_png(levels, 16, alpha=True).getvalue())
    assert decode(tmp_path / "x.png")[0].tolist() == [[128], [0]] and read_shape(tmp_path / "x.png") == (1, 2, 1)


def test_twelve_bits_of_a_header_and_of_the_user_reach_white():
    levels = np.array([0, 1, 2048, 4095])
    assert decode(raw_png(levels, 16), bits=12)[0, :, 0].tolist() == [0, 0, 128, 255]
    with pytest.raises(UnreadableImage, match="0 to 4096, expected 0 to 4095; give more --bits"):
        decode(raw_png(np.array([0, 4096]), 16), bits=12)
    assert decode(raw_png(np.array([0, 255]), 8), bits=12)[0, :, 0].tolist() == [0, 255]  # 8 bits are 8 bits
    with pytest.raises(UnreadableImage, match="16 bits a channel in colour"):
        decode(raw_png(np.array([[0, 1, 4095]]), 16), bits=12)
    # 12 bits a pixel, packed: Pillow reads such TIFF files, and does not write them
    packed = bytes(int("".join(f"{level:012b}" for level in levels)[i : i + 8], 2) for i in range(0, 48, 8))
    tags = {256: 4, 257: 1, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: len(packed)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    header = struct.pack("<2sHI", b"II", 42, 8 + len(packed))
    tiff = header + packed + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    assert decode(io.BytesIO(tiff))[0, :, 0].tolist() == [0, 0, 128, 255]


def test_tiff_files_in_which_zero_is_white():
    """Pillow inverts 8-bit pictures when it writes and reads them, but not 16-bit ones."""
    levels = np.array([[0, 77, 255]], np.uint8)
    np.testing.assert_array_equal(decoded(Image.fromarray(levels), "tiff", tiffinfo={262: 0})[..., 0], levels)
    levels = np.array([[0, 32767, 65535]], np.uint16)
    np.testing.assert_array_equal(decoded(Image.fromarray(levels), "tiff", tiffinfo={262: 0})[0, :, 0], [255, 128, 0])


def test_short_memory_and_locked_files_are_not_the_pictures_fault(monkeypatch, tmp_path):
    """Otherwise intact pictures would be left out, and cached as damaged."""
    Image.new("L", (4, 4)).save(tmp_path / "x.png")

    def short(*_):
        raise MemoryError

    monkeypatch.setattr(pictures, "_pixels", short)
    with pytest.raises(UserError, match="too little memory to decode .*x.png") as error:
        decode(tmp_path / "x.png")
    assert not isinstance(error.value, UnreadableImage)


def test_programs_are_not_run_on_what_is_called_a_picture(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "x.eps")
    (tmp_path / "x.eps").rename(tmp_path / "x.png")
    with pytest.raises(UnreadableImage, match="EPS, not a picture"):
        decode(tmp_path / "x.png")


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_uncompressed_tiff_on_disk_is_turned_as_in_memory(tmp_path, mode, orientation):
    """Pillow maps such a file and confuses rows and columns."""
    values = np.random.default_rng(0).integers(256, size=(5, 7, len(mode)), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(values.squeeze()).save(tmp_path / "a.tif", compression="raw", exif=exif)
    flipped = values[:, ::-1] if orientation in (2, 4, 5, 7) else values
    expected = np.rot90(flipped, {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}[orientation])
    found = decode(tmp_path / "a.tif")
    np.testing.assert_array_equal(found, decode(io.BytesIO((tmp_path / "a.tif").read_bytes())))
    np.testing.assert_array_equal(found, expected)
    assert read_shape(tmp_path / "a.tif") == found.shape


def test_a_large_transparent_picture_is_blended_in_parts():
    """The whole picture as floats would take many times the memory."""
    values = np.random.default_rng(0).integers(256, size=(2100, 1500, 4), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "tga")
    tracemalloc.start()
    try:
        found = decode(file, background=200)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    alpha = values[..., 3:].astype(np.float32) / 255
    np.testing.assert_array_equal(found, np.rint(values[..., :3] * alpha + 200 * (1 - alpha)))
    assert peak < 6 * values.nbytes


def test_a_picture_that_is_handed_over_open_stays_open():
    file = io.BytesIO()
    Image.fromarray(GREY).save(file, "png")
    for _ in range(2):
        file.seek(0)
        np.testing.assert_array_equal(decode(file)[..., 0], GREY)


def test_pixels_with_a_wrong_checksum_are_refused():
    """Pillow stops checking checksums when it has all rows."""
    file = io.BytesIO()
    Image.fromarray(GREY).save(file, "png")
    content = bytearray(file.getvalue())
    assert decode(io.BytesIO(content)).shape == (2, 3, 1)
    start = content.index(b"IDAT")
    length = int.from_bytes(content[start - 4 : start], "big")
    content[start + 4 + length] ^= 1  # of the checksum itself
    with pytest.raises(UnreadableImage, match="checksum is wrong"):
        decode(io.BytesIO(content))


def kept(file, **options) -> list:
    """The first row with its alpha, premultiplied."""
    found = decode(file, alpha=True, **options)
    assert found.dtype == np.uint8 and found.shape[-1] == 4
    return found[0].tolist()


def test_alpha_is_kept_premultiplied_in_all_kinds_of_files(tmp_path):
    """Straight alpha, a palette, a transparent level or colour, grey with alpha of 16 bits; opaque pictures too."""
    rgba = np.array([[[255, 100, 0, 0], [255, 100, 0, 102], [255, 100, 0, 255]]], np.uint8)
    Image.fromarray(rgba).save(tmp_path / "x.png")
    assert kept(tmp_path / "x.png") == [[0, 0, 0, 0], [102, 40, 0, 102], [255, 100, 0, 255]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.putdata([0, 1])
    palette.save(tmp_path / "p.png", transparency=bytes([51, 255]))
    assert kept(tmp_path / "p.png") == [[51, 0, 0, 51], [0, 255, 0, 255]]
    assert kept(raw_png(np.array([0, 0x8000, 0xFFFF]), 16, 0x8000)) == [[0, 0, 0, 255], [0] * 4, [255] * 4]
    colours = np.array([[0x1234, 0x5678, 0x9ABC], [0x1234, 0x5678, 0xFABC]])
    assert kept(raw_png(colours, 16, tuple(colours[0]))) == [[0] * 4, [0x12, 0x56, 0xFA, 255]]
    assert kept(raw_png(np.array([[0x8000, 0xFFFF], [0x8000, 0]]), 16, alpha=True)) == [[128, 128, 128, 255], [0] * 4]
    assert kept(raw_png(np.array([0, 4095]), 16), bits=12) == [[0, 0, 0, 255], [255] * 4]
    for image in (Image.fromarray(GREY), Image.fromarray(RED)):
        image.save(tmp_path / "opaque.png")
        opaque = decode(tmp_path / "opaque.png", alpha=True)
        np.testing.assert_array_equal(opaque[..., :3], np.broadcast_to(decode(tmp_path / "opaque.png"), (2, 3, 3)))
        assert (opaque[..., 3] == 255).all()


def test_a_coloured_background_shows_through_grey_pictures_too():
    half = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(np.full_like(GREY, 51))])
    file = io.BytesIO()
    half.save(file, "png")
    found = decode(file, background=(250, 100, 0))
    np.testing.assert_array_equal(found, np.rint(0.2 * GREY[..., None] + 0.8 * np.array([250, 100, 0])))
    assert decode(io.BytesIO(file.getvalue()), background=(9, 9, 9)).shape == (2, 3, 1)
