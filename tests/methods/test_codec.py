"""The codec's method: what a step of the prior knows, tables and their counts, rates."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import SHAPE, compiled, initialised, state_of, tiny_batch, tiny_codec

from jimgen.methods.codec import FRACTIONS, LARGEST, NUM_SYMBOLS, codec, table_and_symbol
from jimgen.nets.codec import NUM_STEPS, PHASES, Prior, of_step
from jimgen.train_step import compile_step, eval_variables, make_train_step


@pytest.fixture(scope="module")
def tiny():
    return tiny_codec()


@pytest.fixture(scope="module")
def state(tiny):
    return state_of(tiny.method, tiny_batch())


def test_a_step_of_the_prior_knows_the_steps_before_it_and_no_other():
    """On a grid of 4x6 with a grid above: which latents change the mean of which."""
    values, above, rate = jnp.zeros((1, 4, 6, 4)), jnp.zeros((1, 2, 3, 2)), jnp.zeros(1, jnp.int32)
    net = Prior(4, 2, 1, 8)
    _, shapes = initialised(net, values, above, rate)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape), jnp.float32), shapes)
    order = np.zeros((4, 6, 4), int)
    for k in range(NUM_STEPS):
        (i, j), channels = PHASES[k // 2], of_step(k, 4)
        order[i::2, j::2, channels] = k
    effects = jax.jit(jax.jacobian(lambda v: sum(net.apply(variables, v, above, rate))[0]))(values)[..., 0, :, :, :]
    for place in np.ndindex(order.shape):
        acts = np.abs(np.asarray(effects[place])) > 0
        assert not acts[order >= order[place]].any(), place
    assert (np.abs(np.asarray(effects)) > 0).any(axis=(0, 1, 2))[order < NUM_STEPS - 1].all()


@pytest.mark.parametrize(
    ("value", "mean", "raw", "table", "symbol"),
    [
        (0, 0.0, -4.0, FRACTIONS // 2, LARGEST),
        (3, 1.0, -4.0, FRACTIONS // 2, LARGEST + 2),
        (3, 0.25, -3.8, FRACTIONS + FRACTIONS // 2 + 2, LARGEST + 3),
        (-1, -0.5, 9.0, 31 * FRACTIONS, LARGEST - 1),
        (0, -0.55, -9.0, 0, LARGEST),
        (99, 0.0, 0.0, 20 * FRACTIONS + FRACTIONS // 2, NUM_SYMBOLS - 1),
    ],
)
def test_tables_by_hand(value, mean, raw, table, symbol):
    """A mean of -0.55 is -4 eighths, whose fraction is the first, as -1/2 is rounded up."""
    found = table_and_symbol(*(jnp.asarray(float(x)) for x in (value, mean, raw)))
    assert [int(x) for x in found] == [table, symbol]


def test_a_step_counts_each_latent_once(tiny, state):
    """8 pictures of 8x12: 2x3 places of 2 channels, and 1x2 places of 4."""
    compiled_step = compile_step(make_train_step(tiny.method.phases), "jit")
    after, metrics = compiled_step.run(jax.tree.map(jnp.copy, state), tiny_batch(), jax.random.key(0))
    assert float(after.variables["tables"]["counts"].sum()) == 8 * (2 * 3 * 2 + 1 * 2 * 4)
    assert {"codec/rate_nats", "codec/squared_error"} < metrics.keys() and float(metrics["codec/skipped"]) == 0


def test_a_higher_rate_costs_more_and_all_of_its_functions_have_the_shapes_of_images(tiny, state):
    method, batch = compiled(tiny.method), tiny_batch()
    found = method.evaluate(state.variables, batch, jax.random.key(0))
    assert set(found) == {f"{name}_rate{r}" for name in ("bytes", "psnr") for r in range(2)}
    assert (found["bytes_rate1"] > found["bytes_rate0"]).all() and (found["psnr_rate1"] <= 60).all()
    assert method.sample(state.variables, jax.random.key(0), batch["label"][:3]).shape == (3, *SHAPE)
    latents = jax.jit(tiny.encode)(state.variables, batch["image"], batch["label"] * 0)
    assert latents.coarse.shape == (8, 1, 2, 4) and latents.fine.shape == (8, 2, 3, 2)
    assert latents.coarse.dtype == jnp.int32
    images = jax.jit(tiny.decode)(state.variables, latents, batch["label"] * 0)
    assert images.shape == batch["image"].shape and float(jnp.abs(images).max()) <= 1


def test_samples_have_no_latents_in_the_padding_of_odd_grids(monkeypatch):
    """As in training: 12x12 images have 3x3 fine latents in a grid of 4x4, whose fourth row and column stay zero."""
    seen = []
    steps = Prior.steps
    monkeypatch.setattr(Prior, "steps", lambda net, values, *rest: seen.append(values) or steps(net, values, *rest))
    method = tiny_codec(image_shape=(12, 12, SHAPE[-1])).method
    state = state_of(method, {**tiny_batch(), "image": jnp.zeros((8, 12, 12, SHAPE[-1]))})
    with jax.disable_jit():
        seen.clear()
        method.sample(eval_variables(state), jax.random.key(0), jnp.zeros(2, jnp.int32))
    fine = np.asarray(seen[-1])
    assert fine.shape[1:3] == (4, 4) and fine[:, :3, :3].any()
    assert not fine[:, 3].any() and not fine[:, :, 3].any()


def test_samples_are_finite_where_the_prior_is_wild(tiny, state):
    """Scales and latents have the bounds that they have in files; each step would be fed with larger latents else."""
    wild = jax.tree.map(lambda x: 1e3 * (x + 1), eval_variables(state)["prior_fine"])
    sample = jax.jit(tiny.method.sample)
    images = sample({**eval_variables(state), "prior_fine": wild}, jax.random.key(0), jnp.zeros(4, jnp.int32))
    assert np.isfinite(images).all()


@pytest.mark.parametrize("sigmas", [(), (0.1, 0.2), (0.2, 0.2), (0.2, 0.0), (0.2, float("nan"))])
def test_sigmas_must_fall(sigmas):
    with pytest.raises(ValueError, match="--sigmas"):
        codec(None, None, Prior(2, 0, 1), Prior(2, 2, 1), image_shape=SHAPE, sigmas=sigmas, tx=optax.sgd(0.0))


def test_a_prior_needs_an_even_number_of_channels():
    with pytest.raises(ValueError, match="even"):
        jax.eval_shape(Prior(3, 0, 1).init, jax.random.key(0), jnp.zeros((1, 2, 2, 3)), None, jnp.zeros(1, jnp.int32))
