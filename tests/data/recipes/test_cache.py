import numpy as np

from jimgen.data.dataset import Arrays, Attribute, Source
from jimgen.data.recipes import cache
from jimgen.data.recipes.cache import cached


def source(level):
    images = np.full((3, 2, 2, 1), level, np.uint8)
    labels = np.array([[0, 1], [1, 0], [1, 1]], np.int32)
    return Source(
        Arrays(images, labels),
        Arrays(images[:1], labels[:1]),
        ("a", "b"),
        (2, 2, 1),
        attributes=(Attribute("hat", ("none", "red")),),
    )


def test_a_cached_set_is_made_once_and_again_where_anything_that_it_depends_on_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("JIMGEN_CACHE", str(tmp_path))
    made = []

    def make():
        made.append(1)
        return source(len(made))

    first = cached("set:x", [1, "pillow 1"], make)
    again = cached("set:x", [1, "pillow 1"], make)
    assert len(made) == 1 and again.attributes == first.attributes and again.class_names == ("a", "b")
    np.testing.assert_array_equal(again.train.images, first.train.images)
    np.testing.assert_array_equal(again.train.labels, first.train.labels)
    cached("set:x", [1, "pillow 2"], make)
    cached("set:y", [1, "pillow 1"], make)
    assert len(made) == 3


def test_a_damaged_cache_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("JIMGEN_CACHE", str(tmp_path))
    cached("set", [1], lambda: source(7))
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    with np.load(file) as arrays:
        changed = {**arrays, "train_labels": arrays["train_labels"][::-1]}
    for damage in (b"", whole[:200], whole[:300] + b"?" + whole[301:], changed):
        if isinstance(damage, dict):
            np.savez(file, **damage)
        else:
            file.write_bytes(damage)
        assert (cached("set", [1], lambda: source(7)).train.labels == source(7).train.labels).all()
        assert file.stat().st_size == len(whole)


def test_nothing_is_estimated_before_the_first_picture(monkeypatch, capsys):
    monkeypatch.setattr(cache, "_SILENT", -1)
    assert list(cache.progress("x", "a", 1)) == ["a"] and capsys.readouterr().err == ""
    assert list(cache.progress("x", "ab", 2)) == ["a", "b"] and "x: 1 of 2 rendered" in capsys.readouterr().err
