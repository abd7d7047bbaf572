"""Few real images by seed: disjoint from validation and test images, and what cannot be drawn."""

import numpy as np
import pytest

from jimgen.data.dataset import Arrays, Attribute, Dataset, DataSpec
from jimgen.errors import UserError
from jimgen.evaluation.few import draw, draw_rows, pools_of


def numbered(classes: list[int], start: int = 0) -> Arrays:
    """8x8 pictures that all differ: the first two pixels say which one it is."""
    images = np.zeros((len(classes), 8, 8, 1), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = np.divmod(np.arange(start, start + len(classes)), 256)
    return Arrays(images, np.asarray(classes, np.int32))


def dataset_of(
    train: Arrays, test: Arrays, name: str = "x", names: tuple[str, ...] = ("a", "b"), digest="0"
) -> Dataset:
    spec = DataSpec(name, (8, 8, 1), len(names), names, len(train.labels), len(test.labels), digest * 64)
    return Dataset(spec, train, test)


def usual() -> Dataset:
    """40 training images of a, 60 of b."""
    return dataset_of(numbered([0] * 40 + [1] * 60), numbered([0, 1, 1], 1000))


def which(images: np.ndarray) -> list[int]:
    """The numbers of pictures of `numbered`."""
    return (images[:, 0, :2, 0].astype(int) @ [256, 1]).tolist()


def test_training_validation_and_test_images_are_disjoint():
    pools = pools_of(usual())
    for count, held_out in ((3, 10), (12, 12), (25, 15)):  # at least 10, as many, as many as the smallest class has
        assert pools.held_out_per_class(count) == held_out
        for seed in range(3):
            real, validation = draw(pools, count, seed)
            assert np.bincount(real.labels).tolist() == [count] * 2
            assert np.bincount(validation.labels).tolist() == [held_out] * 2
            seen = [which(split.images) for split in (real, validation, pools.test)]
            assert len(set().union(*seen)) == sum(map(len, seen)) == 2 * (count + held_out) + 3
            assert (real.labels == (np.asarray(seen[0]) >= 40)).all()  # each keeps its own label
            assert (validation.labels == (np.asarray(seen[1]) >= 40)).all()


def test_a_seed_draws_the_same_images_and_a_larger_number_the_smaller_ones_and_more():
    pools = pools_of(usual())
    first, again, other = (draw_rows(pools, 5, seed) for seed in (7, 7, 8))
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    assert set(first[0]) != set(other[0]) and set(first[1]) != set(other[1])
    assert set(first[0]) < set(draw_rows(pools, 9, 7)[0])
    assert draw_rows(pools, 5, 2**63 - 1)[0].shape == (10,)


def test_few_images_of_another_set_train_and_their_copies_do_not_validate():
    dataset = usual()
    few = dataset_of(Arrays(*(part[30:50] for part in dataset.train)), numbered([0, 1], 2000), "few", digest="f")
    pools = pools_of(dataset, few)
    assert pools.few == few.spec and pools.held_out_per_class(10) == 10
    real, validation = draw(pools, 10, 0)
    assert set(which(real.images)) == set(range(30, 50))
    assert not set(which(validation.images)) & set(range(30, 50))
    leaking = dataset_of(Arrays(*(part[:2] for part in dataset.test)), few.test, "few")
    with pytest.raises(UserError, match="2 test images of x are training images of few: leave them out"):
        pools_of(dataset, leaking)
    with pytest.raises(UserError, match="few and x differ.* of 0, 1 and .* of a, b; an .npz names its classes"):
        pools_of(dataset, dataset_of(few.train, few.test, "few", ("0", "1")))


def test_of_attributes_the_class_counts():
    dataset = usual()
    dataset = dataset._replace(spec=dataset.spec._replace(attributes=(Attribute("hair", ("red", "black")),)))
    train, test = (
        split._replace(labels=np.stack([split.labels, 1 - split.labels], axis=1))
        for split in (dataset.train, dataset.test)
    )
    pools = pools_of(dataset._replace(train=train, test=test))
    assert draw(pools, 3, 0)[0].labels.tolist() == [0, 0, 0, 1, 1, 1] and pools.test.labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (0, "0 real images per class: give 1 or more"),
        (41, "41 real images per class are too many: class a has 40 training images"),
        (31, "class a has 40 training images, which leaves 9 for validation, 10 are needed"),
    ],
)
def test_numbers_that_a_class_does_not_have_are_refused(count, message):
    with pytest.raises(UserError, match=message):
        draw(pools_of(usual()), count, 0)
    assert draw(pools_of(usual()), 30, 0)[1].labels.tolist() == [0] * 10 + [1] * 10


def test_data_without_classes_are_refused():
    with pytest.raises(UserError, match="x has no classes: a classifier needs at least two"):
        pools_of(dataset_of(numbered([0] * 20), numbered([0]), names=("all",)))
