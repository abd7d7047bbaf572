"""The second opening of a folder reads no files, and notices every change."""

import json
import os
import zipfile

import numpy as np
import pytest
from PIL import Image

from jimgen.data import decoded, folder, load
from jimgen.data import images as pictures
from jimgen.data.dataset import num_rows, read_rows
from jimgen.data.index import recall


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, in which sets of any size are worth keeping."""
    monkeypatch.setenv("JIMGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(folder, "WORTH_AN_INDEX", 0)
    monkeypatch.setattr(decoded, "WORTH_KEEPING", 0.0)
    return tmp_path / "cache"


@pytest.fixture
def opened(monkeypatch):
    """The names of the files whose header is read or that are decoded, in the order of reading."""
    names = {"read_shape": [], "decode": []}

    def watched(kind, function):
        def watch(file, *, name=None, **options):
            names[kind].append(name.rpartition("/")[2])
            return function(file, name=name, **options)

        return watch

    for kind in names:
        monkeypatch.setattr(pictures, kind, watched(kind, getattr(pictures, kind)))
    return names


def save(root, levels, size=4):
    root.mkdir(exist_ok=True)
    for level in levels:
        Image.new("L", (size, size), level).save(root / f"{level}.png")
    return f"folder:{root}"


def levels_of(data):
    return {
        int(image[0, 0, 0])
        for split in (data.train, data.test)
        for image in read_rows(split, range(num_rows(split)))[0]
    }


def test_what_is_known_is_not_read_again():
    calls = []

    def read(rows):
        calls.append(rows)
        return [None if row == 3 else row * 10 for row in rows]

    def known(stamps, is_valid=lambda value: isinstance(value, int)):
        return recall("tens", "here", stamps, read, is_valid)

    assert known(["a", "b"]) == known(["a", "b"]) == [0, 10]
    assert known(["b", "a", "c"]) == [10, 0, 20]  # by stamp, not by place
    assert known(["c"]) == [20] and known(["a", "c"]) == [0, 20]  # what is gone is forgotten
    assert known(["a", "c"], lambda value: False) == [0, 10]
    assert calls == [[0, 1], [2], [0], [0, 1]]


@pytest.mark.parametrize("resident", [2**30, 0])
def test_the_second_opening_opens_no_file(tmp_path, opened, resident):
    name = save(tmp_path / "set", range(0, 40, 2))
    whole = (tmp_path / "set" / "2.png").read_bytes()
    (tmp_path / "set" / "broken.png").write_bytes(whole[:-16] + b"abcd" + whole[-12:])  # the checksum of its pixels
    first = load(name, resident_bytes=resident)
    assert len(opened["read_shape"]) == len(opened["decode"]) == 21
    second = load(name, resident_bytes=resident)
    assert len(opened["read_shape"]) == len(opened["decode"]) == 21
    assert second.spec == first.spec and second.skipped == first.skipped != ()
    assert levels_of(second) == set(range(0, 40, 2))
    for split, other in ((first.train, second.train), (first.test, second.test)):
        rows = range(num_rows(split))
        for array, again in zip(read_rows(split, rows), read_rows(other, rows), strict=True):
            np.testing.assert_array_equal(array, again)


@pytest.mark.parametrize("resident", [2**30, 0])
def test_only_changed_files_are_opened_again(tmp_path, opened, resident):
    root = tmp_path / "set"
    name = save(root, range(0, 40, 2))

    def loaded():
        for names in opened.values():
            names.clear()
        data = load(name, resident_bytes=resident)
        read = sorted(opened["read_shape"])
        assert resident or sorted(opened["decode"]) == read
        return levels_of(data), read

    loaded()
    save(root, [1])
    (root / "2.png").unlink()
    assert loaded() == ({1, *range(4, 40, 2), 0}, ["1.png"])
    (root / "4.png").rename(root / "new.png")
    assert loaded() == ({1, *range(4, 40, 2), 0}, ["new.png"])
    before = (root / "6.png").stat()
    (root / "6.png").write_bytes((root / "8.png").read_bytes())  # an edit that keeps the size
    os.utime(root / "6.png", ns=(before.st_atime_ns, before.st_mtime_ns + 10))
    assert (root / "6.png").stat().st_size == before.st_size
    assert loaded() == ({1, *range(8, 40, 2), 4, 0}, ["6.png"])
    assert loaded()[1] == []


@pytest.mark.parametrize(
    "content",
    [b"", b"no JSON", b"[]", b'{"format": 1}', b'{"format": 1, "files": []}', b'{"format": 0, "files": {}}', b"\xff"],
)
def test_a_damaged_or_foreign_index_is_rebuilt(tmp_path, cache, opened, content):
    name = save(tmp_path / "set", range(20))
    spec = load(name).spec
    (index,) = cache.glob("shapes-*.json")
    whole = json.loads(index.read_bytes())
    index.write_bytes(content)
    assert load(name).spec == spec and json.loads(index.read_bytes()) == whole


@pytest.mark.parametrize("resident", [2**30, 0])
def test_another_version_of_pillow_reads_all_files_again(tmp_path, cache, opened, resident):
    """It may read what the last one could not."""
    name = save(tmp_path / "set", range(20))
    load(name, resident_bytes=resident)
    for index in [*cache.glob("shapes-*.json"), *cache.glob("faults-*.json")]:
        index.write_text(json.dumps(json.loads(index.read_bytes()) | {"pillow": "1.0"}))
    for calls in opened.values():
        calls.clear()
    load(name, resident_bytes=resident)
    assert len(opened["read_shape"]) == 20 and (resident or len(opened["decode"]) == 20)


@pytest.mark.parametrize("value", [None, 5, "x", [4, 4], [4, 4, -1], [4, 4, "1"], {}])
def test_a_value_that_is_no_shape_is_read_again(tmp_path, cache, opened, value):
    name = save(tmp_path / "set", range(20))
    spec = load(name).spec
    (index,) = cache.glob("shapes-*.json")
    whole = json.loads(index.read_bytes())
    some = next(iter(whole["files"]))
    index.write_text(json.dumps(whole | {"files": whole["files"] | {some: value}}))
    opened["read_shape"].clear()
    assert load(name).spec == spec and len(opened["read_shape"]) == 1


def test_damaged_or_foreign_pictures_in_the_cache_are_decoded_again(tmp_path, cache):
    name = save(tmp_path / "set", range(20))
    spec = load(name).spec
    (kept,) = cache.glob("decoded-*.npz")
    whole = kept.read_bytes()
    other = tmp_path / "other.npz"
    np.savez(other, images=np.zeros((20, 5, 5, 1), np.uint8), faults="{}")
    few = tmp_path / "few.npz"
    np.savez(few, images=np.zeros((20, 4, 4, 1), np.uint8), faults='{"99": "x"}')
    for content in (b"", whole[:-50], whole[:300] + b"\xff" + whole[301:], other.read_bytes(), few.read_bytes()):
        kept.write_bytes(content)
        assert load(name).spec == spec


def test_each_fitting_is_kept_by_itself_and_the_oldest_go_first(tmp_path, cache, monkeypatch):
    name = save(tmp_path / "set", range(20))
    specs = {size: load(name, size=size).spec for size in (4, 8)}
    kept = {path.stat().st_size: path for path in cache.glob("decoded-*.npz")}
    assert len(kept) == 2 and {size: load(name, size=size).spec for size in (4, 8)} == specs
    os.utime(kept[max(kept)], ns=(1, 1))  # used longest ago
    monkeypatch.setenv("JIMGEN_DECODED_GB", str((min(kept) + 20 * 36 + 10) / 2**30))
    load(name, size=6)
    assert kept[min(kept)].exists() and not kept[max(kept)].exists() and len(list(cache.glob("decoded-*.npz"))) == 2


def test_what_a_killed_process_left_is_removed(tmp_path, cache):
    old, new = (cache / f".decoded-x.npz.{number}.tmp" for number in (1, 2))
    cache.mkdir(exist_ok=True)
    for file in (old, new):
        file.write_bytes(b"x")
    os.utime(old, (1, 1))
    load(save(tmp_path / "set", range(20)))
    assert not old.exists() and new.exists()


def test_decoded_pictures_need_not_be_kept(tmp_path, cache, monkeypatch):
    name = save(tmp_path / "set", range(20))
    monkeypatch.setenv("JIMGEN_DECODED_GB", "0")
    load(name)
    assert not list(cache.glob("decoded-*"))
    monkeypatch.setenv("JIMGEN_DECODED_GB", "much")
    with pytest.raises(Exception, match="JIMGEN_DECODED_GB is 'much': give a number"):
        load(name)


def test_archives_have_an_index_too(tmp_path, opened):
    save(tmp_path / "set", range(20))
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in (tmp_path / "set").iterdir():
            archive.write(path, path.name)
    spec = load(f"folder:{tmp_path / 'set.zip'}").spec
    opened["read_shape"].clear()
    assert load(f"folder:{tmp_path / 'set.zip'}").spec == spec and opened["read_shape"] == []


def test_a_cache_that_cannot_be_written_costs_time_alone(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JIMGEN_CACHE", str(tmp_path / "file"))
    assert load(save(tmp_path / "set", range(20))).spec.num_train > 10
