"""The losses against hand values, closed forms in NumPy and SciPy, known optima and hostile inputs.

To add an objective: a function in objectives.py and a row here, in ADVERSARIAL or in PER_EXAMPLE.
"""

import inspect
import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from scipy import integrate, stats

from jimgen import objectives
from jimgen.objectives import AdversarialLoss
from jimgen.parallel import DEVICE_AXIS, mean_over_devices

Reference = Callable[[np.ndarray, np.ndarray], np.ndarray]


def close(actual: Any, expected: Any, rtol: float = 2e-6, atol: float = 1e-6) -> None:
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=rtol, atol=atol)


def normal(seed: int, *shape: int, scale: float = 1.0) -> Array:
    return jnp.asarray(np.random.default_rng(seed).normal(scale=scale, size=shape), jnp.float32)


def uniform(seed: int, *shape: int) -> Array:
    return jnp.asarray(np.random.default_rng(seed).uniform(size=shape), jnp.float32)


@partial(jax.jit, static_argnums=0)
def value_and_slopes(function: Callable[..., Array], *arrays: Array) -> tuple[Array, tuple[Array, ...]]:
    """f(...) and the gradients of its sum. Compiled once a function and shape: eager gradients take far longer."""
    gradient = jax.grad(lambda *arrays: function(*arrays).sum(), argnums=tuple(range(len(arrays))))
    return function(*arrays), gradient(*arrays)


# Adversarial losses: r = D(x), f = D(G(z)). The references say what the papers say, in probabilities and float64.


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def average_reference(r: np.ndarray, f: np.ndarray) -> np.ndarray:
    return -(np.log(sigmoid(r - f.mean())) + np.log(1 - sigmoid(f - r.mean()))) / 2


class AdversarialRow(NamedTuple):
    loss: AdversarialLoss
    values: tuple[float, float]  # batch means for D and G at r = [1, -1], f = [0, 2]
    discriminator: Reference
    generator: Reference


ADVERSARIAL = {
    "minimax": AdversarialRow(
        objectives.MINIMAX,
        (2.223299, -1.410038),
        lambda r, f: -np.log(sigmoid(r)) - np.log(1 - sigmoid(f)),
        lambda r, f: np.log(1 - sigmoid(f)),
    ),
    "non_saturating": AdversarialRow(
        objectives.NON_SATURATING,
        (2.223299, 0.410038),
        lambda r, f: -np.log(sigmoid(r)) - np.log(1 - sigmoid(f)),
        lambda r, f: -np.log(sigmoid(f)),
    ),
    "hinge": AdversarialRow(
        objectives.HINGE,
        (3.0, -1.0),
        lambda r, f: np.maximum(0, 1 - r) + np.maximum(0, 1 + f),
        lambda r, f: -f,
    ),
    "least_squares": AdversarialRow(
        objectives.LEAST_SQUARES,
        (2.0, 0.5),
        lambda r, f: 0.5 * (r - 1) ** 2 + 0.5 * f**2,
        lambda r, f: 0.5 * (f - 1) ** 2,
    ),
    "wasserstein": AdversarialRow(objectives.WASSERSTEIN, (1.0, -1.0), lambda r, f: f - r, lambda r, f: -f),
    "relativistic": AdversarialRow(
        objectives.RELATIVISTIC,
        (1.680925, 0.680925),
        lambda r, f: -np.log(sigmoid(r - f)),
        lambda r, f: -np.log(sigmoid(f - r)),
    ),
    "relativistic_average": AdversarialRow(
        objectives.RELATIVISTIC_AVERAGE,
        (1.410038, 0.410038),
        average_reference,
        lambda r, f: average_reference(f, r),
    ),
}
PLAYERS = {
    f"{name}_{player}": (getattr(row.loss, player), getattr(row, player))
    for name, row in ADVERSARIAL.items()
    for player in ("discriminator", "generator")
}

adversarial = pytest.mark.parametrize("row", ADVERSARIAL.values(), ids=ADVERSARIAL)
players = pytest.mark.parametrize(("loss", "reference"), PLAYERS.values(), ids=PLAYERS)


def numerical_gradient(function: Callable[[np.ndarray], float], at: np.ndarray, step: float = 1e-5) -> np.ndarray:
    steps = step * np.eye(at.size)
    return np.array([(function(at + d) - function(at - d)) / (2 * step) for d in steps])


@adversarial
def test_adversarial_hand_values(row: AdversarialRow) -> None:
    real, fake = jnp.array([1.0, -1.0]), jnp.array([0.0, 2.0])
    close(row.loss.discriminator(real, fake).mean(), row.values[0])
    close(row.loss.generator(real, fake).mean(), row.values[1])


@players
def test_adversarial_matches_the_closed_form_and_its_gradient(loss: Callable, reference: Reference) -> None:
    real, fake = normal(0, 5, scale=3), normal(1, 5, scale=3)
    losses, (by_real, by_fake) = value_and_slopes(loss, real, fake)
    assert losses.shape == (5,) and losses.dtype == jnp.float32
    r, f = np.asarray(real, np.float64), np.asarray(fake, np.float64)
    close(losses, reference(r, f), rtol=1e-5)
    close(by_real, numerical_gradient(lambda r: reference(r, f).sum(), r), atol=1e-5)
    close(by_fake, numerical_gradient(lambda f: reference(r, f).sum(), f), atol=1e-5)


@players
def test_adversarial_is_finite_at_extreme_logits(loss: Callable, reference: Reference) -> None:
    del reference  # the closed form in probabilities is what overflows
    real, fake = jnp.array([200.0, 200.0, -200.0, -200.0, 0.0]), jnp.array([200.0, -200.0, 200.0, -200.0, 0.0])
    for leaf in jax.tree.leaves(value_and_slopes(loss, real, fake)):
        assert np.isfinite(leaf).all()


