"""Hierarchical VAE: latents at several resolutions, drawn from the top down.

Child, Very Deep VAEs Generalize Autoregressive Models and Can Outperform Them on Images, arXiv:2011.10650.

    python experiments/hierarchical_vae.py --data digits --steps 500
    python experiments/hierarchical_vae.py --data fashion_mnist --steps 24000 --kl-warmup 300000 \
        --ema-half-life 100000 --workdir runs/hvae
    python experiments/hierarchical_vae.py --data fashion_mnist --likelihood logistic_mixture --neighbours --patch 2 \
        --widths 32 64 256 --levels 1 3 2 --latent-channels 4 8 16 --steps 10000 --ema-half-life 100000
    jimgen likelihood runs/hvae --samples 1000 --num 0
    jimgen levels runs/hvae

On an accelerator, 64 pixels, colour, 8 bits:

    python experiments/hierarchical_vae.py --data folder:pictures/ --size 64 --likelihood logistic_mixture \
        --components 10 --patch 2 --widths 128 192 256 512 --levels 4 4 3 1 --latent-channels 16 16 16 32 \
        --batch-size 128 --learning-rate 5e-4 --warmup-steps 1000 --steps 200000 --ema-half-life 200000 \
        --dtype bfloat16

Results of the second command with --mode jit, seed 0, one core of an AMD EPYC whose other core was busy, 4191 s
(2026-11-27): test -ELBO 228.0 nats, IWAE-1000 226.31 nats (binarised, whole test set, seed 777). The third one,
likewise, 4009 s: ELBO 2.998 bits per dimension (8 bits). See docs/results.md. The last command has not run.
"""

from jimgen.experiment import (  # first, so that Ctrl-C works while JAX loads
    COUNT,
    DRAWING,
    ScheduledConfig,
    main,
)

# isort: split
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import optax

from jimgen.data.dataset import DataSpec
from jimgen.methods.hierarchical_vae import HierarchicalVAE, hierarchical_vae
from jimgen.methods.likelihoods import bernoulli, gaussian, logistic_mixture
from jimgen.nets.hierarchical_vae import Decoder, Encoder, Stage


@dataclass(frozen=True, kw_only=True)
class Config(ScheduledConfig):
    patch: Literal[1, 2, 4, 8] = 4
    """side of the patches that are the places of the largest feature maps"""
    widths: tuple[int, ...] = (64, 256)
    """channels of the feature maps of each size, the largest first, each half of the one before; of the vector last"""
    levels: tuple[int, ...] = (3, 2)
    """latents of each size"""
    latent_channels: tuple[int, ...] = (4, 16)
    """channels of the latents of each size; dimensions of the vector's"""
    blocks: int = field(default=2, metadata=COUNT)
    """residual blocks of the encoder at each size"""
    conditional: bool = False
    """give class and attributes to both nets"""
    label_drop: float = 0.1
    """probability with which training hides the labels, where there are attributes, so that they may be left open"""
    likelihood: Literal["bernoulli", "logistic_mixture", "learned_gaussian"] = "bernoulli"
    """distribution of pixels. bernoulli binarises them anew at each step, logistic_mixture is exact for 8 bits,
    learned_gaussian learns one standard deviation"""
    components: int = field(default=5, metadata=COUNT)
    """components of the mixture (logistic_mixture)"""
    neighbours: bool = False
    """let the means of pixels depend on pixels above and to the left, too (logistic_mixture)"""
    kl_warmup: int = 0
    """images over which the weight of the KL rises from 0 to 1"""
    free_nats: float = 0.0
    """KL of each level, averaged over the batch, below which it costs nothing more"""
    learning_rate: float = 1.5e-3
    """peak learning rate of Adam"""
    warmup_steps: int = 250
    """steps over which the learning rate rises from 0; then it falls to 0 along a cosine"""
    weight_decay: float = 0.0
    """decoupled weight decay (AdamW)"""
    skip: float = 500.0
    """norm of the gradient from which updates may be skipped; the limit is at least ten times the running median"""
    batch_size: int = 100
    """images a step, over all devices"""
    steps: int = 2000
    """train steps in all, those before a resume included"""
    temperature: float = field(default=1.0, metadata=DRAWING)
    """factor on the standard deviations of the prior, for samples; less is less varied"""
    dtype: Literal["float32", "bfloat16"] = field(default="float32", metadata=DRAWING)
    """precision of the computation; parameters stay float32"""

    def check(self) -> None:
        super().check()
        if min(*self.widths, *self.levels, *self.latent_channels) < 1:
            raise ValueError("--widths, --levels and --latent-channels must be at least 1 each")
        if not len(self.widths) == len(self.levels) == len(self.latent_channels):
            raise ValueError(
                f"--widths {self.widths}, --levels {self.levels}, --latent-channels {self.latent_channels}: give each "
                "one number for each size of feature maps and one for the vector"
            )


def build(config: Config, data: DataSpec) -> HierarchicalVAE:
    num_classes = data.conditions if config.conditional else 0
    if config.conditional and not num_classes:
        raise ValueError(f"--conditional needs classes or attributes, and {data.name} has none")
    likelihoods = {
        "bernoulli": bernoulli,
        "logistic_mixture": partial(logistic_mixture, config.components, config.neighbours),
        "learned_gaussian": gaussian,
    }
    likelihood = likelihoods[config.likelihood]()
    stages = tuple(map(Stage, config.widths, config.levels, config.latent_channels))
    return hierarchical_vae(
        Encoder(stages, config.patch, config.blocks, num_classes, config.dtype),
        Decoder(data.shape, stages, config.patch, likelihood.outputs, num_classes, config.dtype),
        tx=optax.adamw(config.schedule(), weight_decay=config.weight_decay),
        likelihood=likelihood,
        num_classes=num_classes,
        label_drop=config.label_drop if data.attributes else 0.0,
        kl_warmup=config.kl_warmup,
        free_nats=config.free_nats,
        temperature=config.temperature,
        skip=config.skip,
    )


if __name__ == "__main__":
    main(Config, build)
