"""The maths of diffusion and flow matching: paths between images and noise, prediction types, times.

The convention of this project is x_t = (1 - t) x + t eps with eps ~ N(0, I). So t = 1 is noise, t = 0 is the image, and
the velocity of the straight path is v = eps - x. Images, noise and predictions are float [b, ...] of equal shape; times
are [b], or [] for all examples.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np
from jax import Array

Prediction = Literal["velocity", "data", "noise"]
SMALLEST_TIME = 0.05  # lower bound of the divisors in loss weights (Li and He, JiT, arXiv:2511.13720)


def per_example(t: Array | float, x: Array, name: str = "times") -> Array:
    """Reshapes t [b] or [] to multiply x [b, ...]. Raises ValueError for any other shape of t."""
    t = jnp.asarray(t)
    if t.shape not in ((), x.shape[:1]):
        raise ValueError(f"expected {name} [] or {list(x.shape[:1])}, one per example, got {list(t.shape)}")
    return t.reshape(t.shape + (1,) * (x.ndim - t.ndim))


def require_equal_shapes(x: Array, other: Array) -> None:
    """Raises ValueError if the shapes differ: arrays of one channel and of three would broadcast."""
    if x.shape != other.shape:
        raise ValueError(f"expected equal shapes, got {list(x.shape)} and {list(other.shape)}")


def interpolate(x: Array, noise: Array, t: Array | float) -> Array:
    """x_t = (1 - t) x + t eps: [b, ...] (Liu et al., Rectified Flow, arXiv:2209.03003; their t runs the other way).

    Raises ValueError if the shapes of x and eps differ.
    """
    require_equal_shapes(x, noise)
    t = per_example(t, x)
    return (1 - t) * x + t * noise


def velocity_of(x: Array, noise: Array) -> Array:
    """v = dx_t / dt = eps - x."""
    return noise - x


def data_of(x_t: Array, velocity: Array, t: Array | float) -> Array:
    """x = x_t - t v."""
    return x_t - per_example(t, x_t) * velocity


def noise_of(x_t: Array, velocity: Array, t: Array | float) -> Array:
    """eps = x_t + (1 - t) v."""
    return x_t + (1 - per_example(t, x_t)) * velocity


def score_of(x_t: Array, velocity: Array, t: Array | float) -> Array:
    """grad log p_t(x_t) = -eps / t, for t > 0 (Song et al., arXiv:2011.13456, with x_t ~ N((1 - t) x, t^2 I))."""
    return -noise_of(x_t, velocity, t) / per_example(t, x_t)


def velocity_from(prediction: Prediction, output: Array, x_t: Array, t: Array | float) -> Array:
    """Converts a prediction of v, x or eps at x_t to a velocity, exactly.

    It is v, (x_t - x) / t or (eps - x_t) / (1 - t). If the divisor is 0, the predicted end of the path is x_t itself,
    and the other end is replaced by its prior mean 0: v = -x_t from data at t = 0, v = x_t from noise at t = 1.

    Args:
        prediction: what the net predicts.
        output: float [b, ...], its prediction.
        x_t: float [b, ...].
        t: float [b] or [], in [0, 1].
    Returns: v [b, ...], finite.
    Raises:
        ValueError: for an unknown prediction, or wrong shapes of output or t.
    """
    require_equal_shapes(x_t, output)
    t = per_example(t, x_t)
    if _known(prediction) == "velocity":
        return output
    if prediction == "data":
        return jnp.where(t > 0, (x_t - output) / jnp.where(t > 0, t, 1), -x_t)
    return jnp.where(t < 1, (output - x_t) / jnp.where(t < 1, 1 - t, 1), x_t)


def target_of(prediction: Prediction, x: Array, noise: Array) -> Array:
    """The training target of the net: v, x or eps."""
    return {"velocity": velocity_of(x, noise), "data": x, "noise": noise}[_known(prediction)]


def loss_weight(prediction: Prediction, loss: Prediction, t: Array) -> Array:
    """w with ||error in the space of the loss||^2 = w ||prediction error||^2, for each pair of prediction and loss.

    At a given x_t the three predictions are affine in each other, so their errors differ only by a factor: up to sign,
    e_v = e_x / t = e_eps / (1 - t). Divisors are at least SMALLEST_TIME, so that no example near an end of the path
    dominates the batch. Samplers divide by t itself (`velocity_from`).

    Args:
        prediction, loss: what the net predicts, and the space in which its error is measured.
        t: float [b] in [0, 1].
    Returns: [b], >= 0.
    References:
        Li and He, Back to Basics: Let Denoising Generative Models Denoise, arXiv:2511.13720, table 1.
    """
    if _known(prediction) == _known(loss):
        return jnp.ones_like(t)
    to_velocity = {
        "velocity": jnp.ones_like(t),
        "data": 1 / jnp.maximum(t, SMALLEST_TIME),
        "noise": 1 / jnp.maximum(1 - t, SMALLEST_TIME),
    }
    from_velocity = {"velocity": jnp.ones_like(t), "data": t, "noise": 1 - t}
    return jnp.square(to_velocity[prediction] * from_velocity[loss])


def _known(prediction: Prediction) -> Prediction:
    if prediction not in get_args(Prediction):
        raise ValueError(f"unknown prediction {prediction!r}: use one of {', '.join(get_args(Prediction))}")
    return prediction


def logit_normal(z: Array, mean: float = 0.0, std: float = 1.0) -> Array:
    """t = sigmoid(mean + std z) in (0, 1), with z ~ N(0, 1) (Esser et al., arXiv:2403.03206, equation 19).

    With sigma = t / (1 - t) this is EDM's log-normal noise level, ln sigma ~ N(mean, std^2).
    """
    return 1 / (1 + jnp.exp(-(mean + std * z)))


# EDM: Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, arXiv:2206.00364. The noisy
# image of that paper is x + sigma eps = x_t / (1 - t).

EDM_TIMES = (-1.2, 1.2)  # mean and standard deviation of ln sigma in training, table 1


def sigma_of(t: Array) -> Array:
    """sigma = t / (1 - t), for t in [0, 1)."""
    return t / (1 - t)


def time_of(sigma: Array) -> Array:
    """t = sigma / (1 + sigma), for sigma >= 0."""
    return sigma / (1 + sigma)


class EDMCoefficients(NamedTuple):
    """D(x; sigma) = skip x + out F(in_ x; noise), and the weight of ||D - x||^2; each of the shape of sigma."""

    skip: Array
    out: Array
    in_: Array
    noise: Array
    weight: Array


def edm_coefficients(sigma: Array, sigma_data: float = 0.5) -> EDMCoefficients:
    """Table 1 of Karras et al., column "Ours": scales with which input and target of F have unit variance.

    Since weight out^2 = 1, the weighted loss is ||F - (x - skip x_noisy) / out||^2.

    Args:
        sigma: float of any shape, noise levels > 0.
        sigma_data: standard deviation of the data.
    """
    total = jnp.square(sigma) + sigma_data**2
    return EDMCoefficients(
        skip=sigma_data**2 / total,
        out=sigma * sigma_data / jnp.sqrt(total),
        in_=1 / jnp.sqrt(total),
        noise=jnp.log(sigma) / 4,
        weight=total / jnp.square(sigma * sigma_data),
    )


def edm_denoise(
    net: Callable[[Array, Array], Array], x_t: Array, t: Array, sigma_data: float = 0.5
) -> tuple[Array, Array]:
    """D(x_t / (1 - t); sigma), and the weight of its squared error.

    Args:
        net: F (scaled x [b, ...], c_noise [b]) -> [b, ...].
        x_t: float [b, ...].
        t: float [b] in [0, 1]; sigma is clipped to [1e-4, 1e4].
        sigma_data: standard deviation of the data.
    Returns: The denoised images [b, ...], and weights [b].
    """
    sigma = jnp.clip(t / jnp.maximum(1 - t, 1e-5), 1e-4, 1e4)
    c = edm_coefficients(sigma, sigma_data)
    noisy = x_t * per_example(1 + sigma, x_t)
    output = net(per_example(c.in_, x_t) * noisy, c.noise)
    return per_example(c.skip, x_t) * noisy + per_example(c.out, x_t) * output, c.weight


def uniform_times(num_steps: int) -> np.ndarray:
    """1 = t_0 > ... > t_N = 0, evenly spaced: float32 [num_steps + 1]."""
    if num_steps < 1:
        raise ValueError(f"expected at least one step, got {num_steps}")
    return np.linspace(1, 0, num_steps + 1, dtype=np.float32)


def edm_sigmas(num_steps: int, smallest: float = 0.002, largest: float = 80.0, rho: float = 7.0) -> np.ndarray:
    """sigma_i = (largest^(1/rho) + i / (N - 1) (smallest^(1/rho) - largest^(1/rho)))^rho, then 0: float32 [N + 1].

    References:
        Karras et al., arXiv:2206.00364, equation 5.
    """
    if num_steps < 2:
        raise ValueError(f"expected at least two steps, got {num_steps}")
    ramp = np.linspace(largest ** (1 / rho), smallest ** (1 / rho), num_steps) ** rho
    return np.append(ramp, 0).astype(np.float32)


def edm_times(num_steps: int) -> np.ndarray:
    """`edm_sigmas` as times t = sigma / (1 + sigma), from 80 / 81 down to 0: float32 [num_steps + 1]."""
    sigmas = edm_sigmas(num_steps)
    return sigmas / (1 + sigmas)
