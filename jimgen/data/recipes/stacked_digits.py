"""stacked_digits[:NUM]: three handwritten digits in one picture, as its red, green and blue channels.

- Content: NUM train pictures (10,000 by default) and a tenth of that for test, 8x8 RGB, of scikit-learn's digits. Each
  is drawn by its index, so more pictures begin with the same ones.
- Labels: the attributes red, green and blue, each a digit. There is no class: 1,000 classes of ten pictures each would
  teach a net nothing about a digit that it saw in another channel. As for Stacked MNIST, how many of the 1,000
  combinations a model draws counts the modes that it covers.
- Split: train pictures are made of train digits, test pictures of test digits (`digits.py`: every sixth is test).
- Licence: BSD-3-Clause (scikit-learn), CC BY 4.0 (digits, UCI).
- Attribution: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository.
"""

import numpy as np

from jimgen.data.dataset import UNLABELLED, Arrays, Attribute, Source
from jimgen.data.digits import open_digits
from jimgen.data.recipes.about import About, count

VERSION = 1
NUM_TRAIN = 10_000
ATTRIBUTES = tuple(Attribute(channel, tuple("0123456789")) for channel in ("red", "green", "blue"))

ABOUT = About(
    what="three handwritten digits as red, green and blue, 8x8; 1,000 modes, a digit for each channel",
    split="by digit: pictures of train are made of train digits only",
    licence="CC BY 4.0",
    attribution="E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI; through scikit-learn",
    install="",
    is_installed=lambda: True,
)


def open_stacked_digits(argument: str, size: tuple[int, int] | None) -> Source:
    """Stacked digits; `argument` is the number of train pictures, or "". `size` is ignored: they have 8x8 pixels.

    Raises:
        UserError: the number is wrong.
    """
    digits = open_digits()
    assert isinstance(digits.train, Arrays) and isinstance(digits.test, Arrays)
    nums = count("stacked_digits", argument, NUM_TRAIN)
    train, test = _stack(digits.train, nums[0], seed=0), _stack(digits.test, nums[1], seed=1)
    return Source(train, test, class_names=UNLABELLED, shape=(8, 8, 3), attributes=ATTRIBUTES)


def _stack(split: Arrays, num: int, seed: int) -> Arrays:
    """`num` pictures of three digits each; picture i does not depend on how many there are."""
    rows = np.random.default_rng([VERSION, seed]).integers(len(split.labels), size=(num, 3))
    images = np.moveaxis(split.images[rows][..., 0], 1, -1)  # [num, 3, 8, 8] -> [num, 8, 8, 3]
    labels = np.concatenate([np.zeros((num, 1), np.int32), split.labels[rows].astype(np.int32)], axis=1)
    return Arrays(np.ascontiguousarray(images), labels)
