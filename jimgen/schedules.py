"""Schedules: learning rates over the steps of a run, and weights over the images seen."""

import jax.numpy as jnp
import optax
from jax import Array


def warmup_cosine(peak: float, warmup_steps: int, steps: int) -> optax.Schedule:
    """From 0 up to the peak along a line, then down to 0 along half a cosine.

    The cosine is that of Loshchilov and Hutter, SGDR, arXiv:1608.03983, equation 5, without restarts.

    Args:
        peak: largest learning rate, > 0.
        warmup_steps: steps of the rise; half the run where that is shorter, so that short trials reach the peak too.
        steps: of the whole curve, >= 1: config.schedule_steps or config.steps. A run that resumes with another number
            jumps from one curve to another, and says so.
    Returns:
        A function of the step, 0 .. steps.
    """
    return optax.warmup_cosine_decay_schedule(0.0, peak, min(warmup_steps, steps // 2), steps)


def linear_ramp(images: Array, start: int, length: int) -> Array:
    """0 until `start` images, then rising to 1 over `length` more along a line; a step where the length is 0.

    For weights of terms in objectives: `batch["images_seen"]` tells how far training is.
    """
    return jnp.clip((images - start) / max(length, 1), 0.0, 1.0)
