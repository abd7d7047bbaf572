"""What makes XLA on CPU faster than by default. docs/benchmarks.md says by how much."""

import contextlib
import ctypes
import sys
from functools import lru_cache

import jax

# From malloc.h of glibc.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> None:
    """Tells glibc to keep what XLA on CPU frees: it asks for the same scratch memory again at the next step.

    By default every large block goes back to the kernel, which clears it again page by page at each step: about a tenth
    of a convolutional train step. A process then keeps its peak memory until it ends. No effect elsewhere than on
    Linux with glibc.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_M_ARENA_MAX, 1)  # XLA's threads too
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**30)
        mallopt(_M_TOP_PAD, 2**28)


@lru_cache
def compiler_options(platform: str) -> dict[str, str]:
    """Options for jax.jit on a platform: on CPU convolutions by Eigen, which uses all cores, and wide vectors.

    Those that this jaxlib does not know are left out; elsewhere than on CPU there are none.
    """
    wanted = {
        "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE",
        "xla_cpu_prefer_vector_width": "512",
    }
    known = {}
    for name, value in wanted.items() if platform == "cpu" else ():
        with contextlib.suppress(Exception):  # an unknown option raises; by which type is not part of the interface
            jax.jit(lambda x: x, compiler_options={name: value}).lower(0.0).compile()
            known[name] = value
    return known
