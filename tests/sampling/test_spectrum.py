"""The spectrum of an operator solves its equations, and draws do not change with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jimgen.apps.degradations import box_downsampled, gaussian_blur
from jimgen.apps.tomography import radon
from jimgen.sampling.posterior import flower
from jimgen.sampling.spectrum import spectrum_of

SHAPE = (4, 6, 1)
OPERATORS = {
    "wide": radon(np.linspace(0, 180, 5, endpoint=False)),
    "narrow": box_downsampled(2),
    "square": gaussian_blur(0.6),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_it_solves_what_a_dense_matrix_solves(name):
    operator, x = OPERATORS[name], jax.random.normal(jax.random.key(0), SHAPE)
    rows = np.asarray(operator(jnp.eye(24).reshape(24, *SHAPE)), np.float64).reshape(24, -1)
    expected = np.linalg.solve(3 * rows @ rows.T + np.eye(24), np.asarray(x, np.float64).reshape(-1))
    np.testing.assert_allclose(
        spectrum_of(operator, SHAPE).solve(x, jnp.float32(3)).reshape(-1), expected, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("sigma", [0.05, "by ray"])
def test_draws_are_the_same_in_a_tenth_of_the_iterations(sigma):
    operator = OPERATORS["wide"]
    observed = operator(jax.random.normal(jax.random.key(0), (3, *SHAPE)))
    if sigma == "by ray":
        sigma = jax.random.uniform(jax.random.key(3), observed.shape, minval=0.05, maxval=0.1)
    given = operator, observed, sigma, np.linspace(1, 0, 5), jax.random.key(1), SHAPE
    slow = flower(lambda x, t: t * x, *given, iterations=200)
    fast = flower(lambda x, t: t * x, *given, iterations=20, spectrum=spectrum_of(operator, SHAPE))
    np.testing.assert_allclose(fast, slow, rtol=2e-3, atol=2e-3)


def test_large_images_are_refused():
    with pytest.raises(ValueError, match="at most 4096"):
        spectrum_of(lambda x: x, (65, 64, 1))
