"""Likelihoods p(x|z) of decoders: what an image is taken to be, and what a decoder's output means."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jimgen import noise
from jimgen.metrics.likelihood import LikelihoodProtocol
from jimgen.objectives import (
    bernoulli_nll,
    bits_per_dim,
    discretised_logistic_log_prob,
    gaussian_nll,
    logistic_mixture_nll,
    soft_lower_bound,
)

DiscreteData = Literal["binarised", "8-bit"]


class Likelihood(NamedTuple):
    """p(x|z): the data x that it models, and the interpretation of the decoder's output. Arrays [b, h, w, c]."""

    observe: Callable[[Array, Array, Array], Array]  # (key, index [b], images in [-1, 1]) -> x
    as_images: Callable[[Array], Array]  # x, or its expectation -> images in [-1, 1]
    expectation: Callable[[Array], Array]  # decoder output -> E[x|z]
    nll: Callable[[Any, Array, Array, Array | None], Array]
    # (params, decoder output, x, where) -> -log p(x|z) of the pixels where bool [b, h, w, c], None for all: nats [b]
    data: DiscreteData | None  # the kind of discrete x, whose nats are a code length; None for others
    outputs: int = 1  # the decoder's outputs for each value of x, side by side along the last axis
    log_probs: Callable[[Array], Array] | None = None
    # decoder output -> log p(x|z) of every level of discrete x: [b, h, w, c, levels]
    params: dict[str, float] = {}  # initial values of parameters that are learned with the nets


def bernoulli(binarise: bool = True) -> Likelihood:
    """Independent Bernoulli pixels; the decoder's output is their logits.

    With `binarise`, x is drawn from the grey values anew at each step (dynamic binarisation; Salakhutdinov and Murray
    2008). Without, x is the grey value itself: a common cross-entropy loss, which is not a likelihood.
    """

    def observe(key: Array, index: Array, images: Array) -> Array:
        grey = jnp.clip((images + 1) / 2, 0.0, 1.0)
        return noise.bernoulli(key, index, grey) if binarise else grey

    return Likelihood(
        observe=observe,
        as_images=lambda x: 2 * x - 1,
        expectation=jax.nn.sigmoid,
        nll=lambda _, logits, x, where: bernoulli_nll(logits, x, where),
        data="binarised" if binarise else None,
        log_probs=(lambda logits: jax.nn.log_sigmoid(jnp.stack([-logits, logits], -1))) if binarise else None,
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


def logistic_mixture(components: int = 5) -> Likelihood:
    """Mixtures of discretised logistics over the 256 levels of each value: an exact likelihood of images of 8 bits.

    For each value of a pixel the decoder has 3 outputs a component: a logit, a mean in units of x, and a log scale less
    2, so that components begin narrow. Channels are independent given z.

    Raises:
        ValueError: if components < 1.
    """
    if components < 1:
        raise ValueError(f"--components {components}: must be at least 1")

    def split(output: Array) -> tuple[Array, Array, Array]:
        cut = output.reshape(*output.shape[:-1], output.shape[-1] // (3 * components), 3, components)
        return cut[..., 0, :], cut[..., 1, :], cut[..., 2, :] - 2.0

    def expectation(output: Array) -> Array:
        logits, mean, _ = split(output)
        return (jax.nn.softmax(logits) * jnp.clip(mean, -1.0, 1.0)).sum(-1)

    def log_probs(output: Array) -> Array:
        logits, mean, log_scale = (part[..., None, :] for part in split(output))
        x = jnp.arange(256) / 127.5 - 1
        shape = (*mean.shape[:-2], 256, components)
        x = jnp.broadcast_to(x.reshape((1,) * (mean.ndim - 2) + (256, 1)), shape)
        log_p = discretised_logistic_log_prob(x, jnp.broadcast_to(mean, shape), jnp.broadcast_to(log_scale, shape))
        return jax.nn.logsumexp(jax.nn.log_softmax(logits) + log_p, axis=-1)

    return Likelihood(
        observe=lambda key, index, images: images,
        as_images=lambda x: x,
        expectation=expectation,
        nll=lambda _, output, x, where: logistic_mixture_nll(x, *split(output), where),
        data="8-bit",
        log_probs=log_probs,
        outputs=3 * components,
    )


def bound_metrics(
    data: DiscreteData | None, bounds: Mapping[str, ArrayLike], given_label: bool, num_dims: int
) -> dict[str, ArrayLike]:
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
