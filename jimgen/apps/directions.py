"""Directions of attributes: along which a code is moved so that its image shows more, or less, of something.

Images of random codes are scored, by a classifier or by any function. A direction is the slope of a linear fit of the
scores to the codes, and is judged on codes that the fit has not seen.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jimgen.data.archive import read_arrays
from jimgen.errors import UserError
from jimgen.files import write_npz
from jimgen.methods.latents import draw_codes, noise_keys
from jimgen.methods.method import LatentSpace
from jimgen.pictures import to_uint8
from jimgen.train_step import Variables

CHUNK = 256  # codes that are decoded at a time
HELD_OUT = 4  # every fourth code judges the fit to the others
FEWEST = 20  # codes that must show an attribute, and that must not
STRENGTHS = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)  # standard deviations of random codes along a direction
PENALTIES = 10.0 ** np.arange(-6, 4)  # of the ridge regression, in units of the mean variance of codes
NEARLY_PARALLEL = 0.05  # what is left of a unit vector where it is made orthogonal to others
FIELDS = ("names", "vectors", "spreads", "qualities", "shares", "centre", "space")


class Direction(NamedTuple):
    """A direction in the space of codes [d]."""

    name: str
    vector: np.ndarray  # float32 [d], of length 1
    spread: float  # standard deviation of random codes along it
    quality: float  # on held-out codes: balanced accuracy of a yes or no (chance .5), correlation of other scores
    share: float  # of the codes that show it; the mean of other scores


class Draws(NamedTuple):
    """Random codes and their images."""

    codes: np.ndarray  # float [n, d]
    images: np.ndarray  # uint8 [n, h, w, c]


def draw(space: LatentSpace, variables: Variables, labels: np.ndarray, key: Array, chunk: int = CHUNK) -> Draws:
    """A random code and its image for each of labels int32 [n] or [n, columns]; a larger set begins with the smaller.

    Args:
        space, variables: latent space of a method, and the variables to draw with.
        labels: for which the images are drawn.
        key: PRNG key.
        chunk: images that are drawn at a time.
    """

    @jax.jit
    def drawn(variables: Variables, labels: Array, index: Array) -> tuple[Array, Array]:
        codes = draw_codes(space, variables, key, index, labels)
        return codes, space.decode(variables, codes, labels, noise_keys(key, index))

    parts = []
    for start in range(0, len(labels), chunk):
        index = np.arange(start, start + chunk, dtype=np.int32)
        codes, images = drawn(variables, labels[index % len(labels)], index)
        parts.append((np.asarray(codes), to_uint8(np.asarray(images))))
    codes, images = (np.concatenate(part)[: len(labels)] for part in zip(*parts, strict=True))
    return Draws(codes, images)


def fit_direction(
    name: str, codes: np.ndarray, scores: np.ndarray, orthogonal_to: Sequence[np.ndarray] = ()
) -> Direction:
    """The direction in which scores rise, by ridge regression on three quarters of the codes.

    The penalty is the one with the least error where each code in turn is left out, which has a closed form. For a yes
    or no, the slope is that of a linear discriminant, whatever the share of yes.

    Args:
        name: of the attribute.
        codes: float [n, d].
        scores: bool [n], whether an image shows the attribute; or float [n], how much.
        orthogonal_to: vectors [d], such as those of other attributes, that are not to change.
    Raises:
        UserError: fewer than 20 codes show the attribute or do not, scores are all equal or not finite, or the
            direction is nearly one of those that it is to be orthogonal to.
        ValueError: shapes that do not fit.
    References:
        Shen et al., Interpreting the Latent Space of GANs for Semantic Face Editing, arXiv:1907.10786: a separating
        plane for each attribute, its normal made orthogonal to those of others.
    """
    if codes.ndim != 2 or scores.shape != codes.shape[:1]:
        raise ValueError(f"expected codes [n, d] and scores [n], got {list(codes.shape)} and {list(scores.shape)}")
    is_yes_or_no = scores.dtype == bool
    if is_yes_or_no and min(scores.sum(), (~scores).sum()) < FEWEST:
        raise UserError(
            f"{name}: {int(scores.sum())} of {len(scores)} images show it, and a direction takes {FEWEST} that do and "
            f"{FEWEST} that do not: draw more, or choose another attribute"
        )
    if not np.isfinite(scores).all() or scores.min() == scores.max():
        raise UserError(f"{name}: its scores must be finite and differ between images")
    codes = codes.astype(np.float64)
    held_out = np.arange(len(codes)) % HELD_OUT == HELD_OUT - 1
    slope = _ridge(codes[~held_out], scores[~held_out].astype(np.float64))
    vector = orthogonal(name, slope / np.linalg.norm(slope), orthogonal_to)
    along = codes @ vector
    judged = (along[~held_out], scores[~held_out], along[held_out], scores[held_out])
    quality = _balanced_accuracy(*judged) if is_yes_or_no else float(np.corrcoef(judged[2], judged[3])[0, 1])
    return Direction(name, vector.astype(np.float32), float(along.std()), quality, float(scores.mean()))


def orthogonal(name: str, vector: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """The part of a unit vector [d] that is orthogonal to the others [d], at length 1.

    Raises:
        UserError: hardly anything is left of it.
    """
    if not len(others):
        return vector
    basis = np.linalg.qr(np.stack(others, axis=1).astype(np.float64))[0]
    for _ in range(2):  # the second time for rounding
        vector = vector - basis @ (basis.T @ vector)
    if (length := np.linalg.norm(vector)) < NEARLY_PARALLEL:
        raise UserError(f"{name}: its direction is that of the others, so nothing is left that is orthogonal to them")
    return vector / length


def move(codes: np.ndarray, direction: Direction, strengths: Sequence[float]) -> np.ndarray:
    """Codes [n, d] moved by each of k strengths, in standard deviations of random codes: [n, k, d]."""
    steps = direction.spread * np.asarray(strengths, np.float32)[:, None] * direction.vector[None]
    return codes[:, None] + steps[None]


def images_along(
    space: LatentSpace, variables: Variables, draws: Draws, labels: np.ndarray, key: Array, direction: Direction
) -> np.ndarray:
    """Images of draws whose codes are moved by STRENGTHS: uint8 [n, k, h, w, c]. Noise that a net adds stays the same.

    Args:
        space, variables, labels, key: those of `draw`.
        draws: n of its first draws.
        direction: in the space of the codes.
    """
    moved = move(draws.codes, direction, STRENGTHS)
    n, k = moved.shape[:2]
    keys = jnp.repeat(noise_keys(key, jnp.arange(n)), k, axis=0)
    images = jax.jit(space.decode)(variables, moved.reshape(n * k, -1), np.repeat(labels[:n], k, axis=0), keys)
    return to_uint8(np.asarray(images)).reshape(n, k, *images.shape[1:])


def save(path: Path, directions: Sequence[Direction], centre: np.ndarray, is_straight: bool) -> None:
    """Writes an .npz that `load` reads.

    Fields: `names` str [k]; `vectors` float32 [k, d], of length 1; `spreads` float32 [k], standard deviations of random
    codes along them; `qualities` float32 [k], held-out balanced accuracy or correlation; `shares` float32 [k], of
    images that show the attribute; `centre` float32 [d], mean of the random codes; `space`, "w" or "z".
    """
    numbers = {
        field: np.asarray([getattr(direction, one) for direction in directions], np.float32)
        for field, one in (("spreads", "spread"), ("qualities", "quality"), ("shares", "share"))
    }
    vectors = np.stack([direction.vector for direction in directions])
    names = np.asarray([direction.name for direction in directions])
    about = {"centre": centre.astype(np.float32), "space": "w" if is_straight else "z"}
    write_npz(path, {"names": names, "vectors": vectors, **numbers, **about})


def load(path: Path, space: LatentSpace, dimension: int) -> list[Direction]:
    """Reads the directions that `save` wrote, for codes [n, dimension] of a space.

    Raises:
        UserError: the file is missing or damaged, has other fields, or is of another space.
    """
    arrays = read_arrays(path, FIELDS)
    if missing := sorted(set(FIELDS) - set(arrays)):
        raise UserError(f"{path} holds no directions (it lacks {', '.join(missing)}): make it by `jimgen directions`")
    names, *numbers = columns = [arrays[field] for field in ("names", "spreads", "qualities", "shares")]
    kind, stored, vectors = "w" if space.is_straight else "z", str(arrays["space"]), arrays["vectors"]
    in_form = names.dtype.kind == "U" and all(x.dtype == np.float32 for x in (*numbers, vectors))
    fit = vectors.ndim == 2 and all(x.shape == vectors.shape[:1] for x in columns)
    if not (in_form and fit and stored in ("w", "z") and all(np.isfinite(x).all() for x in (*numbers, vectors))):
        raise UserError(f"{path} is damaged: make it again, by `jimgen directions`")
    if stored != kind or vectors.shape[1] != dimension:
        raise UserError(
            f"{path} has directions in {stored} [{vectors.shape[1]}], and the codes of the run are {kind} "
            f"[{dimension}]: make it from this run, by `jimgen directions`"
        )
    rows = zip(names.tolist(), vectors, *(x.tolist() for x in numbers), strict=True)
    return [Direction(name, *rest) for name, *rest in rows]


def _ridge(codes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The slope [d] of a linear fit with intercept, float64, with the penalty of the least leave-one-out error."""
    centred, rest = codes - codes.mean(0), scores - scores.mean()
    u, s, v = np.linalg.svd(centred, full_matrices=False)
    targets, best, slope = u.T @ rest, np.inf, centred.T @ rest
    for penalty in PENALTIES * np.square(s).mean():
        shrunk = np.square(s) / (np.square(s) + penalty)
        leverage = np.square(u) @ shrunk + 1 / len(codes)
        error = np.square((rest - u @ (shrunk * targets)) / np.maximum(1 - leverage, 1e-9)).mean()
        if error < best:
            best, slope = error, v.T @ (s / (np.square(s) + penalty) * targets)
    return slope


def _balanced_accuracy(along: np.ndarray, shown: np.ndarray, held_along: np.ndarray, held_shown: np.ndarray) -> float:
    """The mean of the shares of yes and of no that are told by a threshold half way between the means of both."""
    threshold = (along[shown].mean() + along[~shown].mean()) / 2
    right = (held_along > threshold) == held_shown
    return float(np.mean([right[held_shown == value].mean() for value in (False, True) if (held_shown == value).any()]))
