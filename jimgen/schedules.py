"""Schedules: learning rates over the steps of a run, and loss weights over the images seen."""

import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

Scheduled = float | optax.Schedule  # a number, or a function of the steps done


def warmup_cosine(peak: float, warmup_steps: int, steps: int) -> optax.Schedule:
    """Linear warmup from 0 to the peak, followed by cosine decay to 0.

    Args:
        peak: largest learning rate, > 0.
        warmup_steps: length of the warmup, at most half of `steps`, so that short trials reach the peak too.
        steps: length of the whole schedule, >= 1: config.schedule_steps or config.steps. A run that resumes with
            another number jumps to another curve, and prints a warning.
    Returns: A function of the step, 0 .. steps.
    References:
        Loshchilov and Hutter, SGDR, arXiv:1608.03983, equation 5, without restarts.
    """
    return optax.warmup_cosine_decay_schedule(0.0, peak, min(warmup_steps, steps // 2), steps)


def linear_ramp(images: Array, start: int, length: int) -> Array:
    """0 until `start` images, then a linear ramp to 1 over `length` more; a step function if the length is 0.

    For weights of loss terms: pass `batch["images_seen"]` as `images`.
    """
    return jnp.clip((images - start) / max(length, 1), 0.0, 1.0)


def cosine(start: float, end: float, steps: int) -> optax.Schedule:
    """From start to end along half a cosine, then end: end + (start - end) (1 + cos(pi t)) / 2, t = step / steps <= 1.

    Args:
        start, end: values at step 0 and from `steps` on.
        steps: length, >= 1.
    References: R3GAN, arXiv:2501.05441, changes its hyperparameters like this.
    """

    def value(step: ArrayLike) -> Array:
        t = jnp.clip(jnp.asarray(step, float) / max(steps, 1), 0, 1)
        return jnp.asarray(end + (start - end) * (1 + jnp.cos(jnp.pi * t)) / 2)

    return value


def at_step(value: Scheduled, step: Array) -> Array:
    """A scheduled number at a step: float []."""
    return jnp.asarray(value(step) if callable(value) else value)
