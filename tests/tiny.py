"""Small methods and batches that several tests train."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jimgen.augment import R3GAN, augment
from jimgen.evaluation.extractors import Extractor
from jimgen.methods.augmented import Augmented
from jimgen.methods.autoencoder import autoencoder
from jimgen.methods.codec import codec
from jimgen.methods.conditional_vae import conditional_vae
from jimgen.methods.gan import gan
from jimgen.methods.hierarchical_vae import hierarchical_vae
from jimgen.methods.likelihoods import bernoulli, gaussian
from jimgen.methods.priors import flow_prior, vamp_prior
from jimgen.methods.stylegan2 import path_length_penalty, w_space
from jimgen.methods.vae import vae
from jimgen.nets import autoencoder_kl, r3gan, sngan, stylegan2
from jimgen.nets import conditional_vae as conditional_vae_nets
from jimgen.nets import hierarchical_vae as hierarchical_vae_nets
from jimgen.nets.codec import Analysis, Channels, Prior, Synthesis
from jimgen.nets.dcgan import Discriminator, Generator
from jimgen.nets.hierarchical_vae import Stage
from jimgen.nets.latent_flow import VelocityMLP
from jimgen.nets.vae import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder
from jimgen.objectives import HINGE, RELATIVISTIC
from jimgen.schedules import cosine
from jimgen.train_step import init_state

SHAPE = (8, 12, 1)


def tiny_gan(dtype=jnp.float32, **options):
    penalised = options.get("r1") or options.get("r2") or options.get("gradient_penalty")
    return gan(
        Generator(SHAPE, (8, 4), num_classes=3, dtype=dtype),
        Discriminator((4, 8), not penalised, num_classes=3, dtype=dtype),
        latent_dim=5,
        num_classes=3,
        generator_tx=optax.adam(1e-3, 0.5),
        discriminator_tx=optax.adam(1e-3, 0.5),
        **options,
    )


def tiny_r3gan(dtype=jnp.float32):
    """All that R3GAN has: schedules of gamma, beta2 and augmentation, penalties on real and on fake images."""
    nets = {"widths": (4, 4), "blocks": 1, "group_size": 2, "num_classes": 3, "embedding_width": 4, "dtype": dtype}
    rate, eps = cosine(1e-3, 1e-4, 10), 1e-4  # Adam's own eps, 1e-8, would let rounding grow where gradients are zero
    return gan(
        r3gan.Generator(SHAPE, **nets),
        r3gan.Discriminator(**nets),
        latent_dim=5,
        num_classes=3,
        generator_tx=optax.inject_hyperparams(optax.adam)(
            learning_rate=rate, b1=0.0, b2=cosine(0.9, 0.99, 10), eps=eps
        ),
        discriminator_tx=optax.adam(rate, 0.0, 0.99, eps),
        loss=RELATIVISTIC,
        r1=cosine(1.0, 0.1, 10),
        r2=cosine(1.0, 0.1, 10),
        augmented=Augmented(partial(augment, augmentation=R3GAN), cosine(0.0, 1.0, 10)),
        rollbacks=1,
    )


def tiny_sngan(dtype=jnp.float32):
    return gan(
        sngan.Generator(SHAPE, (4, 4), num_classes=3, dtype=dtype),
        sngan.Discriminator((4, 4), 1, num_classes=3, dtype=dtype),
        latent_dim=5,
        num_classes=3,
        generator_tx=optax.adam(1e-3, 0.0, 0.9),
        discriminator_tx=optax.adam(1e-3, 0.0, 0.9),
        loss=HINGE,
        discriminator_steps=2,
        rollbacks=1,
    )


def tiny_stylegan2(dtype=jnp.float32):
    """What StyleGAN2 alone has: style mixing, minibatch standard deviation, path lengths, a space of w."""
    generator = stylegan2.Generator(SHAPE, (4, 4), 4, 1, num_classes=3, mixing=0.5, dtype=dtype)
    return gan(
        generator,
        stylegan2.Discriminator((4, 4), group=4, num_classes=3, dtype=dtype),
        latent_dim=5,
        num_classes=3,
        generator_tx=optax.adam(1e-3, 0.0, 0.99),
        discriminator_tx=optax.adam(1e-3, 0.0, 0.99),
        r1=1.0,
        generator_penalty=path_length_penalty(generator, 5, period=1),
        takes_noise=True,
        space=w_space(generator, 5),
        rollbacks=1,
    )


def tiny_vae(dtype=jnp.float32, likelihood=None, **options):
    return vae(
        ConvEncoder(4, (4, 8), 16, num_classes=3, dtype=dtype),
        ConvDecoder(SHAPE, (8, 4), 16, num_classes=3, dtype=dtype),
        latent_dim=4,
        num_classes=3,
        tx=optax.adam(1e-3),
        likelihood=likelihood or bernoulli(),
        **options,
    )


def tiny_prior_vae(prior, dtype=jnp.float32):
    """A VAE of dense layers without labels, whose prior has variables: "vamp" or "flow"."""
    made = {"vamp": vamp_prior(4, SHAPE, 3), "flow": flow_prior(4, VelocityMLP(4, 1, dtype), 2)}[prior]
    return vae(
        MLPEncoder(4, (6,), dtype=dtype),
        MLPDecoder(SHAPE, (6,), dtype=dtype),
        latent_dim=4,
        tx=optax.adam(1e-3, eps=1e-4),
        likelihood=bernoulli(),
        prior=made,
    )


def tiny_conditional_vae(dtype=jnp.float32, likelihood=None, **options):
    nets = {"widths": (4, 4), "num_classes": 3, "dtype": dtype}
    return conditional_vae(
        conditional_vae_nets.Encoder(2, **nets),
        conditional_vae_nets.Encoder(2, **nets),
        conditional_vae_nets.Decoder(SHAPE[-1], **nets),
        image_shape=SHAPE,
        num_classes=3,
        tx=optax.adam(1e-3),
        likelihood=likelihood or gaussian(),
        **options,
    )


def tiny_autoencoder(dtype=jnp.float32, tx=None, **options):
    """Images 8x12 as 4x6 latents of three channels."""
    nets = autoencoder_kl.Encoder(3, (4,), 0, dtype=dtype), autoencoder_kl.Decoder(SHAPE[-1], (4,), 0, dtype=dtype)
    return autoencoder(*nets, image_shape=SHAPE, tx=tx or optax.adam(1e-2), **options)


def tiny_hierarchical_vae(dtype=jnp.float32, likelihood=None, **options):
    """Latents at two sizes, with labels."""
    likelihood, stages = likelihood or bernoulli(), (Stage(4, 1, 1), Stage(8, 1, 3))
    made = hierarchical_vae(
        hierarchical_vae_nets.Encoder(stages, 4, 1, num_classes=3, dtype=dtype),
        hierarchical_vae_nets.Decoder(SHAPE, stages, 4, likelihood.outputs, num_classes=3, dtype=dtype),
        num_classes=3,
        tx=optax.adam(1e-3),
        likelihood=likelihood,
        **options,
    )
    return made.method


def tiny_codec(dtype=jnp.float32, image_shape=SHAPE, **options):
    channels, steps = Channels(4, 2), (2.0, 1.0)
    return codec(
        Analysis(channels, steps, (4, 4), (0, 0), dtype),
        Synthesis(SHAPE[-1], steps, (4, 4, 4), (0, 1, 0), dtype),
        Prior(channels.coarse, 0, 2, 6),
        Prior(channels.fine, channels.coarse, 2, 6),
        image_shape=image_shape,
        sigmas=(0.4, 0.2),
        tx=optax.adam(1e-3),
        **options,
    )


def tiny_batch(size=8, seed=0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    return {
        "image": jnp.asarray(rng.uniform(-1, 1, (size, *SHAPE)), dtype),
        "label": jnp.asarray(rng.integers(0, 3, size), jnp.int32),
        "index": jnp.arange(size, dtype=jnp.int32),
    }


def in_training(batch, step=0):
    """The batch as the train step hands it to objectives: with how far training is."""
    size = batch["image"].shape[0]
    return {**batch, "step": jnp.int32(step), "images_seen": jnp.float32(step * size)}


def initialised(net, *inputs, **flags):
    """(output, variables) at key 0, by one compiled program: op by op, JAX would compile one for each of hundreds."""
    return jax.jit(partial(net.init_with_output, **flags))(jax.random.key(0), *inputs)


def applied(net, variables, *inputs, **flags):
    """The output, compiled likewise."""
    return jax.jit(partial(net.apply, **flags))(variables, *inputs)


def compiled(method):
    """The method with its functions and objectives compiled likewise."""
    functions = {
        name: jax.jit(getattr(method, name)) for name in ("sample", "reconstruct", "evaluate") if getattr(method, name)
    }
    phases = tuple(phase._replace(objective=jax.jit(phase.objective)) for phase in method.phases)
    return method._replace(phases=phases, **functions)


def state_of(method, batch, dtype=jnp.float32):
    """The initial state, in the given precision."""
    state = jax.jit(lambda key: init_state(method.init, method.phases, method.ema, key, batch))(jax.random.key(0))
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, state)


def largest_difference(a, b) -> float:
    """Over all leaves of two equal trees."""
    differences = jax.tree.map(lambda x, y: float(np.max(np.abs(np.asarray(x) - np.asarray(y)), initial=0)), a, b)
    return max(jax.tree.leaves(differences))


def tiny_extractor(seed=0, num_features=6, num_classes=10, **changed) -> Extractor:
    """Random projections of 8x8 grey images, as features and as logits."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(64, num_features + num_classes)).astype(np.float32) / 255

    def forward(levels):
        seen = levels.reshape(levels.shape[0], -1) @ weights
        return seen[:, :num_features], seen[:, num_features:]

    fields = {"name": "tiny", "weights_hash": f"{seed:064d}", "resolution": 8, "fit": "resize", "channels": 1}
    return Extractor(**{**fields, "forward": forward, **changed})
