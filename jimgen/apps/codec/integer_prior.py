"""The prior of latents in integers: which table codes each latent, the same on every machine.

`nets.codec.Prior` with weights in fixed point. All numbers are integers below 2^53. They are held in float64, in which
their products and sums are exact in any order, so that a fast library may add them up.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jimgen.apps.codec.errors import UnusableModel
from jimgen.methods.codec import (
    CLASS_STEP,
    CLASSES,
    FRACTIONS,
    LARGEST_LATENT,
    LOWEST,
    MOST_CHANNELS,
    MOST_UNITS,
)
from jimgen.nets.codec import PHASES, is_known

_WEIGHT_BITS = 12  # of the fraction of weights
_UNIT_BITS = 10  # of the fraction of hidden units
# Sums stay below 2^53: 25 channels 2^11 2^18 2^10 for a window, 9 units 2^22 2^18 for the rest.
_LARGEST_WEIGHT = 2**18 - 1  # in fixed point: 64
_LARGEST_UNIT = 2**22 - 1  # 4096
_LARGEST_KNOWN = 2**11 - 1  # of latents as the prior sees them


class IntegerPrior(NamedTuple):
    """Weights in fixed point: integers in float64. Those of the grid above are None where there is none."""

    window: np.ndarray  # [steps, 5, 5, c, hidden], 0 where a step does not know
    rate: np.ndarray  # [steps, rates, hidden]
    middle: np.ndarray  # [steps, hidden, hidden]
    middle_bias: np.ndarray  # [steps, hidden]
    output: np.ndarray  # [steps, hidden, c]
    output_bias: np.ndarray  # [steps, c]
    above0: np.ndarray | None = None  # [3, 3, above, hidden]
    above0_bias: np.ndarray | None = None  # [hidden]
    above1: np.ndarray | None = None  # [3, 3, hidden, hidden]
    above1_bias: np.ndarray | None = None  # [hidden]
    across: np.ndarray | None = None  # [steps, hidden, hidden]


_AFTER_UNITS = ("middle_bias", "output_bias", "above1_bias")  # added to sums of weights times units


def integer_prior(params: Mapping[str, Any]) -> IntegerPrior:
    """The parameters of a `nets.codec.Prior`, rounded.

    Raises:
        UnusableModel: they are not finite, too large, or too many.
    """
    found = {}
    for name, weights in params.items():
        weights = np.asarray(weights, np.float64)
        if not np.isfinite(weights).all():
            raise UnusableModel("the run's prior has weights that are not finite: use an earlier checkpoint")
        more = _UNIT_BITS if name in _AFTER_UNITS else 0
        found[name] = np.rint(weights * 2.0 ** (_WEIGHT_BITS + more))
        if np.abs(found[name]).max(initial=0) > _LARGEST_WEIGHT << more:
            raise UnusableModel("the run's prior has weights of 64 or more: train it with a lower learning rate")
    prior = IntegerPrior(**found)
    channels, hidden = prior.window.shape[-2:]
    if hidden > MOST_UNITS or channels > MOST_CHANNELS:
        raise UnusableModel(f"the run's prior has more than {MOST_UNITS} units or {MOST_CHANNELS} channels")
    masks = np.stack([is_known(k, channels) for k in range(len(prior.window))])
    return prior._replace(window=prior.window * masks)


def seen(prior: IntegerPrior, above: np.ndarray | None) -> np.ndarray | None:
    """What all steps see of the grid above, int [b, h, w, above] or None: hidden units [b, h, w, hidden]."""
    if above is None:
        return None
    assert prior.above0 is not None and prior.above1 is not None
    x = _convolved(_clipped(above), prior.above0) + prior.above0_bias
    x = _units(x, _WEIGHT_BITS - _UNIT_BITS)
    return _units(_convolved(x, prior.above1) + prior.above1_bias, _WEIGHT_BITS)


def tables_and_means(
    prior: IntegerPrior, k: int, values: np.ndarray, seen: np.ndarray | None, rate: int
) -> tuple[np.ndarray, np.ndarray]:
    """By which tables the latents of step k are coded, and around which means.

    Args:
        prior: the weights.
        k: the step.
        values: int [b, h, w, c] with even sides; only those of steps before k matter.
        seen: of `seen`, [b, h / 2, w / 2, hidden]; None where there is no grid above.
        rate: the rate of all pictures.
    Returns: two int64 [b, h / 2, w / 2, c / 2]: a table in [0, NUM_TABLES), and the mean, rounded.
    """
    i, j = PHASES[k // 2]
    padded = np.pad(_clipped(values), ((0, 0), (2 - i, i + 1), (2 - j, j + 1), (0, 0)))
    x = (_convolved(padded, prior.window[k], stride=2, padding=0) + prior.rate[k, rate]) * 2.0**_UNIT_BITS
    if seen is not None:
        assert prior.across is not None
        x += seen @ prior.across[k]
    x = _units(x, _WEIGHT_BITS)
    x = _units(x @ prior.middle[k] + prior.middle_bias[k], _WEIGHT_BITS)
    mean, raw = np.split((x @ prior.output[k] + prior.output_bias[k]).astype(np.int64), 2, axis=-1)
    steps = np.clip(_rounded(mean * FRACTIONS), -FRACTIONS * LARGEST_LATENT, FRACTIONS * LARGEST_LATENT)
    whole = (steps + FRACTIONS // 2) // FRACTIONS
    scale = np.clip(_rounded(raw * round(1 / CLASS_STEP)) - round(LOWEST / CLASS_STEP), 0, CLASSES - 1)
    return FRACTIONS * scale + steps + FRACTIONS // 2 - FRACTIONS * whole, whole


def _clipped(latents: np.ndarray) -> np.ndarray:
    return np.clip(latents, -_LARGEST_KNOWN, _LARGEST_KNOWN).astype(np.float64)


def _convolved(x: np.ndarray, kernel: np.ndarray, stride: int = 1, padding: int = 1) -> np.ndarray:
    """Cross-correlation of [b, h, w, c] with [n, n, c, o]."""
    x, size = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0))), len(kernel)
    height, width = ((side - size) // stride + 1 for side in x.shape[1:3])
    found = np.zeros((len(x), height, width, kernel.shape[-1]))
    for i, j in np.ndindex(size, size):
        rows, columns = (slice(at, at + stride * (n - 1) + 1, stride) for at, n in ((i, height), (j, width)))
        if kernel[i, j].any():
            found += x[:, rows, columns] @ kernel[i, j]
    return found


def _units(x: np.ndarray, bits: int) -> np.ndarray:
    """ReLU of sums that have `bits` too many for hidden units."""
    return np.floor(np.clip(x, 0, _LARGEST_UNIT * 2.0**bits) * 2.0**-bits)


def _rounded(x: np.ndarray) -> np.ndarray:
    """Sums of weights times units as whole numbers."""
    bits = _WEIGHT_BITS + _UNIT_BITS
    return (x + (1 << (bits - 1))) >> bits
