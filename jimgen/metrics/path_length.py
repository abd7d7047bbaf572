"""Perceptual path length: the change of features for a small step of the latent. Smooth generators score low."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from jimgen.arcs import arc_between, turned


def slerp(z_start: Array, z_end: Array, t: Array) -> Array:
    """Spherical interpolation, [sin((1 - t) w) z_start + sin(t w) z_end] / sin w, w the angle between the two.

    For nearly opposite vectors (w > 3 pi / 4, rare in many dimensions) of different length, the formula gives unbounded
    lengths. Length and angle then change linearly with t; between opposite vectors this follows one of many arcs.
    Parallel vectors, a zero vector and one-dimensional vectors are interpolated along a straight line.

    Args:
        z_start, z_end: float [n, d].
        t: float [n], 0 to 1.
    Returns: [n, d]. Between vectors of equal length, of that length (except for d = 1).
    Raises:
        ValueError: for other shapes.
    References:
        Shoemake, Animating Rotation with Quaternion Curves, 1985; White, Sampling Generative Networks,
        arXiv:1609.04468.
    """
    if z_start.ndim != 2 or z_start.shape != z_end.shape or t.shape != z_start.shape[:1]:
        shapes = [list(array.shape) for array in (z_start, z_end, t)]
        raise ValueError(f"expected z_start and z_end [n, d] and t [n], got {shapes}")
    t = t[:, None]
    if z_start.shape[1] == 1:
        return (1 - t) * z_start + t * z_end
    arc = arc_between(z_start, z_end)
    turn, longer = turned(arc, t), arc.end_length - arc.start_length
    # z_end / |z_end| = cos w first + across, and sin((1 - t) w) = sin w cos(t w) - cos w sin(t w).
    along = arc.start_length * jnp.cos(t * arc.angle) + longer * turn * jnp.cos(arc.angle)
    plain = along * arc.first + arc.end_length * turn * arc.across
    even = (arc.start_length + t * longer) * (jnp.cos(t * arc.angle) * arc.first + turn * arc.across)
    return jnp.where(arc.angle > 0.75 * jnp.pi, even, plain)


def path_length(
    generate: Callable[[Array], Array],
    features: Callable[[Array], Array],
    z_start: Array,
    z_end: Array,
    t: Array,
    epsilon: float = 1e-4,
) -> Array:
    """|f(G(slerp(z_start, z_end; t))) - f(G(slerp(z_start, z_end; t + epsilon)))|^2 / epsilon^2, of each pair.

    In float32 the difference has about three correct digits at epsilon = 1e-4, if f is of the order of its change along
    the path; a larger epsilon gives more.

    Args:
        generate: G, latents [n, d] -> images [n, h, w, c], deterministic.
        features: f, images -> float [n, ...]; in the paper scaled activations of VGG16, whose squared distance is
            LPIPS. Report the features with every value.
        z_start, z_end: float [n, d], independent draws from the prior.
        t: float [n], uniform in [0, 1].
        epsilon: > 0.
    Returns: [n], >= 0, in squared units of the features. Report the mean after `discard_outliers`.
    Raises:
        ValueError: for other shapes, or epsilon <= 0.
    References:
        Karras et al., A Style-Based Generator Architecture, arXiv:1812.04948, section 4.1.
    """
    if not epsilon > 0:
        raise ValueError(f"expected epsilon > 0, got {epsilon}")
    here = features(generate(slerp(z_start, z_end, t)))
    there = features(generate(slerp(z_start, z_end, t + epsilon)))
    return jnp.sum(jnp.square((here - there) / epsilon), axis=tuple(range(1, here.ndim)))


def discard_outliers(lengths: ArrayLike, lower: float = 0.01, upper: float = 0.99) -> np.ndarray:
    """The lengths between two quantiles, because a few very long ones would dominate the mean.

    Args:
        lengths: float [n], n >= 1.
        lower, upper: 0 <= lower < upper <= 1. Quantiles are samples, rounded outwards.
    Returns: float64 [at most n], in the order of the input.
    Raises:
        ValueError: for another shape, no lengths, NaN, or quantiles out of order.
    """
    checked = np.asarray(lengths, np.float64)
    if checked.ndim != 1 or not len(checked) or np.isnan(checked).any():
        raise ValueError(f"expected lengths [n], n >= 1, without NaN, got shape {list(checked.shape)}")
    if not 0 <= lower < upper <= 1:
        raise ValueError(f"expected 0 <= lower < upper <= 1, got {lower} and {upper}")
    least = np.quantile(checked, lower, method="lower")
    most = np.quantile(checked, upper, method="higher")
    return checked[(least <= checked) & (checked <= most)]
