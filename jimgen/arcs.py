"""Great-circle arcs between two vectors, which may be equal, opposite or zero, and spherical interpolation."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Arc(NamedTuple):
    """The arc from start to end [..., d]: end / |end| = cos(angle) first + across, with `across` normal to `first`.

    Point t of the arc of radius 1 is cos(t angle) first + `turned(arc, t)` across.
    """

    first: Array  # [..., d], start / |start|
    across: Array  # [..., d], of length sine
    angle: Array  # [..., 1], from 0 to pi
    sine: Array  # [..., 1], of the angle; 0 where start and end are parallel
    start_length: Array  # [..., 1]
    end_length: Array  # [..., 1]


def arc_between(start: Array, end: Array) -> Arc:
    """The shorter arc from the direction of start [..., d] to that of end [..., d], d >= 2.

    Opposite directions have many arcs; this is the one through the coordinate axis that is most nearly normal to
    `first`. A zero vector takes the direction of the other vector. Gradients are finite everywhere.
    """
    tiny = 4 * float(jnp.finfo(start.dtype).eps)
    axes = jnp.arange(start.shape[-1])
    start_length, end_length = _length(start), _length(end)
    one_of_all = jnp.broadcast_to((axes == 0).astype(start.dtype), start.shape)
    fallback = jnp.where(end_length > 0, _over(end, end_length), one_of_all)
    first = jnp.where(start_length > 0, _over(start, start_length), fallback)
    last = jnp.where(end_length > 0, _over(end, end_length), first)

    cosine = (first * last).sum(-1, keepdims=True)
    across = _normal_to(first, _normal_to(first, last))  # twice, because rounding dominates for nearly parallel vectors
    sine = _length(across)
    opposite = (sine < tiny) & (cosine < 0)
    axis = jax.nn.one_hot(jnp.abs(first).argmin(-1), start.shape[-1], dtype=start.dtype)
    detour = _normal_to(first, axis)
    across = jnp.where(opposite, tiny * _over(detour, _length(detour)), across)
    sine = jnp.where(opposite, tiny, jnp.where(sine < tiny, 0, sine))
    angle = jnp.arctan2(sine, cosine)  # accurate near 0 and pi, where arccos(cosine) loses half of its digits
    return Arc(first, across, angle, sine, start_length, end_length)


def turned(arc: Arc, t: Array) -> Array:
    """sin(t angle) / sin(angle), or its limit t if the angle is 0; t broadcasts with arc.angle."""
    parallel = arc.sine == 0
    return jnp.where(parallel, t, jnp.sin(t * arc.angle) / jnp.where(parallel, 1, arc.sine))


def slerp(start: Array, end: Array, t: Array) -> Array:
    """Spherical interpolation from start to end: angle and length change linearly with t.

    Points between two draws of N(0, I) then look like draws; points on a straight line are too short. Opposite vectors
    have many arcs, of which this follows one. In one dimension there is no arc, and the path is a straight line.

    Args:
        start, end: float [..., d].
        t: float [...] from 0 to 1, one axis fewer; the leading axes of all three broadcast.
    Returns: [..., d].
    References:
        Shoemake, Animating Rotation with Quaternion Curves, 1985, has this formula for vectors of equal length; White,
        Sampling Generative Networks, arXiv:1609.04468.
    """
    t = t[..., None]
    if start.shape[-1] == 1:
        return (1 - t) * start + t * end
    arc = arc_between(start, end)
    direction = jnp.cos(t * arc.angle) * arc.first + turned(arc, t) * arc.across
    return ((1 - t) * arc.start_length + t * arc.end_length) * direction


def _length(x: Array) -> Array:
    """|x| over the last axis, which is kept; its gradient at 0 is 0."""
    square = jnp.square(x).sum(-1, keepdims=True)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def _over(x: Array, length: Array) -> Array:
    return x / jnp.where(length > 0, length, 1)


def _normal_to(unit: Array, x: Array) -> Array:
    return x - (unit * x).sum(-1, keepdims=True) * unit
