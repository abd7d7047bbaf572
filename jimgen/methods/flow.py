"""Flow matching and diffusion (Lipman et al., arXiv:2210.02747; Liu et al., arXiv:2209.03003).

A net learns the velocity of the straight path from image to noise, and a solver integrates it from noise to image.
"""

from functools import partial
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array

from jimgen import noise
from jimgen.conditions import NumClasses, drop_labels
from jimgen.methods.method import Flow, Method
from jimgen.objectives import flow_matching_loss
from jimgen.sampling import posterior, solvers
from jimgen.sampling.diffusion import (
    EDM_TIMES,
    Prediction,
    edm_denoise,
    edm_times,
    interpolate,
    logit_normal,
    loss_weight,
    target_of,
    uniform_times,
    velocity_from,
)
from jimgen.sampling.guidance import PLAIN, Guidance, check_guidance, guidance_weight, guided
from jimgen.sampling.solvers import Sampler
from jimgen.train_step import Aux, Batch, Phase, Variables


class _Net(NamedTuple):
    """The net with its type of prediction, which it converts to losses and velocities."""

    net: nn.Module
    prediction: Prediction | Literal["edm"]
    num_classes: NumClasses
    sigma_data: float

    def run(self, variables: Variables, x_t: Array, t: Array, labels: Array, dropout_keys: Array | None) -> Array:
        return self.net.apply(variables["net"], x_t, t, labels, dropout_keys=dropout_keys)  # pyright: ignore[reportReturnType]

    def losses(
        self, variables: Variables, x: Array, eps: Array, t: Array, labels: Array, keys: Array | None, loss: Prediction
    ) -> Array:
        """Squared errors [b], means over dimensions, in the space of `loss`; for EDM, EDM's own loss."""
        x_t = interpolate(x, eps, t)
        if self.prediction == "edm":
            predict = lambda scaled, c_noise: self.run(variables, scaled, c_noise, labels, keys)  # noqa: E731
            denoised, weight = edm_denoise(predict, x_t, t, self.sigma_data)
            return flow_matching_loss(denoised, x, weight)
        output = self.run(variables, x_t, t, labels, keys)
        weight = loss_weight(self.prediction, loss, t)
        return flow_matching_loss(output, target_of(self.prediction, x, eps), weight)

    def velocity(self, variables: Variables, x: Array, t: Array, labels: Array) -> Array:
        """v(x, t) without guidance, for one t [] and labels int32 [n]."""
        each = jnp.broadcast_to(t, x.shape[:1])
        if self.prediction == "edm":
            predict = lambda scaled, c_noise: self.run(variables, scaled, c_noise, labels, None)  # noqa: E731
            denoised, _ = edm_denoise(predict, x, each, self.sigma_data)
            return velocity_from("data", denoised, x, t)
        return velocity_from(self.prediction, self.run(variables, x, each, labels, None), x, t)

    def guided_velocity(self, variables: Variables, labels: Array, guidance: Guidance) -> solvers.Velocity:
        """v(x, t) for labels int32 [n], with guidance."""

        def velocity(x: Array, t: Array) -> Array:
            weight = 1 if guidance.weight == 1 else guidance_weight(guidance, t)
            return guided(lambda x, labels: self.velocity(variables, x, t, labels), x, labels, self.num_classes, weight)

        return velocity


