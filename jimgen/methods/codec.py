"""A lossy codec: rate + distortion / (2 sigma^2), one model for several rates, and a prior that files are coded by.

Balle, Minnen et al., Variational Image Compression with a Scale Hyperprior, arXiv:1802.01436; rounded latents for the
distortion, noisy ones for the rate: Minnen and Singh, Channel-wise Autoregressive Entropy Models, arXiv:2007.08739;
gains for several rates: Cui et al., Asymmetric Gained Deep Image Compression, arXiv:2003.02012.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from jimgen import noise
from jimgen.methods.method import Method
from jimgen.metrics.image_quality import psnr
from jimgen.nets.codec import NUM_STEPS, PATCH, PHASES, Channels, Latents, Prior, of_step
from jimgen.nets.vq import count_tokens
from jimgen.objectives import negative_elbo, quantised_logistic_nll, soft_lower_bound, squared_error
from jimgen.parallel import num_shards
from jimgen.train_step import Aux, Batch, Phase, Variables

PRIORS = ("prior_coarse", "prior_fine")  # in the order of `Latents`
NETS = ("analysis", "synthesis", *PRIORS)

# The tables of the entropy coder. A latent whose logistic has mean m and raw log scale r is coded as v - round(m), by
# the table of the fraction of m and of r, both rounded.
FRACTIONS = 8  # of a unit: steps of means
CLASSES = 32  # of scales
LOWEST, CLASS_STEP = -4.0, 0.2  # raw log scale of class 0, and from one class to the next
LARGEST = 31  # entries are the symbols -31 to 31, and an escape for all others
NUM_TABLES, NUM_SYMBOLS = FRACTIONS * CLASSES, 2 * LARGEST + 2
LARGEST_LATENT = 2**15 - 1  # of those that files hold
MOST_UNITS, MOST_CHANNELS = 512, 320  # of a prior, so that its integers stay below 2^53: apps/codec/integer_prior.py
_SMALLEST_LOG_SCALE = math.log(0.05)
_BEST_PSNR = 60.0  # stands for the infinite one of equal images in means


class Codec(NamedTuple):
    """Functions between images and integer latents, trained by `method`. Rates are 0 to num_rates - 1, int32 [n].

    The variables of the codec's "tables" are float32 [NUM_TABLES, NUM_SYMBOLS]: "counts" of the symbols in training,
    and "logistic", their probabilities under the logistics of the prior, for symbols that training has hardly seen.
    """

    method: Method
    encode: Callable[[Variables, Array, Array], Latents]  # (variables, images [n, h, w, c], rate) -> int32
    decode: Callable[[Variables, Latents, Array], Array]  # (variables, latents, rate) -> images in [-1, 1]
    num_rates: int
    channels: Channels


class _Nets(NamedTuple):
    """The nets as functions of the variables."""

    analysis: nn.Module
    synthesis: nn.Module
    prior_coarse: Prior
    prior_fine: Prior

    def init(self, key: Array, batch: Batch) -> Variables:
        keys = jax.random.split(key, 4)
        rate = jnp.zeros(batch["image"].shape[:1], jnp.int32)
        latents, analysis = self.analysis.init_with_output(keys[0], batch["image"], rate)
        return {
            "analysis": analysis,
            "synthesis": self.synthesis.init(keys[1], latents, rate),
            "prior_coarse": self.prior_coarse.init(keys[2], latents.coarse, None, rate),
            "prior_fine": self.prior_fine.init(keys[3], latents.fine, latents.coarse, rate),
            "tables": {"counts": jnp.zeros((NUM_TABLES, NUM_SYMBOLS)), "logistic": jnp.asarray(logistic_tables())},
        }

    def analyse(self, variables: Variables, images: Array, rate: Array) -> Latents:
        return self.analysis.apply(variables["analysis"], images, rate)  # pyright: ignore[reportReturnType]

    def encode(self, variables: Variables, images: Array, rate: Array) -> Latents:
        return jax.tree.map(lambda x: jnp.round(x).astype(jnp.int32), self.analyse(variables, images, rate))

    def synthesise(self, variables: Variables, latents: Latents, rate: Array) -> Array:
        return self.synthesis.apply(variables["synthesis"], latents, rate)  # pyright: ignore[reportReturnType]

    def decode(self, variables: Variables, latents: Latents, rate: Array) -> Array:
        floats = jax.tree.map(lambda x: x.astype(jnp.float32), latents)
        return jnp.clip(self.synthesise(variables, floats, rate), -1.0, 1.0)

    def logistics(self, variables: Variables, latents: Latents, rate: Array) -> list[tuple[Array, Array]]:
        """Mean and raw log scale of each grid's latents, given those that are coded before."""
        nets = self.prior_coarse, self.prior_fine
        parts = zip(PRIORS, nets, latents, (None, latents.coarse), strict=True)
        return [net.apply(variables[name], values, above, rate) for name, net, values, above in parts]  # pyright: ignore[reportReturnType]

    def nats(self, variables: Variables, latents: Latents, rate: Array) -> Array:
        """-log p(latents), [b]."""
        parts = zip(latents, self.logistics(variables, latents, rate), strict=True)
        bound = partial(soft_lower_bound, bound=_SMALLEST_LOG_SCALE)
        return sum(quantised_logistic_nll(x, mean, bound(raw)) for x, (mean, raw) in parts)  # pyright: ignore[reportReturnType]


