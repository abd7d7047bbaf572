import json
import shutil

import numpy as np
import pytest

from jimgen.alpha import composite, premultiply
from jimgen.data import load
from jimgen.data.batches import batches
from jimgen.data.dataset import Arrays, Attribute, Dataset, DataSpec, Stream, data_hash, num_rows, read_rows
from jimgen.data.records import INDEX, open_records, write_records
from jimgen.errors import UserError

ATTRIBUTES = (Attribute("hair", ("red", "black")), Attribute("größe", ("1", "2", "3")))


def dataset(channels=3, columns=3, counts=(23, 7)) -> Dataset:
    rng = np.random.default_rng(0)
    splits = []
    for count in counts:
        images = rng.integers(0, 256, (count, 5, 4, channels)).astype(np.uint8)
        images = premultiply(images) if channels == 4 else images
        labels = np.column_stack([np.arange(count) % size for size in (4, 2, 3)[:columns]]).astype(np.int32)
        splits.append(Arrays(images, labels if columns > 1 else labels[:, 0]))
    spec = DataSpec("x", (5, 4, channels), 4, tuple("abcd"), *counts, data_hash(*splits), ATTRIBUTES[: columns - 1])
    return Dataset(spec, *splits)


@pytest.fixture
def packed(tmp_path):
    """A folder of records: shards of ten pictures."""
    write_records(dataset(), tmp_path / "set", shard_bytes=10 * (32 + 12 + 60))
    return tmp_path / "set"


@pytest.mark.parametrize("resident", [2**30, 0])
@pytest.mark.parametrize(("channels", "columns"), [(1, 1), (3, 3), (3, 1), (1, 2)])
def test_what_is_read_is_what_was_written(tmp_path, channels, columns, resident):
    written = dataset(channels, columns)
    write_records(written, tmp_path / "set", shard_bytes=1000)
    read = load(f"records:{tmp_path / 'set'}", resident_bytes=resident)
    assert isinstance(read.train, Arrays if resident else Stream) and read.left_out == ()
    same = {"name": read.spec.name} | ({} if resident else {"hash": read.spec.hash})
    assert read.spec == written.spec._replace(**same)
    for split, other in ((written.train, read.train), (written.test, read.test)):
        for array, again in zip(split, read_rows(other, range(num_rows(other))), strict=True):
            np.testing.assert_array_equal(array, again)
            assert array.dtype == again.dtype


def test_alpha_stays_premultiplied(tmp_path):
    written = dataset(channels=4)
    write_records(written, tmp_path / "set")
    source = open_records(str(tmp_path / "set"))
    assert source.shape == (5, 4, 4)
    images, _ = read_rows(source.train, range(23))
    np.testing.assert_array_equal(images, written.train.images)
    np.testing.assert_array_equal(composite(images, (9, 9, 9)), composite(written.train.images, (9, 9, 9)))


def test_batches_are_those_of_the_set_itself(packed):
    ours, theirs = load(f"records:{packed}", resident_bytes=0).train, dataset().train
    feeds = (batches(split, batch_size=6, seed=3, start_step=2) for split in (ours, theirs))
    for _, batch, other in zip(range(5), *feeds, strict=False):
        np.testing.assert_array_equal(batch["image"], other["image"])
        np.testing.assert_array_equal(batch["label"], other["label"])


def test_shards_and_hashes(packed, tmp_path):
    names = sorted(path.name for path in packed.iterdir())
    shards = [f"train-{i:05d}-of-00003.array_record" for i in range(3)]
    assert names == [INDEX, "test-00000-of-00001.array_record", *shards]
    write_records(dataset(), tmp_path / "other")
    specs = [load(f"records:{path}", resident_bytes=0).spec for path in (packed, tmp_path / "other")]
    assert specs[0].hash == specs[1].hash  # the hash depends on the content alone, not on shards
    write_records(dataset(columns=1), tmp_path / "others")
    assert load(f"records:{tmp_path / 'others'}", resident_bytes=0).spec.hash != specs[0].hash


