"""scikit-learn's handwritten digits: 1,797 grey pictures of 8x8, ten classes. Needs no files and no network."""

import numpy as np

from jimgen.data.dataset import Arrays, Source


def open_digits() -> Source:
    """1,497 train and 300 test rows: every sixth (rows 5, 11, ...) is test. The levels 0..16 become round(v * 255 / 16)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)
    test = np.arange(len(labels)) % 6 == 5
    return Source(
        train=Arrays(images[~test], labels[~test]),
        test=Arrays(images[test], labels[test]),
        class_names=tuple(str(name) for name in digits.target_names),
        shape=(8, 8, 1),
    )
