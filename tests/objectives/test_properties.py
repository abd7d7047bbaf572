"""Properties of all losses, over the table of `objective_rows.py`."""

import inspect
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from numeric import close, normal, uniform, value_and_slopes
from objective_rows import ADVERSARIAL, PER_EXAMPLE, PLAYERS, Row

from jimgen import objectives
from jimgen.objectives import AdversarialLoss
from jimgen.parallel import DEVICE_AXIS, mean_over_devices

# Their gradients hold a factor constant, so they differ from the slope: each has its own test.
HELD_CONSTANT = {"adaptive_loss", "commitment_loss", "codebook_loss", "running_mean", "dreg_loss"}

SMOOTH = [name for name in PER_EXAMPLE if name not in HELD_CONSTANT]

per_example = pytest.mark.parametrize("row", PER_EXAMPLE.values(), ids=PER_EXAMPLE)


def only_arrays(row: Row, args: tuple) -> tuple[Callable, list[Array]]:
    """The function with only its array arguments, which jit and grad can trace."""
    places = [place for place, argument in enumerate(args) if isinstance(argument, Array)]

    def function(*arrays: Array) -> Array:
        filled = list(args)
        for place, array in zip(places, arrays, strict=True):
            filled[place] = array
        return row.function(*filled)

    return function, [args[place] for place in places]


@per_example
def test_hand_values_eager_and_jitted(row: Row) -> None:
    close(row.function(*row.args), row.expected)
    function, arrays = only_arrays(row, row.args)
    close(jax.jit(function)(*arrays), row.expected)


@pytest.mark.parametrize("row", [PER_EXAMPLE[name] for name in SMOOTH], ids=SMOOTH)
def test_gradient_is_the_slope(row: Row) -> None:
    """Along one random direction, away from the kinks."""
    function, arrays = only_arrays(row, row.args)
    moved = [np.where(np.asarray(array) == 0, 0.125, np.asarray(array, np.float64)) for array in arrays]
    direction = [np.random.default_rng(place).normal(size=array.shape) for place, array in enumerate(arrays)]
    with jax.enable_x64(True):

        def along(t: Array) -> Array:
            return function(*[array + t * d for array, d in zip(moved, direction, strict=True)]).sum()

        slope, difference = jax.jit(lambda t: (jax.grad(along)(t), (along(t + 1e-5) - along(t - 1e-5)) / 2e-5))(0.0)
        close(slope, difference)


@per_example
def test_finite_value_and_gradient_on_extreme_input(row: Row) -> None:
    function, arrays = only_arrays(row, row.extreme)
    for leaf in jax.tree.leaves(value_and_slopes(function, *arrays)):
        assert leaf.dtype == jnp.float32
        assert np.isfinite(leaf).all()


@pytest.mark.parametrize(
    "row", [row for row in PER_EXAMPLE.values() if row.message], ids=lambda row: row.function.__name__
)
def test_refuses_shapes_that_would_broadcast(row: Row) -> None:
    with pytest.raises(ValueError, match=row.message):
        row.function(*row.mismatched)


OF_FUNCTIONS = {"squared_gradient_norm", "path_lengths"}  # tested in test_penalties.py
PUBLIC = {
    name: function
    for name, function in inspect.getmembers(objectives, inspect.isfunction)
    if function.__module__ == objectives.__name__ and not name.startswith("_") and name not in OF_FUNCTIONS
}
OF_TOKENS = ("cross_entropy", "masked_cross_entropy")  # take integers; their rows have wrong shapes
OF_MIXTURES = ("logistic_mixture_nll", "mixture_log_prob")  # take arrays of several shapes; likewise
SHAPES = {"free_bits": (4, 3), "lfq_entropy": (4, 3), "dreg_loss": (4, 3)}  # of arrays, others are [4]
ANY_SHAPE = ("soft_lower_bound", "bits_per_dim", "lfq_entropy")  # of their first argument; the second is a scalar


def plain_arguments(function: Callable, array: Array) -> dict[str, Any]:
    """The array for each array parameter, and 1 for each scalar; what may be left out (None) is."""
    parameters = [p for p in inspect.signature(function).parameters.values() if p.default is not None]
    return {p.name: array if p.annotation is Array else 1 for p in parameters}


SEVERAL = [
    name
    for name in PUBLIC
    if len(inspect.signature(PUBLIC[name]).parameters) > 1 and name not in OF_TOKENS + OF_MIXTURES
]


