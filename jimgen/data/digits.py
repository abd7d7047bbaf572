"""scikit-learn's handwritten digits: 1,797 grey pictures of 8x8, ten classes. Needs no files and no network."""

import numpy as np

from jimgen.data.dataset import Arrays, Source


def open_digits() -> Source:
    """1,498 train and 299 test rows: every sixth (5, 11, ...) is test. Levels 0 to 16 become round(v * 255 / 16)."""
    from sklearn.datasets import load_digits

    values, labels = load_digits(return_X_y=True)  # float64 [n, 64] in [0, 16], int64 [n]
    images = np.rint(values.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    labels = labels.astype(np.int32)
    test = np.arange(len(labels)) % 6 == 5
    return Source(
        train=Arrays(images[~test], labels[~test]),
        test=Arrays(images[test], labels[test]),
        class_names=tuple("0123456789"),
        shape=(8, 8, 1),
    )
