"""The entropy model of a codec's latents: integer tables and integer priors, and latents as bytes."""

import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jimgen.apps.codec.errors import DamagedFile, UnusableModel
from jimgen.apps.codec.integer_prior import IntegerPrior, integer_prior, seen, tables_and_means
from jimgen.apps.codec.range_coder import Reader, Tables, Writer
from jimgen.methods.codec import LARGEST_LATENT, PRIORS
from jimgen.nets.codec import NUM_STEPS, PATCH, PHASES, Channels, Latents, of_step

Size = tuple[int, int]
TOTAL = 2**20  # of the frequencies of a table
_LOGISTIC_COUNTS = 16  # as many symbols, spread as the logistic says, are added to the counts of a table


class EntropyModel(NamedTuple):
    tables: Tables
    priors: tuple[IntegerPrior, IntegerPrior]  # of the coarse and the fine grid
    channels: Channels
    num_rates: int


def entropy_model(variables: Mapping[str, Any], channels: Channels, num_rates: int) -> EntropyModel:
    """The entropy model in the variables of a codec.

    Raises:
        UnusableModel: weights or counts are not finite, or too large.
    """
    counts, logistic = (np.asarray(variables["tables"][name], np.float64) for name in ("counts", "logistic"))
    coarse, fine = (integer_prior(variables[name]["params"]) for name in PRIORS)
    return EntropyModel(Tables(frequencies(counts, logistic)), (coarse, fine), channels, num_rates)


def frequencies(counts: np.ndarray, logistic: np.ndarray) -> np.ndarray:
    """Integer frequencies of symbols: int64 [tables, symbols] >= 1, each row with the sum TOTAL.

    Args:
        counts: float64 [tables, symbols] >= 0, how often training saw each symbol.
        logistic: float64 [tables, symbols], probabilities for those that it hardly saw.
    Raises:
        UnusableModel: counts that are not finite, negative or above 2^40.
    """
    if not (np.isfinite(counts).all() and counts.min() >= 0 and counts.max() <= 2.0**40):
        raise UnusableModel("the run's tables are damaged: use an earlier checkpoint")
    # From here on integers of any size, so that the result is the same everywhere.
    weights = np.floor(counts * 2.0**20).astype(np.int64).astype(object)
    weights = weights + _LOGISTIC_COUNTS * np.floor(logistic * 2.0**20).astype(np.int64).astype(object)
    found = 1 + weights * (TOTAL - counts.shape[1]) // np.maximum(weights.sum(1, keepdims=True), 1)
    found = found.astype(np.int64)
    found[np.arange(len(found)), found.argmax(1)] += TOTAL - found.sum(1)
    return found


def grid_sizes(height: int, width: int) -> tuple[Size, Size]:
    """(rows, columns) of the coarse and of the fine grid of a picture, whose sides are padded to multiples of 4."""
    fine = -(-height // PATCH), -(-width // PATCH)
    return (-(-fine[0] // 2), -(-fine[1] // 2)), fine


def encode_latents(model: EntropyModel, latents: Latents, rate: int) -> bytes:
    """Latents int32 [n, h, w, c] of pictures of one size and rate, |latent| <= LARGEST_LATENT, as bytes."""
    writer = Writer(model.tables)

    def visit(grid: int, places: Any, tables: np.ndarray, means: np.ndarray) -> np.ndarray:
        values = latents[grid][places].astype(np.int64)
        writer.write(tables.ravel(), (values - means).ravel())
        return values

    _walk(model, len(latents.coarse), (latents.coarse.shape[1:3], latents.fine.shape[1:3]), rate, visit)
    return writer.finish()


def decode_latents(model: EntropyModel, code: bytes, num: int, size: tuple[int, int], rate: int) -> Latents:
    """The inverse of `encode_latents`, int32, for `num` pictures of (height, width) `size`.

    Raises:
        DamagedFile: no latents have this code. Compare `checksum` as well: not all damage is noticed.
    """
    if rate >= model.num_rates:
        raise DamagedFile(f"rate {rate}: the model has {model.num_rates}")
    reader = Reader(model.tables, code)

    def visit(grid: int, places: Any, tables: np.ndarray, means: np.ndarray) -> np.ndarray:
        values = reader.read(tables.ravel()).reshape(tables.shape) + means
        if np.abs(values).max(initial=0) > LARGEST_LATENT:
            raise DamagedFile("its code is damaged: a latent is too large")
        return values

    return _walk(model, num, grid_sizes(*size), rate, visit)


def checksum(latents: Latents) -> int:
    """CRC32 of the latents, as 32-bit integers, little-endian, the coarse grid first."""
    return zlib.crc32(latents.fine.astype("<i4").tobytes(), zlib.crc32(latents.coarse.astype("<i4").tobytes()))


def _walk(
    model: EntropyModel, num: int, sizes: tuple[Size, Size], rate: int, visit: Callable[..., np.ndarray]
) -> Latents:
    """Goes through all latents in coding order.

    `visit` gets the number of the grid, the index in it of a step's latents, and their tables and means; it returns the
    latents. The prior computes with even sides, which are cut off before.
    """
    grids: list[np.ndarray] = []
    for grid, (prior, channels, (height, width)) in enumerate(zip(model.priors, model.channels, sizes, strict=True)):
        values = np.zeros((num, height + height % 2, width + width % 2, channels), np.int64)
        above = seen(prior, grids[-1] if grids else None)
        for k in range(NUM_STEPS):
            i, j = PHASES[k // 2]
            places = np.s_[:, i:height:2, j:width:2, of_step(k, channels)]
            inside = np.s_[:, : (height - i + 1) // 2, : (width - j + 1) // 2]
            tables, means = tables_and_means(prior, k, values, above, rate)
            values[places] = visit(grid, places, tables[inside], means[inside])
        grids.append(values[:, :height, :width].astype(np.int32))
    return Latents(*grids)
