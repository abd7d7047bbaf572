"""Generated sets: many images drawn from a method, as arrays, as an npz file or as a folder of PNGs."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jimgen.data.images import decode
from jimgen.errors import UserError
from jimgen.files import disk_errors, write_npz
from jimgen.methods.method import Method
from jimgen.pictures import encode_png, to_uint8
from jimgen.train_step import Variables

CHUNK = 256  # images drawn at a time by each device


class GeneratedSet(NamedTuple):
    """Images uint8 [n, h, w, c]; labels int32 [n], or None where no one knows them."""

    images: np.ndarray
    labels: np.ndarray | None


def class_labels(num: int, weights: Sequence[float]) -> np.ndarray:
    """Labels int32 [num] whose every beginning has the classes in proportion to `weights`, nearly.

    Equal weights give the classes in turn: 0, 1, ..., 0, 1, .... Place i goes to the class that is furthest behind its
    share, so a larger set begins with the smaller one.

    Raises:
        ValueError: weights that are negative, not finite or all zero.
    """
    share = np.asarray(weights, np.float64)
    if share.ndim != 1 or not np.isfinite(share).all() or (share < 0).any() or not share.sum() > 0:
        raise ValueError(f"class weights must be finite, not negative and not all zero, got {list(weights)}")
    share = share / share.sum()
    if (share == share[0]).all():
        return np.arange(num, dtype=np.int32) % len(share)
    labels, given = np.empty(num, np.int32), np.zeros(len(share))
    for i in range(num):
        labels[i] = np.argmax(share * (i + 1) - given)
        given[labels[i]] += 1
    return labels


def generate(
    method: Method,
    variables: Variables,
    key: Array,
    labels: np.ndarray,
    *,
    chunk: int = CHUNK,
    devices: Sequence[Any] | None = None,
) -> GeneratedSet:
    """Draws one image for each label, chunk after chunk, one chunk a device at a time.

    Chunk i draws from fold_in(key, i) and every device runs the same program on whole chunks: the set is the same, bit
    for bit, on any number of devices, and a larger set begins with the smaller one.

    Args:
        method, variables: what to draw from.
        key: a PRNG key.
        labels: int32 [n].
        chunk: images at a time; another size gives another set.
        devices: default all of this process.
    """
    devices = list(devices or jax.local_devices())[: max(1, -(-len(labels) // chunk))]
    # Not the axis name that nets average over: every chunk stands alone.
    mesh = jax.make_mesh((len(devices),), ("chunks",), axis_types=(AxisType.Auto,), devices=devices)
    split, everywhere = PartitionSpec("chunks"), PartitionSpec()
    specs = (everywhere, everywhere, split, split)

    @jax.jit
    @partial(jax.shard_map, mesh=mesh, in_specs=specs, out_specs=split, check_vma=False)
    def draw(variables: Variables, key: Array, number: Array, labels: Array) -> Array:
        return method.sample(variables, jax.random.fold_in(key, number[0]), labels[0])

    variables, key = jax.device_put((variables, key), NamedSharding(mesh, everywhere))
    per_round = len(devices) * chunk
    images = []
    for start in range(0, len(labels), per_round):
        part = labels[start : start + per_round]
        numbers = np.arange(len(devices), dtype=np.int32) + start // chunk
        rows = np.resize(part, per_round).reshape(len(devices), chunk).astype(np.int32)
        images.append(to_uint8(np.asarray(draw(variables, key, numbers, rows)))[: len(part)])
    return GeneratedSet(np.concatenate(images), np.asarray(labels, np.int32))


def save(path: Path, generated: GeneratedSet, form: Literal["npz", "folder"] | None = None) -> Path:
    """Writes a set: arrays `images` and `labels` for a name that ends in .npz, else a folder of PNGs.

    A folder has one subfolder a class (0000, 0001, ...) and numbers the files in the order of the set, so that
    `read_generated` gives back the same arrays. Returns the path.

    Raises:
        UserError: the folder is not empty, or cannot be written.
    """
    images, labels = generated
    with disk_errors(path.parent):
        if path.suffix == ".npz":
            write_npz(path, {"images": images} | ({} if labels is None else {"labels": labels}), compress=True)
            return path
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(f"{path} is there already: give a folder that is empty or does not exist")
        for i, image in enumerate(images):
            folder = path if labels is None else path / f"{labels[i]:04d}"
            folder.mkdir(parents=True, exist_ok=True)
            picture = image[..., 0] if image.shape[-1] == 1 else image
            (folder / f"{i:06d}.png").write_bytes(encode_png(picture))
    return path


def read_generated(path: Path) -> GeneratedSet:
    """Reads a set back: an npz with `images` (uint8 [n, h, w, c]) and perhaps `labels`, or a folder of pictures.

    In a folder the order is that of the file names; subfolders, where there are any, are classes in the order of their
    names (a name that is a number is that class).

    Raises:
        UserError: nothing there, a damaged file, arrays of another kind, or pictures of several sizes.
    """
    if path.suffix == ".npz":
        return _read_npz(path)
    if not path.is_dir():
        raise UserError(f"{path} is neither an .npz file nor a folder of pictures")
    files = sorted((p for p in path.rglob("*") if p.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp")), key=_order)
    if not files:
        raise UserError(f"{path} holds no pictures (.png, .jpg, .webp)")
    images = [decode(file) for file in files]
    channels = max(image.shape[-1] for image in images)
    images = [np.repeat(image, channels, -1) if image.shape[-1] < channels else image for image in images]
    if shapes := {image.shape for image in images} - {images[0].shape}:
        raise UserError(f"{path}: pictures of several sizes, {images[0].shape} and {shapes.pop()}: bring them to one")
    folders = sorted({file.parent for file in files})
    if path in folders:
        return GeneratedSet(np.stack(images), None)
    number = {f: int(f.name) if f.name.isdecimal() else i for i, f in enumerate(folders)}
    return GeneratedSet(np.stack(images), np.asarray([number[file.parent] for file in files], np.int32))


def _order(file: Path) -> tuple[str, str]:
    return file.name, str(file)


def _read_npz(path: Path) -> GeneratedSet:
    try:
        with np.load(path, allow_pickle=False) as saved:
            arrays = {name: saved[name] for name in saved.files if name in ("images", "labels")}
    except FileNotFoundError as error:
        raise UserError(f"there is no {path}") from error
    except Exception as error:  # a damaged zip can raise nearly anything
        raise UserError(f"{path} cannot be read as npz ({error}): make it again") from error
    if "images" not in arrays:
        raise UserError(f"{path} has no array `images`: uint8 [n, h, w, 1 or 3] is wanted")
    images, labels = arrays["images"], arrays.get("labels")
    if images.dtype != np.uint8:
        raise UserError(f"{path}: `images` must be uint8 in [0, 255], not {images.dtype}: round and save them as such")
    images = images[..., None] if images.ndim == 3 else images
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not len(images):
        raise UserError(f"{path}: `images` must be [n, h, w, 1 or 3] with n of at least 1, not {images.shape}")
    if labels is not None and labels.shape != (len(images),):
        raise UserError(f"{path}: {len(images)} images but labels {labels.shape}")
    return GeneratedSet(images, None if labels is None else labels.astype(np.int32))
