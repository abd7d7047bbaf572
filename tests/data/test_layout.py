"""Layout by names: the order of classes, and which folders are splits."""

import pytest

from jimgen.data.layout import class_of, class_order, held_out, split_of


def test_class_numbers_are_in_natural_order():
    assert class_order(str(i) for i in (11, 10, 2, 1, 0, 2)) == ("0", "1", "2", "10", "11")
    assert class_order(["b10", "a", "b9", "10b", "9b"]) == ("9b", "10b", "a", "b9", "b10")
    assert class_order(["1", "01", "001", "0"]) == ("0", "001", "01", "1")
    assert class_order(["9" * 5000, "8" * 5000])[0] == "8" * 5000  # longer than Python turns into integers
    assert class_order(["²", "2", "٣"]) == ("2", "²", "٣")  # other digits are text


def test_the_first_folder_is_the_class():
    assert [class_of(name) for name in ("1.png", "cat/1.png", "cat/a/b/1.png")] == [None, "cat", "cat"]


@pytest.mark.parametrize(
    ("kind", "names"),
    {
        "train": ("train", "Train", "TRAINING", "train_set", "training-images", "trainset", "train2017"),
        "test": ("test", "Test", "test_set", "test2017", "testset", "test images"),
        "testing": ("testing", "Testing"),
        "val": ("val", "VAL", "val2017"),
        "valid": ("valid",),
        "validation": ("validation", "validation_data"),
        "dev": ("dev", "Dev_set"),
        "eval": ("eval",),
        None: ("trains", "contest", "testament", "value", "develop", "cat", "train 7", "tests-of-cats"),
    }.items(),
)
def test_splits_are_known_by_their_names(kind, names):
    assert {name: split_of(name) for name in names} == dict.fromkeys(names, kind)


def test_a_tenth_is_held_out_whatever_the_bytes_of_a_name():
    names = [f"{i}.png" for i in range(1000)]
    assert 70 < sum(held_out(names)) < 130
    assert held_out(names + ["x\udce9.png"])[:1000] == held_out(names)
    assert sorted(held_out(["a.png", "b.png"])) == [False, True] and held_out([]) == []
