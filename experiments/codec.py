"""Lossy codec: small pictures as few bytes, one model for several rates.

Two grids of integers describe a picture. A net decodes them; a prior that is evaluated in integers says which table of
an entropy coder codes each. The loss is -log p(latents) + ||x - D(latents)||^2 / (2 sigma^2), with a sigma for each
rate (Balle, Minnen et al., arXiv:1802.01436).

    python experiments/codec.py --data digits --steps 1000
    python experiments/codec.py --data fashion_mnist --steps 30000 --workdir runs/codec
    jimgen compress runs/codec pictures/*.png --rate 3 --out pictures.jgc
    jimgen decompress pictures.jgc --run runs/codec --out pictures-again
    python benchmarks/rate_distortion.py runs/codec

On an accelerator, 64 pixels, colour:

    python experiments/codec.py --data folder:pictures/ --size 64 --channels 3 --width 192 --depth 3 --hidden 128 \
        --fine-channels 48 --coarse-channels 96 --batch-size 128 --learning-rate 5e-4 --steps 100000 \
        --ema-half-life 200000 --dtype bfloat16

Results of the second command with --mode jit, seed 0, one core of an AMD EPYC whose other core was busy, 3249 s
(2026-11-27), on the whole test split: 26.6 bytes a picture at a PSNR of 24.1 dB, 46.7 at 28.2, 98.2 at 34.1. A WebP
mosaic has 53.8 at 24.3 and 103.8 at 30.2. See docs/compression.md. The last command has not run.
"""

from jimgen.experiment import (  # first, so that Ctrl-C works while JAX loads
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
from jimgen.methods.codec import Codec, codec, require_sigmas
from jimgen.nets.codec import Analysis, Channels, Prior, Synthesis
from jimgen.nets.layers import base_size


@dataclass(frozen=True, kw_only=True)
class Config(ScheduledConfig):
    sigmas: tuple[float, ...] = (0.42, 0.29, 0.2, 0.14, 0.1, 0.07, 0.048)
    """for each rate, the smallest files first, the standard deviation of pixels in [-1, 1] that the loss assumes"""
    coarse_channels: int = field(default=24, metadata=COUNT)
    """latents at each 8x8 pixels, an even number"""
    fine_channels: int = field(default=12, metadata=COUNT)
    """latents at each 4x4 pixels, an even number"""
    width: int = field(default=64, metadata=COUNT)
    """features at each 4x4 pixels; half as many at each 2x2 pixels, and 1.5 times as many at each 8x8"""
    depth: int = field(default=2, metadata=COUNT)
    """residual blocks of the synthesis on the grid of 4x4 pixels; the other grids, and the analysis, have one each"""
    hidden: int = field(default=64, metadata=COUNT)
    """units of the prior's hidden layers"""
    learning_rate: float = 3e-3
    """peak learning rate of Adam"""
    warmup_steps: int = 250
    """steps over which the learning rate rises from 0; then it falls to 0 along a cosine"""
    batch_size: int = 16
    """images a step, over all devices"""
    clip: float = 5000
    """largest norm of the gradient; 0 for no limit"""
    dtype: Literal["float32", "bfloat16"] = field(default="float32", metadata=DRAWING)
    """precision of analysis and synthesis; parameters and prior stay float32"""

    def check(self) -> None:
        super().check()
        require_sigmas(self.sigmas)


def build(config: Config, data: DataSpec) -> Codec:
    base_size(data.shape, 2, "the codec")
    steps = tuple(sigma / math.sqrt(config.sigmas[0] * config.sigmas[-1]) for sigma in config.sigmas)
    channels = Channels(config.coarse_channels, config.fine_channels)
    widths = max(1, config.width // 2), config.width, 3 * config.width // 2
    adam = optax.adam(config.schedule())
    return codec(
        Analysis(channels, steps, widths[1:], dtype=config.dtype),
        Synthesis(data.shape[-1], steps, widths, (1, config.depth, 1), dtype=config.dtype),
        Prior(channels.coarse, 0, len(steps), config.hidden),
        Prior(channels.fine, channels.coarse, len(steps), config.hidden),
        image_shape=data.shape,
        sigmas=config.sigmas,
        tx=optax.chain(optax.clip_by_global_norm(config.clip or math.inf), adam),
    )


if __name__ == "__main__":
    main(Config, build)
