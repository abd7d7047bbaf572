"""Flow matching: the initial loss, predictions and losses, guidance, known flows, inpainting, a short training."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import SHAPE, largest_difference, state_of, tiny_batch

from jimgen import data
from jimgen.data.batches import scale_batch
from jimgen.methods.flow import flow
from jimgen.nets.diffusion_transformer import DiffusionTransformer
from jimgen.nets.transformer import Backbone
from jimgen.sampling import solvers as samplers
from jimgen.sampling.diffusion import edm_coefficients
from jimgen.sampling.guidance import Guidance
from jimgen.sampling.posterior import as_mask
from jimgen.train_step import compile_step, make_train_step

KEY = 3
LABELS = jnp.asarray([0, 1, 2, 0], jnp.int32)


def tiny_flow(dtype=jnp.float32, dropout=0.0, num_classes=3, **options):
    backbone = Backbone(width=8, depth=1, num_heads=2, dropout=dropout, dtype=dtype)
    net = DiffusionTransformer(4, num_classes, backbone)
    return flow(
        net,
        **{"image_shape": SHAPE, "num_classes": num_classes, "tx": optax.adam(1e-3), "num_steps": 3} | options,
    )


@pytest.fixture(scope="module")
def variables():
    """Random variables, none of them zero."""
    variables = state_of(tiny_flow(), tiny_batch()).variables
    leaves, structure = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(9), len(leaves))
    moved = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, moved)


def evaluated(method, variables, batch):
    return jax.jit(method.evaluate)(variables, batch, jax.random.key(KEY))["flow_loss"]


@pytest.mark.parametrize("prediction", ["velocity", "data", "noise", "edm"])
def test_the_loss_of_a_net_whose_output_is_zero(prediction):
    """Per dimension 1 + E[x^2], E[x^2] or 1; for edm about 1 if sigma_data is the data's standard deviation."""
    batch = tiny_batch(256)
    power = float(jnp.square(batch["image"]).mean())
    loss = "velocity" if prediction == "edm" else prediction
    method = tiny_flow(prediction=prediction, loss=loss, sigma_data=power**0.5)
    losses = evaluated(method, state_of(method, batch).variables, batch)
    assert losses.shape == (256,)
    expected = {"velocity": 1 + power, "data": power, "noise": 1.0, "edm": 1.0}[prediction]
    assert float(losses.mean()) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("dropout, label_drop", [(0.0, 0.0), (0.5, 0.0), (0.0, 1.0)])
def test_the_objective_is_the_mean_of_the_held_out_loss_without_drops(dropout, label_drop, variables):
    method, batch = tiny_flow(dropout=dropout, label_drop=label_drop), tiny_batch()
    loss, _ = jax.jit(method.phases[0].objective)(variables, batch, jax.random.key(KEY))
    held_out = float(evaluated(method, variables, batch).mean())
    same = abs(float(loss) - held_out) < 1e-5
    assert same == (dropout == 0 and label_drop == 0)


def test_dropped_labels_train_the_row_of_no_label_alone(variables):
    batch = tiny_batch()
    for label_drop, rows in ((0.0, sorted({int(label) for label in batch["label"]})), (1.0, [3])):
        objective = tiny_flow(label_drop=label_drop).phases[0].objective
        gradient = jax.jit(jax.grad(lambda v, o=objective: o(v, batch, jax.random.key(KEY))[0]))(variables)
        table = gradient["net"]["params"]["label"]["embedding"]
        assert np.flatnonzero(np.abs(table).sum(1)).tolist() == rows


def test_noise_belongs_to_the_example(variables):
    """Another order of the batch gives the same losses; another key gives others."""
    batch, order, method = tiny_batch(), jnp.asarray([3, 0, 7, 1, 2, 6, 5, 4]), tiny_flow()
    moved = {name: values[order] for name, values in batch.items()}
    losses = evaluated(method, variables, batch)
    np.testing.assert_allclose(evaluated(method, variables, moved), losses[order], rtol=1e-5)
    other = jax.jit(method.evaluate)(variables, batch, jax.random.key(KEY + 1))["flow_loss"]
    assert (jnp.abs(other - losses) > 1e-4).any()


def test_every_mode_computes_the_same_numbers(x64):
    """Including dropped labels and dropout."""
    method, batch, found = tiny_flow(jnp.float64, dropout=0.3, label_drop=0.5), tiny_batch(dtype=jnp.float64), {}
    for mode, num_devices in (("jit", 1), ("sharded", 4)):
        compiled = compile_step(make_train_step(method.phases), mode, jax.devices()[:num_devices])
        state = jax.device_put(state_of(method, batch, jnp.float64), compiled.state_sharding)
        key = jax.device_put(jax.random.key(KEY), compiled.replicated)
        placed = jax.device_put(batch, compiled.batch_sharding)
        for _ in range(2):  # the head moves in the first, all else in the second
            state, metrics = compiled.run(state, placed, key)
        found[mode] = jax.device_get((state, metrics))
    assert largest_difference(found["jit"], found["sharded"]) < 1e-10


