"""Augmented images as a discriminator sees them, with a probability that is fixed, scheduled or adaptive."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jimgen import noise
from jimgen.augment import adapt
from jimgen.schedules import Scheduled, at_step
from jimgen.train_step import Batch, Variables

NET = "augmentation"  # the entry of the variables


class Augmented(NamedTuple):
    """How images are augmented, and how often. The probability is kept in the variables, so that resume is exact."""

    augment: Callable[[Array, Array, Array], Array] | None = None  # (images, keys [b], p []) -> images; None: as is
    probability: Scheduled = 0.0  # p in [0, 1], over the steps done; of an adaptive one, the first
    target: float | None = None  # adaptive: the signal of overfitting that p follows, .6 in the paper
    images: float = 500_000  # adaptive: images seen while p rises from 0 to 1


AS_IS = Augmented()


def first_variables(augmented: Augmented, batch: Batch) -> Variables:
    """The entry of the variables before the first step; none without augmentation.

    Raises:
        ValueError: the images of the batch cannot be augmented, such as those of one pixel.
    """
    if augmented.augment is None:
        return {}
    p = jnp.float32(at_step(augmented.probability, jnp.zeros((), jnp.int32)))
    keys = noise.example_keys(jax.random.key(0), batch["index"])
    jax.eval_shape(augmented.augment, batch["image"], keys, p)  # told before training
    return {NET: {"state": {"p": p}}}


def seen(augmented: Augmented, variables: Variables, images: Array, keys: Array) -> Array:
    """The images [b, h, w, c] as the discriminator sees them."""
    return images if augmented.augment is None else augmented.augment(images, keys, variables[NET]["state"]["p"])


def scheduled(augmented: Augmented, batch: Batch) -> dict[str, Any]:
    """The update of the variables after a step whose probability follows a schedule."""
    if augmented.augment is None or augmented.target is not None:
        return {}
    return {NET: {"state": {"p": jnp.float32(at_step(augmented.probability, batch["step"] + 1))}}}


def adapted(augmented: Augmented, variables: Variables, signal: Array, num_images: int) -> dict[str, Any]:
    """The update of the variables after a step of `num_images` images that showed a signal of overfitting, []."""
    if augmented.augment is None or augmented.target is None:
        return {}
    p = variables[NET]["state"]["p"]
    return {NET: {"state": {"p": adapt(p, signal, augmented.target, num_images, augmented.images).astype(p.dtype)}}}
