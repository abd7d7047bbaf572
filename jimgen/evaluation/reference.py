"""Reference statistics: an extractor's features of a split of real images, with their source.

Metrics can be compared only if extractor, data, split and count are the same. A `Reference` contains them, and
`require_match` refuses one that differs.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from jimgen.data.archive import read_arrays
from jimgen.data.dataset import Dataset, cache_dir, num_rows, read_rows
from jimgen.errors import UserError
from jimgen.evaluation.extractors import Extractor, extract, identity
from jimgen.files import write_npz
from jimgen.metrics.frechet import Moments, merge_moments, moments

FORMAT = 1  # version of the files
ROWS_AT_A_TIME = 5000


class Source(NamedTuple):
    """The images and the extractor of a reference. Metrics can be compared only if all of these agree."""

    data: str  # name as in --data
    data_hash: str
    split: Literal["train", "test"]
    count: int
    shape: tuple[int, int, int]  # (h, w, c) of the images before the extractor resizes them
    extractor: dict[str, Any]  # extractors.identity


class Reference(NamedTuple):
    source: Source
    moments: Moments
    features: np.ndarray | None  # float32 [count, d], if kept: KID, neighbours and copying need them


def chosen_rows(total: int, count: int) -> np.ndarray:
    """Chooses `count` of `total` rows to represent a split: int64 [count], ascending, always the same.

    They are spread over the whole split, as it may begin with one class alone.

    Raises:
        UserError: there are fewer rows than asked for, or fewer than 2 are asked for.
    """
    if not 2 <= count <= total:
        raise UserError(f"asked for {count} images: give at least 2, and at most the {total} of the split")
    return np.sort(np.random.default_rng(0).permutation(total)[:count])


def make_reference(
    dataset: Dataset, extractor: Extractor, *, split: Literal["train", "test"], count: int, keep_features: bool = True
) -> Reference:
    """Extracts features of `count` images of a split; uses little memory without `keep_features`.

    Raises:
        UserError: there are fewer images than asked for, or the extractor cannot take them.
    """
    rows_of = dataset.train if split == "train" else dataset.test
    rows = chosen_rows(num_rows(rows_of), count)
    total, kept = None, []
    for start in range(0, count, ROWS_AT_A_TIME):
        features = extract(extractor, read_rows(rows_of, rows[start : start + ROWS_AT_A_TIME])[0]).features
        part = moments(features)
        total = part if total is None else merge_moments(total, part)
        kept += [features] if keep_features else []
    assert total is not None
    return Reference(
        source_of(dataset, extractor, split, count), total, np.concatenate(kept) if keep_features else None
    )


def source_of(dataset: Dataset, extractor: Extractor, split: Literal["train", "test"], count: int) -> Source:
    return Source(dataset.spec.name, dataset.spec.hash, split, count, dataset.spec.shape, identity(extractor))


def cached_reference(
    dataset: Dataset, extractor: Extractor, *, split: Literal["train", "test"], count: int
) -> Reference:
    """`make_reference` with features, cached under a hash of all that it depends on."""
    wanted = source_of(dataset, extractor, split, count)
    name = hashlib.sha256(json.dumps([FORMAT, wanted]).encode()).hexdigest()[:32]
    path = cache_dir() / "references" / f"{name}.npz"
    try:
        found = load_reference(path)
        if found.source == wanted and found.features is not None:
            return found
    except UserError:
        pass  # missing or damaged: make it again
    made = make_reference(dataset, extractor, split=split, count=count)
    save_reference(path, made)
    return made


def save_reference(path: Path, reference: Reference) -> None:
    """Writes an .npz: source as JSON, mean and upper half of the covariance in float64, and features if kept.

    Raises:
        UserError: the file cannot be written.
    """
    mean, covariance = reference.moments.mean, reference.moments.covariance
    arrays = {
        "source": json.dumps({"format": FORMAT, **reference.source._asdict()}),
        "mean": mean,
        "covariance": covariance[np.triu_indices(len(mean))],
    }
    write_npz(path, arrays | ({} if reference.features is None else {"features": reference.features}))


def load_reference(path: Path) -> Reference:
    """Reads a file of `save_reference`.

    Raises:
        UserError: the file is missing, damaged, or of another format.
    """
    if not path.exists():
        raise UserError(f"there is no reference {path}: make it with `jimgen reference DATA --out {path}`")
    saved = read_arrays(path, ("source", "mean", "covariance", "features"))
    try:
        source = json.loads(str(saved["source"]))
        mean, half, features = saved["mean"], saved["covariance"], saved.get("features")
        written = source.pop("format")
        if written != FORMAT:
            raise ValueError(f"format {written}, this version reads {FORMAT}")
        read = Source(**{**source, "shape": tuple(source["shape"])})
        _check_parts(read, mean, half, features)
        covariance = np.zeros((len(mean), len(mean)))
        covariance[np.triu_indices(len(mean))] = half
        covariance += np.triu(covariance, 1).T
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged or not a reference ({error}): make it again with `jimgen reference`"
        ) from error
    return Reference(read, Moments(read.count, mean, covariance), features)


def _check_parts(source: Source, mean: np.ndarray, half: np.ndarray, features: np.ndarray | None) -> None:
    """Raises ValueError unless all parts have the right types and fit together."""
    texts = (source.data, source.data_hash, source.split)
    if not (all(isinstance(text, str) for text in texts) and isinstance(source.extractor, dict)):
        raise ValueError("its source is not text")
    if type(source.count) is not int or not all(type(side) is int for side in source.shape):
        raise ValueError("its counts are not whole numbers")
    width = mean.size
    wanted: list[tuple[np.ndarray, type, tuple[int, ...]]] = [
        (mean, np.float64, (width,)),
        (half, np.float64, (width * (width + 1) // 2,)),
    ]
    if features is not None:
        wanted.append((features, np.float32, (source.count, width)))
    for array, dtype, shape in wanted:
        if array.dtype != dtype or array.shape != shape or not np.isfinite(array).all():
            raise ValueError("its arrays do not fit together")


def require_match(reference: Reference, wanted: Source) -> None:
    """Refuses a reference of other images, another extractor, count or size.

    Raises:
        UserError: the sources differ; the message lists the differences.
    """
    found, asked = _flat(reference.source), _flat(wanted)
    if differing := [name for name in asked if found.get(name) != asked[name]]:
        listed = "; ".join(f"{name} {found.get(name)} there, {asked[name]} here" for name in differing)
        raise UserError(
            f"the reference does not match: {listed}.\nDistances depend on all of these: make one that matches with "
            "`jimgen reference`, or change the command."
        )


def _flat(source: Source) -> dict[str, Any]:
    fields = source._asdict()
    return {**{name: value for name, value in fields.items() if name != "extractor"}, **source.extractor}
