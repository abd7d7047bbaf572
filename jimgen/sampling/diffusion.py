"""The maths of diffusion and flow matching: paths between images and noise, what a net may predict, times.

The convention of this project: x_t = (1 - t) x + t eps with eps ~ N(0, I), so t = 1 is noise and t = 0 the image, and
the velocity of the straight path is v = eps - x. Images, noise and predictions are [b, ...] float of one shape; times
are [b], or one scalar for all.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np
from jax import Array

Prediction = Literal["velocity", "data", "noise"]
SMALLEST_TIME = 0.05  # divisors in weights of the loss are at least this (Li and He, JiT, arXiv:2511.13720)


def per_example(t: Array | float, x: Array) -> Array:
    """t [b] or [] in the rank of x [b, ...], to multiply with it. Raises ValueError for any other shape of t."""
    t = jnp.asarray(t)
    if t.shape not in ((), x.shape[:1]):
        raise ValueError(f"expected times [] or {list(x.shape[:1])}, one an example, got {list(t.shape)}")
    return t.reshape(t.shape + (1,) * (x.ndim - t.ndim))


def _require_one_shape(x: Array, other: Array) -> None:
    if x.shape != other.shape:  # arrays of one channel and of three would broadcast
        raise ValueError(f"expected two arrays of one shape, got {list(x.shape)} and {list(other.shape)}")


def interpolate(x: Array, noise: Array, t: Array | float) -> Array:
    """x_t = (1 - t) x + t eps: [b, ...] (Liu et al., Rectified Flow, arXiv:2209.03003; there t runs backwards).

    Raises ValueError where x and eps differ in shape.
    """
    _require_one_shape(x, noise)
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
    """The velocity that a prediction of v, x or eps implies at x_t, exactly.

    v = v, (x_t - x) / t or (eps - x_t) / (1 - t). Where the divisor is 0, x_t itself is what the net predicts, and of
    the other end of the path nothing is known but its prior mean, 0: v = -x_t from data at t = 0 and v = x_t from noise
    at t = 1.

    Args:
        prediction: what the net predicts.
        output: [b, ...] float, its prediction.
        x_t: [b, ...] float.
        t: [b] or [], in [0, 1].
    Returns:
        v [b, ...], finite.
    Raises:
        ValueError: an unknown prediction, or an output or times of another shape.
    """
    _require_one_shape(x_t, output)
    t = per_example(t, x_t)
    if _known(prediction) == "velocity":
        return output
    if prediction == "data":
        return jnp.where(t > 0, (x_t - output) / jnp.where(t > 0, t, 1), -x_t)
    return jnp.where(t < 1, (output - x_t) / jnp.where(t < 1, 1 - t, 1), x_t)


def target_of(prediction: Prediction, x: Array, noise: Array) -> Array:
    """What the net should say: v, x or eps."""
    return {"velocity": velocity_of(x, noise), "data": x, "noise": noise}[_known(prediction)]


def loss_weight(prediction: Prediction, loss: Prediction, t: Array) -> Array:
    """w with ||loss-space error||^2 = w ||prediction error||^2: the nine pairings of prediction and loss.

    At a given x_t the three are affine in each other, so errors differ by a factor alone: e_v = e_x / t = e_eps /
    (1 - t) up to sign. Divisors are SMALLEST_TIME at least, for prediction and target alike, so that no example near an
    end rules the batch; samplers divide by t itself (`velocity_from`).

    Args:
        prediction, loss: what the net predicts, and where its error is measured.
        t: [b] float in [0, 1].
    Returns:
        [b], >= 0.
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
    """t = sigmoid(mean + std z), z ~ N(0, 1): in (0, 1) (Esser et al., arXiv:2403.03206, eq. 19).

    As sigma = t / (1 - t), this is EDM's log-normal noise level: ln sigma ~ N(mean, std^2).
    """
    return 1 / (1 + jnp.exp(-(mean + std * z)))


# EDM: Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, arXiv:2206.00364. There the
# noisy image is x + sigma eps = x_t / (1 - t).

EDM_TIMES = (-1.2, 1.2)  # mean and standard deviation of ln sigma in training, table 1


def sigma_of(t: Array) -> Array:
    """sigma = t / (1 - t), for t in [0, 1)."""
    return t / (1 - t)


def time_of(sigma: Array) -> Array:
    """t = sigma / (1 + sigma), for sigma >= 0."""
    return sigma / (1 + sigma)


class EDMCoefficients(NamedTuple):
    """D(x; sigma) = skip x + out F(in_ x; noise), and the weight of ||D - x||^2; each in the shape of sigma."""

    skip: Array
    out: Array
    in_: Array
    noise: Array
    weight: Array


def edm_coefficients(sigma: Array, sigma_data: float = 0.5) -> EDMCoefficients:
    """Table 1 of Karras et al., column "Ours": scales that keep input and target of F at unit variance.

    weight out^2 = 1, so the weighted loss is ||F - (x - skip x_noisy) / out||^2.

    Args:
        sigma: noise levels > 0, any shape.
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
        x_t: [b, ...] float.
        t: [b] float in [0, 1]; sigma is kept within [1e-4, 1e4].
        sigma_data: standard deviation of the data.
    Returns:
        The denoised images [b, ...], and weights [b].
    """
    sigma = jnp.clip(t / jnp.maximum(1 - t, 1e-5), 1e-4, 1e4)
    c = edm_coefficients(sigma, sigma_data)
    noisy = x_t * per_example(1 + sigma, x_t)
    output = net(per_example(c.in_, x_t) * noisy, c.noise)
    return per_example(c.skip, x_t) * noisy + per_example(c.out, x_t) * output, c.weight


def uniform_times(num_steps: int) -> np.ndarray:
    """1 = t_0 > ... > t_N = 0, evenly: float32 [num_steps + 1]."""
    if num_steps < 1:
        raise ValueError(f"expected at least one step, got {num_steps}")
    return np.linspace(1, 0, num_steps + 1, dtype=np.float32)


def edm_sigmas(num_steps: int, smallest: float = 0.002, largest: float = 80.0, rho: float = 7.0) -> np.ndarray:
    """sigma_i = (largest^(1/rho) + i / (N - 1) (smallest^(1/rho) - largest^(1/rho)))^rho, then 0: float32 [N + 1].

    References:
        Karras et al., arXiv:2206.00364, eq. 5.
    """
    if num_steps < 2:
        raise ValueError(f"expected at least two steps, got {num_steps}")
    ramp = np.linspace(largest ** (1 / rho), smallest ** (1 / rho), num_steps) ** rho
    return np.append(ramp, 0).astype(np.float32)


def edm_times(num_steps: int) -> np.ndarray:
    """`edm_sigmas` as times t = sigma / (1 + sigma), from 80 / 81 down to 0: float32 [num_steps + 1]."""
    sigmas = edm_sigmas(num_steps)
    return sigmas / (1 + sigmas)
