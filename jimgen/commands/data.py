"""Data sets: what there is, what one holds, sheets of its pictures, and files of its arrays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from jimgen.commands.shared import output_file, require_positive, say_what_is_left_out
from jimgen.sizes import Size

if TYPE_CHECKING:
    from jimgen.data.fitting import Fitting

ENDINGS = (".png", ".npz")


def data(
    name: Annotated[str, tyro.conf.Positional] = "",
    /,
    num: int = 64,
    seed: int = 0,
    out: Path | None = None,
    without: tuple[str, ...] = (),
    size: Size = None,
    fit: Literal["crop", "resize", "pad"] = "crop",
    channels: Literal[1, 3, 4] | None = None,
    background: str = "black",
    resample: Literal["bicubic", "nearest"] = "bicubic",
    bits: int | None = None,
    data_dir: str | None = None,
) -> None:
    """List the data sets, or show what one holds: jimgen data NAME.

    Args:
        name: name of a data set, as --data of a training takes it. Default: a list of all.
        num: number of pictures in a sheet.
        seed: random seed for the pictures of a sheet.
        out: path of the result: .png for a sheet of training pictures with their labels, .npz for the whole set as
            npz:PATH reads it. Default: print a description.
        without: combinations of attributes, as in hair=red+glasses!=none; training pictures that meet all conditions of
            one are left out of what --out writes, so that a model never sees it.
        size: height and width of the pictures, 64 or 64x96, as in training. Default: as stored.
        fit: way to bring pictures to that size: the largest centred window of its shape, stretching, or background
            around.
        channels: number of channels, 1 for grey, 3 for colour or 4 with transparency. Default: grey or colour, as in
            training; sets known by name, such as sprites, keep their transparency.
        background: colour under transparent pictures and around padded ones: black, white or #rrggbb.
        resample: way to compute pixels of resized pictures; nearest for pixel art.
        bits: number of bits used in 16-bit grey pictures of a folder.
        data_dir: folder of TFDS's prepared sets.
    """
    import numpy as np

    from jimgen.data.fitting import fitting_of

    require_positive(num=num)
    if not name:
        print("\n".join(_list()))
        return
    path = out and output_file(out, *ENDINGS)
    dataset = _load(name, fitting_of(size, fit, channels, background, resample, bits), data_dir, without)
    say_what_is_left_out(dataset)
    if path is None:
        print("\n".join(_description(dataset, name)))
    elif path.suffix.lower() == ".png":
        from jimgen.commands.labelled_sheet import labelled_sheet
        from jimgen.data.dataset import read_rows
        from jimgen.pictures import save_png

        rows = np.random.default_rng(seed).permutation(dataset.spec.num_train)[:num]
        save_png(path, labelled_sheet(*read_rows(dataset.train, np.sort(rows)), dataset.spec.columns))
        print(path)
    else:
        _write_npz(path, dataset)
        print(path)


def _list() -> list[str]:
    """A line for each data set: its name, what it is, and whether it is installed or how to install it."""
    from jimgen.data.recipes import RECIPES, about

    lines = [
        ("digits", "scikit-learn's handwritten digits, 8x8 grey, ten classes", "installed"),
        ("fashion_mnist", "70,000 pictures of clothes, 28x28 grey, ten classes", "see `jimgen doctor`"),
        ("folder:PATH", "your pictures, a folder for each class", "docs/data.md"),
        ("npz:PATH", "your arrays", "docs/data.md"),
        ("medical:PATH", "your DICOM files and NIfTI volumes, split by patient", "docs/data.md"),
        ("records:PATH", "what `jimgen pack` wrote", "docs/data.md"),
        ("tfds:NAME", "any prepared TFDS set of images", "docs/data.md"),
    ]
    for name, usage in RECIPES.items():
        known = about(name)
        lines.append((usage, known.what, "installed" if known.is_installed() else known.install.splitlines()[0]))
    width = max(len(usage) for usage, _, _ in lines)
    listed = [f"{usage:<{width}}  {what}  [{state}]" for usage, what, state in lines]
    return [*listed, "", "jimgen data NAME describes one; --out sheet.png shows it, --out set.npz writes it"]


def _load(name: str, fitting: Fitting, data_dir: str | None, without: tuple[str, ...]) -> Any:
    """The data set; a recipe of transparent pictures keeps its transparency unless --channels says otherwise."""
    from jimgen.data import load
    from jimgen.data.recipes import RECIPES, about

    kind = name.partition(":")[0]
    if fitting.channels is None and kind in RECIPES and about(kind).transparent:
        fitting = fitting._replace(channels=4)
    return load(name, **fitting._asdict(), data_dir=data_dir, without=without)


def _description(dataset: Any, name: str) -> list[str]:
    """Counts, shape, labels with their frequencies in train, split, licence and hash, as lines."""
    from jimgen.data.dataset import UNLABELLED, Arrays
    from jimgen.data.recipes import RECIPES, about

    spec = dataset.spec
    kind, _, argument = name.partition(":")
    lines = [name]
    known = about(kind, argument) if kind in RECIPES else None
    if known:
        lines.append(f"content      {known.what}")
    lines += [
        f"pictures     {spec.num_train} train, {spec.num_test} test",
        f"shape        {spec.shape[0]}x{spec.shape[1]}, {_CHANNELS[spec.shape[2]]}",
    ]
    columns = spec.columns[1:] if spec.class_names == UNLABELLED else spec.columns
    if not columns:
        lines.append("labels       none")
    for column in columns:
        place = spec.columns.index(column)
        counts = _frequencies(dataset.train, place, len(column.values)) if isinstance(dataset.train, Arrays) else None
        lines.append(f"{column.name:<12} {_values(column.values, counts)}")
    if known:
        lines += [
            f"split        {known.split}",
            f"licence      {known.licence}",
            f"attribution  {known.attribution}",
        ]
    return [*lines, f"hash         {spec.hash}"]


_CHANNELS = {1: "grey", 3: "RGB", 4: "RGBA"}


def _frequencies(train: Any, place: int, most: int) -> Any:
    import numpy as np

    labels = train.labels
    return np.bincount(labels if labels.ndim == 1 else labels[:, place], minlength=most)


def _values(values: tuple[str, ...], counts: Any) -> str:
    """The values of a column, each with its number of training pictures."""
    if counts is None:
        return f"{len(values)} values: {', '.join(values)}"
    return f"{len(values)} values: " + ", ".join(
        f"{value} {count}" for value, count in zip(values, counts, strict=True)
    )


def _write_npz(path: Path, dataset: Any) -> None:
    """Writes a set in the fields that npz:PATH reads, with straight alpha."""
    import numpy as np

    from jimgen.alpha import unpremultiply
    from jimgen.data.dataset import UNLABELLED, num_rows, read_rows
    from jimgen.data.labels import classes_of
    from jimgen.data.npz import attribute_fields
    from jimgen.files import write_npz

    spec, fields = dataset.spec, {}
    for split, name in ((dataset.train, "train"), (dataset.test, "test")):
        images, labels = read_rows(split, range(num_rows(split)))
        fields[f"{name}_images"] = unpremultiply(images) if spec.shape[2] == 4 else images
        if spec.class_names != UNLABELLED:
            fields[f"{name}_labels"] = classes_of(labels)
        if spec.attributes:
            fields[f"{name}_attributes"] = labels[:, 1:]
    if spec.class_names != UNLABELLED:
        fields["class_names"] = np.array(spec.class_names)
    fields |= attribute_fields(spec.attributes)
    write_npz(path, fields, compress=True)
