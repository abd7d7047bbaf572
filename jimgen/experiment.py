"""What a file of experiments/ imports: the base of its config, the meaning of fields, and `main`."""

import jimgen.libraries  # noqa: F401

# isort: split
from jimgen.runs.config import (
    CONTAINED_RUN,
    COUNT,
    DRAWING,
    HOW,
    LENGTH,
    AdversarialConfig,
    RunConfig,
    ScheduledConfig,
    one_of,
)
from jimgen.runs.train import main

__all__ = [
    "CONTAINED_RUN",
    "COUNT",
    "DRAWING",
    "HOW",
    "LENGTH",
    "AdversarialConfig",
    "RunConfig",
    "ScheduledConfig",
    "main",
    "one_of",
]
