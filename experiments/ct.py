"""Slices of computed tomography: a flow that reconstructs them from few views, a limited angle or a low dose.

    python experiments/ct.py --data phantom:ct --size 64 --patch 8 --steps 2000 --workdir runs/ct
    jimgen data phantom:ct --size 64 --out slices.png
    jimgen restore runs/ct slice.png --task ct --views 16 --simulate
    python benchmarks/ct.py runs/ct

The net and its loss are those of flow.py, without labels: nobody knows them before the reconstruction. `jimgen restore`
and the benchmark draw slices that agree with a sinogram, by jimgen/sampling/posterior.py. Your own slices, split by
patient, are --data medical:FOLDER (docs/data.md). Research only: no clinical claim.

On an accelerator, larger slices:

    python experiments/ct.py --data folder:slices/ --channels 1 --size 128 --width 384 --depth 12 --head-dim 64 \
        --batch-size 256 --learning-rate 5e-4 --warmup-steps 1000 --steps 40000 --ema-half-life 180000 --dtype bfloat16

Result of the first command, seed 0: test flow loss .060 after 1076 CPU s on one core that also had other work (AMD
EPYC, 2026-11-26). In a first try patches of 8 pixels had a training loss of .12 after 190 s, patches of 4 one of .19
after about 540 s. The mean of 19 reconstructions from 16 views has a PSNR of 31.2 dB, that of total variation 28.2, and
from 90 degrees 30.6 and 20.2 (SART: 21.4); docs/results.md has the whole table. The last command has not run.
"""

from jimgen.experiment import COUNT, DRAWING, ScheduledConfig, main  # first, so that Ctrl-C works while JAX loads

# isort: split
import math
from dataclasses import dataclass, field
from typing import Literal

import optax

from jimgen.data.dataset import DataSpec
from jimgen.methods.flow import flow
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
    num_steps: int = field(default=50, metadata=DRAWING)
    """number of sampling steps"""
    learning_rate: float = 2e-3
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
    backbone = Backbone(
        width=config.width,
        depth=config.depth,
        num_heads=num_heads(config.width, config.head_dim),
        dtype=config.dtype,
    )
    adamw = optax.adamw(config.schedule(), 0.9, config.beta2, weight_decay=0.0)
    return flow(
        DiffusionTransformer(config.patch, 0, backbone),
        image_shape=data.shape,
        num_classes=0,
        tx=optax.chain(optax.clip_by_global_norm(config.clip or math.inf), adamw),
        prediction="data",
        num_steps=config.num_steps,
    )


if __name__ == "__main__":
    main(Config, build)