def test_bfloat16_keeps_parameters_and_losses_in_float32(variables):
    method, batch = tiny_flow(jnp.bfloat16), tiny_batch()
    state, metrics = jax.jit(make_train_step(method.phases))(state_of(method, batch), batch, jax.random.key(0))
    for tree in (state.variables, state.opt_state, metrics):
        dtypes = {leaf.dtype for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)}
        assert dtypes == {jnp.dtype("float32")}
    exact = evaluated(tiny_flow(), variables, batch)
    np.testing.assert_allclose(evaluated(method, variables, batch), exact, rtol=0.05)


def test_samples_are_a_function_of_the_key_and_follow_their_labels(variables):
    sample = jax.jit(tiny_flow().sample)
    first, again, other = (sample(variables, jax.random.key(seed), LABELS) for seed in (0, 0, 1))
    assert first.shape == (4, *SHAPE) and first.dtype == jnp.float32 and float(jnp.abs(first).max()) <= 1
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    after = sample(variables, jax.random.key(0), LABELS.at[0].set(2))
    assert (first[0] != after[0]).any()
    np.testing.assert_allclose(first[1:], after[1:], atol=1e-6)


def test_guidance_of_weight_one_is_none_and_of_zero_ignores_labels(variables):
    """Guidance has no effect outside its interval."""

    def draw(labels, *guidance):
        return jax.jit(tiny_flow(guidance=Guidance(*guidance)).sample)(variables, jax.random.key(0), labels)

    plain, none = draw(LABELS, 1.0), jnp.full_like(LABELS, 3)
    assert float(jnp.abs(draw(LABELS, 4.0) - plain).max()) > 1e-3
    np.testing.assert_allclose(draw(LABELS, 4.0, (2.0, 3.0)), plain, atol=1e-5)
    np.testing.assert_allclose(draw(LABELS, 0.0), draw(none, 1.0), atol=1e-5)


def test_without_classes_labels_do_nothing():
    method = tiny_flow(num_classes=0)
    variables = jax.tree.map(lambda x: x + 0.05, state_of(method, tiny_batch()).variables)
    sample = jax.jit(method.sample)
    np.testing.assert_array_equal(
        sample(variables, jax.random.key(0), LABELS), sample(variables, jax.random.key(0), 0 * LABELS)
    )


