"""Integer tables, the integer prior and the code of latents."""

import jax.numpy as jnp
import numpy as np
import pytest
from codec_models import CHANNELS, HIDDEN, NUM_RATES, codec_variables

from jimgen.apps.codec import entropy_model as entropy
from jimgen.apps.codec.errors import DamagedFile, UnusableModel
from jimgen.apps.codec.integer_prior import integer_prior, seen, tables_and_means
from jimgen.methods.codec import FRACTIONS, LARGEST, LARGEST_LATENT, NUM_SYMBOLS, logistic_tables, table_and_symbol
from jimgen.nets.codec import NUM_STEPS, Latents, Prior, even

pytest.importorskip("constriction")


@pytest.fixture(scope="module")
def model():
    return entropy.entropy_model(codec_variables(), CHANNELS, NUM_RATES)


def latents_of(size=(7, 10), num=3, scale=2.0, seed=0) -> Latents:
    rng = np.random.default_rng(seed)
    sizes = entropy.grid_sizes(4 * size[0], 4 * size[1])
    return Latents(
        *(
            np.rint(scale * rng.standard_normal((num, *shape, channels))).astype(np.int32)
            for shape, channels in zip(sizes, CHANNELS, strict=True)
        )
    )


def test_frequencies_by_hand():
    """Counts 3 to 1, with 16 symbols spread evenly: weights 3 + 8 and 1 + 8 of 20."""
    found = entropy.frequencies(np.array([[3.0, 1.0], [0.0, 0.0]]), np.full((2, 2), 0.5))
    assert found[0] == pytest.approx(np.array([11, 9]) * entropy.TOTAL / 20, abs=2)
    assert (found.sum(1) == entropy.TOTAL).all() and found[1, 0] == pytest.approx(entropy.TOTAL / 2, abs=1)


def test_frequencies_are_positive_however_large_the_counts():
    counts = np.zeros((1, NUM_SYMBOLS))
    counts[0, LARGEST] = 2.0**40
    found = entropy.frequencies(counts, logistic_tables()[:1].astype(float))
    assert found.min() == 1 and found.sum() == entropy.TOTAL


def test_logistic_tables_sum_to_one_and_lie_where_their_fraction_says():
    tables = logistic_tables()
    assert tables.sum(1) == pytest.approx(1, abs=1e-5)
    symbols = np.arange(-LARGEST, LARGEST + 1)
    middle = tables[FRACTIONS * 20 :][:FRACTIONS, :-1]  # s = 1
    assert middle @ symbols == pytest.approx(np.arange(FRACTIONS) / FRACTIONS - 0.5, abs=1e-3)


@pytest.mark.parametrize("grid", [0, 1])
def test_the_integer_prior_agrees_with_the_float_one(grid, model):
    """Tables and means agree but for numbers at the border of two steps."""
    variables, latents = codec_variables(), latents_of()
    name, values = ("prior_coarse", "prior_fine")[grid], even(jnp.asarray(latents[grid], jnp.float32))
    above, rate = latents.coarse if grid else None, jnp.full((3,), 1)
    net = Prior(CHANNELS[grid], CHANNELS.coarse if grid else 0, NUM_RATES, HIDDEN)
    wanted_seen = net.apply(variables[name], None if above is None else jnp.asarray(above, jnp.float32), method="seen")
    found_seen, prior = seen(model.priors[grid], above), model.priors[grid]
    if grid:
        assert found_seen / 2**10 == pytest.approx(np.asarray(wanted_seen), abs=0.01)
    steps = net.apply(variables[name], values, wanted_seen, rate, method="steps")
    for k in range(NUM_STEPS):
        mean, raw = jnp.split(steps[k], 2, axis=-1)
        wanted, _ = table_and_symbol(jnp.zeros_like(mean), mean, raw)
        tables, means = tables_and_means(prior, k, np.asarray(values, np.int64), found_seen, 1)
        assert (tables == np.asarray(wanted)).mean() > 0.9, k
        assert np.abs(means - np.asarray(mean)).max() < 0.6


