"""Restoration: images drawn by a trained model given what is observed of them, y = H x + sigma n.

A flow draws by `posterior.flower`, on images larger than its own by overlapping tiles. A GAN or a VAE draws codes
(restoration_by_codes.py). A model that fills in missing parts does only that.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jimgen.apps.degradations import Operator, require_linear
from jimgen.apps.restoration_by_codes import CodeSteps, compiled, drawn_codes
from jimgen.conditions import are_open
from jimgen.errors import UserError
from jimgen.evaluation.generated import generate
from jimgen.methods.method import Method
from jimgen.pictures import to_uint8
from jimgen.sampling.posterior import flower
from jimgen.sampling.spread import spread_of
from jimgen.sampling.tiles import tiled
from jimgen.train_step import Variables

LEAST_SIGMA = 1 / 127.5  # of images in [-1, 1]: a grey level, what rounding to 8 bits leaves unknown
CHUNK = 16  # draws that each device makes at a time
PROBES = 8192  # values of the samples, at least eight, by which a flow's spread is measured
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
    codes: CodeSteps = CodeSteps()  # of a GAN or a VAE


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
    check(method, variables, observation, labels)
    if method.flow is not None:
        images = compiled(_flow_sampler(method, observation, np.asarray(labels), steps))(
            _given(variables, observation), key, labels
        )
    elif method.inpaint is not None and observation.known is not None:
        known = jnp.broadcast_to(jnp.asarray(observation.known), (len(labels), *observation.size))
        images = compiled(method.inpaint)(variables, key, observation.values, known, labels)
    else:
        assert method.space is not None
        given = observation.operator, observation.values, observation.sigma
        images = drawn_codes(method.space, variables, *given, labels, key, steps.codes)
    images = np.asarray(jnp.clip(images, -1.0, 1.0))
    if not np.isfinite(images).all():
        raise UserError("the restored pictures are not finite: the model has diverged, or sigma is too small for it")
    return images


def check(method: Method, variables: Variables, observation: Observation, labels: Array) -> None:
    """Raises as `restore` does, before it draws."""
    if method.flow is None and method.space is None and (method.inpaint is None or observation.known is None):
        task = "restore pictures" if method.inpaint is None else "do more than fill in missing parts"
        raise UserError(f"this model cannot {task}; flows in pixels, VAEs and GANs restore, others at most fill in")
    if not np.all(np.asarray(observation.sigma) > 0):
        raise ValueError("sigma must be above 0: give at least one grey level, 1/127.5, for values rounded to 8 bits")
    height, width, channels = _image_shape(method, variables, labels)
    if method.flow is None and observation.size != (height, width):
        given = f"{observation.size[0]}x{observation.size[1]}"
        raise UserError(f"this model draws {height}x{width} pixels, not {given}: only flows work by tiles")
    require_linear(observation.operator, (1, *observation.size, channels), jax.random.key(0))


def draws(
    method: Method,
    variables: Variables,
    observation: Observation,
    labels: np.ndarray,
    key: Array,
    steps: Steps | None = None,
) -> np.ndarray:
    """Several images for one observation, uint8 [n, h, w, c]; known pixels of a filling are those observed.

    A flow draws on all devices, the same images on any number of them.

    Args:
        method, variables, key, steps: see `restore`.
        observation: of 1 image.
        labels: int32 [n] or [n, columns], one for each draw.
    Raises: as `restore`.
    """
    n = len(labels)
    if method.flow is None:
        repeat = lambda x: jnp.broadcast_to(x, (n, *jnp.shape(x)[1:])) if jnp.ndim(x) else x  # noqa: E731
        repeated = observation._replace(values=repeat(observation.values), sigma=repeat(observation.sigma))
        images = to_uint8(restore(method, variables, repeated, jnp.asarray(labels), key, steps))
    else:
        check(method, variables, observation, jnp.asarray(labels[:1]))
        sample = _flow_sampler(method, observation, labels, steps or Steps())
        large = observation.size != _image_shape(method, variables, jnp.asarray(labels[:1]))[:2]
        images = generate(
            method._replace(sample=sample), _given(variables, observation), key, labels, chunk=1 if large else CHUNK
        ).images
    if observation.known is None:
        return images
    return np.where(observation.known[..., None], to_uint8(observation.values), images)


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


def _image_shape(method: Method, variables: Variables, labels: Array) -> tuple[int, int, int]:
    """(h, w, c) of the images that a model draws."""
    shape = jax.eval_shape(method.sample, variables, jax.random.key(0), labels).shape
    return shape[1], shape[2], shape[3]


def _given(variables: Variables, observation: Observation) -> Variables:
    return {"nets": variables, "observed": observation.values, "sigma": jnp.asarray(observation.sigma)}


def _flow_sampler(
    method: Method, observation: Observation, labels: np.ndarray, steps: Steps
) -> Callable[[Variables, Array, Array], Array]:
    """A function (`_given`, key, labels [n]) -> images [n, h, w, c]; what is observed may be of one image for all.

    Guidance, if the run has it, acts unless all `labels` are open: then it would change nothing and take twice as long.
    """
    flow = method.flow
    assert flow is not None
    guide = not bool(are_open(jnp.asarray(labels), method.num_classes).all())
    first = labels[:1]

    def sample(given: Variables, key: Array, labels: Array) -> Array:
        variables, values = given["nets"], given["observed"]
        height, width, channels = _image_shape(method, variables, labels)
        size, velocity_of = observation.size, lambda labels: flow.velocity(variables, labels, guide)
        own = size == (height, width)
        velocity = velocity_of(labels) if own else tiled(velocity_of, labels, size, (height, width))
        times, values = flow.times(steps.flow), jnp.broadcast_to(values, (len(labels), *values.shape[1:]))
        few = jnp.asarray(np.repeat(first, max(8, PROBES // (height * width * channels)), axis=0))
        keys = jax.random.split(jax.random.key(0))  # the same for all draws, on however many devices
        spread = spread_of(velocity_of(few), method.sample(variables, keys[0], few), times, keys[1])
        shape = *size, channels
        return flower(velocity, observation.operator, values, given["sigma"], times, key, shape, spread=spread)

    return sample
