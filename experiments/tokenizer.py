"""Tokenizer: images become a grid of tokens and come back, for methods that model tokens.

VQ-VAE (van den Oord et al., arXiv:1711.00937) with VQ, FSQ (Mentzer et al., arXiv:2309.15505) or LFQ (Yu et al.,
arXiv:2310.05737); --adversarial-weight adds the discriminator of VQGAN (Esser et al., arXiv:2012.09841).

    python experiments/tokenizer.py --data digits --codes 64 --width 16 --steps 1500
    python experiments/tokenizer.py --data fashion_mnist --size 32 --fit pad --steps 4000 --ema-half-life 100000
    python experiments/tokenizer.py --data fashion_mnist --quantiser fsq --levels 8 6 5 --steps 4000

On an accelerator, 64 pixels, colour, 16x16 tokens of 1024 codes:

    python experiments/tokenizer.py --data folder:pictures/ --size 64 --channels 3 --codes 1024 --width 128 --depth 4 \
        --dtype bfloat16 --batch-size 256 --steps 50000 --learning-rate 3e-4 --ema-half-life 500000 \
        --adversarial-weight 0.8 --adversarial-start 20000 --workdir runs/tokenizer-64

Results, seed 0, each on one core that also had other work (AMD EPYC, 2026-11-23). First command, 4 tokens of 64 codes
for 8x8 digits: test l1 error 9.92 (18.6 dB), 5.94 bits per token under the codes' frequencies, all codes in use, after
65 s. Second command, 64 tokens of 256 codes: 25.07 dB, 7.56 bits per token, all codes in use, perplexity 188, after
539 s. The other commands have not run yet.
"""

from jimgen.experiment import (  # first, so that Ctrl-C works while JAX loads
    COUNT,
    DRAWING,
    ScheduledConfig,
    main,
)

# isort: split
from dataclasses import dataclass, field
from typing import Literal

import optax

from jimgen import objectives
from jimgen.data.dataset import DataSpec
from jimgen.methods.tokenizer import CROSS_ENTROPY, L1, L2, Adversary, Tokenizer, tokenizer
from jimgen.nets.dcgan import Discriminator
from jimgen.nets.layers import num_halvings
from jimgen.nets.tokenizer import Decoder, Encoder
from jimgen.nets.vq import FiniteScalarQuantiser, LookupFreeQuantiser, VectorQuantiser

RECONSTRUCTIONS = {"l1": L1, "l2": L2, "cross_entropy": CROSS_ENTROPY}


@dataclass(frozen=True, kw_only=True)
class Config(ScheduledConfig):
    quantiser: Literal["vq", "fsq", "lfq"] = "vq"
    """kind of codes: vq learns them and takes the nearest; fsq rounds numbers; lfq takes signs"""
    codes: int = field(default=256, metadata=COUNT)
    """size of the codebook (vq)"""
    latent_dim: int = field(default=8, metadata=COUNT)
    """numbers in a code (vq), or bits in a token (lfq)"""
    levels: tuple[int, ...] = (8, 6, 5)
    """levels of each number in a code (fsq)"""
    codebook: Literal["ema", "gradient"] = "ema"
    """training of the codes (vq): a moving average that restarts dead codes, or the optimiser"""
    normalise: bool = False
    """scale vectors and codes to length one (vq)"""
    gradient: Literal["straight_through", "rotation"] = "straight_through"
    """gradient estimator for the choice of a code (vq)"""
    commitment_weight: float = 0.25
    """weight of the commitment loss ||z - e||^2 (vq and lfq)"""
    entropy_weight: float = 0.1
    """weight of the entropy loss (lfq)"""
    reconstruction: Literal["l1", "l2", "cross_entropy"] = "l1"
    """error of the pixels, summed over the image"""
    halvings: int = field(default=2, metadata=COUNT)
    """number of times that height and width are halved, down to the grid of tokens"""
    width: int = field(default=32, metadata=COUNT)
    """channels of the largest feature maps; they double at every halving"""
    depth: int = field(default=2, metadata=COUNT)
    """residual blocks on the grid of tokens, in each net"""
    adversarial_weight: float = 0.0
    """weight of the adversarial loss, adapted to the reconstruction; 0 for no discriminator"""
    adversarial_start: int = 0
    """step from which the adversarial weight rises, over a tenth of the run"""
    discriminator_learning_rate: float = 2e-4
    """learning rate of the discriminator's Adam"""
    warmup_steps: int = 250
    """steps over which the learning rate rises from 0; then it falls to 0 along a cosine"""
    steps: int = 2000
    """train steps in all, those before a resume included"""
    dtype: Literal["float32", "bfloat16"] = field(default="float32", metadata=DRAWING)
    """precision of the nets; parameters and quantiser stay float32"""


def build(config: Config, data: DataSpec) -> Tokenizer:
    if config.halvings < 1:
        raise ValueError(f"--halvings {config.halvings}: must be at least 1")
    quantisers = {
        "vq": VectorQuantiser(
            config.codes,
            config.latent_dim,
            ema=config.codebook == "ema",
            normalise=config.normalise,
            gradient=config.gradient,
        ),
        "fsq": FiniteScalarQuantiser(config.levels),
        "lfq": LookupFreeQuantiser(config.latent_dim),
    }
    quantiser = quantisers[config.quantiser]
    widths = tuple(config.width * 2**i for i in range(config.halvings))
    return tokenizer(
        Encoder(quantiser.dim, widths, config.depth, dtype=config.dtype),
        Decoder(data.shape[-1], tuple(reversed(widths)), config.depth, dtype=config.dtype),
        quantiser,
        image_shape=data.shape,
        tx=optax.adam(config.schedule()),
        reconstruction=RECONSTRUCTIONS[config.reconstruction],
        commitment_weight=config.commitment_weight,
        entropy_weight=config.entropy_weight,
        adversary=_adversary(config, data) if config.adversarial_weight else None,
    )


def _adversary(config: Config, data: DataSpec) -> Adversary:
    height, width, _ = data.shape
    widths = tuple(config.width * 2**i for i in range(max(1, num_halvings(height, width))))
    return Adversary(
        Discriminator(widths, batch_norm=False, dtype=config.dtype),
        optax.adam(config.discriminator_learning_rate, 0.5, 0.9),
        loss=objectives.HINGE,
        weight=config.adversarial_weight,
        start=config.adversarial_start * config.batch_size,
        ramp=config.schedule_length() * config.batch_size // 10,
    )


if __name__ == "__main__":
    main(Config, build)
