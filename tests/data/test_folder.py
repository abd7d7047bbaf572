import hashlib

import numpy as np
import pytest
from PIL import Image

from jimgen.data import load
from jimgen.errors import UserError


def picture(path, size=(6, 6), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    level = int(hashlib.sha1(path.name.encode()).hexdigest(), 16) % 256
    Image.fromarray(np.full(size, level, np.uint8)).convert(mode).save(path)


def test_a_class_is_a_subfolder_at_any_depth(tmp_path):
    for number in range(20):
        picture(tmp_path / "b" / f"{number}.png")
        picture(tmp_path / "a" / "deep" / f"{number}.JPG")
    picture(tmp_path / ".hidden" / "x.png")
    picture(tmp_path / "a" / "._x.png")
    (tmp_path / "none").mkdir()
    (tmp_path / "b" / "notes.txt").write_text("not a picture")
    data = load(f"folder:{tmp_path}")
    assert data.spec.class_names == ("a", "b") and data.spec.num_classes == 2
    assert data.spec.num_train + data.spec.num_test == 40 and data.skipped == ()
    assert data.train.labels.tolist() == sorted(data.train.labels.tolist())
    assert data.spec.name == f"folder:{tmp_path}"


def test_adding_pictures_moves_none_between_the_splits(tmp_path):
    def splits():
        data = load(f"folder:{tmp_path}")
        return ({int(image[0, 0, 0]) for image in split.images} for split in (data.train, data.test))

    for level in range(0, 256, 2):
        Image.new("L", (4, 4), level).save(tmp_path / f"{level}.png")
    train, test = splits()
    assert train | test == set(range(0, 256, 2)) and not train & test and 4 <= len(test) <= 24
    for level in range(1, 256, 2):
        Image.new("L", (4, 4), level).save(tmp_path / f"{level}.png")
    more_train, more_test = splits()
    assert train < more_train and test < more_test


@pytest.mark.parametrize("held_out", ["test", "val", "validation"])
def test_train_and_test_folders_are_honoured(tmp_path, held_out):
    for split, count in (("train", 3), (held_out, 2)):
        for class_name in ("x", "y"):
            for number in range(count):
                picture(tmp_path / split / class_name / f"{number}.png")
    spec = load(f"folder:{tmp_path}").spec
    assert (spec.num_train, spec.num_test, spec.class_names) == (6, 4, ("x", "y"))


def test_train_alone_is_split(tmp_path):
    for class_name in ("x", "y"):
        for number in range(5):
            picture(tmp_path / "train" / class_name / f"{number}.png")
    spec = load(f"folder:{tmp_path}").spec
    assert spec.class_names == ("x", "y") and spec.num_train + spec.num_test == 10 and spec.num_test >= 1


def test_a_flat_folder_is_one_class_even_with_two_pictures(tmp_path):
    picture(tmp_path / "1.png")
    picture(tmp_path / "2.png")
    spec = load(f"folder:{tmp_path}").spec
    assert (spec.num_classes, spec.class_names, spec.num_train, spec.num_test) == (1, ("all",), 1, 1)


def test_grey_only_if_every_picture_is(tmp_path):
    picture(tmp_path / "1.png", mode="L")
    picture(tmp_path / "2.png", mode="1")
    assert load(f"folder:{tmp_path}").spec.shape == (6, 6, 1)
    picture(tmp_path / "3.png", mode="RGBA")
    assert load(f"folder:{tmp_path}").spec.shape == (6, 6, 3)
    assert load(f"folder:{tmp_path}", channels=1).spec.shape == (6, 6, 1)


def test_mixed_sizes_need_a_size(tmp_path):
    picture(tmp_path / "1.png", (6, 6))
    picture(tmp_path / "2.png", (6, 8))
    with pytest.raises(UserError, match="differ in size.*--size"):
        load(f"folder:{tmp_path}")
    assert load(f"folder:{tmp_path}", size=8, fit="pad").spec.shape == (8, 8, 3)
    with pytest.raises(UserError, match="6x8"):
        load(f"folder:{tmp_path}", size=7, fit="pad")


def test_a_file_that_is_no_picture_is_left_out_and_named(tmp_path):
    for number in range(4):
        picture(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_text("hello")
    data = load(f"folder:{tmp_path}")
    assert data.spec.num_train + data.spec.num_test == 4
    assert data.skipped == (f"{tmp_path / 'broken.png'}: not a picture",)
    with pytest.raises(UserError, match=r"unreadable pictures: 1; .*broken\.png"):
        load(f"folder:{tmp_path}", strict=True)


def test_folders_that_cannot_be_a_data_set(tmp_path):
    (tmp_path / "empty").mkdir()
    picture(tmp_path / "single" / "1.png")
    picture(tmp_path / "mixed" / "1.png")
    picture(tmp_path / "mixed" / "class" / "2.png")
    picture(tmp_path / "unknown" / "train" / "a" / "1.png")
    picture(tmp_path / "unknown" / "test" / "b" / "1.png")
    for name in ("1.png", "2.png"):
        (tmp_path / "broken").mkdir(exist_ok=True)
        (tmp_path / "broken" / name).write_text("hello")
    for name, message in {
        "empty": "holds no pictures",
        "singel": "no such folder; did you mean folder:.*single",
        "single": "each needs one",
        "single/1.png": "is a file.*did you mean folder:.*single",
        "mixed": "both pictures",
        "unknown": "'b'",
        "broken": "none of the 2 pictures can be read",
    }.items():
        with pytest.raises(UserError, match=message):
            load(f"folder:{tmp_path / name}")
