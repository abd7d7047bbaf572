from itertools import islice

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jimgen.data import batches as feeding
from jimgen.data.dataset import Arrays, Stream, read_rows
from jimgen.data.fitting import fitting_of
from jimgen.data.random_crops import random_crops
from jimgen.errors import UserError

NUM_ROWS = 21
SPLIT = Arrays(
    np.random.default_rng(0).integers(0, 256, (NUM_ROWS, 4, 4, 3), np.uint8), np.arange(NUM_ROWS, dtype=np.int32) * 2
)
STREAM = Stream(lambda row: (SPLIT.images[row], int(SPLIT.labels[row])), NUM_ROWS, "rows of SPLIT")


def four_devices(axis_types=None) -> NamedSharding:
    if len(jax.devices()) < 4:
        pytest.skip("needs 4 devices: XLA_FLAGS=--xla_force_host_platform_device_count=4")
    return NamedSharding(Mesh(np.array(jax.devices()[:4]), ("data",), axis_types), PartitionSpec("data"))


def order(num_steps: int, batch_size: int, seed: int = 0) -> np.ndarray:
    steps = [feeding.rows_at(step, num_rows=NUM_ROWS, batch_size=batch_size, seed=seed) for step in range(num_steps)]
    return np.concatenate(steps)


@pytest.mark.parametrize("batch_size", [1, 4, 21, 50])
def test_every_epoch_shows_every_row_once(batch_size):
    rows = order(-(-3 * NUM_ROWS // batch_size), batch_size)
    epochs = rows[: 3 * NUM_ROWS].reshape(3, NUM_ROWS)
    assert rows.dtype == np.int64
    for epoch, seen in enumerate(epochs):
        np.testing.assert_array_equal(np.sort(seen), np.arange(NUM_ROWS))
        np.testing.assert_array_equal(seen, np.random.default_rng([0, epoch]).permutation(NUM_ROWS))


def test_the_order_is_the_same_for_every_batch_size():
    np.testing.assert_array_equal(order(21, 4), order(7, 12))


def test_seeds_and_epochs_differ():
    assert (order(1, 21, seed=0) != order(1, 21, seed=1)).any()
    assert (order(2, 21)[:21] != order(2, 21)[21:]).any()


def test_the_devices_of_two_processes_share_the_batch_without_overlap():
    sharding = four_devices()
    devices = sharding.mesh.devices.ravel()
    first, second = (feeding.local_places(sharding, 12, half) for half in (devices[:2], devices[2:]))
    np.testing.assert_array_equal(first, np.arange(6))
    np.testing.assert_array_equal(second, np.arange(6, 12))
    np.testing.assert_array_equal(feeding.local_places(sharding, 12), np.arange(12))


def test_devices_along_another_axis_hold_the_same_places():
    devices = four_devices().mesh.devices.reshape(2, 2)
    sharding = NamedSharding(Mesh(devices, ("data", "model")), PartitionSpec("data"))
    for column in (0, 1):
        np.testing.assert_array_equal(feeding.local_places(sharding, 6, devices[:, column]), np.arange(6))
    batch = next(feeding.batches(SPLIT, batch_size=6, seed=0, sharding=sharding))
    assert batch["image"].addressable_shards[0].data.shape == (3, 4, 4, 3)


@pytest.mark.parametrize("split", [SPLIT, STREAM], ids=["arrays", "stream"])
@pytest.mark.parametrize("layout", ["default", "auto", "explicit"])
def test_batches_hold_the_rows_of_the_order(split, layout):
    axis_types = {"explicit": (jax.sharding.AxisType.Explicit,)}.get(layout)
    sharding = None if layout == "default" else four_devices(axis_types)
    for step, batch in enumerate(islice(feeding.batches(split, batch_size=8, seed=3, sharding=sharding), 6)):
        rows = feeding.rows_at(step, num_rows=NUM_ROWS, batch_size=8, seed=3)
        np.testing.assert_array_equal(batch["image"], SPLIT.images[rows])
        np.testing.assert_array_equal(batch["label"], SPLIT.labels[rows])
        np.testing.assert_array_equal(batch["index"], np.arange(8))
        assert [batch[key].dtype for key in ("image", "label", "index")] == [np.uint8, np.int32, np.int32]
        if sharding is not None:
            assert all(value.sharding.is_equivalent_to(sharding, value.ndim) for value in batch.values())


@pytest.mark.parametrize("split", [SPLIT, STREAM], ids=["arrays", "stream"])
def test_resuming_equals_never_having_stopped(split):
    ongoing = islice(feeding.batches(split, batch_size=5, seed=0), 7, 12)
    resumed = feeding.batches(split, batch_size=5, seed=0, start_step=7)
    for one, other in zip(ongoing, resumed, strict=False):
        jax.tree.map(np.testing.assert_array_equal, one, other)


def test_only_row_numbers_travel_to_the_device():
    stream = feeding.batches(SPLIT, batch_size=8, seed=0)
    next(stream)
    with jax.transfer_guard_host_to_device("disallow"):  # of implicit copies; the rows are put explicitly
        next(stream)


@pytest.mark.parametrize("split", [SPLIT, STREAM], ids=["arrays", "stream"])
@pytest.mark.parametrize("batch_size", [4, 7, 40])
def test_eval_batches_show_the_whole_split_in_order(split, batch_size):
    seen = list(feeding.eval_batches(split, batch_size=batch_size))
    joined = {key: np.concatenate([batch[key] for batch in seen]) for key in seen[0]}
    valid = joined["valid"]
    assert valid.dtype == bool and valid.sum() == NUM_ROWS and valid[:NUM_ROWS].all()
    np.testing.assert_array_equal(joined["index"][:NUM_ROWS], np.arange(NUM_ROWS))
    assert not joined["index"][NUM_ROWS:].any()
    np.testing.assert_array_equal(joined["image"], SPLIT.images[joined["index"]])
    np.testing.assert_array_equal(joined["label"], SPLIT.labels[joined["index"]])
    assert all(len(batch["valid"]) == batch_size for batch in seen)


def test_eval_batches_are_laid_out_too():
    sharding = four_devices()
    for batch in feeding.eval_batches(SPLIT, batch_size=8, sharding=sharding):
        assert all(value.sharding.is_equivalent_to(sharding, value.ndim) for value in batch.values())


def test_a_batch_that_cannot_be_shared_evenly():
    sharding = four_devices()
    with pytest.raises(UserError, match="batch of 6 .* 4 devices"):
        feeding.batches(SPLIT, batch_size=6, seed=0, sharding=sharding)
    with pytest.raises(UserError, match="batch_size is 0"):
        feeding.batches(SPLIT, batch_size=0, seed=0)


def crop_stream() -> Stream:
    """Pictures 6x9 of different pixels, of which training sees 4x4 windows."""
    images = np.random.default_rng(1).permutation(NUM_ROWS * 6 * 9 * 3).reshape(NUM_ROWS, 6, 9, 3) % 251
    stored = Arrays(images.astype(np.uint8), SPLIT.labels)
    return random_crops(stored, fitting_of(4, crop="random", crop_scale=0.5), (4, 4, 3), 2**20)


def shown(split, num_steps: int = 3, start_step: int = 0, **options) -> np.ndarray:
    feed = feeding.batches(split, seed=5, start_step=start_step, **{"batch_size": 8, **options})
    return np.stack([np.asarray(batch["image"]) for batch in islice(feed, num_steps)])


def test_half_of_the_pictures_are_mirrored_and_the_others_not():
    plain, mirrored = shown(SPLIT, 40), shown(SPLIT, 40, flip=True)
    flips = np.stack([feeding.flips_at(step, batch_size=8, seed=5) for step in range(40)])
    np.testing.assert_array_equal(mirrored, np.where(flips[..., None, None, None], plain[:, :, :, ::-1], plain))
    assert abs(flips.mean() - 0.5) < 0.1 and len(set(map(tuple, flips.tolist()))) > 30


def test_every_row_is_seen_both_ways():
    rows = np.stack([feeding.rows_at(step, num_rows=NUM_ROWS, batch_size=8, seed=5) for step in range(60)])
    flips = np.stack([feeding.flips_at(step, batch_size=8, seed=5) for step in range(60)])
    assert all(0 < flips[rows == row].mean() < 1 for row in range(NUM_ROWS))


def test_streams_and_arrays_are_mirrored_alike():
    np.testing.assert_array_equal(shown(SPLIT, flip=True), shown(STREAM, flip=True))


@pytest.mark.parametrize("split", [SPLIT, STREAM, crop_stream()], ids=["arrays", "stream", "crops"])
def test_what_is_seen_depends_on_seed_step_and_place_alone(split):
    """Not on where training was resumed, nor on the number of devices."""
    ongoing = shown(split, 6, flip=True)
    np.testing.assert_array_equal(shown(split, 2, start_step=4, flip=True), ongoing[4:])
    np.testing.assert_array_equal(shown(split, 6, flip=True, sharding=four_devices()), ongoing)
    assert (shown(split, 6, flip=True) != shown(split, 6)).any()
    larger = shown(split, 1, flip=True, batch_size=16)
    np.testing.assert_array_equal(larger[0, :8], ongoing[0])


def test_random_crops_are_windows_that_change_and_evaluation_sees_the_centre():
    stream = crop_stream()
    centres, _ = read_rows(stream, range(NUM_ROWS))
    whole = next(feeding.eval_batches(stream, batch_size=NUM_ROWS, sharding=None))
    np.testing.assert_array_equal(whole["image"], centres)
    rows = feeding.rows_at(0, num_rows=NUM_ROWS, batch_size=8, seed=5)
    first, again = shown(stream, 1)[0], shown(stream, 1)[0]
    np.testing.assert_array_equal(first, again)
    assert sum((first[i] != centres[row]).any() for i, row in enumerate(rows)) >= 6
    for i, row in enumerate(rows):
        expected, label = stream.draw(int(row), np.random.default_rng([5, 0, i, feeding.CROPS]))
        np.testing.assert_array_equal(first[i], expected)
        assert label == SPLIT.labels[row]


@pytest.mark.parametrize("batch_size", [1, 16, 37])
def test_streams_feed_what_arrays_feed(batch_size):
    """Threads read rows in runs of 16; the last run of a batch may be shorter."""
    images = np.arange(50, dtype=np.uint8).reshape(50, 1, 1, 1)
    arrays = Arrays(images, np.arange(100, dtype=np.int32).reshape(50, 2))
    stream = Stream(lambda row: (images[row], (2 * row, 2 * row + 1)), 50, "fifty")
    for feed in (feeding.batches, feeding.eval_batches):
        options = {"batch_size": batch_size} | ({"seed": 1, "start_step": 3} if feed is feeding.batches else {})
        for batch, other, _ in zip(feed(arrays, **options), feed(stream, **options), range(4), strict=False):
            assert batch.keys() == other.keys()
            for name in batch:
                np.testing.assert_array_equal(batch[name], other[name])


def test_an_error_in_a_thread_reaches_the_user_as_it_is():
    def read(row):
        raise UserError("record 7 is damaged")

    with pytest.raises(UserError, match="^record 7 is damaged"):
        next(feeding.batches(Stream(read, 50, ""), batch_size=4, seed=0))
