"""Perceptual path length: arcs whose length is known, straight lines, a public tool's slerp, and outliers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from jimgen.metrics.path_length import discard_outliers, path_length, slerp

pytestmark = pytest.mark.usefixtures("x64")


def normal(seed: int, *shape: int) -> Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def identity(x: Array) -> Array:
    return x


def path() -> tuple[Array, Array, Array]:
    """z_start and z_end [5, 8], and t [5]."""
    return normal(0, 5, 8), normal(1, 5, 8), jnp.linspace(0, 1, 5)


def test_slerp_of_a_right_angle():
    found = slerp(jnp.array([[2.0, 0]]), jnp.array([[0.0, 2]]), jnp.array([1 / 3]))
    np.testing.assert_allclose(found, [[np.sqrt(3), 1]], rtol=1e-12)


def test_slerp_of_a_public_tool():
    """benchmarks/check_metrics.py: torch-fidelity 0.4.0."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(200, 16)), 1.2 * rng.normal(size=(180, 16)) + 0.3
    found = slerp(jnp.asarray(a[:1]), jnp.asarray(b[:1]), jnp.array([0.3]))[0, :3]
    np.testing.assert_allclose(found, [0.6414170968383845, 1.0637016379044695, 1.024351196056683], rtol=1e-6)


def test_slerp_meets_its_ends_and_stays_on_the_sphere():
    start, end, t = path()
    unit = [z / jnp.linalg.norm(z, axis=1, keepdims=True) for z in (start, end)]
    np.testing.assert_allclose(slerp(*unit, jnp.zeros(5)), unit[0], atol=1e-12)
    np.testing.assert_allclose(slerp(*unit, jnp.ones(5)), unit[1], atol=1e-12)
    np.testing.assert_allclose(jnp.linalg.norm(slerp(*unit, t), axis=1), np.ones(5), rtol=1e-12)
    np.testing.assert_allclose(slerp(start, end, t), slerp(end, start, 1 - t), rtol=1e-10)


@pytest.mark.parametrize("end", [[3.0, 0], [0.0, 0]])
def test_slerp_along_a_line(end):
    found = slerp(jnp.array([[1.0, 0]]), jnp.array([end]), jnp.array([0.25]))
    np.testing.assert_allclose(found, [[0.75 + 0.25 * end[0], 0]], atol=1e-12)


def test_slerp_is_a_straight_line_in_one_dimension():
    found = slerp(jnp.array([[1.0]]), jnp.array([[-3.0]]), jnp.array([0.25]))
    np.testing.assert_allclose(found, [[0.0]], atol=1e-12)


def test_length_of_an_arc():
    """A chord of the unit circle: (2 sin(w epsilon / 2) / epsilon)^2, which tends to w^2."""
    start, end = jnp.array([[1.0, 0]]), jnp.array([[0.0, 1]])
    for epsilon in (1e-4, 0.1):
        found = path_length(identity, identity, start, end, jnp.array([0.3]), epsilon)
        np.testing.assert_allclose(found, [(2 * np.sin(np.pi / 4 * epsilon) / epsilon) ** 2], rtol=1e-8)


def test_length_is_the_squared_derivative():
    start, end, t = path()

    def images(z):
        return jnp.stack([jnp.sin(z), z**2], axis=-1).reshape(len(z), 4, 2, 2)

    def along(t):
        return 3 * jnp.tanh(images(slerp(start, end, t)))

    found = path_length(images, lambda x: 3 * jnp.tanh(x), start, end, t, 1e-6)
    _, derivative = jax.jvp(along, (t,), (jnp.ones(5),))
    np.testing.assert_allclose(found, jnp.sum(derivative**2, axis=(1, 2, 3)), rtol=1e-4)


def test_scale_and_stillness():
    once, thrice = (path_length(identity, lambda x, s=s: s * x, *path()) for s in (1, 3))
    np.testing.assert_allclose(thrice, 9 * once, rtol=1e-9)
    assert (path_length(jnp.zeros_like, identity, *path()) == 0).all()


def test_discard_outliers():
    lengths = np.random.default_rng(0).permutation(np.arange(101.0))
    kept = discard_outliers(lengths)
    assert sorted(kept) == list(range(1, 100))
    assert kept.tolist() == [length for length in lengths if 1 <= length <= 99]  # order kept
    assert discard_outliers(lengths, 0, 1).tolist() == lengths.tolist()
    assert discard_outliers([5]).tolist() == [5]
    # Quantiles are rounded outwards to samples, so none of 5 lies outside 1% and 99%.
    assert len(discard_outliers(range(5))) == 5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda start, end, t: path_length(identity, identity, start, end, t, 0), "epsilon > 0"),
        (lambda start, end, t: path_length(identity, identity, start, end[:1], t), "z_start and z_end"),
        (lambda start, end, t: slerp(start, end, t[:, None]), r"t \[n\]"),
        (lambda *_: discard_outliers([]), "n >= 1"),
        (lambda *_: discard_outliers([1, np.nan]), "without NaN"),
        (lambda *_: discard_outliers([1, 2], 0.9, 0.1), "lower < upper"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(*path())
