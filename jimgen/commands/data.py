"""Data sets: what there is, what one holds, sheets of its pictures, and files of its arrays."""

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jimgen.commands.shared import output_file, require_positive, say_what_is_left_out
from jimgen.errors import UserError

ENDINGS = (".png", ".npz")


def data(
    name: Annotated[str, tyro.conf.Positional] = "",
    /,
    num: int = 64,
    seed: int = 0,
    out: Path | None = None,
    without: tuple[str, ...] = (),
    size: int | None = None,
    fit: Literal["resize", "pad"] | None = None,
    channels: Literal[1, 3, 4] | None = None,
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
        without: conditions, as in hair=red glasses!=none; training pictures that meet all of them are left out of what
            --out writes, so that a model never sees that combination.
        size: height and width of the pictures.
        fit: how pictures are brought to that size.
        channels: 1 for grey, 3 for colour, 4 to keep transparency. Default: as the data set is.
        bits: number of bits used in 16-bit grey pictures of a folder.
        data_dir: folder of TFDS's prepared sets.
    """
    require_positive(num=num)
    if not name:
        print("\n".join(_list()))
        return
    path = out and output_file(out, *ENDINGS)
    options = {"size": size, "fit": fit, "channels": channels, "bits": bits, "data_dir": data_dir}
    dataset = _load(name, {option: value for option, value in options.items() if value is not None})
    say_what_is_left_out(dataset)
    rows = _kept(dataset, without)
    if path is None:
        print("\n".join(_description(dataset, name, rows)))
    elif path.suffix.lower() == ".png":
        from jimgen.commands.labelled_sheet import labelled_sheet
        from jimgen.data.dataset import read_rows
        from jimgen.pictures import save_png

        chosen = _chosen(rows, num, seed)
        save_png(path, labelled_sheet(*read_rows(dataset.train, chosen), dataset.spec.columns))
        print(path)
    else:
        _write_npz(path, dataset, rows)
        print(path)


def _list() -> list[str]:
    """A line for each data set: its name, what it is, and whether it is installed or how to install it."""
    from jimgen.data.recipes import RECIPES, about

    lines = [
        ("digits", "scikit-learn's handwritten digits, 8x8 grey, ten classes", "installed"),
        ("fashion_mnist", "70,000 pictures of clothes, 28x28 grey, ten classes", "see `jimgen doctor`"),
        ("folder:PATH", "your pictures, a folder for each class", "docs/data.md"),
        ("npz:PATH", "your arrays", "docs/data.md"),
        ("tfds:NAME", "any prepared TFDS set of images", "docs/data.md"),
    ]
    for name, usage in RECIPES.items():
        known = about(name)
        lines.append((usage, known.what, "installed" if known.is_installed() else known.install.splitlines()[0]))
    width = max(len(usage) for usage, _, _ in lines)
    listed = [f"{usage:<{width}}  {what}  [{state}]" for usage, what, state in lines]
    return [*listed, "", "jimgen data NAME describes one; --out sheet.png shows it, --out set.npz writes it"]


def _load(name: str, options: dict[str, Any]) -> Any:
    """The data set; a recipe of transparent pictures keeps its transparency unless --channels says otherwise."""
    from jimgen.data import load
    from jimgen.data.recipes import RECIPES, open_recipe

    kind, _, argument = name.partition(":")
    if kind in RECIPES and "channels" not in options:
        size = options.get("size")
        stored = open_recipe(kind, argument, None if size is None else (size, size))
        options = {**options, "channels": stored.shape[2]}
    return load(name, **options)


def _kept(dataset: Any, without: tuple[str, ...]) -> Any:
    """The rows of train that do not meet all conditions: int [n].

    Raises:
        UserError: a condition is wrong, or meets every row.
    """
    import numpy as np

    from jimgen.data.dataset import num_rows, read_rows
    from jimgen.data.label_conditions import parse_condition, rows_that_meet

    rows = np.arange(num_rows(dataset.train))
    if not without:
        return rows
    conditions = [parse_condition(text, dataset.spec.columns) for text in without]
    labels = dataset.train.labels if hasattr(dataset.train, "labels") else read_rows(dataset.train, rows)[1]
    kept = rows[~rows_that_meet(conditions, labels)]
    if not len(kept):
        raise UserError(f"--without {' '.join(without)} leaves out every training picture: give more conditions")
    return kept


def _chosen(rows: Any, num: int, seed: int) -> Any:
    """`num` of the rows at random, in their own order."""
    import numpy as np

    return np.sort(np.random.default_rng(seed).choice(rows, min(num, len(rows)), replace=False))


def _description(dataset: Any, name: str, rows: Any) -> list[str]:
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
        f"pictures     {len(rows)} train, {spec.num_test} test",
        f"shape        {spec.shape[0]}x{spec.shape[1]}, {_CHANNELS[spec.shape[2]]}",
    ]
    columns = spec.columns[1:] if spec.class_names == UNLABELLED else spec.columns
    if not columns:
        lines.append("labels       none")
    for column in columns:
        place = spec.columns.index(column)
        counts = (
            _frequencies(dataset.train, rows, place, len(column.values)) if isinstance(dataset.train, Arrays) else None
        )
        lines.append(f"{column.name:<12} {_values(column.values, counts)}")
    if known:
        lines += [
            f"split        {known.split}",
            f"licence      {known.licence}",
            f"attribution  {known.attribution}",
        ]
    return [*lines, f"hash         {spec.hash}"]


_CHANNELS = {1: "grey", 3: "RGB", 4: "RGBA"}


def _frequencies(train: Any, rows: Any, place: int, most: int) -> Any:
    import numpy as np

    labels = train.labels[rows]
    return np.bincount(labels if labels.ndim == 1 else labels[:, place], minlength=most)


def _values(values: tuple[str, ...], counts: Any) -> str:
    """The values of a column, each with its number of training pictures."""
    if counts is None:
        return f"{len(values)} values: {', '.join(values)}"
    return f"{len(values)} values: " + ", ".join(
        f"{value} {count}" for value, count in zip(values, counts, strict=True)
    )


def _write_npz(path: Path, dataset: Any, rows: Any) -> None:
    """Writes a set in the fields that npz:PATH reads, with straight alpha."""
    import numpy as np

    from jimgen.alpha import unpremultiply
    from jimgen.data.dataset import UNLABELLED, num_rows, read_rows
    from jimgen.files import write_npz

    spec, fields = dataset.spec, {}
    for split, name, chosen in (
        (dataset.train, "train", rows),
        (dataset.test, "test", range(num_rows(dataset.test))),
    ):
        images, labels = read_rows(split, chosen)
        fields[f"{name}_images"] = unpremultiply(images) if spec.shape[2] == 4 else images
        classes = labels if labels.ndim == 1 else labels[:, 0]
        if spec.class_names != UNLABELLED:
            fields[f"{name}_labels"] = classes
        if spec.attributes:
            fields[f"{name}_attributes"] = labels[:, 1:]
    if spec.class_names != UNLABELLED:
        fields["class_names"] = np.array(spec.class_names)
    if spec.attributes:
        most = max(len(attribute.values) for attribute in spec.attributes)
        fields["attribute_names"] = np.array([attribute.name for attribute in spec.attributes])
        fields["attribute_values"] = np.array(
            [[*attribute.values, *[""] * (most - len(attribute.values))] for attribute in spec.attributes]
        )
    write_npz(path, fields, compress=True)
