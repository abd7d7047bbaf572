"""Attributes as users write them."""

import numpy as np
import pytest

from jimgen.data import load
from jimgen.data.attributes import column_by_name, combination_by_name, show, values_by_name
from jimgen.data.dataset import Attribute
from jimgen.errors import UserError

COLUMNS = (
    Attribute("class", ("all",)),
    Attribute("hair", ("black", "red")),
    Attribute("glasses", ("none", "round", "half, tinted")),
)


def test_values_by_name():
    assert values_by_name(COLUMNS, []) == {}
    assert values_by_name(COLUMNS, ["hair=red", " glasses = none"]) == {1: 1, 2: 0}
    assert values_by_name(COLUMNS, ["glasses=half, tinted"]) == {2: 2}
    assert column_by_name(COLUMNS, "glasses") == 2


def test_combinations_by_name():
    assert combination_by_name(COLUMNS, "hair=red+glasses=none,round", "--without") == {1: [1], 2: [0, 1]}
    assert combination_by_name(COLUMNS, "glasses!=none", "--without") == {2: [1, 2]}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("red", "expected attribute=value, for example glasses=half, tinted"),
        ("hiar=red", "did you mean hair?"),
        ("hair=rad", "did you mean red?"),
        ("hair=blue", "There are: black, red"),
        ("class=all", "there is no attribute 'class'"),  # one value says nothing
        ("hair=black,red", "give one value"),
        ("hair!=red,black", "give one value"),
    ],
)
def test_what_is_not_there_is_answered_with_what_is(setting, message):
    with pytest.raises(UserError, match=r"^--set .*") as error:
        values_by_name(COLUMNS, [setting])
    assert message in str(error.value)


def test_an_attribute_is_set_once():
    with pytest.raises(UserError, match="hair is set twice"):
        values_by_name(COLUMNS, ["hair=red", "hair=black"])
    with pytest.raises(UserError, match="hair is set twice"):
        combination_by_name(COLUMNS, "hair=red+hair=black", "--without")
    with pytest.raises(UserError, match="no attribute 'hat'"):
        column_by_name(COLUMNS, "hat")


def test_rows_that_show_a_combination():
    labels = np.array([[0, 1, 0], [0, 1, 2], [0, 0, 2], [0, 1, 1]])
    assert show(labels, {1: [1], 2: [1, 2]}).tolist() == [False, True, False, True]
    assert show(np.array([0, 1, 2]), {0: [2, 0]}).tolist() == [True, False, True]


def test_training_never_shows_what_it_is_without(tmp_path):
    attributes = np.array([[hair, glasses] for hair in range(2) for glasses in range(3)] * 4)
    images = np.arange(24, dtype=np.uint8)[:, None, None] + np.zeros((24, 8, 8), np.uint8)
    values = np.array([["black", "red", ""], ["none", "round", "half"]])
    arrays = {"attribute_names": np.array(["hair", "glasses"]), "attribute_values": values}
    for split in ("train", "test"):
        arrays |= {f"{split}_images": images, f"{split}_attributes": attributes}
    np.savez(tmp_path / "set.npz", **arrays)
    whole = load(f"npz:{tmp_path / 'set.npz'}")
    assert whole.spec.conditions == (1, 2, 3) and whole.train.labels.shape == (24, 3)
    part = load(f"npz:{tmp_path / 'set.npz'}", without=["hair=red+glasses!=none", "glasses=half"])
    kept = (attributes[:, 0] == 0) & (attributes[:, 1] < 2) | (attributes[:, 0] == 1) & (attributes[:, 1] == 0)
    np.testing.assert_array_equal(part.train.images, images[kept][..., None])
    np.testing.assert_array_equal(part.train.labels[:, 1:], attributes[kept])
    assert part.spec.num_train == kept.sum() == 12 and part.spec.num_test == 24
    assert part.spec.hash != whole.spec.hash
    with pytest.raises(UserError, match="no training picture is left"):
        load(f"npz:{tmp_path / 'set.npz'}", without=["hair=red", "hair=black"])
