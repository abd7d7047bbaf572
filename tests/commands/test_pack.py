import os
import signal

import numpy as np
import pytest
from PIL import Image

from jimgen.data import load
from jimgen.data.dataset import num_rows, read_rows


def pictures(root, channels=3):
    for i in range(24):
        (root / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (6 + i % 3, 8, channels)).astype(np.uint8)
        Image.fromarray(pixels).save(root / "ab"[i % 2] / f"{i}.png")
    rows = [f"{'ab'[i % 2]}/{i}.png,{['x', 'y', 'z'][i % 3]}" for i in range(24)]
    (root / "labels.csv").write_text("\n".join(["file,hair", *rows]))
    return f"folder:{root}"


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pack_writes_what_training_on_the_folder_would_see(tmp_path, jimgen, channels):
    name = pictures(tmp_path / "set", channels=4)
    printed = jimgen("pack", name, "--out", tmp_path / "packed", "--size", "6x5", "--channels", channels)
    assert printed.splitlines()[-1] == str(tmp_path / "packed") and "train with --data records:" in printed
    folder = load(name, size=(6, 5), channels=channels)
    records = load(f"records:{tmp_path / 'packed'}", channels=channels)
    assert records.spec == folder.spec._replace(name=records.spec.name)
    for split, other in ((folder.train, records.train), (folder.test, records.test)):
        rows = range(num_rows(split))
        for array, again in zip(read_rows(split, rows), read_rows(other, rows), strict=True):
            np.testing.assert_array_equal(array, again)


def test_pack_refuses(tmp_path, refused):
    name = pictures(tmp_path / "set")
    assert "differ in size" in refused("pack", name, "--out", tmp_path / "packed")
    assert not (tmp_path / "packed").exists()
    assert "is there already" in refused("pack", name, "--out", tmp_path / "set", "--size", 6)
    assert "unknown data set" in refused("pack", "folde:x", "--out", tmp_path / "packed")


def test_the_current_folder_is_refused_and_a_link_is_followed(tmp_path, refused, jimgen, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to("here")
    monkeypatch.chdir(tmp_path / "here")
    assert "current folder" in refused("pack", "digits", "--out", ".")
    monkeypatch.chdir(tmp_path)
    jimgen("pack", "digits", "--out", "link")
    assert load("records:here").spec.num_train == 1498


def test_a_signal_removes_what_is_unfinished(tmp_path, jimgen, monkeypatch):
    def stop(folder):
        assert (tmp_path / ".packed.unfinished").is_dir()
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("jimgen.data.records._check_written", stop)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        jimgen("pack", "digits", "--out", tmp_path / "packed")
    assert stopped.value.code == 128 + signal.SIGTERM and not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) is before
