"""Quantisers: hand values of codes, tokens and losses; gradients by closed form; codebooks that move and restart."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import applied, initialised

from jimgen.nets.embeddings import TokenEmbedding
from jimgen.nets.vq import (
    FiniteScalarQuantiser,
    LookupFreeQuantiser,
    VectorQuantiser,
    codebook_usage,
    count_tokens,
    ema_codebook,
    nearest_code,
    perplexity,
    restart_dead_codes,
    rotation_trick,
    straight_through,
)
from jimgen.parallel import DEVICE_AXIS

CODES = jnp.asarray([[0.0, 0], [1, 1], [4, 4]])
Z = jnp.asarray([[0.9, 0.8], [1.2, 1], [3, 3]]).reshape(1, 3, 1, 2)  # one image of three places
QUANTISERS = {
    "ema": VectorQuantiser(5, 3, restart_below=0),
    "gradient": VectorQuantiser(5, 3, ema=False),
    "normalised": VectorQuantiser(5, 3, ema=False, normalise=True),
    "rotation": VectorQuantiser(5, 3, gradient="rotation", restart_below=0),
    "fsq": FiniteScalarQuantiser((4, 3, 2)),
    "lfq": LookupFreeQuantiser(3),
}


def vectors(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def fixed_codes(**options):
    """A quantiser of the three codes, and its variables."""
    quantiser = VectorQuantiser(3, 2, restart_below=0, **options)
    if quantiser.ema:
        return quantiser, {"codebook": {"codes": CODES, "counts": jnp.ones(3)}}
    return quantiser, {"params": {"codes": CODES}}


def followed(quantiser, variables, z, key=None):
    """The variables after the codebook has followed z."""
    tokens = applied(quantiser, variables, z).tokens
    return applied(quantiser, variables, z, tokens, key, method="follow", mutable=["codebook"])[1]


# The interface that all share.


@pytest.mark.parametrize("name", QUANTISERS)
def test_shapes_and_lookup(name):
    """Codes [b, h, w, d] in float32, tokens int32 in 0..K-1, losses [b]; tokens give the codes."""
    quantiser, z = QUANTISERS[name], vectors(2, 4, 5, 3)
    found, variables = initialised(quantiser, z)
    assert found.z_q.shape == z.shape and found.z_q.dtype == jnp.float32
    assert found.tokens.shape == (2, 4, 5) and found.tokens.dtype == jnp.int32
    assert int(found.tokens.min()) >= 0 and int(found.tokens.max()) < quantiser.num_codes
    for loss in (found.commitment, found.codebook):
        assert loss.shape == (2,) and float(loss.min()) >= 0
    assert found.entropy.shape == (2,)
    looked_up = applied(quantiser, variables, found.tokens, method="lookup")
    np.testing.assert_allclose(looked_up, found.z_q, rtol=1e-6)


def test_halves_are_quantised_in_float32():
    """Levels stay distinct: bfloat16 vectors give the codes and tokens of the same vectors in float32."""
    quantiser, z = FiniteScalarQuantiser((255, 3)), vectors(2, 4, 5, 2).astype(jnp.bfloat16)
    halves, whole = (applied(quantiser, {}, x) for x in (z, z.astype(jnp.float32)))
    assert halves.z_q.dtype == jnp.float32 and len(np.unique(halves.tokens)) > 20
    np.testing.assert_array_equal(halves.tokens, whole.tokens)
    np.testing.assert_array_equal(halves.z_q, whole.z_q)


@pytest.mark.parametrize("name", QUANTISERS)
def test_every_code_has_its_own_token(name):
    """Quantising the codes of all tokens gives the same tokens: the codes are fixed points."""
    quantiser = QUANTISERS[name]
    _, variables = initialised(quantiser, vectors(1, 1, 1, 3))
    tokens = jnp.arange(quantiser.num_codes, dtype=jnp.int32)[None]
    codes = applied(quantiser, variables, tokens, method="lookup")
    assert len(np.unique(np.asarray(codes[0]), axis=0)) == quantiser.num_codes
    if name == "fsq":  # z is what the bounding maps to the code
        levels = np.asarray(quantiser.levels)
        half, offset = (levels - 1) * 0.999 / 2, np.where(levels % 2, 0, 0.5)
        inside = np.clip((np.asarray(codes) * (levels // 2) + offset) / half, -0.999, 0.999)
        codes = np.arctanh(inside) - np.tan(offset / half)
        codes = jnp.asarray(codes, jnp.float32)
    np.testing.assert_array_equal(applied(quantiser, variables, codes).tokens, tokens)


@pytest.mark.parametrize("name", QUANTISERS)
def test_tokens_that_are_none_are_refused(name):
    """Eager code raises. Compiled code gives NaN instead of the code of the nearest valid token."""
    quantiser = QUANTISERS[name]
    _, variables = initialised(quantiser, vectors(1, 1, 1, 3))
    lookup = lambda tokens: quantiser.apply(variables, tokens, method="lookup")  # noqa: E731
    for wrong in (-1, quantiser.num_codes):
        tokens = jnp.asarray([[0, wrong]])
        with pytest.raises(ValueError, match=f"tokens are 0 to {quantiser.num_codes - 1} here, got"):
            lookup(tokens)
        np.testing.assert_array_equal(np.isnan(jax.jit(lookup)(tokens)), [[[False] * 3, [True] * 3]])


@pytest.mark.parametrize("name", QUANTISERS)
def test_other_channels_are_refused(name):
    with pytest.raises(
        ValueError, match=r"expected vectors \[\.\.\., 3\], got \[1, 2, 2, 4\]: set the encoder.s dim to 3"
    ):
        QUANTISERS[name].init(jax.random.key(0), jnp.zeros((1, 2, 2, 4)))


# VQ.


@pytest.mark.parametrize("ema", [True, False])
def test_vq_by_hand(ema):
    """Squared distances .05 + .04 + 2 = 2.09 over six numbers: mean .348333; at beta .25 the loss is .435417."""
    quantiser, variables = fixed_codes(ema=ema)
    found = applied(quantiser, variables, Z)
    np.testing.assert_array_equal(found.tokens.reshape(-1), [1, 1, 2])
    np.testing.assert_array_equal(found.z_q.reshape(3, 2), [[1, 1], [1, 1], [4, 4]])
    np.testing.assert_allclose(found.commitment / 6, [0.348333], rtol=1e-5)
    np.testing.assert_allclose(found.codebook, [0.0] if ema else found.commitment, rtol=1e-6)
    if not ema:
        np.testing.assert_allclose((found.codebook + 0.25 * found.commitment) / 6, [0.435417], rtol=1e-5)
    np.testing.assert_array_equal(counts := count_tokens(found.tokens, 3), [0, 2, 1])
    np.testing.assert_allclose(perplexity(counts), 1.889882, rtol=1e-6)


def test_usage_and_perplexity():
    """K equal counts have perplexity K, a single code 1. Decayed counts of 1/2 or more are in use."""
    np.testing.assert_allclose(perplexity(jnp.full(7, 0.3)), 7, rtol=1e-5)
    np.testing.assert_allclose(perplexity(jnp.asarray([0.0, 5, 0])), 1, rtol=1e-6)
    assert float(perplexity(jnp.zeros(3))) == 1
    assert float(codebook_usage(jnp.asarray([0.0, 0.4, 0.5, 7]))) == 0.5


def test_nearest_code_against_all_distances():
    z, codes = vectors(4, 6, 3), vectors(11, 3, seed=1)
    distances = np.square(np.asarray(z)[:, :, None] - np.asarray(codes)).sum(-1)
    np.testing.assert_array_equal(nearest_code(z, codes), distances.argmin(-1))
    assert int(nearest_code(jnp.zeros((1, 2)), jnp.asarray([[0.0, 2], [1, 0], [0, 1]]))[0]) == 1


@pytest.mark.parametrize("far", ["offset", "two clusters"])
def test_nearest_code_far_from_the_origin(far):
    """All around 1000, or half of them around -1000, with a spread of one: still the nearest in float64."""
    signs = 1 if far == "offset" else np.where(np.arange(60) % 2, 1, -1)[:, None]
    z, codes = (1000 * signs + vectors(60, 4, seed=seed) for seed in (0, 1))
    distances = np.square(np.asarray(z, np.float64)[:, None] - np.asarray(codes, np.float64)).sum(-1)
    np.testing.assert_array_equal(nearest_code(z, codes), distances.argmin(-1))


def test_losses_move_the_sides_they_name():
    """The commitment loss has gradient 2 (z - e) for z only, the codebook loss 2 sum (e - z) for the codes only."""
    quantiser, variables = fixed_codes(ema=False)

    def gradients(term):
        loss = lambda variables, z: getattr(applied(quantiser, variables, z), term).sum()  # noqa: E731
        codes, z = jax.grad(loss, (0, 1))(variables, Z)
        return codes["params"]["codes"], z.reshape(3, 2)

    codes, z = gradients("commitment")
    np.testing.assert_allclose(z, [[-0.2, -0.4], [0.4, 0], [-2, -2]], atol=1e-6)
    np.testing.assert_array_equal(codes, np.zeros((3, 2)))
    codes, z = gradients("codebook")
    np.testing.assert_array_equal(z, np.zeros((3, 2)))
    np.testing.assert_allclose(codes, [[0, 0], [-0.2, 0.4], [2, 2]], atol=1e-6)


def test_normalised_codes_are_chosen_by_cosine():
    """The largest dot product would choose another code. The losses are those of unit vectors, 2 - 2 cos."""
    quantiser = VectorQuantiser(2, 2, ema=False, normalise=True)
    codes, z = jnp.asarray([[9.0, 9.0], [0.1, 0.0]]), jnp.asarray([[5.0, 1.0]]).reshape(1, 1, 1, 2)
    found = applied(quantiser, {"params": {"codes": codes}}, z)
    assert int(found.tokens.reshape(())) == 1
    np.testing.assert_allclose(found.z_q.reshape(2), [1, 0], atol=1e-6)
    np.testing.assert_allclose(found.commitment, [2 - 2 * 5 / math.sqrt(26)], rtol=1e-4)


# Gradients through the choice.


def test_straight_through_hands_the_gradient_on():
    """The value is e to the bit, also where e - z rounds; the gradient of z is that of e, e gets none."""
    z, e = jnp.asarray([[1e8, 0.3]]), jnp.asarray([[0.1, 0.7]])
    value, pull_back = jax.vjp(straight_through, z, e)
    np.testing.assert_array_equal(value, e)
    to_z, to_e = pull_back(jnp.asarray([[2.0, -3.0]]))
    np.testing.assert_array_equal(to_z, [[2, -3]])
    np.testing.assert_array_equal(to_e, [[0, 0]])


def test_rotation_trick_by_hand():
    """z = (1, 0), e = (0, 2): a quarter turn and lambda 2; (0, 1) comes back as (2, 0), straight through as (0, 1)."""
    z, e = jnp.asarray([[1.0, 0]]), jnp.asarray([[0.0, 2]])
    value, pull_back = jax.vjp(rotation_trick, z, e)
    np.testing.assert_array_equal(value, e)
    to_z, to_e = pull_back(jnp.asarray([[0.0, 1]]))
    np.testing.assert_allclose(to_z, [[2, 0]], atol=1e-5)
    np.testing.assert_array_equal(to_e, [[0, 0]])


def test_rotation_trick_keeps_angles_and_scales_lengths():
    """Its gradient is lambda R^T g: R orthogonal, so lengths scale by |e|/|z|, and g along e comes back along z."""
    z, e, g = (vectors(50, 6, seed=seed) for seed in range(3))
    to_z = jax.vjp(rotation_trick, z, e)[1](g)[0]
    lengths = [np.linalg.norm(x, axis=1) for x in (z, e, g, to_z)]
    np.testing.assert_allclose(lengths[3], lengths[2] * lengths[1] / lengths[0], rtol=1e-4)
    cosines = (np.sum(to_z * z, 1) / lengths[3] / lengths[0], np.sum(g * e, 1) / lengths[2] / lengths[1])
    np.testing.assert_allclose(*cosines, atol=1e-4)
    # Where z and e are parallel R is the identity.
    np.testing.assert_allclose(jax.vjp(rotation_trick, z, 3 * z)[1](g)[0], 3 * g, rtol=1e-3, atol=1e-4)


def test_rotation_trick_is_finite_where_directions_fail():
    """Opposite vectors and zero vectors have finite gradients."""
    z, e = jnp.asarray([[1.0, 0], [0, 0], [1, 2]]), jnp.asarray([[-1.0, 0], [1, 1], [0, 0]])
    value, pull_back = jax.vjp(rotation_trick, z, e)
    np.testing.assert_array_equal(value, e)
    assert np.isfinite(pull_back(jnp.ones((3, 2)))[0]).all()


@pytest.mark.parametrize("gradient", ["straight_through", "rotation"])
def test_the_module_uses_the_chosen_gradient(gradient):
    quantiser, variables = fixed_codes(gradient=gradient)
    through = {"straight_through": straight_through, "rotation": rotation_trick}[gradient]
    found = jax.grad(lambda z: jnp.sum(jnp.sin(applied(quantiser, variables, z).z_q)))(Z)
    e = applied(quantiser, variables, Z).z_q
    np.testing.assert_allclose(found, jax.vjp(through, Z, e)[1](jnp.cos(e))[0], rtol=1e-5)


# Codebooks as moving averages.


def test_ema_by_hand():
    """gamma .9 from N = 1, M = E: N = (.9, 1.1, 1), e1 = (1.11, 1.08) / 1.1, e2 = 3.9; e0 stays."""
    quantiser, variables = fixed_codes(decay=0.9)
    changed = followed(quantiser, variables, Z)
    np.testing.assert_allclose(changed["codebook"]["counts"], [0.9, 1.1, 1.0], rtol=1e-6)
    expected = [[0, 0], [1.11 / 1.1, 1.08 / 1.1], [3.9, 3.9]]
    np.testing.assert_allclose(changed["codebook"]["codes"], expected, rtol=1e-6)


def test_ema_without_sums_is_the_paper_s_with_sums():
    """Separate averages of N and M over 20 batches give the same codes."""
    rng = np.random.default_rng(0)
    codes, counts = rng.standard_normal((4, 3)), np.ones(4)
    sums = counts[:, None] * codes
    found = jnp.asarray(codes, jnp.float32), jnp.ones(4)
    for _ in range(20):
        z, tokens = rng.standard_normal((9, 3)), rng.integers(0, 3, 9)
        chosen = np.eye(4)[tokens]
        counts, sums = 0.8 * counts + 0.2 * chosen.sum(0), 0.8 * sums + 0.2 * chosen.T @ z
        found = ema_codebook(*found, jnp.asarray(chosen.sum(0)), jnp.asarray(chosen.T @ z), 0.8)
    np.testing.assert_allclose(found[1], counts, rtol=1e-5)
    np.testing.assert_allclose(found[0], sums / counts[:, None], rtol=1e-4)


def test_a_code_that_nobody_chooses_stays_for_ever():
    """Its count underflows to zero in float32, and the code neither becomes NaN nor drifts."""
    codes, counts = CODES, jnp.ones(3)
    for _ in range(400):
        codes, counts = ema_codebook(codes, counts, jnp.zeros(3), jnp.zeros((3, 2)), 0.5)
    np.testing.assert_array_equal(codes, CODES)
    assert float(counts.max()) < 1e-30


def test_dead_codes_restart_at_vectors_of_the_batch():
    """Codes below a tenth of the uniform count 6 / 3 restart at different random vectors with a count of 2."""
    z = jnp.arange(12.0).reshape(6, 2)
    counts = jnp.asarray([0.19, 0.21, 0.0])
    codes, found = restart_dead_codes(jax.random.key(0), CODES, counts, z, 0.1)
    np.testing.assert_allclose(found, [2, 0.21, 2])
    np.testing.assert_array_equal(codes[1], CODES[1])
    rows = {tuple(row) for row in np.asarray(z)}
    assert tuple(np.asarray(codes[0])) in rows and tuple(np.asarray(codes[2])) in rows
    assert (codes[0] != codes[2]).any()
    again, _ = restart_dead_codes(jax.random.key(0), CODES, counts, z, 0.1)
    np.testing.assert_array_equal(again, codes)
    seen = [restart_dead_codes(jax.random.key(seed), CODES, counts, z, 0.1)[0][0, 0] for seed in range(20)]
    assert len({float(x) for x in seen}) > 3


def test_more_codes_than_vectors_restart_too():
    codes, counts = restart_dead_codes(jax.random.key(0), jnp.zeros((5, 2)), jnp.zeros(5), jnp.ones((2, 2)), 0.1)
    np.testing.assert_array_equal(codes, np.ones((5, 2)))
    np.testing.assert_allclose(counts, np.full(5, 0.4), rtol=1e-6)


def test_the_first_batch_brings_all_codes_to_the_data():
    """Codes begin around zero, vectors around 100: after one step each code lies among the vectors."""
    quantiser, z = VectorQuantiser(8, 2), 100 + vectors(2, 6, 6, 2)
    _, variables = initialised(quantiser, z)
    np.testing.assert_array_equal(variables["codebook"]["counts"], np.zeros(8))
    changed = followed(quantiser, variables, z, jax.random.key(1))
    assert float(changed["codebook"]["codes"].min()) > 90
    after = applied(quantiser, changed, z)
    assert float(codebook_usage(count_tokens(after.tokens, 8))) == 1


def test_quantising_leaves_the_codebook_and_restarts_need_a_key():
    quantiser, z = VectorQuantiser(4, 2), vectors(1, 3, 3, 2)
    _, variables = initialised(quantiser, z)
    _, changed = applied(quantiser, variables, z, mutable=["codebook"])
    np.testing.assert_array_equal(changed["codebook"]["codes"], variables["codebook"]["codes"])
    with pytest.raises(ValueError, match="pass a key, or restart_below=0"):
        followed(quantiser, variables, z)


def test_normalised_codes_follow_too():
    """Both vectors choose the same code: it becomes the direction of the decayed sum."""
    quantiser = VectorQuantiser(1, 2, normalise=True, decay=0.5, restart_below=0)
    variables = {"codebook": {"codes": jnp.asarray([[2.0, 0.0]]), "counts": jnp.ones(1)}}
    z = jnp.asarray([[0.0, 3.0]]).reshape(1, 1, 1, 2)
    changed = followed(quantiser, variables, z)
    code = applied(quantiser, changed, jnp.zeros(1, jnp.int32), method="lookup")[0]
    np.testing.assert_allclose(code, [0.5**0.5] * 2, rtol=1e-5)


@pytest.mark.parametrize("num_devices", [2, 8])
def test_codebooks_see_all_devices(num_devices, x64):
    """Under pmap, counts, sums and the vectors for restarts are those of the global batch."""
    quantiser = VectorQuantiser(20, 2, decay=0.9, restart_below=0.5)
    z = vectors(8, 3, 3, 2).astype(jnp.float64)
    _, variables = initialised(quantiser, z)
    variables = jax.tree.map(lambda x: x.astype(jnp.float64), variables)

    def step(variables, z, key):
        tokens = quantiser.apply(variables, z).tokens
        return quantiser.apply(variables, z, tokens, key, method="follow", mutable=["codebook"])[1]

    expected = jax.jit(step)(variables, z, jax.random.key(1))
    spread = z.reshape(num_devices, -1, 3, 3, 2)
    parallel = jax.pmap(step, DEVICE_AXIS, in_axes=(None, 0, None), out_axes=None, devices=jax.devices()[:num_devices])
    found = parallel(variables, spread, jax.random.key(1))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


# FSQ.


@pytest.mark.parametrize(
    ("z", "code", "token"),
    [(0.0, (0, 0, 0, 0), 500), (0.3, (0.25, 0.5, 0.5, 0.5), 749), (-10.0, (-1,) * 4, 0), (10.0, (0.75, 1, 1, 1), 999)],
)
def test_fsq_by_hand(z, code, token):
    found = applied(FiniteScalarQuantiser((8, 5, 5, 5)), {}, jnp.full((1, 1, 1, 4), z))
    np.testing.assert_allclose(found.z_q.reshape(4), code, atol=1e-6)
    assert int(found.tokens.reshape(())) == token
    assert float(found.commitment[0]) == float(found.codebook[0]) == float(found.entropy[0]) == 0


def test_fsq_gradient_is_that_of_the_bounding():
    """d z_q / d z = h (1 - tanh^2(z + s)) / floor(L / 2): rounding has a straight-through gradient."""
    z = vectors(1, 2, 2, 2)
    found = jax.grad(lambda z: applied(FiniteScalarQuantiser((8, 5)), {}, z).z_q.sum())(z)
    half, offset, width = np.asarray([3.4965, 1.998]), np.asarray([0.5, 0]), np.asarray([4, 2])
    tanh = np.tanh(np.asarray(z) + np.tan(offset / half))
    np.testing.assert_allclose(found, half * (1 - tanh**2) / width, rtol=1e-4)


def test_fsq_of_two_levels_learns_from_the_start():
    """Its gradient at z = 0 is .4995 (1 - tanh^2(tan(.5 / .4995))) = .0808, not a thousandth."""
    found = jax.grad(lambda z: applied(FiniteScalarQuantiser((2,)), {}, z).z_q.sum())(jnp.zeros((1, 1, 1)))
    assert float(found[0, 0, 0]) == pytest.approx(0.0808, abs=5e-5)


@pytest.mark.parametrize("level", range(2, 10))
def test_fsq_reaches_its_levels_and_no_others(level):
    z = jnp.linspace(-50.0, 50.0, 2001).reshape(1, -1, 1)
    found = applied(FiniteScalarQuantiser((level,)), {}, z)
    assert np.unique(found.tokens).tolist() == list(range(level))
    np.testing.assert_allclose(np.unique(found.z_q), (np.arange(level) - level // 2) / (level // 2), atol=1e-6)


def test_fsq_reaches_every_token():
    """Inputs of a wide range use all 4 x 3 x 5 codes. A single level raises an error."""
    found = applied(FiniteScalarQuantiser((4, 3, 5)), {}, 1.5 * vectors(4, 20, 20, 3))
    assert float(codebook_usage(count_tokens(found.tokens, 60))) == 1
    with pytest.raises(ValueError, match=r"at least 2 levels in each dimension, got \(4, 1\)"):
        applied(FiniteScalarQuantiser((4, 1)), {}, jnp.zeros((1, 1, 1, 2)))


# LFQ.


def test_lfq_by_hand():
    """Signs are bits, the lowest first, zero is negative: (1, -2, 3) is 1 + 4; |z - code|^2 = 0 + 1 + 4."""
    z = jnp.asarray([[1.0, -2, 3], [0, 0, 0]]).reshape(2, 1, 1, 3)
    found = applied(LookupFreeQuantiser(3), {}, z)
    np.testing.assert_array_equal(found.tokens.reshape(-1), [5, 0])
    np.testing.assert_array_equal(found.z_q.reshape(2, 3), [[1, -1, 1], [-1, -1, -1]])
    np.testing.assert_allclose(found.commitment, [5, 3])
    gradient = jax.grad(lambda z: (applied(LookupFreeQuantiser(3), {}, z).z_q * 2).sum())(z)
    np.testing.assert_array_equal(gradient, np.full(z.shape, 2))


def test_lfq_takes_many_bits():
    """2^16 codes work without an array of places times codes, and the counts are right."""
    found = applied(LookupFreeQuantiser(16), {}, vectors(2, 4, 4, 16))
    assert float(count_tokens(found.tokens, 65536).sum()) == 32
    assert np.isfinite(found.entropy).all()


def test_counts_are_of_all_devices():
    tokens = jnp.asarray([[0, 2], [2, 2]])
    found = jax.pmap(lambda t: count_tokens(t, 4), DEVICE_AXIS, devices=jax.devices()[:2])(tokens)
    np.testing.assert_array_equal(found, [[1, 0, 3, 0]] * 2)


def test_tokens_that_are_constants_are_checked_under_jit():
    quantiser = FiniteScalarQuantiser((3, 3))
    inside, outside = jnp.asarray([0, 8], jnp.int32), jnp.asarray([0, 9], jnp.int32)
    assert np.isfinite(jax.jit(lambda: quantiser.apply({}, inside, method="lookup"))()).all()
    with pytest.raises(ValueError, match="tokens are 0 to 8 here, got 0 to 9"):
        jax.jit(lambda: quantiser.apply({}, outside, method="lookup"))()
    embed = TokenEmbedding(8, 4)
    variables = embed.init(jax.random.key(0), inside[None])
    assert jax.jit(lambda: embed.apply(variables, inside[None]))().shape == (1, 2, 4)
