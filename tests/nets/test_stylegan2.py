"""StyleGAN2's nets: shapes, styles, noise that belongs to the example, the mean of w, gradients of gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import applied, initialised

from jimgen import noise
from jimgen.nets import stylegan2
from jimgen.nets.equalised import EqualDense, leaky
from jimgen.nets.stylegan2 import MEAN_DECAY, Discriminator, Generator, stage_dtypes
from jimgen.parallel import DEVICE_AXIS

SMALL = {"w_dim": 5, "mapping_layers": 1}


def inputs(shape, size=4):
    """Latents, images, labels of two columns, and keys."""
    rng = np.random.default_rng(0)
    z, images = rng.standard_normal((size, 3)), rng.uniform(-1, 1, (size, *shape))
    labels = np.stack([np.arange(size) % 3, np.arange(size) % 2], axis=1)
    keys = noise.example_keys(jax.random.key(0), jnp.arange(size))
    return jnp.asarray(z), jnp.asarray(images), jnp.asarray(labels, jnp.int32), keys


def noisy(variables, strength=0.5):
    """With noise inputs of a strength that is not zero, as at the start."""

    def strengthened(path, leaf):
        return jnp.full_like(leaf, strength) if path[-1].key == "noise" else leaf

    return jax.tree_util.tree_map_with_path(strengthened, variables)


@pytest.mark.parametrize(
    ("shape", "num_classes", "heads", "dtype"),
    [
        ((8, 12, 4), 0, ("resnet", "orig"), "float32"),
        ((16, 4, 3), (3, 2), ("skip", "resnet"), "bfloat16"),
    ],
)
def test_shapes_and_precision(shape, num_classes, heads, dtype):
    z, images, labels, keys = inputs(shape)
    options = {"num_classes": num_classes, "dtype": dtype, "low_precision_stages": 1}
    generator = Generator(shape, (6, 4), architecture=heads[0], mixing=0.9, **SMALL, **options)
    fake, variables = initialised(generator, z, labels, keys, train=True)
    assert fake.shape == (4, *shape) and fake.dtype == jnp.float32 and float(fake.std()) > 0
    discriminator = Discriminator((4, 6), heads[1], group=2, **options)
    logits, judge = initialised(discriminator, images, labels, train=True)
    assert logits.shape == (4,) and logits.dtype == jnp.float32 and np.isfinite(logits).all()
    assert {x.dtype for x in jax.tree.leaves((variables, judge))} == {jnp.dtype("float32")}


def test_the_smallest_stage_never_computes_in_16_bits():
    assert stage_dtypes("bfloat16", 3, 4) == ("bfloat16", "bfloat16", jnp.float32)
    assert stage_dtypes("bfloat16", 3, 1) == ("bfloat16", jnp.float32, jnp.float32)
    assert stage_dtypes("bfloat16", 1, 4) == (jnp.float32,)


def test_the_noise_of_all_layers_is_one_draw():
    """A draw takes half a second to compile. The parts are of the sizes of the layers, and independent."""
    keys = inputs((4, 4, 1))[3]
    parts = stylegan2._noise(keys, (2, 3), 2)
    assert [part.shape[1:] for part in parts] == [(2, 3, 1), (4, 6, 1), (4, 6, 1)]
    assert float(jnp.abs(parts[1] - parts[2]).min()) > 0
    net = Generator((8, 8, 1), (4, 4), **SMALL)
    z, _, labels, keys = inputs((8, 8, 1))
    shapes = jax.eval_shape(functools.partial(net.init, train=False), jax.random.key(0), z, labels, keys)
    program = jax.make_jaxpr(functools.partial(net.apply, train=False))(shapes, z, labels, keys)
    assert str(program).count("random_bits[") == 1


def test_labels_change_w_and_logits():
    z, images, labels, keys = inputs((4, 4, 1))
    other = labels.at[:, 1].set(2)  # any
    net = Generator((4, 4, 1), (4,), num_classes=(3, 2), **SMALL)
    variables = initialised(net, z, labels, keys, train=True)[1]
    w, changed = (applied(net, variables, z, of, method="to_w") for of in (labels, other))
    assert (jnp.abs(w - changed).max(1) > 1e-3).all()
    judge = Discriminator((4,), num_classes=(3, 2))
    logits, variables = initialised(judge, images, labels, train=True)
    assert (jnp.abs(applied(judge, variables, images, other, train=True) - logits) > 1e-4).all()


def test_an_image_does_not_depend_on_its_batch_and_noise_belongs_to_the_example():
    """In training too, where styles are mixed."""
    z, _, labels, keys = inputs((8, 8, 1))
    net = Generator((8, 8, 1), (4, 4), mixing=0.5, **SMALL)
    variables = noisy(initialised(net, z, labels, keys, train=True)[1])

    @jax.jit
    def draw(z, labels, index):
        keys = noise.example_keys(jax.random.key(0), index)
        return net.apply(variables, z, labels, keys, train=True, mutable=["batch_stats"])[0]

    index = jnp.arange(4)
    images = draw(z, labels, index)
    np.testing.assert_allclose(draw(z[1:3], labels[1:3], index[1:3]), images[1:3], atol=1e-5)
    assert (jnp.abs(draw(z, labels, index[::-1]) - images).max((1, 2, 3)) > 1e-2).all()


def test_mixing_takes_the_later_styles_from_another_w_in_training_alone():
    """With probability one all examples change, and with nearly zero none; in evaluation none."""
    z, _, labels, keys = inputs((8, 8, 1))
    net = Generator((8, 8, 1), (4, 4), **SMALL)
    variables = initialised(net, z, labels, keys, train=True)[1]

    def drawn(mixing, train):
        mixed = net.clone(mixing=mixing)
        return applied(mixed, variables, z, labels, keys, train=train, mutable=["batch_stats"])[0]

    plain = drawn(1.0, train=False)
    np.testing.assert_allclose(drawn(1e-9, train=True), plain, atol=1e-5)
    assert (jnp.abs(drawn(1.0, train=True) - plain).max((1, 2, 3)) > 1e-4).all()


def test_images_come_from_w_or_from_a_w_for_each_layer():
    z, _, labels, keys = inputs((8, 8, 1))
    net = Generator((8, 8, 1), (4, 4), **SMALL)
    images, variables = initialised(net, z, labels, keys, train=False)
    w = applied(net, variables, z, labels, method="to_w")
    assert w.shape == (4, 5) and net.num_styles == 4
    draw = jax.jit(lambda w: net.apply(variables, w, keys, method="from_w"))
    np.testing.assert_allclose(draw(w), images, atol=1e-5)
    layers = jnp.broadcast_to(w[:, None], (4, 4, 5))
    np.testing.assert_allclose(draw(layers), images, atol=1e-5)
    for i in range(4):  # each one is used
        assert float(jnp.abs(draw(layers.at[:, i].add(1.0)) - images).max()) > 1e-4


def test_the_mean_of_w_runs_over_training_and_is_that_of_the_whole_batch_under_pmap(x64):
    z, _, labels, keys = inputs((4, 4, 1))
    net = Generator((4, 4, 1), (2,), dtype=jnp.float64, **SMALL)
    variables = initialised(net, z, labels, keys, train=True)[1]
    np.testing.assert_array_equal(variables["batch_stats"]["mean_w"], np.zeros(5))

    def updated(z, labels, keys):
        return net.apply(variables, z, labels, keys, train=True, mutable=["batch_stats"])[1]["batch_stats"]["mean_w"]

    w = applied(net, variables, z, labels, method="to_w")
    expected = (1 - MEAN_DECAY) * np.asarray(w).mean(0)
    np.testing.assert_allclose(jax.jit(updated)(z, labels, keys), expected, rtol=1e-10)
    share = lambda a: a.reshape(2, 2, *a.shape[1:])  # noqa: E731
    pmapped = jax.pmap(updated, axis_name=DEVICE_AXIS, devices=jax.devices()[:2])
    found = pmapped(share(z), share(labels), share(keys))
    np.testing.assert_allclose(found, np.broadcast_to(expected, (2, 5)), rtol=1e-10)
    kept = applied(net, variables, z, labels, keys, train=False, mutable=["batch_stats"])[1]
    np.testing.assert_array_equal(kept["batch_stats"]["mean_w"], np.zeros(5))


def test_activations_keep_their_variance_at_the_start():
    """Equalised layers and leaky ReLU with its gain, whatever the multiplier of the learning rate."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((500, 100)), jnp.float32)
    for multiplier in (1.0, 0.01):
        net = EqualDense(200, multiplier=multiplier, activate=True)
        y, variables = net.init_with_output(jax.random.key(0), x)
        assert float(variables["params"]["kernel"].std()) == pytest.approx(1 / multiplier, rel=0.02)
        assert float(jnp.square(y).mean()) == pytest.approx(1.04, rel=0.1)  # 2 (1 + .04) / 2
    np.testing.assert_allclose(leaky(jnp.asarray([1.0, -1.0, 999.0]), 0.5, 256), [0.707107, -0.141421, 128], rtol=1e-5)


