"""Latent spaces: truncation, and paths that are straight in w and arcs in z."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_spaces import MEAN, SHAPE, w_space, weights

from jimgen.methods.latents import draw_codes, interpolate, noise_keys, path_between, sampler, truncated, z_space

W, KEY = w_space(), jax.random.key(0)
Z = z_space(4, lambda variables, z, labels: (z @ variables["b"]).reshape(-1, *SHAPE))
LABELS = jnp.zeros(3, jnp.int32)


def test_paths_in_w_are_straight_and_paths_in_z_are_arcs():
    """From (3, 0) to (0, 4) in five steps: on the line x/3 + y/4 = 1; or at equal angles, with lengths from 3 to 4."""
    start, end = jnp.array([[3.0, 0.0]]), jnp.array([[0.0, 4.0]])
    line, arc = (path_between(space, start, end, 5)[0] for space in (W, Z))
    np.testing.assert_allclose(line, [[3, 0], [2.25, 1], [1.5, 2], [0.75, 3], [0, 4]], atol=1e-6)
    angles = np.arange(5) * np.pi / 8
    lengths = np.linspace(3, 4, 5)
    np.testing.assert_allclose(arc, np.stack([lengths * np.cos(angles), lengths * np.sin(angles)], 1), atol=1e-5)


@pytest.mark.parametrize("space", [W, Z], ids=["w", "z"])
def test_a_path_keeps_its_noise_and_has_the_images_of_its_codes(space):
    """Pixels that the codes do not reach show the noise alone: equal along a row, different between rows."""
    variables = weights(noise=0.5)
    variables["b"] = variables["b"].at[:, :8].set(0)  # the first row of pixels
    walk = np.asarray(jax.jit(partial(interpolate, space), static_argnums=3)(variables, KEY, LABELS, 5))
    assert walk.shape == (3, 5, *SHAPE)
    first = walk[:, :, 0]
    np.testing.assert_allclose(first, np.repeat(first[:, :1], 5, axis=1), atol=1e-6)
    assert space is Z or len(np.unique(first[:, 0], axis=0)) == 3
    codes = [draw_codes(space, variables, KEY, 2 * jnp.arange(3) + i, LABELS) for i in (0, 1)]
    ends = [space.decode(variables, code, LABELS, noise_keys(KEY, jnp.arange(3))) for code in codes]
    np.testing.assert_allclose(walk[:, [0, -1]], np.stack(ends, 1), atol=1e-5)


def test_truncation_moves_codes_to_their_mean():
    """psi = 1 returns the codes themselves, 0 the mean code, .5 the point half way."""
    codes = draw_codes(W, weights(), KEY, jnp.arange(3), LABELS)
    one, half, none = (truncated(W, weights(), codes, LABELS, psi) for psi in (1.0, 0.5, 0.0))
    assert one is codes
    np.testing.assert_allclose(half, (codes + MEAN) / 2, rtol=1e-5)
    np.testing.assert_allclose(none, jnp.full((3, 4), MEAN))


def test_a_sampler_without_distance_from_the_mean_draws_one_image():
    same, varied = (sampler(W, psi)(weights(), KEY, LABELS) for psi in (0.0, 1.0))
    np.testing.assert_allclose(same, jnp.broadcast_to(same[:1], same.shape), atol=1e-6)
    assert float(jnp.abs(varied - same).max()) > 0.1
