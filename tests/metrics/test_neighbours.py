"""Neighbours and PRDC against hand values, brute force, a public tool and other block sizes."""

import math

import numpy as np
import pytest

from jimgen.metrics.neighbours import nearest, num_duplicates, prdc


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def column(*values: float) -> np.ndarray:
    return np.array(values, float)[:, None]


def distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.linalg.norm(x[:, None] - y[None], axis=-1)


def brute_force(real: np.ndarray, fake: np.ndarray, k: int) -> tuple[float, float, float, float]:
    """The definitions, over whole matrices of differences."""
    real_radii, fake_radii = (np.sort(distances(z, z), axis=1)[:, k] for z in (real, fake))
    between = distances(real, fake)
    in_real_ball, in_fake_ball = between < real_radii[:, None], between < fake_radii[None]
    return (
        in_real_ball.any(axis=0).mean(),
        in_fake_ball.any(axis=1).mean(),
        in_real_ball.sum() / (k * len(fake)),
        in_real_ball.any(axis=1).mean(),
    )


def test_hand_values():
    found = prdc(column(0, 1, 2, 3), column(0.5, 10, 2.2, 2.4), k=1)
    assert found == (0.75, 1, 1.5, 1)


def test_balls_are_open():
    """Each fake lies exactly on the boundary of the neighbouring balls of radius 1; the fakes' own have radius 0."""
    assert prdc(column(0, 1, 2), column(-1, 3, -1, 3), k=1) == (0, 0, 0, 0)


def test_public_tool_agrees():
    """benchmarks/check_metrics.py: prdc 0.2."""
    rng = np.random.default_rng(0)
    found = prdc(rng.normal(size=(200, 16)), 1.2 * rng.normal(size=(180, 16)) + 0.3, k=5)
    np.testing.assert_allclose(found, (0.5555555555555556, 0.955, 0.3288888888888889, 0.605), rtol=1e-12)


@pytest.mark.parametrize(("k", "block_size"), [(1, 1000), (3, 1000), (3, 8)])
def test_brute_force_agrees_in_any_blocks(k, block_size):
    real, fake = normal(0, 23, 3), normal(1, 17, 3) + 0.5
    np.testing.assert_allclose(prdc(real, fake, k, block_size=block_size), brute_force(real, fake, k), rtol=1e-12)


def test_copies_score_perfectly():
    real = normal(0, 40, 6)
    np.testing.assert_allclose(prdc(real, real, k=3), (1, 1, 1, 1), rtol=1e-12)


def test_copies_of_duplicates_score_nothing_and_duplicates_are_counted():
    """Every sample occurs twice and k = 1: all radii are 0, and an open ball of radius 0 is empty."""
    twice = np.repeat(normal(0, 20, 6), 2, axis=0)
    assert prdc(twice, twice, k=1) == (0, 0, 0, 0)
    np.testing.assert_allclose(prdc(twice, twice, k=2)[0], 1)
    assert num_duplicates(twice) == 20 and num_duplicates(normal(0, 20, 6)) == 0
    assert num_duplicates(column(0.0, -0.0, 1, 1, 1)) == 3


@pytest.mark.parametrize("offset", [0.0, 1e6, 1e9])
def test_neighbours_far_from_the_origin(offset):
    """An offset does not change results on a grid of 2^-20, which float64 represents exactly."""
    real, fake = (np.rint(z * 2**20) / 2**20 for z in (normal(0, 23, 3), normal(1, 17, 3) + 0.5))
    assert prdc(real + offset, fake + offset, 3) == prdc(real, fake, 3)
    near = nearest(fake + offset, real + offset, 4)
    np.testing.assert_array_equal(near.indices, nearest(fake, real, 4).indices)


def test_swapping_the_sets_swaps_precision_and_recall():
    real, fake = normal(0, 30, 2), normal(1, 30, 2) * 1.5
    there, back = prdc(real, fake, 2), prdc(fake, real, 2)
    assert (there.precision, there.recall) == (back.recall, back.precision) and there.precision != there.recall


def test_far_sets_score_nothing():
    assert prdc(normal(0, 20, 2), normal(1, 20, 2) + 100, 3) == (0, 0, 0, 0)


def test_invariances():
    real, fake = normal(0, 30, 4), normal(1, 25, 4) + 0.3
    rotation = np.linalg.qr(normal(2, 4, 4))[0]
    found = prdc(real, fake, 3)
    for a, b in ((real[::-1], fake), (real @ rotation, fake @ rotation), (7 * real - 1, 7 * fake - 1)):
        np.testing.assert_allclose(prdc(a, b, 3), found, rtol=1e-12)


def test_a_perfect_model_in_expectation():
    k, n = 2, 60
    found = np.mean([prdc(normal(2 * i, n, 3), normal(2 * i + 1, n, 3), k) for i in range(40)], axis=0)
    coverage = 1 - math.prod((n - i) / (2 * n - i) for i in range(1, k + 1))
    np.testing.assert_allclose(found[2:], (1, coverage), rtol=0.05)
    np.testing.assert_allclose(found[0], found[1], rtol=0.05)


@pytest.mark.parametrize("block_size", [7, 1000])
def test_nearest_is_that_of_a_sort(block_size):
    queries, references = normal(0, 15, 3), normal(1, 18, 3)
    found, indices = nearest(queries, references, 5, block_size=block_size)
    expected = np.argsort(distances(queries, references), axis=1)[:, :5]
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_allclose(found, np.take_along_axis(distances(queries, references), expected, axis=1), rtol=1e-12)


def test_nearest_of_all_references_is_a_permutation():
    _, indices = nearest(normal(0, 4, 2), normal(1, 6, 2), 6, block_size=2)  # blocks smaller than k
    np.testing.assert_array_equal(np.sort(indices, axis=1), np.tile(np.arange(6), (4, 1)))


def test_a_copy_is_at_distance_zero_and_equal_rows_come_in_order():
    references = 1e3 + normal(0, 12, 5)
    references[[4, 9]] = references[2]
    found, indices = nearest(references, references, 3, block_size=5)
    assert (found[:, 0] == 0).all()
    assert found[9].tolist() == [0, 0, 0] and sorted(indices[9]) == [2, 4, 9]
    _, ties = nearest(column(0), column(1, -1, 1, -1), 3, block_size=2)
    assert ties.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nearest(normal(0, 3, 2), normal(0, 3, 2), 4), "k from 1 to the 3 references, got 4"),
        (lambda: nearest(normal(0, 3, 2), normal(0, 3, 2), 0), "k from 1"),
        (lambda: nearest(normal(0, 3, 2), normal(0, 3, 3)), "same dimension"),
        (lambda: nearest(normal(0, 3, 2) / 0.0, normal(0, 3, 2)), "queries hold NaN or infinity"),
        (lambda: nearest(normal(0, 3, 2), normal(0, 3, 2), block_size=0), "block size"),
        (lambda: prdc(normal(0, 5, 2), normal(0, 9, 2)), "at least 6 rows in real"),
        (lambda: prdc(normal(0, 9, 2), normal(0, 9, 3)), "same dimension"),
        (lambda: prdc(normal(0, 9, 2), normal(0, 9, 2), 0), "k >= 1"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
