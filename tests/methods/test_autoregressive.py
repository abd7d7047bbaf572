"""Autoregressive models: exact likelihoods, causality, cached decoding, sampling, inpainting, coding."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import SHAPE, largest_difference, state_of, tiny_batch

from jimgen.apps.codec import files, pixels
from jimgen.apps.codec.errors import OtherModel
from jimgen.apps.codec.lossless import by_pixels
from jimgen.errors import UserError
from jimgen.methods.autoregressive import pixel_autoregressive, token_autoregressive
from jimgen.methods.tokenizer import tokenizer
from jimgen.nets.pixel_transformer import PixelTransformer
from jimgen.nets.token_transformer import TokenTransformer
from jimgen.nets.tokenizer import Decoder, Encoder
from jimgen.nets.transformer import Backbone
from jimgen.nets.vq import VectorQuantiser
from jimgen.sampling.logits import LogitFilter
from jimgen.train_step import compile_step, make_train_step

COLOUR = (4, 6, 3)
LABELS = jnp.asarray([0, 1, 2], jnp.int32)


def tiny_net(shape=COLOUR, patch=2, num_classes=3, dropout=0.0, dtype=jnp.float32, **options):
    backbone = Backbone(width=8, depth=1, num_heads=2, dropout=dropout, dtype=dtype)
    return PixelTransformer(
        shape,
        patch,
        backbone,
        num_classes,
        **{"head_width": 4, "head_depth": 2, "embedding": 4, "dtype": dtype} | options,
    )


def moved(tree, scale=0.3):
    """Random variables, none of them zero."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(9), len(leaves))
    changed = [
        leaf + scale * jax.random.normal(key, leaf.shape) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(structure, changed)


def random_images(n=3, shape=COLOUR, levels=256, seed=0):
    grey = np.random.default_rng(seed).integers(0, levels, (n, *shape))
    return jnp.asarray(grey / ((levels - 1) / 2) - 1, jnp.float32)


def batch_of(images, labels=LABELS):
    return {"image": images, "label": labels, "index": jnp.arange(len(images), dtype=jnp.int32)}


@pytest.fixture(scope="module")
def model():
    return pixel_autoregressive(tiny_net(), tx=optax.adam(1e-3))


@pytest.fixture(scope="module")
def variables(model):
    return moved(jax.jit(model.method.init)(jax.random.key(0), batch_of(random_images())))


def test_an_untrained_net_needs_eight_bits(model):
    batch = batch_of(random_images())
    variables = jax.jit(model.method.init)(jax.random.key(0), batch)
    metrics = jax.jit(model.method.evaluate)(variables, batch, jax.random.key(0))
    np.testing.assert_allclose(metrics["bits_per_dim_given_label[8-bit,exact]"], 8.0, rtol=1e-6)
    np.testing.assert_allclose(metrics["nats_given_label[8-bit,exact]"], 72 * np.log(256), rtol=1e-6)


def test_levels_and_images_are_the_same(model):
    images = random_images()
    levels = model.to_levels(images)
    assert levels.shape == (3, 72) and levels.dtype == jnp.int32
    np.testing.assert_allclose(model.to_images(levels), images, atol=1e-6)
    first = np.round((np.asarray(images[0, :2, :2]) + 1) * 127.5).reshape(
        -1
    )  # the first patch: rows, columns, channels
    np.testing.assert_array_equal(levels[0, :12], first)


def test_logits_depend_on_all_that_comes_before_and_on_nothing_after(variables):
    """Changed one at a time, at the ends and in the middle of patches."""
    net = tiny_net()
    levels = jax.random.randint(jax.random.key(0), (1, 72), 0, 256)
    run = jax.jit(lambda levels: net.apply(variables["net"], levels, LABELS[:1])[0])
    base = np.asarray(run(levels))
    for place in (0, 5, 11, 12, 30, 47, 71):
        changed = np.abs(np.asarray(run(levels.at[0, place].add(97) % 256)) - base).max(1)
        assert (changed[: place + 1] == 0).all()
        assert (changed[place + 1 :] > 0).all()


def test_cached_decoding_is_the_full_pass(model, variables):
    levels = model.to_levels(random_images())
    full = jax.jit(tiny_net().apply)(variables["net"], levels, LABELS)
    decode, decoding = jax.jit(model.decode), model.empty(3)
    for i in range(72):
        unknown = jnp.where(jnp.arange(72)[None] < i, levels, 7)  # what comes later is not looked at
        logits, decoding = decode(variables, decoding, unknown, jnp.asarray(i, jnp.int32), LABELS)
        np.testing.assert_allclose(logits, full[:, i], atol=1e-5)


def test_cached_decoding_outside_jit_is_that_within():
    """Two patches of four places: the first place of each runs the trunk; at the last place the cache is full."""
    net = tiny_net((2, 4, 1), 2, num_classes=0, levels=3)
    levels, labels = jnp.asarray([[0, 2, 1, 1, 2, 0, 0, 1]], jnp.int32), jnp.zeros(1, jnp.int32)
    variables = moved(jax.jit(net.init)(jax.random.key(0), levels, labels), 1.0)
    eager = lambda *args: net.apply(variables, *args, method="decode")  # noqa: E731
    found, expected = net.empty(1), net.empty(1)
    compiled = jax.jit(eager)
    for i in (0, 4, 7):
        logits, found = eager(found, levels, jnp.asarray(i, jnp.int32), labels)
        same, expected = compiled(expected, levels, jnp.asarray(i, jnp.int32), labels)
        np.testing.assert_allclose(logits, same, atol=1e-5)
    assert int(found.cache.index) == found.cache.num_places == 2


def test_likelihoods_of_all_images_sum_to_one():
    """Of three levels: all 3^6 of 2x3 pixels in patches of one, all 3^4 of 2x2 in one patch."""
    for patch, shape in ((1, (2, 3, 1)), (2, (2, 2, 1))):
        net = tiny_net(shape, patch, num_classes=0, levels=3)
        model = pixel_autoregressive(net, tx=optax.sgd(0.0))
        everything = np.array(list(itertools.product(range(3), repeat=net.num_places)), np.float32)
        images = jnp.asarray(everything.reshape(-1, *shape)) - 1
        labels = jnp.zeros(len(images), jnp.int32)
        variables = moved(jax.jit(model.method.init)(jax.random.key(0), batch_of(images, labels)), 1.0)
        found = np.exp(np.asarray(jax.jit(model.log_likelihood)(variables, images, labels), np.float64))
        assert found.sum() == pytest.approx(1, abs=1e-5) and found.max() > 3 / len(images)


def test_samples_follow_the_likelihood():
    """Frequencies of 16 images of 2x2 with two levels among 4,000 draws."""
    net = tiny_net((2, 2, 1), 2, num_classes=0, levels=2)
    model = pixel_autoregressive(net, tx=optax.sgd(0.0))
    everything = np.array(list(itertools.product(range(2), repeat=4)), np.float32)
    images, labels = jnp.asarray(everything.reshape(-1, 2, 2, 1)) * 2 - 1, jnp.zeros(16, jnp.int32)
    variables = moved(jax.jit(model.method.init)(jax.random.key(0), batch_of(images, labels)), 1.0)
    expected = np.exp(jax.jit(model.log_likelihood)(variables, images, labels))
    drawn = jax.jit(model.method.sample)(variables, jax.random.key(1), jnp.zeros(4000, jnp.int32))
    bits = (np.asarray(drawn).reshape(-1, 4) > 0) @ [8, 4, 2, 1]
    found = np.bincount(bits, minlength=16) / 4000
    assert np.abs(found - expected).max() < 0.03 and np.ptp(expected) > 0.1


def test_samples_are_a_function_of_the_key(model, variables):
    sample = jax.jit(model.method.sample)
    first, again, other = (sample(variables, jax.random.key(seed), LABELS) for seed in (0, 0, 1))
    assert first.shape == (3, *COLOUR) and first.dtype == jnp.float32 and float(jnp.abs(first).max()) <= 1
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_guidance_and_temperature(variables):
    """At weight 0 samples do not depend on labels, at temperature 0 not on the key."""
    draw = lambda labels, seed, **options: jax.jit(  # noqa: E731
        pixel_autoregressive(tiny_net(), tx=optax.sgd(0.0), **options).method.sample
    )(variables, jax.random.key(seed), labels)
    np.testing.assert_array_equal(draw(LABELS, 0, guidance=0.0), draw(jnp.full_like(LABELS, 3), 0))
    greedy = LogitFilter(temperature=0.0)
    np.testing.assert_array_equal(draw(LABELS, 0, filter=greedy), draw(LABELS, 1, filter=greedy))


def test_inpainting_keeps_known_pixels(model, variables):
    """Known pixels are kept exactly, and the values of unknown ones have no influence."""
    images, inpaint = random_images(), jax.jit(model.method.inpaint)
    mask = jax.random.bernoulli(jax.random.key(1), 0.5, images.shape[:3])
    filled = inpaint(variables, jax.random.key(0), images, mask, LABELS)
    known = np.broadcast_to(mask[..., None], images.shape)
    np.testing.assert_array_equal(filled[known], images[known])
    assert (filled[~known] != images[~known]).any()
    hidden = jnp.where(mask[..., None], images, 0.123)
    np.testing.assert_array_equal(inpaint(variables, jax.random.key(0), hidden, mask, LABELS), filled)


def test_flips_mirror_some_images_of_training(variables):
    """One image at eight places of a batch: each loss is that of the image or of its mirror image, and both occur."""
    model = pixel_autoregressive(tiny_net(), tx=optax.sgd(0.0), flips=True, label_drop=0.0)
    image, label = random_images(1), LABELS[:1]
    objective, seen = jax.jit(model.method.phases[0].objective), []
    for place in range(8):
        batch = {"image": image, "label": label, "index": jnp.asarray([place], jnp.int32)}
        seen.append(float(objective(variables, batch, jax.random.key(0))[0]))
    likelihood = jax.jit(model.log_likelihood)
    both = [-float(likelihood(variables, x, label)[0]) for x in (image, image[:, :, ::-1])]
    each = np.abs(np.array(seen)[:, None] - np.array(both)[None] / (72 * np.log(2))) < 1e-4
    assert each.any(1).all() and each.any(0).all() and not each.all()


def test_every_mode_computes_the_same_numbers(x64):
    """Including dropped labels and dropout."""
    net = tiny_net(SHAPE, 4, dropout=0.3, dtype=jnp.float64)
    method = pixel_autoregressive(net, tx=optax.adam(1e-3), label_drop=0.5).method
    batch, found = tiny_batch(dtype=jnp.float64), {}
    for mode, num_devices in (("jit", 1), ("sharded", 4)):
        compiled = compile_step(make_train_step(method.phases), mode, jax.devices()[:num_devices])
        state = jax.device_put(state_of(method, batch, jnp.float64), compiled.state_sharding)
        key = jax.device_put(jax.random.key(3), compiled.replicated)
        placed = jax.device_put(batch, compiled.batch_sharding)
        for _ in range(2):  # the output moves in the first, all else in the second
            state, metrics = compiled.run(state, placed, key)
        found[mode] = jax.device_get((state, metrics))
    assert largest_difference(found["jit"], found["sharded"]) < 1e-10


@pytest.mark.parametrize(
    "net, options, message",
    [
        ({}, {"label_drop": 1.5}, "label_drop is a probability, got 1.5"),
        ({"num_classes": 0}, {"guidance": 2.0}, "guidance needs num_classes > 0"),
        ({}, {"filter": LogitFilter(top_p=0.0)}, "top_p"),
    ],
)
def test_bad_options_are_named(net, options, message):
    with pytest.raises(ValueError, match=message):
        pixel_autoregressive(tiny_net(**net), tx=optax.sgd(0.0), **options)


def test_patches_must_divide_the_image():
    with pytest.raises(ValueError, match=r"patches of 4 do not divide 4x6 images: use one of \[1, 2\]"):
        jax.eval_shape(tiny_net(patch=4).init, jax.random.key(0), jnp.zeros((1, 72), jnp.int32), LABELS[:1])


def test_coding_without_loss(model, variables):
    """Decoding is lossless, and the code is at most 1% longer than the likelihood implies."""
    pytest.importorskip("constriction")
    images = random_images()
    coder = pixels.make_coder(model, variables)
    code = pixels.encode(coder, images, LABELS)
    again = pixels.decode(coder, code.tobytes(), LABELS, 72)
    np.testing.assert_array_equal(model.to_levels(again), model.to_levels(images))
    assert coder.probabilities._cache_size() == 1  # one program, whose numbers are the same in both directions
    bits = -jax.jit(model.log_likelihood)(variables, images, LABELS).sum() / np.log(2)
    assert 32 * len(code) == pytest.approx(float(bits), rel=0.01, abs=64)


def test_a_lossless_file_holds_the_pictures_and_notices_another_model(model, variables):
    pytest.importorskip("constriction")
    pictures = list(np.random.default_rng(0).integers(256, size=(2, *COLOUR)).astype(np.uint8))
    payload = by_pixels(model, variables, COLOUR)
    data = files.compress(payload, pictures, 0, ["a", "b"])
    again = list(files.decompress(payload, data))
    assert [name for name, _ in again] == ["a", "b"] and np.array_equal([x for _, x in again], pictures)
    other = by_pixels(model, jax.tree.map(lambda x: 1.01 * x, variables), COLOUR)
    with pytest.raises(OtherModel, match="use the run that wrote it"):
        list(files.decompress(other, data))
    with pytest.raises(OtherModel, match="the platform that wrote them"):  # as if numbers came out differently
        list(files.decompress(other._replace(model=payload.model), data))
    with pytest.raises(UserError, match="the run compresses pictures"):
        files.compress(payload, [pictures[0][:2]], 0)


# Over tokens.


def tiny_tokens(num_classes=3, **options):
    found = tokenizer(
        Encoder(4, (4,), 1), Decoder(1, (4,), 1), VectorQuantiser(6, 4), image_shape=SHAPE, tx=optax.sgd(0.0)
    )
    frozen = state_of(found.method, tiny_batch()).variables
    backbone = Backbone(width=8, depth=1, num_heads=2)
    net = TokenTransformer(found.num_codes, found.grid, num_classes, backbone)
    return token_autoregressive(net, found, frozen, tx=optax.adam(1e-2), **options), net, frozen


@pytest.fixture(scope="module")
def tokens():
    """A method, its net and variables."""
    method, net, _ = tiny_tokens()
    variables = jax.jit(method.init)(jax.random.key(0), tiny_batch())
    return method, net, {**variables, "net": moved(variables["net"])}


def test_untrained_tokens_are_uniform_and_the_tokenizer_stays(tokens):
    method, _, _ = tokens
    batch = tiny_batch()
    state = state_of(method, batch)
    metrics = jax.jit(method.evaluate)(state.variables, batch, jax.random.key(0))
    np.testing.assert_allclose(metrics["bits_per_token_given_label"], np.log2(6), rtol=1e-5)
    before = jax.device_get(state.variables)
    state, metrics = jax.jit(make_train_step(method.phases))(state, batch, jax.random.key(0))
    assert float(metrics["autoregressive/loss"]) == pytest.approx(np.log(6), rel=1e-5)
    assert largest_difference(before["net"], state.variables["net"]) > 0
    for name in set(before) - {"net"}:
        assert largest_difference(before[name], state.variables[name]) == 0


def test_tokens_decode_as_in_the_full_pass_in_any_order(tokens):
    _, net, variables = tokens
    n = net.num_places
    codes = jax.random.randint(jax.random.key(1), (3, n), 0, 6)
    order = jax.vmap(lambda key: jax.random.permutation(key, n))(jax.random.split(jax.random.key(2), 3))
    full = jax.jit(net.apply)(variables["net"], codes, LABELS, order)
    decode, cache = jax.jit(lambda *args: net.apply(variables["net"], *args, method="decode")), net.empty(3)
    for i in range(n):
        unknown = jnp.where(jnp.arange(n)[None] < i, codes, 0)
        logits, cache = decode(cache, unknown, jnp.asarray(i, jnp.int32), LABELS, order)
        np.testing.assert_allclose(logits, full[:, i], atol=1e-5)
    assert float(jnp.abs(full - jax.jit(net.apply)(variables["net"], codes, LABELS, order[::-1])).max()) > 1e-3


@pytest.mark.parametrize("options", [{}, {"random_order": True, "guidance": 2.0, "filter": LogitFilter(top_k=3)}])
def test_tokens_sample_and_inpaint(options, tokens):
    variables = tokens[2]
    method = tiny_tokens(**options)[0]
    images = jax.jit(method.sample)(variables, jax.random.key(0), LABELS)
    assert images.shape == (3, *SHAPE) and float(jnp.abs(images).max()) <= 1
    given = tiny_batch(3)["image"]
    mask = jnp.broadcast_to(jnp.arange(SHAPE[1])[None, None] < 6, (3, *SHAPE[:2]))
    inpaint = jax.jit(method.inpaint)
    filled = inpaint(variables, jax.random.key(0), given, mask, LABELS)
    np.testing.assert_array_equal(filled[:, :, :6], given[:, :, :6])
    hidden = jnp.where(mask[..., None], given, 0.5)
    np.testing.assert_array_equal(inpaint(variables, jax.random.key(0), hidden, mask, LABELS), filled)
    loss, _ = jax.jit(method.phases[0].objective)(variables, tiny_batch(), jax.random.key(0))
    assert np.isfinite(float(loss))


def test_a_net_that_does_not_fit_the_tokenizer():
    _, net, frozen = tiny_tokens()
    other = tokenizer(
        Encoder(4, (4,), 1), Decoder(1, (4,), 1), VectorQuantiser(5, 4), image_shape=SHAPE, tx=optax.sgd(0.0)
    )
    with pytest.raises(ValueError, match="the net takes 6 codes .* the tokenizer has 5"):
        token_autoregressive(net, other, frozen, tx=optax.sgd(0.0))
