"""Nets of a lossy codec: pictures to two grids of numbers and back, and a prior of these numbers once rounded.

The fine grid has a place for each 4x4 pixels, the coarse one for each 8x8. All nets are convolutional, so they take
pictures of any size whose sides are multiples of 4. One set of nets serves several rates: `rate` int32 [b] chooses the
gains of the latents and a scale and an offset of each block.
"""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array

from jimgen.nets.convolution import conv
from jimgen.nets.layers import Conv, ConvTranspose, Dtype, Initializer, Norm, along_last, at_least_float32, base_size

PATCH = 4  # pixels between places of the fine grid, each way
PHASES = ((0, 0), (1, 1), (0, 1), (1, 0))  # (row, column) parities, in the order of coding


class Latents(NamedTuple):
    """Numbers that describe pictures; as integers, what a file holds."""

    coarse: Array  # [b, ceil(h / 8), ceil(w / 8), channels]
    fine: Array  # [b, h / 4, w / 4, channels]


class Block(nn.Module):
    """x + conv(act(conv(norm(x) (1 + a) + b))), 3x3 and 1x1; a and b belong to the rate. It starts at the identity."""

    num_rates: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, rate: Array) -> Array:
        width = x.shape[-1]
        film = _of_rate(self, "film", nn.initializers.zeros, (self.num_rates, 2 * width), rate)
        scale, offset = jnp.split(film.astype(self.dtype), 2, axis=-1)
        y = Norm(affine=False, dtype=self.dtype, name="norm")(x) * (1 + scale) + offset
        y = nn.silu(Conv(width, kernel_size=3, stride=1, dtype=self.dtype, name="conv0")(y))
        options = {"kernel_size": 1, "stride": 1, "padding": 0, "dtype": self.dtype}
        return x + Conv(width, **options, kernel_init=nn.initializers.zeros, name="conv1")(y)


class Analysis(nn.Module):
    """Images [b, h, w, c] in [-1, 1] -> Latents, float32, before rounding.

    The initial gains of a rate are 1 / its entry of `steps`, the size of its quantisation steps.

    Raises:
        ValueError: for sides that are not multiples of 4.
    """

    channels: Latents  # channels of the two grids, ints
    steps: Sequence[float]
    widths: tuple[int, int] = (64, 96)  # of the features on the fine and the coarse grid
    depths: tuple[int, int] = (1, 1)  # blocks on them
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: Array, rate: Array) -> Latents:
        base_size(images.shape[1:], 2, "the analysis")
        options = {"dtype": self.dtype}
        x = Conv(self.widths[0], 2 * PATCH, PATCH, PATCH // 2, name="stem", **options)(images.astype(self.dtype))
        for i in range(self.depths[0]):
            x = Block(len(self.steps), name=f"fine{i}", **options)(x, rate)
        fine = Conv(self.channels.fine, 1, 1, 0, name="to_fine", **options)(x)
        x = Conv(self.widths[1], 2, 2, 0, name="down", **options)(even(x))
        for i in range(self.depths[1]):
            x = Block(len(self.steps), name=f"coarse{i}", **options)(x, rate)
        coarse = Conv(self.channels.coarse, 1, 1, 0, name="to_coarse", **options)(x)
        gains = [_gain(self, self.steps, x.shape[-1], name, rate) for name, x in (("coarse", coarse), ("fine", fine))]
        return Latents(at_least_float32(coarse) * gains[0], at_least_float32(fine) * gains[1])


class Synthesis(nn.Module):
    """Latents, rounded -> images float32 [b, h, w, channels], unbounded."""

    channels: int
    steps: Sequence[float]
    widths: tuple[int, int, int] = (
        32,
        64,
        96,
    )  # features of the pixels' grid halved, fine, coarse
    depths: tuple[int, int, int] = (1, 2, 1)  # blocks on them
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, latents: Latents, rate: Array) -> Array:
        options = {"dtype": self.dtype}
        inverse = [1 / step for step in self.steps]
        coarse, fine = (
            x * _gain(self, inverse, x.shape[-1], name, rate) for name, x in zip(Latents._fields, latents, strict=True)
        )
        x = Conv(self.widths[2], 3, 1, 1, name="from_coarse", **options)(coarse)
        for i in range(self.depths[2]):
            x = Block(len(self.steps), name=f"coarse{i}", **options)(x, rate)
        x = ConvTranspose(self.widths[1], 2, 2, 0, name="up0", **options)(x)[:, : fine.shape[1], : fine.shape[2]]
        x += Conv(self.widths[1], 3, 1, 1, name="from_fine", **options)(fine)
        for i in range(self.depths[1]):
            x = Block(len(self.steps), name=f"fine{i}", **options)(x, rate)
        x = ConvTranspose(self.widths[0], name="up1", **options)(x)
        for i in range(self.depths[0]):
            x = Block(len(self.steps), name=f"half{i}", **options)(x, rate)
        return at_least_float32(ConvTranspose(self.channels, name="output", **options)(x))


