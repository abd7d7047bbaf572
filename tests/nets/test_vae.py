"""Encoders and decoders of VAEs: shapes, sizes in parameters, labels, precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import applied, initialised

from jimgen.nets.vae import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder

NETS = {  # (encoder, decoder) for a shape, classes and a compute precision
    "conv": lambda shape, **options: (ConvEncoder(6, (4, 8), 10, **options), ConvDecoder(shape, (8, 4), 10, **options)),
    "mlp": lambda shape, **options: (MLPEncoder(6, (10, 12), **options), MLPDecoder(shape, (12, 10), **options)),
}
LABELS = jnp.asarray([0, 1, 2, 0], jnp.int32)


def batch(shape):
    """Latents and images."""
    z, images = jax.random.split(jax.random.key(1))
    return jax.random.normal(z, (4, 6)), jax.random.uniform(images, (4, *shape), minval=-1)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("shape", [(8, 8, 1), (16, 16, 3), (8, 20, 3)])
@pytest.mark.parametrize("net", NETS)
def test_shapes_and_precision(net, shape, dtype):
    """Mean and log variance [b, latent], outputs [b, h, w, c]; float32 for every compute precision."""
    (z, images), (encoder, decoder) = batch(shape), NETS[net](shape, dtype=dtype)
    (mean, logvar), encoder_variables = initialised(encoder, images, LABELS)
    output, decoder_variables = initialised(decoder, z, LABELS)
    assert mean.shape == logvar.shape == (4, 6) and output.shape == (4, *shape)
    assert {x.dtype for x in (mean, logvar, output)} == {jnp.dtype("float32")}
    assert (mean != logvar).all()
    for variables in (encoder_variables, decoder_variables):
        assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_bfloat16_computes_nearly_the_same():
    (_, images), (encoder, _) = batch((8, 8, 1)), NETS["conv"]((8, 8, 1))
    _, variables = initialised(encoder, images, LABELS)
    whole, halved = (
        applied(encoder, variables, images, LABELS),
        applied(encoder.clone(dtype=jnp.bfloat16), variables, images, LABELS),
    )
    difference = float(jnp.abs(whole[0] - halved[0]).max())
    assert 0 < difference < 0.05


def test_decoder_output_is_not_bounded():
    """The output is logits or means, without a squashing activation."""
    for net in NETS.values():
        z, decoder = batch((8, 8, 1))[0], net((8, 8, 1))[1]
        _, variables = initialised(decoder, z, LABELS)
        large = jax.tree.map(lambda x: x * 10, variables)
        assert float(jnp.abs(applied(decoder, large, z, LABELS)).max()) > 10


def test_convolutional_pair_is_as_large_as_its_pytorch_peer():
    """32x32 grey, latent 64, widths 32, 64, 128, hidden 256."""
    images, z, labels = jnp.zeros((2, 32, 32, 1)), jnp.zeros((2, 64)), jnp.zeros(2, jnp.int32)
    shapes = jax.eval_shape(
        lambda key: (ConvEncoder().init(key, images, labels), ConvDecoder((32, 32, 1)).init(key, z, labels)),
        jax.random.key(0),
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 1_429_441


@pytest.mark.parametrize("num_classes", [0, 3])
@pytest.mark.parametrize("net", NETS)
def test_only_conditional_nets_react_to_labels(net, num_classes):
    """Changing one label changes only the output of its example."""
    (z, images), pair = batch((8, 8, 1)), NETS[net]((8, 8, 1), num_classes=num_classes)
    for module, x in zip(pair, (images, z), strict=True):
        _, variables = initialised(module, x, LABELS)
        found, changed = (
            jax.tree.leaves(applied(module, variables, x, given)) for given in (LABELS, LABELS.at[0].set(2))
        )
        for a, b in zip(found, changed, strict=True):
            assert bool((a[0] != b[0]).any()) == bool(num_classes)
            np.testing.assert_allclose(a[1:], b[1:], atol=1e-6)


def test_sizes_that_the_strides_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="the convolutional encoder halves images 2 times.*got 8x10. Use 8x8"):
        ConvEncoder(6, (4, 8)).init(jax.random.key(0), jnp.zeros((4, 8, 10, 1)), LABELS)
    with pytest.raises(ValueError, match="the convolutional decoder halves images 2 times.*got 6x8"):
        ConvDecoder((6, 8, 1), (8, 4)).init(jax.random.key(0), jnp.zeros((4, 6)), LABELS)


def test_dense_nets_take_any_size():
    encoder, decoder = NETS["mlp"]((7, 5, 1))
    assert initialised(encoder, jnp.zeros((4, 7, 5, 1)), LABELS)[0][0].shape == (4, 6)
    assert initialised(decoder, jnp.zeros((4, 6)), LABELS)[0].shape == (4, 7, 5, 1)
