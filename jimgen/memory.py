"""How the C library hands memory back."""

import ctypes
import sys

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
