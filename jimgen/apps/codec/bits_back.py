"""Lossless coding of images by a hierarchical VAE: bits back with asymmetric numeral systems.

Townsend, Bird and Barber, Practical Lossless Compression with Latent Variables using Bits Back Coding,
arXiv:1901.04866. To code an image, the latents of each level are popped off a stack of bits as if they were coded under
the posterior, the image is pushed given the latents, and the latents are pushed under the prior. So an image adds its
negative ELBO. Decoding runs this backwards, and gives back the bits that were popped. The first image pops bits that
nobody has pushed: random words, which count as part of the code.

Each latent is one of 2^n bins of equal mass under its prior, so that n bits code it under the prior exactly. n belongs
to the place of a latent: as few as the posteriors of some images need, and 0 where they equal the prior.

The code is exact where encoder and decoder compute the same probabilities to the last bit: on one machine, with one
version of JAX.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.special import ndtr, ndtri

from jimgen.apps.codec.range_coder import constriction
from jimgen.data.batches import scale_images
from jimgen.errors import UserError
from jimgen.methods.hierarchical_vae import Gaussian, Hierarchy
from jimgen.train_step import Variables

MOST_BITS = 14  # of a latent; a table of 2^14 probabilities for each
INACTIVE = 2e-3  # KL in nats of a latent that gets no bits
NEEDED_BY = 0.95  # the part of the images whose posteriors the bins resolve
SEED = 0  # of the initial words


class Coder(NamedTuple):
    """What encoder and decoder share."""

    nets: Hierarchy
    variables: Variables
    bits: tuple[np.ndarray, ...]  # of each latent, by level from the top: int64 [*latent_shape]
    labels: Array  # int32 [1] or [1, columns], of every image
    image_shape: tuple[int, int, int]
    turns: tuple[np.ndarray, ...]  # the places in the flat image that are coded together, by turn
    programs: "_Programs"


class _Programs(NamedTuple):
    """The compiled functions, the same for both directions; all batches are of one image."""

    features: Callable[..., Any]  # (variables, images, labels) -> features
    begin: Callable[..., Any]  # (variables, labels) -> state
    prior: Callable[..., Any]  # (variables, i, state) -> state, prior
    posterior: Callable[..., Any]  # (variables, i, state, features, prior) -> posterior in units of the prior
    absorb: Callable[..., Any]  # (variables, i, state, prior, eps) -> state
    output: Callable[..., Any]  # (variables, state) -> the decoder's output
    log_probs: Callable[..., Any]  # (output, images, places) -> log p(x|z) of every level of x at these places


def make_coder(nets: Hierarchy, variables: Variables, images: np.ndarray, labels: Array) -> Coder:
    """A coder whose bins suit the posteriors of some images, such as samples or training images.

    Args:
        nets: of a hierarchical VAE whose likelihood is of discrete x.
        variables: of the nets.
        images: uint8 [n, h, w, c], some tens. Another choice makes another, incompatible code.
        labels: int32 [1] or [1, columns], for all images; nets that know none ignore them.
    Raises:
        UserError: a likelihood that is not of discrete x, or weights that are not numbers.
    """
    if nets.likelihood.log_probs is None:
        raise UserError("lossless coding needs a likelihood of discrete pixels: bernoulli or logistic_mixture")
    programs = _programs(nets)
    needs, kls = [], []
    for image in images:
        posteriors = _mean_posteriors(nets, programs, variables, image, labels)
        needs.append([_needed_bins(q) for q in posteriors])
        kls.append([(np.square(q.mean) + np.expm1(q.logvar) - q.logvar) / 2 for q in posteriors])
    bits = []
    for level in range(nets.num_levels):
        need = np.quantile(np.stack([of_image[level] for of_image in needs]), NEEDED_BY, axis=0)
        is_active = np.mean([of_image[level] for of_image in kls], axis=0) > INACTIVE
        bits.append(np.where(is_active, np.clip(np.ceil(np.log2(need)), 1, MOST_BITS), 0).astype(np.int64))
    shape = images.shape[1:]
    return Coder(nets, variables, tuple(bits), labels, shape, _turns(nets, shape), programs)


def encode(coder: Coder, images: np.ndarray) -> np.ndarray:
    """Images uint8 [n, h, w, c] -> their code, uint32 [words]. For a binarised model, pixels are 0 or 255.

    Raises:
        UserError: images of another shape or range, or weights that are not numbers.
    """
    if images.dtype != np.uint8 or images.shape[1:] != coder.image_shape:
        raise UserError(f"expected images uint8 [n, *{coder.image_shape}], got {images.dtype} {list(images.shape)}")
    stack = _Stack(_initial_words(coder))
    for image in images:
        features = _features(coder, image)
        chosen, states, priors = [], [], []

        def pop(i: int, state: Array, p: Gaussian, features: Any = features, found: list = chosen) -> np.ndarray:
            q = coder.programs.posterior(coder.variables, i, state, features, p)
            found.append(_pop_latents(stack, coder.bits[i], _host(q)))
            return found[-1]

        state = _descend(coder, pop, states, priors)
        output, symbols = coder.programs.output(coder.variables, state), _symbols(coder, image)
        for places in reversed(coder.turns):
            stack.push(symbols[places], _pixel_probabilities(coder, output, image, places))
        for i in reversed(range(coder.nets.num_levels)):
            _push_uniform(stack, coder.bits[i], chosen[i])
    return stack.words()


def decode(coder: Coder, words: np.ndarray, count: int) -> np.ndarray:
    """The inverse of `encode`: words uint32 and the number of images -> images uint8 [count, h, w, c].

    Damaged words give other images, not an error: store a checksum beside them.
    """
    stack = _Stack(words)
    images = []
    for _ in range(count):
        chosen: list[np.ndarray] = []
        states: list[Array] = []
        priors: list[Gaussian] = []

        def pop(i: int, state: Array, p: Gaussian, found: list[np.ndarray] = chosen) -> np.ndarray:
            found.append(_pop_uniform(stack, coder.bits[i]))
            return found[-1]

        state = _descend(coder, pop, states, priors)
        output, image = coder.programs.output(coder.variables, state), np.zeros(coder.image_shape, np.uint8)
        for places in coder.turns:
            image.ravel()[places] = _levels(coder, stack.pop(_pixel_probabilities(coder, output, image, places)))
        features = _features(coder, image)
        for i in reversed(range(coder.nets.num_levels)):
            q = coder.programs.posterior(coder.variables, i, states[i], features, priors[i])
            _push_latents(stack, coder.bits[i], _host(q), chosen[i])
        images.append(image)
    return np.stack(images[::-1]) if images else np.zeros((0, *coder.image_shape), np.uint8)


def code_bits_per_dim(words: np.ndarray, images: np.ndarray) -> float:
    """Bits of the code, the initial ones included, over the number of values of the images."""
    return 32 * len(words) / images.size


# The nets, one image at a time.


def _programs(nets: Hierarchy) -> _Programs:
    def posterior(variables: Variables, i: int, state: Array, features: Any, p: Gaussian) -> Gaussian:
        q = nets.posterior(variables, i, state, features)
        return Gaussian((q.mean - p.mean) * jnp.exp(-p.logvar / 2), q.logvar - p.logvar)

    def absorb(variables: Variables, i: int, state: Array, p: Gaussian, eps: Array) -> Array:
        return nets.absorb(variables, i, state, p.at(eps))

    def log_probs(output: Array, images: Array, places: Array) -> Array:
        assert nets.likelihood.log_probs is not None
        return nets.likelihood.log_probs(output, scale_images(images), places)

    level = partial(jax.jit, static_argnums=1)
    return _Programs(
        jax.jit(nets.features),
        jax.jit(nets.begin),
        level(nets.prior),
        level(posterior),
        level(absorb),
        jax.jit(nets.output),
        jax.jit(log_probs),
    )


def _features(coder: Coder, image: np.ndarray) -> Any:
    return coder.programs.features(coder.variables, scale_images(jnp.asarray(image[None])), coder.labels)


def _descend(
    coder: Coder,
    choose: Callable[[int, Array, Gaussian], np.ndarray],
    states: list[Array],
    priors: list[Gaussian],
) -> Array:
    """The last state; `choose` gives the bins of each level. Keeps the state and the prior of each level."""
    programs, variables = coder.programs, coder.variables
    state = programs.begin(variables, coder.labels)
    for i in range(coder.nets.num_levels):
        state, p = programs.prior(variables, i, state)
        states.append(state)
        priors.append(p)
        eps = _centres(coder.bits[i], choose(i, state, p))
        state = programs.absorb(variables, i, state, p, jnp.asarray(eps[None]))
    return state


def _mean_posteriors(
    nets: Hierarchy, programs: _Programs, variables: Variables, image: np.ndarray, labels: Array
) -> list[Gaussian]:
    """The posterior of each level in units of its prior, [*latent_shape]; each latent is the posterior's mean."""
    features = programs.features(variables, scale_images(jnp.asarray(image[None])), labels)
    state, found = programs.begin(variables, labels), []
    for i in range(nets.num_levels):
        state, p = programs.prior(variables, i, state)
        q = programs.posterior(variables, i, state, features, p)
        found.append(_host(q))
        state = programs.absorb(variables, i, state, p, q.mean)
    return found


