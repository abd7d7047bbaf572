"""Pictures in a zip archive: read in place, by the rules of folders, with any other content."""

import io
import json
import struct
import zipfile

import numpy as np
import pytest
from PIL import Image

from jimgen.data import load
from jimgen.errors import UserError


def png(level):
    file = io.BytesIO()
    Image.new("L", (5, 4), level).save(file, "png")
    return file.getvalue()


NAMES = [f"{split}/{label}/{number}.png" for split in ("Train", "valid") for label in (2, 10) for number in range(3)]
FILES = {name: png(10 * i) for i, name in enumerate(NAMES)}


def save(path, files, prefix="", **options):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(prefix + name, content, **options)
    return f"folder:{path}"


@pytest.mark.parametrize("prefix", ["", "set/"])
@pytest.mark.parametrize("resident_bytes", [2**30, 0])
def test_an_archive_is_the_folder_that_it_would_unpack_to(tmp_path, monkeypatch, prefix, resident_bytes):
    monkeypatch.setenv("JIMGEN_CACHE", str(tmp_path / "cache"))
    for name, content in FILES.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(content)
    hidden = {"__MACOSX/._x.png": b"", f"{prefix}Train/2/._0.png": b"", f"{prefix}Train/.DS_Store": b""}
    name = save(tmp_path / "x.zip", {prefix + name: content for name, content in FILES.items()} | hidden)
    packed = load(name, resident_bytes=resident_bytes)
    folder = load(f"folder:{tmp_path / 'set'}", resident_bytes=resident_bytes)
    assert packed.spec.class_names == ("2", "10") and packed.spec.num_test == 6 and packed.skipped == ()
    assert packed.spec == folder.spec._replace(name=name)


@pytest.mark.parametrize("prefix", ["./", ".//", "/", ".\\\\"])
def test_names_are_those_that_they_would_be_unpacked_to(tmp_path, prefix):
    spec = load(save(tmp_path / "x.zip", {prefix + name: content for name, content in FILES.items()})).spec
    assert spec == load(save(tmp_path / "x.zip", FILES)).spec and spec.class_names == ("2", "10")


