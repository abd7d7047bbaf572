"""Bytes a picture and PSNR of a run of codec.py on its test split, beside WebP, AVIF, JPEG and the KLT.

    python benchmarks/rate_distortion.py RUN --num 10000 --plot rate_distortion.png

Whole files count. The run's pictures share one file without names; those of WebP, AVIF and JPEG are one mosaic, which
saves their headers, and "JPEG files" are one file each. The KLT rotates whole pictures by the principal components of
the training split, rounds, and counts the empirical entropy of each coefficient on the test split: no file could be
smaller with independent coefficients. PSNR is the mean over pictures of 8-bit values, with that of the mean squared
error behind it. BD-rate is the run's, against each of the others: negative is better.
"""

import dataclasses
import io
import math
import sys
from pathlib import Path
from typing import Annotated, NamedTuple

import jax
import numpy as np
import tyro
from PIL import Image, features

from jimgen.apps.codec.container import Kind
from jimgen.apps.codec.files import compress, decompress
from jimgen.apps.codec.of_run import payload_of
from jimgen.curves import PALETTE
from jimgen.data.dataset import read_rows
from jimgen.errors import UserError
from jimgen.metrics.rate_distortion import bd_rate
from jimgen.runs.load import load_run
from jimgen.runs.subject import load_data

QUALITIES = (1, 5, 10, 20, 30, 45, 60, 75, 85)
KLT_STEPS = (4.0, 2.0, 1.4, 1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.13)  # of coefficients of pictures in [0, 1]
NUM_FITTED = 20_000  # training pictures for the KLT
BEST_PSNR = 60.0  # dB, stands for that of equal pictures
SHOWN = 12  # pictures of --pictures


@dataclasses.dataclass(frozen=True)
class Args:
    run: Annotated[Path, tyro.conf.Positional]
    """folder of the run"""
    num: int = 10_000
    """number of test pictures"""
    plot: Path | None = None
    """path of a picture of the curves"""
    pictures: Path | None = None
    """path of a picture of some pictures, decoded from files of about the size of the run's rate 2"""


class Point(NamedTuple):
    """What a codec does to all pictures at one setting."""

    setting: str
    bytes: float  # a picture
    psnr: float  # mean over pictures
    pooled_psnr: float  # of the mean squared error
    shown: np.ndarray  # `spread` of the decoded pictures: uint8 or float [SHOWN, h, w, c] in [0, 255]


def point(setting: str, num_bytes: float, pictures: np.ndarray, decoded: np.ndarray) -> Point:
    """The point of decoded pictures uint8 or float [n, h, w, c] in [0, 255]."""
    error = np.square(pictures.astype(np.float64) - decoded).mean((1, 2, 3))
    each = np.minimum(10 * np.log10(255**2 / np.maximum(error, 1e-9)), BEST_PSNR)
    pooled = 10 * math.log10(255**2 / max(error.mean(), 1e-9))
    return Point(setting, num_bytes / len(pictures), each.mean(), pooled, spread(decoded))


def of_image_format(name: str, pictures: np.ndarray) -> list[Point]:
    """A mosaic of all pictures, by a format of Pillow."""
    rows, columns = _mosaic_shape(len(pictures))
    filled = np.concatenate([pictures, np.zeros((rows * columns - len(pictures), *pictures.shape[1:]), np.uint8)])
    n, h, w, c = filled.shape
    mosaic = filled.reshape(rows, columns, h, w, c).swapaxes(1, 2).reshape(rows * h, columns * w, c)
    points = []
    for quality in QUALITIES:
        size, decoded = _encoded(name, mosaic, quality)
        cut = decoded.reshape(rows, h, columns, w, c).swapaxes(1, 2).reshape(n, h, w, c)[: len(pictures)]
        points.append(point(f"quality {quality}", size, pictures, cut))
    return points


def of_single_files(name: str, pictures: np.ndarray) -> list[Point]:
    """A file for each picture."""
    points = []
    for quality in QUALITIES[::2]:
        found = [_encoded(name, picture, quality) for picture in pictures]
        decoded = np.stack([picture for _, picture in found])
        points.append(point(f"quality {quality}", sum(size for size, _ in found), pictures, decoded))
    return points


def of_klt(pictures: np.ndarray, training: np.ndarray) -> list[Point]:
    """Principal components, rounded, under the entropy of each coefficient."""
    flat = training.reshape(len(training), -1).astype(np.float32) / 255
    mean = flat.mean(0)
    _, _, rotation = np.linalg.svd(np.cov(flat, rowvar=False), hermitian=True)
    coefficients = (pictures.reshape(len(pictures), -1).astype(np.float32) / 255 - mean) @ rotation.T
    points = []
    for step in KLT_STEPS:
        rounded = np.rint(coefficients / step)
        size = sum(_entropy_bits(column) for column in rounded.T) * len(pictures) / 8
        decoded = np.rint(np.clip(rounded * step @ rotation + mean, 0, 1) * 255).reshape(pictures.shape)
        points.append(point(f"step {step:g}", size, pictures, decoded))
    return points


