import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from jimgen.data import load
from jimgen.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 6, 6), np.uint8)
LABELS = (np.arange(20) % 3).astype(np.uint8)


@pytest.fixture
def save(tmp_path):
    def save(**fields):
        np.savez(tmp_path / "x.npz", **fields)
        return f"npz:{tmp_path / 'x.npz'}"

    return save


def medmnist(**changes):
    fields = {
        "train_images": IMAGES[:12],
        "train_labels": LABELS[:12, None],
        "val_images": IMAGES[12:16],
        "val_labels": LABELS[12:16, None],
        "test_images": IMAGES[16:],
        "test_labels": LABELS[16:, None],
    }
    return {name: value for name, value in (fields | changes).items() if value is not None}


def test_medmnist_fields(save):
    data = load(save(**medmnist()))
    assert data.spec.shape == (6, 6, 1) and data.spec.class_names == ("0", "1", "2")
    np.testing.assert_array_equal(data.train.images[..., 0], IMAGES[:12])
    np.testing.assert_array_equal(data.test.labels, LABELS[16:])
    assert data.test.labels.dtype == np.int32


def test_val_is_test_where_there_is_none(save):
    data = load(save(**medmnist(test_images=None, test_labels=None)))
    np.testing.assert_array_equal(data.test.images[..., 0], IMAGES[12:16])


def test_our_own_samples_are_split_by_row(save):
    data = load(save(images=IMAGES[..., None], labels=LABELS))
    np.testing.assert_array_equal(data.test.images, IMAGES[[9, 19], ..., None])
    np.testing.assert_array_equal(data.test.labels, LABELS[[9, 19]])
    assert data.spec.num_train == 18


def test_without_labels_or_with_several_to_a_row_it_is_unlabelled(save):
    several = np.ones((12, 5), np.uint8), np.ones((4, 5), np.uint8)
    for fields in (
        {"images": IMAGES},
        medmnist(train_labels=None, test_labels=None),
        medmnist(train_labels=several[0], test_labels=several[1]),
    ):
        data = load(save(**fields))
        assert data.spec.num_classes == 1 and data.spec.class_names == ("all",)
        assert not data.train.labels.any() and len(data.test.labels) == data.spec.num_test


def test_class_names(save):
    names = np.array(["cat", "dog", "elk", "fox"])
    assert load(save(images=IMAGES, labels=LABELS, class_names=names)).spec.num_classes == 4
    stored = load(save(images=IMAGES, labels=LABELS, class_names=np.array([b"cat", b"\xc3\xa9lan", b"\xff"])))
    assert stored.spec.class_names == ("cat", "élan", "\\xff")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image": IMAGES}, "no field 'train_images'.*'image'"),
        (medmnist(train_images=None), "no field 'train_images'"),
        (medmnist(train_labels=None), "no field 'train_labels'"),
        ({"images": IMAGES / 255}, "float64, expected uint8"),
        ({"images": IMAGES[0]}, r"shape \(6, 6\)"),
        ({"images": np.zeros((4, 6, 6, 6), np.uint8)}, r"shape \(4, 6, 6, 6\)"),
        ({"images": IMAGES[:0]}, r"shape \(0, 6, 6\)"),
        ({"images": IMAGES[:1]}, "one image is not enough"),
        ({"images": IMAGES, "labels": LABELS / 1.0}, "float64, expected integers"),
        ({"images": IMAGES, "labels": LABELS[:, None] / 1.0}, "float64, expected integers"),
        ({"images": IMAGES, "labels": LABELS[:5]}, "expected 20 labels"),
        ({"images": IMAGES, "labels": LABELS.astype(int) - 1}, r"labels\[0\] is -1, out of the range"),
        ({"images": IMAGES, "labels": LABELS.astype(int) * 1000}, "labels go up to 2000"),
        (medmnist(test_labels=LABELS[16:] + 3), r"test_labels\[0\] is 4, out of the range 0..2"),
        (medmnist(test_images=np.zeros((4, 7, 7), np.uint8)), "test images"),
        ({"images": np.array([{}, {}], object)}, "cannot be read"),
    ],
)
def test_malformed_fields(save, fields, message):
    with pytest.raises(UserError, match=message):
        load(save(**fields))


def test_files_that_are_no_npz(tmp_path, save):
    save(images=IMAGES)
    whole = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "flipped.npz").write_bytes(whole[:400] + bytes([whole[400] ^ 255]) + whole[401:])
    (tmp_path / "text.npz").write_text("hello")
    for name, message in {
        "cut.npz": "cannot be read",
        "flipped.npz": "cannot be read",
        "text.npz": "cannot be read",
        "tex.npz": "no such file; did you mean npz:.*text.npz",
        "": "is a folder",
    }.items():
        with pytest.raises(UserError, match=message):
            load(f"npz:{tmp_path / name}")


