"""R3GAN: residual nets without normalisation, the relativistic loss, and gradient penalties on real and fake images.

Huang et al., The GAN is dead; long live the GAN! A Modern GAN Baseline, arXiv:2501.05441.

    python experiments/r3gan.py --data fashion_mnist --size 32 --fit pad --steps 4000

The defaults are small dense nets that train on a CPU.

On an accelerator, the settings of the paper's tables:

    python experiments/r3gan.py --preset cifar10 --data folder:pictures/ --size 32
    python experiments/r3gan.py --preset ffhq64 --data folder:pictures/ --size 64

Result of the first command with --steps 12000, seed 0: Frechet distances of .69 by the classifier after 3750 steps and
.29 after 11,000 (5,000 samples), 1350 and 3960 CPU seconds on one core of an AMD EPYC, 2026-11-26: docs/results.md. The
presets have not run yet.
"""

from jimgen.experiment import COUNT, LENGTH, AdversarialConfig, main  # first, so that Ctrl-C works while JAX loads

# isort: split
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import jax.numpy as jnp
import optax

from jimgen.augment import R3GAN, augment
from jimgen.data.dataset import DataSpec
from jimgen.methods.augmented import AS_IS, Augmented
from jimgen.methods.gan import gan
from jimgen.methods.method import Method
from jimgen.nets.layers import num_halvings, stage_widths
from jimgen.nets.r3gan import Discriminator, Generator
from jimgen.objectives import RELATIVISTIC
from jimgen.schedules import cosine
from jimgen.train_step import HalfLife


@dataclass(frozen=True, kw_only=True)
class Config(AdversarialConfig):
    latent_dim: int = field(default=64, metadata=COUNT)
    """dimensions of z ~ N(0, I)"""
    width: int = field(default=48, metadata=COUNT)
    """channels of the largest feature maps; they double at every halving"""
    most_width: int = field(default=128, metadata=COUNT)
    """most channels of any feature maps"""
    stem_stride: Literal[1, 2] = 2
    """stride of the convolutions from and to images; 2 saves the stage of the largest images"""
    blocks: int = field(default=1, metadata=COUNT)
    """residual blocks in a stage"""
    expansion: int = field(default=1, metadata=COUNT)
    """channels inside a block, as a multiple of those outside"""
    group_size: int = 0
    """channels in a group of the 3x3 convolutions; 0: dense convolutions"""
    low_precision_stages: int = 2
    """stages, the largest images first, that compute in --dtype bfloat16; the others stay float32"""
    bounded: bool = True
    """keep images within [-1, 1] by tanh: quicker to learn where much of an image is black or white"""
    circular: bool = False
    """make images that tile without seams, as textures do"""
    learning_rate: float = 1e-3
    """Adam's learning rate at the start"""
    last_learning_rate: float = 2.5e-4
    """Adam's learning rate at the end of the schedules"""
    beta2: float = 0.9
    """decay rate of Adam's second moment at the start"""
    last_beta2: float = 0.99
    """decay rate of Adam's second moment at the end of the schedules"""
    gamma: float = 5.0
    """weight of the gradient penalties at the start"""
    last_gamma: float = 0.5
    """weight of the gradient penalties at the end of the schedules"""
    penalty_period: int = field(default=8, metadata=COUNT)
    """steps between gradient penalties, which then count as often"""
    last_augmentation: float = 0.0
    """probability of augmentations at the end of the schedules; it rises from 0"""
    schedule_steps: int = field(default=0, metadata=LENGTH)
    """step at which learning rate, beta2, gamma, augmentation and half-life reach their last values; 0 for the last"""

    def ema_schedule(self) -> HalfLife:
        rising = cosine(0.0, self.ema_half_life, self.length() * self.batch_size)
        return lambda images: jnp.asarray(rising(images))

    def length(self) -> int:
        """Steps of the schedules."""
        return self.schedule_steps or self.steps


PAPER = Config(
    width=768,
    most_width=768,
    stem_stride=1,
    bounded=False,
    blocks=2,
    expansion=2,
    group_size=16,
    low_precision_stages=3,
    batch_size=512,
    steps=39_063,  # the tables do not say how long the schedules are: 20 million images
    learning_rate=2e-4,
    last_learning_rate=5e-5,
    gamma=0.05,
    last_gamma=0.005,
    penalty_period=1,
    ema_half_life=5_000_000,
    last_augmentation=0.55,
    flip=True,
    dtype="bfloat16",
)
FFHQ64 = {"width": 384, "low_precision_stages": 4, "batch_size": 256, "steps": 78_125, "gamma": 2.0, "last_gamma": 0.2}
PRESETS = {
    "cifar10": PAPER,
    "ffhq64": replace(PAPER, **FFHQ64, ema_half_life=500_000, last_augmentation=0.3),
}


def build(config: Config, data: DataSpec) -> Method:
    height, width, _ = data.shape
    num_stages = max(1, num_halvings(height, width) + 1 - (config.stem_stride == 2))
    stages = {
        "widths": stage_widths(config.width, config.most_width, num_stages),
        "blocks": config.blocks,
        "expansion": config.expansion,
        "group_size": config.group_size,
        "stem_stride": config.stem_stride,
        "num_classes": config.num_classes(data),
        "dtype": config.dtype,
        "low_precision_stages": min(config.low_precision_stages, num_stages - 1),
    }
    steps = config.length()
    adam = optax.inject_hyperparams(optax.adam)(
        learning_rate=cosine(config.learning_rate, config.last_learning_rate, steps),
        b1=0.0,
        b2=cosine(config.beta2, config.last_beta2, steps),
    )
    gamma = cosine(config.gamma, config.last_gamma, steps)
    see = partial(augment, augmentation=R3GAN)
    return gan(
        Generator(data.shape, **stages, bounded=config.bounded, circular=config.circular),
        Discriminator(**stages),
        **config.common(data),
        generator_tx=adam,
        discriminator_tx=adam,
        loss=RELATIVISTIC,
        r1=gamma,
        r2=gamma,
        penalty_period=config.penalty_period,
        augmented=Augmented(see, cosine(0.0, config.last_augmentation, steps)) if config.last_augmentation else AS_IS,
    )


if __name__ == "__main__":
    main(Config, build, presets=PRESETS)
