"""Images with a Gaussian prior, whose flow and whose posteriors are known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np

SIDE = 4
SHAPE = (SIDE, SIDE, 1)
PIXELS = SIDE * SIDE


def prior(seed=0):
    """Mean [16] and a full covariance [16, 16]."""
    rng = np.random.default_rng(seed)
    place = np.stack(np.meshgrid(range(SIDE), range(SIDE)), -1).reshape(-1, 2)
    distance = np.linalg.norm(place[:, None] - place, axis=-1)
    scale = rng.uniform(0.6, 1.2, PIXELS)
    return rng.normal(size=PIXELS) / 2, scale[:, None] * np.exp(-distance / 2) * scale


def velocity_of(mean, covariance):
    """E[eps - x | x_t] = -m + (t I - (1 - t) C) S^-1 (x_t - (1 - t) m), S = (1 - t)^2 C + t^2 I, by eigenvectors."""
    values, vectors = np.linalg.eigh(covariance)

    def velocity(x, t):
        factor = (t - (1 - t) * values) / ((1 - t) ** 2 * values + t**2)
        centred = x.reshape(len(x), -1) - (1 - t) * mean[None]
        return (centred @ (vectors * factor[None]) @ vectors.T - mean[None]).reshape(x.shape)

    return velocity


def matrix_of(operator):
    """The operator as a matrix [m, 16]."""
    units = jnp.eye(PIXELS).reshape(PIXELS, *SHAPE)
    return np.asarray(jax.vmap(lambda unit: operator(unit[None])[0].ravel(), out_axes=1)(units), np.float64)


def posterior(mean, covariance, matrix, observed, sigma):
    """Mean [16] and covariance [16, 16] of x ~ N(mean, covariance) given y = H x + sigma n."""
    noise = np.broadcast_to(np.square(sigma), len(matrix))
    gain = covariance @ matrix.T @ np.linalg.inv(matrix @ covariance @ matrix.T + np.diag(noise))
    return mean + gain @ (observed - matrix @ mean), covariance - gain @ matrix @ covariance
