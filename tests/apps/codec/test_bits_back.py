"""Bits-back coding: every bit comes back, at about the length that the ELBO says."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jimgen.apps.codec.bits_back import code_bits_per_dim, decode, encode, make_coder
from jimgen.errors import UserError
from jimgen.methods.hierarchical_vae import hierarchical_vae
from jimgen.methods.likelihoods import bernoulli, gaussian, logistic_mixture
from jimgen.nets.hierarchical_vae import Decoder, Encoder, Stage

pytest.importorskip("constriction")
SHAPE = (4, 4, 1)
ANY = jnp.zeros(1, jnp.int32)
STAGES = (Stage(4, 1, 1), Stage(4, 1, 3))


def made_of(likelihood):
    """An untrained hierarchical VAE, with latents that matter."""
    decoder = Decoder(SHAPE, STAGES, 2, likelihood.outputs)
    made = hierarchical_vae(Encoder(STAGES, 2), decoder, tx=optax.sgd(0.1), likelihood=likelihood)
    batch = {"image": jnp.zeros((1, *SHAPE)), "label": jnp.zeros(1, jnp.int32), "index": jnp.arange(1)}
    return made, jax.tree.map(lambda x: x + 0.02, jax.jit(made.method.init)(jax.random.key(0), batch))


@pytest.fixture(scope="module")
def binary():
    """Made-up black and white images, and their coder."""
    images = 255 * np.random.default_rng(0).integers(0, 2, (40, *SHAPE)).astype(np.uint8)
    made, variables = made_of(bernoulli())
    return images, made, variables, make_coder(made.nets, variables, images[:8], ANY)


def test_black_and_white_images_come_back_at_the_length_of_their_bound(binary):
    """The code of 40 images is longer than their ELBO by the initial bits and the state, and by little else."""
    images, made, variables, coder = binary
    words = encode(coder, images)
    np.testing.assert_array_equal(decode(coder, words, len(images)), images)
    batch = {"image": jnp.asarray(images / 127.5 - 1, jnp.float32), "label": jnp.zeros(40, jnp.int32)}
    metrics = jax.jit(made.method.evaluate)(variables, {**batch, "index": jnp.arange(40)}, jax.random.key(1))
    elbo = float(metrics["bits_per_dim[binarised,ELBO]"].mean())
    assert float(metrics["kl_nats"].mean()) > 0.1
    extra = sum(int(bits.sum()) for bits in coder.bits) + 6 * 32
    assert 0.97 * elbo < code_bits_per_dim(words, images) < 1.05 * elbo + extra / images.size


@pytest.mark.parametrize("neighbours", [False, True])
def test_images_of_8_bits_come_back(neighbours):
    """Black and white ones and random ones, one by one and together; pixels that depend on their neighbours, too."""
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (3, *SHAPE)).astype(np.uint8)
    images[0], images[1, :2] = 0, 255
    made, variables = made_of(logistic_mixture(2, neighbours))
    coder = make_coder(made.nets, variables, images, ANY)
    for part in (images, images[:1], images[:0]):
        np.testing.assert_array_equal(decode(coder, encode(coder, part), len(part)), part)


def test_damaged_codes_give_other_images_and_no_crash(binary):
    images, _, _, coder = binary
    words = encode(coder, images[:4])
    for damaged in (words[:-1], np.concatenate([words[:2], words[2:] ^ 1]), words[:0]):
        assert decode(coder, damaged, 4).shape == (4, *SHAPE)


def test_refuses_what_it_cannot_code(binary):
    images, made, variables, coder = binary
    with pytest.raises(UserError, match="pixels are 0 or 255"):
        encode(coder, np.full((1, *SHAPE), 7, np.uint8))
    with pytest.raises(UserError, match="expected images uint8"):
        encode(coder, images[:, :2])
    with pytest.raises(UserError, match="expected words uint32"):
        decode(coder, np.zeros(4), 1)
    with pytest.raises(UserError, match="discrete pixels"):
        make_coder(made_of(gaussian())[0].nets, variables, images, ANY)
    broken = jax.tree.map(lambda x: x * np.nan, variables)
    with pytest.raises(UserError, match="not a number"):
        encode(coder._replace(variables=broken), images[:1])
