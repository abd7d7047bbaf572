"""ArrayRecord shards with an index: data sets of any size, read row by row in any order. `jimgen pack` writes them.

A folder holds `records.json` and the shards of both splits. A record is a sha256 (32 bytes), the label (int32,
little-endian, a number for each column) and the pixels (uint8 [h, w, c]), which ArrayRecord compresses. The sha256 is
that of the row (int64, little-endian), the label and the pixels.
Pictures with alpha are premultiplied, as everywhere within the package.
"""

import bisect
import hashlib
import itertools
import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jimgen import __version__
from jimgen.data.dataset import Arrays, Attribute, Dataset, Example, Source, Stream, num_rows, read_in_threads
from jimgen.data.paths import find, not_there
from jimgen.errors import UserError
from jimgen.files import disk_errors, read_errors, read_json, shown, write_atomically

INDEX = "records.json"
VERSION = 1
SHARD_BYTES = 2**28  # of records in a shard, before compression
DIGEST = 32  # bytes of a sha256
FOR_RANDOM_ACCESS = {"options": "readahead_buffer_size:0,max_parallelism:0", "file_reader_buffer_size": 2**15}


class Format(NamedTuple):
    """What a record holds."""

    shape: tuple[int, int, int]
    columns: int  # of the labels

    @property
    def num_bytes(self) -> int:
        return DIGEST + 4 * self.columns + math.prod(self.shape)


class Shard(NamedTuple):
    file: str
    count: int  # of records
    num_bytes: int  # of the file


