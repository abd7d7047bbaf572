"""Data sets by name: `load("digits")`, `load("folder:photos", size=64)`; `batches.py` feeds them to the devices."""

from jimgen.data.dataset import Arrays, Dataset, DataSpec
from jimgen.data.loading import load

__all__ = ["Arrays", "DataSpec", "Dataset", "load"]
