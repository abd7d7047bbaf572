"""Flow matching and diffusion (Lipman et al., arXiv 2210.02747; Liu et al., arXiv 2209.03003).

A net learns the velocity of the straight path from image to noise, and a solver walks back.
"""

from functools import partial
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array

from jimgen import noise, samplers
from jimgen.diffusion import (
    EDM_TIMES,
    PLAIN,
    Guidance,
    Prediction,
    edm_denoise,
    edm_times,
    guidance_weight,
    guide,
    interpolate,
    logit_normal,
    loss_weight,
    target_of,
    uniform_times,
    velocity_from,
)
from jimgen.methods.method import Method
from jimgen.samplers import Sampler, Velocity
from jimgen.train_step import Aux, Batch, Phase, Variables


def flow(
    net: nn.Module,
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    tx: optax.GradientTransformation,
    prediction: Prediction | Literal["edm"] = "velocity",
    loss: Prediction = "velocity",
    times: tuple[float, float] | None = None,
    label_drop: float = 0.1,
    guidance: Guidance = PLAIN,
    sampler: Sampler = samplers.heun,
    num_steps: int = 20,
    inpaint_rounds: int = 2,
    sigma_data: float = 0.5,
) -> Method:
    """Flow matching: one phase; sampler, held-out loss, inpainting.

    Args:
      net: (x_t [b, h, w, c], times [b], labels int32 [b], dropout_keys=keys [b]) -> [b, h, w, c] float32; the label
        num_classes stands for none.
      image_shape: (h, w, c).
      num_classes: 0 to learn and sample without labels.
      tx: the optimiser.
      prediction: what the net predicts; edm for the denoiser of Karras et al. (arXiv 2206.00364), preconditioned, whose
        loss is its own, and whose net is told ln(sigma) / 4 as time.
      loss: the space in which the squared error is measured: any prediction goes with any loss.
      times: mean and deviation of the logit-normal training times; (0, 1), or EDM's.
      label_drop: how often training hides a label, for guidance.
      guidance: of sampling; weight 1 for none.
      sampler: one of jimgen/samplers.py.
      num_steps: of the sampler: its times are evenly spaced, or EDM's.
      inpaint_rounds: times that each step of inpainting is taken.
      sigma_data: edm: deviation of the pixels.

    Raises:
      ValueError: guidance without classes, or a label_drop outside [0, 1].
    """
    if not 0 <= label_drop <= 1:
        raise ValueError(f"label_drop is a probability, got {label_drop}")
    if guidance.weight != 1 and not (num_classes and label_drop):
        raise ValueError("guidance needs num_classes > 0 and label_drop > 0")
    edm = prediction == "edm"
    mean, deviation = times or (EDM_TIMES if edm else (0.0, 1.0))
    points = edm_times(num_steps) if edm else uniform_times(num_steps)
    if sampler is samplers.heun:
        sampler = partial(samplers.heun, correct_last=False)  # images have no velocity at t = 0

    def init(key: Array, batch: Batch) -> Variables:
        return {"net": net.init(key, batch["image"], batch["image"][:, 0, 0, 0] * 0, batch["label"] * 0)}

    def run(variables: Variables, x_t: Array, t: Array, labels: Array, dropout_keys: Array | None = None) -> Array:
        return net.apply(variables["net"], x_t, t, labels, dropout_keys=dropout_keys)  # pyright: ignore[reportReturnType]

    def losses(variables: Variables, batch: Batch, key: Array, train: bool) -> Array:
        """The loss of each example [b], a mean over its dimensions, at one draw of time and noise."""
        index, x = batch["index"], batch["image"]
        keys = [jax.random.fold_in(key, i) for i in range(4)]
        eps = noise.normal(keys[0], index, x.shape[1:]).astype(x.dtype)
        t = logit_normal(noise.normal(keys[1], index, ()), mean, deviation).astype(x.dtype)
        hidden = noise.uniform(keys[2], index) < label_drop if train else jnp.zeros(index.shape, bool)
        labels = jnp.where(hidden, num_classes, batch["label"]) if num_classes else jnp.zeros_like(batch["label"])
        dropout_keys = noise.example_keys(keys[3], index) if train else None
        x_t = interpolate(x, eps, t)
        if prediction == "edm":
            predict = lambda scaled, c_noise: run(variables, scaled, c_noise, labels, dropout_keys)  # noqa: E731
            denoised, weight = edm_denoise(predict, x_t, t, sigma_data)
            return weight * jnp.square(denoised - x).mean(_pixels(x))
        error = run(variables, x_t, t, labels, dropout_keys) - target_of(prediction, x, eps)
        return loss_weight(prediction, loss, t) * jnp.square(error).mean(_pixels(x))

    def objective(variables: Variables, batch: Batch, key: Array) -> tuple[Array, Aux]:
        return losses(variables, batch, key, train=True).mean(), Aux({})

    def evaluate(variables: Variables, batch: Batch, key: Array) -> dict[str, Array]:
        return {"flow_loss": losses(variables, batch, key, train=False)}

    def velocity(variables: Variables, x: Array, t: Array, labels: Array) -> Array:
        """v(x, t) for one t [] and labels [n], without guidance."""
        each = jnp.broadcast_to(t, x.shape[:1])
        if prediction == "edm":
            predict = lambda scaled, c_noise: run(variables, scaled, c_noise, labels)  # noqa: E731
            denoised, _ = edm_denoise(predict, x, each, sigma_data)
            return velocity_from("data", denoised, x, t)
        return velocity_from(prediction, run(variables, x, each, labels), x, t)

    def guided(variables: Variables, labels: Array) -> Velocity:
        if not num_classes:
            return lambda x, t: velocity(variables, x, t, jnp.zeros_like(labels))
        if guidance.weight == 1:
            return lambda x, t: velocity(variables, x, t, labels)
        both = jnp.concatenate([labels, jnp.full_like(labels, num_classes)])

        def guided_velocity(x: Array, t: Array) -> Array:
            conditional, unconditional = jnp.split(velocity(variables, jnp.concatenate([x, x]), t, both), 2)
            return guide(conditional, unconditional, guidance_weight(guidance, t))

        return guided_velocity

    def sample(variables: Variables, key: Array, labels: Array) -> Array:
        # The path starts at t = 1 or, EDM's, close to it, where x_t is all but t eps.
        x_1 = points[0] * noise.normal(jax.random.fold_in(key, 0), jnp.arange(labels.shape[0]), image_shape)
        images = sampler(guided(variables, labels), x_1, points, jax.random.fold_in(key, 1))
        return jnp.clip(images, -1.0, 1.0)

    def inpaint(variables: Variables, key: Array, images: Array, mask: Array, labels: Array) -> Array:
        known = as_mask(mask, images)
        filled = samplers.inpaint(guided(variables, labels), images, known, points, key, inpaint_rounds)
        return jnp.where(known, images, jnp.clip(filled, -1.0, 1.0))

    return Method(
        init=init,
        phases=(Phase("flow", ("net",), objective, tx),),
        ema=("net",),
        sample=sample,
        evaluate=evaluate,
        inpaint=inpaint,
    )


def as_mask(mask: Array, images: Array) -> Array:
    """A mask [n, h, w] or [n, h, w, 1] of images [n, h, w, c], bool or numbers 0 and 1 -> bool [n, h, w, 1].

    Raises:
      ValueError: a mask of another shape.
    """
    if mask.shape not in (images.shape[:3], (*images.shape[:3], 1)):
        raise ValueError(f"expected a mask {list(images.shape[:3])}, True = known, got {list(mask.shape)}")
    return mask.reshape(*images.shape[:3], 1).astype(bool)


def _pixels(x: Array) -> tuple[int, ...]:
    return tuple(range(1, x.ndim))
