"""Restoration: images drawn by a trained model given what is observed of them, y = H x + sigma n.

A flow draws by `posterior.flower`, on images larger than its own by overlapping tiles. A GAN or a VAE draws codes, by
searches for likely codes from many starts and then Markov chains. A model that fills in missing parts does only that.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jimgen import noise
from jimgen.apps.degradations import Operator, require_linear
from jimgen.cpu import compiler_options
from jimgen.errors import UserError
from jimgen.methods.latents import noise_keys
from jimgen.methods.method import Flow, LatentSpace, Method
from jimgen.sampling import latent_posterior
from jimgen.sampling.latent_posterior import Chain
from jimgen.sampling.posterior import flower
from jimgen.sampling.tiles import tiled
from jimgen.train_step import Variables

LEAST_SIGMA = 1 / 127.5  # of images in [-1, 1]: a grey level, what rounding to 8 bits leaves unknown
MAD = 0.6745  # the median of |n| for n ~ N(0, 1)


class Observation(NamedTuple):
    """What is observed of n images, and how."""

    operator: Operator  # H: float [n, h, w, c] -> [n, ...]
    values: Array  # y, float [n, ...]
    sigma: Array | float  # standard deviation of its noise, broadcastable to y; images are in [-1, 1]
    size: tuple[int, int]  # (h, w) of the images
    known: np.ndarray | None = None  # bool [h, w]: where H shows pixels as they are, for filling in


class Steps(NamedTuple):
    """How long models search and draw."""

    flow: int = 100  # steps of a flow
    starts: int = 64  # random codes of which a search begins at the most likely one
    search: int = 300  # steps of a search for a likely code
    chain: int = 200  # steps of a Markov chain from there; half of them adapt its step size
    model_sigma: float = 0.1  # standard deviation of what a GAN or a VAE cannot draw, in images in [-1, 1]


def restore(
    method: Method,
    variables: Variables,
    observation: Observation,
    labels: Array,
    key: Array,
    steps: Steps | None = None,
) -> np.ndarray:
    """Draws one image for each observation: float32 [n, h, w, c] in [-1, 1].

    For several draws of an image repeat its observation; image i draws from fold_in(key, ..., i).

    Args:
        method, variables: the model, and the variables to draw with.
        observation: of n images.
        labels: int32 [n] or [n, columns], for which the images are drawn; a flow may leave them open.
        key: a PRNG key.
        steps: see `Steps`.
    Raises:
        ValueError: the operator is not linear, or sigma is not above 0.
        UserError: the method cannot restore this.
    """
    steps = steps or Steps()
    if not np.all(np.asarray(observation.sigma) > 0):
        raise ValueError("sigma must be above 0: give at least one grey level, 1/127.5, for values rounded to 8 bits")
    shape = (1, *observation.size, _channels(method, variables, labels))
    require_linear(observation.operator, shape, jax.random.key(0))
    if method.flow is not None:
        images = _by_flow(method, method.flow, variables, observation, labels, key, steps)
    elif method.space is not None:
        _require_own_size(method, variables, observation, labels)
        images = _by_codes(method.space, variables, observation, labels, key, steps)
    elif method.inpaint is not None and observation.known is not None:
        _require_own_size(method, variables, observation, labels)
        known = jnp.broadcast_to(jnp.asarray(observation.known), (len(labels), *observation.size))
        images = _compiled(method.inpaint)(variables, key, observation.values, known, labels)
    else:
        task = "restore pictures" if method.inpaint is None else "do more than fill in missing parts"
        raise UserError(f"this model cannot {task}; flows, VAEs and GANs restore, others at most fill in")
    images = np.asarray(jnp.clip(images, -1.0, 1.0))
    if not np.isfinite(images).all():
        raise UserError("the restored pictures are not finite: the model has diverged, or sigma is too small for it")
    return images


def can_restore(method: Method) -> bool:
    """Whether `restore` works beyond filling in."""
    return method.flow is not None or method.space is not None


def estimated_sigma(image: np.ndarray) -> float:
    """The standard deviation of white noise in an image float [h, w, c], from the finest diagonal details.

    The median of |d| / .6745 over d = (a - b - c + d) / 2 of squares of 2x2 pixels; structure is rare at that scale,
    and noise that was cut off at black or white counts too little.

    References: Donoho and Johnstone, Ideal spatial adaptation by wavelet shrinkage, 1994, section 4.2.
    """
    h, w = (side // 2 * 2 for side in image.shape[:2])
    cut = np.asarray(image[:h, :w], np.float64)
    details = (cut[::2, ::2] - cut[1::2, ::2] - cut[::2, 1::2] + cut[1::2, 1::2]) / 2
    return float(np.median(np.abs(details)) / MAD)


def _channels(method: Method, variables: Variables, labels: Array) -> int:
    return _image_shape(method, variables, labels)[2]


def _image_shape(method: Method, variables: Variables, labels: Array) -> tuple[int, int, int]:
    """(h, w, c) of the images that a model draws."""
    shape = jax.eval_shape(method.sample, variables, jax.random.key(0), labels).shape
    return shape[1], shape[2], shape[3]


def _require_own_size(method: Method, variables: Variables, observation: Observation, labels: Array) -> None:
    own = _image_shape(method, variables, labels)[:2]
    if own != observation.size:
        shown = "{}x{} pixels".format
        raise UserError(f"this model draws {shown(*own)}, not {shown(*observation.size)}: only flows work by tiles")


def _by_flow(
    method: Method,
    flow: Flow,
    variables: Variables,
    observation: Observation,
    labels: Array,
    key: Array,
    steps: Steps,
) -> Array:
    height, width, channels = _image_shape(method, variables, labels)

    def draw(variables: Variables, values: Array, sigma: Array, labels: Array, key: Array) -> Array:
        if observation.size == (height, width):
            velocity = flow.velocity(variables, labels)
        else:
            velocity_of = lambda labels: flow.velocity(variables, labels)  # noqa: E731
            velocity = tiled(velocity_of, labels, observation.size, (height, width))
        times, shape = flow.times(steps.flow), (*observation.size, channels)
        return flower(velocity, observation.operator, values, sigma, times, key, shape)

    return _compiled(draw)(variables, observation.values, jnp.asarray(observation.sigma), labels, key)


def _by_codes(
    space: LatentSpace, variables: Variables, observation: Observation, labels: Array, key: Array, steps: Steps
) -> Array:
    """Images of codes z, from the most likely of random codes by Adam and then by Langevin steps.

    What the model cannot draw counts as noise: sigma^2 is increased by that of `Steps.model_sigma`. Searches begin with
    a larger sigma, so that they find the right region first.
    """
    n, d = len(labels), space.latent_dim
    keys = noise_keys(jax.random.fold_in(key, 0), jnp.arange(n))
    sigma = jnp.sqrt(jnp.square(jnp.asarray(observation.sigma)) + steps.model_sigma**2)
    tx = optax.scale_by_adam()

    def decode(given: Any, z: Array) -> Array:
        variables, _, labels, keys = given
        return space.decode(variables, space.from_z(variables, z, labels), labels, jax.random.clone(keys))

    def potential(given: Any, sigma: Array) -> latent_posterior.Potential:
        return latent_posterior.potential_of(lambda z: decode(given, z), observation.operator, given[1], sigma)

    def drawn(given: Any, best: tuple[Array, Array], key: Array) -> tuple[Array, Array]:
        z = noise.normal(key, jnp.arange(n), (d,))
        value = potential(given, sigma)(z)
        better = value < best[1]
        return jnp.where(better[:, None], z, best[0]), jnp.where(better, value, best[1])

    def search(given: Any, z: Array, state: Any, progress: Array) -> tuple[Array, Any]:
        softened = latent_posterior.annealed(sigma, 1.0, jnp.minimum(2 * progress, 1))
        gradient = jax.grad(lambda z: potential(given, softened)(z).sum())(z)
        direction, state = tx.update(gradient, state)
        return z - 0.1 * (1 + jnp.cos(jnp.pi * progress)) / 2 * jnp.asarray(direction), state

    def move(given: Any, chain: Chain, key: Array, rate: Array) -> Chain:
        return latent_posterior.langevin_step(potential(given, sigma), chain, key, rate)

    given = variables, observation.values, labels, keys
    start = jax.random.fold_in(key, 1)
    best = jnp.zeros((n, d)), jnp.full(n, jnp.inf)
    look, descend = _compiled(drawn), _compiled(search)
    for i in range(steps.starts):
        best = look(given, best, jax.random.fold_in(start, i))
    z, state = best[0], tx.init(best[0])
    for i in range(steps.search):
        z, state = descend(given, z, state, np.float32(i / steps.search))
    chain = _compiled(lambda given, z: latent_posterior.begin(potential(given, sigma), z))(given, z)
    step, walk = _compiled(move), jax.random.fold_in(key, 2)
    for i in range(steps.chain):
        rate = np.float32(0.1 if i < steps.chain // 2 else 0)
        chain = step(given, chain, jax.random.fold_in(walk, i), rate)
    return _compiled(decode)(given, chain.z)


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return jax.jit(function, compiler_options=compiler_options(jax.default_backend()))
