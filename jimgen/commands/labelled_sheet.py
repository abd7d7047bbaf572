"""A sheet of pictures with their labels in small text below each."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jimgen.alpha import composite
from jimgen.data.dataset import UNLABELLED, Attribute
from jimgen.data.fitting import resize
from jimgen.pictures import checkerboard

MIN_SIDE = 96  # pixels of a drawn picture, so that text fits below it
MAX_SIDE = 256  # pixels, so that a sheet of photographs fits on a screen
LINE = 11  # pixels
GAP = 6
MOST_LINES = 10
INK, PAPER = (60, 60, 60), (255, 255, 255)


def labelled_sheet(images: np.ndarray, labels: np.ndarray, columns: Sequence[Attribute]) -> np.ndarray:
    """Tiles pictures in a nearly square sheet, each above its labels; "none" is left out. Large pictures are shrunk.

    Args:
        images: uint8 [n, h, w, 1, 3 or 4]; 4 channels are premultiplied, and shown over a checkerboard.
        labels: int32 [n] or [n, columns].
        columns: `DataSpec.columns`.
    Returns: uint8 [height, width, 3].
    """
    table = labels[:, None] if labels.ndim == 1 else labels
    texts = [_lines(row, columns) for row in table]
    images = _shrunk(images)
    n, h, w, _ = images.shape
    scale = max(1, -(-MIN_SIDE // max(h, w)))
    tall, wide = h * scale, max(w * scale, MIN_SIDE)
    below = LINE * max(map(len, texts), default=0)
    across = max(1, round((n * (tall + below + GAP) / (wide + GAP)) ** 0.5))
    down = -(-n // across)
    sheet = Image.new("RGB", (across * (wide + GAP) + GAP, down * (tall + below + GAP) + GAP), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(9)
    for i, (image, lines) in enumerate(zip(images, texts, strict=True)):
        x, y = GAP + i % across * (wide + GAP), GAP + i // across * (tall + below + GAP)
        sheet.paste(Image.fromarray(_shown(image, scale)), (x + (wide - w * scale) // 2, y))
        for line, text in enumerate(lines):
            draw.text((x, y + tall + line * LINE), _cut(text, font, wide), fill=INK, font=font)
    return np.asarray(sheet)


def _shrunk(images: np.ndarray) -> np.ndarray:
    height, width = images.shape[1:3]
    if max(height, width) <= MAX_SIDE:
        return images
    factor = MAX_SIDE / max(height, width)
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    return np.stack([resize(image, size) for image in images])


def _lines(row: np.ndarray, columns: Sequence[Attribute]) -> list[str]:
    if columns[0].values == UNLABELLED:
        columns, row = columns[1:], row[1:]
    named = [(column.name, column.values[int(value)]) for column, value in zip(columns, row, strict=True)]
    texts = [value if len(columns) == 1 else f"{name} {value}" for name, value in named if value != "none"]
    return texts if len(texts) <= MOST_LINES else [*texts[: MOST_LINES - 1], "..."]


def _shown(image: np.ndarray, scale: int) -> np.ndarray:
    """An enlarged picture as uint8 [h, w, 3]."""
    image = image.repeat(scale, axis=0).repeat(scale, axis=1)
    if image.shape[2] == 4:
        return composite(image, checkerboard(image.shape[0], image.shape[1]))
    return np.broadcast_to(image, (*image.shape[:2], 3)).copy()


def _cut(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The beginning of a text that fits into a width."""
    while text and font.getlength(text) > width:
        text = text[:-1]
    return text
