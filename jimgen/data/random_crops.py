"""Random crops: at every step, training sees another window of a picture."""

import hashlib
from collections.abc import Callable

import numpy as np

from jimgen.data.dataset import Arrays, Example, Source, Stream, read_in_threads
from jimgen.data.fitting import Fitting, centre_window, fit_images, fit_window, random_window
from jimgen.data.images import UnreadableImage
from jimgen.sizes import Sides, size_text


def random_crops(split: Arrays | Stream, fitting: Fitting, shape: tuple[int, int, int], resident_bytes: int) -> Stream:
    """A stream whose `draw` returns random windows of the pictures of a split, and `read` the centred ones.

    Args:
        split: pictures of any size, not fitted, all readable.
        fitting: its `crop_scale` is the least size of a window as a fraction of the largest one.
        shape: (height, width, channels) of the windows.
        resident_bytes: picture files are kept decoded if they take at most as many bytes, else decoded each time.
    """
    fitting, size = fitting._replace(channels=shape[2]), shape[:2]
    stored, rows = _reader(split, resident_bytes), split.rows if isinstance(split, Stream) else None

    def read(row: int) -> Example:
        image, label = stored(row)
        return fit_images(image, fitting._replace(size=size)), label

    def draw(row: int, random: np.random.Generator) -> Example:
        image, label = stored(row)
        height, width, _ = image.shape
        window = random_window(height, width, size, fitting.crop_scale, random)
        return fit_window(image, window, size, fitting), label

    count = len(split.labels) if isinstance(split, Arrays) else len(split)
    identity = f"{shape} {fitting.identity} random from {fitting.crop_scale}\n{_content(split)}"
    return Stream(read, count, identity, rows, draw=draw)


def whole_note(source: Source, fitting: Fitting, size: Sides) -> tuple[str, ...]:
    """A note if random crops show whole pictures only: all have the aspect ratio of `size`, and none is zoomed into."""
    height, width, _ = source.shape
    if fitting.crop != "random" or fitting.crop_scale < 1:
        return ()
    if height is not None and width is not None:
        sizes = {(height, width)}
    else:
        sizes = {row.size for row in source.train.rows or ()} if isinstance(source.train, Stream) else set()
    if not sizes or any(centre_window(tall, wide, size)[2:] != (tall, wide) for tall, wide in sizes):
        return ()
    return (
        f"random crops show whole pictures, which have the aspect ratio of {size_text(size)}: add --crop-scale 0.5, "
        "or leave out --crop random",
    )


def _reader(split: Arrays | Stream, resident_bytes: int) -> Callable[[int], Example]:
    """A function that returns a row as stored, from memory if all rows fit into it."""
    if isinstance(split, Arrays):
        return lambda row: (split.images[row], np.asarray(split.labels[row]).tolist())
    if split.rows is None or 4 * sum(row.size[0] * row.size[1] for row in split.rows) > resident_bytes:
        return split.read
    decoded: list[Example] = []
    for example in read_in_threads(split):
        if isinstance(example, UnreadableImage):  # changed since it was checked
            raise example
        decoded.append(example)
    return decoded.__getitem__


def _content(split: Arrays | Stream) -> str:
    if isinstance(split, Stream):
        return split.identity
    digest = hashlib.sha256(np.ascontiguousarray(split.images).data)
    digest.update(np.ascontiguousarray(split.labels).data)
    return f"{split.images.shape} {digest.hexdigest()}"
