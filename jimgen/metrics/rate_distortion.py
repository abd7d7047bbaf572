"""Curves of rate and distortion, compared."""

from collections.abc import Sequence

import numpy as np
from scipy.interpolate import PchipInterpolator


def bd_rate(
    rates: Sequence[float], psnrs: Sequence[float], anchor_rates: Sequence[float], anchor_psnrs: Sequence[float]
) -> float:
    """Bjontegaard's mean difference of rates at equal PSNR, in percent: -10 for a tenth fewer bytes than the anchor.

    ln R is interpolated over PSNR by monotone cubic polynomials (pchip), and the difference averaged over the PSNRs
    that both curves reach.

    Args:
        rates, psnrs: at least 2 points of a curve; rates > 0 in any unit, PSNRs in dB that rise with the rates.
        anchor_rates, anchor_psnrs: likewise, of the curve to compare with, in the same unit.
    Raises:
        ValueError: for fewer points, rates that are not positive, PSNRs that do not rise, or no PSNR in common.
    References:
        Bjontegaard, Calculation of Average PSNR Differences between RD-curves, VCEG-M33, 2001; with pchip in place of
        one cubic polynomial, as in JVET-T0010.
    """
    curves = [_curve(rates, psnrs), _curve(anchor_rates, anchor_psnrs)]
    low, high = max(curve.x[0] for curve in curves), min(curve.x[-1] for curve in curves)
    if low >= high:
        raise ValueError("the curves reach no common PSNR")
    means = [float(curve.integrate(low, high)) / (high - low) for curve in curves]
    return 100 * float(np.expm1(means[0] - means[1]))


def _curve(rates: Sequence[float], psnrs: Sequence[float]) -> PchipInterpolator:
    rate, psnr = np.asarray(rates, float), np.asarray(psnrs, float)
    if rate.shape != psnr.shape or rate.ndim != 1 or len(rate) < 2 or not (rate > 0).all():
        raise ValueError(f"expected at least 2 rates > 0 and as many PSNRs, got {rate.tolist()}, {psnr.tolist()}")
    order = np.argsort(psnr)
    if not ((np.diff(psnr[order]) > 0).all() and (np.diff(rate[order]) > 0).all()):
        raise ValueError(f"PSNRs must rise with the rates, got {rate.tolist()}, {psnr.tolist()}")
    return PchipInterpolator(psnr[order], np.log(rate[order]))
