"""Labels, columns of labels, and what hides them."""

import jax
import jax.numpy as jnp
import numpy as np

from jimgen.conditions import are_open, column_sizes, columns_of, drop_labels, is_conditional, open_labels

KEY, MANY = jax.random.key(0), jnp.arange(4000)


def test_columns_of_a_class_and_of_attributes():
    assert [column_sizes(x) for x in (0, 5, (5, 2))] == [(), (5,), (5, 2)]
    assert [is_conditional(x) for x in (0, 1, 5, (1, 1), (1, 2))] == [False, False, True, False, True]
    assert [column.tolist() for column in columns_of(jnp.asarray([[1, 2], [3, 4]]))] == [[1, 3], [2, 4]]


def test_open_labels_say_any_in_every_column():
    assert open_labels(jnp.zeros(2, jnp.int32), 5).tolist() == [5, 5]
    opened = open_labels(jnp.zeros((2, 3), jnp.int32), (5, 2, 4))
    assert opened.tolist() == [[5, 2, 4]] * 2
    assert are_open(opened.at[0, 1].set(0), (5, 2, 4)).tolist() == [False, True]


def test_labels_are_hidden_as_often_as_asked():
    labels = MANY.astype(jnp.int32) % 3
    dropped = drop_labels(labels, KEY, MANY, 0.25, 3)
    hidden = np.asarray(dropped == 3)
    assert abs(hidden.mean() - 0.25) < 0.03
    np.testing.assert_array_equal(dropped[~hidden], labels[~hidden])
    np.testing.assert_array_equal(drop_labels(labels, KEY, MANY, 0.0, 3), labels)
    assert not drop_labels(labels, KEY, MANY, 0.25, 0).any()


def test_of_several_columns_every_number_of_them_is_hidden_alike():
    sizes = (3, 2, 2, 5)
    labels = jnp.stack([MANY % size for size in sizes], axis=1).astype(jnp.int32)
    dropped = drop_labels(labels, KEY, MANY, 0.2, sizes)
    hidden = np.asarray(dropped) == sizes
    np.testing.assert_array_equal(np.where(hidden, labels, dropped), labels)
    shares = np.bincount(hidden.sum(axis=1), minlength=5) / len(MANY)
    # .4 of the examples lose columns by themselves, each number with probability 1/5; .2 lose all, .4 lose none.
    np.testing.assert_allclose(shares, [0.48, 0.08, 0.08, 0.08, 0.28], atol=0.02)
    single = hidden[hidden.sum(axis=1) == 1].mean(axis=0)
    np.testing.assert_allclose(single, 0.25, atol=0.06)
    np.testing.assert_array_equal(drop_labels(labels, KEY, MANY, 0.0, sizes), labels)


def test_a_net_of_classes_alone_drops_the_class_of_several_columns_as_often_as_asked():
    labels = jnp.stack([MANY % 3, MANY % 2], axis=1).astype(jnp.int32)
    dropped = drop_labels(labels, KEY, MANY, 0.25, 3)
    np.testing.assert_array_equal(dropped[:, 0], drop_labels(labels[:, 0], KEY, MANY, 0.25, 3))
