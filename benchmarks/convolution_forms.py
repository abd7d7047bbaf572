"""Grouped convolution and resampling by [1, 3, 3, 1] in several forms: how fast is each on this device?

    python benchmarks/convolution_forms.py --seconds .5

Prints a table for each size: milliseconds forward, of the gradients with the forward pass, and of the gradients of R1
(the squared gradient in the image), each as wall time / CPU time over all threads. R1 is that of one operation and a
tanh, so it runs each derivative of an operation at least once. The forms in use are those of `jimgen.nets.grouped` and
`jimgen.nets.resampling`. All forms but those in brackets compute the same, which is checked.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax import Array, lax

from jimgen.cpu import compiler_options, keep_freed_memory
from jimgen.nets.grouped import grouped_conv
from jimgen.nets.resampling import downsample, upsample

NHWC = ("NHWC", "HWIO", "NHWC")
GROUPED = ((32, 16, 128, 16), (32, 8, 256, 16), (32, 32, 64, 16))  # batch, side, channels, channels of a group
RESAMPLED = ((32, 16, 128), (32, 32, 64))  # batch, larger side, channels
Form = Callable[..., Array]


@dataclasses.dataclass(frozen=True)
class Args:
    seconds: float = 0.5
    """time for each of the three numbers of a form, after compiling"""
    only: str = ""
    """tables whose titles contain this; by default, all"""


# Grouped 3x3 convolutions, x [b, h, w, c], kernel [3, 3, c / groups, o], zeros around the image


def native(x: Array, k: Array, groups: int) -> Array:
    return lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=NHWC, feature_group_count=groups)


def masked(x: Array, k: Array, groups: int) -> Array:
    """One dense convolution with a block-diagonal kernel."""
    i, j, a, o = k.shape
    same = jnp.eye(groups, dtype=k.dtype)[None, None, :, None, :, None]
    k = (k.reshape(i, j, 1, a, groups, o // groups) * same).reshape(i, j, groups * a, o)
    return lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=NHWC)


def in_pieces(merged: int, x: Array, k: Array, groups: int) -> Array:
    """`masked`, for each piece of some groups."""
    pieces = zip(jnp.split(x, groups // merged, 3), jnp.split(k, groups // merged, 3), strict=True)
    return jnp.concatenate([masked(part, taps, merged) for part, taps in pieces], axis=3)


def taps(x: Array, k: Array, groups: int) -> Array:
    """A batched matrix product for each tap, over groups."""
    windows, k = _windows(x, groups), _by_group(k, groups)
    return _ungrouped(sum(window @ k[:, t] for t, window in enumerate(windows)), x)  # pyright: ignore[reportArgumentType]


def patches(x: Array, k: Array, groups: int) -> Array:
    """One batched matrix product, of patches and kernels."""
    k = _by_group(k, groups)
    return _ungrouped(jnp.concatenate(_windows(x, groups), axis=-1) @ k.reshape(groups, -1, k.shape[-1]), x)


def _windows(x: Array, groups: int) -> list[Array]:
    """x shifted to each tap: nine arrays [groups, b h w, c / groups]."""
    b, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))).reshape(b, h + 2, w + 2, groups, -1).transpose(3, 0, 1, 2, 4)
    return [x[:, :, i : i + h, j : j + w].reshape(groups, b * h * w, c // groups) for i, j in np.ndindex(3, 3)]


def _by_group(k: Array, groups: int) -> Array:
    """[3, 3, a, o] -> [groups, 9, a, o / groups]."""
    return k.reshape(9, k.shape[2], groups, -1).transpose(2, 0, 1, 3)


def _ungrouped(y: Array, x: Array) -> Array:
    return y.reshape(len(y), *x.shape[:3], -1).transpose(1, 2, 3, 0, 4).reshape(*x.shape[:3], -1)


# Resampling, x [b, h, w, c]


def depthwise(up: bool, x: Array) -> Array:
    """The native convolution with one group for each channel."""
    kernel = np.outer([1, 3, 3, 1], [1, 3, 3, 1])[:, :, None, None] / (16 if up else 64)
    kernel = jnp.tile(jnp.asarray(kernel, x.dtype), (1, 1, 1, x.shape[3]))
    stride, dilation, pad = ((1, 1), (2, 2), (2, 2)) if up else ((2, 2), (1, 1), (1, 1))
    return lax.conv_general_dilated(
        x, kernel, stride, (pad, pad), dilation, dimension_numbers=NHWC, feature_group_count=x.shape[3]
    )


def matrices(up: bool, x: Array) -> Array:
    """A product with a resampling matrix for each axis."""
    rows, columns = (jnp.asarray(_matrix(up, n), x.dtype) for n in x.shape[1:3])
    return jnp.einsum("Hh,bhwc,Ww->bHWc", rows, x, columns)


def _matrix(up: bool, size: int) -> np.ndarray:
    small = size if up else size // 2
    distance = np.abs(np.arange(2 * small)[:, None] - (2 * np.arange(small) + 0.5)[None])
    doubling = np.where(distance < 1, 3, np.where(distance < 2, 1, 0)) / 4
    return doubling if up else doubling.T / 2


def slices(up: bool, x: Array) -> Array:
    """Shifted sums, one axis after the other, with the gradients that JAX derives."""
    for axis in (1, 2):
        pads = [(1, 1) if i == axis else (0, 0) for i in range(4)]
        padded, size = jnp.pad(x, pads), x.shape[axis]
        part = partial(lax.slice_in_dim, padded, axis=axis)
        if up:
            before, middle, after = (part(i, i + size) for i in range(3))
            pairs = jnp.stack([before + 3 * middle, 3 * middle + after], axis=axis + 1) / 4
            x = pairs.reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
        else:
            taps = [part(i, i + size - 1, 2) for i in range(4)]
            x = (taps[0] + 3 * taps[1] + 3 * taps[2] + taps[3]) / 8
    return x


def box(up: bool, x: Array) -> Array:
    """Repeats pixels, or averages squares of four: without anti-aliasing."""
    if up:
        return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def box_and_filter(up: bool, x: Array) -> Array:
    """[1, 3, 3, 1] as `box` and [1, 2, 1]: after repeating, or before averaging. Exact away from the edges."""
    x = box(True, x) if up else x
    for axis in (1, 2):
        padded = jnp.pad(x, [(1, 1) if i == axis else (0, 0) for i in range(4)])
        before, middle, after = (lax.slice_in_dim(padded, i, i + x.shape[axis], axis=axis) for i in range(3))
        x = (before + 2 * middle + after) / 4
    return x if up else box(False, x)


# Measuring


def programs(form: Form, *arguments: Array) -> list[Form]:
    """Forward pass; gradients; gradients of R1, the squared norm of the gradient in the first argument."""
    places = tuple(range(len(arguments)))

    def score(*arguments: Array) -> Array:
        return jnp.tanh(form(*arguments)).sum()

    def penalty(*arguments: Array) -> Array:
        return jnp.square(jax.grad(score)(*arguments)).sum()

    return [form, jax.grad(score, places), jax.grad(penalty, places)]


def milliseconds(program: Form, arguments: tuple[Array, ...], seconds: float) -> str:
    """Medians of wall and CPU time of a compiled program."""
    options: Any = compiler_options(jax.default_backend())
    run = jax.jit(program, compiler_options=options).lower(*arguments).compile()
    jax.block_until_ready(run(*arguments))
    walls, cpus, began = [], [], time.perf_counter()
    while len(walls) < 3 or time.perf_counter() - began < seconds:
        wall, cpu = time.perf_counter(), time.process_time()
        jax.block_until_ready(run(*arguments))
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return " / ".join(f"{1e3 * statistics.median(times):.2f}" for times in (walls, cpus))


def table(title: str, forms: dict[str, Form], arguments: tuple[Array, ...], args: Args) -> None:
    """Prints a row for each form; the first one in use, `jimgen`, is what the others must equal."""
    if args.only not in title:
        return
    print(f"\n| {title} | forward | gradients | gradients of R1 |\n|---|---|---|---|", flush=True)
    expected = forms["jimgen"](*arguments)
    for name, form in forms.items():
        if not name.startswith("("):
            np.testing.assert_allclose(form(*arguments), expected, rtol=1e-3, atol=1e-3)
        times = [milliseconds(program, arguments, args.seconds) for program in programs(form, *arguments)]
        print(f"| {name} | {' | '.join(times)} |", flush=True)


def main(args: Args) -> None:
    keep_freed_memory()
    for batch, side, channels, size in GROUPED:
        groups = channels // size
        forms = {
            "jimgen": grouped_conv,
            "native": native,
            "one dense, masked": masked,
            **{f"dense for each {n} groups": partial(in_pieces, n) for n in (2, 4) if groups % n == 0 and n < groups},
            "product for each tap": taps,
            "product of patches": patches,
        }
        x = jax.random.normal(jax.random.key(0), (batch, side, side, channels))
        k = jax.random.normal(jax.random.key(1), (3, 3, size, channels)) / (9 * size) ** 0.5
        title = f"{groups} groups of {size}, {side}x{side}, batch {batch}"
        table(title, {name: partial(form, groups=groups) for name, form in forms.items()}, (x, k), args)
    for batch, side, channels in RESAMPLED:
        for up, in_use in ((True, upsample), (False, downsample)):
            others = {
                "slices": slices,
                "depthwise": depthwise,
                "matrices": matrices,
                "(box and [1, 2, 1])": box_and_filter,
                "(box)": box,
            }
            forms = {"jimgen": in_use, **{name: partial(form, up) for name, form in others.items()}}
            small = side // 2 if up else side
            x = jax.random.normal(jax.random.key(0), (batch, small, small, channels))
            title = f"{'up to' if up else 'down from'} {side}x{side}x{channels}, batch {batch}"
            table(title, forms, (x,), args)


if __name__ == "__main__":
    main(tyro.cli(Args))
