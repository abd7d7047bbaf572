"""The parts that all methods with a discriminator share: its logits in training, its loss and its metrics; and the
adversary of autoencoders."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from jimgen.methods.reconstruction import Reconstruction
from jimgen.objectives import HINGE, AdversarialLoss, adaptive_weight
from jimgen.parallel import mean_over_devices
from jimgen.schedules import linear_ramp
from jimgen.train_step import Aux, Batch, Metrics, Phase, Variables


class Adversary(NamedTuple):
    """A discriminator of reconstructions. It trains from the first step; its loss trains the decoder after `start`."""

    discriminator: nn.Module  # (images, labels [b], train=...) -> logits [b], or [b, h, w] of patches
    tx: optax.GradientTransformation
    loss: AdversarialLoss = HINGE
    weight: float = 0.8  # of the adversarial loss
    adaptive: bool = True  # multiply the weight by `adaptive_weight`
    start: int = 0  # images seen before the weight begins to increase from zero
    ramp: int = 0  # images over which it increases linearly; an abrupt start may destroy reconstructions
    last_layer: str = "output"  # name of the decoder's last layer, whose kernel `adaptive_weight` uses


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


def adversary_phase(adversary: Adversary, reconstruct: Callable[[Variables, Batch, Array], Array]) -> Phase:
    """The phase "discriminator", which learns to tell images from reconstructions (variables, batch, key) -> images."""

    def objective(variables: Variables, batch: Batch, key: Array) -> tuple[Array, Aux]:
        fake = reconstruct(variables, batch, key)
        net, real, labels = adversary.discriminator, batch["image"], batch["label"]
        logits = real_and_fake_logits(net, variables["discriminator"], real, fake, labels)
        return discriminator_loss(adversary.loss, *logits[:2], penalty=None, stats=logits[2])

    return Phase("discriminator", ("discriminator",), objective, adversary.tx)


def decoder_loss(
    adversary: Adversary,
    decoder: nn.Module,
    reconstruction: Reconstruction,
    variables: Variables,
    z: Array,
    batch: Batch,
) -> tuple[Array, Metrics]:
    """The weighted adversarial loss of the net "decoder" at its inputs z: [], and metrics with the weight.

    Args:
        adversary: the loss and its weight, which increases with batch["images_seen"].
        decoder: net z -> the input of `reconstruction`.
        reconstruction: the loss whose gradient balances the adversarial one.
        variables: of the decoder and of the discriminator.
        z: float [b, ...].
        batch: images and labels.
    """
    num_dims = math.prod(batch["image"].shape[1:])
    output: Array = decoder.apply(variables["decoder"], z)  # pyright: ignore[reportAssignmentType]
    constant = lax.stop_gradient(output)
    adversarial, slope = jax.value_and_grad(partial(_generator_loss, adversary, reconstruction, variables, batch))(
        constant
    )
    # The slope is used twice, so that the gradient passes the discriminator once.
    adversarial += (slope * (output - constant)).sum()
    seen = batch["images_seen"] + 1  # the first image after the start counts already
    weight = adversary.weight * linear_ramp(seen, adversary.start, adversary.ramp)
    if adversary.adaptive:
        # `adaptive_weight` is defined for errors averaged over pixels: num_dims rescales it to our sums.
        error_slope = jax.grad(lambda output: reconstruction.loss(output, batch["image"]).mean())(constant)
        of_error, of_adversary = _kernel_gradient_norms(decoder, adversary.last_layer, variables, z, error_slope, slope)
        weight *= num_dims * adaptive_weight(of_error / num_dims, of_adversary)
    return weight * adversarial, {"adversarial": adversarial, "adversarial_weight": weight}


def _generator_loss(
    adversary: Adversary, reconstruction: Reconstruction, variables: Variables, batch: Batch, output: Array
) -> Array:
    """The generator's mean loss on a decoder output, []."""

    def judge(images: Array) -> Array:
        return apply_in_training(adversary.discriminator, variables["discriminator"], images, batch["label"])[0]

    return adversary.loss.generator(judge(batch["image"]), judge(reconstruction.as_images(output))).mean()


def _kernel_gradient_norms(
    decoder: nn.Module, layer: str, variables: Variables, z: Array, *slopes: Array
) -> tuple[Array, ...]:
    """Norms of the gradients of a layer's kernel, [] each, of losses with these slopes at the decoder's output.

    They are constants: no gradient passes through them.
    """
    variables, z, slopes = lax.stop_gradient((variables, z, slopes))
    params = variables["decoder"]["params"]

    def output_by(kernel: Array) -> Array:
        changed = {**params, layer: {**params[layer], "kernel": kernel}}
        return decoder.apply({**variables["decoder"], "params": changed}, z)  # pyright: ignore[reportReturnType]

    _, pull_back = jax.vjp(output_by, params[layer]["kernel"])
    return tuple(optax.tree.norm(mean_over_devices(pull_back(slope))) for slope in slopes)
