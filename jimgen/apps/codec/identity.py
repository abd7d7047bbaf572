"""The identity of a model: what must be equal for a file to be decoded."""

import hashlib
from typing import Any

import jax
import numpy as np

from jimgen.apps.codec.errors import UnusableModel


def identity(*trees: Any) -> bytes:
    """8 bytes of the SHA-256 of all arrays in trees of weights and tables, with their names, shapes and dtypes.

    Raises:
        UnusableModel: a weight is not finite.
    """
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(trees):
        array = np.asarray(leaf)
        if not np.isfinite(array).all():
            raise UnusableModel(f"weights of the run are not finite ({jax.tree_util.keystr(path)}): use another run")
        little = array.astype(array.dtype.newbyteorder("<"))
        digest.update(f"{jax.tree_util.keystr(path)} {little.dtype.str} {little.shape}".encode())
        digest.update(little.tobytes())
    return digest.digest()[:8]
