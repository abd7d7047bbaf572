"""SNGAN: residual nets, and a discriminator whose kernels have a spectral norm of one.

Miyato et al., Spectral Normalization for Generative Adversarial Networks, arXiv:1802.05957; labels by projection,
Miyato and Koyama, arXiv:1802.05637.

    python experiments/sngan.py --data fashion_mnist --size 32 --fit pad --steps 4000

On an accelerator, the nets and the schedule of the paper for CIFAR-10:

    python experiments/sngan.py --preset cifar10 --data folder:pictures/ --size 32

Result of the first command with --steps 10000, after 3500 of them, seed 0: a Frechet distance of 3.6 by the classifier
(5,000 samples), 1322 CPU seconds on one core of an AMD EPYC, 2026-11-26: docs/results.md. The preset has not run yet.
"""

from jimgen.experiment import COUNT, LENGTH, AdversarialConfig, main  # first, so that Ctrl-C works while JAX loads

# isort: split
from dataclasses import dataclass, field

import optax

from jimgen.data.dataset import DataSpec
from jimgen.methods.gan import gan
from jimgen.methods.method import Method
from jimgen.nets.layers import num_halvings
from jimgen.nets.sngan import Discriminator, Generator
from jimgen.objectives import HINGE


@dataclass(frozen=True, kw_only=True)
class Config(AdversarialConfig):
    latent_dim: int = field(default=128, metadata=COUNT)
    """dimensions of z ~ N(0, I)"""
    generator_width: int = field(default=32, metadata=COUNT)
    """channels of the generator"""
    discriminator_width: int = field(default=32, metadata=COUNT)
    """channels of the discriminator"""
    circular: bool = False
    """make images that tile without seams, as textures do"""
    discriminator_steps: int = field(default=1, metadata=COUNT)
    """discriminator updates before each generator update"""
    learning_rate: float = 4e-4
    """Adam's learning rate at the start; it falls to 0 along a line"""
    beta1: float = 0.0
    """decay rate of Adam's first moment"""
    beta2: float = 0.9
    """decay rate of Adam's second moment"""
    schedule_steps: int = field(default=0, metadata=LENGTH)
    """step at which the learning rate reaches 0; 0 for the last one"""


PRESETS = {
    "cifar10": Config(
        generator_width=256,
        discriminator_width=128,
        learning_rate=2e-4,
        discriminator_steps=5,
        batch_size=64,
        steps=100_000,
    ),
}


def build(config: Config, data: DataSpec) -> Method:
    height, width, _ = data.shape
    halvings = num_halvings(height, width)
    num_classes = config.num_classes(data)
    rate = optax.linear_schedule(config.learning_rate, 0.0, config.schedule_steps or config.steps)
    widths = (config.discriminator_width,) * (halvings + 1)
    return gan(
        Generator(data.shape, (config.generator_width,) * (halvings + 1), num_classes, config.circular, config.dtype),
        Discriminator(widths, halvings - 1, num_classes, config.dtype),
        **config.common(data),
        generator_tx=optax.adam(rate, config.beta1, config.beta2),
        discriminator_tx=optax.adam(rate, config.beta1, config.beta2),
        loss=HINGE,
        discriminator_steps=config.discriminator_steps,
    )


if __name__ == "__main__":
    main(Config, build, presets=PRESETS)
