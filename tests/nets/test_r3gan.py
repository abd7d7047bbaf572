"""R3GAN's nets: sizes in parameters, initialisation, shapes, labels, precision, seamless images, double backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import applied, initialised

from jimgen.nets.r3gan import Discriminator, Generator, block_gain
from jimgen.objectives import squared_gradient_norm

SMALL = {"widths": (8, 8, 4), "blocks": 1, "group_size": 4}
SHAPES = [(8, 8, 1), (12, 20, 3), (16, 8, 4)]


def batch(shape, size=3, columns=()):
    """Latents, images and labels."""
    z, images = jax.random.split(jax.random.key(1))
    labels = jnp.arange(size, dtype=jnp.int32) % 2
    labels = jnp.stack([labels] * len(columns), axis=1) if columns else labels
    return jax.random.normal(z, (size, 5)), jax.random.uniform(images, (size, *shape), minval=-1), labels


def shapes_of(net, x):
    """The shapes of a net's parameters."""
    labels = jnp.zeros(len(x), jnp.int32)
    return jax.eval_shape(lambda: net.init(jax.random.key(0), x, labels, train=True))["params"]


@jax.jit
def perturbed(variables, scale=0.3):
    """Variables with noise on all of them: initially the blocks do nothing."""
    leaves, tree = jax.tree.flatten(variables)
    noise = jax.random.normal(jax.random.key(2), (sum(x.size for x in leaves),))
    parts = jnp.split(noise, np.cumsum([x.size for x in leaves])[:-1])
    return jax.tree.unflatten(tree, [x + scale * part.reshape(x.shape) for x, part in zip(leaves, parts, strict=True)])


def test_the_default_nets_are_those_of_the_paper_s_cifar_10():
    """Counted by hand: a block of width 768 has 2 * 768 * 1536 + 9 * 16 * 1536 + 2 * 1536 parameters."""
    blocks = 8 * (2 * 768 * 1536 + 9 * 16 * 1536 + 2 * 1536)
    generator = shapes_of(Generator((32, 32, 3)), jnp.zeros((2, 64)))
    discriminator = shapes_of(Discriminator(), jnp.zeros((2, 32, 32, 3)))
    count = {"g": generator, "d": discriminator}
    count = {name: sum(leaf.size for leaf in jax.tree.leaves(shapes)) for name, shapes in count.items()}
    assert count["g"] == blocks + 64 * 768 + 16 * 768 + 768 * 3
    assert count["d"] == blocks + 3 * 768 + 16 * 768 + 768


def test_a_1x1_convolution_stands_only_where_widths_differ():
    generator = shapes_of(Generator((16, 16, 3), **SMALL), jnp.zeros((2, 5)))
    discriminator = shapes_of(Discriminator(**SMALL), jnp.zeros((2, 16, 16, 3)))
    for params, shape in ((generator, (1, 1, 8, 4)), (discriminator, (1, 1, 4, 8))):
        changes = {name: value for name, value in params.items() if name.startswith("change")}
        assert {name: change["kernel"].shape for name, change in changes.items()} == {"change2": shape}
    assert generator["basis"].shape == discriminator["basis"].shape == (4, 4, 8)


@pytest.mark.parametrize(("num_blocks", "gain"), [(8, 0.824567), (10, 0.779827)])
def test_gain_of_a_block(num_blocks, gain):
    assert block_gain(num_blocks) == pytest.approx(gain, abs=5e-7)


def test_weights_start_as_in_the_paper():
    """Standard deviations: gain / sqrt(fan in), with the fan in of one group; the last kernel of a block is zero."""
    z, images, labels = batch((8, 8, 3))
    gain = block_gain(2)
    wide = {"widths": (128, 8), "blocks": (1, 1), "group_size": 16, "num_classes": 4, "embedding_width": 512}

    def started(net, x):
        return jax.jit(lambda: net.init(jax.random.key(0), x, labels, train=True))()

    generator, discriminator = started(Generator((8, 8, 3), **wide), z), started(Discriminator(**wide), images)
    for params in (generator["params"], discriminator["params"]):
        block = params["stage0_block0"]
        assert block["grouped"]["kernel"].shape == (3, 3, 16, 256)
        assert float(block["widen"]["kernel"].std()) == pytest.approx(gain / 128**0.5, rel=0.03)
        assert float(block["grouped"]["kernel"].std()) == pytest.approx(gain / 144**0.5, rel=0.03)
        assert not block["narrow"]["kernel"].any() and set(block["narrow"]) == {"kernel"}
        assert not block["widen"]["bias"].any() and not block["grouped"]["bias"].any()
    assert float(generator["params"]["basis"].std()) == pytest.approx(1, rel=0.1)
    assert float(discriminator["params"]["basis"].std()) == pytest.approx(1 / 4, rel=0.1)
    assert float(generator["params"]["stem"]["kernel"].std()) == pytest.approx(517**-0.5, rel=0.03)
    assert float(generator["params"]["embedding"]["embedding"].std()) == pytest.approx(1 / 2, rel=0.1)
    assert float(discriminator["params"]["embedding"]["embedding"].std()) == pytest.approx(0.5 / 512**0.5, rel=0.1)


