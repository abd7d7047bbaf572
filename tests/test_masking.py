"""Random masks: what each kind hides, how much, and that a mask belongs to its example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jimgen.masking import MIXTURE, half, nothing, random_masks, rectangle, strokes

SIZE = (12, 16)
draws = jax.jit(random_masks, static_argnums=(2, 3))


def masks_of(kind, num=400, size=SIZE):
    return np.asarray(draws(jax.random.key(0), jnp.arange(num), size, ((1, kind),)))


def test_fractions_that_are_missing():
    """Rectangles: sides of .25 to 1, so .0625 to 1 and .39 on average. Pixels: .5 to .95. Strokes: something."""
    missing = {kind.__name__: 1 - masks_of(kind).mean((1, 2)) for _, kind in MIXTURE}
    assert (missing["nothing"] == 1).all() and (missing["half"] == 0.5).all()
    assert missing["rectangle"].min() >= 1 / 16 and missing["rectangle"].mean() == pytest.approx(0.39, abs=0.03)
    assert missing["pixels"].mean() == pytest.approx(0.725, abs=0.02)
    assert 0.4 < missing["pixels"].min() < 0.6 and 0.9 < missing["pixels"].max() < 1
    assert missing["strokes"].min() > 0 and missing["strokes"].mean() < 0.6


def test_a_rectangle_is_one_and_lies_at_the_centre_half_of_the_time():
    missing = ~masks_of(rectangle)
    rows, columns = missing.any(2), missing.any(1)
    np.testing.assert_array_equal(missing, rows[:, :, None] & columns[:, None, :])
    assert ((rows[:, 1:] != rows[:, :-1]).sum(1) <= 2).all() and ((columns[:, 1:] != columns[:, :-1]).sum(1) <= 2).all()
    distances = np.stack([np.argmax(rows, 1) - np.argmax(rows[:, ::-1], 1) for rows in (rows, columns)])
    central = (np.abs(distances) <= 1).all(0).mean()
    assert 0.5 < central < 0.7  # some of the others as well


def test_all_four_halves():
    found = {mask.tobytes() for mask in masks_of(half, 60, (3, 4))}
    rows, columns = np.indices((3, 4))
    assert found == {(~missing).tobytes() for missing in (columns < 2, columns >= 2, rows < 1, rows >= 2)}


def test_a_stroke_is_connected():
    """Its pixels can be reached from each other."""
    for missing in ~masks_of(strokes)[:20]:
        reached = np.zeros_like(missing)
        reached[tuple(np.argwhere(missing)[0])] = True
        for _ in range(missing.size):
            grown = np.pad(reached, 1)
            grown = grown[1:-1, 1:-1] | grown[:-2, 1:-1] | grown[2:, 1:-1] | grown[1:-1, :-2] | grown[1:-1, 2:]
            reached = grown & missing
        np.testing.assert_array_equal(reached, missing)


def test_a_mask_belongs_to_its_example():
    """A part of the batch, in another order, has the same masks; they differ between examples and keys."""
    key, order = jax.random.key(0), jnp.asarray([5, 2, 0])
    whole = draws(key, jnp.arange(8), SIZE)
    assert whole.shape == (8, *SIZE) and whole.dtype == bool
    np.testing.assert_array_equal(draws(key, order, SIZE), whole[order])
    assert len({mask.tobytes() for mask in np.asarray(draws(key, jnp.arange(64), SIZE))}) > 40
    assert (whole != draws(jax.random.key(1), jnp.arange(8), SIZE)).any()


def test_kinds_are_drawn_in_proportion_to_their_weights():
    found = np.asarray(draws(jax.random.key(0), jnp.arange(2000), (2, 2), ((1, nothing), (3, half))))
    assert (~found).all((1, 2)).mean() == pytest.approx(0.25, abs=0.04)


@pytest.mark.parametrize("size", [(1, 1), (7, 1)])
def test_any_size(size):
    masks = np.asarray(draws(jax.random.key(0), jnp.arange(100), size))
    assert masks.shape == (100, *size) and (~masks).any((1, 2)).mean() > 0.4 and masks.any()
