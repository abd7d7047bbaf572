"""Damaged archives and weights: data sets as npz, generated sets, references, directions, weights."""

import functools
import io
import json
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_mutations import damage, damage_json, damage_npy, damage_zip, npy_of, png_of, zip_of
from fuzz_trial import Trial, require
from numpy.random import Generator

from jimgen.apps.directions import Direction
from jimgen.apps.directions import load as load_directions
from jimgen.apps.directions import save as save_directions
from jimgen.data import load
from jimgen.data.dataset import Arrays
from jimgen.evaluation.classifier import load_weights, save_weights
from jimgen.evaluation.generated import GeneratedSet, read_generated
from jimgen.evaluation.reference import Reference, Source, load_reference, save_reference
from jimgen.evaluation.torch_weights import read_torch_weights
from jimgen.methods.latents import z_space
from jimgen.metrics.frechet import moments

Tensors = dict[
    str, tuple[np.ndarray, tuple[Any, ...] | None]
]  # arrays; and (offset, shape, strides) to store, if other


def data_set(folder: Path, rng: Generator) -> Trial:
    """An npz of images and labels."""
    n, k = int(rng.integers(12, 30)), int(rng.integers(1, 5))
    shape = (6, 7, int(rng.choice([1, 3])))
    fields = {
        "train_images": rng.integers(256, size=(n, *shape)).astype(np.uint8),
        "train_labels": np.arange(n, dtype=rng.choice(["<i4", "<u1", "<i8"])) % k,
        "test_images": rng.integers(256, size=(4, *shape)).astype(np.uint8),
        "test_labels": np.arange(4, dtype=np.int64) % k,
    }
    path = folder / "set.npz"
    members = {f"{name}.npy": npy_of(array) for name, array in fields.items()}
    read = functools.partial(load, f"npz:{path}")

    def is_valid(found: Any) -> None:
        for split in (found.train, found.test):
            require(isinstance(split, Arrays) and split.images.dtype == np.uint8, "not uint8")
            require(split.images.shape[1:] == found.spec.shape and len(split.labels) == len(split.images), "shapes")
            require(split.labels.dtype == np.int32 and split.labels.min() >= 0, "labels")
            require(split.labels.max() < found.spec.num_classes == len(found.spec.class_names), "labels beyond classes")

    def is_same(found: Any) -> None:
        is_valid(found)
        for name, array in {"train": found.train, "test": found.test}.items():
            require(np.array_equal(array.images, fields[f"{name}_images"]), f"other {name} images")
            require(np.array_equal(array.labels, fields[f"{name}_labels"]), f"other {name} labels")

    match rng.integers(6):
        case 0:
            path.write_bytes(zip_of(members | {"README": b"hello"}))
            return Trial(read, is_same, must_read=True)
        case 1:
            path.write_bytes(damage_zip(zip_of(members, bool(rng.integers(2))), rng))
            return Trial(read, is_same)
        case 2:
            name = str(rng.choice(list(members)))
            path.write_bytes(zip_of(members | {name: damage_npy(members[name], rng)}))
            return Trial(read, is_valid)
        case 3:
            path.write_bytes(zip_of(_other_members(members, fields, rng), bool(rng.integers(2))))
            return Trial(read, is_valid)
    data = zip_of(members, bool(rng.integers(2)))
    intact = rng.random() < 0.1
    path.write_bytes(data if intact else damage(data, rng))
    return Trial(read, is_same, must_read=intact)


def _other_members(members: dict[str, bytes], fields: dict[str, np.ndarray], rng: Generator) -> dict[str, bytes]:
    """Intact archives with other arrays than those expected."""
    name = str(rng.choice(list(fields)))
    array = fields[name]
    others = [
        *(array[:3], array[:0], array.ravel(), array[None], array[..., None], array[..., :1], -1.0 * array, array > 3),
        *(array.astype(str), array.astype(object), np.int64(array) * 2**40, np.int64(array) - 5, np.float16(array)),
        *(np.asfortranarray(array), array.astype(">i4"), np.asarray("x"), np.zeros((), np.uint8), array + 1),
    ]
    changed = members | {f"{name}.npy": npy_of(np.asarray(others[rng.integers(len(others))]))}
    match rng.integers(6):
        case 0:
            del changed[f"{name}.npy"]
        case 1:
            changed = {key.removesuffix(".npy"): content for key, content in members.items()}
        case 2:
            names = [np.asarray(["a"]), np.asarray(["a", "[/b]"] * 9), np.arange(3), np.asarray([], object)]
            changed["class_names.npy"] = npy_of(names[rng.integers(len(names))])
        case 3:
            changed = {f"{i:08d}.png": b"" for i in range(500)}
    return changed


