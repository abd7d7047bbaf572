"""The transformer: attention and masks, zero initialisation, and agreement of all execution paths."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import applied, largest_difference

from jimgen import noise
from jimgen.nets.diffusion_transformer import DiffusionTransformer
from jimgen.nets.embeddings import PatchHead, TimeEmbedding, TokenEmbedding, patchify, unpatchify
from jimgen.nets.positions import sincos_embedding
from jimgen.nets.transformer import (
    Backbone,
    Norm,
    causal_mask,
    cudnn_attention,
    einsum_attention,
    grid_positions,
    num_heads,
    rotary_angles,
    rotate,
    xla_attention,
)

B, T, D = 2, 6, 16
POSITIONS = grid_positions(2, 3)


def backbone(**options):
    return Backbone(**{"width": D, "depth": 2, "num_heads": 2, **options})


def draw(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


@jax.jit
def randomised(variables, seed=5):
    """Random variables, none of them zero."""
    leaves, structure = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    moved = [leaf + 0.2 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, moved)


def variables_of(net, **inputs):
    return randomised(jax.jit(net.init)(jax.random.key(0), draw(1, B, T, D), **inputs))


def test_attention_by_hand():
    """Logits 0 and ln 3 give weights 1/4 and 3/4; masking one leaves the other; a query without keys gets zeros."""
    q, k = jnp.asarray([math.log(3.0)]).reshape(1, 1, 1, 1), jnp.asarray([0.0, 1.0]).reshape(1, 2, 1, 1)
    v = jnp.asarray([4.0, 8.0]).reshape(1, 2, 1, 1)
    assert float(einsum_attention(q, k, v, None).squeeze()) == pytest.approx(7.0)
    for allowed, expected in (([True, False], 4.0), ([False, True], 8.0), ([False, False], 0.0)):
        mask = jnp.asarray(allowed).reshape(1, 1, 1, 2)
        assert float(einsum_attention(q, k, v, mask).squeeze()) == expected


@pytest.mark.parametrize("masked", [False, True])
def test_attentions_agree(masked):
    q, k, v = (draw(seed, B, T, 2, 8) for seed in range(3))
    mask = causal_mask(T)[None, None] if masked else None
    np.testing.assert_allclose(einsum_attention(q, k, v, mask), xla_attention(q, k, v, mask), atol=1e-6)


def test_cudnn_attention_names_what_it_takes():
    q = jnp.zeros((1, 2, 1, 8))
    with pytest.raises(ValueError, match="bfloat16 and heads of a multiple of 8 .* got float32 and 8"):
        cudnn_attention(q, q, q, None)
    q = jnp.zeros((1, 2, 1, 12), jnp.bfloat16)
    with pytest.raises(ValueError, match="got bfloat16 and 12"):
        cudnn_attention(q, q, q, None)


def test_norms_by_hand():
    x = jnp.asarray([[3.0, -4.0, 0.0, 5.0]])
    rms = Norm(affine=False).apply({}, x)
    np.testing.assert_allclose(rms, x / math.sqrt(50 / 4), rtol=1e-6)
    layer = Norm("layer", affine=False).apply({}, x)
    np.testing.assert_allclose(layer, (x - 1) / math.sqrt((4 + 25 + 1 + 16) / 4), rtol=1e-6)


def test_rotary_positions_are_relative_and_keep_lengths():
    """The product of q rotated at p and k rotated at p' depends only on p - p'; the rotation at the origin is 1."""
    q, k = draw(0, 1, 1, 1, 8), draw(1, 1, 1, 1, 8)

    def turned(x, row, column):
        return rotate(x, rotary_angles(jnp.asarray([[row, column]], jnp.float32), 8, 100.0))

    def product(first, second):
        return float((turned(q, *first) * turned(k, *second)).sum())

    assert product((3, 5), (1, 2)) == pytest.approx(product((2, 3), (0, 0)), abs=1e-5)
    assert abs(product((3, 5), (1, 2)) - product((3, 5), (2, 1))) > 1e-3
    np.testing.assert_array_equal(turned(q, 0, 0), q)
    assert float(jnp.linalg.norm(turned(q, 4, 7))) == pytest.approx(float(jnp.linalg.norm(q)), rel=1e-5)
    # Two frequencies per axis: 1 and 100^(-1/2). A row rotates the pairs (0, 4), (1, 5); a column (2, 6), (3, 7).
    expected = np.exp(1j * np.asarray([2.0, 0.2, 3.0, 0.3])) * (np.asarray(q)[0, 0, 0, :4] + 1j * q[0, 0, 0, 4:])
    np.testing.assert_allclose(turned(q, 2, 3)[0, 0, 0], np.concatenate([expected.real, expected.imag]), atol=1e-6)


def test_positions_of_a_grid():
    np.testing.assert_array_equal(POSITIONS, [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]])
    table = sincos_embedding(POSITIONS, 8)
    angles = np.asarray([[1, 0.01], [2, 0.02]])
    np.testing.assert_allclose(table[5], np.concatenate([np.sin(angles), np.cos(angles)], 1).ravel(), atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"norm": "layer", "mlp": "gelu", "use_bias": True}, {"scan": True}])
@pytest.mark.parametrize("per_token", [False, True])
def test_adaln_zero_starts_as_the_identity(options, per_token):
    """For every condition, the blocks are the identity, so that only the last norm changes tokens."""
    net, x = backbone(**options), draw(1, B, T, D)
    cond = draw(2, B, T, D) if per_token else draw(2, B, D)
    variables = jax.jit(net.init)(jax.random.key(0), x, positions=POSITIONS, cond=cond)
    expected = Norm(options.get("norm", "rms"), affine=False).apply({}, x)
    np.testing.assert_allclose(applied(net, variables, x, positions=POSITIONS, cond=cond), expected, atol=1e-6)
    moved = applied(net, randomised(variables), x, positions=POSITIONS, cond=cond)
    assert float(jnp.abs(moved - expected).max()) > 0.1


def test_a_condition_of_each_token_generalises_one_of_all():
    net, x, cond = backbone(), draw(1, B, T, D), draw(2, B, D)
    variables = variables_of(net, cond=cond)
    repeated = jnp.repeat(cond[:, None], T, axis=1)
    np.testing.assert_allclose(
        applied(net, variables, x, cond=repeated), applied(net, variables, x, cond=cond), atol=1e-5
    )


def test_without_positions_order_does_not_matter_and_with_them_it_does():
    net, x, order = backbone(), draw(1, B, T, D), jnp.asarray([3, 1, 5, 0, 4, 2])
    variables = variables_of(net)
    plain = applied(net, variables, x)
    np.testing.assert_allclose(applied(net, variables, x[:, order]), plain[:, order], atol=1e-5)
    placed = applied(net, variables, x, positions=POSITIONS)
    assert float(jnp.abs(applied(net, variables, x[:, order], positions=POSITIONS) - placed[:, order]).max()) > 1e-2
    # Tokens with their positions may be permuted, which random-order models rely on.
    each = jnp.broadcast_to(POSITIONS[order], (B, T, 2))
    np.testing.assert_allclose(applied(net, variables, x[:, order], positions=each), placed[:, order], atol=1e-5)


def test_a_changed_future_token_changes_nothing_before_it():
    """Later tokens have exactly no influence."""
    net, x = backbone(), draw(1, B, T, D)
    variables = variables_of(net)
    apply = jax.jit(lambda x: applied(net, variables, x, positions=POSITIONS, mask=causal_mask(T)))
    before, after = apply(x), apply(x.at[:, 4].add(10.0))
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert (before[:, 4:] != after[:, 4:]).any(-1).all()


def test_masks_of_each_example_leak_nothing():
    """Values and gradients, with token 5 masked in example 0 and token 0 masked in example 1."""
    net, x = backbone(), draw(1, B, T, D)
    variables = variables_of(net)
    mask = jnp.ones((B, T, T), bool).at[0, :5, 5].set(False).at[1, 1:, 0].set(False)
    gradient = jax.grad(lambda x: applied(net, variables, x, mask=mask)[0, :5].sum())(x)
    assert (gradient[0, 5] == 0).all() and (gradient[1] == 0).all() and (gradient[0, :5] != 0).any()
    gradient = jax.grad(lambda x: applied(net, variables, x, mask=mask)[1, 1:].sum())(x)
    assert (gradient[1, 0] == 0).all() and (gradient[1, 1:] != 0).any()


@pytest.mark.parametrize("options", [{}, {"scan": True}, {"qk_norm": False, "norm": "layer", "mlp": "gelu"}])
@pytest.mark.parametrize("pieces", [(1,) * T, (4, 1, 1), (2, 3, 1)])
def test_cached_decoding_equals_the_full_causal_pass(options, pieces):
    net, x, cond = backbone(**options), draw(1, B, T, D), draw(2, B, D)
    variables = variables_of(net, cond=cond)
    full = applied(net, variables, x, positions=POSITIONS, cond=cond, mask=causal_mask(T))
    cache, found, start = net.empty_cache(B, T + 2), [], 0
    for size in pieces:
        here = slice(start, start + size)
        mask = None if size == 1 else causal_mask(size, T + 2, cache.index)
        y, cache = applied(
            net, variables, x[:, here], cache, positions=POSITIONS[here], cond=cond, mask=mask, method="decode"
        )
        found.append(y)
        start += size
    assert int(cache.index) == T and cache.num_places == T + 2
    np.testing.assert_allclose(jnp.concatenate(found, 1), full, atol=1e-5)


def test_decoding_by_levels_equals_the_level_mask():
    """Next-scale prediction: tokens attend to their own and to all earlier levels."""
    net, x, levels = backbone(), draw(1, B, T, D), np.asarray([0, 1, 1, 2, 2, 2])
    variables = variables_of(net)
    full = applied(net, variables, x, mask=jnp.asarray(levels[:, None] >= levels[None]))
    cache, found = net.empty_cache(B, T), []
    for level in range(3):
        y, cache = applied(net, variables, x[:, levels == level], cache, method="decode")
        found.append(y)
    np.testing.assert_allclose(jnp.concatenate(found, 1), full, atol=1e-5)


def test_decoding_runs_inside_a_scan():
    net, x = backbone(), draw(1, B, T, D)
    variables = variables_of(net)

    def step(cache, token):
        y, cache = net.apply(variables, token[:, None], cache, method="decode")
        return cache, y[:, 0]

    found = jax.jit(lambda x: jax.lax.scan(step, net.empty_cache(B, T), x.swapaxes(0, 1))[1])(x)
    np.testing.assert_allclose(found.swapaxes(0, 1), applied(net, variables, x, mask=causal_mask(T)), atol=1e-5)


@pytest.mark.parametrize("remat", [False, True])
def test_scan_equals_unrolled(remat):
    """Values and gradients agree with stacked parameters of the blocks, and with recomputation."""
    plain, x, cond = backbone(dropout=0.3), draw(1, B, T, D), draw(2, B, D)
    keys = noise.example_keys(jax.random.key(3), jnp.arange(B))
    variables = variables_of(plain, cond=cond)
    params = variables["params"]
    blocks = [params[f"block{i}"] for i in range(2)]
    rest = {name: value for name, value in params.items() if not name.startswith("block")}
    stacked = {"params": {**rest, "blocks": jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)}}
    scanned = backbone(dropout=0.3, scan=True, remat=remat)
    shapes = jax.eval_shape(lambda: scanned.init(jax.random.key(0), x, cond=cond))
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, stacked)

    def loss(net):
        return lambda v: jnp.square(net.apply(v, x, positions=POSITIONS, cond=cond, dropout_keys=keys)).mean()

    value, gradient = jax.jit(jax.value_and_grad(loss(plain)))(variables)
    again, stacked_gradient = jax.jit(jax.value_and_grad(loss(scanned)))(stacked)
    assert float(value) == pytest.approx(float(again), rel=1e-6)
    for i in range(2):
        found = jax.tree.map(lambda leaf, i=i: leaf[i], stacked_gradient["params"]["blocks"])
        assert largest_difference(found, gradient["params"][f"block{i}"]) < 1e-5
    if remat:
        recomputed = backbone(dropout=0.3, remat=True)
        assert largest_difference(jax.jit(jax.grad(loss(recomputed)))(variables), gradient) < 1e-5


def test_deep_backbones_are_scanned_and_shallow_ones_are_not():
    for depth, name in ((12, "blocks"), (11, "block10")):
        net = backbone(depth=depth, width=8)
        assert name in jax.eval_shape(lambda net=net: net.init(jax.random.key(0), jnp.zeros((1, 2, 8))))["params"]


def test_dropout_belongs_to_the_example():
    """The mask depends on the example's key, not on the batch. Without keys there is no dropout."""
    net, x = backbone(dropout=0.5), draw(1, B, T, D)
    variables = variables_of(net)
    keys = noise.example_keys(jax.random.key(3), jnp.arange(B))
    both = applied(net, variables, x, dropout_keys=keys)
    np.testing.assert_allclose(applied(net, variables, x[1:], dropout_keys=keys[1:]), both[1:], atol=1e-5)
    same = applied(net, variables, jnp.concatenate([x[:1], x[:1]]), dropout_keys=keys)
    assert float(jnp.abs(same[0] - same[1]).max()) > 1e-2
    np.testing.assert_array_equal(applied(net, variables, x), applied(backbone(), variables, x))