def _host(q: Gaussian) -> Gaussian:
    """The posterior of one image in float64. Raises UserError where it is not a number."""
    mean, logvar = (np.asarray(x, np.float64)[0] for x in q)
    if not (np.isfinite(mean).all() and np.isfinite(logvar).all()):
        raise UserError("a posterior is not a number: the run's weights are NaN, or its training has diverged")
    return Gaussian(mean, logvar)  # pyright: ignore[reportArgumentType]


def _pixel_probabilities(coder: Coder, output: Array, image: np.ndarray, places: np.ndarray) -> np.ndarray:
    """p(x|z) at the places of a turn, given earlier turns of the image: float64 [places, levels of x].

    Encoder and decoder run this one program, whose turns are all padded to the length of the longest.
    """
    padded = np.zeros(max(map(len, coder.turns)), np.int32)
    padded[: len(places)] = places
    log_p = coder.programs.log_probs(output, jnp.asarray(image[None]), jnp.asarray(padded))
    log_p = np.asarray(log_p, np.float64)[0, : len(places)]
    if not np.isfinite(log_p).all():
        raise UserError("a probability is not a number: the run's weights are NaN, or its training has diverged")
    return np.exp(log_p)


def _turns(nets: Hierarchy, shape: tuple[int, int, int]) -> tuple[np.ndarray, ...]:
    height, width, channels = shape
    turns = np.repeat(nets.likelihood.turns(height, width).ravel(), channels)
    return tuple(np.flatnonzero(turns == turn) for turn in range(turns.max() + 1))


