"""The prior of latents in integers: which table codes each latent, the same on every machine.

`nets.codec.Prior` with weights in fixed point. All numbers are integers below 2^53. They are held in float64, in which
their products and sums are exact in any order, so that a fast library may add them up.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jimgen.apps.codec.errors import UnusableModel
from jimgen.methods.codec import CLASS_STEP, CLASSES, FRACTIONS, LOWEST
from jimgen.nets.codec import PHASES, is_known

LARGEST_LATENT = 2**15 - 1
_WEIGHT_BITS = 12  # of the fraction of weights
_UNIT_BITS = 10  # of the fraction of hidden units
_LARGEST_WEIGHT = 2**20 - 1  # in fixed point: 256
_LARGEST_UNIT = 2**22 - 1  # 4096
_LARGEST_KNOWN = 2**11 - 1  # of latents as the prior sees them
_MOST_UNITS = 2**10  # 2^10 products of at most 2^42 stay below 2^53


class IntegerPrior(NamedTuple):
    """Weights in fixed point: integers in float64, an entry of the first axis for each phase."""

    window: np.ndarray  # [4, 3, 3, n, hidden]
    rate: np.ndarray  # [4, rates, hidden]
    middle: np.ndarray  # [4, hidden, hidden]
    middle_bias: np.ndarray  # [4, hidden]
    output: np.ndarray  # [4, hidden, 2 c]
    output_bias: np.ndarray  # [4, 2 c]


def integer_prior(params: Mapping[str, Any]) -> IntegerPrior:
    """The parameters of a `nets.codec.Prior`, rounded.

    Raises:
        UnusableModel: they are not finite, too large, or too many.
    """
    found = {}
    for name in IntegerPrior._fields:
        weights = np.asarray(params[name], np.float64)
        if not np.isfinite(weights).all():
            raise UnusableModel("the run's prior has weights that are not finite: use an earlier checkpoint")
        bits = _WEIGHT_BITS + (_UNIT_BITS if name.endswith("bias") else 0)
        found[name] = np.rint(weights * 2.0**bits)
        if np.abs(found[name]).max(initial=0) > _LARGEST_WEIGHT << (bits - _WEIGHT_BITS):
            raise UnusableModel("the run's prior has weights above 255: train it with a lower learning rate")
    prior = IntegerPrior(**found)
    if max(prior.middle.shape[1], 9 * prior.window.shape[3]) > _MOST_UNITS * 8 or prior.middle.shape[1] > _MOST_UNITS:
        raise UnusableModel(f"the run's prior has more than {_MOST_UNITS} hidden units")
    return prior


def phase(prior: IntegerPrior, k: int, values: np.ndarray, above: np.ndarray, rate: int) -> tuple[np.ndarray, ...]:
    """Tables and means of the latents of phase k.

    Args:
        prior: the weights.
        k: the phase.
        values: int [b, h, w, c] with even sides; only those of phases before k are used.
        above: int [b, h, w, a], the grid above.
        rate: the rate of all pictures.
    Returns: two int64 [b, h/2, w/2, c]: a table in [0, NUM_TABLES), and the mean of the latent, rounded.
    """
    i, j = PHASES[k]
    known = np.concatenate([values * is_known(k, values.shape[1:3]), above], -1).astype(np.float64)
    known = np.pad(np.clip(known, -_LARGEST_KNOWN, _LARGEST_KNOWN), ((0, 0), (1 - i, i), (1 - j, j), (0, 0)))
    height, width = values.shape[1] // 2, values.shape[2] // 2
    x = np.zeros((len(values), height, width, prior.window.shape[-1])) + prior.rate[k, rate]
    for row, column in np.ndindex(3, 3):
        taps = known[:, row : row + 2 * height - 1 : 2, column : column + 2 * width - 1 : 2]
        x += taps @ prior.window[k, row, column]
    x = _unit(x, _WEIGHT_BITS - _UNIT_BITS)
    x = _unit(x @ prior.middle[k] + prior.middle_bias[k], _WEIGHT_BITS)
    x = (x @ prior.output[k] + prior.output_bias[k]).astype(np.int64)
    mean, raw = np.split(x, 2, axis=-1)
    bits = _WEIGHT_BITS + _UNIT_BITS
    steps = np.clip(_shifted(mean * FRACTIONS, bits), -FRACTIONS * LARGEST_LATENT, FRACTIONS * LARGEST_LATENT)
    whole = (steps + FRACTIONS // 2) // FRACTIONS
    scale = np.clip(_shifted(raw * round(1 / CLASS_STEP), bits) - round(LOWEST / CLASS_STEP), 0, CLASSES - 1)
    return FRACTIONS * scale + steps + FRACTIONS // 2 - FRACTIONS * whole, whole


def _unit(x: np.ndarray, bits: int) -> np.ndarray:
    """ReLU of sums with `bits` too many, as hidden units."""
    return np.floor(np.clip(x, 0, _LARGEST_UNIT * 2.0**bits) * 2.0**-bits)


def _shifted(x: np.ndarray, bits: int) -> np.ndarray:
    """x / 2^bits, rounded."""
    return (x + (1 << (bits - 1))) >> bits
