"""Attention and convolution in each form that the project knows: is it right on this device, and how fast?

benchmarks/accelerator.py runs these. Each function measures one form and returns the columns of one row. Differences
are relative: the largest absolute difference to the same operation in float32 at full precision, on the same (rounded)
inputs, as a part of the largest absolute value there. A float32 product on a GPU may use TF32, whose inputs have 10
bits behind the point, so that a difference of 1e-3 is ordinary there.
"""

import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jimgen.nets import convolution, winograd
from jimgen.nets.transformer import causal_mask, cudnn_attention, einsum_attention, xla_attention

ATTENTIONS = {"einsum": einsum_attention, "xla": xla_attention, "cudnn": cudnn_attention}
NHWC = ("NHWC", "HWIO", "NHWC")
MOST_CALLS = 100  # that wait on the device at once
Row = dict[str, Any]
Form = Callable[..., Any]


class Timing(NamedTuple):
    repeats: int  # at most, of which the median counts
    seconds: float  # of calls in each, which are one at least

    @property
    def most_seconds(self) -> float:
        """After which no more repeats begin: on a slow device one call may take longer than all were meant to."""
        return 2 * self.repeats * self.seconds


class Tokens(NamedTuple):
    """What attention runs over: q, k and v are [batch, length, heads, head_dim]."""

    batch: int
    length: int
    heads: int
    head_dim: int
    causal: bool


class Picture(NamedTuple):
    """A square convolution x [b, side, side, channels] -> y [b, side / stride, side / stride, features]."""

    batch: int
    side: int
    channels: int
    features: int
    kernel: int
    stride: int
    groups: int = 1

    def __str__(self) -> str:
        size = f"{self.side}x{self.side}x{self.channels} to {self.features}, {self.kernel}x{self.kernel}"
        return size + f", stride {self.stride}" * (self.stride > 1) + f", {self.groups} groups" * (self.groups > 1)


def median_ms(call: Callable[[], Any], timing: Timing) -> float:
    """Milliseconds of a call that is compiled already: the median over repeats of many calls that are waited for once.

    One call at a time would measure how long it takes to start a program, which on an accelerator is longer than many
    an operation.
    """
    began = time.perf_counter()
    jax.block_until_ready(call())
    number = max(1, min(MOST_CALLS, int(timing.seconds / (time.perf_counter() - began))))
    times = []
    while not times or (len(times) < timing.repeats and number * sum(times) < timing.most_seconds):
        began, result = time.perf_counter(), None
        for _ in range(number):
            result = call()
        jax.block_until_ready(result)
        times.append((time.perf_counter() - began) / number)
    return 1e3 * statistics.median(times)


@partial(jax.jit, static_argnums=0)
def run_form(form: Form, *arguments: Array) -> Any:
    """`form(*arguments)`, compiled. The compiled program is kept for as long as the form is the same object."""
    return form(*arguments)


def measure_form(form: Form, reference: Form, arguments: tuple[Array, ...], dtype: str, timing: Timing) -> Row:
    """Milliseconds of a form, and its difference to a reference.

    Args:
      form: from arrays of `dtype` to an array, or a tree of them.
      reference: the same function, which runs in float32 at full precision.
      arguments: float32; both see them rounded to `dtype`.
    Returns:
      `ms` and `difference`, relative as the docstring of this file says.
    Raises:
      ArithmeticError: the form's result is not finite.
    """
    rounded = tuple(x.astype(dtype) for x in arguments)
    with jax.default_matmul_precision("highest"):
        expected = run_form(reference, *(x.astype(jnp.float32) for x in rounded))
    difference = float(relative_difference(run_form(form, *rounded), expected))
    if not math.isfinite(difference):
        raise ArithmeticError("the result is not finite")
    return {"ms": median_ms(lambda: run_form(form, *rounded), timing), "difference": difference}