def test_forward_mode_agrees_with_finite_differences(x64):
    """The derivative that mean flows take, through positions, masks and the condition."""
    net = backbone(dtype=jnp.float64)
    x, cond, dx, dcond = draw(1, B, T, D), draw(2, B, D), draw(3, B, T, D), draw(4, B, D)
    variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), variables_of(net, cond=cond))
    apply = jax.jit(lambda x, cond: applied(net, variables, x, positions=POSITIONS, cond=cond, mask=causal_mask(T)))
    found = jax.jvp(apply, (x, cond), (dx, dcond))[1]
    h = 1e-5
    expected = (apply(x + h * dx, cond + h * dcond) - apply(x - h * dx, cond - h * dcond)) / (2 * h)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


def test_bfloat16_is_for_matrix_products_alone():
    net, x, cond = backbone(dtype=jnp.bfloat16), draw(1, B, T, D), draw(2, B, D)
    variables = variables_of(net, cond=cond)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    y = applied(net, variables, x, positions=POSITIONS, cond=cond)
    assert y.dtype == jnp.float32 and net.empty_cache(1, 2).k[0].dtype == jnp.bfloat16
    exact = applied(backbone(), variables, x, positions=POSITIONS, cond=cond)
    assert 1e-4 < float(jnp.abs(y - exact).max()) < 0.3
    # At initialisation only norms change the tokens, in float32 and so without loss of precision.
    start = jax.jit(net.init)(jax.random.key(0), x, cond=cond)
    np.testing.assert_array_equal(applied(net, start, x, cond=cond), applied(backbone(), start, x, cond=cond))


