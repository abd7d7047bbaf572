"""DCGAN's nets: shapes, ranges, sizes in parameters, labels, precision, batch statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import applied, initialised

from jimgen.nets.dcgan import Discriminator, Generator

SHAPES = [(8, 8, 1), (16, 16, 3), (8, 20, 3)]


def num_parameters(variables) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def batch(shape, size=4, latent_dim=5):
    """Latents, images and labels."""
    z, images = jax.random.split(jax.random.key(1))
    labels = jnp.arange(size, dtype=jnp.int32) % 3
    return jax.random.normal(z, (size, latent_dim)), jax.random.uniform(images, (size, *shape), minval=-1), labels


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("num_classes", [0, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_generator_makes_images_in_range(shape, num_classes, dtype):
    """Varied float32 values in [-1, 1] of the requested shape, for every compute precision."""
    z, _, labels = batch(shape)
    net = Generator(shape, (8, 4), num_classes, dtype)
    images, variables = initialised(net, z, labels, train=True)
    assert images.shape == (4, *shape) and images.dtype == jnp.float32
    assert 0 < float(jnp.abs(images).max()) <= 1 and float(images.std()) > 0
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    large = jax.tree.map(lambda x: x * 100, variables)
    assert float(jnp.abs(applied(net, large, z, labels, train=False)).max()) <= 1


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("num_classes", [0, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_discriminator_gives_a_logit_an_example(shape, num_classes, dtype):
    _, images, labels = batch(shape)
    for batch_norm in (True, False):
        net = Discriminator((4, 8), batch_norm, num_classes, dtype)
        logits, variables = initialised(net, images, labels, train=True)
        assert logits.shape == (4,) and logits.dtype == jnp.float32 and np.isfinite(logits).all()
        assert ("batch_stats" in variables) == batch_norm
        assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_nets_are_as_large_as_their_pytorch_peers():
    """32x32 grey, latent 100, widths 64, 128, 256."""
    z, images, labels = jnp.zeros((2, 100)), jnp.zeros((2, 32, 32, 1)), jnp.zeros(2, jnp.int32)

    def count(net, x):
        return num_parameters(jax.eval_shape(lambda: net.init(jax.random.key(0), x, labels, train=True)))

    assert count(Generator((32, 32, 1)), z) == 1_066_880
    assert count(Discriminator(), images) == 661_248
    assert count(Discriminator(batch_norm=False), images) == 660_929


def test_weights_start_as_in_the_paper():
    """Kernels N(0, .02^2), BatchNorm scales N(1, .02^2), its biases zero."""
    z, labels = jnp.zeros((2, 100)), jnp.zeros(2, jnp.int32)
    params = initialised(Generator((16, 16, 1), (64, 32)), z, labels, train=True)[1]["params"]
    for kernel in (params["stem"]["kernel"], params["up0"]["kernel"]):
        assert float(kernel.std()) == pytest.approx(0.02, rel=0.05) and abs(float(kernel.mean())) < 1e-3
    scale = params["stem_norm"]["scale"]
    assert abs(float(scale.mean()) - 1) < 0.01 and float(scale.std()) == pytest.approx(0.02, rel=0.3)
    assert not np.any(params["stem_norm"]["bias"])


@pytest.mark.parametrize("num_classes", [0, 3])
def test_only_conditional_nets_react_to_labels(num_classes):
    """In evaluation, an image or a logit depends on its own label only."""
    z, images, labels = batch((8, 8, 1))
    other = labels.at[0].set((labels[0] + 1) % 3)
    generator, discriminator = Generator((8, 8, 1), (8,), num_classes), Discriminator((8,), True, num_classes)
    for net, x in ((generator, z), (discriminator, images)):
        _, variables = initialised(net, x, labels, train=True)
        found, changed = (applied(net, variables, x, given, train=False) for given in (labels, other))
        assert bool((found[0] != changed[0]).any()) == bool(num_classes)
        np.testing.assert_array_equal(found[1:], changed[1:])


def jacobian_of_logits(batch_norm: bool, train: bool) -> np.ndarray:
    """Whether logit i depends on image j: norms [4, 4]."""
    _, images, labels = batch((8, 8, 1))
    net = Discriminator((4, 8), batch_norm, 3)
    _, variables = initialised(net, images, labels, train=True)

    def logits_of(x):
        logits, _ = net.apply(variables, x, labels, train=train, mutable=["batch_stats"])
        return logits

    return np.asarray(jnp.abs(jax.jit(jax.jacobian(logits_of))(images)).sum((2, 3, 4)))


def test_without_batch_norm_a_logit_depends_on_its_image_alone():
    """Gradient penalties require this. BatchNorm couples the batch in training, but not in evaluation."""
    apart = ~np.eye(4, dtype=bool)
    for batch_norm, train, mixes in ((False, True, False), (True, False, False), (True, True, True)):
        norms = jacobian_of_logits(batch_norm, train)
        assert (norms[~apart] > 0).all()
        assert (norms[apart] > 0).all() if mixes else (norms[apart] == 0).all()


def test_generator_in_evaluation_uses_running_statistics():
    """In evaluation an image does not depend on the batch; in training it does. Training updates the statistics."""
    z, _, labels = batch((8, 8, 1), size=6)
    net = Generator((8, 8, 1), (8,))
    _, variables = initialised(net, z, labels, train=True)

    def first(size, train):
        return applied(net, variables, z[:size], labels[:size], train=train, mutable=["batch_stats"])

    np.testing.assert_allclose(first(6, False)[0][:2], first(2, False)[0], atol=1e-6)
    assert float(jnp.abs(first(6, True)[0][:2] - first(2, True)[0]).max()) > 1e-5
    unchanged, changed = first(6, False)[1], first(6, True)[1]
    for kept, old in zip(jax.tree.leaves(unchanged), jax.tree.leaves(variables["batch_stats"]), strict=True):
        np.testing.assert_array_equal(kept, old)
    for new, old in zip(jax.tree.leaves(changed), jax.tree.leaves(variables["batch_stats"]), strict=True):
        assert (new != old).any()


def test_sizes_that_the_strides_do_not_divide_are_refused():
    z, _, labels = batch((8, 8, 1))
    with pytest.raises(ValueError, match="DCGAN's generator halves images 2 times.*got 10x8. Use 8x8"):
        Generator((10, 8, 1), (8, 4)).init(jax.random.key(0), z, labels, train=True)
    with pytest.raises(ValueError, match="DCGAN's discriminator halves images 2 times.*got 8x14"):
        Discriminator((4, 8)).init(jax.random.key(0), jnp.zeros((4, 8, 14, 1)), labels, train=True)
