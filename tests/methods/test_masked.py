"""MaskGIT: the exact schedule, masks, and decoding that keeps known tokens."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import largest_difference, state_of

from jimgen.methods.masked import masked
from jimgen.methods.tokenizer import known_tokens, tokenizer
from jimgen.nets.masked_transformer import MaskedTransformer
from jimgen.nets.tokenizer import Decoder, Encoder
from jimgen.nets.transformer import Backbone
from jimgen.nets.vq import VectorQuantiser
from jimgen.sampling.tokens import decode_in_parallel, lowest, num_masked
from jimgen.train_step import compile_step, make_train_step

SHAPE, GRID, CODES = (8, 12, 1), (2, 3), 7


def batch_of(size=8):
    rng = np.random.default_rng(0)
    return {
        "image": jnp.asarray(rng.uniform(-1, 1, (size, *SHAPE)), jnp.float32),
        "label": jnp.asarray(rng.integers(0, 3, size), jnp.int32),
        "index": jnp.arange(size, dtype=jnp.int32),
    }


@pytest.fixture(scope="module")
def frozen_tokenizer():
    """An untrained tokenizer whose codes are those of a first batch."""
    made = tokenizer(
        Encoder(2, (4, 4), 1), Decoder(1, (4, 4), 1), VectorQuantiser(CODES, 2), image_shape=SHAPE, tx=optax.adam(1e-3)
    )
    state = state_of(made.method, batch_of())
    state, _ = compile_step(make_train_step(made.method.phases), "jit").run(state, batch_of(), jax.random.key(1))
    return made, {name: state.variables[name] for name in ("encoder", "quantiser", "decoder")}


def method_of(frozen_tokenizer, **options):
    made, frozen = frozen_tokenizer
    net = MaskedTransformer(CODES, GRID, 3, Backbone(width=8, depth=1, num_heads=1))
    return masked(net, made, frozen, num_classes=3, tx=optax.adam(1e-2), num_steps=3, **options)


def test_schedules_to_the_integer():
    """The cosine schedule of Chang et al. against hand values."""
    assert num_masked(np.array([16]), 4, 16)[:, 0].tolist() == [14, 11, 6, 0]
    assert num_masked(np.array([256]), 8, 256)[:, 0].tolist() == [251, 236, 212, 181, 142, 97, 49, 0]
    assert num_masked(np.array([0, 2, 3]), 3, 3).tolist() == [[0, 1, 2], [0, 1, 1], [0, 0, 0]]  # cos(pi / 3) is .5


def test_the_lowest_of_each_row():
    found = lowest(jnp.array([[3.0, 1.0, 2.0], [5.0, 5.0, 4.0]]), jnp.array([2, 1]))
    assert found.tolist() == [[False, True, True], [False, False, True]]


def test_a_token_is_known_if_all_its_pixels_are():
    known = np.ones((1, 4, 6, 1), bool)
    known[0, 3, 2] = False
    assert known_tokens(jnp.asarray(known), (2, 3)).tolist() == [[True, True, True, True, False, True]]
    with pytest.raises(ValueError, match="does not divide"):
        known_tokens(jnp.asarray(known), (3, 3))


@pytest.mark.parametrize("num_steps", [1, 3, 8])
def test_decoding_leaves_nothing_masked_and_keeps_what_is_known(num_steps):
    """Rows with all, some and no tokens known; logits that forbid code 0."""
    tokens = jnp.array([[5] * 6, [1, 5, 2, 5, 5, 3], [1, 2, 3, 4, 4, 4]], jnp.int32)
    seen = []

    def logits_of(x):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), x)
        return jnp.zeros((3, 6, 5)).at[..., 0].set(-jnp.inf)

    filled = np.asarray(decode_in_parallel(logits_of, tokens, jax.random.key(0), 5, num_steps, 4.5))
    jax.effects_barrier()
    assert ((filled >= 1) & (filled < 5)).all()
    known = np.asarray(tokens) < 5
    np.testing.assert_array_equal(filled[known], np.asarray(tokens)[known])
    assert all((x[known] == np.asarray(tokens)[known]).all() for x in seen) and len(seen) == num_steps
    masked_before = [int((x[0] == 5).sum()) for x in seen]
    clipped = np.maximum(1, np.minimum(num_masked(np.array([6]), num_steps, 6)[:-1, 0], 5))
    assert masked_before[0] == 6 and (np.array(masked_before[1:]) <= clipped).all()
    assert masked_before == sorted(masked_before, reverse=True)


def test_without_chance_the_most_confident_tokens_come_first():
    """tau = 0, place i has i + 1 equally likely codes: the first of two steps masks the least confident again."""
    allowed = jnp.arange(6)[None, :] <= jnp.arange(6)[:, None]
    seen = []

    def logits_of(x):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), x)
        return jnp.where(allowed, 0.0, -jnp.inf)[None]

    decode_in_parallel(logits_of, jnp.full((1, 6), 6, jnp.int32), jax.random.key(0), 6, 2, 0.0)
    jax.effects_barrier()
    assert (seen[1][0] == 6).tolist() == [False, False, True, True, True, True]  # floor(6 cos(pi / 4)) = 4


def test_the_loss_at_the_start_is_that_of_uniform_codes(frozen_tokenizer):
    """The output layer starts at zero: log2 7 bits for every mask."""
    method = method_of(frozen_tokenizer)
    variables = state_of(method, batch_of()).variables
    found = jax.jit(method.evaluate)(variables, batch_of(), jax.random.key(0))
    np.testing.assert_allclose(found["bits_per_masked_token"], np.full(8, np.log2(CODES)), rtol=1e-5)


class WrongWhereNotMasked(nn.Module):
    """Uniform for masked tokens; for visible ones the probability of the token itself is 0."""

    @nn.compact
    def __call__(self, tokens, labels, dropout_keys=None):
        return jnp.where(tokens[..., None] == jnp.arange(CODES).reshape(1, 1, -1), -50.0, 0.0)


def test_tokens_that_are_not_masked_have_no_loss(frozen_tokenizer):
    """At least one token is masked in each example: log2 7 bits, neither 50 nats nor 0."""
    made, frozen = frozen_tokenizer
    method = masked(WrongWhereNotMasked(), made, frozen, num_classes=3, tx=optax.sgd(0.0))
    found = jax.jit(method.evaluate)({"net": {}, **frozen}, batch_of(), jax.random.key(0))
    np.testing.assert_allclose(found["bits_per_masked_token"], np.full(8, np.log2(CODES)), rtol=1e-5)


def test_training_leaves_the_tokenizer_alone_and_lowers_the_loss(frozen_tokenizer):
    method = method_of(frozen_tokenizer)
    state = state_of(method, batch_of())
    before = jax.tree.map(np.asarray, {name: state.variables[name] for name in ("encoder", "quantiser", "decoder")})
    step, losses = compile_step(make_train_step(method.phases), "jit"), []
    for _ in range(150):
        state, metrics = step.run(state, batch_of(), jax.random.key(1))
        losses.append(float(metrics["masked/loss"]))
    assert np.mean(losses[-10:]) < 0.8 * losses[0]
    assert largest_difference(before, {name: state.variables[name] for name in before}) == 0


def test_one_step_is_the_same_on_one_device_and_on_eight(frozen_tokenizer):
    method = method_of(frozen_tokenizer)
    found = []
    for mode in ("jit", "sharded"):
        compiled = compile_step(make_train_step(method.phases), mode)
        state = jax.device_put(state_of(method, batch_of()), compiled.state_sharding)
        batch = jax.device_put(batch_of(), compiled.batch_sharding)
        state, metrics = compiled.run(state, batch, jax.device_put(jax.random.key(1), compiled.replicated))
        found.append(jax.tree.map(np.asarray, (state.variables["net"], metrics)))
    assert largest_difference(*found) < 1e-4


def test_samples_and_fillings(frozen_tokenizer):
    """Known pixels come back exactly; unknown ones depend on the key; guidance runs; a bad mask raises an error."""
    method, batch = method_of(frozen_tokenizer, guidance=2.0), batch_of(4)
    variables = state_of(method, batch).variables
    images = jax.jit(method.sample)(variables, jax.random.key(0), batch["label"])
    assert images.shape == (4, *SHAPE) and bool(jnp.isfinite(images).all())
    mask = jnp.zeros((4, 8, 12), bool).at[:, :5].set(True)
    fill = jax.jit(method.inpaint)
    first, other = (fill(variables, jax.random.key(s), batch["image"], mask, batch["label"]) for s in (0, 1))
    np.testing.assert_array_equal(first[:, :5], batch["image"][:, :5])
    assert (first[:, 5:] != other[:, 5:]).any()
    hidden = jnp.where(mask[..., None], batch["image"], 0.9)  # of rows that the encoder of the known cells looks at
    np.testing.assert_array_equal(fill(variables, jax.random.key(0), hidden, mask, batch["label"]), first)
    with pytest.raises(ValueError, match="expected a mask"):
        method.inpaint(variables, jax.random.key(0), batch["image"], mask[:, :4], batch["label"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance": 2.0, "label_drop": 0.0}, "guidance needs"),
        ({"label_drop": 2.0}, "label_drop is a probability, got 2.0"),
        ({"label_smoothing": -0.1}, "label_smoothing must be in .0, 1., got -0.1"),
    ],
)
def test_options_that_contradict_each_other(frozen_tokenizer, options, message):
    with pytest.raises(ValueError, match=message):
        method_of(frozen_tokenizer, **options)