def num_params(net, *inputs, **named):
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), *inputs, **named))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def test_parameter_counts():
    """By hand: those of a DiT (depth 6, width 256, 4x4 patches of 32x32x1) and of the blocks of a GPT of that size."""
    dit = {"mlp": "gelu", "norm": "layer", "qk_norm": False, "use_bias": True}
    block = 256 * 768 + 768 + 256 * 256 + 256 + 256 * 1024 + 1024 + 1024 * 256 + 256 + 256 * 1536 + 1536
    around = 16 * 256 + 256 + 11 * 256 + 2 * (256 * 256 + 256) + 256 * 512 + 512 + 256 * 16 + 16
    net = DiffusionTransformer(4, 10, Backbone(256, 6, 4, **dit))
    count = num_params(net, jnp.zeros((1, 32, 32, 1)), jnp.zeros(1), jnp.zeros(1, jnp.int32))
    assert count == 6 * block + around == 7_375_376
    gpt = Backbone(256, 6, 8, mlp="gelu", norm="layer", qk_norm=False)
    assert num_params(gpt, jnp.zeros((1, 4, 256))) == 6 * (12 * 256**2 + 4 * 256) + 2 * 256
    swiglu = num_params(Backbone(255, 1, 5, qk_norm=False), jnp.zeros((1, 1, 255)))
    assert swiglu == 4 * 255**2 + 3 * 255 * 680 + 3 * 255  # 680 = 8/3 255: as many as 8 width^2 of the GELU MLP


