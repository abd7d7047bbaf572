"""Nets of a lossy codec: pictures to two grids of numbers and back, and a prior of these numbers once rounded.

The fine grid has a place for each 4x4 pixels, the coarse one for each 8x8. All nets are convolutional, so they take
pictures of any size whose sides are multiples of 4. One set of nets serves several rates: `rate` int32 [b] chooses the
gains of the latents and a scale and an offset of each block.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array

from jimgen.nets.convolution import conv
from jimgen.nets.layers import Conv, ConvTranspose, Dtype, Initializer, Norm, along_last, at_least_float32, base_size

PATCH = 4  # pixels between places of the fine grid, each way
PHASES = ((0, 0), (1, 1), (0, 1), (1, 0))  # (row, column) parities, in the order of coding
NUM_STEPS = 2 * len(PHASES)  # of a grid: half of the channels at a time
WINDOW = 5  # places each way, of known values


class Latents(NamedTuple):
    """Numbers that describe pictures, arrays of JAX or NumPy; as integers, what a file holds."""

    coarse: Any  # [b, ceil(h / 8), ceil(w / 8), channels]
    fine: Any  # [b, h / 4, w / 4, channels]


class Channels(NamedTuple):
    """Channels of the two grids of latents, each an even number."""

    coarse: int
    fine: int


_UNIFORM = nn.initializers.lecun_uniform()  # compiles faster than the normal one
_UNIFORM_TRANSPOSED = nn.initializers.lecun_uniform(in_axis=-1, out_axis=-2)


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
        y = nn.silu(Conv(width, 3, 1, 1, kernel_init=_UNIFORM, dtype=self.dtype, name="conv0")(y))
        return x + Conv(width, 1, 1, 0, kernel_init=nn.initializers.zeros, dtype=self.dtype, name="conv1")(y)


class Analysis(nn.Module):
    """Images [b, h, w, c] in [-1, 1] -> Latents, float32, before rounding.

    The initial gains of a rate are 1 / its entry of `steps`, the size of its quantisation steps. The nets compute with
    levels from 0, so that the zeros around a picture, and latents of zero, are black.

    Raises:
        ValueError: for sides that are not multiples of 4.
    """

    channels: Channels
    steps: Sequence[float]
    widths: tuple[int, int] = (64, 96)  # of the features on the fine and the coarse grid
    depths: tuple[int, int] = (1, 1)  # blocks on them
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: Array, rate: Array) -> Latents:
        base_size(images.shape[1:], 2, "the analysis")
        layer = partial(Conv, kernel_init=_UNIFORM, dtype=self.dtype)
        x = layer(self.widths[0], 2 * PATCH, PATCH, PATCH // 2, name="stem")(images.astype(self.dtype) + 1)
        for i in range(self.depths[0]):
            x = Block(len(self.steps), dtype=self.dtype, name=f"fine{i}")(x, rate)
        fine = layer(self.channels.fine, 1, 1, 0, name="to_fine")(x)
        x = layer(self.widths[1], 2, 2, 0, name="down")(even(x))
        for i in range(self.depths[1]):
            x = Block(len(self.steps), dtype=self.dtype, name=f"coarse{i}")(x, rate)
        coarse = layer(self.channels.coarse, 1, 1, 0, name="to_coarse")(x)
        gains = [_gain(self, self.steps, x.shape[-1], name, rate) for name, x in (("coarse", coarse), ("fine", fine))]
        return Latents(at_least_float32(coarse) * gains[0], at_least_float32(fine) * gains[1])


class Synthesis(nn.Module):
    """Latents, rounded -> images float32 [b, h, w, channels], unbounded."""

    channels: int
    steps: Sequence[float]
    widths: tuple[int, int, int] = (32, 64, 96)  # of the features at each 2x2 pixels, on the fine and the coarse grid
    depths: tuple[int, int, int] = (1, 2, 1)  # blocks on them
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, latents: Latents, rate: Array) -> Array:
        layer = partial(Conv, kernel_init=_UNIFORM, dtype=self.dtype)
        transposed = partial(ConvTranspose, kernel_init=_UNIFORM_TRANSPOSED, dtype=self.dtype)
        inverse = [1 / step for step in self.steps]
        coarse, fine = (
            x * _gain(self, inverse, x.shape[-1], name, rate) for name, x in zip(Latents._fields, latents, strict=True)
        )
        x = layer(self.widths[2], 3, 1, 1, name="from_coarse")(coarse)
        for i in range(self.depths[2]):
            x = Block(len(self.steps), dtype=self.dtype, name=f"coarse{i}")(x, rate)
        x = transposed(self.widths[1], 2, 2, 0, name="up0")(x)[:, : fine.shape[1], : fine.shape[2]]
        x += layer(self.widths[1], 3, 1, 1, name="from_fine")(fine)
        for i in range(self.depths[1]):
            x = Block(len(self.steps), dtype=self.dtype, name=f"fine{i}")(x, rate)
        x = transposed(self.widths[0], name="up1")(x)
        for i in range(self.depths[0]):
            x = Block(len(self.steps), dtype=self.dtype, name=f"half{i}")(x, rate)
        return at_least_float32(transposed(self.channels, name="output")(x)) - 1


class Prior(nn.Module):
    """p(values) of a grid of rounded latents, given the grid above it, if any: means and log scales of logistics.

    Values are coded in eight steps: `PHASES` of places, by the parities of row and column, and in each phase the first
    half of the channels, then the second. A step knows the values of the steps before it in a window of 5x5 places, and
    two convolutions of the grid above, which has a place for each 2x2 here. All is sums and ReLU, which a codec repeats
    in integers; this is the float form, for training.

    Raises:
        ValueError: for an odd number of channels.
    """

    channels: int
    above: int  # channels of the grid above; 0 where there is none
    num_rates: int
    hidden: int = 64

    def setup(self) -> None:
        if self.channels % 2:
            raise ValueError(f"a prior of {self.channels} channels: the number must be even")
        n, c, hidden, zeros = NUM_STEPS, self.channels, self.hidden, nn.initializers.zeros
        lecun, lecun_of_step = nn.initializers.lecun_uniform(), nn.initializers.lecun_uniform(batch_axis=0)
        if self.above:
            self.above0 = self.param("above0", lecun, (3, 3, self.above, hidden))
            self.above0_bias = self.param("above0_bias", zeros, (hidden,))
            self.above1 = self.param("above1", lecun, (3, 3, hidden, hidden))
            self.above1_bias = self.param("above1_bias", zeros, (hidden,))
            self.across = self.param("across", lecun_of_step, (n, hidden, hidden))
        self.window = self.param("window", lecun_of_step, (n, WINDOW, WINDOW, c, hidden))
        self.rate = self.param("rate", zeros, (n, self.num_rates, hidden))
        self.middle = self.param("middle", lecun_of_step, (n, hidden, hidden))
        self.middle_bias = self.param("middle_bias", zeros, (n, hidden))
        self.output = self.param("output", zeros, (n, hidden, c))
        self.output_bias = self.param("output_bias", zeros, (n, c))

    def __call__(self, values: Array, above: Array | None, rate: Array) -> tuple[Array, Array]:
        """Mean and raw log scale of each value.

        Args:
            values: float [b, h, w, channels], rounded latents, or latents with noise.
            above: float [b, ceil(h / 2), ceil(w / 2), above], or None if there is no grid above.
            rate: int32 [b].
        Returns: two float32 [b, h, w, channels].
        """
        height, width = values.shape[1:3]
        values = even(values)
        found = self.steps(values, self.seen(above), rate)
        parts = []
        for part in jnp.split(found, 2, axis=-1):  # mean, raw log scale
            phases = [jnp.concatenate([part[k], part[k + 1]], -1) for k in range(0, NUM_STEPS, 2)]
            cells = jnp.stack([phases[PHASES.index(parity)] for parity in np.ndindex(2, 2)], axis=3)
            cells = cells.reshape(*cells.shape[:3], 2, 2, -1).swapaxes(2, 3)
            parts.append(cells.reshape(values.shape)[:, :height, :width])
        return parts[0], parts[1]

    def seen(self, above: Array | None) -> Array | None:
        """What the steps see of the grid above: [b, h / 2, w / 2, hidden]."""
        if above is None:
            return None
        x = nn.relu(conv(above, self.above0) + along_last(self.above0_bias, above))
        return nn.relu(conv(x, self.above1) + along_last(self.above1_bias, x))

    def steps(self, values: Array, seen: Array | None, rate: Array) -> Array:
        """Means and raw log scales of all steps, joined: [steps, b, h / 2, w / 2, channels], for even sides h and w."""
        masks = jnp.asarray([is_known(k, self.channels) for k in range(NUM_STEPS)])
        windows, hidden = self.window * masks, self.hidden
        found = []
        for p, (i, j) in enumerate(PHASES):
            padded = jnp.pad(values, ((0, 0), (2 - i, i + 1), (2 - j, j + 1), (0, 0)))
            kernel = jnp.concatenate([windows[2 * p], windows[2 * p + 1]], -1)
            found += jnp.split(conv(padded, kernel, stride=2, padding=0), [hidden], axis=-1)
        x = jnp.stack(found) + self.rate[:, rate][:, :, None, None]
        if seen is not None:
            x += jnp.einsum("buvh,khg->kbuvg", seen, self.across)
        x = nn.relu(x)
        x = nn.relu(jnp.einsum("kbuvh,khg->kbuvg", x, self.middle) + self.middle_bias[:, None, None, None])
        return jnp.einsum("kbuvh,khg->kbuvg", x, self.output) + self.output_bias[:, None, None, None]


def is_known(k: int, channels: int) -> np.ndarray:
    """Which taps of its window step k knows: float32 [5, 5, channels, 1], 1 or 0."""
    known = np.zeros((WINDOW, WINDOW, channels, 1), np.float32)
    i, j = PHASES[k // 2]
    for row, column in np.ndindex(WINDOW, WINDOW):
        phase = PHASES.index(((i + row) % 2, (j + column) % 2))  # the middle of the window is even: row 2, column 2
        if phase < k // 2:
            known[row, column] = 1
        elif phase == k // 2 and k % 2:
            known[row, column, : channels // 2] = 1
    return known


def of_step(k: int, channels: int) -> slice:
    """The channels that step k codes."""
    return slice(channels // 2, channels) if k % 2 else slice(0, channels // 2)


def even(x: Array) -> Array:
    """Appends a row and a column of zeros where the sides of x [b, h, w, c] are odd."""
    return jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))


def _of_rate(module: nn.Module, name: str, init: Initializer, shape: tuple[int, int], rate: Array) -> Array:
    """The row of each example's rate, of a table of parameters [rates, n]: [b, 1, 1, n]."""
    return module.param(name, init, shape)[rate][:, None, None]


def _gain(module: nn.Module, steps: Sequence[float], channels: int, name: str, rate: Array) -> Array:
    def init(key: Array, shape: tuple[int, int]) -> Array:
        return -jnp.broadcast_to(jnp.log(jnp.asarray(steps))[:, None], shape)

    return jnp.exp(_of_rate(module, f"{name}_gain", init, (len(steps), channels), rate))
