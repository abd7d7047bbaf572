"""The identity of a model."""

import numpy as np
import pytest

from jimgen.apps.codec.errors import UnusableModel
from jimgen.apps.codec.identity import identity


def test_any_change_of_a_name_a_shape_a_dtype_or_a_bit_is_another_identity():
    weights = {"a": np.arange(6.0).reshape(2, 3), "b": None}
    others = [
        {"c": weights["a"]},
        {"a": weights["a"].reshape(3, 2)},
        {"a": weights["a"].astype(np.float32)},
        {"a": np.nextafter(weights["a"], 9)},
    ]
    found = {identity(tree) for tree in (weights, *others)}
    assert len(found) == 5 and all(len(name) == 8 for name in found)
    assert identity(weights) == identity({"a": weights["a"].astype(">f8"), "b": None})


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(value):
    with pytest.raises(UnusableModel, match="not finite"):
        identity({"a": np.array([1.0, value])})