def test_patches_by_hand_and_back():
    image = jnp.arange(24).reshape(1, 4, 6, 1)
    tokens = patchify(image, 2)
    np.testing.assert_array_equal(tokens[0, :2], [[0, 1, 6, 7], [2, 3, 8, 9]])
    assert tokens.shape == (1, 6, 4)
    np.testing.assert_array_equal(unpatchify(tokens, (4, 6), 2), image)
    colour = draw(0, 2, 6, 4, 3)
    np.testing.assert_array_equal(unpatchify(patchify(colour, 2), (6, 4), 2), colour)


def test_patches_must_divide_the_image():
    with pytest.raises(ValueError, match=r"patches of 3 do not divide 8x12 images: use one of \[1, 2, 4\]"):
        patchify(jnp.zeros((1, 8, 12, 1)), 3)


def test_a_head_starts_at_zero_and_reads_each_patch_from_its_token():
    head, tokens = PatchHead((4, 6), 2, 3), draw(0, 1, 6, D)
    variables = head.init(jax.random.key(0), tokens)
    np.testing.assert_array_equal(head.apply(variables, tokens), np.zeros((1, 4, 6, 3)))
    variables = randomised(variables)
    changed = head.apply(variables, tokens) != head.apply(variables, tokens.at[0, 4].add(1.0))
    assert changed[0, 2:, 2:4].all() and int(changed.sum()) == 2 * 2 * 3


