"""Batches: which rows a step sees, and how they reach the devices.

The order is a pure function of (seed, step). A run that resumes needs only its step, and every process of a
multi-process run knows the whole order and reads only its own part.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from jimgen.data import dataset
from jimgen.data.dataset import Arrays, Stream
from jimgen.errors import UserError

DECODING_THREADS = 8
PREFETCHED_ROWS = 512  # rows decoded ahead of the current batch
ENDLESS = 2**40  # steps


def rows_at(step: int, *, num_rows: int, batch_size: int, seed: int) -> np.ndarray:
    """The rows of batch `step`: int64 [batch_size], in [0, num_rows).

    Place i of the batch is position p = step * batch_size + i of an endless order: row p % num_rows of the permutation
    of epoch p // num_rows. Batches cross the ends of epochs, so every epoch shows every row once.
    """
    return _shuffled(step * batch_size + np.arange(batch_size), num_rows, seed)


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
    split: Arrays | Stream, *, batch_size: int, seed: int, start_step: int = 0, sharding: Sharding | None = None
) -> Iterator[dict[str, jax.Array]]:
    """Endless training batches from `start_step` on, in the order of `rows_at`.

    Args:
        split: rows to draw from. Arrays are copied to the devices once, and each batch is gathered there, so only row
            numbers travel per step. A Stream is decoded ahead in threads, by each process for its own devices.
        batch_size: size of the global batch, over all processes.
        seed: random seed for the order.
        start_step: step of the first batch.
        sharding: layout of the leading axis; None is JAX's default device.
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
    fed = _feed(split, rows_of, steps, places, batch_size, sharding)
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
) -> Iterator[tuple[jax.Array, jax.Array, jax.Array]]:
    """(image, label, row) of each step, where `rows_of` maps positions in the order to rows of the split."""
    if isinstance(split, Arrays):
        everywhere = NamedSharding(sharding.mesh, PartitionSpec()) if isinstance(sharding, NamedSharding) else sharding
        images, labels = (_put(array, everywhere, len(array)) for array in split)
        gather = _gather_on(sharding)
        for step in steps:
            rows = _put(rows_of(step * batch_size + places).astype(np.int32), sharding, batch_size)
            image, label = gather(images, labels, rows)
            yield image, label, rows
    else:
        import grain

        def read(count: int) -> tuple[np.ndarray, np.ndarray, int]:
            step, place = divmod(count, len(places))
            (row,) = rows_of(np.array([steps[step] * batch_size + places[place]]))
            image, label = split.read(int(row))
            return image, np.asarray(label, np.int32), int(row)

        rows = grain.MapDataset.range(len(steps) * len(places)).map(read)
        threads = grain.ReadOptions(num_threads=DECODING_THREADS, prefetch_buffer_size=PREFETCHED_ROWS)
        for image, label, row in rows.to_iter_dataset(threads).batch(len(places)):
            yield (
                _put(image, sharding, batch_size),
                _put(label, sharding, batch_size),
                _put(row.astype(np.int32), sharding, batch_size),
            )


@functools.lru_cache(maxsize=8)
def _gather_on(sharding: Sharding) -> Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    def gather(images: jax.Array, labels: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        # All rows are in range: "clip" avoids the masks that the default mode, "fill", computes.
        return jnp.take(images, rows, axis=0, mode="clip"), jnp.take(labels, rows, axis=0, mode="clip")

    if isinstance(sharding, NamedSharding):  # each device gathers its rows from its own copy
        specs = (PartitionSpec(), PartitionSpec(), sharding.spec)
        gather = jax.shard_map(gather, mesh=sharding.mesh, in_specs=specs, out_specs=sharding.spec)
    return jax.jit(gather)


def _put(local: np.ndarray, sharding: Sharding, num_rows: int) -> jax.Array:
    """The global array of `num_rows` rows of which `local` is this process's part."""
    return jax.make_array_from_process_local_data(sharding, local, (num_rows, *local.shape[1:]))


def _default_sharding() -> Sharding:
    return jnp.zeros(()).sharding  # where JAX puts arrays by default
