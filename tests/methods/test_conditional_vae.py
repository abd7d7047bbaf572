"""The conditional VAE: what is known stays, the bound and its parts, masks at both extremes."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import SHAPE, compiled, state_of, tiny_batch, tiny_conditional_vae

from jimgen.masking import half
from jimgen.methods.conditional_vae import conditional_vae
from jimgen.methods.likelihoods import bernoulli, gaussian

KEY = 3
STUBS = {"prior": {}, "posterior": {}, "decoder": {}}


def all_or_nothing(key, index, size):
    """Every other example is known whole, the others not at all."""
    return jnp.broadcast_to((index % 2 == 0)[:, None, None], (index.size, *size))


def left_half(key, index, size):
    return jnp.broadcast_to(jnp.arange(size[1]) < size[1] // 2, (index.size, *size))


@pytest.fixture(scope="module")
def variables():
    """Variables that differ from the initial ones, whose zeros would hide faults."""
    return jax.tree.map(lambda x: x * 1.2 + 0.02, state_of(tiny_conditional_vae(), tiny_batch()).variables)


@pytest.fixture(scope="module")
def method():
    return compiled(tiny_conditional_vae())


@pytest.mark.parametrize("likelihood", [gaussian(), bernoulli()])
def test_fillings_keep_what_is_known_and_do_not_see_the_rest(likelihood, variables):
    """Known pixels are bit-identical; others depend on the key and on known pixels alone, and lie in [-1, 1]."""
    method, batch = tiny_conditional_vae(likelihood=likelihood), tiny_batch(4)
    images, labels, mask = batch["image"], batch["label"], half(jax.random.key(0), SHAPE[:2])
    mask = jnp.broadcast_to(mask, (4, *SHAPE[:2])).at[0].set(True).at[1].set(False)
    fill = jax.jit(method.inpaint)
    first, again, other = (fill(variables, jax.random.key(s), images, mask, labels) for s in (0, 0, 1))
    known = np.broadcast_to(np.asarray(mask)[..., None], first.shape)
    np.testing.assert_array_equal(np.asarray(first)[known], np.asarray(images)[known])
    np.testing.assert_array_equal(first, again)
    assert (np.asarray(first)[~known] != np.asarray(other)[~known]).any() and float(jnp.abs(first).max()) <= 1
    hidden = jnp.where(known, images, 0.9)
    if likelihood.data is None:  # draws of x are those of the pixels, which the hidden ones do not change
        np.testing.assert_array_equal(fill(variables, jax.random.key(0), hidden, mask, labels), first)
    with pytest.raises(ValueError, match="expected a mask"):
        method.inpaint(variables, jax.random.key(0), images, mask[:, :4], labels)


def test_a_sample_is_a_filling_where_nothing_is_known(method, variables):
    labels = jnp.asarray([0, 1, 2, 0])
    images = method.sample(variables, jax.random.key(0), labels)
    assert images.shape == (4, *SHAPE) and float(jnp.abs(images).max()) <= 1
    assert (images != method.sample(variables, jax.random.key(1), labels)).any()
    assert method.reconstruct(variables, images, labels).shape == images.shape


def test_the_bound_is_the_sum_of_its_parts(method, variables):
    """Per example; the objective is their mean at the same key and mask, plus the weak prior of the prior."""
    batch, key = tiny_batch(), jax.random.key(KEY)
    metrics = method.evaluate(variables, batch, key)
    assert all(values.shape == (8,) for values in metrics.values()) and (metrics["kl_nats"] > 0).all()
    np.testing.assert_allclose(metrics["neg_elbo_nats"], metrics["reconstruction_nats"] + metrics["kl_nats"], rtol=1e-6)
    loss, aux = method.phases[0].objective(variables, batch, key)
    num_latents, bound = math.prod((2, 3, 2)), float(aux.metrics["neg_elbo_nats"])
    assert bound == pytest.approx(float(metrics["neg_elbo_nats"].mean()), rel=1e-6)
    assert bound < float(loss) < bound + 1e-3 * num_latents
    assert method.phases[0].trains == ("prior", "posterior", "decoder", "likelihood") == method.ema


def test_masks_belong_to_the_example(method, variables):
    """A permuted batch has the same masks and noise, and so the same metrics."""
    batch, order = tiny_batch(), jnp.asarray([3, 0, 7, 1, 2, 6, 5, 4])
    moved = {name: values[order] for name, values in batch.items()}
    metrics, again = (method.evaluate(variables, b, jax.random.key(KEY)) for b in (batch, moved))
    for name, values in metrics.items():
        np.testing.assert_allclose(again[name], values[order], rtol=2e-5, atol=1e-6, err_msg=name)


def test_gradients_are_finite_where_all_is_known_and_where_nothing_is(variables):
    """Where every pixel is known, there is nothing to reconstruct. A step down the gradient lowers the loss."""
    method, batch = compiled(tiny_conditional_vae(masks=all_or_nothing)), tiny_batch()
    loss = jax.jit(jax.value_and_grad(lambda v: method.phases[0].objective(v, batch, jax.random.key(KEY))[0]))
    before, gradient = loss(variables)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))
    after, _ = loss(jax.tree.map(lambda x, slope: x - 1e-4 * slope, variables, gradient))
    assert np.isfinite(after) and after < before
    metrics = method.evaluate(variables, batch, jax.random.key(KEY))
    for values in (metrics["reconstruction_nats"], metrics["filled_mse"]):
        assert ((values == 0) == (batch["index"] % 2 == 0)).all()


class GivenGaussian(nn.Module):
    """No features; z ~ N(mean, exp(logvar)), both given."""

    mean: float
    logvar: float

    def __call__(self, images, known, labels):
        shape = (images.shape[0], 1, 1, 1)
        return (images,), jnp.full(shape, self.mean), jnp.full(shape, self.logvar)


class OnlyTheLeft(nn.Module):
    """E[x|z] = z on the right; on the left, whatever is given."""

    left: float

    def __call__(self, z, features, labels):
        shape = features[0].shape
        columns = jnp.arange(shape[2]).reshape(1, 1, -1, 1)
        return jnp.where(columns < shape[2] // 2, self.left, jnp.broadcast_to(z, shape))


def stub(posterior=(0.0, -60.0), left=0.0, tx=None):
    """Fills the right half by z, which is nearly 0 where the posterior says so."""
    return conditional_vae(
        *(GivenGaussian(0.0, 0.0), GivenGaussian(*posterior), OnlyTheLeft(left)),
        image_shape=SHAPE,
        tx=tx or optax.sgd(0.0),
        likelihood=gaussian(0.5),
        masks=left_half,
    )


def test_only_missing_pixels_count():
    """By hand: z = 0, sigma = 1/2: sum 2 x^2 + n log(1/2 sqrt(2 pi)) over the right half. The left half is free."""
    batch, key = tiny_batch(), jax.random.key(KEY)
    metrics = [jax.jit(stub(left=left).evaluate)(STUBS, batch, key) for left in (0.0, 1e3)]
    right = np.asarray(batch["image"])[:, :, SHAPE[1] // 2 :]
    expected = 2 * np.square(right).sum((1, 2, 3)) + right[0].size * math.log(0.5 * math.sqrt(2 * math.pi))
    for found in metrics:
        np.testing.assert_allclose(found["reconstruction_nats"], expected, rtol=1e-5)
    gradient = jax.grad(lambda image: stub().evaluate(STUBS, {**batch, "image": image}, key)["neg_elbo_nats"].sum())
    assert (jax.jit(gradient)(batch["image"])[:, :, : SHAPE[1] // 2] == 0).all()


def test_the_kl_is_zero_where_the_posterior_is_the_prior():
    """And by hand elsewhere: [m^2 + e^v - 1 - v] / 2 against N(0, 1)."""
    batch, key = tiny_batch(), jax.random.key(KEY)
    for mean, logvar in ((0.0, 0.0), (1.5, -1.0)):
        kl = stub((mean, logvar)).evaluate(STUBS, batch, key)["kl_nats"]
        np.testing.assert_allclose(kl, (mean**2 + math.exp(logvar) - 1 - logvar) / 2, rtol=1e-6)


def test_a_learned_deviation_begins_where_it_is_told():
    assert gaussian(initial=0.2).params == {"log_sigma": pytest.approx(math.log(0.2))}
    with pytest.raises(ValueError, match="--sigma -1.0: must be above 0"):
        gaussian(initial=-1.0)
