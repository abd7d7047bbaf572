"""Report: exact pixels of grids, metrics as kills leave them, and pages that need nothing but themselves."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jimgen import report
from jimgen.errors import UserError

GAP = report.GAP_COLOUR
PIXELS = np.linspace(-1, 1, 4 * 8 * 8).reshape(4, 8, 8, 1)


def make_run(folder: Path, rows: list[dict] | None = None) -> Path:
    """A small run directory with every piece in it."""
    folder.mkdir(parents=True)
    rows = rows or [{"step": s, "gan/loss": 1 / s, "images_per_s": 10.0, "test/fd": 3.0} for s in range(1, 5)]
    saved = {"experiment": "dcgan", "config": {"width": 32, "net": {"depth": 2}}, "changed": {"width": 32}}
    environment = {"versions": {"jax": "0.10.0"}, "devices": ["cpu 0", "cpu 1"], "git_commit": "4f1c9a7", "seed": 7}
    (folder / "config.json").write_text(json.dumps(saved))
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "experiment.py").write_text('"""A small GAN.\n\nThe rest.\n"""\n')
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("real", "reconstruct_00000004", *(f"step_{step:08d}" for step in range(0, 80, 10))):
        report.save_png(folder / "samples" / f"{name}.png", report.grid(PIXELS))
    return folder


def page_of(tmp_path: Path, *folders: Path, title: str | None = None) -> str:
    return report.write_report(folders, tmp_path / "report.html", title).read_text(encoding="utf-8")


# Pictures


def test_to_uint8_maps_rounds_and_clips():
    images = np.array([-1, -0.5, 0, 0.25, 1, -3, np.inf], np.float32)
    np.testing.assert_array_equal(report.to_uint8(images), np.array([0, 64, 128, 159, 255, 0, 255], np.uint8))


def test_to_uint8_passes_uint8_and_undoes_scaling():
    pixels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(report.to_uint8(pixels), pixels)
    np.testing.assert_array_equal(report.to_uint8(pixels / 127.5 - 1), pixels)


@pytest.mark.parametrize(("images", "message"), [([0.0, np.nan], "1 NaN of 2"), ([0, 255], "not int64")])
def test_to_uint8_refuses(images, message):
    with pytest.raises(ValueError, match=message):
        report.to_uint8(np.array(images))


def test_grid_places_tiles_exactly():
    images = np.array([10, 20, 30], np.uint8).reshape(3, 1, 1, 1)
    sheet = report.grid(images, columns=2, scale=2, gap=1)
    g = GAP
    expected = [
        [10, 10, g, g, 20, 20],
        [10, 10, g, g, 20, 20],
        [g, g, g, g, g, g],
        [g, g, g, g, g, g],
        [30, 30, g, g, g, g],
        [30, 30, g, g, g, g],
    ]
    assert sheet.dtype == np.uint8 and sheet.shape == (6, 6, 3)
    np.testing.assert_array_equal(sheet, np.repeat(np.array(expected, np.uint8)[..., None], 3, axis=-1))


def test_grid_keeps_colours_and_orientation():
    images = np.arange(2 * 2 * 3 * 3, dtype=np.uint8).reshape(2, 2, 3, 3)
    np.testing.assert_array_equal(report.grid(images, columns=2, scale=1, gap=0), np.concatenate(images, axis=1))


@pytest.mark.parametrize(
    ("n", "size", "shape"),
    [
        (4, 8, (102, 102)),  # 8 pixels are enlarged six times: 2 * 48 + 6
        (1, 28, (56, 56)),
        (1, 64, (64, 64)),
        (32, 64, (259, 519)),  # 4 rows of 8 and no holes, rather than 6 by 6
        (7, 64, (194, 194)),  # a prime: 3 by 3 with two holes
    ],
)
def test_grid_defaults(n, size, shape):
    assert report.grid(np.zeros((n, size, size, 1))).shape == (*shape, 3)


@pytest.mark.parametrize("shape", [(0, 8, 8, 1), (8, 8, 1), (2, 8, 8, 4)])
def test_grid_refuses_shapes(shape):
    with pytest.raises(ValueError, match="a grid takes"):
        report.grid(np.zeros(shape))


@pytest.mark.parametrize("options", [{"columns": 0}, {"scale": 0}, {"gap": -1}])
def test_grid_refuses_sizes(options):
    with pytest.raises(ValueError, match="at least"):
        report.grid(PIXELS, **options)


def test_save_png_round_trip(tmp_path):
    sheet = report.grid(PIXELS)
    report.save_png(tmp_path / "deep" / "x.png", sheet)
    with Image.open(tmp_path / "deep" / "x.png") as image:
        np.testing.assert_array_equal(np.asarray(image), sheet)
    with pytest.raises(ValueError, match="to_uint8"):
        report.save_png(tmp_path / "y.png", np.zeros((2, 2, 3)))


@pytest.mark.parametrize("broken", ["write_bytes", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch, broken):
    def fail(*_):
        raise OSError("disk full")

    report.save_png(tmp_path / "x.png", report.grid(PIXELS))
    before = (tmp_path / "x.png").read_bytes()
    monkeypatch.setattr(*((Path, "write_bytes") if broken == "write_bytes" else (report.os, "replace")), fail)
    with pytest.raises(OSError, match="disk full"):
        report.save_png(tmp_path / "x.png", report.grid(-PIXELS))
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]
    assert (tmp_path / "x.png").read_bytes() == before


# Curves


def test_read_metrics_skips_torn_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 1, "loss": NaN}\n{"step": 2, "lo{"step": 2}\n\n[3]\n{"loss": 4}\n{"step": 5}\n{"step": 6, '
    )
    rows = report.read_metrics(path)
    assert [row["step"] for row in rows] == [1, 5]
    assert np.isnan(rows[0]["loss"])
    path.write_text('{"step": 1, "lo')
    assert report.read_metrics(path) == []


def test_read_metrics_refuses(tmp_path):
    with pytest.raises(UserError, match="Cannot read"):
        report.read_metrics(tmp_path / "none.jsonl")
    (tmp_path / "x.jsonl").write_text("not\nmetrics\n")
    with pytest.raises(UserError, match="holds no metrics"):
        report.read_metrics(tmp_path / "x.jsonl")


def test_series_forgets_what_a_resumed_run_took_back():
    rows = [{"step": 1, "a": 1.0}, {"step": 2, "a": 2.0}, {"step": 3, "a": 3.0}, {"step": 2, "a": 20.0}]
    rows += [{"step": 2, "test/b": 5.0, "note": "text", "flag": True}]
    series = report._series(rows)
    assert list(series) == ["a", "test/b"]
    np.testing.assert_array_equal(series["a"].steps, [1, 2])
    np.testing.assert_array_equal(series["a"].values, [1, 20])


def test_smoothing_keeps_constants_gaps_and_length():
    values = np.full(100, 3.0)
    values[40:60] = np.nan
    np.testing.assert_allclose(report._smooth(values), values, rtol=1e-12)


def test_draw_curves_groups(tmp_path):
    names = ("discriminator/loss", "generator/loss", "vae/kl", "test/loss", "test/neg_elbo_nats", "images_per_s")
    rows = [{"step": step, **dict.fromkeys(names, 10.0**-step)} for step in range(1, 5)]
    paths = report.draw_curves(rows, tmp_path)
    assert [path.name for path in paths] == ["losses.png", "other.png", "test.png", "vae.png"]
    for path in paths:
        with Image.open(path) as image:
            assert np.asarray(image).min() < 128  # ink on the paper


@pytest.mark.parametrize(
    "rows",
    [
        [{"step": 1, "a/loss": 1.0}],  # a single point
        [{"step": s, "a/loss": float("nan"), "b": float("inf")} for s in range(99)],  # nothing finite
        [{"step": s, "a/loss": 10.0 ** (s % 9) if s % 7 else float("nan")} for s in range(99)],  # logarithmic, gaps
        [{"step": 1, "a/loss": 0.0}, {"step": 2, "b/../c": 1e30}, {"step": 3, "a/loss": -1, "x y$": 2}],  # odd names
    ],
)
def test_draw_curves_is_robust(tmp_path, rows):
    paths = report.draw_curves(rows, tmp_path)
    assert paths and all(path.parent == tmp_path and path.stat().st_size > 1000 for path in paths)


def test_draw_curves_without_metrics(tmp_path):
    assert report.draw_curves([], tmp_path) == []
    assert report.draw_curves([{"step": 1}], tmp_path) == []


# The page


def test_page_shows_the_whole_run(tmp_path):
    page = page_of(tmp_path, make_run(tmp_path / "my-run"))
    for text in ("<h1>my-run</h1>", "A small GAN.", "Real images", "Samples at step 70", "Reconstructions"):
        assert text in page
    for text in ("net.depth", "versions.jax", "cpu 0, cpu 1", "4f1c9a7", "seed 7", "test/fd", "<details>"):
        assert text in page
    assert f"python experiments/dcgan.py --workdir {tmp_path}/my-run" in page
    assert f"jimgen sample {tmp_path}/my-run " in page
    strip = re.findall(r'alt="The first samples at step (\d+)"', page)
    assert len(strip) == report.STRIP_FRAMES and strip[0] == "0" and strip[-1] == "70"


def test_page_is_self_contained(tmp_path):
    page = page_of(tmp_path, make_run(tmp_path / "a"), make_run(tmp_path / "b"))
    assert not re.search(r"https?://|@import|url\(|<script", page)
    sources = re.findall(r'(?:src|srcset|href)\s*=\s*"([^"]{0,40})', page)
    assert sources and all(source.startswith(("data:", "#")) for source in sources)
    assert all('alt="' in image for image in re.findall(r"<img[^>]*>", page))


def test_several_runs_are_compared_and_linked(tmp_path):
    page = page_of(tmp_path, make_run(tmp_path / "a"), make_run(tmp_path / "b"))
    assert "<h1>2 runs</h1>" in page
    for i, name in enumerate("ab"):
        assert f'<a href="#run-{i}">{name}</a>' in page and f'<section id="run-{i}">' in page


def test_every_string_is_escaped(tmp_path):
    evil = "<script>x</script>\"'&"
    run = make_run(tmp_path / "<i>run&", [{"step": 1, f"test/{evil}": 1.0, f"{evil}/loss": 2.0}])
    fields = {evil: evil, "nested": {evil: [evil, {evil: evil}]}}
    (run / "config.json").write_text(json.dumps({"experiment": evil, "config": fields, "changed": fields}))
    (run / "environment.json").write_text(json.dumps(fields))
    (run / "experiment.py").write_text(f"{evil!r}\n")
    page = page_of(tmp_path, run, make_run(tmp_path / "b"), title=evil)
    assert "<script" not in page and "<i>" not in page
    assert "&lt;script&gt;" in page and "&lt;i&gt;run&amp;" in page


def test_missing_and_torn_pieces_are_left_out(tmp_path):
    run = make_run(tmp_path / "run")
    whole = (run / "samples" / "real.png").read_bytes()
    (run / "samples" / "real.png").write_bytes(whole[: len(whole) // 2])
    (run / "samples" / "step_final.png").write_bytes(b"")
    (run / "experiment.py").write_text("def broken(:")
    (run / "metrics.jsonl").write_text("")
    (run / "environment.json").unlink()
    page = page_of(tmp_path, run)
    assert "Samples at step 70" in page and "width" in page
    for text in ("Real images", "Environment", "Curves", "Results", 'class="lead"'):
        assert text not in page
    only_metrics = tmp_path / "only"
    only_metrics.mkdir()
    (only_metrics / "metrics.jsonl").write_text('{"step": 1, "loss": NaN}\n')
    page = page_of(tmp_path, only_metrics)
    assert "not finite" in page and "Samples" not in page and "python experiments" not in page


def test_page_refuses_what_is_no_run(tmp_path):
    (tmp_path / "empty").mkdir()
    for folders, message in (
        ([], "no run to report"),
        ([tmp_path / "none"], "is not a folder"),
        ([tmp_path / "empty"], "holds no run"),
    ):
        with pytest.raises(UserError, match=message):
            report.write_report(folders, tmp_path / "report.html")
    run = make_run(tmp_path / "run")
    (run / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json is not JSON"):
        report.write_report([run], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_strip_crops_whole_tiles():
    assert report._corner(report.grid(np.zeros((64, 8, 8, 1)))).shape == (156, 156, 3)  # three of 48, two gaps of 6
    assert report._corner(report.grid(np.zeros((4, 256, 256, 3)))).shape == (256, 256, 3)
    assert report._corner(np.zeros((300, 200, 3), np.uint8)).shape == (300, 200, 3)


def test_import_is_light():
    code = "import sys, jimgen.report; sys.exit(bool({'jax', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
