"""Modulated convolution: the value by hand, and the definition with a kernel for each example."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jimgen.nets.filtered_convolution import up_conv3
from jimgen.nets.modulation import modulated
from jimgen.nets.resampled_convolution import conv3


def test_value_by_hand():
    """W = [[1, 2], [3, 4]] as [out, in], s = (2, 1), x = (1, 1): (4, 10) / sqrt(8, 52)."""
    kernel, styles = jnp.asarray([[1.0, 3.0], [2.0, 4.0]])[None, None], jnp.asarray([[2.0, 1.0]])
    dense = lambda x, k: x @ k[0, 0]  # noqa: E731
    np.testing.assert_allclose(
        modulated(dense, jnp.ones((1, 1, 1, 2)), kernel, styles).ravel(), [1.414214, 1.386750], rtol=1e-6
    )
    plain = modulated(dense, jnp.ones((1, 1, 1, 2)), kernel, styles, demodulate=False)
    np.testing.assert_allclose(plain.ravel(), [4, 10])


@pytest.mark.parametrize("convolve", [conv3, up_conv3, partial(up_conv3, circular=True)])
def test_scaled_inputs_and_outputs_equal_a_kernel_for_each_example(x64, convolve):
    """The values and both gradients."""
    shapes = (3, 4, 6, 2), (3, 3, 2, 5), (3, 2)
    x, kernel, styles = (jnp.asarray(np.random.default_rng(i).standard_normal(s)) for i, s in enumerate(shapes))

    def one(x, style):
        own = kernel * style[None, None, :, None]
        own *= lax.rsqrt(jnp.square(own).sum((0, 1, 2), keepdims=True) + 1e-8)
        return convolve(x[None], own)[0]

    def definition(x, styles):
        return jnp.stack([one(x[i], styles[i]) for i in range(3)])

    def ours(x, styles):
        return modulated(convolve, x, kernel, styles)

    np.testing.assert_allclose(jax.jit(ours)(x, styles), jax.jit(definition)(x, styles), atol=1e-12)
    found, expected = (
        jax.jit(jax.grad(lambda *a, f=f: jnp.sin(f(*a)).sum(), argnums=(0, 1)))(x, styles) for f in (ours, definition)
    )
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)
