"""Compression of pictures by a run: compress, decompress, codec-info."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from jimgen.commands.shared import RunFolder, load_run, output_file, output_folder, start_jax
from jimgen.errors import UserError

if TYPE_CHECKING:
    from jimgen.apps.codec.container import Container
    from jimgen.apps.codec.payload import Payload

MOST_BYTES = 2**30  # of a file to decompress


def compress(
    run: RunFolder,
    pictures: Annotated[tuple[Path, ...], tyro.conf.Positional],
    out: Path,
    rate: int | None = None,
    names: bool = True,
) -> None:
    """Compress pictures into one file.

    A run of codec.py compresses with loss, one of pixel_transformer.py or hierarchical_vae.py without. Pictures are
    brought to the run's channels, never to its size. An animation gives its first frame. A run on grey pictures stores
    colours as their luma. A run on opaque pictures puts transparent ones over its background. A run on colour stores
    grey as colour. Lossless runs refuse pictures that would change, also those of more than 8 bits or several frames;
    colours under full transparency are not kept. The file is decoded again before it is written.

    Args:
        run: folder of the run.
        pictures: files of pictures, or folders of them, without their subfolders.
        out: path of the file, usually FILE.jgc; a file that is there is replaced.
        rate: number of the rate, 0 for the smallest file; default: the middle one. Lossless runs have rate 0 alone.
        names: store the names of the pictures; without them, decompress numbers pictures.
    """
    from jimgen.apps.codec.container import require_valid_names
    from jimgen.apps.codec.files import compress as compressed
    from jimgen.files import write_atomically

    path, sources = output_file(out), _sources(pictures)
    stored = tuple(_stored_name(source) for source in sources) if names else None
    require_valid_names(stored or ())
    with start_jax():
        loaded, payload = _payload(run)
        read = [_picture(loaded, payload, source) for source in sources]
        rate = payload.num_rates // 2 if rate is None else rate
        data = compressed(payload, read, rate, stored)
    write_atomically(path, data)
    pixels = sum(picture.size for picture in read)
    each = f"{len(data) / len(read):.1f} bytes a picture, {8 * len(data) / pixels:.3f} bits a sub-pixel"
    print(f"{path}: {len(read)} pictures, {len(data)} bytes, {each}; {pixels} bytes of raw pixels")


def decompress(
    file: Annotated[Path, tyro.conf.Positional],
    run: Path,
    out: Path,
) -> None:
    """Decompress a file of `jimgen compress` into a folder of PNGs, by the run that wrote it.

    Args:
        file: path of the compressed file.
        run: folder of the run that wrote it.
        out: folder for the pictures; it must be empty or not exist.
    """
    import numpy as np

    from jimgen.alpha import unpremultiply
    from jimgen.apps.codec.files import decompress as decompressed
    from jimgen.files import disk_errors, write_atomically
    from jimgen.pictures import encode_png

    folder, (data, _) = output_folder(out, empty=True), _read(file)
    num = 0
    with start_jax():
        _, payload = _payload(run)
        for name, picture in decompressed(payload, data):
            if num == 0:
                with disk_errors(folder):
                    folder.mkdir(parents=True, exist_ok=True)
            straight = unpremultiply(picture) if picture.shape[-1] == 4 else np.asarray(picture)
            pixels = straight[..., 0] if straight.shape[-1] == 1 else straight
            write_atomically(folder / f"{name}.png", encode_png(pixels))
            num += 1
    print(f"{folder}: {num} pictures")


def codec_info(file: Annotated[Path, tyro.conf.Positional]) -> None:
    """Describe a file of `jimgen compress`: its model, pictures and sizes.

    Args:
        file: path of the compressed file.
    """
    from collections import Counter

    from jimgen.files import some_of

    data, container = _read(file)
    payload_bytes = sum(len(part) for block in container.blocks for part in block.parts)
    print(f"{file}: {len(data)} bytes, {len(data) / max(1, container.num):.1f} a picture")
    print(f"kind {container.kind.name.lower()}, model {container.model.hex()}")
    print(f"{container.num} pictures in {len(container.blocks)} blocks, {payload_bytes} bytes of code")
    shapes = Counter()
    for block in container.blocks:
        shapes[block.shape, block.rate] += block.num
    for ((height, width, channels), rate), num in sorted(shapes.items()):
        print(f"  {num} of {height}x{width} with {channels} channel{'s' if channels > 1 else ''}, rate {rate}")
    names = container.names
    printable = (name if name.isprintable() else ascii(name) for name in names or ())
    print(f"names: {'none stored' if names is None else some_of(printable)}")


def _payload(run: Path) -> tuple[Any, "Payload"]:
    from jimgen.apps.codec.of_run import payload_of

    loaded = load_run(run)
    return loaded, payload_of(loaded)


def _read(file: Path) -> tuple[bytes, "Container"]:
    """The bytes of a file, and what they hold."""
    from jimgen.apps.codec.container import unpack
    from jimgen.apps.codec.errors import DamagedFile, TooLarge
    from jimgen.files import expanded, read_errors

    file = expanded(file)
    with read_errors(file):
        if file.stat().st_size > MOST_BYTES:
            raise UserError(f"{file} has more than {MOST_BYTES} bytes: not a file of `jimgen compress`")
        data = file.read_bytes()
    try:
        return data, unpack(data)
    except (DamagedFile, TooLarge) as error:
        raise type(error)(f"{file}: {error}") from error


def _sources(pictures: tuple[Path, ...]) -> list[Path]:
    """The files, with folders replaced by the pictures in them, in order of their names; tells what it leaves out."""
    import sys

    from jimgen.data.images import FOREIGN_SUFFIXES, picture_suffixes
    from jimgen.files import expanded, read_errors, some_of

    known, found = picture_suffixes() | FOREIGN_SUFFIXES, []  # decoding tells which it cannot read
    for picture in map(expanded, pictures):
        if picture.is_dir():
            with read_errors(picture):
                inside = sorted(picture.iterdir())
            chosen = [path for path in inside if path.suffix.lower() in known and not path.is_dir()]
            others = some_of([path.name for path in inside if path not in chosen])
            if not chosen:
                raise UserError(f"{picture} holds no pictures (other files and folders: {others})")
            if len(chosen) < len(inside):
                print(f"{picture}: left out {others}", file=sys.stderr)
            found += chosen
        else:
            with read_errors(picture):
                picture.stat()  # before anything slow
            found.append(picture)
    if not found:
        raise UserError("no pictures: give files of pictures, or a folder of them")
    return found


def _stored_name(source: Path) -> str:
    from jimgen.files import shown

    return shown(source.stem)


def _picture(loaded: Any, payload: "Payload", source: Path) -> Any:
    """A picture uint8 [h, w, c] in the run's channels.

    Raises:
        UserError: it cannot be read, or the payload is lossless and the picture would change.
    """
    import numpy as np

    from jimgen.apps.codec.container import Kind
    from jimgen.commands.fitted import fitted_picture
    from jimgen.data.images import decode, require_kept

    fitted = fitted_picture(loaded, source, own_size=True)
    if payload.size and fitted.shape[:2] != payload.size:
        sizes = " and ".join(f"{height}x{width}" for height, width in (fitted.shape[:2], payload.size))
        raise UserError(f"{source} and the pictures of {loaded.folder} have different sizes: {sizes}")
    if payload.kind == Kind.LATENTS:
        return fitted
    require_kept(source)
    original = decode(source, alpha=True)
    again = np.full(original.shape, 255, np.uint8)
    again[..., : 4 if fitted.shape[-1] == 4 else 3] = fitted
    if not np.array_equal(again, original):
        have = {1: "grey", 3: "opaque colour", 4: "transparent"}[payload.channels]
        raise UserError(f"{source} is not {have}, as the pictures of {loaded.folder} are: it would not be lossless")
    return fitted