@jax.jit
def relative_difference(found: Any, expected: Any) -> Array:
    """Over a tree of arrays, the largest of max |found - expected| / max |expected|; NaN where anything is NaN."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return jnp.max(jnp.stack([jnp.max(jnp.abs(a.astype(b.dtype) - b)) / jnp.max(jnp.abs(b)) for a, b in pairs]))


def arrays(*shapes: tuple[int, ...]) -> tuple[Array, ...]:
    """Normal draws in float32, the same for every form. Made on the device: large ones take long to travel."""
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return tuple(jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))


# Attention


def without_cudnn() -> str | None:
    """Why cuDNN cannot run on the default device; None if it can."""
    kind = jax.devices()[0].device_kind
    nvidia = jax.default_backend() == "gpu" and "cuda" in jax.devices()[0].client.platform_version.lower()
    return None if nvidia else f"cuDNN runs on NVIDIA GPUs, not on {kind}"


def attend(form: str, causal: bool, q: Array, k: Array, v: Array) -> Array:
    """Attention [b, t, heads, d] in a form of ATTENTIONS."""
    mask = causal_mask(q.shape[1])[None, None] if causal else None
    return ATTENTIONS[form](q, k, v, mask)


def attend_backward(form: str, causal: bool, q: Array, k: Array, v: Array, gradient: Array) -> tuple[Array, ...]:
    """The gradients of attention in q, k and v; a program of this alone also runs the forward pass."""
    return jax.vjp(partial(attend, form, causal), q, k, v)[1](gradient)


def measure_attention(form: str, tokens: Tokens, dtype: str, timing: Timing) -> Row:
    """Forward pass, and forward and backward pass together, beside einsum in float32."""
    if form == "cudnn" and (reason := without_cudnn()):
        return {"skipped": reason}
    inputs = arrays(*[(tokens.batch, tokens.length, tokens.heads, tokens.head_dim)] * 4)
    forward, backward = (
        measure_form(partial(f, form, tokens.causal), partial(f, "einsum", tokens.causal), given, dtype, timing)
        for f, given in ((attend, inputs[:3]), (attend_backward, inputs))
    )
    return {
        "forward_ms": forward["ms"],
        "forward_and_backward_ms": backward["ms"],
        "difference": forward["difference"],
        "gradient_difference": backward["difference"],
    }


# Convolution. jimgen.nets.convolution keeps its forms to itself, and chooses one for each platform. They are reached
# into here, because this is the measurement that the choice rests on.


def convolution_forms(p: Picture) -> dict[str, dict[str, Form]]:
    """Forms by operation: C(x, k), T(y, k) and W(x, y) of jimgen.nets.convolution; the first of each is the native one.

    C and T are each other's gradients, and W is the kernel gradient of both.
    """
    pad = (p.kernel - p.stride) // 2, -((p.stride - p.kernel) // 2)
    pads = pad, pad
    g = convolution._Geometry((p.side, p.side), (p.kernel, p.kernel), (p.stride, p.stride), pads)
    forms: dict[str, dict[str, Form]] = {
        "convolution": {"native": partial(convolution._c_native, g)},
        "transposed": {"native": partial(convolution._t_native, g)},
        "kernel gradient": {
            "native": partial(convolution._w_native, g),
            "transposed convolution's": partial(_library_kernel_gradient, p),
        },
    }
    if p.kernel**2 * p.channels <= 32:
        forms["convolution"]["sums"] = partial(convolution._c_sums, g)
    if p.stride > 1:
        forms["transposed"]["phases"] = partial(convolution._t_phases, g)
        forms["transposed"]["matmul"] = partial(convolution._t_matmul, g)
    if p.kernel == 2 * p.stride:
        around: Any = {"stride": g.stride, "before": (pad[0], pad[0])}
        small = (p.side // p.stride, p.side // p.stride)
        forms["convolution"]["winograd"] = partial(winograd.convolution, size=small, **around)
        forms["transposed"]["winograd"] = partial(winograd.transposed, size=g.picture, **around)
        forms["kernel gradient"]["winograd"] = partial(winograd.kernel_gradient, **around)
    return forms


def _library_kernel_gradient(p: Picture, x: Array, y: Array) -> Array:
    """W by the library's own rule for a transposed convolution, of which the family keeps clear."""

    def transposed(k: Array) -> Array:
        return lax.conv_transpose(y, k, (p.stride,) * 2, "SAME", transpose_kernel=True)

    kernel = jax.ShapeDtypeStruct((p.kernel, p.kernel, p.channels, p.features), x.dtype)
    return jax.linear_transpose(transposed, kernel)(x)[0]


def convolution_inputs(operation: str, p: Picture) -> tuple[Array, ...]:
    """The two of x, y and the kernel that an operation takes, float32. The kernel keeps the variance of its input."""
    small = p.side // p.stride
    x, y, k = arrays(
        (p.batch, p.side, p.side, p.channels),
        (p.batch, small, small, p.features),
        (p.kernel, p.kernel, p.channels // p.groups, p.features),
    )
    k = k / (p.kernel * p.kernel * p.channels // p.groups) ** 0.5
    return {"convolution": (x, k), "transposed": (y, k), "kernel gradient": (x, y), "forward": (x, k)}.get(
        operation, (x, k, y)
    )


# Grouped convolution: x [b, h, w, c], k [i, j, c / groups, o] -> [b, h, w, o], stride 1.


def grouped_native(groups: int, x: Array, k: Array) -> Array:
    """The library's."""
    return lax.conv_general_dilated(x, k, (1, 1), "SAME", feature_group_count=groups, dimension_numbers=NHWC)


def grouped_masked(groups: int, x: Array, k: Array) -> Array:
    """One convolution over all channels, whose kernel is zero between groups: `groups` times the products."""
    i, j, c, o = k.shape
    blocks = k.reshape(i, j, 1, c, groups, o // groups) * jnp.eye(groups, dtype=k.dtype).reshape(
        1, 1, groups, 1, groups, 1
    )
    return lax.conv_general_dilated(x, blocks.reshape(i, j, groups * c, o), (1, 1), "SAME", dimension_numbers=NHWC)


def grouped_shifted(groups: int, x: Array, k: Array) -> Array:
    """A multiply-add a tap, of channels that each have a group of their own (c / groups = 1, o = c)."""
    assert groups == x.shape[3] == k.shape[3]
    (i, j), (_, h, w, _) = k.shape[:2], x.shape
    x = jnp.pad(x, ((0, 0), ((i - 1) // 2, i // 2), ((j - 1) // 2, j // 2), (0, 0)))
    taps = (x[:, a : a + h, b : b + w] * k[a, b].reshape(1, 1, 1, -1) for a, b in np.ndindex(i, j))
    return sum(taps, jnp.zeros((), x.dtype))


def grouped_backward(form: Form, x: Array, k: Array, gradient: Array) -> tuple[Array, Array]:
    """Both gradients. The operation is bilinear, so that the program holds no forward pass."""
    return jax.vjp(form, x, k)[1](gradient)


def grouped_forms(p: Picture) -> dict[str, dict[str, Form]]:
    """Forms by operation, forward and backward; the first of each is the native one."""
    forms = {"native": partial(grouped_native, p.groups), "masked dense": partial(grouped_masked, p.groups)}
    if p.groups == p.channels == p.features:
        forms["shifted sums"] = partial(grouped_shifted, p.groups)
    return {"forward": forms, "backward": {name: partial(grouped_backward, form) for name, form in forms.items()}}
