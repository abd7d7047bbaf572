"""Mean flows (Geng et al., Mean Flows for One-step Generative Modeling, arXiv:2505.13447): a net learns the average
velocity between two times, and one step goes from noise to image."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array

from jimgen import noise
from jimgen.conditions import NumClasses, are_open, drop_labels, open_labels
from jimgen.methods.method import Flow, Method
from jimgen.objectives import adaptive_loss, squared_error
from jimgen.sampling.diffusion import interpolate, logit_normal, per_example, uniform_times, velocity_of
from jimgen.sampling.guidance import check_guidance
from jimgen.sampling.solvers import Velocity
from jimgen.train_step import Aux, Batch, Phase, Variables


class _Net(NamedTuple):
    """The net as average velocity, and its errors. The fields are options of `mean_flow`."""

    net: nn.Module
    num_classes: NumClasses
    times: tuple[float, float]
    r_equals_t: float
    label_drop: float
    guidance: float

    def average(
        self, variables: Variables, z: Array, t: Array, r: Array, labels: Array, dropout_keys: Array | None = None
    ) -> Array:
        """u(z, t, r) for times [b]."""
        both = jnp.stack([t, t - r], axis=-1)
        return self.net.apply(variables["net"], z, both, labels, dropout_keys=dropout_keys)  # pyright: ignore[reportReturnType]

    def squared_errors(self, variables: Variables, batch: Batch, key: Array, train: bool) -> Array:
        """||u - target||^2, summed over dimensions: [b]."""
        index, x = batch["index"], batch["image"]
        keys = [jax.random.fold_in(key, i) for i in range(5)]
        eps = noise.normal(keys[0], index, x.shape[1:]).astype(x.dtype)
        drawn = logit_normal(noise.normal(keys[1], index, (2,)), *self.times).astype(x.dtype)
        same = noise.uniform(keys[2], index) < self.r_equals_t
        t, r = drawn.max(-1), jnp.where(same, drawn.max(-1), drawn.min(-1))
        labels = drop_labels(batch["label"], keys[3], index, self.label_drop if train else 0.0, self.num_classes)
        dropout_keys = noise.example_keys(keys[4], index) if train else None

        z, velocity = interpolate(x, eps, t), velocity_of(x, eps)
        if self.guidance != 1:
            none = open_labels(labels, self.num_classes)
            unguided = self.average(variables, z, t, t, none)
            guided = self.guidance * velocity + (1 - self.guidance) * unguided
            velocity = jax.lax.stop_gradient(
                jnp.where(per_example(are_open(labels, self.num_classes), x), velocity, guided)
            )
        of_times = lambda z, t, r: self.average(variables, z, t, r, labels, dropout_keys)  # noqa: E731
        u, du = jax.jvp(of_times, (z, t, r), (velocity, jnp.ones_like(t), jnp.zeros_like(r)))
        target = jax.lax.stop_gradient(velocity - per_example(t - r, x) * du)
        return squared_error(u, target)


def mean_flow(
    net: nn.Module,
    *,
    image_shape: tuple[int, int, int],
    num_classes: NumClasses,
    tx: optax.GradientTransformation,
    times: tuple[float, float] = (-0.4, 1.0),
    r_equals_t: float = 0.75,
    norm_power: float = 1.0,
    norm_constant: float = 0.01,
    label_drop: float = 0.1,
    guidance: float = 1.0,
    num_steps: int = 1,
    clip: bool = True,
) -> Method:
    """A mean flow: one phase; sampler of one step or few, held-out errors.

    u(z, t, r) (t - r) is the integral of v from r to t, so u = v - (t - r) du/dt along the path. The net learns this
    target, with its own du/dt by forward-mode differentiation. It must support forward mode (einsum attention does).

    Args:
        net: (z_t [b, h, w, c], times [b, 2] = (t, t - r), labels, dropout_keys=keys [b]) -> float32
            [b, h, w, c].
        image_shape: (h, w, c).
        num_classes: 0 to learn and sample without labels.
        tx: the optimiser.
        times: mean and standard deviation of two logit-normal draws; t is the larger and r the smaller one.
        r_equals_t: fraction of the examples with r = t, whose loss is that of flow matching.
        norm_power, norm_constant: p and c of the adaptive loss ||e||^2 / (||e||^2 + c)^p.
        label_drop: probability with which training hides a label.
        guidance: w of classifier-free guidance, part of the training target: v = w v + (1 - w) u(z, t, t | no label).
        num_steps: steps of the sampler.
        clip: whether to clip what is drawn to [-1, 1], the range of images.
    Raises:
        ValueError: for guidance without num_classes > 0 and label_drop > 0, or label_drop or r_equals_t outside [0, 1].
    """
    if not 0 <= r_equals_t <= 1:
        raise ValueError(f"r_equals_t must be in [0, 1], got {r_equals_t}")
    check_guidance(guidance, num_classes, label_drop)
    points = uniform_times(num_steps)
    model = _Net(net, num_classes, times, r_equals_t, label_drop, guidance)

    def init(key: Array, batch: Batch) -> Variables:
        return {"net": net.init(key, batch["image"], jnp.zeros((batch["image"].shape[0], 2)), batch["label"] * 0)}

    def objective(variables: Variables, batch: Batch, key: Array) -> tuple[Array, Aux]:
        squared = model.squared_errors(variables, batch, key, train=True)
        # At p = 1 the loss is about one for every error, so the mean squared error is the metric to watch.
        metrics = {"squared_error": squared.mean() / batch["image"][0].size}
        return adaptive_loss(squared, norm_power, norm_constant).mean(), Aux(metrics)

    def evaluate(variables: Variables, batch: Batch, key: Array) -> dict[str, Array]:
        squared = model.squared_errors(variables, batch, key, train=False)
        return {"squared_error": squared / batch["image"][0].size}

    def sample(variables: Variables, key: Array, labels: Array) -> Array:
        z = noise.normal(key, jnp.arange(labels.shape[0]), image_shape)
        labels = labels if num_classes else jnp.zeros_like(labels)
        for t, r in zip(points[:-1], points[1:], strict=True):
            each = [jnp.full(labels.shape[:1], time, z.dtype) for time in (t, r)]
            z -= float(t - r) * model.average(variables, z, *each, labels)
        return jnp.clip(z, -1.0, 1.0) if clip else z

    def velocity(variables: Variables, labels: Array, guide: bool) -> Velocity:
        """v(z, t) = u(z, t, t), with the guidance that was learned."""
        labels = labels if num_classes else jnp.zeros_like(labels)

        def at(z: Array, t: Array) -> Array:
            each = jnp.broadcast_to(t, z.shape[:1])
            return model.average(variables, z, each, each, labels)

        return at

    return Method(
        init=init,
        phases=(Phase("mean_flow", ("net",), objective, tx),),
        ema=("net",),
        sample=sample,
        num_classes=num_classes,
        hides_labels=label_drop > 0,
        evaluate=evaluate,
        flow=Flow(velocity, uniform_times),
    )