def main(args: Args) -> None:
    run = load_run(args.run)
    payload, dataset = payload_of(run), load_data(run.config)
    if payload.kind != Kind.LATENTS:
        raise UserError(f"{args.run} compresses without loss: benchmarks/lossless.py measures it")
    pictures, _ = read_rows(dataset.test, range(min(args.num, dataset.spec.num_test)))
    training, _ = read_rows(dataset.train, range(min(NUM_FITTED, dataset.spec.num_train)))
    ours = []
    for rate in range(payload.num_rates):
        data = compress(payload, list(pictures), rate)
        decoded = np.stack([picture for _, picture in decompress(payload, data)])
        ours.append(point(f"rate {rate}", len(data), pictures, decoded))
    curves: dict[str, list[Point]] = {"jimgen": ours, "KLT": of_klt(pictures, training)}
    formats = {"WebP": "webp", "AVIF": "avif", "JPEG": "jpeg"}
    for label, name in formats.items():
        if pictures.shape[-1] < 4 and (name == "jpeg" or features.check(name)):
            curves[label] = of_image_format(name, pictures)
    if pictures.shape[-1] < 4:
        curves["JPEG files"] = of_single_files("jpeg", pictures)
    weights = sum(leaf.size for leaf in jax.tree.leaves(run.state.ema))
    print(f"{len(pictures)} pictures {list(pictures.shape[1:])}; the run has {weights} weights, {4 * weights} bytes")
    print(f"{'':12}{'setting':14}{'bytes':>9}{'PSNR':>9}{'pooled':>9}")
    for label, points in curves.items():
        for found in points:
            print(f"{label:12}{found.setting:14}{found.bytes:9.1f}{found.psnr:9.2f}{found.pooled_psnr:9.2f}")
    for label in list(curves)[1:]:
        print(f"BD-rate against {label}: {_bd_rate(ours, curves[label])}")
    if args.plot:
        draw(curves, args.plot)
    if args.pictures:
        show(spread(pictures), curves, args.pictures)


def spread(pictures: np.ndarray) -> np.ndarray:
    """Some of the pictures, evenly from the first to the last, as a split may be in order of its classes."""
    return pictures[np.linspace(0, len(pictures) - 1, SHOWN).astype(int)]


def draw(curves: dict[str, list[Point]], path: Path) -> None:
    """Draws PSNR over bytes, from a little left of and below the run's points."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    figure = Figure(figsize=(6, 4), dpi=192, layout="constrained")
    axes = figure.add_subplot()
    for colour, (label, points) in zip(PALETTE, curves.items(), strict=False):
        width = 2.2 if label == "jimgen" else 1.2
        axes.plot([p.bytes for p in points], [p.psnr for p in points], "o-", ms=3, lw=width, color=colour, label=label)
    smallest = min(curves["jimgen"], key=lambda p: p.bytes)
    axes.set(xscale="log", xlabel="bytes a picture, whole files", ylabel="PSNR in dB, mean over pictures")
    axes.set(xlim=(smallest.bytes / 1.3, None), ylim=(smallest.psnr - 6, None))
    axes.xaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter=ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    figure.savefig(path)
    print(path)


def show(originals: np.ndarray, curves: dict[str, list[Point]], path: Path) -> None:
    """Draws pictures in rows: the originals, and each codec's at the size that is the nearest to the run's rate 2."""
    from matplotlib.figure import Figure

    size = sorted(p.bytes for p in curves["jimgen"])[min(2, len(curves["jimgen"]) - 1)]
    rows = [("original", originals)]
    for label, points in curves.items():
        nearest = min(points, key=lambda p: abs(p.bytes - size))
        if nearest.bytes < 2 * size:
            rows.append((f"{label}\n{nearest.bytes:.0f} bytes", nearest.shown))
    figure = Figure(figsize=(0.8 * len(originals) + 1.2, 0.8 * len(rows)), dpi=96, layout="constrained")
    for axes, (label, shown) in zip(figure.subplots(len(rows)), rows, strict=True):
        pixels = np.concatenate(np.clip(shown, 0, 255).astype(np.uint8), axis=1)
        axes.imshow(pixels if pixels.shape[-1] == 3 else pixels[..., 0], cmap="gray", vmin=0, vmax=255)
        axes.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
        axes.set(xticks=(), yticks=())
    figure.savefig(path)
    print(path)


def _bd_rate(ours: list[Point], others: list[Point]) -> str:
    curves = [[(p.bytes, p.psnr) for p in _rising(points)] for points in (ours, others)]
    try:
        (rates, psnrs), (anchor_rates, anchor_psnrs) = (zip(*curve, strict=True) for curve in curves)
        return f"{bd_rate(rates, psnrs, anchor_rates, anchor_psnrs):+.1f}%"
    except ValueError as error:
        return f"none ({error})"


def _rising(points: list[Point]) -> list[Point]:
    """Those points that have a better PSNR than all smaller ones."""
    kept: list[Point] = []
    for found in sorted(points, key=lambda p: p.bytes):
        if not kept or (found.psnr > kept[-1].psnr and found.bytes > kept[-1].bytes):
            kept.append(found)
    return kept


def _encoded(name: str, picture: np.ndarray, quality: int) -> tuple[int, np.ndarray]:
    """Bytes of a file, and its decoded pixels uint8 [h, w, c]."""
    file = io.BytesIO()
    grey = picture.shape[-1] == 1
    options = {"method": 6} if name == "webp" else {"optimize": True} if name == "jpeg" else {"speed": 6}
    Image.fromarray(picture[..., 0] if grey else picture).save(file, name, quality=quality, **options)
    decoded = Image.open(file).convert("L" if grey else "RGB")
    return len(file.getvalue()), np.asarray(decoded).reshape(picture.shape)


def _mosaic_shape(num: int) -> tuple[int, int]:
    """Rows and columns, nearly a square."""
    columns = math.ceil(math.sqrt(num))
    return math.ceil(num / columns), columns


def _entropy_bits(values: np.ndarray) -> float:
    """Bits a value."""
    _, counts = np.unique(values, return_counts=True)
    p = counts / counts.sum()
    return float(-(p * np.log2(p)).sum())


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except UserError as error:
        sys.exit(f"error: {error}")
