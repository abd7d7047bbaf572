"""Classifier-free guidance: training hides some labels, and sampling combines predictions with and without label.

Ho and Salimans, Classifier-Free Diffusion Guidance, arXiv:2207.12598. `conditions.drop_labels` hides them.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jax import Array

from jimgen.conditions import NumClasses, open_labels
from jimgen.sampling.diffusion import per_example, require_equal_shapes


class Guidance(NamedTuple):
    """v = u + w (c - u) for conditional c and unconditional u: w = 1 means no guidance, w = 0 ignores labels.

    The weight of the paper is w - 1. Outside the interval of times w is 1 (Kynkaanniemi et al., arXiv:2404.07724).
    Schedules change w from 1 at the noise to `weight` at the image: linear in 1 - t, or power_cosine,
    (1 - cos(pi (1 - t)^power)) / 2 (Gao et al., MDT, arXiv:2303.14389).
    """

    weight: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    schedule: Literal["constant", "linear", "power_cosine"] = "constant"
    power: float = 4.0


PLAIN = Guidance()


def guidance_weight(guidance: Guidance, t: Array) -> Array:
    """w at times t, of the shape of t. Raises ValueError for an unknown schedule."""
    if guidance.schedule == "constant":
        progress = jnp.ones_like(t)
    elif guidance.schedule == "linear":
        progress = 1 - t
    elif guidance.schedule == "power_cosine":
        progress = (1 - jnp.cos(math.pi * (1 - t) ** guidance.power)) / 2
    else:
        raise ValueError(f"unknown schedule {guidance.schedule!r}: use constant, linear or power_cosine")
    inside = (guidance.interval[0] <= t) & (t <= guidance.interval[1])
    return jnp.where(inside, 1 + (guidance.weight - 1) * progress, 1.0)


def guide(conditional: Array, unconditional: Array, weight: Array | float) -> Array:
    """u + w (c - u). For logits: the log-probabilities of p_u^(1 - w) p_c^w up to a constant (equation 6 of the paper).

    Args:
        conditional, unconditional: float [b, ...].
        weight: w, float [] or [b].
    Returns: [b, ...].
    Raises:
        ValueError: if the shapes differ, or weight has another shape.
    """
    require_equal_shapes(conditional, unconditional)
    return unconditional + per_example(weight, conditional, "weight") * (conditional - unconditional)


def guided(
    predict: Callable[[Array, Array], Array], x: Array, labels: Array, num_classes: NumClasses, weight: Array | float
) -> Array:
    """The guided prediction, by one call of `predict` with and without labels.

    Without classes, and at a constant weight of 1, each x is predicted only once. Autoregressive models are guided step
    by step instead (`tokens.guided_step`); mean flows learn guidance (`methods/meanflow.py`).

    Args:
        predict: maps x [m, ...] and labels int32 [m] or [m, columns] to predictions [m, ...].
        x: [n, ...]. labels: int32 [n] or [n, columns].
        num_classes: 0 where the net knows no labels.
        weight: w, float [] or [n].
    Returns: [n, ...].
    """
    if not num_classes:
        return predict(x, jnp.zeros_like(labels))
    if isinstance(weight, float | int) and weight == 1:
        return predict(x, labels)
    conditional, unconditional = jnp.split(predict(jnp.concatenate([x, x]), with_and_without(labels, num_classes)), 2)
    return guide(conditional, unconditional, weight)


def with_and_without(labels: Array, num_classes: NumClasses) -> Array:
    """Labels [n] or [n, columns], followed by n that say nothing: [2 n] or [2 n, columns]."""
    return jnp.concatenate([labels, open_labels(labels, num_classes)])


def check_guidance(weight: float, num_classes: NumClasses, label_drop: float) -> None:
    """Checks that a net trains with open labels where sampling will use them.

    Raises:
        ValueError: a label_drop outside [0, 1]; guidance, or attributes, without labels that are dropped.
    """
    if not 0 <= label_drop <= 1:
        raise ValueError(f"label_drop is a probability, got {label_drop}")
    if weight != 1 and not (num_classes and label_drop):
        raise ValueError("guidance needs num_classes > 0 and label_drop > 0")
    if isinstance(num_classes, tuple) and not label_drop:
        raise ValueError("label_drop is 0: with attributes it must be above 0, as sampling leaves some of them open")
