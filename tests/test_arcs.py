"""Both spherical interpolations for ends that are equal, opposite, nearly so, or zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jimgen import arcs
from jimgen.arcs import slerp
from jimgen.metrics import path_length

T = np.linspace(0, 1, 9, dtype=np.float32)


def of_gan(start, end):
    return arcs.slerp(start[None], end[None], jnp.asarray(T))


def of_path_length(start, end):
    tile = lambda z: jnp.broadcast_to(z, (len(T), len(z)))  # noqa: E731
    return path_length.slerp(tile(start), tile(end), jnp.asarray(T))


SLERPS = {"gan": jax.jit(of_gan), "path_length": jax.jit(of_path_length)}
SLOPES = {name: jax.jit(jax.jacobian(slerp, (0, 1))) for name, slerp in SLERPS.items()}
Z = np.random.default_rng(0).normal(size=6)
ASIDE = np.random.default_rng(1).normal(size=6)
ENDS = {
    "equal": Z,
    "longer": 1.5 * Z,
    "nearly equal": Z + 1e-6 * ASIDE,
    "opposite": -Z,
    "opposite and longer": -1.5 * Z,
    "zero": 0 * Z,
    "at random": ASIDE,
} | {f"{far:g} from opposite": -Z + far * ASIDE for far in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)}


def ends(name):
    return jnp.asarray(Z, jnp.float32), jnp.asarray(ENDS[name], jnp.float32)


@pytest.mark.parametrize("slerp", SLERPS)
@pytest.mark.parametrize("name", [name for name in ENDS if name != "at random"])
def test_a_path_meets_its_ends_keeps_its_length_between_theirs_and_has_finite_gradients(slerp, name):
    start, end = ends(name)
    for first, last in ((start, end), (end, start)):
        path = np.asarray(SLERPS[slerp](first, last))
        np.testing.assert_allclose(path[[0, -1]], [first, last], atol=1e-5)
        lengths, of_ends = np.linalg.norm(path, axis=1), [float(jnp.linalg.norm(z)) for z in (first, last)]
        assert min(of_ends) - 1e-5 <= lengths.min() and lengths.max() <= max(of_ends) + 1e-5
        for slopes in SLOPES[slerp](first, last):
            assert np.isfinite(slopes).all()


@pytest.mark.parametrize("slerp", SLERPS)
@pytest.mark.parametrize("name", ["equal", "opposite", "1e-06 from opposite", "0.001 from opposite", "at random"])
def test_steps_of_a_path_turn_evenly(slerp, name):
    start, end = (z / jnp.linalg.norm(z) for z in ends(name))
    path = np.asarray(SLERPS[slerp](start, end), np.float64)
    chords = np.linalg.norm(np.diff(path, axis=0), axis=1)
    whole = 2 * np.arcsin(min(1, np.linalg.norm(np.asarray(end - start, np.float64)) / 2))
    np.testing.assert_allclose(chords, 2 * np.sin(whole / 8 / 2), atol=3e-4)


@pytest.mark.parametrize("slerp", SLERPS)
def test_two_zero_ends_stay_zero(slerp):
    np.testing.assert_array_equal(SLERPS[slerp](jnp.zeros(6), jnp.zeros(6)), np.zeros((9, 6)))
    for slopes in SLOPES[slerp](jnp.zeros(6), jnp.zeros(6)):
        assert np.isfinite(slopes).all()


@pytest.mark.parametrize("slerp", SLERPS)
def test_slopes_at_equal_ends_are_those_of_a_line(slerp):
    z = jnp.asarray(Z, jnp.float32)
    np.testing.assert_allclose(SLOPES[slerp](z, z)[1], T[:, None, None] * np.eye(6, dtype=np.float32), atol=1e-5)


@pytest.mark.parametrize("slerp", SLERPS)
@pytest.mark.parametrize("end", [-2.0, 2.0, 0.5])
def test_in_one_dimension_a_path_is_a_line(slerp, end):
    found = SLERPS[slerp](jnp.asarray([1.0]), jnp.asarray([end]))
    np.testing.assert_allclose(found[:, 0], 1 + (end - 1) * T, atol=1e-6)


def test_slerp_turns_and_stretches_evenly():
    """Ends, lengths and angles: all go from one end to the other in equal steps."""
    start, end = np.random.default_rng(0).standard_normal((2, 6, 7)) * [[[1.0]], [[3.0]]]
    path = np.asarray(slerp(jnp.asarray(start)[:, None], jnp.asarray(end)[:, None], jnp.linspace(0.0, 1.0, 5)[None]))
    assert path.shape == (6, 5, 7)
    np.testing.assert_allclose(path[:, 0], start, atol=1e-5)
    np.testing.assert_allclose(path[:, -1], end, atol=1e-5)
    lengths = np.linalg.norm(path, axis=-1)
    np.testing.assert_allclose(np.diff(lengths, n=2), 0, atol=1e-5)
    units = path / lengths[..., None]
    angles = np.arccos((units[:, 1:] * units[:, :-1]).sum(-1))
    np.testing.assert_allclose(angles, np.broadcast_to(angles[:, :1], angles.shape), atol=1e-4)


def test_slerp_by_hand():
    """A quarter of a circle: half way lies at 45 degrees."""
    x, y = jnp.asarray([[2.0, 0.0]]), jnp.asarray([[0.0, 2.0]])
    np.testing.assert_allclose(slerp(x, y, jnp.asarray([0.5]))[0], [2**0.5, 2**0.5], rtol=1e-6)


def test_slerp_between_parallel_latents_is_finite():
    """Equal ends stay where they are; parallel ends of other lengths change their length."""
    z = jnp.asarray([[1.0, 2.0, 2.0]])
    np.testing.assert_allclose(slerp(z, z, jnp.linspace(0.0, 1.0, 3)), np.repeat(z, 3, axis=0), rtol=1e-4)
    np.testing.assert_allclose(slerp(z, 3 * z, jnp.asarray([0.5]))[0], 2 * z[0], rtol=1e-4)