@players
def test_adversarial_under_jit_and_vmap(loss: Callable, reference: Reference) -> None:
    del reference
    real, fake = normal(2, 3, 5), normal(3, 3, 5)
    eager = np.stack([loss(r, f) for r, f in zip(real, fake, strict=True)])
    close(value_and_slopes(loss, real[0], fake[0])[0], eager[0])
    close(jax.vmap(loss)(real, fake), eager)


@players
def test_adversarial_refuses_shapes_that_would_broadcast(loss: Callable, reference: Reference) -> None:
    del reference
    with pytest.raises(ValueError, match=r"real_logits \[4, 1\], fake_logits \[4\]"):
        loss(jnp.zeros((4, 1)), jnp.zeros(4))
    with pytest.raises(ValueError, match=r"real_logits \[4\], fake_logits \[1\]"):
        loss(jnp.zeros(4), jnp.zeros(1))
    assert loss(jnp.zeros((4, 2, 2)), jnp.zeros((4, 2, 2))).shape == (4, 2, 2)


@adversarial
def test_adversarial_signs(row: AdversarialRow) -> None:
    """Descent makes D raise real logits and lower fake ones, and G raise fake ones."""
    logits = jnp.full(5, 0.25, jnp.float32)
    _, (by_real, by_fake) = value_and_slopes(row.loss.discriminator, logits, logits)
    assert np.all(np.asarray(by_real) < 0) and np.all(np.asarray(by_fake) > 0)
    _, (_, by_fake) = value_and_slopes(row.loss.generator, logits, logits)
    assert np.all(np.asarray(by_fake) < 0)


def test_minimax_optimum_is_the_log_ratio_and_measures_jensen_shannon() -> None:
    data, model = np.array([[0.5, 0.3, 0.2], [0.1, 0.3, 0.6]], np.float32)

    def expected(logits: Array) -> Array:
        zeros = jnp.zeros_like(logits)
        only_real = objectives.minimax_discriminator(logits, zeros) - math.log(2)
        only_fake = objectives.minimax_discriminator(zeros, logits) - math.log(2)
        return data * only_real + model * only_fake

    terms, (slopes,) = value_and_slopes(expected, jnp.asarray(np.log(data / model)))
    middle = (data + model) / 2
    jensen_shannon = (stats.entropy(data, middle) + stats.entropy(model, middle)) / 2
    close(np.sum(terms), math.log(4) - 2 * jensen_shannon)
    close(slopes, np.zeros(3))


def test_non_saturating_at_equilibrium_costs_log_4() -> None:
    close(objectives.non_saturating_discriminator(jnp.zeros(3), jnp.zeros(3)), jnp.full(3, math.log(4)))


def test_least_squares_optimum_is_the_posterior() -> None:
    data, model = np.array([[0.5, 0.3], [0.1, 0.6]], np.float32)

    def expected(scores: Array) -> Array:
        only_real = objectives.least_squares_discriminator(scores, jnp.zeros(2))
        only_fake = objectives.least_squares_discriminator(jnp.ones(2), scores)
        return data * only_real + model * only_fake

    _, (slopes,) = value_and_slopes(expected, jnp.asarray(data / (data + model)))
    close(slopes, np.zeros(2))


def test_hinge_stops_at_the_margin() -> None:
    won = jnp.array([1.5, 200.0])
    for leaf in jax.tree.leaves(value_and_slopes(objectives.hinge_discriminator, won, -won)):
        close(leaf, np.zeros(2))


def test_only_the_saturating_generator_saturates() -> None:
    real, rejected = jnp.zeros(1), jnp.array([-200.0])
    close(value_and_slopes(objectives.minimax_generator, real, rejected)[1], [[0.0], [0.0]])
    close(value_and_slopes(objectives.non_saturating_generator, real, rejected)[1], [[0.0], [-1.0]])


@pytest.mark.parametrize("loss", [objectives.RELATIVISTIC, objectives.RELATIVISTIC_AVERAGE, objectives.WASSERSTEIN])
def test_a_drift_of_the_logits_costs_nothing(loss: AdversarialLoss) -> None:
    real, fake = normal(4, 6), normal(5, 6)
    close(loss.discriminator(real + 3, fake + 3), loss.discriminator(real, fake), rtol=1e-5, atol=1e-5)


def test_relativistic_pairs_by_index() -> None:
    real, fake = normal(6, 4), normal(7, 4)
    order = jnp.array([2, 0, 3, 1])
    losses = objectives.relativistic_discriminator(real, fake)
    close(objectives.relativistic_discriminator(real[order], fake[order]), losses[order])
    assert not np.allclose(objectives.relativistic_discriminator(real, fake[order]).mean(), losses.mean())


COUPLED = {
    "relativistic_average_discriminator": (objectives.relativistic_average_discriminator, (8,)),
    "relativistic_average_generator": (objectives.relativistic_average_generator, (8,)),
    "free_bits": (lambda a, b: objectives.free_bits(jnp.square(a * b), 0.5), (8, 3)),
    "optimal_log_sigma": (objectives.optimal_log_sigma, (8, 3)),
}


@pytest.mark.parametrize("name", COUPLED)
def test_means_over_the_batch_are_over_all_devices_of_a_pmap(name: str, x64: None) -> None:
    """The mean loss and its gradient with respect to what all devices share, as of the whole batch at once."""
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


# Everything else that maps arrays to one number an example.


class Row(NamedTuple):
    function: Callable
    args: tuple  # by hand
    expected: Any
    hostile: tuple = ()  # the function and its gradient must be finite here
    mismatched: tuple = ()  # these must be refused, ...
    message: str = ""  # ... in these words


