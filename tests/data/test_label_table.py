import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from jimgen.data import load
from jimgen.data.dataset import read_rows
from jimgen.data.label_table import read_table
from jimgen.errors import UserError

NAMES = [f"{number}.png" for number in range(12)]  # 5.png and others are the test split
HAIR = ["red", "black", "none"]
GLASSES = ["v10", "v2"]


def pictures(root, names=NAMES):
    for level, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), level).save(path)
    return f"folder:{root}"


def lines(names=NAMES):
    return [f"{name},{HAIR[i % 3]},{GLASSES[i % 2]}" for i, name in enumerate(names)]


def table(root, rows, header="file,hair,glasses", name="labels.csv"):
    (root / name).write_text("\n".join([header, *rows]) + "\n")


def rows_of(data):
    """The columns of the labels by the level of a picture's first pixel."""
    found = {}
    for split in (data.train, data.test):
        images, labels = read_rows(split, range(len(split.labels) if hasattr(split, "labels") else len(split)))
        found |= {int(image[0, 0, 0]): tuple(label.tolist()) for image, label in zip(images, labels, strict=True)}
    return found


@pytest.mark.parametrize("resident", [2**30, 0])
def test_columns_are_attributes_with_values_in_natural_order(tmp_path, resident):
    name = pictures(tmp_path)
    table(tmp_path, lines()[::-1])  # in any order
    data = load(name, resident_bytes=resident)
    assert data.spec.attributes == (("hair", ("black", "none", "red")), ("glasses", ("v2", "v10")))
    assert data.spec.class_names == ("all",) and data.notes == ()
    number = {"black": 0, "none": 1, "red": 2}
    assert rows_of(data) == {i: (0, number[HAIR[i % 3]], 1 - i % 2) for i in range(12)}


def test_a_column_class_replaces_folders_and_folders_give_the_class_without_it(tmp_path):
    names = [f"{'ab'[i % 2]}/{i}.png" for i in range(12)]
    name = pictures(tmp_path, names)
    table(tmp_path, lines(names))
    data = load(name)
    assert data.spec.class_names == ("a", "b") and rows_of(data)[1] == (1, 0, 0)
    table(tmp_path, [f"{file},{['elf', 'orc'][i < 6]}" for i, file in enumerate(names)], "file,class")
    told = load(name)
    assert told.spec.class_names == ("elf", "orc") and told.spec.attributes == ()
    assert told.train.labels.shape == (told.spec.num_train,)
    levels = told.train.images[:, 0, 0, 0]
    np.testing.assert_array_equal(told.train.labels, levels < 6)


def test_a_class_column_allows_loose_pictures_beside_folders(tmp_path):
    names = ["a/0.png", *NAMES[1:]]
    name = pictures(tmp_path, names)
    table(tmp_path, [f"{file},{i % 2}" for i, file in enumerate(names)], "file,class")
    assert load(name).spec.class_names == ("0", "1")


@pytest.mark.parametrize("at_the_top", [True, False])
def test_splits_have_one_table_at_the_top_or_one_each(tmp_path, at_the_top):
    train, test = ([f"{split}/{file}" for file in NAMES[:count]] for split, count in (("train", 6), ("test", 3)))
    name = pictures(tmp_path, train + test)
    if at_the_top:
        table(tmp_path, lines(train) + lines(test))
    else:
        table(tmp_path / "train", lines(NAMES[:6]))
        swapped = [",".join(np.array(line.split(","))[[2, 0, 1]]) for line in lines(NAMES[:3])]
        table(tmp_path / "test", swapped, "glasses,file,hair")
    data = load(name)
    assert (data.spec.num_train, data.spec.num_test) == (6, 3)
    assert data.test.labels.tolist() == [[0, 2, 1], [0, 0, 0], [0, 1, 1]]
    if not at_the_top:
        (tmp_path / "test" / "labels.csv").unlink()
        with pytest.raises(UserError, match="in train/ alone"):
            load(name)


def test_a_value_in_test_that_train_lacks(tmp_path):
    train, test = [f"train/{file}" for file in NAMES[:6]], ["test/0.png"]
    name = pictures(tmp_path, train + test)
    table(tmp_path, [*lines(train), "test/0.png,blue,v2"])
    with pytest.raises(UserError, match="labels.csv, line 8: hair is 'blue', which no training picture has"):
        load(name)


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.replace("\n", "\r").encode(),
        lambda text: text.replace(",", ";").encode(),
        lambda text: text.replace(",", "\t").encode("utf-16"),
        lambda text: text.replace("\n", "\n\n").replace("é", '"é"').encode(),
        lambda text: text.replace("a/1.png", "./a\\1.png").encode() + b",,\n, ,\n",
    ],
)
def test_encodings_line_ends_separators_and_quotes(encode):
    found = read_table(encode("class,file,hair\né,a/1.png,x y\n"), "here")
    assert found.columns == ("class", "hair") and found.cells == {"a/1.png": ("é", "x y")}