def codec(
    analysis: nn.Module,
    synthesis: nn.Module,
    prior_coarse: Prior,
    prior_fine: Prior,
    *,
    image_shape: tuple[int, int, int],
    sigmas: Sequence[float],
    tx: optax.GradientTransformation,
    table_half_life: float = 20_000,
) -> Codec:
    """-log p(latents) + ||x - D(latents)||^2 / (2 sigma^2) in one phase, with sigma another one for each rate.

    Each example of a batch has its own rate, in turn. Latents are analysed, then rounded. The rate is that of latents
    with uniform noise in [-1/2, 1/2], whose density has gradients. The synthesis gets rounded ones, whose gradient
    passes straight through the rounding.

    `sample` draws latents from the prior at the highest rate: this shows the prior, which is not made to draw images.
    `evaluate` computes for each rate r the bytes under the prior of whole images, and the PSNR of decoded 8-bit images
    (at most 60 dB each).

    Args:
        analysis: net (images [b, h, w, c] in [-1, 1], rate [b]) -> Latents.
        synthesis: net (Latents, rate) -> images [b, h, w, c].
        prior_coarse, prior_fine: their logistics.
        image_shape: (h, w, c) of samples.
        sigmas: for each rate, the standard deviation of images in [-1, 1] that the loss assumes, > 0 and falling.
        tx: the optimiser.
        table_half_life: half-life of the counts of symbols, in images.
    Raises:
        ValueError: if sigmas are not positive and falling, or a prior is too large for its integers.
    """
    require_sigmas(sigmas)
    for prior in (prior_coarse, prior_fine):
        if prior.hidden > MOST_UNITS or prior.channels > MOST_CHANNELS:
            has = f"{prior.hidden} units and {prior.channels} channels"
            raise ValueError(f"a prior of {has}: at most {MOST_UNITS} and {MOST_CHANNELS}")
    nets, num_rates = _Nets(analysis, synthesis, prior_coarse, prior_fine), len(sigmas)

    def objective(variables: Variables, batch: Batch, key: Array) -> tuple[Array, Aux]:
        rate = (batch["index"] + batch["step"]) % num_rates
        exact = nets.analyse(variables, batch["image"], rate)
        noisy = Latents(*(_with_noise(jax.random.fold_in(key, i), batch["index"], x) for i, x in enumerate(exact)))
        rounded = jax.tree.map(_straight_through_round, exact)
        nats = nets.nats(variables, noisy, rate)
        error = squared_error(batch["image"], nets.synthesise(variables, rounded, rate))
        loss = negative_elbo(error / (2 * jnp.square(jnp.asarray(sigmas)[rate])), nats)
        metrics = {"rate_nats": nats.mean(), "squared_error": error.mean()}
        return loss.mean(), Aux(metrics, observed={"latents": rounded, "rate": rate})

    def follow(variables: Variables, observed: dict, key: Array) -> Aux:
        """Counts symbols by table."""
        latents, rate = observed["latents"], observed["rate"]
        found = [
            table_and_symbol(x, *logistic)
            for x, logistic in zip(latents, nets.logistics(variables, latents, rate), strict=True)
        ]
        entries = jnp.concatenate([(table * NUM_SYMBOLS + symbol).reshape(-1) for table, symbol in found])
        counts = count_tokens(entries, NUM_TABLES * NUM_SYMBOLS).reshape(NUM_TABLES, NUM_SYMBOLS)
        decay = 0.5 ** (len(rate) * num_shards() / table_half_life)
        tables = variables["tables"]
        return Aux({}, {"tables": {**tables, "counts": decay * tables["counts"] + counts}})

    def evaluate(variables: Variables, batch: Batch, key: Array) -> dict[str, Array]:
        metrics = {}
        for r in range(num_rates):
            rate = jnp.full(batch["index"].shape, r)
            latents = jax.tree.map(jnp.round, nets.analyse(variables, batch["image"], rate))
            images = jnp.clip(nets.synthesise(variables, latents, rate), -1.0, 1.0)
            eight_bit = jnp.round((images + 1) * 127.5) / 127.5 - 1
            metrics[f"bytes_rate{r}"] = nets.nats(variables, latents, rate) / math.log(256)
            metrics[f"psnr_rate{r}"] = jnp.minimum(psnr(eight_bit, batch["image"], data_range=2.0), _BEST_PSNR)
        return metrics

    def reconstruct(variables: Variables, images: Array, labels: Array) -> Array:
        rate = jnp.full(images.shape[:1], num_rates // 2)
        return nets.decode(variables, nets.encode(variables, images, rate), rate)

    method = Method(
        init=nets.init,
        phases=(Phase("codec", NETS, objective, tx, follow),),
        ema=NETS,
        sample=_sampler(nets, image_shape, num_rates - 1),
        reconstruct=reconstruct,
        evaluate=evaluate,
    )
    return Codec(method, nets.encode, nets.decode, num_rates, Channels(prior_coarse.channels, prior_fine.channels))


def require_sigmas(sigmas: Sequence[float]) -> None:
    """Raises ValueError if they are not positive and falling, or none."""
    falling = all(a > b for a, b in zip(sigmas[:-1], sigmas[1:], strict=True))
    if not sigmas or not falling or not all(0 < sigma < math.inf for sigma in sigmas):
        raise ValueError(f"--sigmas {' '.join(map(str, sigmas))}: must be positive, each less than the one before")


def logistic_tables() -> np.ndarray:
    """Probabilities of the symbols of each table under its logistic, float32 [NUM_TABLES, NUM_SYMBOLS].

    Row FRACTIONS * c + f belongs to scales of class c and means of fraction f / FRACTIONS - 1/2.
    """
    scale = np.exp(np.logaddexp(LOWEST + CLASS_STEP * np.arange(CLASSES), _SMALLEST_LOG_SCALE))  # soft_lower_bound
    mean = np.arange(FRACTIONS) / FRACTIONS - 0.5
    edges = np.arange(-LARGEST, LARGEST + 2) - 0.5
    arguments = (edges - mean[None, :, None]) / scale[:, None, None]
    below = 1 / (1 + np.exp(np.clip(-arguments, -80, 80)))  # [classes, fractions, edges]
    p = np.diff(below, axis=-1)
    escape = np.maximum(1 - p.sum(-1, keepdims=True), 0)
    return np.concatenate([p, escape], -1).reshape(NUM_TABLES, NUM_SYMBOLS).astype(np.float32)


def table_and_symbol(values: Array, mean: Array, raw: Array) -> tuple[Array, Array]:
    """Which table codes each rounded value, and the entry of the value in it, int32 each."""
    steps = jnp.round(FRACTIONS * mean).astype(jnp.int32)
    whole = (steps + FRACTIONS // 2) // FRACTIONS
    scale = jnp.clip(jnp.round((raw - LOWEST) / CLASS_STEP), 0, CLASSES - 1).astype(jnp.int32)
    table = FRACTIONS * scale + steps + FRACTIONS // 2 - FRACTIONS * whole
    symbol = jnp.round(values).astype(jnp.int32) - whole
    return table, jnp.where(jnp.abs(symbol) <= LARGEST, symbol + LARGEST, NUM_SYMBOLS - 1)


def _straight_through_round(x: Array) -> Array:
    return x + lax.stop_gradient(jnp.round(x) - x)


def _with_noise(key: Array, index: Array, x: Array) -> Array:
    return x + noise.uniform(key, index, x.shape[1:]) - 0.5


def _sampler(nets: _Nets, image_shape: tuple[int, int, int], rate: int) -> Callable[[Variables, Array, Array], Array]:
    """Draws latents from the prior, grid by grid and step by step, and decodes them."""
    height, width = image_shape[0] // PATCH, image_shape[1] // PATCH
    half = -(-height // 2), -(-width // 2)

    def draw(variables: Any, net: Prior, above: Array | None, size: tuple[int, int], rates: Array, key: Array) -> Array:
        seen = net.apply(variables, above, method="seen")
        values = jnp.zeros((len(rates), size[0] + size[0] % 2, size[1] + size[1] % 2, net.channels))
        for k in range(NUM_STEPS):
            (i, j), channels = PHASES[k // 2], of_step(k, net.channels)
            found: Any = net.apply(variables, values, seen, rates, method="steps")
            mean, raw = jnp.split(found[k], 2, axis=-1)
            uniform = noise.uniform(jax.random.fold_in(key, k), jnp.arange(len(rates)), mean.shape[1:])
            raw = jnp.minimum(raw, LOWEST + CLASS_STEP * (CLASSES - 1))  # as tables have it; else draws may explode
            scale = jnp.exp(soft_lower_bound(raw, _SMALLEST_LOG_SCALE))
            drawn = mean + scale * jax.scipy.special.logit(jnp.clip(uniform, 1e-6, 1 - 1e-6))
            drawn = jnp.clip(jnp.round(drawn), -LARGEST_LATENT, LARGEST_LATENT)
            values = values.at[:, i::2, j::2, channels].set(drawn)
            values = values.at[:, size[0] :].set(0).at[:, :, size[1] :].set(0)  # no latents, only padding
        return values[:, : size[0], : size[1]]

    def sample(variables: Variables, key: Array, labels: Array) -> Array:
        rates, keys = jnp.full(labels.shape[:1], rate), jax.random.split(key)
        coarse = draw(variables["prior_coarse"], nets.prior_coarse, None, half, rates, keys[0])
        fine = draw(variables["prior_fine"], nets.prior_fine, coarse, (height, width), rates, keys[1])
        return nets.decode(variables, Latents(coarse, fine), rates)

    return sample
