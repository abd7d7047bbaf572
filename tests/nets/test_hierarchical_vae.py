"""Nets of the hierarchical VAE: shapes, what each part sees, sizes."""

import jax
import jax.numpy as jnp
import pytest
from tiny import applied, initialised

from jimgen.nets.hierarchical_vae import Decoder, Encoder, Stage

LABELS = jnp.asarray([0, 1], jnp.int32)
STAGES = (Stage(4, 1, 2), Stage(6, 0, 0), Stage(8, 2, 3))  # the middle one has no latents of its own


def images(shape=(8, 16, 3)):
    return jax.random.uniform(jax.random.key(1), (2, *shape), minval=-1)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_shapes_and_precision(dtype):
    """Features of every stage, latents from the top down, outputs of the images' shape in float32."""
    encoder = Encoder(STAGES, 2, num_classes=3, dtype=dtype)
    decoder = Decoder((8, 16, 3), STAGES, 2, outputs=5, num_classes=3, dtype=dtype)
    assert decoder.latent_shapes == ((3,), (3,), (4, 8, 2))

    def run(key):
        features, _ = encoder.init_with_output(key, images(), LABELS)
        z = [jnp.zeros((2, *shape)) for shape in decoder.latent_shapes]
        output, variables = decoder.init_with_output(jax.random.clone(key), features, LABELS, z)
        state = decoder.apply(variables, LABELS, method="begin")
        state, prior = decoder.apply(variables, 0, state, method="prior")
        posterior = decoder.apply(variables, 0, state, features, method="posterior")
        return features, output, (*prior, *posterior)

    features, output, latents = jax.eval_shape(run, jax.random.key(0))
    assert [x.shape for x in features] == [(2, 4, 8, 4), (2, 2, 4, 6), (2, 8)]
    assert {x.dtype for x in features} == {jnp.dtype(dtype)}
    assert output.shape == (2, 8, 16, 15) and {x.shape for x in latents} == {(2, 3)}
    assert {x.dtype for x in (output, *latents)} == {jnp.dtype("float32")}


def test_every_latent_and_label_reaches_the_output_of_its_own_example_alone():
    features, _ = initialised(Encoder(STAGES, 2), images(), LABELS)
    decoder = Decoder((8, 16, 3), STAGES, 2, num_classes=3)
    z = [jnp.ones((2, *shape)) for shape in decoder.latent_shapes]
    output, variables = initialised(decoder, features, LABELS, z)
    changes = [(LABELS.at[0].set(2), z)]
    changes += [(LABELS, [x.at[0].set(2.0) if i == level else x for i, x in enumerate(z)]) for level in range(3)]
    for labels, latents in changes:
        difference = jnp.abs(applied(decoder, variables, features, labels, latents) - output).max((1, 2, 3))
        assert difference[0] > 1e-5 and difference[1] == 0


@pytest.mark.parametrize(
    ("shape", "patch", "message"),
    [((10, 16, 1), 4, "multiples of 8; got 10x16. Use 8x16 images"), ((8, 8, 1), 3, "must be a power of two")],
)
def test_refuses_sizes_that_patches_and_halvings_do_not_divide(shape, patch, message):
    with pytest.raises(ValueError, match=message):
        initialised(Encoder(STAGES, patch), images(shape), LABELS)


def test_refuses_a_hierarchy_without_latents():
    stages = (Stage(4, 0, 0), Stage(8, 0, 0))
    with pytest.raises(ValueError, match="a latent in one of them"):
        initialised(Decoder((8, 8, 1), stages), (), LABELS, ())