def write_records(dataset: Dataset, folder: Path, *, shard_bytes: int = SHARD_BYTES) -> None:
    """Writes both splits of a data set, as `load` returned them, to a new folder.

    Everything is written beside it and checked, and then renamed: the folder is there with all of its content or not.

    Args:
        dataset: pictures of one shape with their labels.
        folder: path of a folder that is empty or does not exist.
        shard_bytes: largest size of a shard, before compression.
    Raises:
        UserError: the folder holds something, the disk is full or not writable, or a picture cannot be read.
    """
    spec = dataset.spec
    form = Format(spec.shape, len(spec.columns))
    folder = folder.resolve()  # a link to a folder cannot be replaced
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    with disk_errors(folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{shown(folder)} is there already: give a folder that is empty or does not exist")
        shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
        unfinished.mkdir(parents=True)
        try:
            content: dict[str, Any] = {
                "version": VERSION,
                "made_by": f"jimgen {__version__}",
                "name": spec.name,
                "hash": spec.hash,
                "shape": list(spec.shape),
                "class_names": list(spec.class_names),
                "attributes": [[attribute.name, list(attribute.values)] for attribute in spec.attributes],
            }
            for name, split in (("train", dataset.train), ("test", dataset.test)):
                content[name] = _write_split(split, form, unfinished, name, shard_bytes)
            write_atomically(unfinished / INDEX, json.dumps(content | {"sha256": _digest_of(content)}, indent=1))
            _check_written(unfinished)
            os.replace(unfinished, folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def open_records(path: str) -> Source:
    """Both splits of a folder that `write_records` wrote, as streams.

    Each record is checked by its sha256 when it is read.

    Raises:
        UserError: the folder is missing, unfinished, damaged or of a newer version, or a shard has another number of
            bytes or records than the index says.
    """
    where = f"records:{shown(path)}"
    root = find(path)
    if root is None:
        raise not_there(path, "records")
    if not root.is_dir():
        raise UserError(f"{where} is a file; give the folder that `jimgen pack` wrote")
    content = _read_index(root, where)
    try:
        height, width, channels = (int(side) for side in content["shape"])
        class_names = tuple(str(name) for name in content["class_names"])
        attributes = tuple(Attribute(str(name), tuple(map(str, values))) for name, values in content["attributes"])
        splits = [_split_of(content[name]) for name in ("train", "test")]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where}: {INDEX} is damaged ({error}): {_AGAIN}") from error
    form = Format((height, width, channels), 1 + len(attributes))
    train, test = (_stream(root, where, form, shards, digest) for shards, digest in splits)
    return Source(train, test, class_names, form.shape, attributes=attributes)


_AGAIN = "pack the set again, or copy it again"


def _write_split(split: Arrays | Stream, form: Format, folder: Path, name: str, shard_bytes: int) -> dict[str, Any]:
    """Writes the shards of a split; returns its part of the index."""
    from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

    count = num_rows(split)
    per_shard = max(1, shard_bytes // form.num_bytes)
    num_shards = -(-count // per_shard)
    records, digest, shards = _records(split), hashlib.sha256(), []
    for number in range(num_shards):
        file = f"{name}-{number:05d}-of-{num_shards:05d}.array_record"
        writer = array_record_module.ArrayRecordWriter(str(folder / file), "group_size:1")
        size = min(per_shard, count - number * per_shard)
        for record in itertools.islice(records, size):
            assert len(record) == form.num_bytes
            digest.update(record[:DIGEST])
            _checked(writer.write, record, folder=folder)
        _checked(writer.close, folder=folder)
        shards.append([file, size, (folder / file).stat().st_size])
    return {"count": count, "sha256": digest.hexdigest(), "shards": shards}


def _checked(call: Any, *arguments: Any, folder: Path) -> None:
    """Calls a method of a writer, whose errors are those of the disk."""
    try:
        call(*arguments)
    except RuntimeError as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(
            f"cannot write to {shown(folder)}: {reason}. Free some space, or choose another disk."
        ) from error


def _records(split: Arrays | Stream) -> Iterator[bytes]:
    rows: Any = zip(*split, strict=True) if isinstance(split, Arrays) else read_in_threads(split)
    for row, example in enumerate(rows):
        if isinstance(example, Exception):
            raise example
        image, label = example
        content = np.asarray(label, "<i4").tobytes() + np.ascontiguousarray(image, np.uint8).tobytes()
        yield _sum_of(row, content) + content


def _sum_of(row: int, content: bytes | memoryview) -> bytes:
    """The sha256 of a record; its row is part of it, so that a shard in another's place is noticed."""
    digest = hashlib.sha256(row.to_bytes(8, "little"))
    digest.update(content)
    return digest.digest()


def _check_written(folder: Path) -> None:
    """Raises UserError unless the last record of each split can be read."""
    source = open_records(str(folder))
    for split in (source.train, source.test):
        assert isinstance(split, Stream)
        split.read(len(split) - 1)


def _digest_of(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read_index(root: Path, where: str) -> dict[str, Any]:
    content = read_json(root / INDEX, fix=_AGAIN)
    if content is None:
        raise UserError(f"{where} has no {INDEX}: give a folder that `jimgen pack` wrote")
    version = content.get("version")
    if isinstance(version, int) and version > VERSION:
        raise UserError(f"{where} has version {version} of this format, and {VERSION} is known here: update jimgen")
    if content.pop("sha256", None) != _digest_of(content) or version != VERSION:
        raise UserError(f"{where}: {INDEX} is damaged (its checksum is wrong): {_AGAIN}")
    return content


def _split_of(content: dict[str, Any]) -> tuple[list[Shard], str]:
    """The shards of a split and the sha256 of its content."""
    shards = [Shard(str(file), int(count), int(num_bytes)) for file, count, num_bytes in content["shards"]]
    if any(Path(shard.file).name != shard.file or shard.count < 1 for shard in shards):
        raise ValueError("names or counts of shards")
    if sum(shard.count for shard in shards) != content["count"]:
        raise ValueError(f"{content['count']} records, not those of the shards")
    return shards, str(content["sha256"])


def _stream(root: Path, where: str, form: Format, shards: Sequence[Shard], digest: str) -> Stream:
    readers = [_reader(root, where, shard) for shard in shards]
    ends = list(itertools.accumulate(shard.count for shard in shards))

    def read(row: int) -> Example:
        number = bisect.bisect_right(ends, row)
        place = row - ends[number] + shards[number].count
        try:
            (record,) = readers[number].read(place, place + 1)  # 30 times as fast as read([place])
            if len(record) != form.num_bytes or _sum_of(row, memoryview(record)[DIGEST:]) != record[:DIGEST]:
                raise ValueError("its checksum is wrong")
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0][:200]
            raise UserError(
                f"{where}: record {place} of {shards[number].file} is damaged ({reason}): {_AGAIN}"
            ) from error
        label = np.frombuffer(record, "<i4", form.columns, DIGEST)
        image = np.frombuffer(record, np.uint8, offset=DIGEST + 4 * form.columns).reshape(form.shape)
        return image, int(label[0]) if form.columns == 1 else tuple(label.tolist())

    return Stream(read, ends[-1] if ends else 0, f"records {digest}")


def _reader(root: Path, where: str, shard: Shard) -> Any:
    """A reader of a shard.

    Raises:
        UserError: the shard is missing, or has another number of bytes or records than the index says.
    """
    try:
        from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]
    except ImportError as error:
        raise UserError(
            f"{where} needs the package array_record: pip install array-record (not for Windows)"
        ) from error
    path = root / shard.file
    with read_errors(path):
        found = path.stat().st_size
        path.open("rb").close()  # the reader says nothing about a file that may not be read
    if found != shard.num_bytes:
        raise UserError(f"{where}: {shard.file} has {found} bytes, expected {shard.num_bytes}: {_AGAIN}")
    try:
        reader = array_record_module.ArrayRecordReader(str(path), **FOR_RANDOM_ACCESS)
        count = reader.num_records()
    except RuntimeError as error:
        raise UserError(f"{where}: {shard.file} is damaged ({str(error).splitlines()[0][:200]}): {_AGAIN}") from error
    if count != shard.count:
        raise UserError(f"{where}: {shard.file} has {count} records, expected {shard.count}: {_AGAIN}")
    return reader
