"""SNGAN's nets: shapes, ranges, sizes in parameters, labels, tiling, gradients of gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import applied, initialised

from jimgen.nets.sngan import Discriminator, Generator


def inputs(shape, size=4):
    """Latents, images, and labels of one column and of two."""
    rng = np.random.default_rng(0)
    z, images = rng.standard_normal((size, 5)), rng.uniform(-1, 1, (size, *shape))
    labels = np.stack([np.arange(size) % 3, np.arange(size) % 2], axis=1)
    return jnp.asarray(z), jnp.asarray(images), jnp.asarray(labels, jnp.int32)


@pytest.mark.parametrize(
    ("shape", "num_classes", "dtype"),
    [((8, 12, 1), 0, "float32"), ((8, 8, 4), 3, "bfloat16"), ((12, 4, 3), (3, 2), "float32")],
)
def test_shapes_and_ranges(shape, num_classes, dtype):
    z, images, labels = inputs(shape)
    labels = labels if isinstance(num_classes, tuple) else labels[:, 0]
    generator = Generator(shape, (6, 4, 4), num_classes, dtype=dtype)
    fake, variables = initialised(generator, z, labels, train=True)
    assert fake.shape == (4, *shape) and fake.dtype == jnp.float32
    assert 0 < float(jnp.abs(fake).max()) <= 1 and float(fake.std()) > 0
    discriminator = Discriminator((4, 6, 6), 2, num_classes, dtype)
    logits, judge = initialised(discriminator, images, labels, train=True)
    assert logits.shape == (4,) and logits.dtype == jnp.float32 and np.isfinite(logits).all()
    assert {x.dtype for x in jax.tree.leaves((variables, judge))} == {jnp.dtype("float32")}


def test_labels_change_images_and_logits():
    z, images, labels = inputs((4, 4, 1))
    other = labels.at[:, 1].set(1 - labels[:, 1])
    for net, x in ((Generator((4, 4, 1), (4, 4), (3, 2)), z), (Discriminator((4,), 1, (3, 2)), images)):
        output, variables = initialised(net, x, labels, train=True)
        changed = applied(net, variables, x, other, train=True, mutable=["batch_stats"])[0]
        assert float(jnp.abs(changed - output).max()) > 1e-5


def test_nets_are_as_large_as_their_pytorch_peers():
    """32x32 grey, latent 128, 64 channels; the peer's generator has 9 biases of 64 before BatchNorm more."""
    labels = jnp.zeros(2, jnp.int32)

    def count(net, *shape):
        variables = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((2, *shape)), labels, train=True))
        return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))

    assert count(Generator((32, 32, 1), [64] * 4), 128) == 367_617 - 9 * 64
    assert count(Discriminator([64] * 4), 32, 32, 1) == 263_489


def test_a_logit_depends_on_its_image_alone():
    _, images, labels = inputs((8, 8, 1))
    net = Discriminator((4, 4), 1)
    logits, variables = initialised(net, images, labels, train=True)
    few = applied(net, variables, images[:2], labels[:2], train=True, mutable=["batch_stats"])[0]
    np.testing.assert_allclose(few, logits[:2], rtol=1e-5)


def test_a_circular_generator_has_no_edge():
    """Rolled feature maps give rolled images: here by rolling the first layer's bias, with z = 0."""
    z, _, labels = inputs((8, 8, 1))
    net = Generator((8, 8, 1), (6, 4), circular=True)
    _, variables = initialised(net, z, labels, train=True)
    first = np.random.default_rng(0).standard_normal((4, 4, 6)).astype(np.float32)

    def drawn(start):
        params = variables["params"]
        stem = {**params["stem"], "bias": jnp.asarray(start.ravel())}
        return applied(net, {**variables, "params": {**params, "stem": stem}}, 0 * z, labels, train=False)

    np.testing.assert_allclose(drawn(np.roll(first, (1, 2), (0, 1))), np.roll(drawn(first), (2, 4), (1, 2)), atol=1e-5)


def test_the_gradient_of_r1_is_that_of_finite_differences(x64):
    _, images, labels = inputs((4, 4, 1), size=2)
    net = Discriminator((3,), 1, num_classes=3, dtype=jnp.float64)
    variables = initialised(net, images, labels[:, 0], train=True)[1]
    layer = variables["params"]["block0"]["conv1"]
    matrix = np.asarray(layer["kernel"], np.float64).reshape(-1, 3)
    u = jnp.asarray(np.linalg.svd(matrix)[2][0])  # the fixed point, where sigma depends on the vectors to second order
    variables["batch_stats"]["block0"]["conv1"] = {"u": u}
    direction = jnp.asarray(np.random.default_rng(0).standard_normal(layer["kernel"].shape))

    def penalty(step):
        moved = {**layer, "kernel": layer["kernel"] + step * direction}
        params = {**variables["params"], "block0": {**variables["params"]["block0"], "conv1": moved}}
        judge = lambda x: net.apply({**variables, "params": params}, x, labels[:, 0], train=False).sum()  # noqa: E731
        return jnp.square(jax.grad(judge)(images)).sum()

    penalty = jax.jit(penalty)
    expected = (penalty(1e-6) - penalty(-1e-6)) / 2e-6
    np.testing.assert_allclose(jax.grad(penalty)(0.0), expected, rtol=1e-6)


def test_sizes_that_do_not_fit_are_refused():
    z, images, labels = inputs((8, 10, 1))
    with pytest.raises(ValueError, match="SNGAN's generator halves images 2 times.*got 8x10"):
        Generator((8, 10, 1), (4, 4, 4)).init(jax.random.key(0), z, labels, train=True)
    with pytest.raises(ValueError, match="SNGAN's discriminator halves images 2 times.*got 8x10"):
        Discriminator((4, 4)).init(jax.random.key(0), images, labels, train=True)
    with pytest.raises(ValueError, match="3 halvings need as many widths, not 2"):
        Discriminator((4, 4), 3).init(jax.random.key(0), jnp.zeros((2, 8, 8, 1)), labels, train=True)