def test_the_labels_of_stylegans_archives(tmp_path):
    names = [f"0000{i // 5}/img{i:08d}.png" for i in range(10)]
    files = {name: png(20 * i) for i, name in enumerate(names)}

    def with_labels(labels):
        return load(save(tmp_path / "x.zip", files | {"dataset.json": json.dumps({"labels": labels})}))

    labelled = with_labels([[name, i % 3] for i, name in enumerate(names)])
    assert labelled.spec.class_names == ("0", "1", "2")
    np.testing.assert_array_equal(labelled.train.images[:, 0, 0, 0] // 20 % 3, labelled.train.labels)
    one_hot = with_labels([[name, np.eye(3)[i % 3].tolist()] for i, name in enumerate(names)])
    assert one_hot.spec == labelled.spec
    assert with_labels(None).spec.class_names == ("all",)  # folders are no classes there
    several = with_labels([[name, [1, 1, 0]] for name in names])
    assert several.spec.class_names == ("all",) and "several labels" in several.notes[0]
    for text in ("[" * 100_000, "{}", "[7]", "no JSON", '{"labels": 5}'):  # other files may be called so too
        foreign = load(save(tmp_path / "x.zip", files | {"dataset.json": text}))
        assert foreign.spec.class_names == ("00000", "00001") and "dataset.json is not read" in foreign.notes[0]
    for labels, message in {
        "no label for 00001/img00000009.png": [[name, 0] for name in names[:9]],
        "and none is 0": [[name, 1 + i % 2] for i, name in enumerate(names)],
        "integers from 0 on": [[name, "cat"] for name in names],
        "name, label": [7],
    }.items():
        with pytest.raises(UserError, match=labels):
            with_labels(message)


def patched(path, *, flags=None, method=None):
    """The archive with other flags or another compression method in its headers."""
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = content.find(signature)
        while place >= 0:
            if flags is not None:
                struct.pack_into("<H", content, place + offset, flags)
            if method is not None:
                struct.pack_into("<H", content, place + offset + 2, method)
            place = content.find(signature, place + 4)
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_archives_that_cannot_be_read_say_why(tmp_path, kind):
    path = tmp_path / "x.zip"
    if kind == "folder":
        save(path, FILES)
    else:
        with path.open("wb") as file:
            np.savez(file, images=np.zeros((4, 5, 5), np.uint8))
    whole = path.read_bytes()
    for change, message in {
        "flags": "is encrypted",
        "method": r"cannot read its compression \(method 9\)",
        "cut": "cannot be read as zip",
        "text": "cannot be read as zip",
    }.items():
        path.write_bytes({"cut": whole[:-30], "text": b"hello"}.get(change, whole))
        if change in ("flags", "method"):
            patched(path, **{change: {"flags": 1, "method": 9}[change]})
        with pytest.raises(UserError, match=message):
            load(f"{kind}:{path}")


def test_a_damaged_member_is_a_picture_that_cannot_be_read(tmp_path):
    name = save(tmp_path / "x.zip", FILES)
    content = bytearray((tmp_path / "x.zip").read_bytes())
    content[content.find(FILES[NAMES[0]]) + 5] ^= 255
    (tmp_path / "x.zip").write_bytes(content)
    data = load(name)
    assert data.spec.num_train == 5 and len(data.skipped) == 1 and f"x.zip/{NAMES[0]}: Bad CRC" in data.skipped[0]


def test_a_damaged_label_file_is_an_error(tmp_path):
    """Otherwise the pictures would silently be unlabelled."""
    text = json.dumps({"labels": [[name, i % 2] for i, name in enumerate(NAMES)]})
    name = save(tmp_path / "x.zip", FILES | {"dataset.json": text})
    content = bytearray((tmp_path / "x.zip").read_bytes())
    content[content.find(text.encode()) + 30] ^= 1
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(UserError, match="dataset.json is damaged .Bad CRC"):
        load(name)


def test_a_member_is_not_believed_to_be_larger_than_a_picture(tmp_path):
    """600 MB of zeros take a few hundred kilobytes in an archive, and are not unpacked."""
    name = save(tmp_path / "x.zip", FILES)
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        stored = archive.getinfo(NAMES[0])
    content = bytearray((tmp_path / "x.zip").read_bytes())
    place = content.find(b"PK\x01\x02") + 24
    assert struct.unpack_from("<I", content, place) == (stored.file_size,)
    struct.pack_into("<I", content, place, 2**30)
    (tmp_path / "x.zip").write_bytes(content)
    assert "too many for a picture" in load(name).skipped[0]


def test_a_bare_name_and_a_wrong_kind_are_answered_with_the_right_one(tmp_path):
    path = tmp_path / "x.zip"
    save(path, FILES)
    for name in (str(path), f"npz:{path}"):
        with pytest.raises(UserError, match=f"did you mean folder:{path}"):
            load(name)
    with path.open("wb") as file:
        np.savez(file, images=np.zeros((4, 5, 5), np.uint8))
    for name in (str(path), f"folder:{path}"):
        with pytest.raises(UserError, match=f"did you mean npz:{path}"):
            load(name)
    assert load(f"npz:{path}").spec.num_train == 3
    (tmp_path / "x.tar").write_bytes(b"")
    with pytest.raises(UserError, match="not a folder or a .zip"):
        load(f"folder:{tmp_path / 'x.tar'}")


def renamed(path, name, new_name):
    """Changes the name of a member only in the archive's directory, like a flipped bit."""
    content = path.read_bytes()
    at = content.rindex(name.encode())
    path.write_bytes(content[:at] + new_name.encode() + content[at + len(name) :])


@pytest.mark.parametrize("new_name", ["Train/2/0.pnw", "Train/2/\0.png"])
def test_a_damaged_name_does_not_hide_a_picture(tmp_path, new_name):
    """A member with another suffix would be ignored, as would one that a zero byte shortens to a folder's name."""
    name = save(tmp_path / "x.zip", FILES)
    renamed(tmp_path / "x.zip", "Train/2/0.png", new_name)
    with pytest.raises(UserError, match="x.zip is damaged at Train/2/"):
        load(name)


def test_a_directory_that_lists_too_few_files_is_damage(tmp_path):
    """Its length is damaged here: Python stops reading there."""
    name = save(tmp_path / "x.zip", FILES)
    content = bytearray((tmp_path / "x.zip").read_bytes())
    end = content.rindex(b"PK\x05\x06")
    size = int.from_bytes(content[end + 12 : end + 16], "little")
    last = content.rindex(b"PK\x01\x02")
    content[end + 12 : end + 16] = (size - (end - last)).to_bytes(4, "little")
    del content[last:end]
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(UserError, match="counts 12 members, and lists 11"):
        load(name)
