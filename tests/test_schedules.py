"""Learning rates by hand."""

import numpy as np

from jimgen.schedules import at_step, cosine, warmup_cosine


def test_warmup_cosine_by_hand():
    """10 steps up to 2; then 1 + cos(pi t / 100) over the remaining 100, and 0 afterwards."""
    rate = warmup_cosine(2.0, 10, 110)
    found = [float(rate(step)) for step in (0, 5, 10, 35, 60, 110, 200)]
    np.testing.assert_allclose(found, [0, 1, 2, 1 + 2**-0.5, 1, 0, 0], atol=1e-6)


def test_a_run_shorter_than_its_warmup_reaches_the_peak():
    rate = warmup_cosine(0.1, 100, 8)
    assert max(float(rate(step)) for step in range(8)) == np.float32(0.1) == float(rate(4))
    assert float(warmup_cosine(0.1, 100, 1)(0)) == np.float32(0.1)


def test_cosine_by_hand():
    """From .9 to .5 over 8 steps: .5 + .4 (1 + cos(pi t / 8)) / 2."""
    rate = cosine(0.9, 0.5, 8)
    found = [float(rate(step)) for step in (0, 2, 4, 8, 99)]
    np.testing.assert_allclose(found, [0.9, 0.5 + 0.2 * (1 + 2**-0.5), 0.7, 0.5, 0.5], rtol=1e-6)


def test_a_number_is_a_schedule_too():
    assert float(at_step(0.3, 5)) == np.float32(0.3) and float(at_step(lambda step: 2 * step, 5)) == 10
