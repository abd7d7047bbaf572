"""One row for each loss: its values by hand, extreme inputs, and shapes that it must refuse.

To test a new objective, add a row to ADVERSARIAL or to PER_EXAMPLE.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from numeric import sigmoid

from jimgen import objectives
from jimgen.objectives import AdversarialLoss

Reference = Callable[[np.ndarray, np.ndarray], np.ndarray]


# Adversarial losses: r = D(x), f = D(G(z)). The references are the papers' formulas, in probabilities and float64.


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


# All other losses, which map arrays to one number per example.


class Row(NamedTuple):
    function: Callable
    args: tuple  # by hand
    expected: Any
    extreme: tuple = ()  # the function and its gradient must be finite here
    mismatched: tuple = ()  # these must raise ValueError ...
    message: str = ""  # ... with this message


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
    "finite_difference_penalty": Row(
        objectives.finite_difference_penalty,
        (jnp.array([1.0, 2.0]), jnp.array([1.5, 2.25]), 0.5),
        [1.0, 0.25],
        (EXTREME[0], -EXTREME[0]),
        (FLAT, COLUMN),
        r"logits \[4\], moved_logits \[4, 1\]",
    ),
    "path_length": Row(  # lengths of w0 + 2 w1, after the first update of their running mean
        objectives.path_length,
        (jnp.full(2, math.sqrt(5)), 0.01 * math.sqrt(5)),
        [9.801, 9.801],
        (EXTREME[0], 1.0),
    ),
    "running_mean": Row(
        objectives.running_mean, (jnp.array(0.0), jnp.full(2, math.sqrt(5))), 0.0223607, (FLAT[0], EXTREME[0])
    ),
    "lecam": Row(
        objectives.lecam,
        (jnp.array([1.0, -1.0]), jnp.array([0.0, 2.0]), 0.5, -0.5, 1.0),
        [2.5, 0.0],  # mean 1.25
        (EXTREME[0], -EXTREME[0], 0.5, -0.5),
        (FLAT, COLUMN, 0.5, -0.5),
        r"real_logits \[4\], fake_logits \[4, 1\]",
    ),
    "consistency": Row(
        objectives.consistency,
        (jnp.array([1.0, -1.0]), jnp.array([0.5, -1.5])),
        [2.5, 2.5],
        (EXTREME, -EXTREME),
        (IMAGES, IMAGES[..., 0]),
        r"outputs \[4, 2, 2, 1\], moved_outputs \[4, 2, 2\]",
    ),
    "consistency of images": Row(  # of zCR for the generator, a mean over pixels
        objectives.consistency,
        (jnp.array([[1.0, 2.0], [0.0, 0.0]]), jnp.array([[1.0, 0.0], [0.0, 4.0]]), -0.5),
        [-1.0, -4.0],
        (EXTREME, -EXTREME, -0.5),
    ),
    "feature_matching": Row(
        objectives.feature_matching,
        (jnp.ones((2, 2)), jnp.array([[0.0, 2.0], [2.0, 4.0]])),
        1.0,
        (EXTREME, -EXTREME),
        (FLAT, COLUMN),
        r"real_features \[4\], fake_features \[4, 1\]",
    ),
    "top_k_weights": Row(objectives.top_k_weights, (jnp.array([0.0, 2.0]), 1), [0.0, 2.0], (EXTREME[0], 3)),
    "top_k_weights, of equal logits": Row(
        objectives.top_k_weights, (jnp.array([1.0, 3.0, 1.0, 1.0]), 2), [2.0, 2.0, 0.0, 0.0], (FLAT, 4)
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
    "feature_distance": Row(  # (3, 4) / 5 and (1, 0): .4^2 + .8^2; (0, 2) and (0, 1) agree; the mean of both places
        objectives.feature_distance,
        (jnp.array([[[3.0, 4.0], [0.0, 2.0]]]), jnp.array([[[1.0, 0.0], [0.0, 1.0]]])),
        [0.4],
        (EXTREME, 0 * EXTREME),
        (IMAGES, IMAGES[..., 0]),
        r"features \[4, 2, 2, 1\], reconstructed \[4, 2, 2\]",
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
    "bernoulli_nll, of some elements": Row(
        objectives.bernoulli_nll,
        (jnp.array([[2.0, -1.0]]), jnp.array([[1.0, 0.0]]), np.array([[False, True]])),
        [0.313262],
        (EXTREME, jnp.array([[0.0, 1.0, 0.0, 1.0]]), np.array([[True, False, True, False]])),
        (COLUMN, COLUMN, np.zeros(4, bool)),
        r"where \[4, 1\], got \[4\]",
    ),
    "gaussian_nll, of some elements": Row(
        objectives.gaussian_nll,
        (jnp.array([[1.0, 0.0]]), jnp.array([[0.5, 0.25]]), 0.0, np.array([[True, False]])),
        [1.043939],
        (EXTREME, -EXTREME, -30.0, np.array([[True, False, True, False]])),
        (COLUMN, COLUMN, 0.0, np.zeros(4, bool)),
        r"where \[4, 1\], got \[4\]",
    ),
    "gaussian_nll_at_the_optimal_sigma": Row(
        objectives.gaussian_nll,
        (jnp.array([[1.0, 0.0]]), jnp.array([[0.5, 0.25]]), math.log(0.15625) / 2),
        [0.981579],
        (IMAGES, IMAGES, -6.0),
        (IMAGES, IMAGES[..., 0], 0.0),
        r"x \[4, 2, 2, 1\], mean \[4, 2, 2\]",
    ),
    "quantised_logistic_nll": Row(
        objectives.quantised_logistic_nll,
        (
            jnp.array([[2.0, 1.0], [3.0, 0.0]]),
            jnp.array([[2.0, -0.3], [1.0, 0.0]]),
            jnp.log(jnp.array([[1.0] * 2, [0.5, 1.0]])),
        ),
        [1.406829 + 1.782753, 3.200716 + 1.406829],
        (EXTREME, -EXTREME, jnp.array([[-30.0, -6.0, 6.0, 15.0]])),
        (IMAGES, IMAGES, IMAGES[..., 0]),
        r"log_scale \[4, 2, 2\]",
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
    "normal_gamma_penalty": Row(  # [1 + .25] / (2 4), plus .1 (1 + 2 - log 2)
        objectives.normal_gamma_penalty,
        (jnp.array([[1.0, -0.5]]), jnp.array([[0.0, math.log(4)]]), 2.0, 0.1),
        [0.386935],
        (EXTREME, EXTREME),
        (COLUMN, FLAT),
        r"mean \[4, 1\], logvar \[4\]",
    ),
    "free_bits": Row(
        objectives.free_bits,
        (jnp.array([[0.1, 0.6]]), 0.25),
        [0.85],
        (jnp.array([[0.0, 200.0]]), jnp.array([0.25, 0.5])),
        (COLUMN, FLAT),
        r"got \[4, 1\], \[4\]",
    ),
    "discretised_logistic_log_prob": Row(
        objectives.discretised_logistic_log_prob,
        (jnp.array([-1.0, 1.0, 128 / 127.5 - 1]), jnp.zeros(3), jnp.full(3, -2.0)),
        [-7.360715, -7.360715, -4.234691],
        (jnp.array([-1.0, 1.0, 0.5, 0.5]), EXTREME[0], -EXTREME[0]),
        (FLAT, FLAT, COLUMN),
        r"mean \[4\], log_scale \[4, 1\]",
    ),
    "logistic_mixture_nll": Row(
        objectives.logistic_mixture_nll,
        (
            jnp.array([[128 / 127.5 - 1]]),
            jnp.log(jnp.array([[[0.3, 0.7]]])),
            jnp.array([[[-0.5, 0.1]]]),
            jnp.array([[[-3.0, -2.0]]]),
        ),
        [4.714359],
        (
            jnp.array([[-1.0, 0.5]]),
            jnp.array([[[200.0, -200.0]] * 2]).reshape(1, 2, 2),
            *[EXTREME.reshape(1, 2, 2)] * 2,
        ),
        (FLAT, FLAT, FLAT, FLAT),
        r"expected x \[\], got \[4\]",
    ),
    "dreg_loss": Row(
        objectives.dreg_loss,
        (jnp.array([[-3.0], [-1.0], [-2.0]]),),
        [3 * 0.0900306**2 + 0.6652410**2 + 2 * 0.2447285**2],
        (EXTREME.T,),
        (FLAT,),
        r"log_weights \[k, b\] with k >= 1, got \[4\]",
    ),
    "mixture_log_prob": Row(  # halfway between two normal densities: that of either at distance 1
        objectives.mixture_log_prob,
        (jnp.array([[0.0]]), jnp.array([[1.0], [-1.0]]), jnp.zeros((2, 1))),
        [-0.5 - math.log(2 * math.pi) / 2],
        (EXTREME, -EXTREME, jnp.full((1, 4), -60.0)),
        (COLUMN, IMAGES, IMAGES),
        r"z \[b, d\] and means \[K, d\], got \[4, 1\]",
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
