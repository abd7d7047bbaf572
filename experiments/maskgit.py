"""MaskGIT: a transformer predicts masked tokens of a tokenizer, and fills a masked grid in a few parallel steps.

Chang et al., MaskGIT: Masked Generative Image Transformer, arXiv:2202.04200.

    python experiments/tokenizer.py --data digits --codes 64 --width 16 --steps 1500 --workdir runs/tokenizer
    python experiments/maskgit.py --data digits --tokenizer runs/tokenizer --steps 1000

    D="--data fashion_mnist --size 32 --fit pad"
    python experiments/tokenizer.py $D --steps 4000 --ema-half-life 100000 --workdir runs/tokenizer-fashion
    python experiments/maskgit.py $D --tokenizer runs/tokenizer-fashion --steps 4500 --ema-half-life 20000

On an accelerator, with a tokenizer of 64-pixel colour images:

    python experiments/maskgit.py --data folder:pictures/ --size 64 --tokenizer runs/tokenizer-64 --width 512 \
        --depth 12 --batch-size 256 --learning-rate 4e-4 --warmup-steps 1000 --steps 50000 --num-steps 12 \
        --dtype bfloat16

Result of the second pair, seed 0: 4.20 bits per masked test token and all ten classes recognisable, after 539 s for the
tokenizer and 3359 s, each on one core that had much other work (AMD EPYC, 2026-11-23); docs/results.md lists Frechet
distances. For the first pair see experiments/token_transformer.py. The last command has not run yet.
"""

from jimgen.experiment import (  # first, so that Ctrl-C works while JAX loads
    CONTAINED_RUN,
    COUNT,
    DRAWING,
    ScheduledConfig,
    main,
)

# isort: split
from dataclasses import dataclass, field
from typing import Literal

import optax

from jimgen.data.dataset import DataSpec
from jimgen.methods.masked import masked
from jimgen.methods.method import Method
from jimgen.nets.masked_transformer import MaskedTransformer
from jimgen.nets.transformer import Backbone, num_heads
from jimgen.runs.tokenizer import load_tokenizer


@dataclass(frozen=True, kw_only=True)
class Config(ScheduledConfig):
    tokenizer: str = field(default="", metadata=CONTAINED_RUN | DRAWING)
    """folder of a run of experiments/tokenizer.py on images of this size"""
    width: int = field(default=128, metadata=COUNT)
    """width of the tokens"""
    depth: int = field(default=4, metadata=COUNT)
    """number of transformer blocks"""
    head_dim: int = field(default=32, metadata=COUNT)
    """width of an attention head: a multiple of 4 that divides the width"""
    dropout: float = 0.1
    """dropout rate after attention and MLP"""
    conditional: bool = True
    """give the label to the net, if the data have classes"""
    label_drop: float = 0.1
    """probability that training hides the label, for guidance"""
    label_smoothing: float = 0.1
    """label smoothing of the cross-entropy"""
    num_steps: int = field(default=8, metadata=DRAWING)
    """number of decoding steps"""
    choice_temperature: float = field(default=4.5, metadata=DRAWING)
    """amount of noise in choosing which tokens decoding keeps; it falls to 0 over the steps"""
    guidance: float = field(default=1.0, metadata=DRAWING)
    """weight of classifier-free guidance; 1 for none"""
    weight_decay: float = 0.01
    """weight decay of AdamW"""
    dtype: Literal["float32", "bfloat16"] = field(default="float32", metadata=DRAWING)
    """precision of matrix products; all else stays float32"""

    def check(self) -> None:
        super().check()
        num_heads(self.width, self.head_dim)


def build(config: Config, data: DataSpec) -> Method:
    tokenizer, frozen = load_tokenizer(config.tokenizer, data)
    num_classes = data.conditions if config.conditional else 0
    backbone = Backbone(
        width=config.width,
        depth=config.depth,
        num_heads=num_heads(config.width, config.head_dim),
        dropout=config.dropout,
        dtype=config.dtype,
    )
    adamw = optax.adamw(config.schedule(), 0.9, 0.96, weight_decay=config.weight_decay)
    return masked(
        MaskedTransformer(tokenizer.num_codes, tokenizer.grid, num_classes, backbone),
        tokenizer,
        frozen,
        num_classes=num_classes,
        tx=optax.chain(optax.clip_by_global_norm(1.0), adamw),
        label_drop=config.label_drop,
        label_smoothing=config.label_smoothing,
        num_steps=config.num_steps,
        choice_temperature=config.choice_temperature,
        guidance=config.guidance,
    )


if __name__ == "__main__":
    main(Config, build)
