"""Losses of mean flows and tokenizers, whose gradients hold a factor constant."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jimgen import objectives


def test_the_adaptive_loss_by_hand():
    """.99 / (.99 + .01); the gradient is that of the squared error over the same constant."""
    squared = jnp.asarray([0.99, 3.99])
    np.testing.assert_allclose(objectives.adaptive_loss(squared), [0.99, 3.99 / 4], rtol=1e-6)
    np.testing.assert_allclose(objectives.adaptive_loss(squared, power=0.0), squared, rtol=1e-6)
    np.testing.assert_allclose(objectives.adaptive_loss(squared, power=0.5), [0.99, 3.99 / 2], rtol=1e-6)
    np.testing.assert_allclose(jax.grad(lambda s: objectives.adaptive_loss(s).sum())(squared), [1.0, 0.25], rtol=1e-6)
    assert float(objectives.adaptive_loss(jnp.zeros(1))[0]) == 0.0


@pytest.mark.parametrize(
    "power, norms",
    [(1.0, (10, 1.980198, 0.19998, 0.02)), (0.5, (1.414214, 1.990074, 1.9999, 2)), (0.0, (0.2, 2, 20, 200))],
)
def test_at_power_one_large_errors_pull_less(power, norms):
    """Norms of the gradient for errors of .1, 1, 10 and 100: 2 e / (e^2 + .01)^p."""
    errors = jnp.asarray([0.1, 1.0, 10.0, 100.0])
    gradient = jax.grad(lambda e: objectives.adaptive_loss(jnp.square(e), power).sum())(errors)
    np.testing.assert_allclose(gradient, norms, rtol=1e-5)


def test_adaptive_weight_by_hand():
    """Gradients (3, 4) and (0, .5) at .8: 7.9984; clipped where the adversary has no gradient."""
    assert float(0.8 * objectives.adaptive_weight(jnp.asarray(5.0), jnp.asarray(0.5))) == pytest.approx(
        7.9984, rel=1e-6
    )
    assert float(objectives.adaptive_weight(jnp.asarray(5.0), jnp.asarray(0.0))) == 1e4


def test_commitment_moves_vectors_and_the_codebook_loss_moves_codes():
    z, e = jnp.asarray([[1.0, 2.0]]), jnp.asarray([[0.0, 5.0]])
    slopes = lambda loss: jax.grad(lambda z, e: loss(z, e).sum(), (0, 1))(z, e)  # noqa: E731
    np.testing.assert_allclose(slopes(objectives.commitment_loss), ([[2.0, -6.0]], [[0.0, 0.0]]))
    np.testing.assert_allclose(slopes(objectives.codebook_loss), ([[0.0, 0.0]], [[-2.0, 6.0]]))
