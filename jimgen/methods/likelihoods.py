"""Likelihoods p(x|z) of decoders: what an image is taken to be, and what a decoder's output means."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jimgen import noise
from jimgen.metrics.likelihood import DiscreteData, LikelihoodProtocol
from jimgen.objectives import (
    bernoulli_nll,
    bits_per_dim,
    discretised_logistic_log_prob,
    gaussian_nll,
    logistic_mixture_nll,
    soft_lower_bound,
)


class Likelihood(NamedTuple):
    """p(x|z): the data x that it models, and the interpretation of the decoder's output. Arrays [b, h, w, c]."""

    observe: Callable[[Array, Array, Array], Array]  # (key, index [b], images in [-1, 1]) -> x
    as_images: Callable[[Array], Array]  # x, or its expectation -> images in [-1, 1]
    expectation: Callable[[Array], Array]  # decoder output -> E[x|z]
    nll: Callable[[Any, Array, Array, Array | None], Array]
    # (params, decoder output, x, where) -> -log p(x|z) of the pixels where bool [b, h, w, c], None for all: nats [b]
    data: DiscreteData | None  # the kind of discrete x, whose nats are a code length; None for others
    outputs: int = 1  # the decoder's outputs for each value of x, side by side along the last axis
    log_probs: Callable[[Array, Array, Array], Array] | None = None
    # (decoder output, x, places int [k] in the flat h w c) -> log p(x|z) of every level of discrete x: [b, k, levels]
    turns: Callable[[int, int], np.ndarray] = lambda height, width: np.zeros((height, width), int)
    # (h, w) -> int [h, w]: `log_probs` of a pixel depend on no x but those of pixels of earlier turns
    params: dict[str, float] = {}  # initial values of parameters that are learned with the nets


def bernoulli(binarise: bool = True) -> Likelihood:
    """Independent Bernoulli pixels; the decoder's output is their logits.

    With `binarise`, x is drawn from the grey values anew at each step (dynamic binarisation; Salakhutdinov and Murray
    2008). Without, x is the grey value itself: a common cross-entropy loss, which is not a likelihood.
    """

    def observe(key: Array, index: Array, images: Array) -> Array:
        grey = jnp.clip((images + 1) / 2, 0.0, 1.0)
        return noise.bernoulli(key, index, grey) if binarise else grey

    def log_probs(logits: Array, x: Array, places: Array) -> Array:
        chosen = logits.reshape(len(logits), -1)[:, places]
        return jax.nn.log_sigmoid(jnp.stack([-chosen, chosen], -1))

    return Likelihood(
        observe=observe,
        as_images=lambda x: 2 * x - 1,
        expectation=jax.nn.sigmoid,
        nll=lambda _, logits, x, where: bernoulli_nll(logits, x, where),
        data="binarised" if binarise else None,
        log_probs=log_probs if binarise else None,
    )


def gaussian(sigma: float | None = None, initial: float = 1.0) -> Likelihood:
    """Pixels in [-1, 1] are the decoder's output plus noise of standard deviation sigma, shared; None learns sigma.

    A fixed sigma gives the loss ||x - D(E(x))||^2 + 2 sigma^2 KL up to a factor and a constant: lambda = 2 sigma^2. A
    learned sigma has a soft lower bound (Rybkin et al., arXiv:2006.13202), and begins at `initial` > 0.

    Raises:
        ValueError: if sigma or initial is not above 0.
    """
    if not 0 < initial < math.inf:
        raise ValueError(f"--sigma {initial}: must be above 0, also where learning it begins there")
    if sigma is not None and not 0 < sigma < math.inf:
        raise ValueError(f"--sigma {sigma}: must be above 0; --likelihood learned_gaussian learns it")

    def log_sigma(params: Any) -> Array:
        return soft_lower_bound(params["log_sigma"], -6.0) if sigma is None else jnp.asarray(math.log(sigma))

    return Likelihood(
        observe=lambda key, index, images: images,
        as_images=lambda x: x,
        expectation=lambda mean: mean,
        nll=lambda params, mean, x, where: gaussian_nll(x, mean, log_sigma(params), where),
        data=None,
        params={"log_sigma": math.log(initial)} if sigma is None else {},
    )


