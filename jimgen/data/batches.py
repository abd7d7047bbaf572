"""Batches: which rows a step sees, and how they reach the devices.

The order is a pure function of (seed, step), flips and random crops of (seed, step, place in the batch). A run that
resumes needs only its step, and every process of a multi-process run knows the whole order and reads only its own part.
"""

import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from jimgen.data import dataset
from jimgen.data.dataset import Arrays, Example, Stream
from jimgen.errors import UserError

DECODING_THREADS = min(32, max(8, os.cpu_count() or 8))
PREFETCHED_ROWS = 512  # rows decoded ahead of the current batch
ROWS_AT_A_TIME = 16  # rows that a thread decodes at once: passing on each by itself takes 250 microseconds
ENDLESS = 2**40  # steps
FLIPS, CROPS = 1, 2  # streams of random numbers beside that of the order; not 0, which numpy would ignore


def rows_at(step: int, *, num_rows: int, batch_size: int, seed: int) -> np.ndarray:
    """The rows of batch `step`: int64 [batch_size], in [0, num_rows).

    Place i of the batch is position p = step * batch_size + i of an endless order: row p % num_rows of the permutation
    of epoch p // num_rows. Batches cross the ends of epochs, so every epoch shows every row once.
    """
    return _shuffled(step * batch_size + np.arange(batch_size), num_rows, seed)


def flips_at(step: int, *, batch_size: int, seed: int) -> np.ndarray:
    """Which pictures of batch `step` are mirrored left to right: bool [batch_size], each with probability one half."""
    return np.random.default_rng([seed, step, FLIPS]).random(batch_size) < 0.5


def local_places(sharding: Sharding, batch_size: int, devices: Iterable[Any] | None = None) -> np.ndarray:
    """The places in the global batch that `devices` hold, by default this process's: int64, ascending.

    Raises:
        UserError: `batch_size` is below 1, or the devices cannot share it evenly.
    """
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}: give 1 or more")
    try:
        held = sharding.devices_indices_map((batch_size,))
    except ValueError as error:
        raise UserError(
            f"a batch of {batch_size} cannot be shared evenly by {sharding.num_devices} devices: choose a multiple"
        ) from error
    places = np.arange(batch_size)
    devices = sharding.addressable_devices if devices is None else devices
    return np.unique(np.concatenate([places[held[device]] for device in devices]))


def batches(
    split: Arrays | Stream,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    sharding: Sharding | None = None,
    flip: bool = False,
) -> Iterator[dict[str, jax.Array]]:
    """Endless training batches from `start_step` on, in the order of `rows_at`.

    Args:
        split: rows to draw from. Arrays are copied to the devices once, and each batch is gathered there, so only row
            numbers travel per step. A Stream is decoded ahead in threads, by each process for its own devices; if it
            has `draw`, that is what a batch shows.
        batch_size: size of the global batch, over all processes.
        seed: random seed for the order.
        start_step: step of the first batch.
        sharding: layout of the leading axis; None is JAX's default device.
        flip: mirror each picture with probability one half; see `flips_at`.
    Yields:
        {"image": uint8 [b, h, w, c], "label": int32 [b] or [b, columns], "index": int32 [b]}; index is the place in the
        global batch.
    Raises:
        UserError: `batch_size` is below 1, or the devices cannot share it evenly.
    """
    sharding = sharding or _default_sharding()
    places = local_places(sharding, batch_size)
    rows_of = functools.partial(_shuffled, num_rows=dataset.num_rows(split), seed=seed)
    steps = range(start_step, ENDLESS)
    index = _put(places.astype(np.int32), sharding, batch_size)
    flips = functools.lru_cache(maxsize=64)(functools.partial(flips_at, batch_size=batch_size, seed=seed))
    fed = _feed(split, rows_of, steps, places, batch_size, sharding, flips if flip else None, seed)
    return ({"image": image, "label": label, "index": index} for image, label, _ in fed)


