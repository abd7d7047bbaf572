import hashlib
import os

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


def splits(root, folders):
    """A tree of pictures: {"train/cat": 3} holds three in that folder."""
    for folder, count in folders.items():
        for number in range(count):
            picture(root / folder / f"{number}.png")
    return f"folder:{root}"


@pytest.mark.parametrize("first", [0, 1])
def test_folders_called_by_numbers_are_classes_in_the_order_of_the_numbers(tmp_path, first):
    names = [str(number) for number in range(first, first + 12)]
    for name in names:
        for copy in range(3):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.new("L", (4, 4), 10 * int(name)).save(tmp_path / name / f"{copy}.png")
    data = load(f"folder:{tmp_path}")
    assert data.spec.class_names == tuple(names)
    np.testing.assert_array_equal(data.train.images[:, 0, 0, 0], 10 * (data.train.labels + first))


@pytest.mark.parametrize(
    ("train", "test"),
    [("train", "valid"), ("Train", "Test"), ("training", "testing"), ("train", "dev"), ("TRAIN", "eval")]
    + [("training_set", "test_set"), ("train2017", "val2017"), ("trainset", "Validation")],
)
def test_split_folders_are_never_classes(tmp_path, train, test):
    name = splits(tmp_path, {f"{train}/x": 3, f"{train}/y": 3, f"{test}/x": 2, f"{test}/y": 2})
    data = load(name)
    assert (data.spec.num_train, data.spec.num_test, data.spec.class_names) == (6, 4, ("x", "y"))
    assert data.notes == ()


def test_test_comes_before_val_and_what_is_not_read_is_said(tmp_path):
    name = splits(tmp_path, {"train/x": 3, "val/x": 2, "test/x": 1, "extra": 4})
    data = load(name)
    assert (data.spec.num_train, data.spec.num_test) == (3, 1)
    assert len(data.notes) == 1 and "val/" in data.notes[0] and "extra/" in data.notes[0]


def test_a_test_folder_without_labels_gives_way_to_one_with_them(tmp_path):
    name = splits(tmp_path, {"train/x": 3, "train/y": 3, "test": 5})
    with pytest.raises(UserError, match="train/ has a folder for each class, test/ has pictures without"):
        load(name)
    splits(tmp_path, {"val/x": 1, "val/y": 1})
    data = load(name)
    assert (data.spec.num_train, data.spec.num_test) == (6, 2) and "test/" in data.notes[0]


def test_splits_without_labels_are_splits_too(tmp_path):
    spec = load(splits(tmp_path, {"Training": 3, "Testing": 2})).spec
    assert (spec.num_train, spec.num_test, spec.class_names) == (3, 2, ("all",))


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({"test/x": 2, "val/x": 2}, "no train/"),
        ({"test/x": 2}, "no train/"),
        ({"train/x": 2, "Train/x": 2, "test/x": 2}, "both Train/ and train/"),
        ({"train/x": 2, "holdout/x": 2}, "hold the same class folders.*rename holdout/ to test/"),
        ({"seg_train/x": 2, "seg_test/x": 2}, "seg_train/ and seg_test/ have names of splits"),
        ({f"{split}{half}": 2 for split in ("train", "test") for half in "AB"}, "trainA/ and testA/ have names"),
        ({"data/train/x": 2, "data/test/x": 2}, "did you mean folder:.*/data?"),
        ({f"{name}/{split}": 2 for name in ("cat", "dog") for split in ("train", "test")}, "above: train/cat/"),
    ],
)
def test_splits_that_cannot_be_told_are_refused(tmp_path, folders, message):
    with pytest.raises(UserError, match=message):
        load(splits(tmp_path, folders))


def test_a_class_may_be_called_like_a_split(tmp_path):
    assert load(splits(tmp_path, {"train": 3, "bus": 3, "tram": 3})).spec.class_names == ("bus", "train", "tram")
    others = splits(tmp_path / "others", {"bullet_train": 3, "crash_test": 3})
    assert load(others).spec.class_names == ("bullet_train", "crash_test")


def test_a_class_that_is_called_like_a_split_is_said_to_be_one(tmp_path):
    """Such a folder may be a split whose partner has another name."""
    data = load(splits(tmp_path, {"train/cat": 3, "train/dog": 3, "tests": 3}))
    assert data.spec.class_names == ("tests", "train")
    assert data.notes == (f"folder:{tmp_path}: taken for a class, not a split: train/",)


def test_folders_below_the_only_class_are_said_to_be_no_classes(tmp_path):
    data = load(splits(tmp_path, {"pets/cat": 3, "pets/dog": 3}))
    assert data.spec.class_names == ("pets",)
    assert data.notes == (f"folder:{tmp_path}: one class, pets/; the folders in it are none: cat, dog",)
    assert not load(splits(tmp_path / "two", {"train/pets/cat": 3, "train/cars/old": 3})).notes