def test_float64_holds_the_integers_exactly(model):
    """With weights and latents at their largest, the last step equals a computation in 64-bit integers."""
    prior, k = model.priors[1], NUM_STEPS - 1
    prior = prior._replace(
        **{name: np.sign(x) * (2**18 - 1) for name, x in prior._asdict().items() if not name.endswith("bias")}
    )
    values, above = np.full((1, 2, 2, CHANNELS.fine), 9999), np.full((1, 1, 1, CHANNELS.coarse), -9999)
    found = tables_and_means(prior, k, values, seen(prior, above), 0)

    weights = type(prior)(*(x.astype(np.int64) for x in prior))
    known = np.pad(values.clip(-2047, 2047)[0], ((1, 2), (2, 1), (0, 0)))
    x = np.full(CHANNELS.coarse, -2047) @ weights.above0[1, 1] + weights.above0_bias
    x = x.clip(0, (2**22 - 1) << 2) >> 2
    x = (x @ weights.above1[1, 1] + weights.above1_bias).clip(0, (2**22 - 1) << 12) >> 12
    window = np.einsum("ijc,ijch->h", known, weights.window[k]) + weights.rate[k, 0]
    x = ((window << 10) + x @ weights.across[k]).clip(0, (2**22 - 1) << 12) >> 12
    x = (x @ weights.middle[k] + weights.middle_bias[k]).clip(0, (2**22 - 1) << 12) >> 12
    mean, raw = np.split(x @ weights.output[k] + weights.output_bias[k], 2)
    steps = ((mean * 8 + 2**21) >> 22).clip(-8 * LARGEST_LATENT, 8 * LARGEST_LATENT)
    scale = (((raw * 5 + 2**21) >> 22) + 20).clip(0, 31)
    assert np.array_equal(found[1][0, 0, 0], (steps + 4) // 8)
    assert np.array_equal(found[0][0, 0, 0], 8 * scale + (steps + 4) % 8)


@pytest.mark.parametrize(("size", "scale"), [((7, 10), 2.0), ((1, 1), 1.0), ((2, 5), 60.0), ((3, 4), 1e4)])
def test_latents_come_back(model, size, scale):
    latents = latents_of(size, scale=scale)
    latents = Latents(*(np.clip(x, -LARGEST_LATENT, LARGEST_LATENT) for x in latents))
    code = entropy.encode_latents(model, latents, 1)
    again = entropy.decode_latents(model, code, 3, (4 * size[0] - 1, 4 * size[1] - 3), 1)
    assert all(np.array_equal(a, b) for a, b in zip(latents, again, strict=True))
    assert entropy.checksum(latents) == entropy.checksum(again)


def test_damaged_codes_give_other_latents_or_a_typed_error(model):
    latents, rng = latents_of(), np.random.default_rng(0)
    code = entropy.encode_latents(model, latents, 0)
    for trial in range(60):
        other = bytearray(code if trial % 2 else code[: 4 * rng.integers(len(code) // 4)])
        for _ in range(trial % 5 if other else 0):
            other[rng.integers(len(other))] = rng.integers(256)
        try:
            found = entropy.decode_latents(model, bytes(other), 3, (28, 40), 0)
        except DamagedFile:
            continue
        assert bytes(other) == code or entropy.checksum(found) != entropy.checksum(latents) or len(other) < len(code)


@pytest.mark.parametrize(("code", "rate"), [(b"abc", 0), (b"", NUM_RATES)])
def test_impossible_codes_and_rates_are_refused(model, code, rate):
    with pytest.raises(DamagedFile):
        entropy.decode_latents(model, code, 1, (8, 8), rate)


@pytest.mark.parametrize(("value", "message"), [(np.nan, "not finite"), (1e4, "of 64 or more")])
def test_weights_that_integers_cannot_hold_are_refused(value, message):
    params = dict(codec_variables()["prior_fine"]["params"])
    params["middle"] = np.full_like(params["middle"], value)
    with pytest.raises(UnusableModel, match=message):
        integer_prior(params)


def test_tables_that_are_not_finite_are_refused():
    variables = codec_variables()
    tables = {**variables["tables"], "counts": variables["tables"]["counts"] * np.nan}
    with pytest.raises(UnusableModel, match="tables"):
        entropy.entropy_model({**variables, "tables": tables}, CHANNELS, NUM_RATES)
