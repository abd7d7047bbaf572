"""Tasks of restoration: from a picture, damaged or to be damaged, to what a model is given.

Pictures are float [h, w, c] in [-1, 1]. Standard deviations of noise are in grey levels, of 0 to 255.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jimgen import noise
from jimgen.apps import degradations
from jimgen.apps.degradations import Operator
from jimgen.apps.restoration import LEAST_SIGMA, Observation, estimated_sigma
from jimgen.apps.tomography import filtered_back_projection, radon
from jimgen.errors import UserError

Task = Literal["denoise", "inpaint", "enlarge", "deblur", "colourise", "ct"]
LEVELS = 127.5  # grey levels in a unit of [-1, 1]
CT_SIGMA = 0.005  # of the largest line integral: the noise of a sinogram where nothing is said


class Options(NamedTuple):
    """What the tasks can be told."""

    sigma: float | None = None  # grey levels; None: none where it is simulated, else as `sigma_of` says
    factor: int = 2  # enlarge
    filter: Literal["bicubic", "box"] = "bicubic"  # enlarge
    blur: float = 1.5  # deblur: standard deviation of a Gaussian in pixels
    motion: float | None = None  # deblur: length of a straight path in pixels, in place of the Gaussian
    angle: float = 0.0  # deblur: direction of the path in degrees
    views: int = 32  # ct
    arc: float = 180.0  # ct: degrees that the views cover


class Problem(NamedTuple):
    """An observation, and how it looks."""

    observation: Observation
    seen: np.ndarray  # float [h, w, c], the observed as a picture, by the usual simple method


def angles_of(options: Options) -> np.ndarray:
    """Angles of the views in degrees, float [views]."""
    return np.linspace(0, options.arc, options.views, endpoint=False)


def operator_of(task: Task, options: Options, known: np.ndarray | None = None) -> Operator:
    """The operator of a task; `known`, bool [h, w], for filling in.

    Raises: UserError for values that make no sense.
    """
    try:
        if task == "denoise":
            return degradations.identity
        if task == "inpaint":
            assert known is not None
            return degradations.masked(known)
        if task == "enlarge":
            kinds = {"bicubic": degradations.bicubic_downsampled, "box": degradations.box_downsampled}
            return kinds[options.filter](options.factor)
        if task == "deblur":
            if options.motion is not None:
                return degradations.motion_blur(options.motion, options.angle)
            return degradations.gaussian_blur(options.blur)
        if task == "colourise":
            return degradations.grey
        return radon(angles_of(options))
    except ValueError as error:
        raise UserError(f"{task}: {error}") from error


def simulated(
    task: Task, picture: np.ndarray, options: Options, key: Array, known: np.ndarray | None = None
) -> Problem:
    """The problem of a picture that is damaged here, and could be restored exactly: y = H x + sigma n.

    Raises: UserError for a picture that the task does not fit.
    """
    size = (picture.shape[0], picture.shape[1])
    operator = operator_of(task, options, known)
    clean = _applied(task, operator, picture)
    sigma = sigma_of(task, options, clean[0], simulate=True)
    level = 0.0 if options.sigma is None and task != "denoise" else sigma
    observed = clean + level * noise.normal(key, jnp.zeros(1, jnp.int32), clean.shape[1:])
    observed = jnp.where(jnp.asarray(known)[None, ..., None], observed, 0) if known is not None else observed
    return _problem(task, operator, observed, sigma, size, options, known)


def given(
    task: Task, observed: np.ndarray, size: tuple[int, int], options: Options, known: np.ndarray | None
) -> Problem:
    """The problem of a picture that is damaged already.

    Args:
        task: the task.
        observed: the picture [h, w, c]: of the size of the result; for `enlarge` smaller by the factor; for `ct` line
            integrals [views, detectors, 1] of values from 0 (black) to 1 (white), in pixels.
        size: (h, w) of the result.
        options, known: as above.
    Raises: UserError for a picture that the task does not fit.
    """
    operator = operator_of(task, options, known)
    values = jnp.asarray(observed, jnp.float32)[None]
    if task == "ct":
        values = 2 * values - operator(jnp.ones((1, *size, 1)))
    elif task == "inpaint":
        values = operator(values)
    return _problem(task, operator, values, sigma_of(task, options, values[0]), size, options, known)


def sigma_of(task: Task, options: Options, observed: Array, simulate: bool = False) -> float:
    """The standard deviation of the noise of what is observed, of images in [-1, 1].

    It is what the options say, else: for `denoise` it is estimated from the picture (`estimated_sigma`); for `ct` it is
    half a percent of the largest value; for the others the least that pictures of 8 bits have.

    Raises: UserError for a sigma that is not above 0, or cannot be estimated.
    """
    if options.sigma is not None:
        if not 0 < options.sigma < float("inf"):
            raise UserError(f"--sigma {options.sigma:g}: must be above 0, in grey levels of 0 to 255")
        return max(options.sigma / LEVELS, LEAST_SIGMA)
    if task == "ct":
        return max(CT_SIGMA * float(jnp.abs(observed).max()), LEAST_SIGMA)
    if task != "denoise":
        return LEAST_SIGMA
    sigma = 0.0 if simulate else estimated_sigma(np.asarray(observed))
    if sigma < LEAST_SIGMA:
        found = "say how much noise to add" if simulate else "no noise was found in the picture; say how much there is"
        raise UserError(f"{found}, for example --sigma 25")
    return sigma


def _applied(task: Task, operator: Operator, picture: np.ndarray) -> Array:
    """H of a picture, float [1, ...]."""
    try:
        return operator(jnp.asarray(picture, jnp.float32)[None])
    except ValueError as error:
        raise UserError(f"{task}: {error}") from error


def _problem(
    task: Task,
    operator: Operator,
    observed: Array,
    sigma: float,
    size: tuple[int, int],
    options: Options,
    known: np.ndarray | None,
) -> Problem:
    seen = observed[0]
    if task == "enlarge":
        seen = jax.image.resize(observed[0], (*size, observed.shape[-1]), "cubic")
    elif task == "ct":
        sinogram = (observed + operator(jnp.ones((1, *size, observed.shape[-1])))) / 2
        seen = 2 * filtered_back_projection(sinogram, angles_of(options), size)[0] - 1
    elif task == "colourise":
        seen = jnp.repeat(seen, 3, axis=-1)
    elif known is not None:
        seen = jnp.where(jnp.asarray(known)[..., None], seen, 0)
    return Problem(Observation(operator, observed, sigma, size, known), np.clip(np.asarray(seen), -1, 1))
