"""The health of an adversarial training: measured inside the compiled step, judged by the loop.

A step is unhealthy in one of four ways. Each is counted in steps in a row, and a count that reaches its patience is a
collapse:

- separation: the discriminator ranks nearly every real image above its fake, by a wide margin. A narrow one is common
  where there is no gradient penalty, and generators learn from it.
- diversity: fakes differ much less from each other than real images do. Some generators begin like that and take
  hundreds of steps, so where fakes have not been diverse yet, it takes longer to be a collapse.
- roughness: neighbouring pixels of fakes differ far more than those of real images: fakes are noise, however diverse.
- penalty: the gradient penalty on real images is far above its running median.

The statistics are moving averages, kept in the variables under "health", so that a checkpoint says how healthy it is.
After a rollback training goes on with new noise, stronger penalties and a lower learning rate.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jimgen.methods.method import Recovery
from jimgen.parallel import mean_over_devices
from jimgen.precision import at_least_float32
from jimgen.train_step import Metrics, Variables

NET = "health"  # the entry of the variables
DECAY = 0.9  # of the moving averages, per update of the discriminator
MOST_SEPARATED = 0.98  # mean of sign(D(x) - D(G(z)))
WIDE_MARGIN = 10.0  # mean of D(x) - D(G(z)), in logits
LEAST_DIVERSE = 0.3  # distance among fakes over that among real images
MOST_ROUGH = 2.5  # mean squared difference of neighbouring pixels of fakes over that of real images
LARGEST_PENALTY = 20.0  # R1 over its running median
MEDIAN_STEP = 0.05  # change of the logarithm of the median per observation; the first ones are larger, 1, 1/2, 1/3, ...
PATIENCE = {"separation": 200, "diversity": 50, "roughness": 50, "penalty": 50}  # steps in a row
LEAST_GAMMA = 0.5  # weight of R1 and R2 after a rollback, before it is doubled
GRACE = 150  # steps after the start or a rollback in which nothing is a collapse
# Steps after which it is a collapse, too, that something has never been healthy.
SLOW_START = {"separation": 1000, "diversity": 1000, "roughness": 500, "penalty": 1000}
AVERAGED = ("separation", "diversity", "roughness", "real_logit", "fake_logit", "real_sign")
POOLED = 8  # side of the images whose distances are measured


class Seen(NamedTuple):
    """What a step of the discriminator shows of each example; norms are () where no penalty was due."""

    real_logits: Array  # [b]
    fake_logits: Array  # [b]
    real_pixels: Array  # [b, f], of `pooled`
    fake_pixels: Array
    real_roughness: Array  # [b], of `roughness`
    fake_roughness: Array
    real_norm: Any = ()  # [b], squared norm of the gradient
    fake_norm: Any = ()


def first_state() -> dict[str, Any]:
    """The statistics before the first step, for variables["health"]["state"]."""
    averages = {name: jnp.zeros(()) for name in AVERAGED}
    penalties = {name: jnp.zeros(()) for name in ("r1", "r2", "log_median_r1")}
    counts = {name: jnp.zeros(()) for name in ("age", "penalties", "rollbacks")}  # floats: means over devices keep them
    return {**averages, **penalties, **counts, "strikes": {name: jnp.zeros(()) for name in PATIENCE}}


def pooled(images: Array) -> Array:
    """Images [b, h, w, c] as means over blocks, at least 8 blocks a side where there are as many pixels: [b, f]."""
    height, width = (max(1, side // POOLED) for side in images.shape[1:3])
    rows, columns = images.shape[1] // height, images.shape[2] // width
    cut = images[:, : rows * height, : columns * width]
    means = cut.reshape(-1, rows, height, columns, width, images.shape[-1]).mean((2, 4))
    return means.reshape(images.shape[0], -1)


def roughness(images: Array) -> Array:
    """The mean squared difference of neighbouring pixels of images [b, h, w, c], in each direction: [b]."""
    images = at_least_float32(images)
    steps = (jnp.diff(images, axis=axis) for axis in (1, 2) if images.shape[axis] > 1)
    return sum((jnp.square(step).mean((1, 2, 3)) for step in steps), jnp.zeros(images.shape[0], images.dtype))


def diversity(real: Array, fake: Array) -> Array:
    """Root mean squared distance between pairs of fakes over that between pairs of real images: [] >= 0.

    The mean squared distance between pairs is twice the total variance, which is computed from means alone. So it is
    that of the global batch in every mode.

    Args:
        real, fake: float [b, f].
    """

    def variance(x: Array) -> Array:
        x = at_least_float32(x)
        mean, square = mean_over_devices((x.mean(0), jnp.square(x).mean(0)))
        return jnp.maximum(square - jnp.square(mean), 0).sum()

    return jnp.sqrt(variance(fake) / jnp.maximum(variance(real), 1e-12))


def observe(state: Mapping[str, Any], seen: Seen) -> tuple[dict[str, Any], Metrics]:
    """The statistics after one update of the discriminator, and its metrics."""
    difference = mean_over_devices((seen.real_logits - seen.fake_logits).mean())
    real_roughness = mean_over_devices(seen.real_roughness.mean())
    now = {
        "separation": mean_over_devices(jnp.sign(seen.real_logits - seen.fake_logits).mean()),
        "diversity": diversity(seen.real_pixels, seen.fake_pixels),
        "roughness": mean_over_devices(seen.fake_roughness.mean()) / jnp.maximum(real_roughness, 1e-12),
        "real_logit": mean_over_devices(seen.real_logits.mean()),
        "fake_logit": mean_over_devices(seen.fake_logits.mean()),
        "real_sign": mean_over_devices(jnp.sign(seen.real_logits).mean()),
    }
    is_first = state["age"] == 0
    averaged = {name: jnp.where(is_first, x, DECAY * state[name] + (1 - DECAY) * x) for name, x in now.items()}
    new = {**state, **averaged, **_penalties(state, seen), "age": state["age"] + 1}
    large = jnp.log(jnp.maximum(new["r1"], 1e-30)) > new["log_median_r1"] + math.log(LARGEST_PENALTY)
    unhealthy = {
        "separation": (new["separation"] > MOST_SEPARATED) & (new["real_logit"] - new["fake_logit"] > WIDE_MARGIN),
        "diversity": new["diversity"] < LEAST_DIVERSE,
        "roughness": new["roughness"] > MOST_ROUGH,
        "penalty": large & (new["penalties"] > 1),
    }
    new["strikes"] = {name: jnp.where(bad, state["strikes"][name] + 1, 0) for name, bad in unhealthy.items()}
    shown = {name: new[name] for name in ("separation", "diversity", "roughness", "r1", "r2", "age", "rollbacks")}
    strikes = {f"unhealthy_{name}": count for name, count in new["strikes"].items()}
    return new, {"logit_difference": difference, **shown, **strikes}


def _penalties(state: Mapping[str, Any], seen: Seen) -> dict[str, Array]:
    """The newest R1 and R2 norms and the running median of R1, where a penalty was due."""
    new = {}
    if isinstance(seen.fake_norm, jax.Array):
        new["r2"] = mean_over_devices(seen.fake_norm.mean())
    if isinstance(seen.real_norm, jax.Array):
        new["r1"] = mean_over_devices(seen.real_norm.mean())
        log_r1 = jnp.log(jnp.maximum(new["r1"], 1e-30))
        size = jnp.maximum(MEDIAN_STEP, 1 / jnp.maximum(state["penalties"], 1))
        moved = state["log_median_r1"] + size * jnp.sign(log_r1 - state["log_median_r1"])
        new |= {"log_median_r1": jnp.where(state["penalties"] == 0, log_r1, moved), "penalties": state["penalties"] + 1}
    return new


def overfitting(state: Mapping[str, Any], held_out_logits: Array) -> Array:
    """(mean D(train) - D(x)) / (mean D(train) - mean D(fake)) for held-out images x: [b].

    Its mean is 0 where the discriminator rates held-out images as those of training, and 1 where it rates them as
    fakes: it has memorised the training images. It is valid for every loss.

    References: Karras et al., Training GANs with Limited Data, arXiv:2006.06676, equation 1.
    """
    gap = state["real_logit"] - state["fake_logit"]
    return (state["real_logit"] - held_out_logits) / jnp.where(gap == 0, 1, gap)


def recovery(phase: str, most: int, updates: int = 1, has_margin: bool = True) -> Recovery:
    """Rollbacks for a method whose phase of this name reports the metrics of `observe`.

    Args:
        phase: name of the discriminator's phase.
        most: rollbacks in a run.
        updates: of the discriminator in a step, each of which `observe` counts.
        has_margin: whether a wide margin of the logits is a collapse. It is none for a Wasserstein loss, whose logits
            have no scale.
    """
    signs = [name for name in PATIENCE if has_margin or name != "separation"]

    def diagnose(metrics: Mapping[str, float]) -> str | None:
        age = metrics[f"{phase}/age"] / updates
        for name in signs:
            count = metrics[f"{phase}/unhealthy_{name}"] / updates
            begins = GRACE if count < age else SLOW_START[name]
            if age >= begins and count >= PATIENCE[name]:
                return name
        return None

    def is_healthy(variables: Variables) -> bool:
        strikes = variables[NET]["state"]["strikes"]
        return all(int(strikes[name]) == 0 for name in signs)

    def retry(variables: Variables, count: int) -> Variables:
        return {**variables, NET: {"state": {**first_state(), "rollbacks": jnp.float32(count)}}}

    return Recovery(diagnose, is_healthy, lambda variables: int(rollbacks(variables)), retry, most)


def rollbacks(variables: Variables) -> Array:
    """The rollbacks so far: float32 []."""
    return variables[NET]["state"]["rollbacks"]


def penalty_weight(variables: Variables, gamma: Array) -> Array:
    """The weight gamma of a penalty: doubled by each rollback, and at least 1 from the first one on."""
    count = rollbacks(variables)
    return jnp.where(count > 0, jnp.maximum(gamma, LEAST_GAMMA), gamma) * 2.0**count


def learning_rate_factor(variables: Variables) -> Array:
    """The factor on learning rates: .5 for each rollback."""
    return 0.5 ** rollbacks(variables)