COLUMN, FLAT = jnp.zeros((4, 1)), jnp.zeros(4)
IMAGES = jnp.zeros((4, 2, 2, 1))
EXTREME = jnp.array([[200.0, 200.0, -200.0, -200.0]])

PER_EXAMPLE = {
    "zero_centred_penalty": Row(
        objectives.zero_centred_penalty, (jnp.array([45.0, 180.0]), 0.1), [2.25, 9.0], (jnp.zeros(2), 10.0)
    ),
    "wgan_gp": Row(
        objectives.wgan_gp, (jnp.array([11.25, 25.0, 0.0]),), [55.41796, 160.0, 10.0], (jnp.array([0.0, 1e-45, 1e-37]),)
    ),
    "interpolate_pairs": Row(
        objectives.interpolate_pairs,
        (jnp.array([[1.0, 2.0], [4.0, 8.0]]), jnp.zeros((2, 2)), jnp.array([0.5, 0.25])),
        [[0.5, 1.0], [1.0, 2.0]],
        (IMAGES, IMAGES, FLAT),
        (IMAGES, IMAGES, COLUMN),
        r"alpha \[4\], one per pair, got \[4, 1\]",
    ),
    "squared_error": Row(
        objectives.squared_error,
        (jnp.array([[1.0, 0.0]]), jnp.array([[0.5, 0.25]])),
        [0.3125],
        (EXTREME, -EXTREME),
        (IMAGES, IMAGES[..., 0]),
        r"x \[4, 2, 2, 1\], reconstruction \[4, 2, 2\]",
    ),
    "absolute_error": Row(
        objectives.absolute_error,
        (jnp.array([[1.0, 0.0]]), jnp.array([[0.5, 0.25]])),
        [0.75],
        (EXTREME, -EXTREME),
        (IMAGES, IMAGES[..., 0]),
        r"x \[4, 2, 2, 1\], reconstruction \[4, 2, 2\]",
    ),
    "bernoulli_nll": Row(
        objectives.bernoulli_nll,
        (jnp.array([[2.0], [-1.0]]), jnp.array([[1.0], [0.0]])),
        [0.126928, 0.313262],
        (EXTREME, jnp.array([[0.0, 1.0, 0.0, 1.0]])),
        (COLUMN, FLAT),
        r"logits \[4, 1\], x \[4\]",
    ),
    "gaussian_nll": Row(
        objectives.gaussian_nll,
        (jnp.array([[1.0, 0.0]]), jnp.array([[0.5, 0.25]]), 0.0),
        [1.994127],
        (EXTREME, -EXTREME, jnp.array([[-30.0, -6.0, 6.0, 30.0]])),
        (COLUMN, COLUMN, FLAT),
        r"log_sigma a scalar or \[4, 1\] as x, got \[4\]",
    ),
    "gaussian_nll_at_the_optimal_sigma": Row(
        objectives.gaussian_nll,
        (jnp.array([[1.0, 0.0]]), jnp.array([[0.5, 0.25]]), math.log(0.15625) / 2),
        [0.981579],
        (IMAGES, IMAGES, -6.0),
        (IMAGES, IMAGES[..., 0], 0.0),
        r"x \[4, 2, 2, 1\], mean \[4, 2, 2\]",
    ),
    "optimal_log_sigma": Row(
        objectives.optimal_log_sigma,
        (jnp.array([[1.0, 0.0]]), jnp.array([[0.5, 0.25]])),
        math.log(0.15625) / 2,
        (jnp.ones((1, 2)), jnp.ones((1, 2))),
        (COLUMN, FLAT),
        r"x \[4, 1\], reconstruction \[4\]",
    ),
    "soft_lower_bound": Row(
        objectives.soft_lower_bound,
        (jnp.array([-6.0, 4.0, -200.0, 200.0]),),
        [-6.0 + math.log(2), 4.0000454, -6.0, 200.0],
        (EXTREME,),
    ),
    "bounded_logvar": Row(
        objectives.bounded_logvar,
        (jnp.array([-200.0, 40.0, 50.0, 130.0]),),
        [-200.0, 40.0, 45.0, 49.0],
        (1e6 * EXTREME,),
    ),
    "gaussian_kl_per_dimension": Row(
        objectives.gaussian_kl_per_dimension,
        (jnp.array([[1.0, -0.5]]), jnp.array([[0.0, math.log(4)]])),
        [[0.5, 0.931853]],
        (EXTREME, jnp.array([[-200.0, 80.0, -1e-8, 0.0]])),
        (COLUMN, FLAT),
        r"mean \[4, 1\], logvar \[4\]",
    ),
    "gaussian_kl": Row(
        objectives.gaussian_kl,
        (jnp.array([[1.0, -0.5]]), jnp.array([[0.0, math.log(4)]])),
        [1.431853],
        (EXTREME, jnp.array([[-200.0, 80.0, -1e-8, 0.0]])),
        (COLUMN, FLAT),
        r"mean \[4, 1\], logvar \[4\]",
    ),
    "gaussian_kl_between": Row(
        objectives.gaussian_kl_between,
        (
            jnp.array([[1.0], [-0.5]]),
            jnp.array([[0.0], [math.log(4)]]),
            jnp.array([[0.0], [1.0]]),
            jnp.array([[math.log(2)], [0.0]]),
        ),
        [0.346574, 1.931853],
        (EXTREME, jnp.zeros((1, 4)), -EXTREME, jnp.full((1, 4), -40.0)),
        (COLUMN, COLUMN, COLUMN, FLAT),
        r"prior_mean \[4, 1\], prior_logvar \[4\]",
    ),
    "free_bits": Row(
        objectives.free_bits,
        (jnp.array([[0.1, 0.6]]), 0.25),
        [0.85],
        (jnp.array([[0.0, 200.0]]), jnp.array([0.25, 0.5])),
        (COLUMN, FLAT),
        r"got \[4, 1\], \[4\]",
    ),
    "negative_elbo": Row(
        objectives.negative_elbo,
        (jnp.array([2.0, 3.0]), jnp.array([0.5, 1.0])),
        [2.5, 4.0],
        (FLAT, FLAT),
        (COLUMN, FLAT),
        r"nll \[4, 1\], kl \[4\]",
    ),
    "beta_vae_loss": Row(
        objectives.beta_vae_loss,
        (jnp.array([0.3125, 1.0]), jnp.array([1.431853, 2.0]), 0.5),
        [1.0284265, 2.0],
        (FLAT, FLAT, 784.0),
        (FLAT, COLUMN, 1.0),
        r"reconstruction \[4\], kl \[4, 1\]",
    ),
    "sigma_from_kl_weight": Row(objectives.sigma_from_kl_weight, (jnp.array([0.5, 2.0]),), [0.5, 1.0], (FLAT + 1e-30,)),
    "kl_weight_from_sigma": Row(objectives.kl_weight_from_sigma, (jnp.array([0.5, 1.0]),), [0.5, 2.0], (FLAT,)),
    "bits_per_dim": Row(objectives.bits_per_dim, (jnp.array([6000.0]), 3072), [2.817764], (EXTREME[0], 1)),
    "flow_matching_loss": Row(
        objectives.flow_matching_loss,
        (jnp.array([[1.0, 2], [0, 0]]), jnp.array([[0.0, 0], [1, 1]]), jnp.array([2.0, 0.5])),
        [5.0, 0.5],
        (EXTREME, -EXTREME, jnp.array([400.0])),
        (FLAT, FLAT, COLUMN),
        r"weight \[4\], one per example, got \[4, 1\]",
    ),
    "adaptive_loss": Row(objectives.adaptive_loss, (jnp.array([1.0, 0, 0.01]),), [1 / 1.01, 0, 0.5], (FLAT,)),
    "cross_entropy": Row(
        objectives.cross_entropy,
        (jnp.array([[0, math.log(3)], [0, 0]]), np.array([1, 0])),
        [0.287682, 0.693147],
        (EXTREME, np.array([2])),
        (jnp.zeros((4, 2)), np.zeros((4, 1), int)),
        r"expected targets \[4\], got \[4, 1\]",
    ),
    "cross_entropy, smoothed": Row(  # .8 (.287682) + .1 (1.386294 + .287682)
        objectives.cross_entropy,
        (jnp.array([[0, math.log(3)], [0, 0]]), np.array([1, 0]), 0.2),
        [0.397543, 0.693147],
        (EXTREME, np.array([2]), 0.2),
    ),
    "masked_cross_entropy": Row(
        objectives.masked_cross_entropy,
        (jnp.array([[[0, math.log(3)], [0, 0]]]), np.array([[1, 0]]), np.array([[True, False]])),
        [0.287682],
        (EXTREME[None], np.array([[2]]), np.array([[True]])),
        (jnp.zeros((4, 1, 2)), np.zeros((4, 1), int), np.zeros(4, bool)),
        r"expected masked \[4, 1\], got \[4\]",
    ),
    "commitment_loss": Row(
        objectives.commitment_loss, (jnp.array([[1.0, 2]]), jnp.zeros((1, 2))), [5.0], (EXTREME, -EXTREME)
    ),
    "codebook_loss": Row(
        objectives.codebook_loss, (jnp.array([[1.0, 2]]), jnp.zeros((1, 2))), [5.0], (EXTREME, -EXTREME)
    ),
    "adaptive_weight": Row(objectives.adaptive_weight, (jnp.array(2.0), jnp.array(1.0)), 1.99980, (FLAT[0], FLAT[0])),
    "entropy": Row(objectives.entropy, (jnp.array([0.5, 0.5]),), 0.693147, (FLAT,)),
    "lfq_entropy": Row(objectives.lfq_entropy, (jnp.zeros((1, 2)), 1.0, 0.0), [1.386294], (EXTREME, 1.0, 1.0)),
}
# Their gradients leave something constant, and so are not the slope: each has a test of its own.
HELD_CONSTANT = {"adaptive_loss", "commitment_loss", "codebook_loss"}

