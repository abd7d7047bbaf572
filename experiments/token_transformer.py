"""Autoregressive transformer over the tokens of a tokenizer: class-conditional, one token after another.

Esser et al., Taming Transformers, arXiv:2012.09841; --order random: Yu et al., RAR, arXiv:2411.00776.

    python experiments/tokenizer.py --data digits --codes 64 --width 16 --steps 1000 --workdir runs/tokenizer
    python experiments/token_transformer.py --data digits --tokenizer runs/tokenizer --order random --steps 600

    D="--data fashion_mnist --size 32 --fit pad"
    python experiments/tokenizer.py $D --steps 4000 --ema-half-life 100000 --workdir runs/tokenizer-fashion
    python experiments/token_transformer.py $D --tokenizer runs/tokenizer-fashion --steps 4500 --ema-half-life 20000

On an accelerator, with a tokenizer of 64-pixel colour images:

    python experiments/token_transformer.py --data folder:pictures/ --size 64 --tokenizer runs/tokenizer-64 \
        --width 512 --depth 12 --head-dim 64 --batch-size 256 --learning-rate 4e-4 --warmup-steps 1000 --steps 50000 \
        --ema-half-life 200000 --dtype bfloat16

Results, seed 0, each on one core that also had other work (AMD EPYC, 2026-11-23). First pair: 4.30 bits per test token
given its label, read row by row, after 42 s. Trained with --order raster instead, the net overfits and needs 4.54; the
frequencies of the codes alone need 5.95. Second pair: 3.20 bits per test token given its label, against 7.56 from
frequencies alone, after 539 s for the tokenizer and 2812 s (1800 s of CPU time); all ten classes are recognisable, and
docs/results.md lists Frechet distances. The third pair has not run yet.
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
from jimgen.methods.autoregressive import token_autoregressive
from jimgen.methods.method import Method
from jimgen.nets.token_transformer import TokenTransformer
from jimgen.nets.transformer import Backbone, num_heads
from jimgen.runs.tokenizer import load_tokenizer
from jimgen.sampling.logits import LogitFilter


@dataclass(frozen=True, kw_only=True)
class Config(ScheduledConfig):
    tokenizer: str = field(default="", metadata=CONTAINED_RUN | DRAWING)
    """folder of a run of experiments/tokenizer.py on images of this size"""
    order: Literal["raster", "random"] = "raster"
    """reading order of the tokens: raster is row by row, random is drawn for each image"""
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
    guidance: float = field(default=1.0, metadata=DRAWING)
    """weight of classifier-free guidance; 1 for none"""
    temperature: float = field(default=1.0, metadata=DRAWING)
    """temperature of sampling; 0 takes the likeliest token"""
    top_k: int = field(default=0, metadata=DRAWING)
    """number of the likeliest tokens to draw from; 0 for all"""
    top_p: float = field(default=1.0, metadata=DRAWING)
    """probability p: draw from the fewest tokens that reach it together"""
    weight_decay: float = 0.05
    """weight decay of AdamW"""
    dtype: Literal["float32", "bfloat16"] = field(default="float32", metadata=DRAWING)
    """precision of matrix products; all else stays float32"""

    def check(self) -> None:
        super().check()
        num_heads(self.width, self.head_dim)


def build(config: Config, data: DataSpec) -> Method:
    tokenizer, frozen = load_tokenizer(config.tokenizer, data)
    num_classes = data.conditions if config.conditional else 0
    heads = num_heads(config.width, config.head_dim)
    backbone = Backbone(config.width, config.depth, heads, dropout=config.dropout, dtype=config.dtype)
    adamw = optax.adamw(config.schedule(), 0.9, 0.95, weight_decay=config.weight_decay)
    return token_autoregressive(
        TokenTransformer(tokenizer.num_codes, tokenizer.grid, num_classes, backbone),
        tokenizer,
        frozen,
        tx=optax.chain(optax.clip_by_global_norm(1.0), adamw),
        label_drop=config.label_drop,
        guidance=config.guidance,
        filter=LogitFilter(config.temperature, config.top_k, config.top_p),
        random_order=config.order == "random",
    )


if __name__ == "__main__":
    main(Config, build)