def test_a_damaged_record_is_named(packed):
    shard = packed / "train-00001-of-00003.array_record"
    content = bytearray(shard.read_bytes())
    pixels = dataset().train.images[13].tobytes()
    place = content.find(pixels[:20])  # random pixels are not compressed
    content[place] ^= 1
    shard.write_bytes(content)
    stream = open_records(str(packed)).train
    assert isinstance(stream, Stream)
    np.testing.assert_array_equal(stream.read(12)[0], dataset().train.images[12])
    with pytest.raises(UserError, match="record 3 of train-00001-of-00003.array_record is damaged"):
        stream.read(13)
    with pytest.raises(UserError, match="record 3 of train-00001-of-00003.array_record is damaged"):
        load(f"records:{packed}")  # in memory


def test_exchanged_shards_are_noticed(packed):
    """Two shards of the same size and count: each record is intact, and in the wrong place."""
    one, two = (packed / f"train-{i:05d}-of-00003.array_record" for i in range(2))
    assert one.stat().st_size == two.stat().st_size
    one.rename(packed / "x"), two.rename(one), (packed / "x").rename(two)
    with pytest.raises(UserError, match="record 0 of train-00000-of-00003.array_record is damaged"):
        open_records(str(packed)).train.read(0)


def test_folders_that_are_not_whole(packed, tmp_path):
    def refused(message, change):
        shutil.copytree(packed, tmp_path / "copy")
        change(tmp_path / "copy")
        with pytest.raises(UserError, match=message):
            load(f"records:{tmp_path / 'copy'}")
        shutil.rmtree(tmp_path / "copy")

    shard = "train-00002-of-00003.array_record"
    content = json.loads((packed / INDEX).read_text())

    def index(**changes):
        return lambda root: (root / INDEX).write_text(json.dumps(content | changes))

    refused(f"cannot read .*{shard}: No such file", lambda root: (root / shard).unlink())
    refused(f"{shard} has 100 bytes, expected", lambda root: (root / shard).write_bytes(bytes(100)))
    size = (packed / shard).stat().st_size
    refused(f"{shard} has 0 records, expected 3", lambda root: (root / shard).write_bytes(bytes(size)))
    refused(r"has no records.json: give a folder that `jimgen pack` wrote", lambda root: (root / INDEX).unlink())
    refused("records.json is damaged", lambda root: (root / INDEX).write_text("{"))
    refused("records.json is damaged .its checksum", index(class_names=["a", "b", "c", "e"]))
    refused("has version 2 of this format, and 1 is known here: update jimgen", index(version=2))
    for name, message in {"st": "no such folder; did you mean records:.*/set", f"set/{shard}": "is a file"}.items():
        with pytest.raises(UserError, match=message):
            load(f"records:{tmp_path / name}")
    for name in (str(packed), f"folder:{packed}"):
        with pytest.raises(UserError, match=f"did you mean records:{packed}"):
            load(name)


def test_an_interrupt_or_a_broken_picture_leaves_nothing(tmp_path):
    for fault in (KeyboardInterrupt(), UserError("x")):

        def read(row, fault=fault):
            if row == 15:
                raise fault
            return dataset().train.images[row], (0, 0, 0)

        broken = dataset()._replace(train=Stream(read, 23, ""))
        with pytest.raises(type(fault)):
            write_records(broken, tmp_path / "set", shard_bytes=1000)
        assert list(tmp_path.iterdir()) == []


def test_a_killed_process_leaves_nothing_that_counts(tmp_path):
    (tmp_path / ".set.unfinished").mkdir()
    (tmp_path / ".set.unfinished" / "train-00000-of-00001.array_record").write_bytes(b"half")
    with pytest.raises(UserError, match="no such folder"):
        load(f"records:{tmp_path / 'set'}")
    write_records(dataset(), tmp_path / "set")
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_full_disk_leaves_nothing(tiny_disk):
    with pytest.raises(UserError, match="cannot write to|the disk is full"):
        write_records(dataset(counts=(20_000, 7)), tiny_disk / "set")
    assert list(tiny_disk.iterdir()) == []


def test_a_folder_that_holds_something_is_not_touched(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").write_text("x")
    with pytest.raises(UserError, match="is there already"):
        write_records(dataset(), tmp_path / "set")
    (tmp_path / "set" / "mine.txt").unlink()
    write_records(dataset(), tmp_path / "set")
    assert load(f"records:{tmp_path / 'set'}").spec.num_train == 23
