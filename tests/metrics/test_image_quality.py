"""PSNR, SSIM and MS-SSIM against hand values, direct windows, a public tool and known invariances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from scipy import ndimage

from jimgen.metrics.image_quality import ms_ssim, psnr, ssim

pytestmark = pytest.mark.usefixtures("x64")


def images(height: int, width: int) -> tuple[Array, Array]:
    """As in benchmarks/check_metrics.py."""
    rng = np.random.default_rng(1)
    x = rng.uniform(size=(2, height, width, 3))
    return jnp.asarray(x), jnp.asarray(np.clip(x + 0.1 * rng.normal(size=x.shape), 0, 1))


def constant(value: float, size: int = 16) -> Array:
    return jnp.full((2, size, size, 1), value)


def test_psnr_hand_values():
    found = psnr(constant(0.5), constant(0.25), data_range=1)
    np.testing.assert_allclose(found, [20 * np.log10(4)] * 2, rtol=1e-12)
    np.testing.assert_allclose(psnr(constant(200.0), constant(199.0), data_range=255), [20 * np.log10(255)] * 2)
    assert np.isposinf(psnr(constant(0.5), constant(0.5), data_range=1)).all()


def test_ssim_hand_values():
    """Of constants, only l remains: (2 x .125 + C1) / (.3125 + C1), C1 = 1e-4."""
    np.testing.assert_allclose(ssim(constant(0.5), constant(0.25), data_range=1), [0.2501 / 0.3126] * 2, rtol=1e-9)
    np.testing.assert_allclose(0.2501 / 0.3126, 0.800064, rtol=1e-6)
    expected = (0.2501 / 0.3126) ** 0.1333
    np.testing.assert_allclose(ms_ssim(constant(0.5, 161), constant(0.25, 161), data_range=1), [expected] * 2)


def test_public_tool_agrees():
    """benchmarks/check_metrics.py: pytorch_msssim 1.0.0."""
    found = ssim(*images(24, 32), data_range=1)
    np.testing.assert_allclose(found, [0.9485199842307913, 0.946836873299827], rtol=1e-6)
    found = ms_ssim(*images(176, 192), data_range=1)
    np.testing.assert_allclose(found, [0.9556234537561902, 0.9548527904342451], rtol=1e-6)


def test_ssim_is_that_of_explicit_windows():
    x, y = (np.asarray(z[:1, :13, :12, :1]) for z in images(24, 32))
    window = np.zeros((11, 11))
    window[5, 5] = 1
    window = ndimage.gaussian_filter(window, 1.5, truncate=5 / 1.5)
    window /= window.sum()
    values = []
    for i in range(3):
        for j in range(2):
            p, q = x[0, i : i + 11, j : j + 11, 0], y[0, i : i + 11, j : j + 11, 0]
            m_p, m_q = (window * p).sum(), (window * q).sum()
            s_p, s_q = (window * (p - m_p) ** 2).sum(), (window * (q - m_q) ** 2).sum()
            s_pq = (window * (p - m_p) * (q - m_q)).sum()
            structure = (2 * s_pq + 9e-4) / (s_p + s_q + 9e-4)
            values.append((2 * m_p * m_q + 1e-4) / (m_p**2 + m_q**2 + 1e-4) * structure)
    np.testing.assert_allclose(ssim(jnp.asarray(x), jnp.asarray(y), data_range=1), [np.mean(values)], rtol=1e-9)


@pytest.mark.parametrize(("measure", "size"), [(psnr, 12), (ssim, 12), (ms_ssim, 161)])
def test_invariances(measure, size):
    x, y = images(size, size + 1)
    found = measure(x, y, data_range=1)
    same = [
        measure(y, x, data_range=1),
        measure(255 * x, 255 * y, data_range=255),
        measure(x[..., ::-1], y[..., ::-1], data_range=1),
        measure(x[::-1], y[::-1], data_range=1)[::-1],
    ]
    if measure is not ms_ssim:  # of an odd image, it repeats the last row and not the first
        same.append(measure(x[:, ::-1, ::-1], y[:, ::-1, ::-1], data_range=1))
    for other in same:
        np.testing.assert_allclose(other, found, rtol=1e-9)
    single = measure(x.astype(jnp.float32), y.astype(jnp.float32), data_range=1)
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, found, rtol=1e-4)


@pytest.mark.parametrize(("measure", "size"), [(ssim, 12), (ms_ssim, 163)])
def test_equal_images_score_one_and_noise_costs(measure, size):
    x, y = images(size, size)
    np.testing.assert_allclose(measure(x, x, data_range=1), [1, 1], rtol=1e-9)
    near = measure(x, x + (y - x) / 2, data_range=1)
    assert (measure(x, y, data_range=1) < near).all() and (near < 1).all()
    negative = measure(x, 1 - x, data_range=1)
    assert (negative < 0).all() if measure is ssim else (negative == 0).all()


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_halves_are_computed_in_float32(measure):
    """float16 ends at 65504, the square of 256; bfloat16 has 8 bits."""
    x, y = (jnp.rint(255 * z) for z in images(12, 13))
    for dtype in (jnp.float16, jnp.bfloat16):
        found = measure(x.astype(dtype), y.astype(dtype), data_range=255)
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, measure(x, y, data_range=255), rtol=1e-4)


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_gradients_are_finite_for_equal_and_for_opposite_images(measure):
    x = images(11, 11)[0].astype(jnp.float32)
    for y in (x, 1 - x, jnp.zeros_like(x)):
        slopes = jax.jit(jax.grad(lambda x, y: measure(x, y, data_range=1.0).sum()))(x, y)
        assert np.isfinite(slopes).all()


@pytest.mark.parametrize("measure", [psnr, ssim, ms_ssim])
def test_bad_input(measure):
    x, y = images(12, 12)
    with pytest.raises(ValueError, match="two batches of images"):
        measure(x, y[:1], data_range=1)
    with pytest.raises(ValueError, match="two batches of images"):
        measure(x[0], y[0], data_range=1)
    with pytest.raises(ValueError, match="cast them to float32"):
        measure(x.astype(jnp.uint8), y.astype(jnp.uint8), data_range=255)
    with pytest.raises(ValueError, match="data_range > 0"):
        measure(x, y, data_range=0)


def test_too_small():
    with pytest.raises(ValueError, match="11 pixels"):
        ssim(constant(0.0, 10), constant(0.0, 10), data_range=1)
    x = jnp.zeros((1, 160, 300, 1))
    with pytest.raises(ValueError, match="above 160 pixels"):
        ms_ssim(x, x, data_range=1)
