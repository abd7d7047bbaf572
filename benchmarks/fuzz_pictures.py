"""Damaged pictures, one by one and in folders."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from fuzz_mutations import damage, damage_jpeg, damage_png, png_chunks, png_of
from fuzz_trial import Trial, require
from numpy.random import Generator
from PIL import Image

from jimgen.data import load
from jimgen.data.dataset import num_rows, read_rows
from jimgen.data.fitting import Fitting, fit_images
from jimgen.data.images import UnreadableImage, decode, read_shape
from jimgen.errors import UserError
from jimgen.evaluation.generated import read_generated

LOSSY = 24  # largest mean change of a smooth picture in JPEG and WebP, in grey levels
ORIENTATION = 0x0112
TURNED = {  # EXIF orientation -> transformation
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x, 1),
}


class Sample(NamedTuple):
    """A valid file and its pixels, uint8 [h, w, 1 or 3], exact or nearly exact."""

    data: bytes
    pixels: np.ndarray
    tolerance: float = 0  # largest mean difference of decoded pixels, in grey levels


def png(folder: Path, rng: Generator) -> Trial:
    sample = _sixteen_bits(rng) if rng.random() < 0.3 else _lossless(rng, "png")
    match rng.integers(8):
        case 0:  # a chunk that every reader skips
            chunks = png_chunks(sample.data)
            chunks.insert(1, (b"teSt", rng.bytes(9)))
            return _picture(folder / "a.png", png_of(chunks), sample)
        case 1:
            chunks = png_chunks(sample.data)
            chunks.insert(1, (b"eXIf", rng.bytes(30)))
            return _picture(folder / "a.png", png_of(chunks))
        case 2 if rng.random() < 0.03:
            (folder / "a.png").write_bytes(_bomb(rng))
            return Trial(lambda: decode(folder / "a.png"), lambda found: require(found.max() == 0, "not black"))
        case 2 | 3:
            return _picture(folder / "a.png", damage_png(sample.data, rng))
    return _perhaps_damaged(folder / "a.png", sample, rng)


def jpeg(folder: Path, rng: Generator) -> Trial:
    sample = _lossy(rng, "jpeg")
    match rng.integers(8):
        case 0:
            comment = rng.bytes(20)
            data = sample.data[:2] + b"\xff\xfe" + struct.pack(">H", 22) + comment + sample.data[2:]
            return _picture(folder / "a.jpg", data, sample)
        case 1:
            exif = b"Exif\x00\x00" + (b"MM\x00*" if rng.random() < 0.5 else b"") + rng.bytes(30)
            data = sample.data[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif + sample.data[2:]
            return _picture(folder / "a.jpg", data)
        case 2 | 3:
            return _picture(folder / "a.jpg", damage_jpeg(sample.data, rng))
    return _perhaps_damaged(folder / "a.jpg", sample, rng)


def webp(folder: Path, rng: Generator) -> Trial:
    sample = _lossy(rng, "webp") if rng.random() < 0.5 else _lossless(rng, "webp")
    return _perhaps_damaged(folder / "a.webp", sample, rng)


def gif(folder: Path, rng: Generator) -> Trial:
    return _perhaps_damaged(folder / "a.gif", _lossless(rng, "gif"), rng)


def tiff(folder: Path, rng: Generator) -> Trial:
    return _perhaps_damaged(folder / "a.tif", _lossless(rng, "tiff"), rng)


def pictures_in_folders(folder: Path, rng: Generator) -> Trial:
    """A data set with some damaged pictures. The others must be read, in memory and streamed."""
    root, whole, files = folder / "set", [], 0
    classes = ["a", "b"] if rng.random() < 0.5 else ["."]
    for i in range(int(rng.integers(5, 9))):
        form = str(rng.choice(["png", "jpeg", "gif", "webp", "tiff"]))
        sample = _lossy(rng, form) if form == "jpeg" else _lossless(rng, form)
        name = root / classes[i % len(classes)] / f"{i}.{form}"
        name.parent.mkdir(parents=True, exist_ok=True)
        broken = rng.random() < 0.3
        name.write_bytes(damage(sample.data, rng) if broken else sample.data)
        files += 1
        if not broken:
            whole.append((fit_images(decode(name), Fitting((8, 8), channels=3)), i % len(classes)))

    def read() -> Any:
        inside = load(f"folder:{root}", size=8, channels=3)
        streamed = load(f"folder:{root}", size=8, channels=3, resident_bytes=0)
        return inside, streamed

    def check(found: Any) -> None:
        inside, streamed = found
        rows = [read_rows(split, range(num_rows(split))) for split in (inside.train, inside.test)]
        again = [read_rows(split, range(num_rows(split))) for split in (streamed.train, streamed.test)]
        require(
            all(np.array_equal(x, y) for a, b in zip(rows, again, strict=True) for x, y in zip(a, b, strict=True)),
            "streamed rows differ",
        )
        images, labels = (np.concatenate(parts) for parts in zip(*rows, strict=True))
        require(images.dtype == np.uint8 and images.shape[1:] == (8, 8, 3), f"{images.dtype} {images.shape}")
        require(len(images) + len(inside.skipped) == files, f"{len(images)} + {len(inside.skipped)} of {files} files")
        for pixels, label in whole:
            same = (images == pixels).all(axis=(1, 2, 3)) & (labels == label)
            require(bool(same.any()), "an undamaged picture is not there")

    return Trial(read, check)


def generated_folder(folder: Path, rng: Generator) -> Trial:
    """A folder of generated images with a damaged one: all rows are right, or a UserError is raised."""
    images = _noise(rng, (6, 5, 7, int(rng.choice([1, 3]))))
    labels = np.asarray([0, 1, 0, 1, 0, 1], np.int32)
    from jimgen.evaluation.generated import GeneratedSet, save

    path = save(folder / "drawn", GeneratedSet(images, labels if rng.random() < 0.5 else None))
    files = sorted(path.rglob("*.png"), key=lambda file: file.name)
    broken = int(rng.integers(len(files))) if rng.random() < 0.9 else None
    if broken is not None:
        files[broken].write_bytes(damage(files[broken].read_bytes(), rng))

    def check(found: GeneratedSet) -> None:
        require(found.images.dtype == np.uint8 and found.images.shape[:3] == images.shape[:3], str(found.images.shape))
        rows = [i for i in range(len(images)) if i != broken]
        require(np.array_equal(found.images[rows], np.broadcast_to(images[rows], found.images[rows].shape)), "pixels")
        require(found.labels is None or np.array_equal(found.labels, labels), "labels")

    return Trial(lambda: read_generated(path), check, must_read=broken is None)


def _perhaps_damaged(path: Path, sample: Sample, rng: Generator) -> Trial:
    match rng.integers(10):
        case 0:
            return _picture(path, sample.data, sample)
        case 1:
            return _picture(path, sample.data + rng.bytes(int(rng.integers(1, 50))), sample)
    checked = path.suffix == ".png"  # every chunk has a checksum: wrong pixels are impossible
    return _picture(path, damage(sample.data, rng), sample if checked else None, must_read=False)


def _picture(path: Path, data: bytes, intact: Sample | None = None, must_read: bool = True) -> Trial:
    """Reads a picture: expects the pixels of `intact`, or without it any that agree with the header."""
    path.write_bytes(data)

    def read() -> Any:
        try:
            shape = read_shape(path)
        except UnreadableImage:
            shape = None
        return shape, decode(path), decode(io.BytesIO(data), name="a")

    def check(found: Any) -> None:
        shape, pixels, from_memory = found
        require(pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[-1] in (1, 3), str(pixels.shape))
        require(0 not in pixels.shape, "no pixels")
        require(shape == pixels.shape, f"the header says {shape}, decoded are {pixels.shape}")
        require(np.array_equal(pixels, from_memory), "other pixels from memory than from the file")
        if intact:
            wanted = intact.pixels
            if path.suffix == ".gif":  # its colours always come from a palette, also grey
                wanted = np.broadcast_to(wanted, pixels.shape)
            require(pixels.shape == wanted.shape, f"{pixels.shape}, expected {wanted.shape}")
            error = np.abs(pixels.astype(int) - wanted).mean()
            require(error <= intact.tolerance, f"pixels are off by {error:.3g} on average")
        if pixels.size < 1e6:
            try:
                fitted = fit_images(pixels, Fitting((8, 8), channels=3))
            except UserError:
                return
            require(fitted.shape == (8, 8, 3) and fitted.dtype == np.uint8, str(fitted.shape))

    return Trial(read, check, must_read=must_read and intact is not None)


def _noise(rng: Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.integers(256, size=shape).astype(np.uint8)


def _lossless(rng: Generator, form: str) -> Sample:
    """A picture in any mode of the format, with or without orientation and further frames."""
    modes = {
        "png": ["1", "L", "P", "LA", "RGB", "RGBA", "Pt"],
        "gif": ["L", "P", "Pt", "1"],
        "webp": ["RGB", "RGBA"],
        "tiff": ["1", "L", "P", "RGB", "RGBA", "I;16", "LA"],
    }[form]
    mode = modes[rng.integers(len(modes))]
    h, w = (int(side) for side in rng.integers(4, 12, size=2))
    options: dict[str, Any] = {"lossless": True, "exact": True} if form == "webp" else {}
    if form == "tiff":
        options["compression"] = str(rng.choice(["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"]))
    if mode == "I;16":
        values = rng.integers(65536, size=(h, w)).astype(np.uint16)
        image, pixels = Image.fromarray(values), np.rint(values / 257).astype(np.uint8)[..., None]
    elif mode == "1":
        bits = rng.random((h, w)) < 0.5
        image, pixels = Image.fromarray(bits), (bits * np.uint8(255))[..., None]
    elif mode in ("P", "Pt"):
        values, palette = _noise(rng, (h, w)), _noise(rng, (256, 3))
        image, pixels = Image.fromarray(values, "L").convert("P"), palette[values]
        image.putpalette(palette.tobytes())
        if mode == "Pt":
            options["transparency"] = int(values[0, 0])
            pixels = np.where((values == values[0, 0])[..., None], 0, pixels).astype(np.uint8)
    else:
        channels = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}[mode]
        values = _noise(rng, (h, w, channels))
        image = Image.fromarray(values[..., 0] if channels == 1 else values)
        pixels = values
        if mode in ("LA", "RGBA"):
            pixels = np.rint(values[..., :-1] * (values[..., -1:] / 255.0)).astype(np.uint8)
    if rng.random() < 0.3 and form != "gif":
        exif, turn = Image.Exif(), int(rng.integers(1, 9))
        exif[ORIENTATION] = turn
        options["exif"], pixels = exif, TURNED[turn](pixels)
    elif rng.random() < 0.3 and mode not in ("Pt", "I;16"):
        options |= {"save_all": True, "append_images": [image.transpose(Image.Transpose.ROTATE_180)] * 2}
    return Sample(_saved(image, form, options), pixels)


def _lossy(rng: Generator, form: str) -> Sample:
    """A smooth picture, as JPEG or WebP."""
    h, w = (int(side) for side in rng.integers(8, 24, size=2))
    ramp = np.add.outer(np.linspace(0, 120, h), np.linspace(0, 120, w))[..., None]
    pixels = (ramp + np.asarray([[10.0]] if rng.random() < 0.4 and form == "jpeg" else [[10.0, 5.0, 0.0]])).astype(
        np.uint8
    )
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    options: dict[str, Any] = {"quality": int(rng.integers(70, 96))}
    if form == "jpeg":
        options["progressive"] = bool(rng.integers(2))
        if pixels.shape[-1] == 3 and rng.random() < 0.2:
            image = image.convert("CMYK")
    if rng.random() < 0.3:
        exif, turn = Image.Exif(), int(rng.integers(1, 9))
        exif[ORIENTATION] = turn
        options["exif"], pixels = exif, TURNED[turn](pixels)
    return Sample(_saved(image, form, options), pixels, LOSSY)


def _saved(image: Image.Image, form: str, options: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _sixteen_bits(rng: Generator) -> Sample:
    """PNGs that Pillow cannot write: 16 bits in all colour types, some with one transparent colour."""
    colour, channels = [(0, 1), (2, 3), (4, 2), (6, 4)][rng.integers(4)]
    h, w = (int(side) for side in rng.integers(4, 12, size=2))
    values = rng.integers(65536, size=(h, w, channels)).astype(np.uint16)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", w, h, 16, colour, 0, 0, 0))]
    pixels = np.rint(values / 257).astype(np.uint8) if colour == 0 else (values >> 8).astype(np.uint8)
    if colour in (0, 2) and rng.random() < 0.5:
        chunks.append((b"tRNS", values[0, 0].astype(">u2").tobytes()))
        pixels = np.where((values == values[0, 0]).all(-1, keepdims=True), 0, pixels).astype(np.uint8)
    if colour in (4, 6):
        pixels = np.rint(pixels[..., :-1] * (pixels[..., -1:] / 255.0)).astype(np.uint8)
    rows = b"".join(b"\x00" + row.astype(">u2").tobytes() for row in values)
    return Sample(png_of([*chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]), pixels, 1)


def _bomb(rng: Generator) -> bytes:
    """A valid PNG of a few kilobytes with far too many pixels."""
    side, (colour, channels) = int(rng.choice([5000, 9000, 13_000])), [(0, 1), (2, 3), (6, 4)][rng.integers(3)]
    packer = zlib.compressobj()
    row = bytes(1 + side * channels)
    rows = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, colour, 0, 0, 0)
    return png_of([(b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")])
