"""Modes of `stacked_digits`: how many of its 1,000 combinations of digits images show, and how evenly."""

import numpy as np

from jimgen.data.dataset import Arrays, Dataset, Stream, labels_of, num_rows, read_rows
from jimgen.errors import UserError
from jimgen.evaluation.extractors import extract, load_extractor
from jimgen.metrics.modes import mode_coverage

DATA = "stacked_digits"
CLASSIFIER = "digits_classifier"  # extractor that reads the digits
MOST_ERROR = 5.0  # percent of real channels that it may misread without a warning
DIGITS = 10


def modes(images: np.ndarray, dataset: Dataset) -> dict[str, float]:
    """Reads the three digits of every image by the shipped classifier, and compares their combinations with the data's.

    The classifier always finds some digit, so that images of anything cover many modes: see whether they show digits.

    Args:
        images: uint8 [n, h, w, 3], of the data's shape.
        dataset: stacked_digits, at any size.
    Returns:
        modes: number of the 1,000 combinations that occur. modes_kl: nats, KL from the histogram of the images to that
        of the labels of training images (see `metrics.modes.mode_coverage`). modes_error: percent of the channels of
        real test images that the classifier misreads; it has not seen their digits.
    Raises:
        UserError: see `require_stacked_digits`.
    """
    require_stacked_digits(dataset)
    found = mode_coverage(_histogram(_digits(images)), _histogram(labels_of(dataset.train)[:, 1:]))
    return {"modes": float(found.covered), "modes_kl": found.kl, "modes_error": _reading_error(dataset)}


def doubts(found: dict[str, float]) -> list[str]:
    """A sentence of warning where the classifier misreads many real digits, as of small digits on a wide background."""
    if found["modes_error"] <= MOST_ERROR:
        return []
    return [
        f"{CLASSIFIER} misreads {found['modes_error']:.0f}% of the digits in real images, so modes and modes_kl say "
        f"little: load {DATA} so that digits fill the images, with --fit resize and a --size of 8 or more"
    ]


def fresh_images(dataset: Dataset, num: int) -> np.ndarray:
    """Real images to compare samples with, uint8 [num, h, w, 3], as many as wanted: new combinations of test digits.

    The test split is a tenth of the training split: too few images to cover 1,000 modes. Training images would be no
    fair ceiling either, because `modes_kl` compares with them, and the classifier knows their digits. The channels of
    these data are independent, so that three digits of the test split, each drawn at random, are a new real image.
    """
    require_stacked_digits(dataset)
    digits = np.unique(_channels(_all_images(dataset.test))[..., 0], axis=0)
    rows = np.random.default_rng(0).integers(len(digits), size=(num, 3))
    return np.stack([digits[column] for column in rows.T], axis=-1)


def are_stacked_digits(dataset: Dataset) -> bool:
    spec = dataset.spec
    return spec.name.partition(":")[0] == DATA and spec.shape[-1] == 3 and len(spec.attributes) == 3


def require_stacked_digits(dataset: Dataset) -> None:
    """Raises UserError for other data than stacked_digits in colour."""
    if not are_stacked_digits(dataset):
        name, channels = dataset.spec.name, dataset.spec.shape[-1]
        raise UserError(
            f"modes is a metric of the data {DATA} with 3 channels, not of {name} with {channels}: leave it out of "
            "--metrics"
        )


def _reading_error(dataset: Dataset) -> float:
    """The percentage of channels of real test images in which the classifier finds another digit than the label."""
    test = dataset.test
    return 100 * float(np.mean(_digits(_all_images(test)) != labels_of(test)[:, 1:]))


def _all_images(split: Arrays | Stream) -> np.ndarray:
    return read_rows(split, range(num_rows(split)))[0]


def _channels(images: np.ndarray) -> np.ndarray:
    """Images uint8 [n, h, w, 3] -> grey images [3 n, h, w, 1], the three channels of each in order."""
    return np.moveaxis(images, -1, 1).reshape(-1, *images.shape[1:3], 1)


def _digits(images: np.ndarray) -> np.ndarray:
    """The digits that the classifier finds in the channels of images uint8 [n, h, w, 3]: int64 [n, 3]."""
    logits = extract(load_extractor(CLASSIFIER), _channels(images), batch_size=512).logits
    return logits.argmax(axis=1).reshape(-1, 3)


def _histogram(digits: np.ndarray) -> np.ndarray:
    """The number of each combination of digits int [n, 3]: int64 [1000]."""
    return np.bincount(digits @ np.asarray([DIGITS**2, DIGITS, 1]), minlength=DIGITS**3)
