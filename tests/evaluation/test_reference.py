"""Reference statistics: content of files, and refusal of others."""

import json

import numpy as np
import pytest
from tiny import tiny_extractor

from jimgen import data
from jimgen.errors import UserError
from jimgen.evaluation import reference as references
from jimgen.evaluation.extractors import extract
from jimgen.evaluation.reference import (
    cached_reference,
    chosen_rows,
    load_reference,
    make_reference,
    require_match,
    save_reference,
    source_of,
)
from jimgen.metrics.frechet import moments


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def test_rows_are_spread_and_always_the_same():
    rows = chosen_rows(1000, 100)
    assert len(np.unique(rows)) == 100 and (np.diff(rows) > 0).all() and rows[0] < 50 and rows[-1] >= 950
    np.testing.assert_array_equal(rows, chosen_rows(1000, 100))
    np.testing.assert_array_equal(chosen_rows(5, 5), np.arange(5))
    for count in (0, 1, 6):
        with pytest.raises(UserError, match="asked for"):
            chosen_rows(5, count)


def test_streamed_statistics_equal_those_of_all_features(digits, monkeypatch):
    """In parts of 200 rows, merged; kept features are the extractor's own."""
    extractor = tiny_extractor()
    monkeypatch.setattr(references, "ROWS_AT_A_TIME", 200)
    made = make_reference(digits, extractor, split="train", count=700)
    features = extract(extractor, digits.train.images[chosen_rows(len(digits.train.labels), 700)]).features
    whole = moments(features)
    np.testing.assert_array_equal(made.features, features)
    assert made.moments.count == 700
    np.testing.assert_allclose(made.moments.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(made.moments.covariance, whole.covariance, rtol=1e-10)


@pytest.mark.parametrize("keep_features", [True, False])
def test_a_file_gives_back_what_was_put_in(digits, tmp_path, keep_features):
    made = make_reference(digits, tiny_extractor(), split="test", count=100, keep_features=keep_features)
    save_reference(tmp_path / "reference.npz", made)
    read = load_reference(tmp_path / "reference.npz")
    assert read.source == made.source and (read.features is not None) == keep_features
    np.testing.assert_array_equal(read.moments.covariance, made.moments.covariance)
    np.testing.assert_array_equal(read.moments.mean, made.moments.mean)
    require_match(read, source_of(digits, tiny_extractor(), "test", 100))


def test_the_cache_is_used_and_a_damaged_entry_made_again(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("JIMGEN_CACHE", str(tmp_path))
    calls = []
    monkeypatch.setattr(references, "extract", lambda *args: calls.append(1) or extract(*args))
    first = cached_reference(digits, tiny_extractor(), split="train", count=50)
    again = cached_reference(digits, tiny_extractor(), split="train", count=50)
    assert len(calls) == 1
    np.testing.assert_array_equal(first.features, again.features)
    cached_reference(digits, tiny_extractor(seed=1), split="train", count=50)  # other weights, other features
    assert len(calls) == 2
    for path in (tmp_path / "references").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    np.testing.assert_array_equal(
        cached_reference(digits, tiny_extractor(), split="train", count=50).features, first.features
    )
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"count": 99}, "count 100 there, 99 here"),
        ({"split": "train"}, "split test there, train here"),
        ({"data_hash": "0"}, "data_hash"),
        ({"shape": (28, 28, 1)}, "shape"),
        ({"extractor": {"extractor": "other"}}, "extractor tiny there, other here"),
        ({"extractor": {"resolution": 96}}, "resolution 8 there, 96 here"),
        ({"extractor": {"weights_hash": "1"}}, "weights_hash"),
    ],
)
def test_a_reference_of_something_else_is_refused_and_the_difference_named(digits, changed, named):
    made = make_reference(digits, tiny_extractor(), split="test", count=100, keep_features=False)
    extractor = {**made.source.extractor, **changed.pop("extractor", {})}
    with pytest.raises(UserError, match=named):
        require_match(made, made.source._replace(extractor=extractor, **changed))


def test_files_that_are_no_references(digits, tmp_path):
    path = tmp_path / "reference.npz"
    with pytest.raises(UserError, match="there is no reference"):
        load_reference(path)
    save_reference(path, make_reference(digits, tiny_extractor(), split="test", count=100))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged"):
        load_reference(path)
    np.savez(path, images=np.zeros(3))
    with pytest.raises(UserError, match="not a reference"):
        load_reference(path)


@pytest.mark.parametrize(
    "changed",
    [
        {"mean": np.full(6, np.nan)},
        {"mean": np.zeros(6, np.float32)},
        {"mean": np.array(["0"] * 6)},
        {"mean": np.zeros((2, 3))},
        {"covariance": np.ones(1)},  # numpy would repeat it
        {"covariance": np.full(21, np.inf)},
        {"features": np.zeros((100, 5), np.float32)},
        {"features": np.full((100, 6), np.nan, np.float32)},
        {"source": {"count": "100"}},
        {"source": {"count": 99}},
        {"source": {"shape": [8.5, 8, 1]}},
        {"source": {"extractor": None}},
        {"source": {"data": 3}},
    ],
)
def test_a_reference_whose_parts_are_damaged_is_refused(digits, tmp_path, changed):
    path = tmp_path / "reference.npz"
    save_reference(path, make_reference(digits, tiny_extractor(), split="test", count=100))
    with np.load(path) as saved:
        arrays = dict(saved)
    if "source" in changed:
        changed = {"source": json.dumps(json.loads(str(arrays["source"])) | changed["source"])}
    np.savez(path, **{**arrays, **changed})
    with pytest.raises(UserError, match="damaged or not a reference"):
        load_reference(path)
