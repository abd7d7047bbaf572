"""Files: atomic writes, and errors as messages."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from jimgen import files
from jimgen.errors import UserError


@pytest.mark.parametrize(
    ("content", "expected"), [(b"\x00\xff", b"\x00\xff"), ("gr\u00fcn\n", b"gr\xc3\xbcn\n"), (b"", b"")]
)
def test_content_is_written_and_folders_are_made(tmp_path, content, expected):
    """Bytes unchanged, text as UTF-8; an older file is replaced, and no temporary file remains."""
    path = tmp_path / "deep" / "er" / "file"
    for before in ("old", content):
        files.write_atomically(path, before)
    assert path.read_bytes() == expected
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("broken", ["open", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch, broken):
    """The disk refuses either the content or the folder."""

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    files.write_atomically(tmp_path / "file", "old")
    with monkeypatch.context() as patched:
        patched.setattr(*((Path, "open") if broken == "open" else (files.os, "replace")), fail)
        with pytest.raises(UserError, match=f"the disk is full: cannot write to {tmp_path}"):
            files.write_atomically(tmp_path / "file", "new")
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_a_reader_never_sees_a_part(tmp_path, monkeypatch):
    """The old file stays until the new one is complete."""
    path, seen, replace = tmp_path / "file", [], os.replace

    def look(temporary, target):
        seen.append((Path(temporary).read_text(), path.read_text()))
        replace(temporary, target)

    files.write_atomically(path, "old")
    monkeypatch.setattr(files.os, "replace", look)
    files.write_atomically(path, "new")
    assert seen == [("new", "old")] and path.read_text() == "new"


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot write to .*Choose another folder"):
        files.write_atomically(tmp_path / "file" / "x", "y")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("compress", [False, True])
def test_arrays_come_back(tmp_path, compress):
    arrays = {"x": np.arange(6.0).reshape(2, 3), "text": "gr\u00fcn"}
    files.write_npz(tmp_path / "deep" / "file.npz", arrays, compress=compress)
    with np.load(tmp_path / "deep" / "file.npz", allow_pickle=False) as found:
        np.testing.assert_array_equal(found["x"], arrays["x"])
        assert str(found["text"]) == "gr\u00fcn"
    assert os.listdir(tmp_path / "deep") == ["file.npz"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Expecting value"),
        (b"[]", "not an object"),
        (b"null", "not an object"),
        (b"\xff\xfe{", "decode"),
        (b'{"a": ' * 100_000, "recursion"),
        (b'{"a": %s}' % (b"1" * 5000), "digits"),
        (b'\xef\xbb\xbf{"a": 1}', "BOM"),
    ],
)
def test_json_that_is_damaged_is_named_with_the_fix(tmp_path, content, reason):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=f"a.json is damaged .*{reason}.*: make it again"):
        files.read_json(tmp_path / "a.json", "make it again")


def test_json_that_is_not_there_is_none(tmp_path):
    (tmp_path / "file").write_text('{"a": [1.5]}')
    assert files.read_json(tmp_path / "file", "") == {"a": [1.5]}
    assert files.read_json(tmp_path / "none.json", "") is files.read_json(tmp_path / "file" / "a.json", "") is None
    with pytest.raises(UserError, match="cannot read"):
        files.read_json(tmp_path, "")
