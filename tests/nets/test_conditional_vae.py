"""Nets of the conditional VAE: shapes, what the decoder sees, labels, sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import applied, initialised

from jimgen.nets.conditional_vae import Decoder, Encoder

LABELS = jnp.asarray([0, 1, 2], jnp.int32)


def inputs(shape=(8, 12, 1)):
    images = jax.random.uniform(jax.random.key(1), (3, *shape), minval=-1)
    return images, jnp.ones((3, *shape[:2], 1), bool), LABELS


@pytest.mark.parametrize(("channels", "dtype"), [(1, jnp.float32), (3, jnp.float32), (4, jnp.bfloat16)])
def test_shapes_and_precision(channels, dtype):
    """Features of all resolutions; a latent map, and outputs of the images' shape in float32."""
    given, options = inputs((8, 12, channels)), {"widths": (4, 6), "blocks": 1, "dtype": dtype}
    (features, mean, logvar), _ = initialised(Encoder(2, **options), *given)
    assert [x.shape for x in features] == [(3, 8, 12, channels + 1), (3, 4, 6, 4), (3, 2, 3, 6)]
    assert {x.dtype for x in features} == {jnp.dtype(dtype)}
    output, _ = initialised(Decoder(channels, **options), mean, features, LABELS)
    assert mean.shape == logvar.shape == (3, 2, 3, 2) and output.shape == (3, 8, 12, channels)
    assert {x.dtype for x in (mean, logvar, output)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("num_classes", [0, 3])
def test_the_decoder_sees_z_and_every_resolution_and_labels_if_it_is_conditional(num_classes):
    """Each part that changes in the first example changes the output of that example alone."""
    options = {"widths": (4, 6), "num_classes": num_classes}
    encoder, decoder = Encoder(2, **options), Decoder(1, **options)
    (features, z, _), variables = initialised(encoder, *inputs())
    images, known, _ = inputs()
    relabelled = applied(encoder, variables, images, known, LABELS.at[0].set(2))[1]
    assert bool(jnp.abs(z - relabelled)[0].max() > 1e-5) == bool(num_classes)
    output, variables = initialised(decoder, z, features, LABELS)
    changed = [(z.at[0].add(1.0), features, LABELS)]
    changed += [(z, (*features[:i], x.at[0].add(1.0), *features[i + 1 :]), LABELS) for i, x in enumerate(features)]
    changed += [(z, features, LABELS.at[0].set(2))] * bool(num_classes)
    for given in changed:
        other = applied(decoder, variables, *given)
        assert float(jnp.abs(other - output)[0].max()) > 1e-4
        np.testing.assert_allclose(other[1:], output[1:], atol=1e-6)


def test_sizes_that_the_strides_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="conditional VAE halves images 2 times.*got 8x10. Use 8x8"):
        Encoder(2, (4, 6)).init(jax.random.key(0), *inputs((8, 10, 1)))
