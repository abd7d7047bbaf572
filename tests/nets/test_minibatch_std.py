"""Minibatch standard deviation: values by hand, groups, and the same groups under pmap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jimgen.nets.minibatch_std import minibatch_std
from jimgen.parallel import DEVICE_AXIS


def channel(values, group):
    x = jnp.asarray(values).reshape(-1, 1, 1, 1)
    y = minibatch_std(x, group)
    np.testing.assert_array_equal(y[..., :1], x)
    return y[:, 0, 0, 1]


def test_groups_are_strided():
    """The groups of [0, 1, 4, 9] are (0, 4) and (1, 9)."""
    np.testing.assert_allclose(channel([0.0, 1, 4, 9], 2), [2, 4, 2, 4], rtol=1e-6)
    np.testing.assert_allclose(channel([0.0, 1, 4, 9], 4), [12.25**0.5] * 4, rtol=1e-6)
    np.testing.assert_allclose(channel([0.0, 1, 4, 9], 1), [1e-4] * 4, rtol=1e-5)


def test_the_standard_deviation_is_averaged_over_places_and_channels():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((6, 2, 3, 4)), jnp.float32)
    y = minibatch_std(x, 3)
    assert y.shape == (6, 2, 3, 5)
    for start in (0, 1):
        expected = np.asarray(x)[start::2].std(0).mean()
        np.testing.assert_allclose(y[start::2, ..., 4], np.full((3, 2, 3), expected), rtol=1e-5)


def test_a_smaller_batch_is_one_group():
    np.testing.assert_allclose(channel([0.0, 4], 4), [2, 2], rtol=1e-6)


@pytest.mark.parametrize("group", [4, 0])
def test_groups_that_do_not_divide_the_batch_are_refused(group):
    with pytest.raises(ValueError, match=f"groups of {group} examples do not divide a batch of 6. Use groups of"):
        minibatch_std(jnp.zeros((6, 1, 1, 1)), group)


def test_pmap_has_the_groups_and_gradients_of_the_whole_batch(x64):
    """Groups of four over four devices of two examples: values, and the gradient of a sum over all examples."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((8, 2, 2, 3)))
    weights = jnp.asarray(np.random.default_rng(1).standard_normal((8, 2, 2, 4)))

    def value_and_gradient(x, weights):
        f = lambda x: (weights * jnp.sin(minibatch_std(x, 4))).sum()  # noqa: E731
        return minibatch_std(x, 4), jax.grad(f)(x)

    share = lambda a: a.reshape(4, 2, *a.shape[1:])  # noqa: E731
    shared = jax.pmap(value_and_gradient, axis_name=DEVICE_AXIS, devices=jax.devices()[:4])(share(x), share(weights))
    for found, expected in zip(shared, jax.jit(value_and_gradient)(x, weights), strict=True):
        np.testing.assert_allclose(np.asarray(found).reshape(expected.shape), expected, atol=1e-12)
