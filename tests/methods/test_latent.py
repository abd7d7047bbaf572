"""Methods over latents: what they train on, what they draw, what stays as it is, and agreement of all modes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import SHAPE, in_training, largest_difference, state_of, tiny_autoencoder, tiny_batch

from jimgen import noise
from jimgen.apps.restoration import Observation, check
from jimgen.errors import UserError
from jimgen.methods.autoencoder import NETS
from jimgen.methods.flow import flow
from jimgen.methods.latent import POSTERIOR, in_latents
from jimgen.methods.meanflow import mean_flow
from jimgen.nets.diffusion_transformer import DiffusionTransformer
from jimgen.nets.transformer import Backbone
from jimgen.train_step import compile_step, make_train_step

KEY, LATENT_SHAPE = jax.random.key(3), (4, 6, 3)


def over_latents(dtype=jnp.float32, of=flow, **options):
    """The method over latents alone, and over images by an untrained autoencoder with statistics of its own."""
    made = tiny_autoencoder(dtype)
    frozen = {name: net for name, net in state_of(made.method, tiny_batch(dtype=dtype), dtype).variables.items()}
    frozen["latents"] = {"mean": jnp.ones(3, dtype), "square": jnp.full(3, 5.0, dtype), "images": jnp.ones((), dtype)}
    net = DiffusionTransformer(2, 3, Backbone(width=8, depth=1, num_heads=2, dtype=dtype), num_times=1 + (of != flow))
    alone = of(net, image_shape=LATENT_SHAPE, num_classes=3, tx=optax.sgd(1e-2), num_steps=2, clip=False, **options)
    return alone, made, in_latents(made, {name: frozen[name] for name in NETS}, alone)


@pytest.mark.parametrize("of", [flow, mean_flow])
def test_training_sees_draws_of_normalised_latents(of):
    """The objective on images is that of the method itself on z = mean + std eps; samples are decoded, not clipped."""
    alone, made, method = over_latents(of=of)
    batch = in_training(tiny_batch())
    variables = state_of(method, batch).variables
    assert set(variables) == {*NETS, "net"} and method.ema == ("net",)
    mean, std = made.encode(variables, batch["image"])
    eps = noise.normal(jax.random.fold_in(KEY, POSTERIOR), batch["index"], LATENT_SHAPE)
    latents = {**batch, "image": mean + std * eps}
    for phase, plain in zip(method.phases, alone.phases, strict=True):
        found, expected = (jax.jit(each.objective) for each in (phase, plain))
        np.testing.assert_allclose(found(variables, batch, KEY)[0], expected(variables, latents, KEY)[0], rtol=1e-5)
    found = jax.jit(method.evaluate)(variables, batch, KEY)
    expected = jax.jit(alone.evaluate)(variables, latents, KEY)
    assert largest_difference(found, expected) < 1e-4
    drawn = jax.jit(alone.sample)(variables, KEY, batch["label"])
    assert drawn.shape == (8, *LATENT_SHAPE) and float(jnp.abs(drawn).max()) > 1
    images = jax.jit(method.sample)(variables, KEY, batch["label"])
    np.testing.assert_allclose(images, made.decode(variables, drawn), atol=1e-5)


def test_every_mode_computes_the_same_numbers_and_leaves_the_autoencoder_alone(x64):
    _, _, method = over_latents(jnp.float64)
    batch, states = tiny_batch(dtype=jnp.float64), []
    start = jax.device_get(state_of(method, batch, jnp.float64))
    for mode, num_devices in (("jit", 1), ("pmap", 4), ("sharded", 4)):
        compiled = compile_step(make_train_step(method.phases), mode, jax.devices()[:num_devices])
        state = jax.device_put(start, compiled.state_sharding)
        key = jax.device_put(KEY, compiled.replicated)
        states.append(jax.device_get(compiled.run(state, jax.device_put(batch, compiled.batch_sharding), key)[0]))
    assert all(largest_difference(state, states[0]) < 1e-10 for state in states)
    assert largest_difference(states[0].variables["net"], start.variables["net"]) > 0
    assert all(largest_difference(states[0].variables[net], start.variables[net]) == 0 for net in NETS)


def test_filling_in_and_what_cannot_be_restored():
    """Known pixels stay; the others do not depend on what lay there. All else than filling in is refused."""
    _, _, method = over_latents()
    batch = tiny_batch(2)
    variables, images = state_of(method, batch).variables, batch["image"]
    known = jnp.ones((2, *SHAPE[:2]), bool).at[:, 2:7, 3:].set(False)
    fill = jax.jit(method.inpaint)
    filled = fill(variables, KEY, images, known, batch["label"])
    np.testing.assert_array_equal(filled[known], images[known])
    other = jnp.where(known[..., None], images, 1.0)
    np.testing.assert_array_equal(filled, fill(variables, KEY, other, known, batch["label"]))
    assert method.flow is None and method.space is None
    observation = Observation(lambda x: x, images, jnp.asarray(0.1), SHAPE[:2])
    with pytest.raises(UserError, match="cannot do more than fill in missing parts"):
        check(method, variables, observation, batch["label"])
    mean_flows = over_latents(of=mean_flow)[2]
    with pytest.raises(UserError, match="this model cannot restore pictures; flows in pixels, VAEs and GANs restore"):
        check(mean_flows, variables, observation, batch["label"])
