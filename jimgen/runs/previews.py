"""Sample and reconstruction grids, written during training."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jimgen.data.batches import scale_images
from jimgen.data.dataset import Dataset, DataSpec, read_rows
from jimgen.evaluation.asked import balanced_labels, column_in_turn
from jimgen.methods.method import Method
from jimgen.pictures import grid, grid_of_rows, rows_of, save_png, to_uint8
from jimgen.runs.folder import RECONSTRUCTIONS
from jimgen.train_step import TrainState, eval_variables

ROWS = 8  # of a sample grid
CLASSES_IN_COLUMNS = range(2, 17)  # numbers of classes for which a grid has a column per class


def grid_labels(spec: DataSpec, rows: int = ROWS) -> tuple[np.ndarray, int]:
    """Labels of a sample grid, int32 [n] or [n, columns of labels], and its number of columns.

    A column shows a class or, of data without classes, a value of the first attribute; else there are eight columns.
    """
    num_values = len(spec.columns[column_in_turn(spec)].values)
    columns = num_values if num_values in CLASSES_IN_COLUMNS else ROWS
    return np.tile(balanced_labels(spec, columns), (rows, *[1] * bool(spec.attributes))), columns


def real_grid(dataset: Dataset) -> np.ndarray:
    """Training images laid out as the sample grid is: where there are classes, one a column."""
    turn = column_in_turn(dataset.spec)
    labels, columns = grid_labels(dataset.spec)
    images, found = read_rows(dataset.train, range(min(dataset.spec.num_train, 4 * len(labels))))
    wanted, found = (x[:, turn] if x.ndim > 1 else x for x in (labels, found))
    waiting = {value: list(np.flatnonzero(found == value)) for value in np.unique(found)}
    rows = [waiting[value].pop(0) if waiting.get(value) else i % len(images) for i, value in enumerate(wanted)]
    return grid(images[np.asarray(rows)], columns=columns)


def pairs_grid(images: np.ndarray, reconstructions: np.ndarray, columns: int) -> np.ndarray:
    """A grid whose rows are, in turn, images and their reconstructions: uint8 [n, h, w, c] twice -> [H, W, 3]."""
    pairs = zip(rows_of(images, columns), rows_of(reconstructions, columns), strict=True)
    return grid_of_rows([row for pair in pairs for row in pair])


def write_previews(method: Method, dataset: Dataset, folder: Path, key: Array, state: TrainState) -> Path:
    """Writes a sample grid and, of methods that reconstruct, one of test images and their reconstructions.

    All are drawn from the same key, labels and test images each time. Returns the path of the sample grid.
    """
    variables = jax.device_put(eval_variables(state), jax.local_devices()[0])
    labels, columns = grid_labels(dataset.spec)
    images = jax.jit(method.sample)(variables, key, jnp.asarray(labels))
    name = f"step_{int(state.step):08d}.png"
    save_png(folder / name, grid(to_uint8(images), columns=columns))
    if method.reconstruct:
        test, test_labels = read_rows(dataset.test, (row % dataset.spec.num_test for row in range(4 * columns)))
        again = jax.jit(method.reconstruct)(variables, scale_images(jnp.asarray(test)), jnp.asarray(test_labels))
        save_png(folder / f"{RECONSTRUCTIONS}{name}", pairs_grid(test, to_uint8(again), columns))
    return folder / name
