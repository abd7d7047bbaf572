"""What metrics see of transparent images: these over a stated background. Extractors take grey or colour."""

import dataclasses
import hashlib

import numpy as np

from jimgen.alpha import Colour, colour_text, composite
from jimgen.data.dataset import Arrays, Dataset, Example, Stream


def opaque_images(images: np.ndarray, background: Colour) -> np.ndarray:
    """Premultiplied RGBA uint8 [n, h, w, 4] over the background, uint8 [n, h, w, 3]; other images as they are."""
    return composite(images, background) if images.shape[-1] == 4 else images


def opaque_dataset(dataset: Dataset, background: Colour) -> Dataset:
    """The data set with its images over the background, under another hash; one without alpha as it is."""
    spec = dataset.spec
    if spec.shape[-1] != 4:
        return dataset
    digest = hashlib.sha256(f"{spec.hash} over {colour_text(background)}".encode()).hexdigest()
    return dataset._replace(
        spec=spec._replace(shape=(*spec.shape[:2], 3), hash=digest),
        train=_opaque_split(dataset.train, background),
        test=_opaque_split(dataset.test, background),
    )


def _opaque_split(split: Arrays | Stream, background: Colour) -> Arrays | Stream:
    if isinstance(split, Arrays):
        return split._replace(images=composite(split.images, background))

    def read(row: int) -> Example:
        image, label = split.read(row)
        return composite(image, background), label

    return dataclasses.replace(split, read=read, draw=None)
