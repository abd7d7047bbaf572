import numpy as np
import pytest

from jimgen.data.dataset import Attribute
from jimgen.data.label_conditions import Condition, parse_condition, rows_that_meet
from jimgen.errors import UserError

COLUMNS = (Attribute("class", ("cat", "dog")), Attribute("hair", ("none", "red", "black")))


def test_conditions_are_read():
    assert parse_condition("hair=red", COLUMNS) == Condition(1, (1,))
    assert parse_condition("hair=red,black", COLUMNS) == Condition(1, (1, 2))
    assert parse_condition("hair!=none", COLUMNS) == Condition(1, (1, 2))
    assert parse_condition("class=dog", COLUMNS) == Condition(0, (1,))


def test_rows_meet_all_conditions():
    labels = np.array([[0, 1], [1, 1], [1, 0], [1, 2]], np.int32)
    assert rows_that_meet([Condition(0, (1,)), Condition(1, (1, 2))], labels).tolist() == [False, True, False, True]
    assert rows_that_meet([Condition(0, (1,))], np.array([0, 1])).tolist() == [False, True]
    assert rows_that_meet([], labels).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [("hair", "write NAME=VALUE"), ("hiar=red", "did you mean 'hair'"), ("hair=rde", "did you mean 'red'")],
)
def test_wrong_conditions_are_answered(text, message):
    with pytest.raises(UserError, match=message):
        parse_condition(text, COLUMNS)