@pytest.mark.parametrize("what", ["set", "set/b", "set/b/0.png", "."])
def test_a_folder_or_picture_that_may_not_be_read_is_an_error_that_names_it(ordinary_user, what):
    """It must neither be ignored nor left out as corrupt."""
    root, become = ordinary_user
    for name in ("a", "b"):
        for number in range(4):
            picture(root / "set" / name / f"{number}.png")
    path = root / what
    with become():
        path.chmod(0)
        with pytest.raises(UserError, match=f"cannot read {path}.*Permission denied"):
            load(f"folder:{root}/set")
        path.chmod(0o700)
        load(f"folder:{root}/set")


def test_links_are_followed_and_loops_end(tmp_path):
    picture(tmp_path / "elsewhere" / "deep" / "1.png")
    picture(tmp_path / "set" / "a" / "2.png")
    picture(tmp_path / "set" / "b" / "3.png")
    (tmp_path / "set" / "a" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "a" / "up").symlink_to("..")
    (tmp_path / "set" / "a" / "self").symlink_to("self")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "b" / "gone.png").symlink_to("nowhere.png")
    data = load(f"folder:{tmp_path / 'set'}")
    assert data.spec.num_train + data.spec.num_test == 3 and data.spec.class_names == ("a", "b")
    assert [fault.partition(":")[0] for fault in data.skipped] == [str(tmp_path / "set" / "b" / "gone.png")]
    (tmp_path / "set" / "c").symlink_to(tmp_path / "not-mounted" / "c")
    with pytest.raises(UserError, match="set/c is a broken link to .*not-mounted/c"):
        load(f"folder:{tmp_path / 'set'}")


def test_a_linked_class_behind_a_locked_folder_does_not_vanish(ordinary_user):
    root, become = ordinary_user
    for folder in ("set/a", "locked/b"):
        for number in range(4):
            picture(root / folder / f"{number}.png")
    (root / "set" / "b").symlink_to(root / "locked" / "b")
    with become():
        assert load(f"folder:{root}/set").spec.class_names == ("a", "b")
        (root / "locked").chmod(0)
        with pytest.raises(UserError, match=f"cannot read {root}/set/b: Permission denied"):
            load(f"folder:{root}/set")
        (root / "locked").chmod(0o700)


def test_pipes_are_not_opened(tmp_path):
    for number in range(3):
        picture(tmp_path / f"{number}.png")
    for name in ("pipe.png", "pipe.npz", "pipe.zip"):
        os.mkfifo(tmp_path / name)
    spec = load(f"folder:{tmp_path}").spec
    assert spec.num_train + spec.num_test == 3
    for name in (f"npz:{tmp_path}/pipe.npz", f"folder:{tmp_path}/pipe.zip"):
        with pytest.raises(UserError, match="not a file that can be read twice"):
            load(name)


def test_files_of_the_system_are_no_pictures(tmp_path):
    for number in range(3):
        picture(tmp_path / "a" / f"{number}.png")
    for name in ("__MACOSX/a/._0.png", "a/__MACOSX/x.png", "a/._0.png", ".Trash/x.png", "a/@eaDir/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\0\5\26\7")
    data = load(f"folder:{tmp_path}")
    assert data.spec.class_names == ("a",) and data.skipped == ()
    assert data.spec.num_train + data.spec.num_test == 3


def test_every_kind_of_picture_is_read_and_the_others_are_named(tmp_path):
    kinds = ("bmp", "tiff", "tif", "jfif", "jpe", "gif", "webp", "ppm", "tga", "jp2", "qoi", "pcx", "PNG")
    for kind in kinds:
        picture(tmp_path / f"x.{kind}")
    (tmp_path / "x.heic").write_bytes(b"ftypheic")
    (tmp_path / "x.CR2").write_bytes(b"II*")
    (tmp_path / "x.txt").write_text("no picture")
    data = load(f"folder:{tmp_path}")
    assert data.spec.num_train + data.spec.num_test == len(kinds)
    assert sorted(fault.rpartition("/")[2] for fault in data.skipped) == [
        "x.CR2: .cr2 is not supported; convert it to PNG or JPEG",
        "x.heic: .heic is not supported; convert it to PNG or JPEG",
    ]


def test_a_class_of_which_nothing_can_be_read_is_an_error(tmp_path):
    for number in range(3):
        picture(tmp_path / "a" / f"{number}.png")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.heic").touch()
    with pytest.raises(UserError, match=r"no picture of the class 'b' can be read; the first: .*x\.heic"):
        load(f"folder:{tmp_path}")


