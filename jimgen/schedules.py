"""Schedules: learning rates over the steps of a run, and loss weights over the images seen."""

import jax.numpy as jnp
import optax
from jax import Array


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