def test_blocks_start_as_identities():
    """At first, nets are linear: of the image, and of z."""
    z, images, labels = batch((8, 8, 3))
    small = SMALL | {"widths": (8, 4)}
    for net, x in ((Generator((8, 8, 3), **small), z), (Discriminator(**small), images)):
        y, variables = initialised(net, x, labels, train=True)
        np.testing.assert_allclose(applied(net, variables, -2 * x, labels, train=True), -2 * y, rtol=2e-5, atol=1e-6)
        changed = perturbed(variables)
        found = [applied(net, changed, a * x, labels, train=True) for a in (1, -2)]
        assert float(jnp.abs(found[1] + 2 * found[0]).max()) > 0.01


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("num_classes", [0, 3, (2, 3)])
@pytest.mark.parametrize("shape", SHAPES)
def test_images_and_logits_of_any_size_and_kind_of_label(shape, num_classes, dtype):
    columns = num_classes if isinstance(num_classes, tuple) else ()
    z, images, labels = batch(shape, columns=columns)
    options = SMALL | {"num_classes": num_classes, "embedding_width": 6, "dtype": dtype}

    def both(key):
        drawn = Generator(shape, **options).init_with_output(key, z, labels, train=True)
        return drawn, Discriminator(**options).init_with_output(key, images, labels, train=True)

    (drawn, generator), (logits, discriminator) = jax.eval_shape(both, jax.random.key(0))
    assert drawn.shape == (3, *shape) and logits.shape == (3,)
    assert set(generator) == set(discriminator) == {"params"}
    leaves = jax.tree.leaves((drawn, generator, logits, discriminator))
    assert {x.dtype for x in leaves} == {jnp.dtype("float32")}


@pytest.mark.parametrize(("low", "stages"), [(None, {1, 2}), (0, set()), (1, {2})])
def test_the_smallest_stage_and_the_heads_compute_in_float32(low, stages):
    """The dtypes of what each block returns."""
    z, images, labels = batch((16, 16, 3))
    options = SMALL | {"dtype": jnp.bfloat16, "low_precision_stages": low}
    for net, x in ((Generator((16, 16, 3), **options), z), (Discriminator(**options), images)):

        def outputs(net=net, x=x):
            return net.init_with_output(jax.random.key(0), x, labels, train=True, capture_intermediates=True)[1]

        found = jax.eval_shape(outputs)["intermediates"]
        blocks = {i: found[f"stage{i}_block0"]["__call__"][0].dtype for i in range(3)}
        assert {i for i, dtype in blocks.items() if dtype == jnp.bfloat16} == stages
        assert found["stem" if "stem" in found else "logit"]["__call__"][0].dtype == jnp.float32


@pytest.mark.parametrize("num_classes", [0, (2, 2)])
def test_only_conditional_nets_react_to_labels_and_each_example_to_its_own(num_classes):
    columns = num_classes if isinstance(num_classes, tuple) else ()
    z, images, labels = batch((8, 8, 1), columns=columns)
    other = labels.at[0].set((labels[0] + 1) % 2)
    options = {"widths": (8, 4), "blocks": (1, 0), "group_size": 0, "num_classes": num_classes}
    for net, x in ((Generator((8, 8, 1), **options), z), (Discriminator(**options), images)):
        _, variables = initialised(net, x, labels, train=True)
        found, changed = (applied(net, variables, x, given, train=True) for given in (labels, other))
        assert bool((found[0] != changed[0]).any()) == bool(num_classes)
        np.testing.assert_array_equal(found[1:], changed[1:])
        np.testing.assert_allclose(applied(net, variables, x[:1], labels[:1], train=False), found[:1], atol=1e-5)


