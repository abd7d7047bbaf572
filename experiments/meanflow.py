"""Mean flow: a transformer learns average velocities, and one step goes from noise to image.

Geng et al., Mean Flows for One-step Generative Modeling, arXiv:2505.13447.

    python experiments/meanflow.py --data digits --patch 2 --steps 1000 --learning-rate 2e-3
    python experiments/meanflow.py --data fashion_mnist --steps 3000

On an accelerator, 32 to 64 pixels, colour:

    python experiments/meanflow.py --data folder:pictures/ --size 32 --width 384 --depth 12 --head-dim 64 \
        --batch-size 256 --learning-rate 6e-4 --warmup-steps 1000 --steps 80000 --ema-half-life 180000 --dtype bfloat16

Result of the first command, seed 0: the test squared error of the average velocities is 0.377 per dimension, and digits
drawn in one step are recognisable, after 225 s on one core that had much other work (AMD EPYC, 2026-11-23). The other
commands have not run yet.
"""

from jimgen.experiment import COUNT, DRAWING, ScheduledConfig, main  # first, so that Ctrl-C works while JAX loads

# isort: split
import math
from dataclasses import dataclass, field
from typing import Literal

import optax

from jimgen.data.dataset import DataSpec
from jimgen.methods.meanflow import mean_flow
from jimgen.methods.method import Method
from jimgen.nets.diffusion_transformer import DiffusionTransformer
from jimgen.nets.transformer import Backbone, num_heads


@dataclass(frozen=True, kw_only=True)
class Config(ScheduledConfig):
    patch: int = field(default=4, metadata=COUNT)
    """side of the patches that become tokens; divides height and width"""
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
    guidance: float = 1.0
    """weight of the classifier-free guidance that training builds into the net; 1 for none"""
    num_steps: int = field(default=1, metadata=DRAWING)
    """number of sampling steps"""
    beta2: float = 0.95
    """decay rate of AdamW's second moment"""
    clip: float = 1.0
    """largest norm of the gradient; 0 for no limit"""
    ema_half_life: float = 10_000
    """half-life of the moving average of the weights, in images, at most 5% of the images seen; 0 for none"""
    dtype: Literal["float32", "bfloat16"] = field(default="float32", metadata=DRAWING)
    """precision of matrix products; all else stays float32"""

    def check(self) -> None:
        super().check()
        num_heads(self.width, self.head_dim)


def build(config: Config, data: DataSpec) -> Method:
    num_classes = data.conditions if config.conditional else 0
    heads = num_heads(config.width, config.head_dim)
    backbone = Backbone(width=config.width, depth=config.depth, num_heads=heads, dtype=config.dtype)
    return mean_flow(
        DiffusionTransformer(config.patch, num_classes, backbone, num_times=2, time_scale=config.time_scale),
        image_shape=data.shape,
        num_classes=num_classes,
        tx=optax.chain(
            optax.clip_by_global_norm(config.clip or math.inf),
            optax.adamw(config.schedule(), 0.9, config.beta2, weight_decay=0.0),
        ),
        r_equals_t=config.r_equals_t,
        label_drop=config.label_drop,
        guidance=config.guidance if num_classes else 1.0,
        num_steps=config.num_steps,
    )


if __name__ == "__main__":
    main(Config, build)
