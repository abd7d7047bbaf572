"""The inception score against hand values, SciPy, a public tool and samples in order of their classes."""

import numpy as np
import pytest
from scipy import special, stats

from jimgen.metrics.inception_score import inception_score


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_hand_values():
    certain = inception_score(1000 * np.eye(4), num_splits=1, seed=0)
    np.testing.assert_allclose(certain, (4, 0), rtol=1e-12)
    found = inception_score(np.log([[0.9, 0.1], [0.1, 0.9]]), num_splits=1, seed=0)
    np.testing.assert_allclose(found.mean, 1.44493, rtol=1e-5)
    np.testing.assert_allclose(inception_score(np.zeros((5, 3)), num_splits=1, seed=0).mean, 1, rtol=1e-12)
    # A class whose probability underflows in every row.
    np.testing.assert_allclose(inception_score([[0, 0, -2000]] * 3, num_splits=1, seed=0).mean, 1, rtol=1e-12)


def test_public_tool_agrees():
    """benchmarks/check_metrics.py: torch-fidelity 0.4.0."""
    found = inception_score(3 * normal(0, 200, 16), num_splits=1, seed=0)
    np.testing.assert_allclose(found.mean, 4.864419279190463, rtol=1e-9)


def test_scipy_agrees_split_by_split():
    logits = 2 * normal(1, 23, 5)
    found = inception_score(logits, num_splits=3, seed=4)
    p = special.softmax(np.random.default_rng(4).permutation(logits), axis=1)
    scores = [np.exp(np.mean(stats.entropy(split, split.mean(0)[None], axis=1))) for split in np.array_split(p, 3)]
    np.testing.assert_allclose(found, (np.mean(scores), np.std(scores)), rtol=1e-12)


def test_samples_in_order_of_their_classes_are_shuffled():
    """Without the shuffle each split would contain one class and score 1."""
    logits = np.repeat(1000 * np.eye(10), 100, axis=0)
    assert inception_score(logits, num_splits=10, seed=0).mean > 9


def test_invariances():
    logits = normal(2, 40, 6)
    found = inception_score(logits, num_splits=4, seed=0)
    np.testing.assert_allclose(inception_score(logits[:, ::-1] + 1e3, num_splits=4, seed=0), found, rtol=1e-9)
    assert inception_score(logits, num_splits=4, seed=1) != found


@pytest.mark.parametrize(
    ("logits", "num_splits", "message"),
    [
        (normal(0, 3, 4), 4, "at least 4 rows in logits"),
        (normal(0, 3, 4), 0, "num_splits >= 1"),
        (normal(0, 3), 1, r"expected logits \[n, d\]"),
        ([[0, -np.inf]], 1, "NaN or infinity"),
    ],
)
def test_bad_input(logits, num_splits, message):
    with pytest.raises(ValueError, match=message):
        inception_score(logits, num_splits=num_splits, seed=0)
