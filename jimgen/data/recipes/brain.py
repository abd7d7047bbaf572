"""brain: slices of a magnetic resonance image of one head (Colin27), with anatomical regions.

- Content: about 500 slices of 217x217 grey pixels of 1 mm: axial, coronal and sagittal, padded with black.
- Labels: the class is the plane; the attribute position is the fifth of the head, from its first slice to its last.
  `read_slices` gives the map of regions (AAL, 116 regions) of each slice, for restoration or from labels to pictures.
- Split: by blocks of 12 neighbouring slices; every sixth block is test, and the two slices beside it are in neither.
  Slices of different planes share voxels. It is one person's head: nothing can be claimed about patients.
- Licence: BSD-3-Clause (mricron-data).
- Attribution: Colin27, Montreal Neurological Institute (Holmes et al., 1998); AAL, Tzourio-Mazoyer et al., 2002;
  MRIcron, Chris Rorden.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from jimgen.data.dataset import Attribute, Source
from jimgen.data.recipes.about import About, require_installed, require_no_argument
from jimgen.data.recipes.installed import debian, has_modules
from jimgen.data.recipes.rows import arrays_of
from jimgen.data.slices import split_of_slice
from jimgen.errors import UserError

SIDE = 217
FOLDER = "usr/share/mricron/templates"
PLANES = ("sagittal", "coronal", "axial")  # axes 0, 1, 2 of the volume
FIFTHS = 5
LEAST = 0.15  # of a slice must be brighter than air
AIR = 20  # grey level

ABOUT = About(
    what="500 magnetic resonance slices of one head with 116 regions, 217x217 grey; class = plane, attribute position",
    split="by blocks of 12 neighbouring slices, with two slices left out beside each block of test",
    licence="BSD-3-Clause (mricron-data)",
    attribution="Colin27, Montreal Neurological Institute; AAL, Tzourio-Mazoyer et al. 2002; MRIcron, Chris Rorden",
    install="apt-get install mricron-data && pip install nibabel",
    is_installed=lambda: has_modules("nibabel") and (debian(FOLDER) / "ch2.nii.gz").is_file(),
)


class Slice(NamedTuple):
    """A slice with its regions."""

    image: np.ndarray  # uint8 [217, 217, 1]
    regions: np.ndarray  # uint8 [217, 217]: 0 for none, else as `region_names`
    plane: int
    position: int  # fifth
    split: str  # "train", "test", or "" beside a block of test


def open_brain(argument: str, size: tuple[int, int] | None) -> Source:
    """The slices, as stored: `size` is ignored.

    Raises:
        UserError: a package is missing or damaged, or there is an argument.
    """
    require_no_argument("brain", argument)
    slices = read_slices()
    train, test = (
        arrays_of((one.image, (one.plane, one.position)) for one in slices if one.split == split)
        for split in ("train", "test")
    )
    position = Attribute("position", ("first", "second", "middle", "fourth", "last"))
    return Source(train, test, PLANES, (SIDE, SIDE, 1), attributes=(position,))


def read_slices() -> list[Slice]:
    """All slices that show enough of the head, plane by plane, each with the map of its regions.

    Raises:
        UserError: a package is missing or damaged.
    """
    require_installed("brain", ABOUT)
    head, regions = _read("ch2.nii.gz"), _read("aal.nii.gz").astype(np.uint8)
    levels = np.rint((head / np.percentile(head, 99.8)).clip(0, 1) * 255).astype(np.uint8)
    slices = []
    for axis in range(3):
        planes, labelled = np.moveaxis(levels, axis, 0), np.moveaxis(regions, axis, 0)
        shown = np.flatnonzero((planes > AIR).mean(axis=(1, 2)) >= LEAST).tolist()
        for place, i in enumerate(shown):
            image, labels, split = _upright(planes[i]), _upright(labelled[i]), split_of_slice(place, len(shown))
            slices.append(Slice(image[..., None], labels, axis, FIFTHS * place // len(shown), split))
    return slices


def region_names() -> dict[int, str]:
    """The names of regions by their numbers: {1: "Precentral_L", ...}.

    Raises:
        UserError: a package is missing.
    """
    require_installed("brain", ABOUT)
    lines = (debian(FOLDER) / "aal.nii.txt").read_text("utf-8").splitlines()
    return {int(words[0]): words[1] for words in map(str.split, lines) if len(words) > 1}


def _upright(values: np.ndarray) -> np.ndarray:
    """A slice [x, y] with the last axis upwards, in the middle of [217, 217]."""
    turned = np.rot90(values)
    above, left = ((SIDE - side) // 2 for side in turned.shape)
    out = np.zeros((SIDE, SIDE), values.dtype)
    out[above : above + turned.shape[0], left : left + turned.shape[1]] = turned
    return out


def _read(name: str) -> np.ndarray:
    import nibabel

    path: Path = debian(FOLDER) / name
    try:
        volume = np.ascontiguousarray(nibabel.load(path).dataobj)  # pyright: ignore[reportAttributeAccessIssue]
        if volume.ndim != 3 or max(volume.shape) > SIDE:
            raise ValueError(f"its shape is {list(volume.shape)}")
    except Exception as error:  # damaged files can raise nearly anything
        raise UserError(f"brain: {path} cannot be read ({error}); install it again: {ABOUT.install}") from error
    return volume
