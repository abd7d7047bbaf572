"""Report: pages that say all of a run, and need nothing but themselves."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jimgen.errors import UserError
from jimgen.pictures import grid, save_png
from jimgen.runs import report

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
        save_png(folder / "samples" / f"{name}.png", grid(PIXELS))
    return folder


def page_of(tmp_path: Path, *folders: Path, title: str | None = None) -> str:
    return report.write_report(folders, tmp_path / "report.html", title).read_text(encoding="utf-8")


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
    for text in ("Real images", "Environment", "Curves", "Training", "Test metrics", 'class="lead"'):
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
    with pytest.raises(UserError, match="config.json is damaged"):
        report.write_report([run], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_strip_crops_whole_tiles():
    assert report._corner(grid(np.zeros((64, 8, 8, 1)))).shape == (156, 156, 3)  # three of 48, two gaps of 6
    assert report._corner(grid(np.zeros((4, 256, 256, 3)))).shape == (256, 256, 3)
    assert report._corner(np.zeros((300, 200, 3), np.uint8)).shape == (300, 200, 3)


def test_import_is_light():
    code = "import sys, jimgen.runs.report; sys.exit(bool({'jax', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
