"""Curves: metrics as kills leave them, and pictures of whatever was measured."""

import numpy as np
import pytest
from PIL import Image

from jimgen import curves
from jimgen.errors import UserError


def test_read_metrics_skips_torn_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 1, "loss": NaN}\n{"step": 2, "lo{"step": 2}\n\n[3]\n{"loss": 4}\n{"step": 5}\n{"step": 6, '
    )
    rows = curves.read_metrics(path)
    assert [row["step"] for row in rows] == [1, 5]
    assert np.isnan(rows[0]["loss"])
    path.write_text('{"step": 1, "lo')
    assert curves.read_metrics(path) == []


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,  # deeper than Python's parser goes
        '{"step": 2, "a": ' * 50_000,
        '{"step": Infinity, "a": 1}',
        '{"step": -1, "a": 1}',
        '{"step": 1e300, "a": 1}',
        '{"step": 1%s, "a": 1}' % ("0" * 400),
        '{"step": true, "a": 1}',
    ],
)
def test_lines_that_no_training_wrote_are_left_out(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join(['{"step": 1, "a": 2.5}', line, '{"step": 3, "a": NaN}']))
    rows = curves.read_metrics(path)
    assert [row["step"] for row in rows] == [1, 3] and rows[0] == {"step": 1, "a": 2.5}


def test_values_that_are_no_numbers_are_left_out(tmp_path):
    """An integer of 400 digits is none: no float can hold it."""
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": "x", "b": [1], "c": null, "d": true, "e": 1%s, "f": 2}\n' % ("0" * 400))
    assert curves.read_metrics(path) == [{"step": 1, "f": 2}]
    assert list(curves.series_of([{"step": 1, "e": 10**400, "f": 2}])) == ["f"]


def test_read_metrics_refuses(tmp_path):
    with pytest.raises(UserError, match="Cannot read"):
        curves.read_metrics(tmp_path / "none.jsonl")
    (tmp_path / "x.jsonl").write_text("not\nmetrics\n")
    with pytest.raises(UserError, match="holds no metrics"):
        curves.read_metrics(tmp_path / "x.jsonl")


def test_series_forgets_what_a_resumed_run_took_back():
    rows = [{"step": 1, "a": 1.0}, {"step": 2, "a": 2.0}, {"step": 3, "a": 3.0}, {"step": 2, "a": 20.0}]
    rows += [{"step": 2, "test/b": 5.0, "note": "text", "flag": True}]
    series = curves.series_of(rows)
    assert list(series) == ["a", "test/b"]
    np.testing.assert_array_equal(series["a"].steps, [1, 2])
    np.testing.assert_array_equal(series["a"].values, [1, 20])


def test_smoothing_keeps_constants_gaps_and_length():
    values = np.full(100, 3.0)
    values[40:60] = np.nan
    np.testing.assert_allclose(curves._smooth(values), values, rtol=1e-12)


def test_draw_curves_groups(tmp_path):
    names = ("discriminator/loss", "generator/loss", "vae/kl", "test/loss", "test/neg_elbo_nats", "images_per_s")
    rows = [{"step": step, **dict.fromkeys(names, 10.0**-step)} for step in range(1, 5)]
    paths = curves.draw_curves(rows, tmp_path)
    assert [path.name for path in paths] == ["losses.png", "other.png", "test.png", "vae.png"]
    for path in paths:
        with Image.open(path) as image:
            assert np.asarray(image).min() < 128  # ink on the paper


@pytest.mark.parametrize(
    "rows",
    [
        [{"step": s, "a/loss": float("nan"), "b": float("inf")} for s in range(99)],  # nothing finite
        [{"step": s, "a/loss": 10.0 ** (s % 9) if s % 7 else float("nan")} for s in range(99)],  # logarithmic, gaps
        [{"step": 1, "a": 1e308}, {"step": 2, "a": -1e308}, {"step": 2**53, "a": 1.0}],  # ends of the range of floats
        [{"step": s, "a/loss": -s, "b/../c": 1e30, "x y$": 2} for s in range(3)],  # odd names
    ],
)
def test_draw_curves_is_robust(tmp_path, rows):
    paths = curves.draw_curves(rows, tmp_path)
    assert paths and all(path.parent == tmp_path and path.stat().st_size > 1000 for path in paths)


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"step": 1}],
        [{"step": 1, "a/loss": 1.0, "test/b": 2.0}],  # a single point
        [{"step": s, "a/skipped": 0.0, "seconds": 3.0 * s} for s in range(9)],  # always zero; the time
    ],
)
def test_what_tells_nothing_is_not_drawn(tmp_path, rows):
    assert curves.draw_curves(rows, tmp_path) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vae/neg_elbo_nats", "vae: negative ELBO (nats)"),
        ("generator/grad_norm", "generator: gradient norm"),
        ("images_per_s", "images per second"),
        ("test/bits_per_dim[binarised,ELBO]", "test: bits per dimension [binarised, ELBO]"),
        ("test/psnr_db", "test: PSNR (dB)"),
        ("bits", "bits"),
    ],
)
def test_names_in_words(name, words):
    assert curves.in_words(name) == words