def eval_batches(
    split: Arrays | Stream, *, batch_size: int, sharding: Sharding | None = None
) -> Iterator[dict[str, jax.Array]]:
    """A whole split once, in its own order. The last batch is padded with row 0. Arguments are those of `batches`.

    Yields:
        {"image": uint8 [b, h, w, c], "label": int32 [b], "index": int32 [b], "valid": bool [b]}; index is the row in
        the split, and valid is False for padding.
    Raises:
        UserError: as `batches`.
    """
    sharding = sharding or _default_sharding()
    places = local_places(sharding, batch_size)
    num_rows = dataset.num_rows(split)
    steps = range(-(-num_rows // batch_size))
    valid = (_put(step * batch_size + places < num_rows, sharding, batch_size) for step in steps)
    fed = _feed(split, lambda p: np.where(p < num_rows, p, 0), steps, places, batch_size, sharding)
    return (
        {"image": image, "label": label, "index": rows, "valid": is_valid}
        for (image, label, rows), is_valid in zip(fed, valid, strict=True)
    )


def scale_images(images: jax.Array) -> jax.Array:
    """uint8 in [0, 255] -> float32 in [-1, 1]. Call it in compiled functions, so that bytes travel to the device."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def scale_batch(batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The batch with its images scaled."""
    return {**batch, "image": scale_images(batch["image"])}


def _shuffled(positions: np.ndarray, num_rows: int, seed: int) -> np.ndarray:
    epochs, places = np.divmod(positions, num_rows)
    rows = np.empty(len(positions), np.int64)
    for epoch in np.unique(epochs):
        rows[epochs == epoch] = _permutation(num_rows, seed, int(epoch))[places[epochs == epoch]]
    return rows


@functools.lru_cache(maxsize=4)
def _permutation(num_rows: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(num_rows)


def _feed(
    split: Arrays | Stream,
    rows_of: Callable[[np.ndarray], np.ndarray],
    steps: range,
    places: np.ndarray,
    batch_size: int,
    sharding: Sharding,
    flips: Callable[[int], np.ndarray] | None = None,
    seed: int | None = None,
) -> Iterator[tuple[jax.Array, jax.Array, jax.Array]]:
    """(image, label, row) of each step, where `rows_of` maps positions in the order to rows of the split.

    `flips` tells which pictures of a step are mirrored. With a seed, streams that have `draw` draw what is seen.
    """
    if isinstance(split, Arrays):
        everywhere = NamedSharding(sharding.mesh, PartitionSpec()) if isinstance(sharding, NamedSharding) else sharding
        images, labels = (_put(array, everywhere, len(array)) for array in split)
        gather = _gather_on(sharding, flips is not None)
        for step in steps:
            rows = _put(rows_of(step * batch_size + places).astype(np.int32), sharding, batch_size)
            mirrored = () if flips is None else (_put(flips(step)[places], sharding, batch_size),)
            image, label = gather(images, labels, rows, *mirrored)
            yield image, label, rows
    else:
        for image, label, rows in _read_ahead(split, rows_of, steps, places, batch_size, flips, seed):
            yield (
                _put(image, sharding, batch_size),
                _put(label, sharding, batch_size),
                _put(rows.astype(np.int32), sharding, batch_size),
            )


def _read_ahead(
    stream: Stream,
    rows_of: Callable[[np.ndarray], np.ndarray],
    steps: range,
    places: np.ndarray,
    batch_size: int,
    flips: Callable[[int], np.ndarray] | None,
    seed: int | None,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(images, labels, rows) of each step, read in threads; arguments are those of `_feed`."""
    import grain

    parts = [places[start : start + ROWS_AT_A_TIME] for start in range(0, len(places), ROWS_AT_A_TIME)]

    def read_place(step: int, place: int, row: int) -> Example:
        if stream.draw is None or seed is None:
            image, label = stream.read(row)
        else:
            image, label = stream.draw(row, np.random.default_rng([seed, step, place, CROPS]))
        return image[:, ::-1] if flips is not None and flips(step)[place] else image, label

    def read_part(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        step, part = steps[count // len(parts)], parts[count % len(parts)]
        rows = rows_of(step * batch_size + part)
        read = [read_place(step, int(place), int(row)) for place, row in zip(part, rows, strict=True)]
        return np.stack([image for image, _ in read]), np.asarray([label for _, label in read], np.int32), rows

    threads = grain.ReadOptions(DECODING_THREADS, max(1, PREFETCHED_ROWS // len(parts[0])))
    read = iter(grain.MapDataset.range(len(steps) * len(parts)).map(read_part).to_iter_dataset(threads))
    for _ in steps:
        images, labels, rows = map(np.concatenate, zip(*itertools.islice(read, len(parts)), strict=True))
        yield images, labels, rows


@functools.lru_cache(maxsize=8)
def _gather_on(sharding: Sharding, flip: bool) -> Callable[..., tuple[jax.Array, jax.Array]]:
    def gather(
        images: jax.Array, labels: jax.Array, rows: jax.Array, *mirrored: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        # All rows are in range: "clip" avoids the masks that the default mode, "fill", computes.
        image = jnp.take(images, rows, axis=0, mode="clip")
        for chosen in mirrored:
            image = jnp.where(chosen[:, None, None, None], image[:, :, ::-1], image)
        return image, jnp.take(labels, rows, axis=0, mode="clip")

    if isinstance(sharding, NamedSharding):  # each device gathers its rows from its own copy
        specs = (PartitionSpec(), PartitionSpec(), *([sharding.spec] * (1 + flip)))
        gather = jax.shard_map(gather, mesh=sharding.mesh, in_specs=specs, out_specs=sharding.spec)
    return jax.jit(gather)


def _put(local: np.ndarray, sharding: Sharding, num_rows: int) -> jax.Array:
    """The global array of `num_rows` rows of which `local` is this process's part."""
    return jax.make_array_from_process_local_data(sharding, local, (num_rows, *local.shape[1:]))


def _default_sharding() -> Sharding:
    return jnp.zeros(()).sharding  # where JAX puts arrays by default
