"""Conditional VAE: fills in the missing pixels of images, whichever they are, in many ways.

Ivanov et al., Variational Autoencoder with Arbitrary Conditioning, arXiv:1806.02382.

    python experiments/conditional_vae.py --data fashion_mnist --size 32 --fit pad --workdir runs/filling
    jimgen inpaint runs/filling PICTURE --mask MASK

On an accelerator, 64 pixels, colour:

    python experiments/conditional_vae.py --data folder:pictures/ --size 64 --width 64 --most-width 512 --blocks 1 \
        --depth 3 --latent-channels 16 --batch-size 256 --steps 50000 --ema-half-life 200000 --dtype bfloat16

Result of the first command, seed 0: 5000 steps in 837 CPU s (AMD EPYC, one core that also had other work, 2026-11-26).
The mean of eight fillings of the middle 14x14 pixels of 500 test images has a PSNR of 16.7 dB in the hole (a Gaussian
fitted to the training images: 16.3), that of the right half 16.5 (16.5), that of all but a random tenth of the pixels
16.8 (17.3); docs/results.md has the whole table. The last command has not run yet.
"""

from jimgen.experiment import (  # first, so that Ctrl-C works while JAX loads
    COUNT,
    DRAWING,
    ScheduledConfig,
    main,
)

# isort: split
import math
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import optax

from jimgen.data.dataset import DataSpec
from jimgen.methods.conditional_vae import conditional_vae
from jimgen.methods.likelihoods import bernoulli, gaussian
from jimgen.methods.method import Method
from jimgen.nets.conditional_vae import Decoder, Encoder
from jimgen.nets.layers import num_halvings, stage_widths


@dataclass(frozen=True, kw_only=True)
class Config(ScheduledConfig):
    latent_channels: int = field(default=8, metadata=COUNT)
    """channels of the latent map z, whose sides are those of the smallest feature maps"""
    width: int = field(default=32, metadata=COUNT)
    """channels of the feature maps after the first halving of the image; they double at every further halving"""
    most_width: int = field(default=64, metadata=COUNT)
    """most channels of any feature maps"""
    blocks: int = 0
    """residual blocks at each resolution after a halving"""
    depth: int = 1
    """further residual blocks at the smallest resolution"""
    conditional: bool = False
    """give class and attributes to the nets"""
    label_drop: float = 0.1
    """probability with which training hides the labels, where there are attributes, so that they may be left open"""
    likelihood: Literal["bernoulli", "cross_entropy", "gaussian", "learned_gaussian"] = "learned_gaussian"
    """distribution of pixels. bernoulli binarises them anew at each step, cross_entropy keeps grey values, gaussian has
    standard deviation sigma, learned_gaussian learns it"""
    sigma: float = 0.2
    """standard deviation of pixels in [-1, 1] (gaussian), or the first value of a learned one (learned_gaussian)"""
    learning_rate: float = 2e-3
    """peak learning rate of Adam"""
    warmup_steps: int = 250
    """steps over which the learning rate rises from 0; then it falls to 0 along a cosine"""
    clip: float = 1000.0
    """largest norm of the gradient; 0 for no limit"""
    steps: int = 5000
    """train steps in all, those before a resume included"""
    dtype: Literal["float32", "bfloat16"] = field(default="float32", metadata=DRAWING)
    """precision of the computation; parameters stay float32"""


def build(config: Config, data: DataSpec) -> Method:
    num_classes = data.conditions if config.conditional else 0
    if config.conditional and not num_classes:
        raise ValueError(f"--conditional needs classes or attributes, and {data.name} has none")
    height, width, channels = data.shape
    widths = tuple(reversed(stage_widths(config.width, config.most_width, max(1, num_halvings(height, width)))))
    shared = {
        "widths": widths,
        "blocks": config.blocks,
        "depth": config.depth,
        "num_classes": num_classes,
        "dtype": config.dtype,
    }
    likelihoods = {
        "bernoulli": bernoulli,
        "cross_entropy": partial(bernoulli, binarise=False),
        "gaussian": partial(gaussian, config.sigma),
        "learned_gaussian": partial(gaussian, initial=config.sigma),
    }
    return conditional_vae(
        Encoder(config.latent_channels, **shared),
        Encoder(config.latent_channels, **shared),
        Decoder(channels, **shared),
        image_shape=data.shape,
        num_classes=num_classes,
        label_drop=config.label_drop if data.attributes else 0.0,
        tx=optax.chain(optax.clip_by_global_norm(config.clip or math.inf), optax.adam(config.schedule())),
        likelihood=likelihoods[config.likelihood](),
    )


if __name__ == "__main__":
    main(Config, build)
