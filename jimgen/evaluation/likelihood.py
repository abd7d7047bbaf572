"""Bounds of the likelihood of test images by importance sampling: IWAE-k of a whole split."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jimgen.data.batches import scale_images
from jimgen.data.dataset import Arrays, Stream, num_rows, read_rows
from jimgen.errors import UserError
from jimgen.methods.likelihoods import bound_metrics
from jimgen.methods.method import ImportanceSampler
from jimgen.metrics.likelihood import DiscreteData
from jimgen.noise import key_of
from jimgen.train_step import Batch, Variables


class Bounds(NamedTuple):
    """Of each image, in nats: float64 [n]."""

    neg_elbo: np.ndarray  # the mean of -log w over all samples
    neg_iwae: np.ndarray  # -log of the mean of w
    effective: np.ndarray  # effective sample size, 1 to k


class _Sums(NamedTuple):
    """Of the weights so far, [n] each, relative to the largest one: they need no more memory for more samples."""

    largest: Array  # max log w
    weights: Array  # sum w / exp(largest)
    squares: Array  # sum (w / exp(largest))^2
    log_weights: Array  # sum log w


def importance_bounds(
    sampler: ImportanceSampler,
    variables: Variables,
    split: Arrays | Stream,
    *,
    samples: int,
    num: int,
    seed: int,
    chunk: int = 250,
    tell: Callable[[Bounds], Any] = lambda bounds: None,
) -> Bounds:
    """-ELBO and -IWAE-k of the first images of a split, by k samples of each.

    Each image is encoded once, and each sample is one run of the decoder on a chunk of images. This is a loop outside
    of the compiled programs, because XLA on CPU runs convolutions inside a loop many times slower.

    Args:
        sampler: `Method.importance`.
        variables: of the nets.
        split: the images.
        samples: k >= 1.
        num: number of images, at most those of the split.
        seed: random seed of x, where it is drawn from grey values, and of the samples. x of an image depends on seed
            and row alone.
        chunk: images at a time.
        tell: gets the bounds of the images so far, after each chunk.
    Raises:
        UserError: fewer images in the split, or a weight that is not a number.
    """
    if num > num_rows(split):
        raise UserError(f"--num {num}: there are {num_rows(split)} images")
    x_key, z_key = jax.random.split(key_of(seed))
    encode, add = jax.jit(sampler.encode), jax.jit(_adder(sampler))
    found, bounds = [], Bounds(*np.zeros((3, 0)))
    for start in range(0, num, chunk):
        rows = np.minimum(np.arange(start, start + chunk), num - 1)  # one shape, so that one program serves all chunks
        images, labels = read_rows(split, rows)
        batch = {"image": scale_images(jnp.asarray(images)), "label": jnp.asarray(labels), "index": jnp.asarray(rows)}
        encoded = encode(variables, batch, x_key)
        zeros = jnp.zeros(chunk)
        sums = _Sums(jnp.full(chunk, -jnp.inf), zeros, zeros, zeros)
        for sample in range(samples):
            sums = add(variables, encoded, batch, jax.random.fold_in(z_key, sample), sums)
        part = [np.asarray(x, np.float64)[: num - start] for x in sums]
        if not np.isfinite(part[0]).all():
            raise UserError("a weight is not a number: the run's weights are NaN, or its training has diverged")
        largest, weights, squares, log_weights = part
        found.append((-log_weights / samples, -(largest + np.log(weights / samples)), weights**2 / squares))
        bounds = Bounds(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
        tell(bounds)
    return bounds


def _adder(sampler: ImportanceSampler) -> Callable[[Variables, Any, Batch, Array, _Sums], _Sums]:
    """Adds one sample of each image to the sums."""

    def add(variables: Variables, encoded: Any, batch: Batch, key: Array, sums: _Sums) -> _Sums:
        log_w = sampler.log_weight(variables, encoded, batch, key)
        largest = jnp.maximum(sums.largest, log_w)
        shrunk, new = jnp.exp(sums.largest - largest), jnp.exp(log_w - largest)
        return _Sums(
            largest,
            sums.weights * shrunk + new,
            sums.squares * jnp.square(shrunk) + jnp.square(new),
            sums.log_weights + log_w,
        )

    return add


def named_bounds(
    bounds: Bounds, data: DiscreteData | None, samples: int, given_label: bool, shape: tuple[int, int, int]
) -> dict[str, tuple[float, float]]:
    """Means over images with their standard errors, by names that say what can be compared: see `bound_metrics`."""
    nats = {"ELBO": bounds.neg_elbo, f"IWAE-{samples}": bounds.neg_iwae}
    on_device = {name: jnp.asarray(x, jnp.float32) for name, x in nats.items()}
    values = bound_metrics(data, on_device, given_label, math.prod(shape))
    of_images = {name: np.asarray(x, np.float64) for name, x in values.items()}
    return {name: _mean_and_error(x) for name, x in (of_images | {"effective_samples": bounds.effective}).items()}


def _mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """The mean, and its standard error, which one value does not have."""
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(values.mean()), float(error)
