"""A flow on images larger than its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jimgen.sampling.tiles import tiled

LABELS = jnp.arange(2)


def pixelwise(labels):
    """A velocity for which tiles do not matter."""
    return lambda x, t: (t * x - labels.reshape(-1, 1, 1, 1)) / 2


@pytest.mark.parametrize("size", [(4, 6), (5, 6), (13, 11)])
@pytest.mark.parametrize("overlap", [0, 0.25, 0.75])
def test_of_a_pixelwise_velocity_nothing_changes(size, overlap):
    x = jax.random.normal(jax.random.key(0), (2, *size, 3))
    t = jnp.asarray(0.3)
    found = tiled(pixelwise, LABELS, size, (4, 6), overlap)(x, t)
    np.testing.assert_allclose(found, pixelwise(LABELS)(x, t), atol=1e-5)


def test_overlaps_are_weighted_by_the_distance_to_the_edge():
    """Two tiles of 4 in a row of 6: the first says 0, the second 1."""

    def by_place(labels):
        return lambda x, t: jnp.broadcast_to(jnp.arange(len(x)).reshape(-1, 1, 1, 1) % 2, x.shape).astype(x.dtype)

    found = tiled(by_place, LABELS[:1], (1, 6), (1, 4), 0.5)(jnp.zeros((1, 1, 6, 1)), jnp.asarray(0.5))
    np.testing.assert_allclose(found.ravel(), [0, 0, 0.25, 0.75, 1, 1], atol=1e-6)


def test_marks_that_a_net_leaves_at_its_patches_are_averaged_out():
    """A net with errors in every fourth column of a tile; tiles that line up would leave them as they are."""

    def marks(labels):
        return lambda x, t: jnp.broadcast_to(jnp.arange(x.shape[2]) % 4 == 0, x.shape[:3])[..., None].astype(x.dtype)

    found = tiled(marks, LABELS[:1], (16, 64), (16, 16))(jnp.zeros((1, 16, 64, 1)), jnp.asarray(0.5))
    columns = found[0, 0, 16:48, 0].reshape(8, 4)
    assert columns.mean() == pytest.approx(0.25, abs=0.02)
    assert columns.max() < 0.85


def test_images_smaller_than_a_tile_are_an_error():
    with pytest.raises(ValueError, match="less than that of a tile"):
        tiled(pixelwise, LABELS, (3, 6), (4, 6))
    with pytest.raises(ValueError, match="overlap"):
        tiled(pixelwise, LABELS, (4, 6), (4, 6), 1.0)