def test_quoted_cells_may_hold_separators():
    found = read_table(b'file,x\n"a,b.png","1; ""2"""\n', "here")
    assert found.cells == {"a,b.png": ('1; "2"',)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty: its first line names the columns"),
        ("File,hair\n0.png,x\n", "no column 'file'; is 'File' meant"),
        ("filename;hair\n0.png;x\n", "no column 'file'; is 'filename' meant.*Its columns are filename, hair"),
        ("hair,eyes\nx,y\n", "no column 'file'. Its columns"),
        ("file\n0.png\n", "no column beside 'file'"),
        ("file,x,x\n0.png,a,b\n", "'x' is there twice"),
        ("file,file,x\n0.png,a,b\n", "two columns 'file'"),
        ("file,class,class\n0.png,a,b\n", "two columns 'class'"),
        ("file,Class\n0.png,a\n", "a column 'Class': call it 'class'"),
        (",file,x\n0,0.png,a\n", "column 1 has no name"),
        ("file,x\n0.png,a\n1.png,a,b\n", "line 3 has 3 cells, and the header 2: 1.png"),
        ("file,x\n0.png\n", "line 2 has 1 cells"),
        ("file,x\n0.png,\n", "line 2: x is empty"),
        ("file,x\n,a\n", "line 2: file is empty"),
        ("file,x\n0.png,a\n./0.png,b\n", r"line 3: 0.png has a row already \(here, line 2\)"),
        ('file,x\n0.png,"a\n', "line 2: .*check the quotes"),
        ('file,x\n0.png,"a"b\n', "line 2: .*check the quotes"),
        ("file,x\n0.png,caf\xe9\n".encode("latin-1"), "line 2 is not UTF-8 text: save the file as UTF-8"),
        ("file,x\n0.png,a\n".encode("utf-16-le"), "zero bytes"),
    ],
)
def test_malformed_tables(content, message):
    with pytest.raises(UserError, match=message):
        read_table(content if isinstance(content, bytes) else content.encode(), "here")


def test_rows_and_pictures_must_match(tmp_path):
    name = pictures(tmp_path)
    table(tmp_path, [*lines(), "O.png,red,v2"])
    with pytest.raises(UserError, match=r"labels.csv, line 14: there is no file O.png; is \d+.png meant\?"):
        load(name)
    table(tmp_path, lines()[:-2])
    with pytest.raises(UserError, match="labels.csv has no row for 10.png and 1 others"):
        load(name)
    table(tmp_path, [line.replace("v10", "v2") for line in lines()])
    assert load(name).notes == (f"{name}: labels.csv: glasses has one value only, 'v2'",)


def test_accents_may_be_written_in_two_ways(tmp_path):
    """As letters (NFC), and as signs of their own (NFD)."""
    names = [f"e\u0301{file}" for file in NAMES]
    name = pictures(tmp_path, names)
    table(tmp_path, lines([f"\xe9{file}" for file in NAMES]))
    data = load(name)
    assert rows_of(data)[0] == (0, 2, 1)
    table(tmp_path, lines([*(f"\xe9{file}" for file in NAMES), names[0]]))
    with pytest.raises(UserError, match="there is no file"):
        load(name)


def test_a_table_wins_over_stylegans_file_and_works_in_archives(tmp_path):
    folder = tmp_path / "x"
    name = pictures(folder)
    table(folder, lines(), name="Labels.CSV")
    (folder / "dataset.json").write_text(json.dumps({"labels": [[file, 0] for file in NAMES]}))
    data = load(name)
    assert data.spec.conditions == (1, 3, 2) and "not read: dataset.json" in data.notes[0]
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, f"x/{path.name}")  # one folder around all
    packed = load(f"folder:{tmp_path / 'x.zip'}")
    assert packed.spec == data.spec._replace(name=packed.spec.name)


def test_a_table_that_is_not_read_is_noted(tmp_path):
    name = pictures(tmp_path, [f"a/{file}" for file in NAMES])
    table(tmp_path / "a", lines())
    data = load(name)
    assert data.spec.attributes == () and "a/labels.csv is not read: move it to the top" in data.notes[0]
