"""The kinds of input of `fuzz.py`, and their frequencies."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import fuzz_arrays
import fuzz_codec
import fuzz_medical
import fuzz_pictures
import fuzz_runs
import fuzz_sets
from fuzz_trial import Trial
from numpy.random import Generator

from jimgen.data.recipes.installed import has_modules


class Kind(NamedTuple):
    make: Callable[[Path, Generator], Trial]
    weight: int  # number of inputs of this kind per round


KINDS = {
    "png": Kind(fuzz_pictures.png, 20),
    "jpeg": Kind(fuzz_pictures.jpeg, 12),
    "webp": Kind(fuzz_pictures.webp, 10),
    "gif": Kind(fuzz_pictures.gif, 10),
    "tiff": Kind(fuzz_pictures.tiff, 14),
    "folder": Kind(fuzz_pictures.pictures_in_folders, 4),
    "generated_folder": Kind(fuzz_pictures.generated_folder, 3),
    "label_table": Kind(fuzz_sets.label_table, 6),
    "records": Kind(fuzz_sets.records, 6),
    "npz": Kind(fuzz_arrays.data_set, 12),
    "zip": Kind(fuzz_arrays.zip_of_pictures, 6),
    "generated_npz": Kind(fuzz_arrays.generated_npz, 6),
    "reference": Kind(fuzz_arrays.reference, 6),
    "classifier_weights": Kind(fuzz_arrays.classifier_weights, 6),
    "directions": Kind(fuzz_arrays.directions, 6),
    "torch_weights": Kind(fuzz_arrays.torch_weights, 12),
    "config": Kind(fuzz_runs.config, 8),
    "metrics": Kind(fuzz_runs.metrics, 12),
    "evaluation": Kind(fuzz_runs.evaluation, 8),
    "checkpoints": Kind(fuzz_runs.checkpoints, 12),
    "run": Kind(fuzz_runs.whole_run, 3),
    "tokens": Kind(fuzz_runs.tokens, 2),
}
if has_modules("constriction"):
    KINDS["codec"] = Kind(fuzz_codec.codec, 12)
if has_modules("pydicom", "nibabel"):
    KINDS["medical"] = Kind(fuzz_medical.medical, 6)
