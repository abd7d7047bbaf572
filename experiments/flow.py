"""Flow matching: a transformer learns the velocity from images to noise; a solver follows it back.

Lipman et al., Flow Matching for Generative Modeling, arXiv:2210.02747; the net is a DiT, arXiv:2212.09748.

    python experiments/flow.py --data digits --patch 2 --steps 1000
    python experiments/flow.py --data fashion_mnist --size 32 --fit pad --steps 2400 --ema-half-life 20000

On an accelerator, 32 to 64 pixels, colour:

    python experiments/flow.py --data folder:pictures/ --size 32 --width 384 --depth 12 --head-dim 64 --batch-size 256 \
        --learning-rate 5e-4 --warmup-steps 1000 --steps 40000 --ema-half-life 180000 --dtype bfloat16 --attention cudnn

Result of the second command, seed 0: test flow loss 0.156 per dimension and all ten classes recognisable after 974 s on
one core that also had other work (AMD EPYC, 2026-11-23). 50 sampling steps give smaller Frechet distances than 20
(docs/results.md). With --prediction velocity --learning-rate 1e-3 --steps 4500 the loss is 0.154 after 1437 s.
The other commands have not run to the end yet.
"""

from jimgen.experiment import (  # first, so that Ctrl-C works while JAX loads
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
from jimgen.methods.method import Method
from jimgen.nets.diffusion_transformer import DiffusionTransformer
from jimgen.nets.transformer import Backbone, cudnn_attention, einsum_attention, num_heads, xla_attention
from jimgen.sampling.guidance import Guidance
from jimgen.sampling.solvers import SOLVERS

ATTENTIONS = {"einsum": einsum_attention, "xla": xla_attention, "cudnn": cudnn_attention}


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
    dropout: float = 0.0
    """dropout rate after attention and MLP"""
    attention: Literal["einsum", "xla", "cudnn"] = field(default="einsum", metadata=DRAWING)
    """implementation of attention: einsum is fast for few tokens; cudnn needs bfloat16 and an NVIDIA GPU"""
    remat: bool = False
    """recompute activations in the backward pass: less memory, more work"""
    conditional: bool = True
    """give the label to the net, if the data have classes"""
    label_drop: float = 0.1
    """probability that training hides the label, for guidance"""
    prediction: Literal["velocity", "data", "noise", "edm"] = "data"
    """output of the net: velocity, data (the image without noise), noise, or edm (a preconditioned denoiser)"""
    loss: Literal["velocity", "data", "noise"] = "velocity"
    """quantity whose squared error is the loss; edm has a loss of its own"""
    sampler: one_of(SOLVERS) = field(default="heun", metadata=DRAWING)  # pyright: ignore[reportInvalidTypeForm]
    """solver that walks from noise to image"""
    num_steps: int = field(default=20, metadata=DRAWING)
    """number of sampling steps"""
    guidance: float = field(default=2.0, metadata=DRAWING)
    """weight of classifier-free guidance; 1 for none"""
    guidance_interval: tuple[float, float] = field(default=(0.0, 1.0), metadata=DRAWING)
    """first and last time at which guidance acts; 1 is noise, 0 the image"""
    guidance_schedule: Literal["constant", "linear", "power_cosine"] = field(default="constant", metadata=DRAWING)
    """growth of the guidance weight from noise to image"""
    learning_rate: float = 2e-3
    """peak learning rate of AdamW"""
    weight_decay: float = 0.0
    """weight decay of AdamW"""
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
    backbone = Backbone(
        width=config.width,
        depth=config.depth,
        num_heads=num_heads(config.width, config.head_dim),
        dropout=config.dropout,
        attention=ATTENTIONS[config.attention],
        remat=config.remat,
        dtype=config.dtype,
    )
    adamw = optax.adamw(config.schedule(), 0.9, config.beta2, weight_decay=config.weight_decay)
    return flow(
        DiffusionTransformer(config.patch, num_classes, backbone),
        image_shape=data.shape,
        num_classes=num_classes,
        tx=optax.chain(optax.clip_by_global_norm(config.clip or math.inf), adamw),
        prediction=config.prediction,
        loss=config.loss,
        label_drop=config.label_drop,
        guidance=Guidance(config.guidance if num_classes else 1.0, config.guidance_interval, config.guidance_schedule),
        sampler=SOLVERS[config.sampler],
        num_steps=config.num_steps,
    )


if __name__ == "__main__":
    main(Config, build)
