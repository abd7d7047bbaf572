"""Projection: codes of pictures whose codes are known, on linear generators and on tiny nets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_spaces import SHAPE, w_space, weights
from tiny import state_of, tiny_batch, tiny_gan, tiny_vae

from jimgen.apps.projection import Search, excess_length, image_distance, project
from jimgen.methods.latents import z_space

SPACE, KEY = w_space(), jax.random.key(0)
LABELS = jnp.zeros(3, jnp.int32)


def drawn(variables, n=3):
    """z, w and images of typical draws."""
    z = jax.random.normal(jax.random.key(7), (n, 4))
    w = SPACE.from_z(variables, z, LABELS[:n])
    return z, w, SPACE.decode(variables, w, LABELS[:n], jax.random.split(jax.random.key(1), n))


def test_a_picture_of_a_linear_generator_has_its_own_code_in_w_and_z():
    """Exact to rounding: the image is a linear function of four numbers."""
    variables = weights()
    z, w, images = drawn(variables)
    found = project(SPACE, variables, images, LABELS, KEY, Search(steps=300, starts=2))
    np.testing.assert_allclose(found.w.codes, w, atol=0.01)
    np.testing.assert_allclose(found.z.codes, z, atol=0.01)
    for part in found:
        assert part.images.shape == (3, *SHAPE) and part.mse.max() < 1e-6 and part.psnr.min() > 60
        np.testing.assert_allclose(part.mse, np.square(part.images - images).mean((1, 2, 3)), atol=1e-9)
    expected = np.linalg.norm(w - 2, axis=1) / np.linalg.norm(variables["a"])  # the root mean square of |z a| is |a|
    np.testing.assert_allclose(found.w.distance, expected, rtol=0.1)


def test_more_steps_come_nearer_and_none_is_worse_than_the_centre():
    variables = weights()
    _, _, images = drawn(variables)
    centre = SPACE.decode(variables, SPACE.centre(variables, LABELS), LABELS, jax.random.split(KEY, 3))
    before = np.square(centre - images).mean()
    errors = [
        project(SPACE, variables, images, LABELS, KEY, Search(steps=steps, starts=1)).w.mse.mean()
        for steps in (1, 20, 100)
    ]
    assert before > errors[0] > errors[1] > 10 * errors[2]


def test_each_picture_is_searched_for_by_itself():
    """Also where starts, noise of the search and noise of the net are drawn: alone or among others."""
    variables = weights(noise=0.1)
    images = drawn(variables)[2]
    search = Search(steps=25, starts=3)
    together = project(SPACE, variables, images, LABELS, KEY, search)
    alone = project(SPACE, variables, images[2:], LABELS[2:], KEY, search)
    for many, one in zip(together, alone, strict=True):
        for x, y in zip(many, one, strict=True):
            np.testing.assert_allclose(x[2:], y, atol=1e-4, rtol=1e-4)


def test_a_space_of_z_has_one_result_with_a_typical_length():
    """A picture far brighter than any draw: without the prior z grows until it is reached."""
    space = z_space(4, lambda variables, z, labels: (z @ variables["b"]).reshape(-1, *SHAPE))
    variables = weights()
    images = (10 * jax.random.normal(jax.random.key(5), (3, 4)) @ variables["b"]).reshape(-1, *SHAPE)
    options = {"steps": 300, "starts": 2, "learning_rate": 0.5}
    free, held = (
        project(space, variables, images, LABELS, KEY, Search(prior=prior, **options)).z for prior in (0.0, 100.0)
    )
    assert project(space, variables, images, LABELS, KEY, Search(prior=0.0, **options)).w is None
    assert free.distance.min() > 5 and free.mse.max() < 0.1
    assert held.distance.max() < 2
    np.testing.assert_allclose(free.distance, np.linalg.norm(free.codes, axis=1) / 2, rtol=0.1)


def test_excess_length_by_hand():
    """d = 2: |z|^2 / d may be 1 + 2; z = (3, 3) has 9."""
    np.testing.assert_allclose(excess_length(jnp.array([[3.0, 3.0], [1.0, 2.0], [0.0, 0.0]])), [36, 0, 0], rtol=1e-5)


def test_image_distance_by_hand():
    """An 8x8 checkerboard of +-1 is 0 after pooling; a constant 1 counts at both scales."""
    board = jnp.where(jnp.indices((8, 8)).sum(0) % 2 == 0, 1.0, -1.0)
    images = jnp.stack([board, jnp.ones((8, 8))])[..., None]
    np.testing.assert_allclose(image_distance(images, jnp.zeros_like(images)), [1, 2])


def test_nets_find_what_they_drew():
    """The residual falls far below that of the mean code. For three labels, with BatchNorm."""
    method = tiny_gan()
    variables = jax.tree.map(lambda x: 10 * x if x.ndim > 1 else x, state_of(method, tiny_batch()).variables)
    labels = jnp.arange(3, dtype=jnp.int32)
    images = jax.jit(method.sample)(variables, jax.random.key(3), labels)
    one, many = (
        project(method.space, variables, images, labels, KEY, Search(steps=steps, starts=1)).z for steps in (1, 100)
    )
    assert (many.mse < one.mse).all() and many.mse.sum() < one.mse.sum() / 10


def test_a_search_begins_at_the_encoder_s_code():
    """One step of length zero returns it, where no random start happens to be nearer."""
    method = tiny_vae()
    variables = state_of(method, tiny_batch()).variables
    labels = jnp.arange(3, dtype=jnp.int32)
    images = tiny_batch()["image"][:3]
    found = project(method.space, variables, images, labels, KEY, Search(steps=1, starts=1, learning_rate=0.0)).z
    np.testing.assert_allclose(found.codes, jax.jit(method.space.encode)(variables, images, labels), atol=1e-5)


@pytest.mark.parametrize(
    ("search", "shape", "message"),
    [
        ({"steps": 0}, SHAPE, "at least 1 step and 1 start, got 0 and 3"),
        ({"starts": 0}, SHAPE, "got 500 and 0"),
        ({}, (8, 9, 1), r"decodes images \[8, 8, 1\], got \[8, 9, 1\]"),
    ],
)
def test_a_search_that_cannot_be(search, shape, message):
    with pytest.raises(ValueError, match=message):
        project(SPACE, weights(), jnp.zeros((3, *shape)), LABELS, KEY, Search(**search))
