"""Quantisers: maps between vectors and tokens, with gradients for the encoder.

Three Flax modules share one interface: `num_codes` (K) and `dim` (d); called on z float [b, ..., d] they return a
`Quantised`; `lookup` maps tokens int32 [...] to codes [..., d]. They compute in float32 for every dtype of z, because
neighbouring codes may be equal in bfloat16.

The collection "codebook" holds the state of a codebook that is not trained by gradients. Only `VectorQuantiser.follow`
updates it, by the global batch in every mode.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer

from jimgen.nets.layers import along_last
from jimgen.objectives import codebook_loss, commitment_loss, entropy, lfq_entropy
from jimgen.parallel import device_axis, mean_over_devices, num_shards
from jimgen.precision import at_least_float32


class Quantised(NamedTuple):
    """The output of a quantiser for z [b, ..., d]. Losses are unweighted and summed over places and dimensions."""

    z_q: Array  # float [b, ..., d]: the codes, differentiable in z
    tokens: Array  # int32 [b, ...], in 0..K-1
    commitment: Array  # [b] ||z - sg(e)||^2: moves the encoder towards the codes
    codebook: Array  # [b] ||sg(z) - e||^2: moves the codes towards the encoder; zero unless gradients train the codes
    entropy: Array  # [b] nats, to be minimised; zero except for LFQ


# Gradients through a step function. sg(.) is stop_gradient, e is the code nearest to z.


def straight_through(z: Array, e: Array) -> Array:
    """e, with its gradient passed on to z unchanged: z and e [..., d] -> [..., d].

    References:
        van den Oord et al., Neural Discrete Representation Learning, arXiv:1711.00937, section 3.2.
    """
    return lax.stop_gradient(e) + (z - lax.stop_gradient(z))  # the difference is exactly zero, so the value is e


def rotation_trick(z: Array, e: Array) -> Array:
    """e = lambda R z with R and lambda = |e| / |z| held constant, so that z gets the gradient lambda R^T g.

    R rotates the direction of z to that of e: with unit vectors u, v along z, e and r along u + v, R = I - 2 r r^T +
    2 v u^T. It preserves the angle between gradient and vector, so the gradient depends on the position of z in its
    cell, which straight-through ignores.

    Args:
        z, e: float [..., d]. A z or e of zero gives a finite gradient.
    Returns: [..., d], equal to e.
    References:
        Fifty et al., Restructuring Vector Quantization with the Rotation Trick, arXiv:2410.06424, section 4.2.
    """
    e = lax.stop_gradient(e)
    fixed = lax.stop_gradient(z)
    u, v = unit(fixed), unit(e)
    r = unit(u + v)
    turned = norm(e) / norm(fixed) * (z - 2 * _inner(r, z) * r + 2 * _inner(u, z) * v)
    return straight_through(turned, e)  # equal up to rounding


def norm(x: Array) -> Array:
    """|x| over the last axis, [..., d] -> [..., 1]; at least 1e-6, so that it is a safe divisor and differentiable."""
    return jnp.sqrt(_inner(x, x) + 1e-12)


def unit(x: Array) -> Array:
    """x / |x| over the last axis, zero at zero."""
    return x / norm(x)


def _inner(x: Array, y: Array) -> Array:
    return jnp.sum(x * y, axis=-1, keepdims=True)


# Counts and codebooks.


def nearest_code(z: Array, codes: Array) -> Array:
    """argmin_k ||z - e_k||^2: z [..., d], codes [K, d] -> tokens int32 [...]; the first code wins ties."""
    # Differences first, because |e|^2 - 2 z.e cancels for vectors far from the origin. The sum over d compiles to one
    # pass over [..., K]. On CPU it is as fast as a matrix product at d = 8, and a third as fast at d = 32.
    z, codes = at_least_float32(z), at_least_float32(codes)
    squares = jnp.zeros((), z.dtype)
    for i in range(z.shape[-1]):
        squares += jnp.square(z[..., i, None] - along_last(codes[:, i], z))
    return jnp.argmin(squares, axis=-1).astype(jnp.int32)


def count_tokens(tokens: Array, num_codes: int) -> Array:
    """How often each code was chosen: int32 [...] -> float32 [K], summed over devices under pmap."""
    return _sum_over_devices(jnp.bincount(tokens.reshape(-1), length=num_codes).astype(jnp.float32))


def codebook_usage(counts: Array) -> Array:
    """The fraction of codes that were chosen: counts [K] -> [] in [0, 1]. Decayed counts of 1/2 or more are in use."""
    return jnp.mean(counts >= 0.5)


def perplexity(counts: Array) -> Array:
    """exp(-sum p_k log p_k), p = counts / sum: the number of equally frequent codes of that entropy, [K] -> [] in 1..K.

    Counts may have any scale; all zeros give 1.
    """
    total = counts.sum()
    return jnp.exp(entropy(counts / jnp.where(total > 0, total, 1)))


def ema_codebook(codes: Array, counts: Array, new_counts: Array, new_sums: Array, decay: float) -> tuple[Array, Array]:
    """N' = gamma N + (1 - gamma) n,  e' = M' / N' with M' = gamma N e + (1 - gamma) sum z: online k-means.

    The paper stores M as well, but M = N e always holds. Codes that were not chosen stay bit-identical. Counts are not
    smoothed, which would move rare codes towards zero.

    Args:
        codes, counts: e, float [K, d], and N >= 0, float [K]; a code of count 0 moves to the mean of its first vectors.
        new_counts, new_sums: n, float [K], and sum z, float [K, d], over the vectors that chose each code.
        decay: gamma in [0, 1).
    Returns: e' [K, d] and N' [K].
    References:
        van den Oord et al., Neural Discrete Representation Learning, arXiv:1711.00937, appendix A.1.
    """
    total = decay * counts + (1 - decay) * new_counts
    step = (1 - decay) * (new_sums - new_counts[:, None] * codes)
    return codes + step / jnp.maximum(total, 1e-30)[:, None], total


def restart_dead_codes(key: Array, codes: Array, counts: Array, z: Array, below: float) -> tuple[Array, Array]:
    """Replaces codes that are rarely chosen by random vectors of the batch.

    Args:
        key: a PRNG key; the same on all devices.
        codes, counts: float [K, d], and float [K], decayed counts per batch.
        z: float [n, d], the vectors of the global batch, drawn without replacement if n >= K.
        below: a code is dead if its count is less than this times n / K, the count of a uniformly used code.
    Returns: codes [K, d] and counts [K]; the count of restarted codes is n / K.
    References:
        Dhariwal et al., Jukebox, arXiv:2005.00341, appendix B.1 (random restart), here with a threshold in tokens.
    """
    num_codes, share = len(codes), len(z) / len(codes)
    rows = jax.random.choice(key, len(z), (num_codes,), replace=len(z) < num_codes)
    dead = counts < below * share
    return jnp.where(dead[:, None], z[rows], codes), jnp.where(dead, share, counts)


class VectorQuantiser(nn.Module):
    """VQ: the nearest of K codes (van den Oord et al., arXiv:1711.00937).

    With `ema`, codes are moving averages of the vectors that choose them (`follow`), and dead codes restart. Counts
    start at zero, so that the first batch moves all codes to its vectors. Without `ema`, codes are parameters, trained
    by `Quantised.codebook`. `normalise` maps vectors and codes to the unit sphere, so that cosine similarity chooses
    the code (ViT-VQGAN, Yu et al., arXiv:2110.04627, section 3.2); it works best with a small dim.

    Raises:
        ValueError: if z does not have `dim` channels.
    """

    num_codes: int = 256
    dim: int = 8
    ema: bool = True
    decay: float = 0.99
    restart_below: float = 0.1  # fraction of the count of a uniformly used code; 0 for no restarts
    normalise: bool = False
    gradient: Literal["straight_through", "rotation"] = "straight_through"

    def setup(self) -> None:
        shape = (self.num_codes, self.dim)
        if self.ema:
            draw = lambda: jax.random.normal(self.make_rng("params"), shape)  # noqa: E731
            self.codes = self.variable("codebook", "codes", draw)
            self.decayed_counts = self.variable("codebook", "counts", jnp.zeros, shape[:1])
        else:
            self.codes = self.param("codes", nn.initializers.normal(1.0), shape)

    def __call__(self, z: Array) -> Quantised:
        z, codes = self._direction(_float_vectors(z, self.dim)), self._codes()
        tokens = nearest_code(lax.stop_gradient(z), lax.stop_gradient(codes))
        # A product instead of a gather: its gradient sums in a fixed order, that of a gather (a scatter-add) may not.
        e = jnp.matmul(nn.one_hot(tokens, self.num_codes, dtype=z.dtype), codes, precision="highest")
        through = rotation_trick if self.gradient == "rotation" else straight_through
        commitment = commitment_loss(z, e)
        codebook = jnp.zeros_like(commitment) if self.ema else codebook_loss(z, e)
        return Quantised(through(z, e), tokens, commitment, codebook, jnp.zeros_like(commitment))

    def lookup(self, tokens: Array) -> Array:
        """Tokens int32 [...] -> codes [..., d]. Tokens out of range raise ValueError; under jit they give NaN."""
        return _nan_where_unknown(jnp.take(self._codes(), tokens, axis=0, mode="clip"), tokens, self.num_codes)

    def follow(self, z: Array, tokens: Array, key: Array | None = None) -> None:
        """Updates the collection "codebook": one step of the moving average over the global batch, and restarts.

        Args:
            z: float [b, ..., d], the input of the module; under pmap the device's part of the batch.
            tokens: int32 [b, ...], the chosen codes.
            key: for restarts; the same on all devices.
        Raises:
            ValueError: if ema is False, or the key for restarts is missing.
        """
        if not isinstance(self.codes, nn.Variable):
            raise ValueError("with ema=False gradients train the codes, and follow() must not be called")
        if self.restart_below and key is None:
            raise ValueError("dead codes restart at random vectors: pass a key, or restart_below=0")
        z = self._direction(lax.stop_gradient(_float_vectors(z, self.dim))).reshape(-1, self.dim)
        chosen = nn.one_hot(tokens.reshape(-1), self.num_codes, dtype=z.dtype)
        sums = _sum_over_devices(jnp.matmul(chosen.T, z, precision="highest"))
        counts = count_tokens(tokens, self.num_codes)
        codes, total = ema_codebook(self._codes(), self.decayed_counts.value, counts, sums, self.decay)
        if self.restart_below and key is not None:
            codes, total = restart_dead_codes(key, codes, total, _gather_devices(z), self.restart_below)
        self.codes.value, self.decayed_counts.value = codes, total

    def _direction(self, z: Array) -> Array:
        return unit(z) if self.normalise else z

    def _codes(self) -> Array:
        return self._direction(self.codes.value if isinstance(self.codes, nn.Variable) else self.codes)


class FiniteScalarQuantiser(nn.Module):
    """FSQ: each of d numbers is bounded and rounded to one of L_i levels; K = prod L_i. No parameters, no losses.

    z_q = round(tanh(z + tan(o / h)) h - o) / floor(L / 2) in [-1, 1], h = (L - 1) (1 - 1e-3) / 2, o = 1/2 for even L
    and 0 for odd; rounding has a straight-through gradient. Token = sum_i (level number)_i prod_{j < i} L_j.

    Mentzer et al., Finite Scalar Quantization, arXiv:2309.15505, section 3.1; h and the shift tan(o / h) as in the
    authors' code: with two levels the gradient at z = 0 is .0808. K near 2^8: (8, 6, 5); 2^10: (8, 5, 5, 5); 2^12:
    (7, 5, 5, 5, 5) (table 1).

    Raises:
        ValueError: if there are fewer than 2 levels in a dimension, or z does not have `dim` channels.
    """

    levels: Sequence[int] = (8, 6, 5)

    @property
    def num_codes(self) -> int:
        return int(np.prod(self.levels))

    @property
    def dim(self) -> int:
        return len(self.levels)

    def __call__(self, z: Array) -> Quantised:
        if not self.levels or min(self.levels) < 2:
            raise ValueError(f"FSQ needs at least 2 levels in each dimension, got {tuple(self.levels)}")
        z = _float_vectors(z, self.dim)
        levels = np.asarray(self.levels)
        half, offset = (levels - 1) * (1 - 1e-3) / 2, np.where(levels % 2, 0.0, 0.5)
        turned = jnp.tanh(z + _along_last(np.tan(offset / half), z))
        bounded = turned * _along_last(half, z) - _along_last(offset, z)
        rounded = straight_through(bounded, jnp.round(bounded))
        digits = lax.stop_gradient(rounded + _along_last(levels // 2, z)).astype(jnp.int32)
        tokens, zeros = _to_tokens(digits, self.levels), jnp.zeros(z.shape[0], z.dtype)
        z_q = rounded / _along_last(levels // 2, z)
        return Quantised(z_q, tokens, zeros, zeros, zeros)

    def lookup(self, tokens: Array) -> Array:
        """Tokens int32 [...] -> codes [..., d]. Tokens out of range raise ValueError; under jit they give NaN."""
        digits = _to_digits(tokens, self.levels).astype(jnp.float32)
        middle = _along_last(np.asarray(self.levels) // 2, digits)
        return _nan_where_unknown((digits - middle) / middle, tokens, self.num_codes)


class LookupFreeQuantiser(nn.Module):
    """LFQ: the signs of d numbers are the bits of the token, lowest first; K = 2^d. No parameters.

    z_q = 1 where z > 0, else -1. `Quantised.entropy` is `lfq_entropy`, which keeps codes in use. The caller sets its
    weight in the loss. Yu et al., arXiv:2310.05737, section 3.1.

    Raises:
        ValueError: if z does not have `dim` channels.
    """

    dim: int = 8
    temperature: float = 1.0
    diversity: float = 1.0

    @property
    def num_codes(self) -> int:
        return 2**self.dim

    def __call__(self, z: Array) -> Quantised:
        z = _float_vectors(z, self.dim)
        e = jnp.where(z > 0, 1, -1).astype(z.dtype)
        tokens = _to_tokens((z > 0).astype(jnp.int32), (2,) * self.dim)
        commitment = commitment_loss(z, e)
        entropy = lfq_entropy(z, self.temperature, self.diversity)
        return Quantised(straight_through(z, e), tokens, commitment, jnp.zeros_like(commitment), entropy)

    def lookup(self, tokens: Array) -> Array:
        """Tokens int32 [...] -> codes [..., d]. Tokens out of range raise ValueError; under jit they give NaN."""
        bits = _to_digits(tokens, (2,) * self.dim).astype(jnp.float32)
        return _nan_where_unknown(2 * bits - 1, tokens, self.num_codes)


def _to_tokens(digits: Array, bases: Sequence[int]) -> Array:
    """Digits in mixed bases, lowest first, to numbers: int32 [..., d] -> int32 [...]."""
    return digits @ jnp.asarray(np.cumprod([1, *bases[:-1]]), jnp.int32)


def _to_digits(tokens: Array, bases: Sequence[int]) -> Array:
    """The inverse of `_to_tokens`: int [...] -> int [..., d]."""
    return jnp.stack(jnp.unravel_index(tokens, tuple(reversed(bases)))[::-1], axis=-1)


def _along_last(values: np.ndarray, like: Array) -> Array:
    """Constants [d] in the dtype of `like` [..., d], shaped to broadcast with it."""
    return along_last(jnp.asarray(values, like.dtype), like)


def _float_vectors(z: Array, dim: int) -> Array:
    if z.shape[-1] != dim:
        raise ValueError(f"expected vectors [..., {dim}], got {list(z.shape)}: set the encoder's dim to {dim}")
    return at_least_float32(z)


def _nan_where_unknown(codes: Array, tokens: Array, num_codes: int) -> Array:
    """Replaces codes of unknown tokens by NaN, because gathers clip silently. Outside jit it raises ValueError."""
    known = (tokens >= 0) & (tokens < num_codes)
    if not isinstance(tokens, Tracer) and tokens.size:
        values = np.asarray(tokens)  # under jit, JAX would trace what it computes of a constant
        least, most = int(values.min()), int(values.max())
        if least < 0 or most >= num_codes:
            raise ValueError(f"tokens are 0 to {num_codes - 1} here, got {least} to {most}")
    return jnp.where(known[..., None], codes, jnp.nan)


def _sum_over_devices(x: Array) -> Array:
    return mean_over_devices(x) * num_shards()


def _gather_devices(x: Array) -> Array:
    """Concatenates [n, ...] of all devices in the order of the global batch."""
    axis = device_axis()
    return lax.all_gather(x, axis, tiled=True) if axis else x
