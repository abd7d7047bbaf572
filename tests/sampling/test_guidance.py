"""Classifier-free guidance: hand values, schedules, hidden labels and refusals."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from jimgen.sampling import guidance
from jimgen.sampling.guidance import Guidance, check_guidance, guide, guided


def test_guidance_goes_from_without_to_with_label():
    c, u = jnp.asarray([[1.0, 0.0]]), jnp.asarray([[0.0, 1.0]])
    np.testing.assert_allclose(guide(c, u, 3.0), [[3.0, -2.0]])
    np.testing.assert_allclose(guide(c, u, 1.0), c)
    np.testing.assert_allclose(guide(c, u, 0.0), u)
    with pytest.raises(ValueError, match="expected equal shapes"):
        guide(c, u[0], 1.0)
    with pytest.raises(ValueError, match=r"expected weight \[\] or \[1\], one per example, got \[2, 1\]"):
        guide(c, u, jnp.ones((2, 1)))


def test_guidance_by_hand():
    c, u = jnp.asarray([[1.0, 0.0]]), jnp.asarray([[0.0, 1.0]])
    np.testing.assert_array_equal(guidance.guide(c, u, 3.0), [[3.0, -2.0]])
    np.testing.assert_array_equal(guidance.guide(c, u, 1.0), c)
    np.testing.assert_array_equal(guidance.guide(c, u, 0.0), u)


def test_guidance_schedules():
    """From 1 at the noise to the weight at the image; 1 outside the interval."""
    t = jnp.asarray([1.0, 0.5, 0.0])
    weight = lambda **options: guidance.guidance_weight(Guidance(3.0, **options), t)  # noqa: E731
    np.testing.assert_allclose(weight(), [3, 3, 3])
    np.testing.assert_allclose(weight(schedule="linear"), [1, 2, 3])
    middle = 1 + 2 * (1 - math.cos(math.pi / 16)) / 2
    np.testing.assert_allclose(weight(schedule="power_cosine"), [1, middle, 3], rtol=1e-6)
    np.testing.assert_allclose(weight(interval=(0.2, 0.8)), [1, 3, 1])
    with pytest.raises(ValueError, match="unknown schedule 'cosine'"):
        weight(schedule="cosine")


def test_a_guided_prediction_is_one_call_with_labels_and_without():
    """Predictions are label + 10 x: guidance moves away from that of the label 3, which means no label."""
    calls = []

    def predict(x, labels):
        calls.append(len(labels))
        return labels[:, None] + 10 * x

    x, labels = jnp.asarray([[0.0], [1.0]]), jnp.asarray([0, 2], jnp.int32)
    np.testing.assert_allclose(guided(predict, x, labels, 3, 2.0), [[-3.0], [11.0]])
    np.testing.assert_allclose(guided(predict, x, labels, 3, 1.0), [[0.0], [12.0]])
    np.testing.assert_allclose(guided(predict, x, labels, 0, 2.0), [[0.0], [10.0]])
    assert calls == [4, 2, 2]


@pytest.mark.parametrize(
    ("weight", "num_classes", "label_drop"), [(2.0, 0, 0.1), (2.0, 3, 0.0), (1.0, 3, 1.5), (1.0, (2, 3), 0.0)]
)
def test_open_labels_that_nothing_was_trained_for_are_refused(weight, num_classes, label_drop):
    with pytest.raises(ValueError, match="label_drop"):
        check_guidance(weight, num_classes, label_drop)
