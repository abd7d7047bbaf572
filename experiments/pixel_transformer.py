"""Autoregressive transformer over pixels: exact bits per dimension, of grey or colour images of 8 bits.

A causal trunk over patches and a small net for each sub-pixel; van den Oord et al., Conditional Image Generation with
PixelCNN Decoders, arXiv 1606.05328.

    python experiments/pixel_transformer.py --data digits --patch 2 --width 64 --depth 2 --dropout 0.2 --head-width 64 \
        --weight-decay 0.3 --steps 400
    python experiments/pixel_transformer.py --data fashion_mnist --flips --steps 3000

On an accelerator, 32 pixels, colour:

    python experiments/pixel_transformer.py --data folder:pictures/ --size 32 --patch 2 --width 512 --depth 12 \
        --head-dim 64 --head-width 256 --batch-size 128 --learning-rate 5e-4 --warmup-steps 1000 --steps 100000 \
        --ema-half-life 200000 --dtype bfloat16

Result: of the first, seed 0: 1.89 bits per dimension of the test digits after 43 s; of the second, seed 0: 2.824 of the
10,000 test images after 4222 s. Each on one core that had other work as well (AMD EPYC, 2026-11-23). The third: not run
yet.
"""

from jimgen.experiment import COUNT, ScheduledConfig, main  # first: Ctrl-C while it loads JAX ends the process at once

# isort: split
import math
from dataclasses import dataclass, field
from typing import Literal

import jax
import optax

from jimgen.data.dataset import DataSpec
from jimgen.methods.autoregressive import Autoregressive, pixel_autoregressive
from jimgen.nets.pixel_transformer import PixelTransformer
from jimgen.nets.transformer import Backbone, num_heads
from jimgen.sampling.logits import LogitFilter


@dataclass(frozen=True, kw_only=True)
class Config(ScheduledConfig):
    patch: int = field(default=4, metadata=COUNT)
    """side of the patches; divides height and width. In colour 2 is enough"""
    width: int = field(default=192, metadata=COUNT)
    """of the trunk"""
    depth: int = field(default=4, metadata=COUNT)
    """blocks of the trunk"""
    head_dim: int = field(default=32, metadata=COUNT)
    """width of an attention head: a multiple of 4 that divides the width"""
    head_width: int = field(default=128, metadata=COUNT)
    """units of the head, for each sub-pixel"""
    head_depth: int = 1
    """residual blocks of the head"""
    dropout: float = 0.0
    """after attention and MLP of the trunk"""
    flips: bool = False
    """mirror every other training image, left to right"""
    conditional: bool = False
    """give the label to the net; likelihoods are then those of images given their labels"""
    label_drop: float = 0.1
    """how often training hides the label, for guidance"""
    guidance: float = 1.0
    """weight of classifier-free guidance; 1 for none"""
    temperature: float = 1.0
    """of the draws"""
    top_k: int = 0
    """draw from the k likeliest levels; 0 for all"""
    top_p: float = 1.0
    """draw from the fewest levels whose probability reaches p"""
    learning_rate: float = 2e-3
    """peak learning rate of AdamW"""
    warmup_steps: int = 200
    """steps over which the learning rate rises from 0; then it falls to 0 along a cosine"""
    weight_decay: float = 0.05
    """of AdamW, on matrices"""
    beta2: float = 0.95
    """of AdamW"""
    clip: float = 1.0
    """largest norm of the gradient; 0 for no limit"""
    ema_half_life: float = 10_000
    """images after which the moving average of the weights has forgotten half; 0 for none"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """of matrix products; all else stays float32"""


def build(config: Config, data: DataSpec) -> Autoregressive:
    if config.conditional and data.num_classes < 2:
        raise ValueError(f"--conditional needs classes, and {data.name} has only one")
    heads = num_heads(config.width, config.head_dim)
    backbone = Backbone(config.width, config.depth, heads, dropout=config.dropout, dtype=config.dtype)
    net = PixelTransformer(
        data.shape,
        config.patch,
        backbone,
        num_classes=data.num_classes if config.conditional else 0,
        head_width=config.head_width,
        head_depth=config.head_depth,
        dtype=config.dtype,
    )
    matrices = lambda params: jax.tree.map(lambda x: x.ndim > 1, params)  # noqa: E731
    decays = {"b2": config.beta2, "weight_decay": config.weight_decay, "mask": matrices}
    return pixel_autoregressive(
        net,
        tx=optax.chain(optax.clip_by_global_norm(config.clip or math.inf), optax.adamw(config.schedule(), **decays)),
        flips=config.flips,
        label_drop=config.label_drop,
        guidance=config.guidance,
        filter=LogitFilter(config.temperature, config.top_k, config.top_p),
    )


if __name__ == "__main__":
    main(Config, build)
