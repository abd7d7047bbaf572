import numpy as np
from sklearn.datasets import load_digits

from jimgen.data import load


def test_every_sixth_row_is_test_and_levels_fill_eight_bits():
    digits = load("digits")
    values, labels = load_digits(return_X_y=True)
    spec = digits.spec
    assert (spec.shape, spec.num_classes, spec.num_train, spec.num_test) == ((8, 8, 1), 10, 1498, 299)
    assert spec.class_names == tuple("0123456789")
    assert digits.train.images.dtype == np.uint8 and digits.train.labels.dtype == np.int32
    np.testing.assert_array_equal(digits.test.images[1].ravel(), np.round(values[11] * 255 / 16))
    np.testing.assert_array_equal(digits.test.labels, labels[5::6])
    assert digits.train.images.min() == 0 and digits.train.images.max() == 255


def test_each_class_is_a_tenth_of_either_split():
    digits = load("digits")
    for split in (digits.train, digits.test):
        shares = np.bincount(split.labels) / len(split.labels)
        assert shares.min() > 0.06 and shares.max() < 0.14