def test_train_alone_is_split_by_row(save):
    data = load(save(train_images=IMAGES, train_labels=LABELS))
    assert (data.spec.num_train, data.spec.num_test, data.spec.class_names) == (18, 2, ("0", "1", "2"))
    same = load(save(images=IMAGES, labels=LABELS))
    assert data.spec.hash == same.spec.hash


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, bool])
def test_one_hot_labels_are_classes(save, dtype):
    rows = np.eye(4)[LABELS].astype(dtype)  # the fourth class has no image, and is one all the same
    data = load(save(images=IMAGES, labels=rows))
    assert data.spec.class_names == ("0", "1", "2", "3") and data.notes == ()
    np.testing.assert_array_equal(data.test.labels, LABELS[[9, 19]])
    assert load(save(**medmnist(train_labels=rows[:12], test_labels=rows[16:]))).spec.num_classes == 4


@pytest.mark.parametrize("several", [[1, 1, 0], [0, 0, 0], [2, 0, 0]])
def test_several_labels_to_a_row_are_said_to_be_left_out(save, several):
    rows = np.eye(3, dtype=np.uint8)[LABELS]
    rows[3] = several
    data = load(save(images=IMAGES, labels=rows))
    assert data.spec.class_names == ("all",) and "labels has several labels" in data.notes[0]


def test_what_is_not_read_is_said(save):
    assert "not read: label" in load(save(images=IMAGES, label=LABELS)).notes[0]
    assert "not read: train_images" in load(save(images=IMAGES, train_images=IMAGES)).notes[0]
    assert "not read: val_images, val_labels" in load(save(**medmnist())).notes[0]
    assert not load(save(images=IMAGES, labels=LABELS, class_names=np.array(list("abc")))).notes


@pytest.mark.parametrize("labels", [LABELS + 1, LABELS * 2, LABELS.astype(int) + 10**12])
def test_a_class_without_an_image_is_a_mistake_unless_it_is_named(save, labels):
    with pytest.raises(UserError, match=rf"labels go up to {labels.max()}, and none is [01]: number them 0, 1"):
        load(save(images=IMAGES, labels=labels))
    if labels.max() < 5:
        assert load(save(images=IMAGES, labels=labels, class_names=np.array(list("abcde")))).spec.num_classes == 5


def test_many_fields_are_not_all_listed(save):
    with pytest.raises(UserError, match="and 295 more") as error:
        load(save(**{f"img{i:08d}": IMAGES[0] for i in range(300)}))
    assert len(str(error.value)) < 600


def with_header(path, header, content=b""):
    """An .npz whose array `images` has this header."""
    header = header.encode() + b"\n"
    array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", array)
    return f"npz:{path}"


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 28, 28)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (4, 5, 6)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 5, 6)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '|V9999999999999', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (" + "9" * 4000 + ",)}",
        "{'descr': ",
        "",
    ],
)
def test_absurd_headers_allocate_nothing(tmp_path, header):
    tracemalloc.start()
    with pytest.raises(UserError, match="the array images cannot be read"):
        load(with_header(tmp_path / "x.npz", header, b"0123"))
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_only_members_that_end_in_npy_are_arrays(tmp_path, save):
    name = save(images=IMAGES)
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive:
        archive.writestr("labels", b"no array")
        archive.writestr("notes.txt", b"no array")
    assert load(name).spec.class_names == ("all",)
    with zipfile.ZipFile(tmp_path / "y.npz", "w") as archive:
        archive.writestr("images", b"no array")
    with pytest.raises(UserError, match="It has none"):
        load(f"npz:{tmp_path / 'y.npz'}")


def test_a_locked_file_is_not_called_damaged(ordinary_user):
    root, become = ordinary_user
    np.savez(root / "x.npz", images=IMAGES)
    with become():
        for path in (root / "x.npz", root):
            mode = path.stat().st_mode
            path.chmod(0)
            with pytest.raises(UserError, match=f"cannot read {root}/x.npz: Permission denied"):
                load(f"npz:{root}/x.npz")
            path.chmod(mode)


@pytest.mark.parametrize("field", ["train_images", "train_labels", "test_images"])
def test_a_damaged_name_does_not_hide_an_array(tmp_path, save, field):
    """Without test images the set would be split, and without labels it would be unlabelled."""
    name = save(**medmnist(val_images=None, val_labels=None))
    path = Path(name.removeprefix("npz:"))
    content = path.read_bytes()
    at = content.rindex(f"{field}.npy".encode())  # in the directory, at the end
    path.write_bytes(content[:at] + b"x" + content[at + 1 :])
    with pytest.raises(UserError, match="damaged at x"):
        load(name)


def test_messages_do_not_quote_damaged_bytes_at_length(tmp_path, save):
    name = save(images=IMAGES)
    path = Path(name.removeprefix("npz:"))
    content = bytearray(path.read_bytes())
    content[26:28] = b"\xff\x7f"  # the length of the first member's name
    path.write_bytes(content + bytes(2**16))
    with pytest.raises(UserError) as error:
        load(name)
    assert len(str(error.value)) < 400 + len(name)


ATTRIBUTES = np.stack([np.arange(20) % 2, np.arange(20) % 3], 1)
ATTRIBUTE_NAMES = np.array(["hair", "glasses"])
ATTRIBUTE_VALUES = np.array([["red", "black", ""], ["none", "round", "square"]])