def zip_of_pictures(folder: Path, rng: Generator) -> Trial:
    """A zip archive of pictures in class folders, as a data set."""
    pixels = rng.integers(256, size=(12, 5, 5)).astype(np.uint8)
    members = {}
    for i, image in enumerate(pixels):
        rows = zlib.compress(b"".join(b"\x00" + row.tobytes() for row in image))
        header = struct.pack(">IIBBBBB", 5, 5, 8, 0, 0, 0, 0)
        members[f"{'ab'[i % 2]}/{i:02d}.png"] = png_of([(b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")])
    data = zip_of(members, bool(rng.integers(2)))
    path = folder / "set.zip"
    how = rng.integers(4)
    if how == 1:
        data = damage_zip(data, rng)
    elif how > 1:
        data = damage(data, rng)
    path.write_bytes(data)

    def check(found: Any) -> None:
        images = np.concatenate([found.train.images, found.test.images])
        labels = np.concatenate([found.train.labels, found.test.labels])
        require(
            len(images) + len(found.skipped) == len(pixels), f"{len(images)} pictures, {len(found.skipped)} skipped"
        )
        for image, label in zip(images[..., 0], labels, strict=True):
            same = [i for i in range(len(pixels)) if np.array_equal(pixels[i], image)]
            require(len(same) == 1 and same[0] % 2 == label, "a picture or label that is not in the archive")

    return Trial(lambda: load(f"folder:{path}"), check, must_read=how == 0)


def generated_npz(folder: Path, rng: Generator) -> Trial:
    images = rng.integers(256, size=(6, 5, 5, 3)).astype(np.uint8)
    labels = np.arange(6, dtype=np.int32) % 2
    members = {"images.npy": npy_of(images), "labels.npy": npy_of(labels)}
    path = folder / "drawn.npz"

    def is_valid(found: GeneratedSet) -> None:
        require(found.images.dtype == np.uint8 and found.images.ndim == 4 and len(found.images) > 0, "images")
        require(found.images.shape[-1] in (1, 3), str(found.images.shape))
        if found.labels is not None:
            require(found.labels.dtype == np.int32 and found.labels.shape == found.images.shape[:1], "labels")

    def is_same(found: GeneratedSet) -> None:
        is_valid(found)
        require(
            np.array_equal(found.images, images) and found.labels is not None and np.array_equal(found.labels, labels),
            "other arrays",
        )

    data, intact = zip_of(members, bool(rng.integers(2))), False
    match rng.integers(5):
        case 0:
            name = str(rng.choice(list(members)))
            data = zip_of(members | {name: damage_npy(members[name], rng)})
            path.write_bytes(data)
            return Trial(lambda: read_generated(path), is_valid)
        case 1:
            fields = {"images": images, "labels": labels}
            path.write_bytes(zip_of(_other_members(members, fields, rng)))
            return Trial(lambda: read_generated(path), is_valid)
        case 2:
            data = damage_zip(data, rng)
        case _:
            intact = rng.random() < 0.1
            data = data if intact else damage(data, rng)
    path.write_bytes(data)
    return Trial(lambda: read_generated(path), is_same, must_read=intact)


def reference(folder: Path, rng: Generator) -> Trial:
    """Reference statistics, as `jimgen reference` writes them."""
    features = rng.standard_normal((8, 3)).astype(np.float32)
    source = Source("digits", "0" * 64, "train", 8, (8, 8, 1), {"name": "tiny", "resolution": 8})
    path = folder / "reference.npz"
    kept = features if rng.random() < 0.5 else None
    save_reference(path, Reference(source, moments(features), kept))
    expected = load_reference(path)
    how = _damage_npz(path, rng)

    def check(found: Reference) -> None:
        mean, covariance = found.moments.mean, found.moments.covariance
        require(mean.ndim == 1 and covariance.shape == (len(mean), len(mean)), "shapes of the moments")
        require(mean.dtype == covariance.dtype == np.float64, f"{mean.dtype} {covariance.dtype}")
        require(bool(np.isfinite(mean).all() and np.isfinite(covariance).all()), "not finite")
        require(isinstance(found.source.count, int) and found.moments.count == found.source.count, "count")
        if found.features is not None:
            require(found.features.shape == (found.source.count, len(mean)), "shape of the features")
        if how != 2:
            require(found.source == expected.source and np.array_equal(mean, expected.moments.mean), "other numbers")
            require(np.array_equal(covariance, expected.moments.covariance), "another covariance")
            if kept is not None:
                require(found.features is not None and np.array_equal(found.features, kept), "other features")

    return Trial(lambda: load_reference(path), check, must_read=how == 0)


def classifier_weights(folder: Path, rng: Generator) -> Trial:
    """Weights of a classifier, as jimgen ships them."""
    path = folder / "weights.npz"
    kernel = rng.standard_normal((3, 4)).astype(np.float16)
    save_weights(path, {"params": {"stem": {"kernel": kernel}, "head": {"bias": kernel[0]}}}, {"data": "digits"})
    how = _damage_npz(path, rng)

    def check(found: Any) -> None:
        variables, meta, digest = found
        require(isinstance(meta, dict) and len(digest) == 64, "meta")
        if how != 2:
            require(np.array_equal(variables["params"]["stem"]["kernel"], kernel.astype(np.float32)), "other weights")
            require(np.array_equal(variables["params"]["head"]["bias"], kernel[0].astype(np.float32)), "other weights")

    return Trial(lambda: load_weights(path), check, must_read=how == 0)


def directions(folder: Path, rng: Generator) -> Trial:
    """Directions of attributes, as `jimgen directions` writes them."""
    path, space = folder / "directions.npz", z_space(3, lambda variables, z, labels: z)
    vectors = rng.standard_normal((2, 3)).astype(np.float32)
    kept = [Direction(name, vector, 1.0, 0.5, 0.25) for name, vector in zip("ab", vectors, strict=True)]
    save_directions(path, kept, vectors[0], is_straight=False)
    intact = rng.random() < 0.25
    if not intact:
        path.write_bytes((damage_zip if rng.random() < 0.5 else damage)(path.read_bytes(), rng))

    def check(found: list[Direction]) -> None:
        require([each.name for each in found] == ["a", "b"], "other names")
        require(
            all(np.array_equal(each.vector, vector) for each, vector in zip(found, vectors, strict=True)), "vectors"
        )
        require(all(each[2:] == (1.0, 0.5, 0.25) for each in found), "other numbers")

    return Trial(lambda: load_directions(path, space, 3), check, must_read=intact)


def _damage_npz(path: Path, rng: Generator) -> int:
    """Damages an .npz in one of three ways or not. Returns the way: 0 none, 1 archive, 2 array, 3 any bytes."""
    how, data = int(rng.integers(4)), path.read_bytes()
    if how == 1:
        data = damage_zip(data, rng)
    elif how == 2:
        data = _with_other_member(data, rng)
    elif how == 3:
        data = damage(data, rng)
    path.write_bytes(data)
    return how


def _with_other_member(data: bytes, rng: Generator) -> bytes:
    """An intact .npz in which one member has another array, header or JSON text."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = str(rng.choice(list(members)))
    array = np.load(io.BytesIO(members[name]))
    if array.dtype.kind == "U":
        text = damage_json(json.loads(str(array)), rng).decode(errors="replace")
        members[name] = npy_of(np.asarray(text))
    elif rng.random() < 0.5:
        members[name] = damage_npy(members[name], rng)
    else:
        others = [array[:1], array[:0], array.ravel()[0], array * np.nan, array.astype(object), array.astype(str)]
        members[name] = npy_of(np.asarray(others[rng.integers(len(others))]))
    if rng.random() < 0.2:
        del members[str(rng.choice(list(members)))]
    return zip_of(members)


def torch_weights(folder: Path, rng: Generator) -> Trial:
    """A state dict as torch.save writes it, in both formats."""
    arrays = {"conv.weight": rng.standard_normal((2, 3)).astype(np.float32), "conv.bias": np.arange(4, dtype=np.int64)}
    tensors: Tensors = {name: (array, None) for name, array in arrays.items()}
    how, legacy = rng.integers(4), bool(rng.integers(2))
    if how == 1:
        tensors["conv.weight"] = (arrays["conv.weight"], _odd_view(rng))
    pickled = _pickled(tensors)
    if how == 2:
        pickled = damage(pickled, rng)
    data = (_torch_legacy if legacy else _torch_zip)(pickled, arrays)
    if how == 3:
        data = damage_zip(data, rng) if rng.random() < 0.3 else damage(data, rng)
    path = folder / "weights.pth"
    path.write_bytes(data)

    def check(found: Any) -> None:
        read, digest = found
        require(len(digest) == 64 and all(isinstance(array, np.ndarray) for array in read.values()), "no arrays")
        require(sum(array.nbytes for array in read.values()) < 2**20, "more numbers than the file has")
        if how == 0 or how == 3 and not legacy:
            require(read.keys() == arrays.keys(), "other names")
            require(all(np.array_equal(read[name], arrays[name]) for name in arrays), "other numbers")

    return Trial(lambda: read_torch_weights(path), check, must_read=how == 0)


def _odd_view(rng: Generator) -> tuple[Any, ...]:
    """Offset, shape and strides that a tensor of six numbers should not have."""
    sizes = (0, 1, 2, 3, 6, 7, -1, 10**6, 10**9, 2**40, 2**62, True, None, "x", 1.5)
    views = [
        (0, (10**9,), (0,)),
        (0, (40_000, 40_000), (0, 0)),
        (0, (1,) * 40, (1,) * 40),
        (0, (0, 2**62, 4), (1, 1, 1)),
        tuple(sizes[i] if j == 0 else (sizes[i],) * 2 for j, i in enumerate(rng.integers(len(sizes), size=3))),
    ]
    return views[rng.integers(len(views))]


def _pickled(tensors: Tensors) -> bytes:
    """The pickle of a state dict: for each name a call that rebuilds a view of a storage."""
    out = b"\x80\x02}("
    for key, (name, (array, view)) in enumerate(tensors.items()):
        strides = tuple(stride // array.itemsize for stride in array.strides)
        storage = {"f": b"FloatStorage", "i": b"LongStorage"}[array.dtype.kind]
        persistent = b"(" + _value("storage") + b"ctorch\n" + storage + b"\n" + _value(str(key)) + _value("cpu")
        arguments = persistent + _value(array.size) + b"tQ"
        arguments += b"".join(_value(part) for part in (view or (0, array.shape, strides)))
        arguments += b"\x89ccollections\nOrderedDict\n)R"
        out += _value(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"
    return out + b"u."


def _value(value: Any) -> bytes:
    """A string, number, None or tuple of them in pickle's opcodes."""
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value)) + value.encode()
    if isinstance(value, tuple):
        return b"(" + b"".join(_value(part) for part in value) + b"t"
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    return b"\x8a\x09" + int(value).to_bytes(9, "little", signed=True)


def _torch_zip(pickled: bytes, arrays: dict[str, np.ndarray]) -> bytes:
    storages = {f"archive/data/{key}": array.tobytes() for key, array in enumerate(arrays.values())}
    return zip_of({"archive/data.pkl": pickled, "archive/byteorder": b"little", "archive/version": b"3\n"} | storages)


def _torch_legacy(pickled: bytes, arrays: dict[str, np.ndarray]) -> bytes:
    magic = b"\x80\x02\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little") + b"."
    protocol, machine = b"\x80\x02" + _value(1001) + b".", b"\x80\x02}" + _value("little_endian") + b"\x88s."
    keys = b"\x80\x02](" + b"".join(_value(str(key)) for key in range(len(arrays))) + b"e."
    storages = b"".join(struct.pack("<q", array.size) + array.tobytes() for array in arrays.values())
    return magic + protocol + machine + pickled + keys + storages