def test_a_discriminator_still_judges_images_of_which_nothing_is_said():
    _, images, _ = batch((8, 8, 1))
    net = Discriminator((8, 4), (1, 0), 1, 0, num_classes=(2, 3))
    logits, _ = initialised(net, images, jnp.asarray([[2, 3]] * 3, jnp.int32), train=True)
    assert (jnp.abs(logits) > 1e-4).all()


def test_projection_is_the_inner_product_with_the_label_s_embedding():
    _, images, labels = batch((8, 8, 1))
    net = Discriminator((8, 4), (1, 0), 1, 4, num_classes=2, embedding_width=3)
    _, variables = initialised(net, images, labels, train=True)
    params = dict(variables["params"])
    vectors = []
    for i in range(3):  # with the unit vector i for each embedding, the logit is component i
        params["embedding"] = {"embedding": jnp.broadcast_to(jnp.eye(3)[i], (3, 3))}
        vectors.append(applied(net, {"params": params}, images, labels, train=True))
    embedding = variables["params"]["embedding"]["embedding"][labels]
    logits = applied(net, variables, images, labels, train=True)
    np.testing.assert_allclose(logits, (jnp.stack(vectors, 1) * embedding).sum(1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("circular", [True, False])
def test_a_circular_generator_rolls_its_images_with_its_basis(circular):
    """By a row and two columns of the basis: by 4 rows and 8 columns of an image, across its edges."""
    z, _, labels = batch((8, 12, 3))
    net = Generator((8, 12, 3), **SMALL, circular=circular)
    variables = perturbed(initialised(net, z, labels, train=True)[1])
    basis = jnp.roll(variables["params"]["basis"], (1, 2), (0, 1))
    rolled = applied(net, {"params": variables["params"] | {"basis": basis}}, z, labels, train=True)
    want = jnp.roll(applied(net, variables, z, labels, train=True), (4, 8), (1, 2))
    difference = float(jnp.abs(rolled - want).max() / jnp.abs(want).max())
    assert difference < 1e-5 if circular else difference > 1e-2


def test_gradients_of_r1_are_those_of_finite_differences(x64):
    """Through the discriminator with its grouped convolutions, in random directions of the parameters."""
    _, images, labels = batch((8, 8, 2))
    net = Discriminator((8, 4), 1, 2, 4, num_classes=3, embedding_width=4, dtype=jnp.float64)
    variables = perturbed(jax.tree.map(jnp.float64, initialised(net, images, labels, train=True)[1]))
    images = images.astype(jnp.float64)

    @jax.jit
    def penalty(variables):
        return squared_gradient_norm(lambda x: net.apply(variables, x, labels, train=True), images)[1].sum()

    gradient, step = jax.jit(jax.grad(penalty))(variables), 1e-6
    direction = perturbed(jax.tree.map(jnp.zeros_like, variables), 1.0)
    moved = [penalty(jax.tree.map(lambda v, d, s=s: v + s * d, variables, direction)) for s in (step, -step)]
    slope = sum(jnp.vdot(g, d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True))
    np.testing.assert_allclose(slope, (moved[0] - moved[1]) / (2 * step), rtol=1e-5)


def test_what_does_not_fit_is_refused():
    z, _, labels = batch((8, 8, 1))

    def start(net, x):
        return lambda: jax.eval_shape(lambda: net.init(jax.random.key(0), x, labels, train=True))

    cases = [
        (Generator((10, 8, 1), **SMALL), z, "generator halves images 2 times.*got 10x8"),
        (Discriminator(**SMALL), jnp.zeros((3, 8, 14, 1)), "discriminator halves images 2 times.*got 8x14"),
        (Generator((8, 8, 1), (8, 6), group_size=16), z, "groups of 16 channels do not divide the 12 channels"),
        (Generator((8, 8, 1), (8, 8), (1, 2, 3)), z, r"blocks \(1, 2, 3\) must have one number for each of the 2"),
        (Generator((8, 8, 1), (8, 8), low_precision_stages=2), z, "low_precision_stages must be from 0 to 1"),
    ]
    for net, x, message in cases:
        with pytest.raises(ValueError, match=message):
            start(net, x)()