class Prior(nn.Module):
    """p(values) of a grid of rounded latents, place by place given the grid `above`: means and log scales of logistics.

    Places are coded in four phases, by the parities of row and column. A phase knows the values of those before it and
    the grid above. It computes a window of 3x3 places with an offset of the rate, then two layers of single places,
    with ReLU between them: arithmetic that a codec repeats in integers. This is the float form, for training.
    """

    channels: int
    above: int  # channels of the grid above; may be 0
    num_rates: int
    hidden: int = 64

    def setup(self) -> None:
        n, hidden, lecun, zeros = len(PHASES), self.hidden, nn.initializers.lecun_normal, nn.initializers.zeros
        self.window = self.param("window", lecun(batch_axis=0), (n, 3, 3, self.channels + self.above, hidden))
        self.rate = self.param("rate", zeros, (n, self.num_rates, hidden))
        self.middle = self.param("middle", lecun(batch_axis=0), (n, hidden, hidden))
        self.middle_bias = self.param("middle_bias", zeros, (n, hidden))
        self.output = self.param("output", zeros, (n, hidden, 2 * self.channels))
        self.output_bias = self.param("output_bias", zeros, (n, 2 * self.channels))

    def __call__(self, values: Array, above: Array, rate: Array) -> tuple[Array, Array]:
        """Mean and raw log scale of each value.

        Args:
            values: float [b, h, w, channels], rounded latents, or latents with noise.
            above: float [b, h, w, above], what is known of these places already.
            rate: int32 [b].
        Returns: two float32 [b, h, w, channels].
        """
        height, width = values.shape[1:3]
        values, above = even(values), even(above)
        found = [self.phase(k, values, above, rate) for k in range(len(PHASES))]
        cells = jnp.stack([found[PHASES.index(parity)] for parity in np.ndindex(2, 2)], axis=3)
        cells = cells.reshape(*cells.shape[:3], 2, 2, -1).swapaxes(2, 3)
        mean, log_scale = jnp.split(cells.reshape(*values.shape[:3], -1)[:, :height, :width], 2, axis=-1)
        return mean, log_scale

    def phase(self, k: int, values: Array, above: Array, rate: Array) -> Array:
        """Means and log scales of phase k, joined: [b, h/2, w/2, 2 channels]. The sides of both grids are even."""
        i, j = PHASES[k]
        known = jnp.concatenate([values * is_known(k, values.shape[1:3]), above], -1)
        known = jnp.pad(known, ((0, 0), (1 - i, i), (1 - j, j), (0, 0)))
        x = conv(known, self.window[k], stride=2, padding=0)
        x = nn.relu(x + self.rate[k][rate][:, None, None])
        x = nn.relu(x @ self.middle[k] + along_last(self.middle_bias[k], x))
        return x @ self.output[k] + self.output_bias[k][None, None, None]


def is_known(k: int, size: tuple[int, int]) -> np.ndarray:
    """float32 [1, h, w, 1]: 1 at the places of the phases before k, else 0."""
    known = np.zeros((1, *size, 1), np.float32)
    for i, j in PHASES[:k]:
        known[:, i::2, j::2] = 1
    return known


def even(x: Array) -> Array:
    """Appends a row and a column of zeros where the sides of x [b, h, w, c] are odd."""
    return jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))


def doubled(x: Array, like: Array) -> Array:
    """Repeats each place of x [b, h, w, c] 2x2 times and crops to the height and width of `like`."""
    return x.repeat(2, axis=1).repeat(2, axis=2)[:, : like.shape[1], : like.shape[2]]


def _of_rate(module: nn.Module, name: str, init: Initializer, shape: tuple[int, int], rate: Array) -> Array:
    """The row of each example's rate, of a table of parameters [rates, n]: [b, 1, 1, n]."""
    return module.param(name, init, shape)[rate][:, None, None]


def _gain(module: nn.Module, steps: Sequence[float], channels: int, name: str, rate: Array) -> Array:
    def init(key: Array, shape: tuple[int, int]) -> Array:
        return -jnp.broadcast_to(jnp.log(jnp.asarray(steps))[:, None], shape)

    return jnp.exp(_of_rate(module, f"{name}_gain", init, (len(steps), channels), rate))