def test_times_are_told_apart():
    net, t = TimeEmbedding(8), jnp.asarray([0.0, 0.001, 0.5, 1.0])
    variables = net.init(jax.random.key(0), t)
    assert variables["params"]["hidden"]["kernel"].shape == (256, 8)
    assert float(variables["params"]["hidden"]["kernel"].std()) == pytest.approx(0.02, rel=0.1)
    assert len(np.unique(net.apply(randomised(variables), t).round(4), axis=0)) == 4


def test_tokens_are_looked_up_mask_included_and_checked():
    net = TokenEmbedding(5, 4)
    tokens = jnp.asarray([[0, 4, 5]])
    variables = net.init(jax.random.key(0), tokens)
    assert variables["params"]["table"]["embedding"].shape == (6, 4)
    np.testing.assert_array_equal(net.apply(variables, tokens)[0], variables["params"]["table"]["embedding"][tokens[0]])
    with pytest.raises(ValueError, match=r"expected tokens in \[0, 5\], got 0 to 6"):
        net.apply(variables, jnp.asarray([[0, 6]]))
    with pytest.raises(ValueError, match=r"got -1 to 3"):
        net.apply(variables, jnp.asarray([[-1, 3]]))
    with pytest.raises(ValueError, match="int32, got float32"):
        net.apply(variables, jnp.zeros((1, 2)))


@pytest.mark.parametrize(
    "options, inputs, message",
    [
        ({"num_heads": 3}, {}, "3 heads do not divide a width of 16"),
        ({"num_heads": 8}, {"positions": POSITIONS}, "multiple of 4, got 2"),
        ({"width": 8}, {}, r"expected tokens \[b, t, 8\], got \[2, 6, 16\]"),
        ({}, {"positions": POSITIONS[:4]}, r"expected positions \[6, 2\] .* got \[4, 2\]"),
        ({}, {"cond": jnp.zeros((6, D))}, r"expected cond \[2, 16\] .* got \[6, 16\]"),
        ({}, {"mask": causal_mask(5)}, r"expected mask bool \[6, 6\] or \[2, 6, 6\], got bool \[5, 5\]"),
        ({}, {"mask": jnp.ones((6, 6))}, r"got float32 \[6, 6\]"),
    ],
)
def test_wrong_shapes_are_named(options, inputs, message):
    with pytest.raises(ValueError, match=message):
        backbone(**options).init(jax.random.key(0), jnp.zeros((B, T, D)), **inputs)


def test_a_cache_that_is_too_short_is_refused():
    net, x = backbone(), draw(1, B, T, D)
    variables = variables_of(net)
    with pytest.raises(ValueError, match="5 places holds 0 tokens and has no room for 6 more"):
        net.apply(variables, x, net.empty_cache(B, 5), method="decode")
    _, cache = net.apply(variables, x[:, :4], net.empty_cache(B, 5), method="decode")
    with pytest.raises(ValueError, match="5 places holds 4 tokens and has no room for 2 more"):
        net.apply(variables, x[:, 4:], cache, method="decode")


def test_heads_make_up_the_width_exactly():
    assert [num_heads(128, size) for size in (4, 32, 64, 128)] == [32, 4, 2, 1]


@pytest.mark.parametrize(
    ("width", "head_dim", "fitting"),
    [
        (128, 48, "4, 8, 16, 32, 64, 128"),
        (16, 32, "4, 8, 16"),
        (24, 6, "4, 8, 12, 24"),
        (8, 0, "4, 8"),
        (8, -4, "4, 8"),
    ],
)
def test_a_head_that_does_not_fit_is_told_those_that_do(width, head_dim, fitting):
    with pytest.raises(ValueError, match=f"--head-dim {head_dim} must be .* divides --width {width}: use {fitting}$"):
        num_heads(width, head_dim)
    with pytest.raises(ValueError, match="make the width a multiple of 4"):
        num_heads(10, 10)
