"""A finished tokenizer run, for methods that model its tokens."""

from pathlib import Path
from typing import Any

from jimgen.data.dataset import DataSpec
from jimgen.methods.tokenizer import NETS, Tokenizer
from jimgen.runs.contained import load_contained


def load_tokenizer(folder: str | Path, spec: DataSpec) -> tuple[Tokenizer, dict[str, Any]]:
    """The functions of a tokenizer run and its nets' variables, for images like those of `spec`.

    Raises:
        UserError: no folder given, no run there, a run of something else, or one for images of another shape.
    """
    return load_contained(folder, spec, Tokenizer, "tokenizer", NETS)