def test_a_circular_generator_has_no_edge():
    """A rolled constant gives rolled images."""
    z, _, labels, keys = inputs((8, 8, 1))
    for architecture in ("skip", "resnet"):
        net = Generator((8, 8, 1), (3, 3), circular=True, architecture=architecture, **SMALL)
        images, variables = initialised(net, z, labels, keys, train=True)
        synthesis = variables["params"]["synthesis"]
        rolled = {**synthesis, "constant": jnp.roll(synthesis["constant"], (1, 2), (0, 1))}
        moved = {**variables, "params": {**variables["params"], "synthesis": rolled}}
        found = applied(net, moved, z, labels, keys, train=False)
        np.testing.assert_allclose(found, jnp.roll(images, (2, 4), (1, 2)), atol=1e-5)


def directional(value, params):
    """The gradient of value(params) along a random direction, by JAX and by finite differences."""
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    direction = tree.unflatten([jnp.asarray(rng.standard_normal(leaf.shape)) for leaf in leaves])
    along = jax.jit(jax.value_and_grad(lambda t: value(jax.tree.map(lambda p, d: p + t * d, params, direction))))
    return along(0.0)[1], (along(1e-6)[0] - along(-1e-6)[0]) / 2e-6


def in_float64(variables):
    return jax.tree.map(lambda x: x.astype(jnp.float64), variables)