def test_names_that_are_not_utf8(tmp_path, monkeypatch):
    """Their bytes are shown as \\xNN, so that all messages and files can be encoded."""
    monkeypatch.setenv("JIMGEN_CACHE", str(tmp_path / "cache"))
    root = os.path.join(os.fsencode(tmp_path), b"s\xe9t")
    for folder in (b"caf\xe9", b"th\xe9"):
        os.makedirs(os.path.join(root, folder))
        for name in (b"\xff1.png", b"\xff2.png", b"3.png"):
            with open(os.path.join(root, folder, name), "wb") as file:
                Image.new("L", (4, 4)).save(file, "png")
    with open(os.path.join(root, b"th\xe9", b"\xfe.png"), "w") as file:
        file.write("broken")
    for resident_bytes in (2**30, 0):
        data = load(f"folder:{os.fsdecode(root)}", resident_bytes=resident_bytes)
        assert data.spec.class_names == ("caf\\xe9", "th\\xe9") and data.spec.num_train + data.spec.num_test == 6
        assert data.skipped[0].endswith("th\\xe9/\\xfe.png: not a picture")
        "".join([data.spec.name, *data.spec.class_names, *data.skipped]).encode()
    with pytest.raises(UserError, match="no such folder") as error:
        load(f"folder:{os.fsdecode(root)}/nothing")
    str(error.value).encode()


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_paths_that_no_system_takes(kind):
    with pytest.raises(UserError, match="File name too long") as error:
        load(f"{kind}:{'x' * 5000}")
    assert len(str(error.value)) < 300
    with pytest.raises(UserError, match="there is no such"):
        load(f"{kind}:a\0b")
    with pytest.raises(UserError, match="home"):
        load(f"{kind}:~nobody-of-this-name/x")


@pytest.mark.parametrize("resident_bytes", [2**30, 0])
@pytest.mark.parametrize(
    ("odd", "size", "fit", "message"),
    [
        ((1, 1), 16, "resize", "1x1 is too small for size 16"),
        ((640, 10), 128, "resize", "10x640 is too small for size 128"),
        ((64, 65), 64, "pad", "65x64 does not fit into size 64"),
    ],
)
def test_a_picture_that_does_not_fit_is_named_before_anything_is_decoded(
    tmp_path, monkeypatch, resident_bytes, odd, size, fit, message
):
    monkeypatch.setenv("JIMGEN_CACHE", str(tmp_path / "cache"))
    for number in range(4):
        Image.new("L", (40, 40)).save(tmp_path / f"{number}.png")
    for name in ("odd1.png", "odd2.png"):
        Image.new("L", odd).save(tmp_path / name)
    fitting = 8 if fit == "resize" else 65
    load(f"folder:{tmp_path}", size=fitting, fit=fit, resident_bytes=resident_bytes)  # a stream is remembered as whole
    monkeypatch.setattr("jimgen.data.images.decode", None)
    with pytest.raises(UserError, match=rf"2 of 6 pictures .* first is {tmp_path}/odd1\.png: a picture of {message}"):
        load(f"folder:{tmp_path}", size=size, fit=fit, resident_bytes=resident_bytes)


@pytest.mark.parametrize("resident_bytes", [2**30, 0])
@pytest.mark.parametrize("whole_bytes", [200, 10])  # of a BMP: a good header, and none
def test_the_only_test_picture_may_be_broken(tmp_path, monkeypatch, resident_bytes, whole_bytes):
    """Unreadable files are left out before the split, as if they did not exist."""
    monkeypatch.setenv("JIMGEN_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (9, 9, 3), np.uint8) for _ in range(6)]
    for number, picture_pixels in enumerate(pixels):
        Image.fromarray(picture_pixels).save(tmp_path / f"{number}.bmp")
    whole = load(f"folder:{tmp_path}")
    assert whole.spec.num_test == 1
    (broken,) = (i for i in range(6) if (pixels[i] == whole.test.images[0]).all())
    path = tmp_path / f"{broken}.bmp"
    path.write_bytes(path.read_bytes()[:whole_bytes])
    found = load(f"folder:{tmp_path}", resident_bytes=resident_bytes)
    assert (found.spec.num_train, found.spec.num_test, len(found.skipped)) == (4, 1, 1)
    path.unlink()
    assert load(f"folder:{tmp_path}", resident_bytes=resident_bytes).spec == found.spec


def test_twelve_bits_in_sixteen_are_as_bright_as_eight(tmp_path):
    """Cameras and scanners write 10, 12 or 14 bits, which look nearly black if read as 16."""
    levels = np.array([[0, 1, 2048, 4095]], np.uint16)
    for number in range(2):
        Image.fromarray(levels).save(tmp_path / f"{number}.png")
    for bits, expected in ((None, [0, 0, 8, 16]), (12, [0, 0, 128, 255]), (16, [0, 0, 8, 16])):
        assert load(f"folder:{tmp_path}", bits=bits).train.images[0, 0, :, 0].tolist() == expected
    with pytest.raises(UserError, match="expected 0 to 1023; give more --bits"):
        load(f"folder:{tmp_path}", bits=10)
    for bits in (0, 7, 17, -1):
        with pytest.raises(UserError, match="choose 8 to 16"):
            load(f"folder:{tmp_path}", bits=bits)
