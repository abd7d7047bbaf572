"""Flow matching and diffusion (Lipman et al., arXiv:2210.02747; Liu et al., arXiv:2209.03003).

A net learns the velocity of the straight path from image to noise, and a solver walks back.
"""

from functools import partial
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array

from jimgen import noise
from jimgen.methods.method import Method
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
from jimgen.sampling.guidance import PLAIN, Guidance, check_guidance, drop_labels, guidance_weight, guided
from jimgen.sampling.solvers import Sampler
from jimgen.train_step import Aux, Batch, Phase, Variables


class _Net(NamedTuple):
    """The net with its prediction: what it says as a loss, and as a velocity."""

    net: nn.Module
    prediction: Prediction | Literal["edm"]
    num_classes: int
    sigma_data: float

    def run(self, variables: Variables, x_t: Array, t: Array, labels: Array, dropout_keys: Array | None) -> Array:
        return self.net.apply(variables["net"], x_t, t, labels, dropout_keys=dropout_keys)  # pyright: ignore[reportReturnType]

    def losses(
        self, variables: Variables, x: Array, eps: Array, t: Array, labels: Array, keys: Array | None, loss: Prediction
    ) -> Array:
        """The squared error of each example [b], a mean over its dimensions, in the space of `loss` or EDM's own."""
        x_t = interpolate(x, eps, t)
        if self.prediction == "edm":
            predict = lambda scaled, c_noise: self.run(variables, scaled, c_noise, labels, keys)  # noqa: E731
            denoised, weight = edm_denoise(predict, x_t, t, self.sigma_data)
            return flow_matching_loss(denoised, x, weight)
        output = self.run(variables, x_t, t, labels, keys)
        weight = loss_weight(self.prediction, loss, t)
        return flow_matching_loss(output, target_of(self.prediction, x, eps), weight)

    def velocity(self, variables: Variables, x: Array, t: Array, labels: Array) -> Array:
        """v(x, t) for one t [] and labels [n], without guidance."""
        each = jnp.broadcast_to(t, x.shape[:1])
        if self.prediction == "edm":
            predict = lambda scaled, c_noise: self.run(variables, scaled, c_noise, labels, None)  # noqa: E731
            denoised, _ = edm_denoise(predict, x, each, self.sigma_data)
            return velocity_from("data", denoised, x, t)
        return velocity_from(self.prediction, self.run(variables, x, each, labels, None), x, t)


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
    sampler: Sampler = solvers.heun,
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
        prediction: what the net predicts; edm for the denoiser of Karras et al. (arXiv:2206.00364), preconditioned,
            whose loss is its own, and whose net is told ln(sigma) / 4 as time.
        loss: the space in which the squared error is measured: any prediction goes with any loss.
        times: mean and standard deviation of the logit-normal training times; (0, 1), or EDM's.
        label_drop: how often training hides a label, for guidance.
        guidance: of sampling; weight 1 for none.
        sampler: a solver of jimgen/sampling/solvers.py.
        num_steps: of the sampler: its times are evenly spaced, or EDM's.
        inpaint_rounds: times that each step of inpainting is taken.
        sigma_data: edm: standard deviation of the pixels.
    Raises:
        ValueError: guidance without classes, or a label_drop outside [0, 1].
    """
    check_guidance(guidance.weight, num_classes, label_drop)
    predictor = _Net(net, prediction, num_classes, sigma_data)
    mean, std = times or (EDM_TIMES if prediction == "edm" else (0.0, 1.0))
    points = edm_times(num_steps) if prediction == "edm" else uniform_times(num_steps)
    if sampler is solvers.heun:
        sampler = partial(solvers.heun, correct_last=False)  # images have no velocity at t = 0

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

    def velocity_at(variables: Variables, labels: Array) -> solvers.Velocity:
        def velocity(x: Array, t: Array) -> Array:
            weight = 1 if guidance.weight == 1 else guidance_weight(guidance, t)
            return guided(lambda x, labels: predictor.velocity(variables, x, t, labels), x, labels, num_classes, weight)

        return velocity

    def sample(variables: Variables, key: Array, labels: Array) -> Array:
        # The path starts at t = 1 or, EDM's, close to it, where x_t is all but t eps.
        x_1 = points[0] * noise.normal(jax.random.fold_in(key, 0), jnp.arange(labels.shape[0]), image_shape)
        images = sampler(velocity_at(variables, labels), x_1, points, jax.random.fold_in(key, 1))
        return jnp.clip(images, -1.0, 1.0)

    def inpaint(variables: Variables, key: Array, images: Array, mask: Array, labels: Array) -> Array:
        known = posterior.as_mask(mask, images)
        filled = posterior.inpaint(velocity_at(variables, labels), images, known, points, key, inpaint_rounds)
        return jnp.where(known, images, jnp.clip(filled, -1.0, 1.0))

    return Method(
        init=init,
        phases=(Phase("flow", ("net",), objective, tx),),
        ema=("net",),
        sample=sample,
        num_classes=num_classes,
        evaluate=evaluate,
        inpaint=inpaint,
    )
