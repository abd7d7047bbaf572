"""Modes of stacked digits: real images cover nearly all, collapsed ones few, and only these data have them."""

import numpy as np
import pytest

from jimgen import data
from jimgen.data.dataset import Dataset, read_rows
from jimgen.errors import UserError
from jimgen.evaluation.evaluate import default_metrics
from jimgen.evaluation.generated import GeneratedSet
from jimgen.evaluation.measure import compared_with, is_better, measure
from jimgen.evaluation.modes import doubts, fresh_images, modes


@pytest.fixture(scope="module")
def stacked() -> Dataset:
    return data.load("stacked_digits:1000")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JIMGEN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def test_fresh_images_are_new_combinations_of_test_channels(stacked: Dataset) -> None:
    fresh = fresh_images(stacked, 500)
    assert fresh.shape == (500, 8, 8, 3) and fresh.dtype == np.uint8
    of = [
        {image.tobytes() for image in np.moveaxis(images, -1, 1).reshape(-1, 64)} for images in (fresh, _all(stacked))
    ]
    assert of[0] <= of[1] and len(of[0]) > 150
    whole = {image.tobytes() for image in _all(stacked)}
    assert sum(image.tobytes() in whole for image in fresh) < 5
    np.testing.assert_array_equal(fresh_images(stacked, 500), fresh)


def _all(dataset: Dataset) -> np.ndarray:
    return read_rows(dataset.test, range(dataset.spec.num_test))[0]


def test_real_images_are_the_ceiling_and_a_collapse_is_seen(stacked: Dataset) -> None:
    real = modes(fresh_images(stacked, 1000), stacked)
    # 1,000 draws cover 1 - 1/e of equal modes, and a little less of unequal ones. The divergence is of two small sets.
    assert real["modes"] == pytest.approx(1000 * (1 - np.exp(-1)), abs=45)
    assert real["modes_kl"] < 1.2
    assert real["modes_error"] < 2
    labels = stacked.train.labels[:, 1:]
    few = stacked.train.images[(labels < 3).all(1)]  # 27 modes
    collapsed = modes(np.resize(few, (300, 8, 8, 3)), stacked)
    assert 10 <= collapsed["modes"] <= 40
    assert collapsed["modes_kl"] > 2.5
    one = modes(np.repeat(few[:1], 20, axis=0), stacked)
    assert one["modes"] == 1
    assert is_better("modes", real["modes"], collapsed["modes"])
    assert is_better("modes_kl", real["modes_kl"], collapsed["modes_kl"])


def test_modes_stand_beside_as_many_real_images_and_gaussians(stacked: Dataset) -> None:
    """Without any extractor; of 300 samples, though there are only 100 test images."""
    found = compared_with(stacked, [], ["modes"], count=300)
    assert found["real"]["modes"] > 230
    assert found["real"]["modes_error"] == found["gaussian"]["modes_error"]
    assert found["gaussian"]["modes"] < found["real"]["modes"]
    assert compared_with(stacked, [], ["modes"], count=300) == found
    measured = measure(fresh_images(stacked, 300), None, stacked, [], ["modes"])
    assert measured.metrics == found["real"] and not measured.warnings


def test_other_sizes_of_the_data_are_read_and_small_digits_are_doubted() -> None:
    larger = data.load("stacked_digits:200", size=16)
    assert modes(fresh_images(larger, 20), larger)["modes_error"] < 5
    assert not doubts({"modes_error": 1.0})
    assert "misreads 60% of the digits in real images" in doubts({"modes_error": 60.0})[0]


def test_only_stacked_digits_have_modes(stacked: Dataset) -> None:
    digits = data.load("digits")
    with pytest.raises(UserError, match="stacked_digits with 3 channels, not of digits with 1"):
        measure(digits.test.images, None, digits, [], ["modes"])
    with pytest.raises(UserError, match="not of stacked_digits:20 with 1"):
        fresh_images(data.load("stacked_digits:20", channels=1), 3)
    images = GeneratedSet(np.zeros((2, 8, 8, 3), np.uint8), None)
    assert "modes" in default_metrics(images, stacked)
    assert "modes" not in default_metrics(images, digits)
