"""Data sets as shards for fast random access: pack."""

from pathlib import Path
from typing import Literal

import tyro

from jimgen.commands.shared import output_folder, say_what_is_left_out


def pack(
    data: tyro.conf.Positional[str],
    /,
    out: Path,
    size: int | None = None,
    fit: Literal["resize", "pad"] = "resize",
    channels: Literal[1, 3] | None = None,
    bits: int | None = None,
    strict: bool = False,
    data_dir: str | None = None,
) -> None:
    """Write a data set as ArrayRecord shards, which `--data records:OUT` streams without decoding pictures again.

    Pictures are stored as training at this size would see them, exactly, in the same order and with all labels.

    Args:
        data: name of the data set, as in training: folder:PATH, npz:PATH, ...
        out: folder to write; it must be empty or not exist.
        size: height and width of every picture; by default as stored, which must then be the same for all.
        fit: way to bring pictures to that size.
        channels: 1 for grey or 3 for colour; by default as stored.
        bits: bits used in 16-bit grey pictures, such as 12.
        strict: stop at a picture that cannot be read, instead of leaving it out.
        data_dir: folder of TFDS's prepared sets.
    """
    from jimgen.data import load
    from jimgen.data.records import write_records

    folder = output_folder(out, empty=True)
    dataset = load(data, size=size, fit=fit, channels=channels, bits=bits, strict=strict, data_dir=data_dir)
    say_what_is_left_out(dataset)
    write_records(dataset, folder)
    spec = dataset.spec
    print(f"{spec.num_train} + {spec.num_test} pictures {list(spec.shape)}; train with --data records:{folder}")
    print(folder)