@pytest.mark.parametrize("name", SEVERAL)
def test_no_argument_broadcasts(name: str) -> None:
    """Each argument in turn is a column, a row, a single number or of another batch size; the others are right."""
    array = jnp.ones(SHAPES.get(name, (4,)))
    right = plain_arguments(PUBLIC[name], array)
    num_arrays = sum(isinstance(value, Array) for value in right.values())
    with jax.numpy_rank_promotion("allow"):  # as it is for users
        PUBLIC[name](**right)
        for parameter, value in right.items():
            if name in ANY_SHAPE and isinstance(value, Array):
                continue
            shapes = [(4, 1), (1, 4, 1), (4, 3, 1)]
            if num_arrays > 1 or not isinstance(value, Array):
                shapes += [(1,), (5,), (1, 3)]
            for shape in shapes:
                if parameter == "kl_per_dimension" and len(shape) == 2:
                    continue  # [b, g]
                with pytest.raises(ValueError, match=re.escape(str(list(shape)))):
                    PUBLIC[name](**{**right, parameter: jnp.ones(shape)})


@pytest.mark.parametrize(
    "name", [name for name in PUBLIC if name not in ("kl_weight_from_sigma", *OF_TOKENS, *OF_MIXTURES)]
)
@pytest.mark.parametrize("dtype", ["uint8", "int32", "bfloat16"])
def test_integers_and_halves_are_taken_for_floats(name: str, dtype: str) -> None:
    """Differences of uint8 and their squares would wrap around at 256; the loss is that of the same floats."""
    rng = np.random.default_rng(0)
    shape = SHAPES.get(name, (4,))
    found, expected = (plain_arguments(PUBLIC[name], jnp.ones(())) for _ in range(2))
    for parameter, value in found.items():
        if isinstance(value, Array):
            numbers = rng.integers(0, 20, shape)
            found[parameter], expected[parameter] = jnp.asarray(numbers, dtype), jnp.asarray(numbers, jnp.float32)
    loss = PUBLIC[name](**found)
    assert loss.dtype == jnp.float32
    np.testing.assert_array_equal(loss, PUBLIC[name](**expected))


def test_every_objective_has_a_row() -> None:
    """A function without a row, or a pair of losses without a row, would be untested."""
    tested = {row.function.__name__ for row in PER_EXAMPLE.values()} | set(PLAYERS)
    assert set(PUBLIC) == tested
    assert {row.loss for row in ADVERSARIAL.values()} == {
        value for value in vars(objectives).values() if isinstance(value, AdversarialLoss)
    }


@pytest.mark.parametrize(
    "function", [objectives.bernoulli_nll, objectives.squared_error, objectives.gaussian_kl], ids=lambda f: f.__name__
)
def test_sums_every_axis_but_the_batch(function: Callable) -> None:
    a, b = uniform(10, 3, 4, 5, 2), uniform(11, 3, 4, 5, 2)
    whole = jax.jit(function)(a, b)
    assert whole.shape == (3,)
    close(jax.jit(function)(a.reshape(3, 40), b.reshape(3, 40)), whole, rtol=1e-5)
    close(jax.jit(jax.vmap(lambda a, b: function(a[None], b[None])[0]))(a, b), whole, rtol=1e-5)


COUPLED = {
    "relativistic_average_discriminator": (objectives.relativistic_average_discriminator, (8,)),
    "relativistic_average_generator": (objectives.relativistic_average_generator, (8,)),
    "free_bits": (lambda a, b: objectives.free_bits(jnp.square(a * b), 0.5), (8, 3)),
    "optimal_log_sigma": (objectives.optimal_log_sigma, (8, 3)),
    "running_mean": (lambda a, b: a * objectives.running_mean(0.5, b), (8,)),
    "feature_matching": (objectives.feature_matching, (8, 3)),
    "top_k_weights": (lambda a, b: b * objectives.top_k_weights(a, 3), (8,)),
}


@pytest.mark.parametrize("name", COUPLED)
def test_means_over_the_batch_are_over_all_devices_of_a_pmap(name: str, x64: None) -> None:
    """The mean loss and its gradient for a shared variable are those of the whole batch."""
    function, shape = COUPLED[name]
    a, b = normal(8, *shape).astype(jnp.float64), 2 + normal(9, *shape).astype(jnp.float64)

    def loss(shared: Array, a: Array, b: Array) -> Array:
        return mean_over_devices(function(shared * a, b + shared).mean())

    def one_device(shared: Array, a: Array, b: Array) -> tuple[Array, Array]:
        return mean_over_devices(jax.value_and_grad(loss)(shared, a, b))

    shared = jnp.asarray(0.7)
    over_four = jax.pmap(one_device, DEVICE_AXIS, in_axes=(None, 0, 0), devices=jax.devices()[:4])
    found = over_four(shared, a.reshape(4, 2, *shape[1:]), b.reshape(4, 2, *shape[1:]))
    for ours, whole in zip(found, jax.jit(one_device)(shared, a, b), strict=True):
        np.testing.assert_allclose(ours, np.full(4, whole), rtol=1e-10)
