"""Latent mean flow: one step from noise to an autoencoder's latents, whose decoder draws the image.

Geng et al., Mean Flows for One-step Generative Modeling, arXiv:2505.13447, over the latents of Rombach et al.,
arXiv:2112.10752.

    python experiments/autoencoder.py --data digits --width 16 --factor 2 --steps 1000 --workdir runs/autoencoder
    python experiments/latent_meanflow.py --data digits --autoencoder runs/autoencoder --steps 300

    D="--data fashion_mnist --size 32 --fit pad"
    python experiments/latent_meanflow.py $D --autoencoder runs/autoencoder-fashion --patch 2 --width 192 --depth 6 \
        --steps 6000 --ema-half-life 50000

On an accelerator, with an autoencoder of 64-pixel colour images (its command is in experiments/autoencoder.py):

    python experiments/latent_meanflow.py --data folder:pictures/ --size 64 --autoencoder runs/autoencoder-64 \
        --patch 2 --width 384 --depth 12 --head-dim 64 --batch-size 256 --learning-rate 5e-4 --warmup-steps 1000 \
        --steps 50000 --ema-half-life 200000 --dtype bfloat16

Results of the third command with --mode jit, seed 0, on the autoencoder of experiments/autoencoder.py, one core of an
AMD EPYC whose other core was busy, 3914 s (2026-11-27): Frechet distances of 10,000 samples in one step .563 by the
classifier and 378 by EfficientNet-Lite0. See docs/results.md. The last command has not run.
"""

from jimgen.experiment import (  # first, so that Ctrl-C works while JAX loads
    CONTAINED_RUN,
    COUNT,
    DRAWING,
    ScheduledConfig,
    main,
)

# isort: split
import math
from dataclasses import dataclass, field
from typing import Literal

import optax

from jimgen.data.dataset import DataSpec
from jimgen.methods.latent import in_latents
from jimgen.methods.meanflow import mean_flow
from jimgen.methods.method import Method
from jimgen.nets.diffusion_transformer import DiffusionTransformer
from jimgen.nets.transformer import Backbone, num_heads
from jimgen.runs.autoencoder import load_autoencoder


@dataclass(frozen=True, kw_only=True)
class Config(ScheduledConfig):
    autoencoder: str = field(default="", metadata=CONTAINED_RUN | DRAWING)
    """folder of a run of experiments/autoencoder.py on images of this size"""
    patch: int = field(default=1, metadata=COUNT)
    """side of the patches of latents that become tokens; divides their height and width"""
    width: int = field(default=128, metadata=COUNT)
    """width of the tokens"""
    depth: int = field(default=4, metadata=COUNT)
    """number of transformer blocks"""
    head_dim: int = field(default=32, metadata=COUNT)
    """width of an attention head: a multiple of 4 that divides the width"""
    time_scale: float = 1.0
    """factor of the times before their embedding; derivatives in the target grow with it"""
    conditional: bool = True
    """give the label to the net, if the data have classes"""
    label_drop: float = 0.1
    """probability that training hides the label"""
    r_equals_t: float = 0.75
    """share of the examples with r = t, which learn plain velocities"""
    guidance: float = 1.5
    """weight of the classifier-free guidance that training builds into the net; 1 for none"""
    num_steps: int = field(default=1, metadata=DRAWING)
    """number of sampling steps"""
    beta2: float = 0.95
    """decay rate of AdamW's second moment"""
    clip: float = 1.0
    """largest norm of the gradient; 0 for no limit"""
    dtype: Literal["float32", "bfloat16"] = field(default="float32", metadata=DRAWING)
    """precision of matrix products; all else stays float32"""

    def check(self) -> None:
        super().check()
        num_heads(self.width, self.head_dim)


def build(config: Config, data: DataSpec) -> Method:
    autoencoder, frozen = load_autoencoder(config.autoencoder, data)
    num_classes = data.conditions if config.conditional else 0
    backbone = Backbone(config.width, config.depth, num_heads(config.width, config.head_dim), dtype=config.dtype)
    adamw = optax.adamw(config.schedule(), 0.9, config.beta2, weight_decay=0.0)
    in_the_latents = mean_flow(
        DiffusionTransformer(config.patch, num_classes, backbone, num_times=2, time_scale=config.time_scale),
        image_shape=autoencoder.latent_shape,
        num_classes=num_classes,
        tx=optax.chain(optax.clip_by_global_norm(config.clip or math.inf), adamw),
        r_equals_t=config.r_equals_t,
        label_drop=config.label_drop,
        guidance=config.guidance if num_classes else 1.0,
        num_steps=config.num_steps,
        clip=False,
    )
    return in_latents(autoencoder, frozen, in_the_latents)


if __name__ == "__main__":
    main(Config, build)
