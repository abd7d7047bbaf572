"""Data sets as shards for fast random access: pack."""

from pathlib import Path
from typing import Literal

import tyro

from jimgen.commands.shared import output_folder, say_what_is_left_out
from jimgen.errors import UserError
from jimgen.sizes import Size


def pack(
    data: tyro.conf.Positional[str],
    /,
    out: Path,
    size: Size = None,
    fit: Literal["crop", "resize", "pad"] = "crop",
    channels: Literal[1, 3, 4] | None = None,
    background: str = "black",
    resample: Literal["bicubic", "nearest"] = "bicubic",
    bits: int | None = None,
    strict: bool = False,
    data_dir: str | None = None,
) -> None:
    """Write a data set as ArrayRecord shards, which `--data records:OUT` streams without decoding pictures again.

    Pictures are stored as training at this size would see them, exactly, in the same order and with all labels.

    Args:
        data: name of the data set, as in training: folder:PATH, npz:PATH, ...
        out: folder to write; it must be empty or not exist.
        size: height and width of every picture, 64 or 64x96; by default as stored, which must then be the same for all.
        fit: way to bring pictures to that size: the largest centred window of its shape, stretching, or background
            around them.
        channels: 1 for grey, 3 for colour or 4 with transparency; by default grey or colour, as stored.
        background: colour under transparent pictures and around padded ones: black, white or #rrggbb.
        resample: way to compute pixels of resized pictures; nearest for pixel art.
        bits: bits used in 16-bit grey pictures, such as 12.
        strict: stop at a picture that cannot be read, instead of leaving it out.
        data_dir: folder of TFDS's prepared sets.
    """
    from jimgen.data import load
    from jimgen.data.fitting import fitting_of
    from jimgen.data.records import write_records
    from jimgen.interrupts import end_after_cleaning

    folder = output_folder(out, empty=True)
    if folder.resolve() == Path.cwd():
        raise UserError(f"--out {out} is the current folder, which cannot be replaced: give the name of another")
    fitting = fitting_of(size, fit, channels, background, resample, bits)
    dataset = load(data, **fitting._asdict(), strict=strict, data_dir=data_dir)
    say_what_is_left_out(dataset)
    with end_after_cleaning():
        write_records(dataset, folder)
    spec = dataset.spec
    print(f"{spec.num_train} + {spec.num_test} pictures {list(spec.shape)}; train with --data records:{folder}")
    print(folder)
