"""DCGAN: a generator and a discriminator of strided convolutions learn from each other.

Radford, Metz and Chintala, Unsupervised Representation Learning with Deep Convolutional GANs, arXiv:1511.06434.

    python experiments/dcgan.py --data digits --size 16 --conditional --steps 2000
    python experiments/dcgan.py --data fashion_mnist --size 32 --fit pad --steps 4200

On an accelerator, 64 pixels, colour, the widths and the batch of the paper:

    python experiments/dcgan.py --data folder:pictures/ --size 64 --width 128 --batch-size 128 --steps 100000 \
        --ema-half-life 100000 --dtype bfloat16

Result of the second command, seed 0: all ten classes are recognisable in the grid after 657 s on two CPU cores that
also had other work (AMD EPYC, 2026-11-23). Without other work they trained on 640 to 690
images/s. The third command has not run yet.
"""

from jimgen.experiment import COUNT, AdversarialConfig, main, one_of  # first, so that Ctrl-C works while JAX loads

# isort: split
from dataclasses import dataclass, field

import optax

from jimgen import objectives
from jimgen.data.dataset import DataSpec
from jimgen.methods.gan import gan
from jimgen.methods.method import Method
from jimgen.nets.dcgan import Discriminator, Generator
from jimgen.nets.layers import num_halvings

LOSSES = {
    "non_saturating": objectives.NON_SATURATING,
    "minimax": objectives.MINIMAX,
    "hinge": objectives.HINGE,
    "least_squares": objectives.LEAST_SQUARES,
    "wasserstein": objectives.WASSERSTEIN,
    "relativistic": objectives.RELATIVISTIC,
    "relativistic_average": objectives.RELATIVISTIC_AVERAGE,
}


@dataclass(frozen=True, kw_only=True)
class Config(AdversarialConfig):
    width: int = field(default=64, metadata=COUNT)
    """channels of the largest feature maps; they double at every halving of the image"""
    loss: one_of(LOSSES) = "non_saturating"  # pyright: ignore[reportInvalidTypeForm]
    """adversarial loss"""
    r1: float = 0.0
    """gamma of the gradient penalty on real images; removes BatchNorm from the discriminator"""
    r2: float = 0.0
    """gamma of the gradient penalty on fake images; removes BatchNorm from the discriminator"""
    gradient_penalty: float = 0.0
    """weight of WGAN-GP's penalty, 10 in the paper; removes BatchNorm from the discriminator"""
    discriminator_steps: int = field(default=1, metadata=COUNT)
    """discriminator updates before each generator update"""
    generator_learning_rate: float = 2e-4
    """learning rate of the generator's Adam"""
    discriminator_learning_rate: float = 2e-4
    """learning rate of the discriminator's Adam"""
    beta1: float = 0.5
    """decay rate of Adam's first moment, for both nets"""
    beta2: float = 0.999
    """decay rate of Adam's second moment, for both nets"""


def build(config: Config, data: DataSpec) -> Method:
    height, width, _ = data.shape
    widths = [config.width * 2**i for i in range(max(1, num_halvings(height, width)))]
    num_classes = config.num_classes(data)
    penalised = config.r1 or config.r2 or config.gradient_penalty
    return gan(
        Generator(data.shape, tuple(reversed(widths)), num_classes, config.dtype),
        Discriminator(tuple(widths), not penalised, num_classes, config.dtype),
        **config.common(data),
        generator_tx=optax.adam(config.generator_learning_rate, config.beta1, config.beta2),
        discriminator_tx=optax.adam(config.discriminator_learning_rate, config.beta1, config.beta2),
        loss=LOSSES[config.loss],
        r1=config.r1,
        r2=config.r2,
        gradient_penalty=config.gradient_penalty,
        discriminator_steps=config.discriminator_steps,
    )


if __name__ == "__main__":
    main(Config, build)
