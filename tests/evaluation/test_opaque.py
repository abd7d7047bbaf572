"""Transparent images as metrics see them."""

import numpy as np
import pytest

from jimgen.alpha import BLACK, WHITE, composite
from jimgen.data.dataset import Arrays, Dataset, DataSpec, Stream, read_rows
from jimgen.evaluation.opaque import opaque_dataset, opaque_images

IMAGES = np.random.default_rng(0).integers(0, 128, (6, 3, 2, 4), np.uint8)
IMAGES[..., 3] += 127
LABELS = np.arange(6, dtype=np.int32)


def dataset(channels: int, streamed: bool) -> Dataset:
    split = Arrays(IMAGES[..., :channels], LABELS)
    stream = Stream(lambda row: (split.images[row], int(LABELS[row])), 6, "rows", draw=lambda row, _: split[row])
    spec = DataSpec("drawn", (3, 2, channels), 6, tuple("abcdef"), 6, 6, "0" * 64)
    return Dataset(spec, stream if streamed else split, split)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_data_set_over_a_background_is_another_one(streamed):
    """Its hash depends on the background, so that no cached statistics are mixed up."""
    found = {background: opaque_dataset(dataset(4, streamed), background) for background in (BLACK, WHITE)}
    for background, over in found.items():
        assert over.spec.shape == (3, 2, 3) and over.spec.num_classes == 6
        for split in (over.train, over.test):
            images, labels = read_rows(split, range(6))
            np.testing.assert_array_equal(images, composite(IMAGES, background))
            np.testing.assert_array_equal(labels, LABELS)
    assert len({found[BLACK].spec.hash, found[WHITE].spec.hash, "0" * 64}) == 3


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_opaque_stays_as_it_is(channels):
    given = dataset(channels, False)
    assert opaque_dataset(given, WHITE) is given
    assert opaque_images(given.train.images, WHITE) is given.train.images
