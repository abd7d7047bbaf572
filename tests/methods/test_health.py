"""The health of adversarial training: by hand, and what counts as a collapse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jimgen.methods import health
from jimgen.methods.health import GRACE, PATIENCE, Seen


def seen(real=(2.0, 4.0), fake=(0.0, 5.0), spread=1.0, rough=1.0, norm=()):
    pixels = jnp.asarray([[-1.0, 0.0], [1.0, 0.0]])
    logits, pixels = (jnp.asarray(real), jnp.asarray(fake)), (pixels, spread * pixels)
    return Seen(*logits, *pixels, jnp.asarray([2.0, 4.0]), rough * jnp.asarray([4.0, 2.0]), norm)


def after(steps, *args, state=None, **changed):
    """State and metrics after some equal steps."""
    step, state = jax.jit(health.observe), state or health.first_state()
    metrics = {}
    for _ in range(steps):
        state, metrics = step(state, seen(*args, **changed))
    return state, {f"discriminator/{name}": float(value) for name, value in metrics.items()}


def test_diversity_is_the_ratio_of_distances():
    rng = np.random.default_rng(0)
    real, fake = (rng.normal(size=(7, 5)).astype(np.float32) for _ in range(2))

    def mean_square(x):
        return np.square(x[:, None] - x[None]).sum(-1).mean()

    expected = np.sqrt(mean_square(fake) / mean_square(real))
    np.testing.assert_allclose(health.diversity(jnp.asarray(real), jnp.asarray(fake)), expected, rtol=1e-5)
    assert float(health.diversity(jnp.ones((3, 2)), jnp.ones((3, 2)))) == 0


def test_roughness_is_the_squared_difference_of_neighbours():
    """Columns 0, 1, 3: differences 1 and 2, mean square 2.5; rows are equal."""
    images = jnp.broadcast_to(jnp.asarray([0.0, 1.0, 3.0])[None, None, :, None], (2, 4, 3, 1))
    np.testing.assert_allclose(health.roughness(images), [2.5, 2.5])
    assert float(health.roughness(jnp.ones((1, 1, 1, 3)))[0]) == 0


def test_pooling_takes_means_of_blocks():
    images = jnp.arange(2 * 16 * 24, dtype=jnp.float32).reshape(2, 16, 24, 1)
    blocks = np.asarray(images).reshape(2, 8, 2, 8, 3).mean((2, 4)).reshape(2, -1)
    np.testing.assert_allclose(health.pooled(images), blocks)
    assert health.pooled(jnp.zeros((2, 5, 9, 3))).shape == (2, 5 * 9 * 3)


def test_the_first_observation_is_taken_whole_and_later_ones_are_averaged():
    """sign(2 - 0) and sign(4 - 5) cancel; then all pairs are in order."""
    state, metrics = after(1)
    assert metrics["discriminator/separation"] == 0 and metrics["discriminator/logit_difference"] == pytest.approx(0.5)
    assert float(state["real_logit"]) == 3 and float(state["fake_logit"]) == 2.5
    state, metrics = after(1, (9.0, 9.0), state=state)
    assert metrics["discriminator/separation"] == pytest.approx(0.1)
    assert float(state["real_logit"]) == pytest.approx(0.9 * 3 + 0.1 * 9)


@pytest.mark.parametrize(
    ("name", "options"),
    [("diversity", {"spread": 0.29}), ("roughness", {"rough": 2.6}), ("separation", {"fake": (-9.0, -9.0)})],
)
def test_a_collapse_is_noticed_after_its_patience_and_not_before(name, options):
    recovery = health.recovery("discriminator", 3)
    needed = max(GRACE - 1, PATIENCE[name])
    healthy = after(1, **options)[0] | {"strikes": {name: jnp.zeros(()) for name in PATIENCE}}
    state, metrics = after(needed - 1, state=healthy, **options)
    assert recovery.diagnose(metrics) is None and not recovery.is_healthy({"health": {"state": state}})
    state, metrics = after(1, state=state, **options)
    assert recovery.diagnose(metrics) == name
    healthy = after(1, state=after(60, state=state)[0])
    assert recovery.diagnose(healthy[1]) is None and recovery.is_healthy({"health": {"state": healthy[0]}})


def test_fakes_that_were_never_diverse_have_more_time_to_become_so():
    """DCGAN's first images of digits are a tenth as diverse as the data for 200 steps."""
    recovery = health.recovery("discriminator", 3)
    state, metrics = after(health.SLOW_START["diversity"] - 1, spread=0.1)
    assert recovery.diagnose(metrics) is None
    assert recovery.diagnose(after(1, state=state, spread=0.1)[1]) == "diversity"