def test_the_gradient_of_r1_is_that_of_finite_differences(x64):
    _, images, labels, _ = inputs((4, 4, 1))
    net = Discriminator((3, 3), group=2, num_classes=3, dtype=jnp.float64)
    params = in_float64(initialised(net, images, labels[:, 0], train=True)[1]["params"])

    def penalty(params):
        judge = lambda x: net.apply({"params": params}, x, labels[:, 0], train=True).sum()  # noqa: E731
        return jnp.square(jax.grad(judge)(images)).sum()

    found, expected = directional(penalty, params)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_gradient_of_a_path_length_is_that_of_finite_differences(x64):
    z, _, labels, keys = inputs((4, 4, 1), size=2)
    net = Generator((4, 4, 1), (3, 3), dtype=jnp.float64, **SMALL)
    variables = in_float64(initialised(net, z, labels, keys, train=True)[1])
    w = applied(net, variables, z, labels, method="to_w")
    direction = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4, 4, 1)))

    def length(params):
        bound = functools.partial(net.apply, {**variables, "params": params}, method="from_w")
        return jnp.square(jax.grad(lambda w: (bound(w, keys) * direction).sum())(w)).sum()

    found, expected = directional(length, variables["params"])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_sizes_that_the_stages_do_not_divide_are_refused():
    z, images, labels, keys = inputs((8, 10, 1))
    with pytest.raises(ValueError, match="StyleGAN2's generator halves images 2 times.*got 8x10"):
        Generator((8, 10, 1), (4, 4, 4)).init(jax.random.key(0), z, labels, keys, train=True)
    with pytest.raises(ValueError, match="StyleGAN2's discriminator halves images 2 times.*got 8x10"):
        Discriminator((4, 4, 4)).init(jax.random.key(0), images, labels, train=True)
