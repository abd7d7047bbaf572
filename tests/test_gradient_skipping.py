"""Skipping large gradients: what is skipped, what is not, and that training never stops for ever."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jimgen.gradient_skipping import skip_large_gradients, skipping_metrics

PARAMS = {"a": jnp.zeros(2), "b": jnp.zeros(())}


def of_norm(norm: float):
    return {"a": jnp.array([0.6, 0.0]) * norm, "b": jnp.array(0.8) * norm}


def run(norms, **options):
    """The updates for gradients of these norms, and the last state."""
    tx = skip_large_gradients(optax.adam(0.1), **{"least": 5.0, "factor": 10.0, "most_in_a_row": 3} | options)
    update, state, updates = jax.jit(tx.update), tx.init(PARAMS), []
    for norm in norms:
        before = state
        found, state = update(of_norm(norm), state, PARAMS)
        updates.append(float(optax.tree.norm(found)))
        if updates[-1] == 0:
            assert jax.tree.all(jax.tree.map(np.array_equal, before.inner, state.inner))
    return updates, state


def test_ordinary_gradients_are_those_of_the_optimiser():
    updates, state = run([1.0, 2.0, 4.9])
    adam, inner = optax.adam(0.1), optax.adam(0.1).init(PARAMS)
    for norm, update in zip((1.0, 2.0, 4.9), updates, strict=True):
        expected, inner = adam.update(of_norm(norm), inner)
        assert update == pytest.approx(float(optax.tree.norm(expected)), rel=1e-5)
    assert int(state.skipped) == 0


def test_a_single_large_gradient_is_skipped_and_leaves_no_trace():
    updates, state = run([1.0, 1.0, 1e6, 1.0])
    assert updates[2] == 0 < min(updates[0], updates[1], updates[3])
    assert skipping_metrics(state)["large_gradients"] == 1 and int(state.in_a_row) == 0


def test_gradients_that_stay_large_do_not_stop_training():
    """After as many skipped updates as are allowed in a row one is made; in time the median follows, and all are."""
    updates, _ = run([1.0] + [1e6] * 8)
    assert [update == 0 for update in updates] == [False, *[True] * 3, False, *[True] * 3, False]
    norms = [1.0] * 5 + [100.0] * 200
    updates, state = run(norms)
    assert min(updates[-50:]) > 0 and float(skipping_metrics(state)["median_grad_norm"]) > 10


def test_the_first_gradients_set_the_scale():
    """Norms of thousands from the start are ordinary there, although above the threshold that is always allowed."""
    assert min(run([3000.0, 5000.0, 2000.0])[0]) > 0


@pytest.mark.parametrize("options", [{"least": 0.0}, {"factor": 1.0}, {"most_in_a_row": 0}])
def test_refuses_numbers_out_of_range(options):
    with pytest.raises(ValueError, match="skipping needs"):
        run([1.0], **options)
