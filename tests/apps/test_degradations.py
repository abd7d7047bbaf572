"""Operators are linear, have the adjoints that are computed for them, and do what they are called."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jimgen.apps import degradations
from jimgen.apps.degradations import adjoint, require_linear
from jimgen.apps.tomography import radon

RNG = np.random.default_rng(0)
MASK = RNG.random((8, 12)) < 0.5
OPERATORS = {  # with channels of the images
    "identity": (degradations.identity, 1),
    "masked": (degradations.masked(MASK), 3),
    "box_downsampled": (degradations.box_downsampled(4), 3),
    "bicubic_downsampled": (degradations.bicubic_downsampled(2), 1),
    "gaussian_blur": (degradations.gaussian_blur(1.5), 3),
    "motion_blur": (degradations.motion_blur(4.5, 30), 1),
    "grey": (degradations.grey, 3),
    "fourier": (degradations.fourier(MASK), 1),
    "radon": (radon(np.linspace(0, 180, 7, endpoint=False)), 1),
    "radon of few": (radon(np.array([-45.0, 10.0])), 2),
}


def draw(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_are_linear_and_have_adjoints(name):
    """<H a, b> = <a, H^T b>."""
    operator, channels = OPERATORS[name]
    a = draw(2, 8, 12, channels)
    require_linear(operator, a.shape, jax.random.key(0))
    seen = jax.jit(operator)(a)
    b = draw(*seen.shape)
    back = jax.jit(adjoint(operator, a.shape))(b)
    scale = float(jnp.linalg.norm(seen.ravel()) * jnp.linalg.norm(b.ravel()))
    assert abs(float((seen * b).sum()) - float((a * back).sum())) < 1e-5 * scale


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_treat_each_image_by_itself(name):
    operator, channels = OPERATORS[name]
    a = draw(3, 8, 12, channels)
    np.testing.assert_allclose(operator(a)[1:], operator(a[1:]), atol=1e-5)


@pytest.mark.parametrize("name", ["gaussian_blur", "motion_blur", "box_downsampled", "bicubic_downsampled"])
def test_blurs_and_means_keep_what_is_constant(name):
    operator, channels = OPERATORS[name]
    np.testing.assert_allclose(operator(jnp.full((1, 8, 12, channels), 0.7)), 0.7, atol=1e-5)


def test_masks_by_hand():
    known = np.array([[True, False], [False, True]])
    seen = degradations.masked(known)(jnp.arange(1.0, 5).reshape(1, 2, 2, 1))
    np.testing.assert_array_equal(seen[0, ..., 0], [[1, 0], [0, 4]])


def test_boxes_by_hand():
    seen = degradations.box_downsampled(2)(jnp.arange(8.0).reshape(1, 2, 4, 1))
    np.testing.assert_allclose(seen[0, ..., 0], [[2.5, 4.5]])


def test_luma_by_hand():
    np.testing.assert_allclose(
        degradations.grey(jnp.eye(3).reshape(1, 1, 3, 3)).ravel(), [0.299, 0.587, 0.114], rtol=1e-6
    )


def test_gaussian_blur_agrees_with_scipy_inside():
    image = RNG.normal(size=(24, 24))
    expected = ndimage.gaussian_filter(image, 1.2, truncate=8)
    seen = degradations.gaussian_blur(1.2)(jnp.asarray(image, jnp.float32)[None, ..., None])[0, ..., 0]
    np.testing.assert_allclose(seen[8:-8, 8:-8], expected[8:-8, 8:-8], atol=1e-5)


def test_motion_blur_of_a_point_is_a_line():
    point = jnp.zeros((1, 9, 9, 1)).at[0, 4, 4, 0].set(1)
    across = degradations.motion_blur(4)(point)[0, ..., 0]
    np.testing.assert_allclose(across[4], np.array([0, 0, 1.5, 2, 2, 2, 1.5, 0, 0]) / 9, atol=1e-6)
    assert float(jnp.abs(across).sum()) == pytest.approx(float(across[4].sum()))
    np.testing.assert_allclose(degradations.motion_blur(4, 90)(point)[0, :, 4, 0], across[4], atol=1e-6)
    rising = degradations.motion_blur(6, 45)(point)[0, ..., 0]
    assert float(rising[2, 6]) > 0.03 and float(rising[2, 2]) == 0  # up and to the right


def test_the_whole_fourier_transform_keeps_lengths():
    image = draw(1, 8, 12, 1)
    seen = degradations.fourier(np.ones((8, 12), bool))(image)
    assert float(jnp.linalg.norm(seen.ravel())) == pytest.approx(float(jnp.linalg.norm(image.ravel())), rel=1e-5)
    assert float(seen[0, 0, 0, 0, 0]) == pytest.approx(float(image.sum()) / 96**0.5, rel=1e-4)


def test_an_operator_that_is_not_linear_is_found():
    with pytest.raises(ValueError, match="not linear"):
        require_linear(lambda x: jnp.clip(x, -1, 1), (1, 8, 8, 1), jax.random.key(0))
    with pytest.raises(ValueError, match="not linear"):
        require_linear(lambda x: x + 1, (1, 8, 8, 1), jax.random.key(0))


@pytest.mark.parametrize(
    "operator, shape, message",
    [
        (degradations.box_downsampled(3), (1, 8, 12, 1), "3 does not divide images of 8x12"),
        (degradations.bicubic_downsampled(5), (1, 8, 12, 1), "5 does not divide"),
        (degradations.masked(MASK), (1, 8, 8, 1), r"mask is \[8, 12\]"),
        (degradations.fourier(MASK), (1, 8, 8, 1), r"mask is \[8, 12\]"),
        (degradations.grey, (1, 8, 8, 1), "3 colours"),
    ],
)
def test_what_does_not_fit_is_an_error(operator, shape, message):
    with pytest.raises(ValueError, match=message):
        operator(jnp.zeros(shape))


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf")])
def test_sizes_of_blurs_must_be_positive(wrong):
    with pytest.raises(ValueError, match="> 0"):
        degradations.gaussian_blur(wrong)
    with pytest.raises(ValueError, match="> 0"):
        degradations.motion_blur(wrong)
