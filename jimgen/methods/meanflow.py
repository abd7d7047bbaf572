"""Mean flows (Geng et al., Mean Flows for One-step Generative Modeling, arXiv 2505.13447): a net learns the average
velocity between two times, and one step goes from noise to image."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array

from jimgen import noise
from jimgen.diffusion import interpolate, logit_normal, per_example, uniform_times, velocity_of
from jimgen.methods.method import Method
from jimgen.train_step import Aux, Batch, Phase, Variables


def mean_flow(
    net: nn.Module,
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    tx: optax.GradientTransformation,
    times: tuple[float, float] = (-0.4, 1.0),
    same_time: float = 0.75,
    norm_power: float = 1.0,
    norm_constant: float = 0.01,
    label_drop: float = 0.1,
    guidance: float = 1.0,
    num_steps: int = 1,
) -> Method:
    """A mean flow: one phase; sampler of one step or few, held-out errors.

    u(z, t, r) (t - r) = integral of v from r to t, whence u = v - (t - r) du/dt along the path. The net is asked for
    that, du/dt being its own, by one forward derivative: a net without custom reverse rules (einsum attention).

    Args:
      net: (z_t [b, h, w, c], times [b, 2] = (t, t - r), labels int32 [b], dropout_keys=keys [b]) -> [b, h, w, c]
        float32; the label num_classes stands for none.
      image_shape: (h, w, c).
      num_classes: 0 to learn and sample without labels.
      tx: the optimiser.
      times: mean and deviation of the logit-normal draws, of which t is the larger and r the smaller.
      same_time: share of the examples with r = t, whose loss is that of flow matching.
      norm_power, norm_constant: p and c of the adaptive loss ||e||^2 / (||e||^2 + c)^p.
      label_drop: how often training hides a label.
      guidance: w of classifier-free guidance, which is learnt, not sampled: v = w v + (1 - w) u(z, t, t | no label).
      num_steps: of the sampler.

    Raises:
      ValueError: guidance without classes, or a share outside [0, 1].
    """
    if not (0 <= label_drop <= 1 and 0 <= same_time <= 1):
        raise ValueError(f"label_drop and same_time are shares, got {label_drop} and {same_time}")
    if guidance != 1 and not (num_classes and label_drop):
        raise ValueError("guidance needs num_classes > 0 and label_drop > 0")
    points = uniform_times(num_steps)

    def init(key: Array, batch: Batch) -> Variables:
        return {"net": net.init(key, batch["image"], jnp.zeros((batch["image"].shape[0], 2)), batch["label"] * 0)}

    def average(
        variables: Variables, z: Array, t: Array, r: Array, labels: Array, dropout_keys: Array | None = None
    ) -> Array:
        """u(z, t, r) for times [b]."""
        both = jnp.stack([t, t - r], axis=-1)
        return net.apply(variables["net"], z, both, labels, dropout_keys=dropout_keys)  # pyright: ignore[reportReturnType]

    def squared_errors(variables: Variables, batch: Batch, key: Array, train: bool) -> Array:
        """||u - target||^2, summed over dimensions: [b]."""
        index, x = batch["index"], batch["image"]
        keys = [jax.random.fold_in(key, i) for i in range(5)]
        eps = noise.normal(keys[0], index, x.shape[1:]).astype(x.dtype)
        drawn = logit_normal(noise.normal(keys[1], index, (2,)), *times).astype(x.dtype)
        same = noise.uniform(keys[2], index) < same_time
        t, r = drawn.max(-1), jnp.where(same, drawn.max(-1), drawn.min(-1))
        hidden = noise.uniform(keys[3], index) < label_drop if train else jnp.zeros(index.shape, bool)
        none = jnp.full_like(batch["label"], num_classes)
        labels = jnp.where(hidden, none, batch["label"]) if num_classes else jnp.zeros_like(batch["label"])
        dropout_keys = noise.example_keys(keys[4], index) if train else None

        z, velocity = interpolate(x, eps, t), velocity_of(x, eps)
        if guidance != 1:
            unguided = average(variables, z, t, t, none)
            guided = guidance * velocity + (1 - guidance) * unguided
            velocity = jax.lax.stop_gradient(jnp.where(per_example(hidden, x), velocity, guided))
        of_times = lambda z, t, r: average(variables, z, t, r, labels, dropout_keys)  # noqa: E731
        u, du = jax.jvp(of_times, (z, t, r), (velocity, jnp.ones_like(t), jnp.zeros_like(r)))
        target = jax.lax.stop_gradient(velocity - per_example(t - r, x) * du)
        return jnp.square(u - target).sum(tuple(range(1, x.ndim)))

    def objective(variables: Variables, batch: Batch, key: Array) -> tuple[Array, Aux]:
        squared = squared_errors(variables, batch, key, train=True)
        # The loss itself says nothing at p = 1, being about one for every error: the mean is what to watch.
        metrics = {"squared_error": squared.mean() / batch["image"][0].size}
        return adaptive_loss(squared, norm_power, norm_constant).mean(), Aux(metrics)

    def evaluate(variables: Variables, batch: Batch, key: Array) -> dict[str, Array]:
        squared = squared_errors(variables, batch, key, train=False)
        return {"squared_error": squared / batch["image"][0].size}

    def sample(variables: Variables, key: Array, labels: Array) -> Array:
        z = noise.normal(key, jnp.arange(labels.shape[0]), image_shape)
        labels = labels if num_classes else jnp.zeros_like(labels)
        for t, r in zip(points[:-1], points[1:], strict=True):
            each = [jnp.full(labels.shape, time, z.dtype) for time in (t, r)]
            z -= float(t - r) * average(variables, z, *each, labels)
        return jnp.clip(z, -1.0, 1.0)

    return Method(
        init=init, phases=(Phase("mean_flow", ("net",), objective, tx),), ema=("net",), sample=sample, evaluate=evaluate
    )


def adaptive_loss(squared: Array, power: float = 1.0, constant: float = 0.01) -> Array:
    """||e||^2 / sg(||e||^2 + c)^p: [b] (Geng et al., arXiv 2505.13447, eq. 22).

    At p = 0 the squared error. The gradient with respect to e is 2 e / (||e||^2 + c)^p: at p = 1 it has norm 2 / ||e||
    where ||e||^2 is well above c, so the larger an error is, the less it pulls, and at p = 1/2 about 2 for all.

    Args:
      squared: [b] float, ||e||^2 >= 0, summed over dimensions.
      power, constant: p >= 0 and c > 0.
    """
    return squared / jax.lax.stop_gradient((squared + constant) ** power)
