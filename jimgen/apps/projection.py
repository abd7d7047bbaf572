"""Projection: finds the codes of given pictures in the latent space of a trained model, by gradient descent.

A space of w is searched for w, from the mean code and from random ones, and then for the z that is mapped to the
nearest w, and on for the z with the nearest image. A space of z is searched for z alone, from the encoder's code where
there is an encoder. Every picture is searched for by itself and with the same noise, so its result does not depend on
the others.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jimgen import noise
from jimgen.cpu import compiler_options
from jimgen.methods.latents import noise_keys
from jimgen.methods.method import LatentSpace
from jimgen.metrics.image_quality import psnr
from jimgen.train_step import Variables

NUM_DRAWS = 1024  # codes that tell how far codes spread
LEAST_SIDE = 4  # pixels of the coarsest scale on which pictures are compared
NOISE_ENDS = 0.75  # of the steps


class Search(NamedTuple):
    """How codes are searched for. Lengths are in standard deviations of an entry of the code."""

    steps: int = 500
    starts: int = 3  # searches for each picture, of which the best result is kept
    learning_rate: float = 0.1  # of Adam; it falls to zero along a cosine
    noise: float = 0.05  # standard deviation at the first step; it falls to zero after three quarters of the steps
    prior: float = 0.1  # weight of the cost of a z that is longer than draws of N(0, I) are


class Found(NamedTuple):
    """The codes that were found for n pictures, and how near they come."""

    codes: np.ndarray  # float [n, d]
    images: np.ndarray  # float32 [n, h, w, c], the images of the codes, in [-1, 1]
    mse: np.ndarray  # [n], mean squared error of the pixels
    psnr: np.ndarray  # [n], decibels
    distance: np.ndarray  # [n], from the mean code; 1 is the root mean square of random codes


class Projection(NamedTuple):
    """What was found in w, if the space is one of w, and in z."""

    w: Found | None
    z: Found


class _Given(NamedTuple):
    """What a search needs to know, one row for each start and picture."""

    variables: Variables
    images: Array  # [r, h, w, c]
    labels: Array
    keys: Array
    centre: Array  # [r, d], of the codes that are searched for
    scale: Array  # [r, 1], standard deviation of their entries
    codes: Array  # [r, d], codes w that z is to be mapped to
    spread: Array  # [r], root mean square distance of codes from the mean code
    prior: Array  # [r], of `Search`


Loss = Callable[[Array, _Given], Array]  # (codes [r, d], given) -> [r]


class _Losses(NamedTuple):
    image_of_code: Loss
    image_of_z: Loss
    code_of_z: Loss


def project(
    space: LatentSpace, variables: Variables, images: Array, labels: Array, key: Array, search: Search | None = None
) -> Projection:
    """Finds codes whose images are near to the given ones.

    The distance of two images is the sum of their mean squared errors, of pixels and of averages over 2x2, 4x4, ...
    pixels. No result is worse in this than the best start.

    Args:
        space, variables: latent space of a method, and the variables to draw with.
        images: float [n, h, w, c] in [-1, 1], as the space decodes them.
        labels: int32 [n] or [n, columns], for which the images are drawn.
        key: PRNG key of starts and noise, and of the noise that a net adds to images.
        search: see `Search`.
    Raises:
        ValueError: fewer than one step or start, or images of another shape than those that the space decodes.
    References:
        Karras et al., arXiv:1912.04958, section 5 and appendix D, for the noise and the learning rate that fall; they
        compare images by LPIPS, and search for the noise that the net adds too.
    """
    search = search or Search()
    if search.steps < 1 or search.starts < 1:
        raise ValueError(f"a search takes at least 1 step and 1 start, got {search.steps} and {search.starts}")
    n, d = len(images), space.latent_dim
    keys = noise_keys(key, jnp.zeros(n, jnp.int32))
    z = noise.normal(jax.random.fold_in(key, 0), jnp.arange(NUM_DRAWS), (d,))
    drawn, centre, spread = _spread(space, variables, z, labels)
    shape = jax.eval_shape(space.decode, variables, centre, labels, keys).shape
    if shape != images.shape:
        raise ValueError(f"the space decodes images {list(shape[1:])}, got {list(images.shape[1:])}")
    losses = _losses(space)
    scale = spread[:, None] / math.sqrt(centre.shape[1])
    given = _Given(variables, images, labels, keys, centre, scale, centre, spread, jnp.full(n, search.prior))

    first = centre if space.encode is None else jax.jit(space.encode)(variables, images, labels)
    starts = jnp.concatenate([first[None], jnp.swapaxes(drawn[:, : search.starts - 1], 0, 1)])
    codes = _search(losses.image_of_code if space.is_straight else losses.image_of_z, starts, given, search, key)
    found = _found(space)(given, codes, codes)
    if not space.is_straight:
        return Projection(None, _on_host(found))
    of_z = given._replace(centre=jnp.zeros((n, d)), scale=jnp.ones((n, 1)), codes=codes)
    starts = jnp.repeat(z[: search.starts, None], n, axis=1)
    nearest = _search(losses.code_of_z, starts, of_z, search, jax.random.fold_in(key, 1))
    nearest = _search(losses.image_of_z, nearest[None], of_z, search, jax.random.fold_in(key, 2))
    mapped = jax.jit(space.from_z)(variables, nearest, labels)
    return Projection(_on_host(found), _on_host(_found(space)(given, nearest, mapped)))


def _spread(space: LatentSpace, variables: Variables, z: Array, labels: Array) -> tuple[Array, Array, Array]:
    """Codes of z for each picture, [n, len(z), d]; the mean code [n, d]; and the spread of codes about it, [n].

    They depend on labels alone, so each row of labels is looked at once.
    """
    rows, place = np.unique(np.asarray(labels), axis=0, return_inverse=True)
    codes_of, centre = jax.jit(space.from_z), jax.jit(space.centre)(variables, labels)
    codes = np.stack([np.asarray(codes_of(variables, z, np.repeat(row[None], len(z), axis=0))) for row in rows])
    codes = codes[place.reshape(-1)]
    spread = np.sqrt(np.square(codes - np.asarray(centre)[:, None]).sum(-1).mean(-1))
    return jnp.asarray(codes), centre, jnp.asarray(np.where(spread > 0, spread, 1).astype(codes.dtype))


@lru_cache(maxsize=4)
def _losses(space: LatentSpace) -> _Losses:
    """The costs [r] that searches descend on; the same functions for the same space, so that each compiles once."""

    def image_of_code(codes: Array, given: _Given) -> Array:
        keys = jax.random.clone(given.keys)  # the same noise at each step, on purpose
        return image_distance(space.decode(given.variables, codes, given.labels, keys), given.images)

    def image_of_z(z: Array, given: _Given) -> Array:
        codes = space.from_z(given.variables, z, given.labels)
        return image_of_code(codes, given) + given.prior * excess_length(z)

    def code_of_z(z: Array, given: _Given) -> Array:
        codes = space.from_z(given.variables, z, given.labels)
        return jnp.square((codes - given.codes) / given.spread[:, None]).sum(-1) + given.prior * excess_length(z)

    return _Losses(image_of_code, image_of_z, code_of_z)


def image_distance(x: Array, y: Array) -> Array:
    """The sum of mean squared errors of images and of their averages over 2x2, 4x4, ... pixels, down to 4 a side.

    Args:
        x, y: float [n, h, w, c]. A side that two does not divide loses its last row of pixels before averaging.
    Returns: [n].
    """
    total = jnp.square(x - y).mean((1, 2, 3))
    difference = x - y
    while min(difference.shape[1:3]) >= 2 * LEAST_SIDE:
        n, h, w, c = difference.shape
        blocks = difference[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c)
        difference = blocks.mean((2, 4))
        total += jnp.square(difference).mean((1, 2, 3))
    return total


def excess_length(z: Array) -> Array:
    """How much longer z is than draws of N(0, I) are: [n] of [n, d].

    max(0, |z|^2 / d - 1 - 2 sqrt(2 / d))^2: zero up to two standard deviations above the mean of |z|^2 / d.
    """
    d = z.shape[1]
    return jnp.square(jax.nn.relu(jnp.square(z).mean(-1) - 1 - 2 * math.sqrt(2 / d)))


def _search(loss: Loss, starts: Array, given: _Given, search: Search, key: Array) -> Array:
    """The codes [n, d] of the least loss among starts [s, n, d] and what a search from each of them finds."""
    begin, step, best = _programs(loss)
    numbers = jax.tree.map(np.float32, search)  # not Python's, so that other values compile nothing new
    units, state = begin(starts, given)
    for number in range(search.steps):
        units, state = step(units, state, given, key, number, numbers)
    return best(starts, units, given)


@lru_cache(maxsize=16)
def _programs(loss: Loss) -> tuple[Callable[..., Any], ...]:
    """Compiled parts of a search: from starts to units [s, n, d] of the scale, a step of Adam, and the choice at last.

    A step is a call, as convolutions in a loop of XLA are many times slower on CPU.
    """
    tx = optax.scale_by_adam()

    def codes_of(units: Array, given: _Given) -> Array:
        return given.centre[None] + given.scale[None] * units

    def losses_of(codes: Array, given: _Given) -> Array:
        """[s, n] of codes [s, n, d]."""
        rows = jnp.tile(jnp.arange(codes.shape[1]), len(codes))
        every = _Given(given.variables, *(x[rows] for x in given[1:]))
        return loss(codes.reshape(len(rows), -1), every).reshape(codes.shape[:2])

    def begin(starts: Array, given: _Given) -> tuple[Array, Any]:
        units = (starts - given.centre[None]) / given.scale[None]
        return units, tx.init(units)

    def step(units: Array, state: Any, given: _Given, key: Array, number: Array, search: Search) -> tuple[Array, Any]:
        done = number / search.steps
        drawn = noise.normal(jax.random.fold_in(key, number), jnp.arange(len(units)), units.shape[2:])
        near = units + search.noise * jax.nn.relu(1 - done / NOISE_ENDS) ** 2 * drawn[:, None]
        gradient = jax.grad(lambda units: losses_of(codes_of(units, given), given).sum())(near)
        direction, state = tx.update(gradient, state)
        rate = search.learning_rate * (1 + jnp.cos(jnp.pi * done)) / 2
        return units - rate * direction, state  # pyright: ignore[reportOperatorIssue]

    def best(starts: Array, units: Array, given: _Given) -> Array:
        codes = jnp.concatenate([starts, codes_of(units, given)])
        losses = losses_of(codes, given)
        chosen = jnp.where(jnp.isnan(losses), jnp.inf, losses).argmin(0)
        return codes[chosen, jnp.arange(len(chosen))]

    options = compiler_options(jax.default_backend())
    return tuple(jax.jit(function, compiler_options=options) for function in (begin, step, best))


@lru_cache(maxsize=4)
def _found(space: LatentSpace) -> Callable[[_Given, Array, Array], Found]:
    """A compiled function (given, codes of w or z, codes that the space decodes) -> results."""

    def found(given: _Given, codes: Array, mapped: Array) -> Found:
        images = space.decode(given.variables, mapped, given.labels, jax.random.clone(given.keys))
        square = jnp.square(images - given.images).mean((1, 2, 3))
        distance = jnp.sqrt(jnp.square(mapped - given.centre).sum(-1)) / given.spread
        return Found(codes, images, square, psnr(images, given.images, data_range=2.0), distance)  # pyright: ignore

    return jax.jit(found)


def _on_host(found: Found) -> Found:
    return Found(*(np.asarray(x) for x in found))
