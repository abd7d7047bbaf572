"""Generated sets: images drawn from a method, as arrays, an .npz file or a folder of PNGs."""

import csv
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jimgen.alpha import unpremultiply
from jimgen.data import labels as label_arrays
from jimgen.data import npz
from jimgen.data.archive import holds_arrays, read_arrays
from jimgen.data.dataset import UNLABELLED, Attribute, DataSpec
from jimgen.data.fitting import Fitting, fit_images
from jimgen.data.folder import labels_of, layout_of, members_of, pictures_of, read_picture
from jimgen.data.images import PLAIN, Reading
from jimgen.data.label_table import FILE, TABLE_FILE
from jimgen.data.labels import classes_of
from jimgen.data.layout import natural
from jimgen.data.npz import check_labels, checked_images
from jimgen.errors import UserError
from jimgen.files import disk_errors, shown, status, write_atomically, write_npz
from jimgen.methods.method import Method
from jimgen.pictures import encode_png, to_uint8
from jimgen.train_step import Variables

ANY = "any"  # the name of the value that leaves an attribute open
CHUNK = 256  # images that each device draws at a time


class GeneratedSet(NamedTuple):
    """Images with labels, if these are known."""

    images: np.ndarray  # uint8 [n, h, w, c]; 4 channels are premultiplied RGBA
    labels: np.ndarray | None  # int32 [n], or [n, columns] with attributes
    class_names: tuple[str, ...] | None = None  # names of class folders that were read, in the order of labels
    attributes: tuple[Attribute, ...] = ()  # of columns 1, 2, ... of the labels


