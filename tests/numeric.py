"""Numeric helpers of the tests of losses: comparison, random arrays, values with gradients."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def close(actual: Any, expected: Any, rtol: float = 2e-6, atol: float = 1e-6) -> None:
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=rtol, atol=atol)


def normal(seed: int, *shape: int, scale: float = 1.0) -> Array:
    return jnp.asarray(np.random.default_rng(seed).normal(scale=scale, size=shape), jnp.float32)


def uniform(seed: int, *shape: int) -> Array:
    return jnp.asarray(np.random.default_rng(seed).uniform(size=shape), jnp.float32)


@partial(jax.jit, static_argnums=0)
def value_and_slopes(function: Callable[..., Array], *arrays: Array) -> tuple[Array, tuple[Array, ...]]:
    """f(...) and the gradients of its sum, compiled once per function and shape, because eager gradients are slow."""
    gradient = jax.grad(lambda *arrays: function(*arrays).sum(), argnums=tuple(range(len(arrays))))
    return function(*arrays), gradient(*arrays)


def numerical_gradient(function: Callable[[np.ndarray], float], at: np.ndarray, step: float = 1e-5) -> np.ndarray:
    steps = step * np.eye(at.size)
    return np.array([(function(at + d) - function(at - d)) / (2 * step) for d in steps])


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))
