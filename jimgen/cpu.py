"""Settings that make XLA on CPU faster than its defaults. docs/benchmarks.md has the measurements."""

import contextlib
import ctypes
import sys
from functools import lru_cache

import jax

# From malloc.h of glibc.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> None:
    """Makes glibc keep the memory that XLA on CPU frees, because each step allocates the same scratch memory again.

    By default glibc returns large blocks to the kernel, which clears their pages again at each step. This takes about a
    tenth of a convolutional train step. With this setting the process keeps its peak memory until it ends. It has no
    effect except on Linux with glibc.
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
    """Options for jax.jit on a platform: on CPU, convolutions by Eigen, which uses all cores, and wide vectors.

    Options that the installed jaxlib does not know are omitted. On other platforms there are none.
    """
    wanted = {
        "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE",
        "xla_cpu_prefer_vector_width": "512",
    }
    known = {}
    for name, value in wanted.items() if platform == "cpu" else ():
        with contextlib.suppress(Exception):  # an unknown option raises, but the exception type is undocumented
            jax.jit(lambda x: x, compiler_options={name: value}).lower(0.0).compile()
            known[name] = value
    return known