SMOOTH = [name for name in PER_EXAMPLE if name not in HELD_CONSTANT]

per_example = pytest.mark.parametrize("row", PER_EXAMPLE.values(), ids=PER_EXAMPLE)


def only_arrays(row: Row, args: tuple) -> tuple[Callable, list[Array]]:
    """The function of the array arguments alone, which is what jit and grad may trace."""
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
def test_finite_value_and_gradient_on_hostile_input(row: Row) -> None:
    function, arrays = only_arrays(row, row.hostile)
    for leaf in jax.tree.leaves(value_and_slopes(function, *arrays)):
        assert leaf.dtype == jnp.float32
        assert np.isfinite(leaf).all()


@pytest.mark.parametrize(
    "row", [row for row in PER_EXAMPLE.values() if row.message], ids=lambda row: row.function.__name__
)
def test_refuses_shapes_that_would_broadcast(row: Row) -> None:
    with pytest.raises(ValueError, match=row.message):
        row.function(*row.mismatched)


PUBLIC = {
    name: function
    for name, function in inspect.getmembers(objectives, inspect.isfunction)
    if function.__module__ == objectives.__name__ and not name.startswith("_") and name != "squared_gradient_norm"
}
OF_TOKENS = ("cross_entropy", "masked_cross_entropy")  # take integers; their rows have wrong shapes
SHAPES = {"free_bits": (4, 3), "lfq_entropy": (4, 3)}  # of arrays, others are [4]
ANY_SHAPE = ("soft_lower_bound", "bits_per_dim", "lfq_entropy")  # of their first argument; the second is a scalar


