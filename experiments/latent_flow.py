"""Latent flow: a transformer learns the velocity from an autoencoder's latents to noise; its decoder draws the image.

Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, arXiv:2112.10752, with the flow of
Lipman et al., arXiv:2210.02747, and the net of Peebles and Xie, arXiv:2212.09748.

    python experiments/autoencoder.py --data digits --width 16 --factor 2 --steps 1000 --workdir runs/autoencoder
    python experiments/latent_flow.py --data digits --autoencoder runs/autoencoder --steps 500

    D="--data fashion_mnist --size 32 --fit pad"
    python experiments/latent_flow.py $D --autoencoder runs/autoencoder-fashion --patch 2 --width 192 --depth 6 \
        --steps 15000 --ema-half-life 50000

On an accelerator, with an autoencoder of 64-pixel colour images (its command is in experiments/autoencoder.py):

    python experiments/latent_flow.py --data folder:pictures/ --size 64 --autoencoder runs/autoencoder-64 \
        --patch 2 --width 384 --depth 12 --head-dim 64 --batch-size 256 --learning-rate 5e-4 --warmup-steps 1000 \
        --steps 50000 --ema-half-life 200000 --dtype bfloat16

Results of the third command with --mode jit, seed 0, on the autoencoder of experiments/autoencoder.py, one core of an
AMD EPYC whose other core was busy, 6046 s (2026-11-27): Frechet distances of 10,000 samples .345 by the classifier and
240 by EfficientNet-Lite0, without guidance. See docs/results.md. The fourth command has not run.
"""

from jimgen.experiment import (  # first, so that Ctrl-C works while JAX loads
    CONTAINED_RUN,
    COUNT,
    DRAWING,
    ScheduledConfig,
    main,
    one_of,
)

# isort: split
import math
from dataclasses import dataclass, field
from typing import Literal

import optax

from jimgen.data.dataset import DataSpec
from jimgen.methods.flow import flow
from jimgen.methods.latent import in_latents
from jimgen.methods.method import Method
from jimgen.nets.diffusion_transformer import DiffusionTransformer
from jimgen.nets.transformer import Backbone, num_heads
from jimgen.runs.autoencoder import load_autoencoder
from jimgen.sampling.guidance import Guidance
from jimgen.sampling.solvers import SOLVERS


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
    conditional: bool = True
    """give the label to the net, if the data have classes"""
    label_drop: float = 0.1
    """probability that training hides the label, for guidance"""
    prediction: Literal["velocity", "data", "noise"] = "velocity"
    """output of the net: velocity, data (the latents without noise) or noise"""
    times: tuple[float, float] = (0.0, 1.0)
    """mean and standard deviation of the logit-normal training times; a larger mean sees more noise"""
    sampler: one_of(SOLVERS) = field(default="heun", metadata=DRAWING)  # pyright: ignore[reportInvalidTypeForm]
    """solver that walks from noise to latents"""
    num_steps: int = field(default=20, metadata=DRAWING)
    """number of sampling steps"""
    guidance: float = field(default=1.5, metadata=DRAWING)
    """weight of classifier-free guidance; 1 for none"""
    guidance_interval: tuple[float, float] = field(default=(0.0, 1.0), metadata=DRAWING)
    """first and last time at which guidance acts; 1 is noise, 0 the latents"""
    learning_rate: float = 1e-3
    """peak learning rate of AdamW"""
    beta2: float = 0.95
    """decay rate of AdamW's second moment"""
    clip: float = 1.0
    """largest norm of the gradient; 0 for no limit"""
    ema_half_life: float = 20_000
    """half-life of the moving average of the weights, in images, at most 5% of the images seen; 0 for none"""
    dtype: Literal["float32", "bfloat16"] = field(default="float32", metadata=DRAWING)
    """precision of matrix products; all else stays float32"""

    def check(self) -> None:
        super().check()
        num_heads(self.width, self.head_dim)


def build(config: Config, data: DataSpec) -> Method:
    autoencoder, frozen = load_autoencoder(config.autoencoder, data)
    num_classes = data.conditions if config.conditional else 0
    heads = num_heads(config.width, config.head_dim)
    adamw = optax.adamw(config.schedule(), 0.9, config.beta2, weight_decay=0.0)
    in_the_latents = flow(
        DiffusionTransformer(
            config.patch, num_classes, Backbone(config.width, config.depth, heads, dtype=config.dtype)
        ),
        image_shape=autoencoder.latent_shape,
        num_classes=num_classes,
        tx=optax.chain(optax.clip_by_global_norm(config.clip or math.inf), adamw),
        prediction=config.prediction,
        times=config.times,
        label_drop=config.label_drop,
        guidance=Guidance(config.guidance if num_classes else 1.0, config.guidance_interval),
        sampler=SOLVERS[config.sampler],
        num_steps=config.num_steps,
        clip=False,
    )
    return in_latents(autoencoder, frozen, in_the_latents)


if __name__ == "__main__":
    main(Config, build)
