"""The parts that all methods with a discriminator share: its logits in training, its loss and its metrics."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jimgen.objectives import AdversarialLoss
from jimgen.train_step import Aux


def apply_in_training(net: nn.Module, variables: Mapping[str, Any], *args: Array) -> tuple[Array, dict[str, Any]]:
    """The output of a net in training mode, and its updated running statistics."""
    output, changed = net.apply(variables, *args, train=True, mutable=["batch_stats"])
    return output, dict(changed)  # pyright: ignore[reportReturnType]


def real_and_fake_logits(
    discriminator: nn.Module, variables: Mapping[str, Any], real: Array, fake: Array, labels: Array
) -> tuple[Array, Array, dict[str, Any]]:
    """Logits of real and of generated images, with the running statistics after both passes, in this order.

    Args:
        discriminator: net (images, labels, train=...) -> logits.
        variables: its variables.
        real, fake: float [b, h, w, c] in [-1, 1].
        labels: int32 [b], of both.
    Returns: float [b] or [b, h, w] twice, and the updated collections.
    """
    real_logits, after_real = apply_in_training(discriminator, variables, real, labels)
    fake_logits, after_fake = apply_in_training(discriminator, {**variables, **after_real}, fake, labels)
    return real_logits, fake_logits, {**after_real, **after_fake}


def discriminator_loss(
    loss: AdversarialLoss, real_logits: Array, fake_logits: Array, penalty: Array | None, stats: dict[str, Any]
) -> tuple[Array, Aux]:
    """The mean loss of the net "discriminator", and its metrics.

    Args:
        loss: the pair of losses, of which the discriminator's is used.
        real_logits, fake_logits: float [b], or [b, h, w] for patch discriminators.
        penalty: float [b], added to the loss of each example; None for no penalty.
        stats: updated running statistics.
    Returns: The loss [], and metrics with the statistics as updates.
    """
    metrics = {
        "real_logits": real_logits.mean(),
        "fake_logits": fake_logits.mean(),
        # Near .5 the discriminator cannot distinguish real from fake; near 1 it nearly always can.
        "accuracy": (jnp.mean(real_logits > 0) + jnp.mean(fake_logits <= 0)) / 2,
    }
    losses = loss.discriminator(real_logits, fake_logits)
    if penalty is not None:
        metrics["penalty"] = penalty.mean()
        losses += penalty
    return losses.mean(), Aux(metrics, {"discriminator": stats})