def test_narrow_margins_are_no_collapse():
    """Every real image is rated above its fake, by 2 logits."""
    state, metrics = after(health.SLOW_START["separation"], (1.0, 1.0), (-1.0, -1.0))
    assert metrics["discriminator/separation"] == pytest.approx(1)
    assert metrics["discriminator/unhealthy_separation"] == 0 and float(state["strikes"]["separation"]) == 0


def test_logits_without_a_scale_have_no_wide_margin():
    state, metrics = after(health.SLOW_START["separation"], (99.0, 99.0))
    assert health.recovery("discriminator", 3).diagnose(metrics) == "separation"
    wasserstein = health.recovery("discriminator", 3, has_margin=False)
    assert wasserstein.diagnose(metrics) is None and wasserstein.is_healthy({"health": {"state": state}})


def test_patience_counts_steps_not_updates_of_the_discriminator():
    counts = dict.fromkeys(PATIENCE, 0.0) | {"diversity": 240.0}
    metrics = {f"discriminator/unhealthy_{name}": count for name, count in counts.items()} | {
        "discriminator/age": 400.0
    }
    assert health.recovery("discriminator", 3, updates=1).diagnose(metrics) == "diversity"
    assert health.recovery("discriminator", 3, updates=5).diagnose(metrics) is None  # 48 of 80 steps
    assert health.recovery("discriminator", 3, updates=2).diagnose(metrics) == "diversity"


def test_a_penalty_that_rises_from_a_tiny_start_is_no_collapse():
    """Of nets whose last layer is zero at first: times a thousand within the first observations."""
    state = health.first_state()
    for norm in (1e-5, 1e-4, 1e-3, *[1e-2] * 40):
        state, metrics = after(1, state=state, norm=jnp.asarray([norm, norm]))
    assert metrics["discriminator/unhealthy_penalty"] == 0


def test_a_penalty_far_above_its_median_is_a_collapse():
    state, metrics = after(GRACE, norm=jnp.asarray([2.0, 2.0]))
    assert metrics["discriminator/r1"] == 2 and metrics["discriminator/unhealthy_penalty"] == 0
    assert float(state["log_median_r1"]) == pytest.approx(np.log(2), abs=0.06)
    state, metrics = after(1, state=state, norm=jnp.asarray([2.0, 90.0]))
    assert metrics["discriminator/unhealthy_penalty"] == 1
    _, metrics = after(3, state=state)  # no penalty was due: the last one stays
    assert metrics["discriminator/unhealthy_penalty"] == 4 and metrics["discriminator/r1"] == 46
    assert health.recovery("discriminator", 1).diagnose(metrics | {"discriminator/unhealthy_penalty": 50}) == "penalty"


def test_after_a_rollback_everything_begins_again_with_other_factors():
    recovery = health.recovery("discriminator", 3)
    variables = {"generator": 1, "health": {"state": after(GRACE + 60, spread=0.1)[0]}}
    again = recovery.retry(variables, 2)
    assert again["generator"] == 1 and recovery.rollbacks(again) == 2 and recovery.is_healthy(again)
    weights = [[float(health.penalty_weight(v, jnp.float32(gamma))) for gamma in (0, 3)] for v in (variables, again)]
    assert weights == [[0, 3], [2, 12]]
    assert float(health.learning_rate_factor(variables)) == 1 and float(health.learning_rate_factor(again)) == 0.25


def test_overfitting_is_0_where_held_out_images_look_like_training_and_1_where_they_look_fake():
    state = {"real_logit": jnp.asarray(3.0), "fake_logit": jnp.asarray(-1.0)}
    np.testing.assert_allclose(health.overfitting(state, jnp.asarray([3.0, 1.0, -1.0])), [0, 0.5, 1])
    assert np.isfinite(health.overfitting({"real_logit": 1.0, "fake_logit": 1.0}, jnp.ones(2))).all()