def _symbols(coder: Coder, image: np.ndarray) -> np.ndarray:
    if coder.nets.likelihood.data == "8-bit":
        return image.astype(np.int32).ravel()
    if not np.isin(image, (0, 255)).all():
        raise UserError("a binarised model codes images whose pixels are 0 or 255")
    return (image // 255).astype(np.int32).ravel()


def _levels(coder: Coder, symbols: np.ndarray) -> np.ndarray:
    return (symbols if coder.nets.likelihood.data == "8-bit" else 255 * symbols).astype(np.uint8)


# Bins of latents.


def _needed_bins(q: Gaussian) -> np.ndarray:
    """Bins of equal mass of N(0, 1) that are no wider at the mean of q than its standard deviation."""
    density = np.exp(-np.square(np.clip(q.mean, -4, 4)) / 2) / math.sqrt(2 * math.pi)
    return 1 / (np.exp(np.asarray(q.logvar) / 2) * density)


def _centres(bits: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """The value of each bin in units of the prior: the quantile in the middle of its mass."""
    return ndtri((bins + 0.5) / 2.0**bits).astype(np.float32)


def _groups(bits: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """(n, places in the flat array) of the latents of n bits, for each n above 0."""
    flat = bits.ravel()
    return [(int(n), np.flatnonzero(flat == n)) for n in np.unique(flat) if n]


def _bin_probabilities(n: int, mean: np.ndarray, logvar: np.ndarray) -> np.ndarray:
    """Masses of 2^n bins under N(mean, exp logvar): float64 [latents, 2^n]."""
    edges = ndtri(np.arange(2**n + 1) / 2**n)
    return np.diff(ndtr((edges[None] - mean[:, None]) * np.exp(-logvar / 2)[:, None]), axis=1)


def _pop_latents(stack: "_Stack", bits: np.ndarray, q: Gaussian) -> np.ndarray:
    bins = np.zeros(bits.size, np.int32)
    mean, logvar = (np.ravel(np.asarray(x)) for x in q)
    for n, places in _groups(bits):
        bins[places] = stack.pop(_bin_probabilities(n, mean[places], logvar[places]))
    return bins.reshape(bits.shape)


def _push_latents(stack: "_Stack", bits: np.ndarray, q: Gaussian, bins: np.ndarray) -> None:
    mean, logvar = (np.ravel(np.asarray(x)) for x in q)
    for n, places in reversed(_groups(bits)):
        stack.push(bins.ravel()[places], _bin_probabilities(n, mean[places], logvar[places]))


def _pop_uniform(stack: "_Stack", bits: np.ndarray) -> np.ndarray:
    bins = np.zeros(bits.size, np.int32)
    for n, places in _groups(bits):
        bins[places] = stack.pop_uniform(2**n, len(places))
    return bins.reshape(bits.shape)


def _push_uniform(stack: "_Stack", bits: np.ndarray, bins: np.ndarray) -> None:
    for n, places in reversed(_groups(bits)):
        stack.push_uniform(2**n, bins.ravel()[places])


# The stack of bits.


def _initial_words(coder: Coder) -> np.ndarray:
    """More random words than the first image can need; those that stay untouched are cut off afterwards."""
    count = 2 * sum(int(bits.sum()) for bits in coder.bits) // 32 + 64
    words = np.random.default_rng(SEED).integers(0, 2**32, count, np.uint32)
    words[-1] |= 1  # the last word of a code is not zero
    return words


class _Stack:
    """An ANS coder, which remembers how far down it has been read."""

    def __init__(self, words: np.ndarray):
        if words.dtype != np.uint32 or words.ndim != 1:
            raise UserError(f"expected words uint32 [n], got {words.dtype} {list(words.shape)}")
        library = constriction()
        self.coder = library.stream.stack.AnsCoder(np.ascontiguousarray(words))
        self.categorical = library.stream.model.Categorical(perfect=False)
        self.uniform = library.stream.model.Uniform
        self.lowest = self.coder.num_words()

    def pop(self, probabilities: np.ndarray) -> np.ndarray:
        found = self.coder.decode(self.categorical, np.ascontiguousarray(probabilities))
        self.lowest = min(self.lowest, self.coder.num_words())
        return found

    def push(self, symbols: Sequence[int] | np.ndarray, probabilities: np.ndarray) -> None:
        symbols = np.ascontiguousarray(symbols, np.int32)
        self.coder.encode_reverse(symbols, self.categorical, np.ascontiguousarray(probabilities))

    def pop_uniform(self, size: int, count: int) -> np.ndarray:
        return self.coder.decode(self.uniform(size), count)

    def push_uniform(self, size: int, symbols: np.ndarray) -> None:
        self.coder.encode_reverse(np.ascontiguousarray(symbols, np.int32), self.uniform(size))

    def words(self) -> np.ndarray:
        """The code without the words at its bottom that were never read; the state itself is two words."""
        return self.coder.get_compressed()[max(0, self.lowest - 4) :]
