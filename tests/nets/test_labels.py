"""How labels enter nets."""

import jax
import jax.numpy as jnp
import numpy as np

from jimgen.nets.labels import LabelEmbedding, with_labels

KEY = jax.random.key(0)


def test_one_hot_labels_follow_the_features():
    x, labels = jnp.full((2, 2), 7.0), jnp.asarray([2, 0])
    np.testing.assert_array_equal(with_labels(x, labels, 3), [[7, 7, 0, 0, 1], [7, 7, 1, 0, 0]])
    assert with_labels(x, labels, 0) is x
    assert with_labels(x.astype(jnp.bfloat16), labels, 3).dtype == jnp.bfloat16


def test_the_one_hot_vectors_of_columns_stand_side_by_side_and_any_is_zero():
    labels = jnp.asarray([[1, 2], [2, 0], [0, 3]])
    expected = [[0, 1, 0, 0, 1], [0, 0, 1, 0, 0], [1, 0, 0, 0, 0]]  # 2 and 3 values: in the last rows one says "any"
    np.testing.assert_array_equal(with_labels(jnp.zeros((3, 0)), labels, (2, 3)), expected)


def test_an_embedding_is_the_sum_over_columns():
    net = LabelEmbedding((2, 3), 4)
    variables = net.init(KEY, jnp.zeros((1, 2), jnp.int32))
    table = np.asarray(variables["params"]["embedding"])
    assert table.shape == (3 + 4, 4)  # each column has one more value, "any"
    found = net.apply(variables, jnp.asarray([[0, 0], [2, 1], [1, 3]]))
    np.testing.assert_allclose(found, [table[0] + table[3], table[2] + table[4], table[1] + table[6]], rtol=1e-6)


def test_an_embedding_of_a_class_is_a_row_of_its_table():
    net = LabelEmbedding(3, 4)
    variables = net.init(KEY, jnp.zeros(1, jnp.int32))
    table = np.asarray(variables["params"]["embedding"])
    np.testing.assert_array_equal(net.apply(variables, jnp.asarray([0, 3, 2])), table[[0, 3, 2]])


def test_without_an_embedding_of_any_it_adds_nothing():
    net = LabelEmbedding((2, 3), 4, has_any=False)
    variables = net.init(KEY, jnp.zeros((1, 2), jnp.int32))
    table = np.asarray(variables["params"]["embedding"])
    assert table.shape == (5, 4)
    found = net.apply(variables, jnp.asarray([[1, 3], [2, 0], [2, 3]]))
    np.testing.assert_allclose(found, [table[1], table[2], np.zeros(4)])


def test_without_classes_all_labels_have_one_embedding():
    net = LabelEmbedding(0, 4)
    labels = jnp.asarray([[0, 3], [2, 1]])
    found = np.asarray(net.apply(net.init(KEY, labels), labels))
    np.testing.assert_array_equal(found[0], found[1])


def test_nets_of_classes_alone_read_the_first_column():
    labels = jnp.asarray([[2, 5], [0, 1]])
    np.testing.assert_array_equal(with_labels(jnp.zeros((2, 0)), labels, 3), [[0, 0, 1], [1, 0, 0]])
    for has_any in (True, False):
        net = LabelEmbedding(3, 4, has_any=has_any)
        variables = net.init(KEY, labels)
        np.testing.assert_array_equal(net.apply(variables, labels), net.apply(variables, labels[:, 0]))