def plain_arguments(function: Callable, array: Array) -> dict[str, Any]:
    """The array for each parameter that is one, and 1 for each scalar."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: array if p.annotation is Array else 1 for p in parameters}


SEVERAL = [name for name in PUBLIC if len(inspect.signature(PUBLIC[name]).parameters) > 1 and name not in OF_TOKENS]


@pytest.mark.parametrize("name", SEVERAL)
def test_no_argument_broadcasts(name: str) -> None:
    """Each in turn as a column, a row, a single number or of another batch, beside others of the right shape."""
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


@pytest.mark.parametrize("name", [name for name in PUBLIC if name not in ("kl_weight_from_sigma", *OF_TOKENS)])
@pytest.mark.parametrize("dtype", ["uint8", "int32", "bfloat16"])
def test_integers_and_halves_are_taken_for_floats(name: str, dtype: str) -> None:
    """Differences of uint8 would wrap around at 256, and their squares; the loss is that of the same numbers."""
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
    """A function that is in no table, or a pair in no constant, is one that nobody has tested."""
    tested = {row.function.__name__ for row in PER_EXAMPLE.values()} | set(PLAYERS) | {"squared_gradient_norm"}
    assert {*PUBLIC, "squared_gradient_norm"} == tested
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


# Gradient penalties.


def quadratic(theta: Array | float, images: Array) -> Array:
    return theta / 2 * jnp.square(images).sum(1)


def test_r1_of_a_quadratic_by_hand() -> None:
    images = jnp.array([[1.0, 2.0], [2.0, 4.0]])
    logits, squared_norm = objectives.squared_gradient_norm(lambda x: quadratic(3.0, x), images)
    close(logits, [7.5, 30.0])
    close(squared_norm, [45.0, 180.0])

    def penalty(theta: Array) -> Array:
        _, squared_norm = objectives.squared_gradient_norm(lambda x: quadratic(theta, x), images)
        return objectives.zero_centred_penalty(squared_norm, 0.1).mean()

    theta = jnp.array(3.0)
    close(penalty(theta), 5.625)
    first, (second,) = value_and_slopes(jax.grad(penalty), theta)
    close((first, second), (3.75, 1.25))


def test_squared_gradient_norm_matches_a_loop_over_images() -> None:
    images, weights = normal(12, 3, 4, 4, 2), normal(13, 32, 5)

    def discriminator(images: Array) -> Array:
        return jnp.tanh(images.reshape(-1, 32) @ weights).sum(1)

    logits, squared_norm = jax.jit(lambda x: objectives.squared_gradient_norm(discriminator, x))(images)
    close(logits, discriminator(images), rtol=1e-5)
    gradient = jax.jit(jax.grad(lambda x: discriminator(x[None])[0]))
    close(squared_norm, [np.square(gradient(image)).sum() for image in images], rtol=1e-4)


def test_squared_gradient_norm_sees_through_an_augmentation() -> None:
    images = jnp.array([[1.0, 2.0], [2.0, 4.0]])
    _, squared_norm = objectives.squared_gradient_norm(lambda x: quadratic(3.0, 2 * x), images)
    close(squared_norm, [16 * 45.0, 16 * 180.0])


def test_squared_gradient_norm_refuses_a_column_of_logits() -> None:
    with pytest.raises(ValueError, match=r"logits \[2\], one per image, got \[2, 1\]"):
        objectives.squared_gradient_norm(lambda x: x.sum(1, keepdims=True), jnp.zeros((2, 3)))


def test_wgan_gp_of_a_quadratic_and_of_a_plane_by_hand() -> None:
    real, fake = jnp.array([[1.0, 2.0]]), jnp.zeros((1, 2))
    images = objectives.interpolate_pairs(real, fake, jnp.array([0.5]))

    def penalty(theta: Array) -> Array:
        _, squared_norm = objectives.squared_gradient_norm(lambda x: quadratic(theta, x), images)
        return objectives.wgan_gp(squared_norm, weight=1.0).mean()

    # (theta c - 1)^2 with c = ||(.5, 1)||, differentiated by hand
    c = math.sqrt(1.25)
    value, (slope,) = value_and_slopes(penalty, jnp.array(3.0))
    close((value, slope), (5.541796, 2 * c * (3 * c - 1)))

    _, squared_norm = objectives.squared_gradient_norm(lambda x: (x * jnp.array([[3.0, 4.0]])).sum(1), images)
    close(objectives.wgan_gp(squared_norm), [160.0])


def test_wgan_gp_is_differentiable_where_the_discriminator_is_flat() -> None:
    def penalty(theta: Array) -> Array:
        _, squared_norm = objectives.squared_gradient_norm(lambda x: quadratic(theta, x), jnp.zeros((2, 3)))
        return objectives.wgan_gp(squared_norm).mean()

    close(penalty(jnp.array(3.0)), 10.0)
    first, (second,) = value_and_slopes(jax.grad(penalty), jnp.array(3.0))
    close((first, second), (0.0, 0.0))


def test_interpolation_runs_from_fake_to_real() -> None:
    real, fake = np.asarray(normal(14, 3, 2, 2, 1)), np.asarray(normal(15, 3, 2, 2, 1))
    mixed = objectives.interpolate_pairs(jnp.asarray(real), jnp.asarray(fake), jnp.array([1.0, 0.0, 0.5]))
    close(mixed, np.stack([real[0], fake[1], (real[2] + fake[2]) / 2]))
    with pytest.raises(ValueError, match=r"real \[3, 2, 2, 1\], fake \[1, 2, 2, 1\]"):
        objectives.interpolate_pairs(jnp.zeros((3, 2, 2, 1)), jnp.zeros((1, 2, 2, 1)), jnp.ones(3))


# Likelihoods.


def test_bernoulli_matches_scipy() -> None:
    logits, x = normal(16, 5, 4, 4, 1, scale=3), jnp.round(uniform(17, 5, 4, 4, 1))
    log_pmf = stats.bernoulli.logpmf(np.asarray(x), sigmoid(np.asarray(logits, np.float64)))
    close(jax.jit(objectives.bernoulli_nll)(logits, x), -log_pmf.sum((1, 2, 3)), rtol=1e-5)


def test_bernoulli_is_right_at_extreme_logits() -> None:
    losses = objectives.bernoulli_nll(EXTREME.T, jnp.array([[1.0], [0.0], [0.5], [0.0]]))
    close(losses, [0.0, 200.0, 100.0, 0.0])
    # No cancellation: softplus(30) - 30 is zero in float32, the loss is not.
    close(objectives.bernoulli_nll(jnp.array([[30.0]]), jnp.ones((1, 1))), [math.exp(-30)], rtol=1e-5, atol=0)


def test_bernoulli_is_least_where_the_probability_is_the_pixel() -> None:
    x = jnp.array([[0.1, 0.5, 0.8]])
    _, (by_logits, _) = value_and_slopes(objectives.bernoulli_nll, jnp.log(x / (1 - x)), x)
    close(by_logits, np.zeros((1, 3)))


def test_gaussian_matches_scipy_for_shared_and_for_pixelwise_sigma() -> None:
    x, mean, log_sigma = normal(18, 5, 4, 2), normal(19, 5, 4, 2), normal(20, 5, 4, 2)
    log_pdf = stats.norm.logpdf(np.asarray(x), np.asarray(mean), np.exp(np.asarray(log_sigma)))
    nll = jax.jit(objectives.gaussian_nll)
    close(nll(x, mean, log_sigma), -log_pdf.sum((1, 2)), rtol=1e-5)
    shared = nll(x, mean, -0.5)
    close(shared, -stats.norm.logpdf(np.asarray(x), np.asarray(mean), math.exp(-0.5)).sum((1, 2)), rtol=1e-5)
    close(shared, nll(x, mean, jnp.full_like(x, -0.5)), rtol=1e-5)


def test_optimal_sigma_is_optimal() -> None:
    x, mean = normal(21, 5, 4, 2), normal(22, 5, 4, 2)
    log_sigma = objectives.optimal_log_sigma(x, mean)
    assert log_sigma.shape == ()
    gradient = jax.jit(jax.grad(lambda log_sigma: objectives.gaussian_nll(x, mean, log_sigma).mean()))
    close(gradient(log_sigma), 0.0, atol=1e-5)
    assert gradient(log_sigma - 0.1) < 0 < gradient(log_sigma + 0.1)


def test_a_perfect_reconstruction_is_finite_under_the_soft_bound() -> None:
    x = uniform(23, 2, 3)

    def loss(reconstruction: Array) -> Array:
        log_sigma = objectives.soft_lower_bound(objectives.optimal_log_sigma(x, reconstruction))
        return objectives.gaussian_nll(x, reconstruction, log_sigma).mean()

    value, (gradient,) = value_and_slopes(loss, x)
    close(value, 3 * (math.log(2 * math.pi) / 2 - 6), rtol=1e-5)
    assert np.isfinite(gradient).all()


def test_soft_lower_bound_moves_with_its_bound_and_keeps_a_gradient() -> None:
    log_sigma = jnp.array([-9.0, -3.0, 0.0])
    for bound in (-6.0, -2.0, 0.5):
        bounded, slopes = value_and_slopes(objectives.soft_lower_bound, log_sigma, jnp.array(bound))
        assert np.all(np.asarray(bounded) > np.maximum(bound, log_sigma))
        assert np.all(np.asarray(slopes[0]) > 0)


# Divergences.


def log_normal(z: float, mean: float, logvar: float) -> float:
    return -((z - mean) ** 2) / (2 * math.exp(logvar)) - logvar / 2 - math.log(2 * math.pi) / 2


def quadrature_kl(mean: float, logvar: float, prior_mean: float, prior_logvar: float) -> float:
    def integrand(z: float) -> float:
        log_q = log_normal(z, mean, logvar)
        return math.exp(log_q) * (log_q - log_normal(z, prior_mean, prior_logvar))

    width = 12 * math.exp(logvar / 2)
    return integrate.quad(integrand, mean - width, mean + width, points=[mean])[0]


@pytest.mark.parametrize("row", [(1.0, 0.0, 0.0, 0.7), (-0.5, 1.4, 1.0, 0.0), (0.3, -3.0, 0.2, 1.0)])
def test_kl_matches_quadrature(row: tuple[float, float, float, float]) -> None:
    mean, logvar, prior_mean, prior_logvar = (jnp.full((1, 1), value) for value in row)
    between = jax.jit(objectives.gaussian_kl_between)(mean, logvar, prior_mean, prior_logvar)
    close(between, [quadrature_kl(*row)], rtol=1e-5)
    close(jax.jit(objectives.gaussian_kl)(mean, logvar), [quadrature_kl(row[0], row[1], 0, 0)], rtol=1e-5)


def test_kl_against_the_standard_normal_is_a_special_case() -> None:
    mean, logvar, zeros = normal(24, 3, 4, 4, 2), normal(25, 3, 4, 4, 2), jnp.zeros((3, 4, 4, 2))
    kl = jax.jit(objectives.gaussian_kl)(mean, logvar)
    close(jax.jit(objectives.gaussian_kl_between)(mean, logvar, zeros, zeros), kl, rtol=1e-5)
    close(np.sum(objectives.gaussian_kl_per_dimension(mean, logvar), (1, 2, 3)), kl, rtol=1e-5)


def test_kl_is_zero_and_flat_where_the_two_are_equal() -> None:
    mean, logvar = normal(26, 3, 4), normal(27, 3, 4)
    value, slopes = value_and_slopes(objectives.gaussian_kl_between, mean, logvar, mean, logvar)
    close(value, np.zeros(3))
    close(slopes, np.zeros((4, 3, 4)))


LOG_VARIANCES = jnp.asarray([-1e4, -200, -90, -44, -30, 0, 30, 44, 90, 200, 1e4], jnp.float32)


def test_gaussian_terms_are_finite_at_every_log_variance() -> None:
    """And so are their gradients, for every pair of log variances, also where the means differ much."""
    v, w = (x.reshape(-1, 1) for x in jnp.meshgrid(LOG_VARIANCES, LOG_VARIANCES))
    for distance in (0.0, 1e-3, 100.0):
        mean = jnp.full_like(v, distance)
        for function, args in (
            (objectives.gaussian_kl_between, (mean, v, jnp.zeros_like(v), w)),
            (objectives.gaussian_nll, (mean, jnp.zeros_like(v), v)),
            (objectives.gaussian_kl, (mean, v)),
        ):
            for leaf in jax.tree.leaves(value_and_slopes(function, *args)):
                assert np.isfinite(leaf).all(), function


def test_gaussian_terms_are_exact_where_float32_holds_them() -> None:
    """Against float64, for log variances from -60 to 60 and, at equal means, to -1e4."""
    rng = np.random.default_rng(0)
    v, w = rng.uniform(-60, 30, (2, 50, 1))
    w = np.minimum(w + 0 * v, v + 59)
    w = np.maximum(w, v - 59)
    x, y = rng.normal(size=(2, 50, 1))
    kl = (np.exp(v - w) - 1 - (v - w) + (x - y) ** 2 * np.exp(-w)) / 2
    single = [jnp.asarray(a, jnp.float32) for a in (x, v, y, w)]
    close(jax.jit(objectives.gaussian_kl_between)(*single), kl[:, 0], rtol=1e-4)
    nll = ((x - y) * np.exp(-v / 2)) ** 2 / 2 + v / 2 + math.log(2 * math.pi) / 2
    close(jax.jit(objectives.gaussian_nll)(single[0], single[2], single[1] / 2), nll[:, 0], rtol=1e-4)
    low = jnp.asarray([[-60.0], [-200.0], [-1e4]])
    close(objectives.gaussian_nll(low, low, low / 2), low[:, 0] / 2 + math.log(2 * math.pi) / 2, rtol=1e-6)
    close(objectives.gaussian_kl(0 * low, low), (-low[:, 0] - 1) / 2, rtol=1e-6)


def test_a_gaussian_has_no_divergence_from_itself_at_any_log_variance() -> None:
    v = LOG_VARIANCES[:, None]
    mean = jnp.full_like(v, 0.3)
    value, slopes = value_and_slopes(objectives.gaussian_kl_between, mean, v, mean, v)
    np.testing.assert_array_equal(value, np.zeros(len(v)))
    np.testing.assert_array_equal(slopes, np.zeros((4, len(v), 1)))


def test_log_variances_beyond_the_range_still_pull_back() -> None:
    """A deviation that is far too small grows, one that is far too large shrinks."""
    ones, zeros = jnp.ones((1, 1)), jnp.zeros((1, 1))
    for far in (70.0, 1e3):
        _, slopes = value_and_slopes(objectives.gaussian_nll, ones, zeros, -far * ones)
        assert float(slopes[2][0, 0]) < -1e26
        _, slopes = value_and_slopes(objectives.gaussian_kl, zeros, far * ones)
        assert float(slopes[1][0, 0]) > 1e25
        _, slopes = value_and_slopes(objectives.bounded_logvar, far * ones)
        assert float(slopes[0][0, 0]) > 0


def test_kl_keeps_its_digits_near_the_prior() -> None:
    logvar = 1e-3
    close(
        objectives.gaussian_kl(jnp.zeros((1, 1)), jnp.full((1, 1), logvar)),
        [(logvar**2 / 2 + logvar**3 / 6) / 2],
        rtol=1e-3,
        atol=0,
    )


def test_free_bits_are_the_clamped_batch_mean_in_value_and_gradient() -> None:
    kl = jnp.asarray(np.square(normal(28, 6, 5)) * np.array([[0.01, 0.1, 1.0, 3.0, 0.2]], np.float32))
    for floor in (0.25, jnp.array([0.0, 1.0, 0.1, 9.0, 0.05])):
        assert jax.eval_shape(objectives.free_bits, kl, floor).shape == (6,)
        ours, our_slopes = value_and_slopes(lambda kl, floor=floor: objectives.free_bits(kl, floor).mean(), kl)
        clamped, clamped_slopes = value_and_slopes(lambda kl, floor=floor: jnp.maximum(kl.mean(0), floor).sum(), kl)
        close(ours, clamped)
        close(our_slopes, clamped_slopes)


def test_free_bits_without_a_floor_are_the_kl() -> None:
    kl = jnp.asarray(np.square(normal(29, 6, 5)))
    close(jax.jit(objectives.free_bits)(kl, 0.0), np.sum(kl, 1))
    with pytest.raises(ValueError, match=r"kl_per_dimension \[b, g\]"):
        objectives.free_bits(kl[:, :, None], 0.0)


# The losses of a variational autoencoder.


def test_kl_weight_is_twice_the_variance() -> None:
    """2 sigma^2 (-ELBO) is the loss and a constant: same values up to it, same gradients up to the factor."""
    num_pixels = 12
    x, noise = normal(30, 4, num_pixels), normal(31, 4, 3)
    params = normal(32, 3, num_pixels), normal(33, 4, 3), normal(34, 4, 3)  # decoder weights, mean, logvar

    def beta_vae(weights: Array, mean: Array, logvar: Array, sigma: Array) -> Array:
        reconstruction = jnp.tanh((mean + jnp.exp(logvar / 2) * noise) @ weights)
        kl_weight = objectives.kl_weight_from_sigma(sigma)
        kl = objectives.gaussian_kl(mean, logvar)
        return objectives.beta_vae_loss(objectives.squared_error(x, reconstruction), kl, kl_weight)

    def elbo(weights: Array, mean: Array, logvar: Array, sigma: Array) -> Array:
        reconstruction = jnp.tanh((mean + jnp.exp(logvar / 2) * noise) @ weights)
        nll = objectives.gaussian_nll(x, reconstruction, jnp.log(sigma))
        return objectives.negative_elbo(nll, objectives.gaussian_kl(mean, logvar))

    for sigma in (0.1, 0.5, 2.0):
        factor = 2 * sigma**2
        constant = num_pixels * sigma**2 * math.log(2 * math.pi * sigma**2)
        ours, our_slopes = value_and_slopes(beta_vae, *params, jnp.array(sigma))
        theirs, their_slopes = value_and_slopes(elbo, *params, jnp.array(sigma))
        close(ours + constant, factor * theirs, rtol=1e-5, atol=1e-5)
        for a, b in zip(our_slopes[:3], their_slopes[:3], strict=True):
            close(a, factor * b, rtol=1e-4, atol=1e-5)
        close(objectives.sigma_from_kl_weight(factor), sigma)


def test_negative_elbo_is_exact_at_the_true_posterior() -> None:
    """z ~ N(0, 1), x | z ~ N(z, 1): q = N(x/2, 1/2) makes the bound tight, -log N(x; 0, 2)."""
    x, logvar = 2.0, math.log(0.5)
    nodes, node_weights = np.polynomial.hermite_e.hermegauss(20)
    z = jnp.asarray(x / 2 + math.sqrt(0.5) * nodes, jnp.float32)[:, None]

    @jax.jit
    def losses(z: Array) -> Array:
        nll = objectives.gaussian_nll(jnp.full_like(z, x), z, 0.0)
        kl = objectives.gaussian_kl(jnp.full_like(z, x / 2), jnp.full_like(z, logvar))
        return objectives.negative_elbo(nll, kl)

    bound = np.sum(np.asarray(losses(z)) * node_weights) / np.sum(node_weights)
    close(bound, -stats.norm.logpdf(x, 0, math.sqrt(2)), rtol=1e-5)


def test_bits_per_dim_of_a_uniform_byte_is_eight() -> None:
    close(objectives.bits_per_dim(jnp.array([784 * math.log(256)]), 784), [8.0])
    with pytest.raises(ValueError, match="num_dims >= 1, got 0"):
        objectives.bits_per_dim(jnp.zeros(1), 0)


# Losses whose gradients hold something constant.


def test_the_adaptive_loss_by_hand():
    """.99 / (.99 + .01); the gradient is that of the squared error over the same constant."""
    squared = jnp.asarray([0.99, 3.99])
    np.testing.assert_allclose(objectives.adaptive_loss(squared), [0.99, 3.99 / 4], rtol=1e-6)
    np.testing.assert_allclose(objectives.adaptive_loss(squared, power=0.0), squared, rtol=1e-6)
    np.testing.assert_allclose(objectives.adaptive_loss(squared, power=0.5), [0.99, 3.99 / 2], rtol=1e-6)
    np.testing.assert_allclose(jax.grad(lambda s: objectives.adaptive_loss(s).sum())(squared), [1.0, 0.25], rtol=1e-6)
    assert float(objectives.adaptive_loss(jnp.zeros(1))[0]) == 0.0


@pytest.mark.parametrize(
    "power, norms",
    [(1.0, (10, 1.980198, 0.19998, 0.02)), (0.5, (1.414214, 1.990074, 1.9999, 2)), (0.0, (0.2, 2, 20, 200))],
)
def test_at_power_one_large_errors_pull_less(power, norms):
    """Norms of the gradient for errors of .1, 1, 10 and 100: 2 e / (e^2 + .01)^p."""
    errors = jnp.asarray([0.1, 1.0, 10.0, 100.0])
    gradient = jax.grad(lambda e: objectives.adaptive_loss(jnp.square(e), power).sum())(errors)
    np.testing.assert_allclose(gradient, norms, rtol=1e-5)


def test_adaptive_weight_by_hand():
    """Gradients (3, 4) and (0, .5) at .8: 7.9984; clipped where the adversary has no gradient."""
    assert float(0.8 * objectives.adaptive_weight(jnp.asarray(5.0), jnp.asarray(0.5))) == pytest.approx(
        7.9984, rel=1e-6
    )
    assert float(objectives.adaptive_weight(jnp.asarray(5.0), jnp.asarray(0.0))) == 1e4


def test_commitment_moves_vectors_and_the_codebook_loss_moves_codes():
    z, e = jnp.asarray([[1.0, 2.0]]), jnp.asarray([[0.0, 5.0]])
    slopes = lambda loss: jax.grad(lambda z, e: loss(z, e).sum(), (0, 1))(z, e)  # noqa: E731
    np.testing.assert_allclose(slopes(objectives.commitment_loss), ([[2.0, -6.0]], [[0.0, 0.0]]))
    np.testing.assert_allclose(slopes(objectives.codebook_loss), ([[0.0, 0.0]], [[-2.0, 6.0]]))