def logistic_mixture(components: int = 5, neighbours: bool = False) -> Likelihood:
    """Mixtures of discretised logistics over the 256 levels of each value: an exact likelihood of images of 8 bits.

    For each value of a pixel the decoder has 3 outputs a component: a logit, a mean in units of x, and a log scale less
    2, so that components begin narrow. Channels are independent given z.

    With `neighbours`, three more outputs are factors of the values above, to the left and above left, which are added
    to the means, as PixelCNN++ does it for channels (arXiv:1701.05517, section 2.2). So z need not say what neighbours
    say, and p(x|z) is still computed in one pass; the expectation takes one pixel after another.

    Raises:
        ValueError: if components < 1.
    """
    if components < 1:
        raise ValueError(f"--components {components}: must be at least 1")
    outputs = 3 * components + 3 * neighbours

    def split(output: Array) -> tuple[Array, Array, Array, Array]:
        """Logits, means and log scales [b, h, w, c, components], and factors of neighbours [b, h, w, c, 3]."""
        each = output.reshape(*output.shape[:-1], output.shape[-1] // outputs, outputs)
        logits, mean, log_scale = jnp.split(each[..., : 3 * components], 3, axis=-1)
        return logits, mean, log_scale - 2.0, each[..., 3 * components :]

    def distribution(output: Array, x: Array) -> tuple[Array, Array, Array]:
        logits, mean, log_scale, factors = split(output)
        if neighbours:
            mean += (factors * _neighbours(x)).sum(-1, keepdims=True)
        return logits, mean, log_scale

    def expectation(output: Array) -> Array:
        logits, mean, _, factors = split(output)
        if not neighbours:
            return (jax.nn.softmax(logits) * jnp.clip(mean, -1.0, 1.0)).sum(-1)
        return _expectation_by_pixels((jax.nn.softmax(logits) * mean).sum(-1), factors)

    def log_probs(output: Array, x: Array, places: Array) -> Array:
        parts = (part.reshape(len(x), -1, 1, components)[:, places] for part in distribution(output, x))
        logits, mean, log_scale = parts  # [b, k, 1, components]
        shape = (*mean.shape[:2], 256, components)
        levels = (jnp.arange(256) / 127.5 - 1)[None, None, :, None]
        log_p = discretised_logistic_log_prob(*(jnp.broadcast_to(a, shape) for a in (levels, mean, log_scale)))
        return jax.nn.logsumexp(jax.nn.log_softmax(logits) + log_p, axis=-1)

    likelihood = Likelihood(
        observe=lambda key, index, images: images,
        as_images=lambda x: x,
        expectation=expectation,
        nll=lambda _, output, x, where: logistic_mixture_nll(x, *distribution(output, x), where),
        data="8-bit",
        log_probs=log_probs,
        outputs=outputs,
    )
    diagonals = lambda height, width: np.arange(height)[:, None] + np.arange(width)  # noqa: E731
    return likelihood._replace(turns=diagonals) if neighbours else likelihood


def _neighbours(x: Array) -> Array:
    """The values above, to the left and above left of each place of x [b, h, w, c], -1 outside: [b, h, w, c, 3]."""
    padded = jnp.pad(x, ((0, 0), (1, 0), (1, 0), (0, 0)), constant_values=-1.0)
    return jnp.stack([padded[:, :-1, 1:], padded[:, 1:, :-1], padded[:, :-1, :-1]], axis=-1)


def _expectation_by_pixels(mean: Array, factors: Array) -> Array:
    """E[x|z] where the mean of each pixel [b, h, w, c] also has the factors [b, h, w, c, 3] of its neighbours."""

    def row(above: Array, given: tuple[Array, Array]) -> tuple[Array, Array]:  # above: [w + 1, b, c], -1 first
        def pixel(left: Array, of_pixel: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
            mean, factors, up, up_left = of_pixel
            x = jnp.clip(mean + (factors * jnp.stack([up, left, up_left], -1)).sum(-1), -1.0, 1.0)
            return x, x

        _, found = jax.lax.scan(pixel, jnp.full_like(above[0], -1.0), (*given, above[1:], above[:-1]))
        return jnp.concatenate([above[:1], found]), found

    b, _, w, c = mean.shape
    given = mean.transpose(1, 2, 0, 3), factors.transpose(1, 2, 0, 3, 4)
    _, rows = jax.lax.scan(row, jnp.full((w + 1, b, c), -1.0, mean.dtype), given)
    return rows.transpose(2, 0, 1, 3)


def bound_metrics(
    data: DiscreteData | None, bounds: Mapping[str, Array], given_label: bool, num_dims: int
) -> dict[str, Array]:
    """Metrics of bounds of -log p(x), whose names say what can be compared.

    Args:
        data: that of the likelihood.
        bounds: float [b] nats by name: ELBO, IWAE-64.
        given_label: whether they are likelihoods given the label.
        num_dims: h w c.
    Returns:
        For discrete x nats[DATA,BOUND] and bits_per_dim[DATA,BOUND], with "_given_label" before the bracket where it
        applies; else neg_BOUND_nats.
    """
    given = "_given_label" if given_label else ""
    metrics = {}
    for bound, nats in bounds.items():
        if data is None:
            metrics[f"neg_{bound.lower()}_nats"] = nats
        else:
            protocol = LikelihoodProtocol(data, bound)
            metrics[protocol.name(f"nats{given}")] = nats
            metrics[protocol.name(f"bits_per_dim{given}")] = bits_per_dim(nats, num_dims)
    return metrics
