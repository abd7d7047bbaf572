"""Loads JAX and its libraries, seconds in which Ctrl-C ends the process at once: within an import it can crash them."""

from jimgen.interrupts import end_at_once

with end_at_once():
    import flax.linen  # noqa: F401
    import jax  # noqa: F401
    import optax  # noqa: F401
    import orbax.checkpoint  # noqa: F401