def test_attributes_are_further_columns_of_the_labels(save):
    fields = {"images": IMAGES, "attributes": ATTRIBUTES, "attribute_names": ATTRIBUTE_NAMES}
    data = load(save(**fields, labels=LABELS, attribute_values=ATTRIBUTE_VALUES))
    assert data.spec.attributes == (("hair", ("red", "black")), ("glasses", ("none", "round", "square")))
    assert data.spec.conditions == (3, 2, 3)
    np.testing.assert_array_equal(data.test.labels, [[0, 1, 0], [1, 1, 1]])  # rows 9 and 19
    assert data.train.labels.shape == (18, 3) and data.train.labels.dtype == np.int32
    numbered = load(save(**fields))
    assert numbered.spec.attributes == (("hair", ("0", "1")), ("glasses", ("0", "1", "2")))
    assert numbered.spec.class_names == ("all",) and not numbered.train.labels[:, 0].any()


def test_attributes_of_both_splits(save):
    fields = medmnist(train_attributes=ATTRIBUTES[:12], val_attributes=ATTRIBUTES[12:16], attribute_names=["hair", "x"])
    data = load(save(**fields, test_attributes=ATTRIBUTES[16:]))
    np.testing.assert_array_equal(data.test.labels, np.column_stack([LABELS, ATTRIBUTES])[16:])
    with pytest.raises(UserError, match="no field 'test_attributes', though the other split has attributes"):
        load(save(**fields))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attributes": ATTRIBUTES[:5]}, r"attributes has shape \(5, 2\), expected \[20, attributes\]"),
        ({"attributes": ATTRIBUTES[:, 0]}, r"attributes has shape \(20,\)"),
        ({"attributes": ATTRIBUTES / 1.0}, "attributes is float64, expected integers"),
        ({"attributes": ATTRIBUTES * 2}, r"attributes\[1, 0\] \(hair\) is 2, out of the range 0..1"),
        ({"attributes": ATTRIBUTES - 1}, r"attributes\[0, 0\] \(hair\) is -1, out of the range 0..1"),
        ({"attributes": ATTRIBUTES * 2, "attribute_values": None}, "go up to 2, and none is 1.*in `attribute_values`"),
        ({"attribute_names": None}, "have no names: add attribute_names"),
        ({"attribute_names": ["hair"]}, "attribute_names has 1 names, and .*attributes 2 columns"),
        ({"attribute_names": ["hair", "hair"]}, "'hair' is there twice"),
        ({"attribute_names": ["hair", "class"]}, "cannot be called 'class'"),
        ({"attribute_names": ["hair", ""]}, "name 2 is empty"),
        ({"attribute_values": ATTRIBUTE_VALUES[0]}, r"attribute_values has shape \(3,\)"),
        ({"attribute_values": [["red", "red"], ["a", "b"]]}, r"row 0 \(hair\): names are missing or occur twice"),
        ({"attribute_values": [["", ""], ["a", "b"]]}, "names are missing"),
    ],
)
def test_malformed_attributes(save, changes, message):
    fields = {"attributes": ATTRIBUTES, "attribute_names": ATTRIBUTE_NAMES, "attribute_values": ATTRIBUTE_VALUES}
    fields = {name: value for name, value in ({"images": IMAGES} | fields | changes).items() if value is not None}
    with pytest.raises(UserError, match=message):
        load(save(**fields))


def test_a_row_out_of_range_is_named_by_its_row_in_the_file(save):
    wrong = ATTRIBUTES.copy()
    wrong[19, 1] = 7  # row 19 is the second row of test
    fields = {"attributes": wrong, "attribute_names": ATTRIBUTE_NAMES, "attribute_values": ATTRIBUTE_VALUES}
    with pytest.raises(UserError, match=r"attributes\[19, 1\] \(glasses\) is 7"):
        load(save(images=IMAGES, **fields))


@pytest.mark.parametrize(
    ("wrong", "fields"),
    [(-1, {}), (7, {"class_names": ["cat", "dog", "elk"]})],
)
def test_a_label_out_of_range_is_named_by_its_row_in_the_file(save, wrong, fields):
    labels = LABELS.astype(int)
    labels[15] = wrong  # row 14 of train, as row 9 is the first of test
    with pytest.raises(UserError, match=rf"labels\[15\] is {wrong}, out of the range"):
        load(save(images=IMAGES, labels=labels, **fields))
    attributes = np.stack([LABELS, labels], axis=1)
    if wrong < 0:
        with pytest.raises(UserError, match=r"attributes\[:, 1\] \(glasses\)\[15\] is -1, out of the range"):
            load(save(images=IMAGES, attributes=attributes, attribute_names=ATTRIBUTE_NAMES))


def test_four_channels_are_straight_in_the_file_and_premultiplied_in_memory(save):
    from jimgen.data.npz import open_npz

    pixel = [200, 100, 0, 128]
    source = open_npz(save(images=np.full((4, 2, 2, 4), pixel, np.uint8)).removeprefix("npz:"))
    assert source.shape == (2, 2, 4)
    np.testing.assert_array_equal(source.train.images[0, 0, 0], [100, 50, 0, 128])  # 200 * 128 / 255 = 100.4