def generate(
    method: Method,
    variables: Variables,
    key: Array,
    labels: np.ndarray,
    *,
    chunk: int = CHUNK,
    devices: Sequence[Any] | None = None,
) -> GeneratedSet:
    """Draws one image for each label, in chunks, one chunk per device at a time.

    Chunk i draws from fold_in(key, i), and every device runs the same program on whole chunks. So the set is the same,
    bit for bit, on any number of devices, and a larger set begins with the smaller one.

    Args:
        method, variables: generative method and its variables.
        key: PRNG key.
        labels: int32 [n] or [n, columns].
        chunk: images per chunk; another size gives another set.
        devices: devices to use; by default all of this process.
    """
    devices = list(devices or jax.local_devices())[: max(1, -(-len(labels) // chunk))]
    # Not the axis name that nets average over, as chunks are independent.
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
        rows = np.resize(part, (per_round, *part.shape[1:])).reshape(len(devices), chunk, *part.shape[1:])
        images.append(to_uint8(np.asarray(draw(variables, key, numbers, rows.astype(np.int32))))[: len(part)])
    return GeneratedSet(np.concatenate(images), np.asarray(labels, np.int32))


def save(path: Path, generated: GeneratedSet) -> Path:
    """Writes arrays `images` and `labels` (if known) for a name that ends in .npz, else a folder of PNGs.

    A folder has one subfolder per class (0000, 0001, ...), and file names number the set, so that `read_generated`
    returns the same arrays. Attributes go into arrays as `npz:` reads them, or into labels.csv. Files hold RGBA with
    straight alpha. Returns the path.

    Raises:
        UserError: the folder is not empty, or cannot be written.
    """
    images, labels = generated.images, generated.labels
    images = unpremultiply(images) if images.shape[-1] == 4 else images
    with disk_errors(path.parent):
        if path.suffix.lower() == ".npz":
            write_npz(path, {"images": images} | _label_arrays(generated), compress=True)
            return path
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(f"{path} is there already: give a folder that is empty or does not exist")
        names = []
        for i, image in enumerate(images):
            folder = "" if labels is None else f"{classes_of(labels)[i]:04d}/"
            names.append(f"{folder}{i:06d}.png")
            (path / names[-1]).parent.mkdir(parents=True, exist_ok=True)
            picture = image[..., 0] if image.shape[-1] == 1 else image
            (path / names[-1]).write_bytes(encode_png(picture))
        if generated.attributes:
            write_atomically(path / TABLE_FILE, _label_table(generated, names))
    return path


def _label_arrays(generated: GeneratedSet) -> dict[str, np.ndarray]:
    if generated.labels is None:
        return {}
    if not generated.attributes:
        return {"labels": generated.labels}
    return {
        "labels": classes_of(generated.labels),
        "attributes": generated.labels[:, 1:],
        **npz.attribute_fields(_with_any(generated)),
    }


def _label_table(generated: GeneratedSet, files: Sequence[str]) -> str:
    assert generated.labels is not None
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([FILE, *(attribute.name for attribute in generated.attributes)])
    named = _with_any(generated)
    for file, row in zip(files, generated.labels[:, 1:], strict=True):
        table.writerow([file, *(attribute.values[value] for attribute, value in zip(named, row, strict=True))])
    return text.getvalue()


def _with_any(generated: GeneratedSet) -> list[Attribute]:
    """The attributes, with the value "any" where some label leaves them open."""
    assert generated.labels is not None
    used = generated.labels[:, 1:].max(axis=0, initial=0)
    pairs = zip(generated.attributes, used, strict=True)
    return [Attribute(a.name, a.values + (ANY,) * int(most >= len(a.values))) for a, most in pairs]


def read_generated(path: Path, *, reading: Reading = PLAIN) -> GeneratedSet:
    """Reads a set: an .npz with `images` (uint8 [n, h, w, c]) and perhaps `labels`, or pictures in a folder or zip.

    Pictures are found, decoded and labelled like those of `folder:PATH`, but all must be readable. They are in the
    natural order of their file names, and classes in natural order; if all class names are numbers, these are the
    labels. `reading` says whether alpha is kept (then all images are premultiplied RGBA), or what transparent images
    are composited over; see `images.decode`.

    Raises:
        UserError: the file is missing or damaged, arrays have the wrong type, a picture cannot be read, or there are
            pictures beside class folders, splits, or pictures of several sizes.
    """
    if status(path) is None:
        raise UserError(f"there is no {shown(path)}, neither an .npz file nor a folder or .zip of pictures")
    if path.is_file() and holds_arrays(path):
        return _read_npz(path, reading)
    if not path.is_dir() and path.suffix.lower() != ".zip":
        raise UserError(f"{shown(path)} is neither an .npz file nor a folder or .zip of pictures")
    members = members_of(path)
    layout = layout_of(pictures_of(members, shown(path)), shown(path))
    if layout.test is not None:
        raise UserError(f"{shown(path)} holds {layout.below} and {layout.test_below}: give the path of one of them")
    found = labels_of(layout, members, shown(path))
    files = sorted(layout.train, key=lambda file: _order(file.name))
    images = [read_picture(file, reading=reading) for file in files]
    channels = max(image.shape[-1] for image in images)
    images = [np.repeat(image, channels, -1) if image.shape[-1] < channels else image for image in images]
    for file, image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            raise UserError(
                f"{shown(path)}: pictures of several sizes, {images[0].shape} of {files[0].where} and {image.shape} of "
                f"{file.where}: bring them to one"
            )
    if found.class_names == UNLABELLED and not found.attributes:
        return GeneratedSet(np.stack(images), None)
    labels = np.asarray([found.label(file.name) for file in files], np.int32)
    classes = np.asarray(label_numbers(found.class_names), np.int32)[classes_of(labels)]
    if found.attributes:
        labels[:, 0] = classes
    return GeneratedSet(np.stack(images), labels if found.attributes else classes, found.class_names, found.attributes)


def labels_for(generated: GeneratedSet, class_names: Sequence[str]) -> np.ndarray | None:
    """The labels of a set as classes of a data set: int32 [n], or None if they are no classes of it.

    Labels in arrays are the data's class numbers. Folders that all have names of the data's classes are these classes.
    Other folders are the data's classes in order, if there are as many. Otherwise, if all their names are numbers,
    these are class numbers (a saved set may lack some).
    """
    if generated.labels is None or len(class_names) < 2:
        return None
    labels, folders = classes_of(generated.labels), generated.class_names
    if folders is not None:
        stored = label_numbers(folders)
        if set(folders) <= set(class_names):
            meant = [class_names.index(name) for name in folders]
        elif set(folders) & set(class_names) and not _are_numbers(folders):
            return None  # some folders are not classes of the data
        elif len(folders) == len(class_names):
            meant = list(range(len(folders)))
        elif _are_numbers(folders):
            meant = list(stored)
        else:
            return None
        labels = np.asarray(meant, np.int32)[np.searchsorted(stored, labels)]
    return labels if labels.min() >= 0 and labels.max() < len(class_names) else None


def asked_values(generated: GeneratedSet, spec: DataSpec) -> np.ndarray | None:
    """The labels of a set as those of a data set with attributes, matched by name: int32 [n, columns].

    None if either has no attributes, or if some attribute or value of the set is unknown to the data. What the set does
    not say, or calls "any", is left open.
    """
    if generated.labels is None or not generated.attributes or not spec.attributes:
        return None
    known = {attribute.name: place for place, attribute in enumerate(spec.columns)}
    open_row = [len(column.values) for column in spec.columns]
    found = np.tile(np.asarray(open_row, np.int32), (len(generated.labels), 1))
    classes = labels_for(generated, spec.class_names)
    found[:, 0] = 0 if spec.num_classes == 1 else found[:, 0] if classes is None else classes
    for attribute, column in zip(generated.attributes, generated.labels[:, 1:].T, strict=True):
        place = known.get(attribute.name)
        if place is None or set(attribute.values) - {ANY, *spec.columns[place].values}:
            return None
        values = [*spec.columns[place].values, ANY]
        numbers = [values.index(value) for value in attribute.values] + [len(values) - 1]
        found[:, place] = np.asarray(numbers, np.int32)[np.minimum(column, len(attribute.values))]
    return found


def label_numbers(names: Sequence[str]) -> tuple[int, ...]:
    """The labels of class folders in natural order: the numbers that are their names, else 0, 1, 2, ..."""
    return tuple(int(name) for name in names) if _are_numbers(names) else tuple(range(len(names)))


def _are_numbers(names: Sequence[str]) -> bool:
    """Whether names are distinct numbers that labels can be."""
    all_decimal = all(name.isascii() and name.isdecimal() and len(name) < 10 for name in names)
    return all_decimal and len({int(name) for name in names}) == len(names)


def _order(name: str) -> tuple[Any, ...]:
    file = name.rpartition("/")[2]
    return natural(file), name


def _read_npz(path: Path, reading: Reading) -> GeneratedSet:
    arrays = read_arrays(path, npz.FIELDS)
    if "images" not in arrays:
        raise UserError(f"{path} has no array `images`: expected uint8 [n, h, w, 1, 3 or 4]")
    images, labels = checked_images(arrays["images"], f"{path}: images"), arrays.get("labels")
    if reading.alpha or images.shape[-1] == 4:
        images = fit_images(images, Fitting(channels=4 if reading.alpha else 3, background=reading.background))
    attributes = npz.attributes_of(str(path), arrays)
    if labels is None and not attributes:
        return GeneratedSet(images, None)
    classes = np.zeros(len(images), np.int32) if labels is None else _classes(labels, len(images), path)
    if not attributes:
        return GeneratedSet(images, classes)
    values = np.column_stack([classes, arrays["attributes"]]).astype(np.int32)
    return GeneratedSet(images, values, attributes=attributes)


def _classes(labels: np.ndarray, num: int, path: Path) -> np.ndarray:
    check_labels(labels, num, f"{path}: labels")
    if (flat := label_arrays.flat(labels)) is None:
        raise UserError(f"{path}: labels has several labels for an image, expected one")
    if flat.min() < 0 or flat.max() > np.iinfo(np.int32).max:
        raise UserError(f"{path}: labels go from {flat.min()} to {flat.max()}: number the classes from 0")
    return flat.astype(np.int32)