class KnownFlow(nn.Module):
    """The output of a perfect net for pixels x ~ N(.2, s^2): s = .3 in every second column, and 0 in the others."""

    prediction: str

    @nn.compact
    def __call__(self, x, times, labels, dropout_keys=None):
        m, s2 = 0.2, jnp.asarray([0.09, 0.0] * (x.shape[2] // 2))[None, None, :, None]
        if self.prediction == "edm":
            sigma = jnp.exp(4 * times)[:, None, None, None]
            c = edm_coefficients(sigma)
            noisy = x / c.in_
            denoised = m + s2 / (s2 + sigma**2) * (noisy - m)
            return (denoised - c.skip * noisy) / c.out
        t = times[:, None, None, None]
        variance = (1 - t) ** 2 * s2 + t**2
        denoised = m + (1 - t) * s2 / variance * (x - (1 - t) * m)
        noise = t / variance * (x - (1 - t) * m)
        return {"velocity": noise - denoised, "data": denoised, "noise": noise}[self.prediction]


def known_flow(prediction, **options):
    options = {"image_shape": (8, 8, 1), "num_classes": 0, "tx": optax.sgd(0.0)} | options
    return flow(KnownFlow(prediction), prediction=prediction, **options)


def drawn(method):
    """Images [200, 8, 8, 1]."""
    return np.asarray(jax.jit(method.sample)({"net": {}}, jax.random.key(0), jnp.zeros(200, jnp.int32)))


@pytest.mark.parametrize("prediction", ["velocity", "data", "noise", "edm"])
@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m", "ancestral"])
def test_a_perfect_net_of_any_kind_gives_the_distribution_of_the_data(prediction, name):
    """Every prediction with every sampler: constant pixels keep no noise for any number of steps; the mean and
    the standard deviation of the others (6,400 draws) converge with the number of steps."""
    for num_steps, of_mean, of_std in ((20, 0.01, 0.26), (1000, 0.008, 0.02)):
        images = drawn(known_flow(prediction, sampler=getattr(samplers, name), num_steps=num_steps))
        np.testing.assert_allclose(images[:, :, 1::2], 0.2, atol=2e-4)
        assert images[:, :, ::2].mean() == pytest.approx(0.2, abs=of_mean)
        assert images[:, :, ::2].std() == pytest.approx(0.3, rel=of_std)


@pytest.mark.parametrize("prediction", ["velocity", "data", "noise", "edm"])
def test_a_perfect_net_fills_in_the_distribution_of_the_data(prediction):
    """Pixels are independent, so the known ones (-.9) do not change the distribution of the others."""
    images, labels = jnp.full((200, 8, 8, 1), -0.9), jnp.zeros(200, jnp.int32)
    mask = jnp.zeros((200, 8, 8), bool).at[:, :4].set(True)
    inpaint = jax.jit(known_flow(prediction, num_steps=60).inpaint)
    filled = np.asarray(inpaint({"net": {}}, jax.random.key(0), images, mask, labels))[:, 4:]
    np.testing.assert_allclose(filled[:, :, 1::2], 0.2, atol=2e-4)
    assert filled[:, :, ::2].mean() == pytest.approx(0.2, abs=0.015)
    assert filled[:, :, ::2].std() == pytest.approx(0.3, rel=0.15)


@pytest.mark.parametrize("prediction", ["data", "noise"])
def test_guidance_between_equal_predictions_changes_nothing_at_either_end(prediction):
    guided = {"num_classes": 3, "guidance": Guidance(4.0)}
    np.testing.assert_allclose(drawn(known_flow(prediction)), drawn(known_flow(prediction, **guided)), atol=1e-4)


@pytest.mark.parametrize("prediction", ["velocity", "edm"])
def test_inpainting_keeps_known_pixels(prediction, variables):
    """Known pixels of each example are kept exactly, and the values of unknown ones have no influence."""
    method, images = tiny_flow(prediction=prediction, guidance=Guidance(2.0)), tiny_batch(4)["image"]
    mask = jax.random.bernoulli(jax.random.key(1), 0.5, images.shape[:3])
    inpaint = jax.jit(method.inpaint)
    filled = inpaint(variables, jax.random.key(0), images, mask, LABELS)
    known = np.broadcast_to(mask[..., None], images.shape)
    np.testing.assert_array_equal(filled[known], images[known])
    assert (filled[~known] != images[~known]).any() and float(jnp.abs(filled).max()) <= 1
    hidden = jnp.where(mask[..., None], images, 0.123)
    np.testing.assert_array_equal(inpaint(variables, jax.random.key(0), hidden, mask, LABELS), filled)


def test_masks_of_two_shapes():
    images = jnp.zeros((2, 3, 4, 1))
    mask = jnp.ones((2, 3, 4))
    assert as_mask(mask, images).shape == as_mask(mask[..., None], images).shape == (2, 3, 4, 1)
    assert as_mask(mask, images).dtype == bool
    with pytest.raises(ValueError, match=r"expected a mask \[2, 3, 4\], True = known, got \[3, 4\]"):
        as_mask(mask[0], images)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"label_drop": 1.5}, "label_drop is a probability, got 1.5"),
        ({"label_drop": 0.0, "guidance": Guidance(2.0)}, "guidance needs num_classes > 0 and label_drop > 0"),
        ({"num_classes": 0, "guidance": Guidance(2.0)}, "guidance needs num_classes > 0"),
        ({"num_steps": 0}, "at least one step"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        tiny_flow(**options)


def test_a_flow_learns_digits(optimised):
    """A hundred and fifty steps of a small net take the loss from 1 + E[x^2] to less than half of it."""
    images = data.load("digits").train.images
    net = DiffusionTransformer(2, 0, Backbone(width=32, depth=2, num_heads=2))
    method = flow(net, image_shape=(8, 8, 1), num_classes=0, tx=optax.adam(3e-3))
    step = jax.jit(make_train_step(method.phases, prepare=scale_batch), donate_argnums=0)

    def batch(rows):
        index = jnp.arange(len(rows), dtype=jnp.int32)
        return {"image": jnp.asarray(images[rows]), "label": 0 * index, "index": index}

    everything = scale_batch(batch(np.arange(512)))
    state = state_of(method, scale_batch(batch(np.arange(2))))
    before = float(evaluated(method, state.variables, everything).mean())
    for number in range(150):
        rows = np.random.default_rng(number).integers(0, len(images), 64)
        state, _ = step(state, batch(rows), jax.random.key(1))
    after = float(evaluated(method, state.variables, everything).mean())
    assert before == pytest.approx(1 + float(jnp.square(everything["image"]).mean()), rel=0.03)
    assert after < before / 2