def flow(
    net: nn.Module,
    *,
    image_shape: tuple[int, int, int],
    num_classes: NumClasses,
    tx: optax.GradientTransformation,
    prediction: Prediction | Literal["edm"] = "velocity",
    loss: Prediction = "velocity",
    times: tuple[float, float] | None = None,
    label_drop: float = 0.1,
    guidance: Guidance = PLAIN,
    sampler: Sampler = solvers.heun,
    num_steps: int = 20,
    inpaint_rounds: int = 2,
    sigma_data: float = 0.5,
    clip: bool = True,
) -> Method:
    """Flow matching: one phase; sampler, held-out loss, inpainting.

    Args:
        net: (x_t [b, h, w, c], times [b], labels, dropout_keys=keys [b]) -> float32 [b, h, w, c].
        image_shape: (h, w, c).
        num_classes: 0 to learn and sample without labels.
        tx: the optimiser.
        prediction: what the net predicts; edm for the preconditioned denoiser of Karras et al. (arXiv:2206.00364), with
            its own loss, and ln(sigma) / 4 in place of the time.
        loss: the space in which the squared error is measured; every prediction works with every loss.
        times: mean and standard deviation of the logit-normal training times; None for (0, 1), or EDM's.
        label_drop: probability with which training hides a label, for guidance.
        guidance: guidance in sampling; weight 1 for none.
        sampler: a solver of jimgen/sampling/solvers.py.
        num_steps: steps of the sampler, at evenly spaced times, or EDM's.
        inpaint_rounds: how often inpainting repeats each step.
        sigma_data: standard deviation of the pixels, for edm.
        clip: whether to clip what is drawn to [-1, 1], the range of images.
    Raises:
        ValueError: for guidance without num_classes > 0 and label_drop > 0, or a label_drop outside [0, 1].
    """
    check_guidance(guidance.weight, num_classes, label_drop)
    predictor = _Net(net, prediction, num_classes, sigma_data)
    mean, std = times or (EDM_TIMES if prediction == "edm" else (0.0, 1.0))
    points = edm_times(num_steps) if prediction == "edm" else uniform_times(num_steps)
    if sampler is solvers.heun:
        sampler = partial(solvers.heun, correct_last=False)  # the velocity is not defined at t = 0

    def bounded(x: Array) -> Array:
        return jnp.clip(x, -1.0, 1.0) if clip else x

    def init(key: Array, batch: Batch) -> Variables:
        return {"net": net.init(key, batch["image"], batch["image"][:, 0, 0, 0] * 0, batch["label"] * 0)}

    def losses(variables: Variables, batch: Batch, key: Array, train: bool) -> Array:
        """The loss of each example [b] at one draw of time and noise."""
        index, x = batch["index"], batch["image"]
        keys = [jax.random.fold_in(key, i) for i in range(4)]
        eps = noise.normal(keys[0], index, x.shape[1:]).astype(x.dtype)
        t = logit_normal(noise.normal(keys[1], index, ()), mean, std).astype(x.dtype)
        labels = drop_labels(batch["label"], keys[2], index, label_drop if train else 0.0, num_classes)
        dropout_keys = noise.example_keys(keys[3], index) if train else None
        return predictor.losses(variables, x, eps, t, labels, dropout_keys, loss)

    def objective(variables: Variables, batch: Batch, key: Array) -> tuple[Array, Aux]:
        return losses(variables, batch, key, train=True).mean(), Aux({})

    def evaluate(variables: Variables, batch: Batch, key: Array) -> dict[str, Array]:
        return {"flow_loss": losses(variables, batch, key, train=False)}

    def sample(variables: Variables, key: Array, labels: Array) -> Array:
        # The path starts at t = 1 or, for EDM, close to it, where x_t is nearly t eps.
        x_1 = points[0] * noise.normal(jax.random.fold_in(key, 0), jnp.arange(labels.shape[0]), image_shape)
        velocity = predictor.guided_velocity(variables, labels, guidance)
        images = sampler(velocity, x_1, points, jax.random.fold_in(key, 1))
        return bounded(images)

    def inpaint(variables: Variables, key: Array, images: Array, mask: Array, labels: Array) -> Array:
        known = posterior.as_mask(mask, images)
        velocity = predictor.guided_velocity(variables, labels, guidance)
        filled = posterior.inpaint(velocity, images, known, points, key, inpaint_rounds)
        return jnp.where(known, images, bounded(filled))

    return Method(
        init=init,
        phases=(Phase("flow", ("net",), objective, tx),),
        ema=("net",),
        sample=sample,
        num_classes=num_classes,
        hides_labels=label_drop > 0,
        evaluate=evaluate,
        flow=Flow(
            lambda variables, labels, guide: predictor.guided_velocity(variables, labels, guidance if guide else PLAIN),
            edm_times if prediction == "edm" else uniform_times,
        ),
        inpaint=inpaint,
    )
