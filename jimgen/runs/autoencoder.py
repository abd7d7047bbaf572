"""A finished autoencoder run, for methods that model its latents."""

from pathlib import Path
from typing import Any

from jimgen.data.dataset import DataSpec
from jimgen.methods.autoencoder import NETS, Autoencoder
from jimgen.runs.contained import load_contained


def load_autoencoder(folder: str | Path, spec: DataSpec) -> tuple[Autoencoder, dict[str, Any]]:
    """The functions of an autoencoder run and its nets' variables, for images like those of `spec`.

    Raises:
        UserError: no folder given, no run there, a run of something else, or one for images of another shape.
    """
    return load_contained(folder, spec, Autoencoder, "autoencoder", NETS)
