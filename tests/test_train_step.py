"""The train step: phases, modes, moving averages, skipped updates, microbatches."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import (
    largest_difference,
    state_of,
    tiny_batch,
    tiny_codec,
    tiny_conditional_vae,
    tiny_gan,
    tiny_hierarchical_vae,
    tiny_prior_vae,
    tiny_r3gan,
    tiny_sngan,
    tiny_stylegan2,
    tiny_vae,
)

from jimgen import noise, objectives
from jimgen.errors import UserError
from jimgen.methods.augmented import Augmented
from jimgen.train_step import Aux, Phase, TrainState, compile_step, due_at, init_state, make_train_step

KEY = 7
METHODS = {
    "gan": tiny_gan,
    "gan_r1_r2": lambda dtype: tiny_gan(dtype, r1=1.0, r2=0.5, loss=objectives.RELATIVISTIC),
    "wgan_gp": lambda dtype: tiny_gan(dtype, gradient_penalty=10.0, loss=objectives.WASSERSTEIN, discriminator_steps=2),
    "gan_health": lambda dtype: tiny_gan(dtype, r1=1.0, penalty_period=3, rollbacks=1, augmented=adaptive()),
    "r3gan": tiny_r3gan,
    "sngan": tiny_sngan,
    "stylegan2": tiny_stylegan2,
    "vae": tiny_vae,
    "conditional_vae": tiny_conditional_vae,
    "hierarchical_vae": tiny_hierarchical_vae,
    "vae_vamp": lambda dtype: tiny_prior_vae("vamp", dtype),
    "vae_flow": lambda dtype: tiny_prior_vae("flow", dtype),
    "codec": lambda dtype: tiny_codec(dtype).method,
}


def adaptive():
    """An adaptive augmentation that brightens images with probability p."""

    def brighten(images, keys, p):
        chosen = jax.vmap(jax.random.uniform)(keys) < p
        return images + 0.5 * chosen[:, None, None, None]

    return Augmented(brighten, probability=0.5, target=0.6, images=400)


MODES = {
    "gan": [("pmap", 8), ("pmap", 4), ("sharded", 8), ("sharded", 4)],
    "gan_health": [("pmap", 4), ("sharded", 4)],
    "vae": [("pmap", 8), ("sharded", 4)],
}


def run(method, steps, mode="jit", num_devices=1, dtype=jnp.float32, batch_size=8, state=None, **options):
    """The state and metrics after some steps."""
    batch = tiny_batch(batch_size, dtype=dtype)
    compiled = compile_step(make_train_step(method.phases, **options), mode, jax.devices()[:num_devices])
    state = jax.device_put(state or state_of(method, batch, dtype), compiled.state_sharding)
    batch = jax.device_put(batch, compiled.batch_sharding)
    key = jax.device_put(jax.random.key(KEY), compiled.replicated)
    metrics = {}
    for step in range(steps):
        state, metrics = compiled.run(state, batch, key, due_at(method.phases, step))
    return jax.device_get((state, metrics))


@pytest.mark.parametrize("name", METHODS)
def test_every_mode_computes_the_same_numbers(name, x64):
    method = METHODS[name](jnp.float64)
    options = {"dtype": jnp.float64, "ema_half_life": 50.0}
    start = jax.device_get(state_of(method, tiny_batch(dtype=jnp.float64), jnp.float64))
    expected = run(method, 10, state=start, **options)
    assert expected[0].step == 10 and np.isfinite(expected[1][f"{method.phases[-1].name}/loss"])
    for mode, num_devices in MODES.get(name, [("pmap", 4)]):
        found = run(method, 10, mode, num_devices, state=start, **options)
        assert largest_difference(found, expected) < 1e-10, (mode, num_devices)


def test_modes_agree_in_float32():
    expected = run(tiny_gan(), 10)[1]
    for mode in ("pmap", "sharded"):
        found = run(tiny_gan(), 10, mode, 8)[1]
        for name, value in expected.items():
            if "grad_norm" not in name:
                np.testing.assert_allclose(found[name], value, atol=1e-4, err_msg=f"{mode} {name}")


def test_microbatches_add_up_to_the_batch(x64):
    """Noise belongs to the example, so microbatches change nothing for losses that do not couple examples."""
    method = tiny_vae(jnp.float64)
    whole, parts = run(method, 3, dtype=jnp.float64), run(method, 3, dtype=jnp.float64, accumulate=4)
    assert largest_difference(whole, parts) < 1e-10
    spread = run(method, 3, "sharded", 2, dtype=jnp.float64, accumulate=2)
    assert largest_difference(whole, spread) < 1e-10


def test_microbatches_must_divide_the_batch():
    with pytest.raises(ValueError, match="8 .* cannot be cut into 3"):
        run(tiny_vae(), 1, accumulate=3)


def test_running_statistics_decay_once_a_step():
    """Each microbatch moves the running mean 8 by a quarter towards its own, 1 or 3; their average is 6.5."""

    def objective(variables, batch, key):
        mean = variables["net"]["batch_stats"]["mean"]
        updates = {"net": {"batch_stats": {"mean": 0.75 * mean + 0.25 * batch["image"].mean(), "seen": jnp.int32(7)}}}
        bright = jnp.sum(batch["image"] > 2)  # an integer; all metrics are averaged
        return variables["net"]["params"]["w"].sum(), Aux({"bright": bright}, updates)

    phases = (Phase("phase", ("net",), objective, optax.sgd(0.0)),)
    stats = {"mean": jnp.asarray(8.0), "seen": jnp.int32(6)}
    init = lambda key, batch: {"net": {"params": {"w": jnp.zeros(1)}, "batch_stats": stats}}  # noqa: E731
    for accumulate in (1, 2, 4):
        state = init_state(init, phases, (), jax.random.key(0), image_batch(1))
        step = make_train_step(phases, accumulate=accumulate)
        state, metrics = step(state, image_batch(1, 3, 1, 3), jax.random.key(0))
        assert float(metrics["phase/bright"]) == 2 / accumulate
        found = state.variables["net"]["batch_stats"]
        assert float(found["mean"]) == 6.5 and int(found["seen"]) == 7 and found["seen"].dtype == jnp.int32


def test_what_follows_a_phase_sees_the_whole_batch_in_order():
    """For every number of microbatches, it gets the rows of the batch and the variables from before the step."""

    def objective(variables, batch, key):
        return variables["net"]["params"]["w"].sum(), Aux({}, observed={"twice": 2 * batch["image"]})

    def follow(variables, observed, key):
        median = jnp.median(observed["twice"])
        first = observed["twice"][0, 0] + variables["net"]["params"]["w"][0]
        return Aux({"first": first}, {"other": {"median": median}})

    phases = (Phase("phase", ("net",), objective, optax.sgd(1.0), follow),)
    init = lambda key, batch: {"net": {"params": {"w": jnp.zeros(1)}}, "other": {"median": jnp.zeros(())}}  # noqa: E731
    for accumulate in (1, 2, 4):
        state = init_state(init, phases, (), jax.random.key(0), image_batch(1))
        step = make_train_step(phases, accumulate=accumulate)
        state, metrics = step(state, image_batch(5, 1, 9, 3), jax.random.key(0))
        assert float(metrics["phase/first"]) == 10 and float(state.variables["other"]["median"]) == 8
        assert float(state.variables["net"]["params"]["w"][0]) == -1


def quadratic(name="phase", trains=("net",), tx=None):
    """A phase that moves w towards the mean of the images."""

    def objective(variables, batch, key):
        errors = jnp.square(variables["net"]["params"]["w"][None] - batch["image"]).sum(1)
        return errors.mean(), Aux({"w": variables["net"]["params"]["w"][0]})

    return Phase(name, trains, objective, tx or optax.sgd(0.25))


def quadratic_state(phases, ema=()):
    init = lambda key, batch: {"net": {"params": {"w": jnp.zeros(1)}}, "other": {"params": {"v": jnp.ones(2)}}}  # noqa: E731
    return init_state(init, phases, ema, jax.random.key(0), {"image": jnp.zeros((1, 1))})


def image_batch(*values):
    return {"image": jnp.asarray(values, jnp.float32)[:, None]}


def test_one_phase_by_hand():
    """w = 0, images 1 and 3: loss (1 + 9) / 2 = 5, gradient -4, sgd .25 -> w = 1."""
    phases = (quadratic(),)
    state, metrics = make_train_step(phases)(quadratic_state(phases), image_batch(1, 3), jax.random.key(0))
    assert float(metrics["phase/loss"]) == 5.0 and float(metrics["phase/grad_norm"]) == 4.0
    assert float(state.variables["net"]["params"]["w"][0]) == 1.0
    assert int(state.step) == 1
    np.testing.assert_array_equal(state.variables["other"]["params"]["v"], np.ones(2))


def test_a_variable_from_a_python_number_compiles_no_second_program():
    phases = (quadratic(tx=optax.adam(0.1)),)
    init = lambda key, batch: {"net": {"params": {"w": jnp.full((1,), 2.0), "b": 0.5, "n": 3}}}  # noqa: E731
    state = jax.jit(lambda: init_state(init, phases, ("net",), jax.random.key(0), image_batch(1)))()
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(state))


def test_later_phases_see_what_earlier_ones_learnt():
    phases = (quadratic("first"), quadratic("second"))
    _, metrics = make_train_step(phases)(quadratic_state(phases), image_batch(1, 3), jax.random.key(0))
    assert float(metrics["first/w"]) == 0.0 and float(metrics["second/w"]) == 1.0


def test_a_phase_leaves_other_nets_bit_identical():
    method = tiny_gan()
    batch = tiny_batch()
    before = state_of(method, batch)
    after, _ = jax.jit(make_train_step(method.phases[:1]))(before, batch, jax.random.key(0))
    assert largest_difference(before.variables["generator"], after.variables["generator"]) == 0.0
    assert largest_difference(before.variables["discriminator"], after.variables["discriminator"]) > 0.0


def test_a_repeated_phase_draws_anew_and_shares_its_optimiser():
    seen = []

    def objective(variables, batch, key):
        seen.append(noise.normal(key, jnp.arange(2), ()))
        return jnp.sum(variables["net"]["params"]["w"]), Aux({})

    phase, last = (Phase(name, ("net",), objective, optax.adam(0.1)) for name in ("critic", "generator"))
    phases = (phase, phase, last)
    state, _ = make_train_step(phases)(quadratic_state(phases), image_batch(1), jax.random.key(0))
    first, second, third = (np.asarray(x) for x in seen)
    assert not np.any(first == second)
    np.testing.assert_array_equal(first, third)  # the last phase has the images of the first
    assert set(state.opt_state) == {"critic", "generator"}
    assert int(optax.tree.get(state.opt_state["critic"], "count")) == 2


def test_generator_runs_once_a_step():
    """Both phases use the same fake images. The compiler must recognise this, or a GAN step costs a fifth more."""
    method, batch = tiny_gan(), tiny_batch()
    state = state_of(method, batch)

    def flops(phases):
        step = jax.jit(make_train_step(phases))
        return step.lower(state, batch, jax.random.key(0)).compile().cost_analysis()["flops"]

    both, alone = flops(method.phases), sum(flops((phase,)) for phase in method.phases)
    forward = (
        jax.jit(lambda v, key, labels: method.sample(v, key, labels))
        .lower(state.variables, jax.random.key(0), batch["label"])
        .compile()
        .cost_analysis()["flops"]
    )
    assert both < alone - 0.8 * forward


def test_examples_draw_different_noise_wherever_they_are():
    key = jax.random.key(0)
    whole = noise.normal(key, jnp.arange(8), (3,))
    assert len(np.unique(np.asarray(whole))) == 24
    np.testing.assert_array_equal(noise.normal(key, jnp.asarray([5, 2]), (3,)), np.asarray(whole)[[5, 2]])
    coins = noise.bernoulli(key, jnp.arange(2000), jnp.full((2000, 2), 0.3))
    assert set(np.unique(coins)) == {0.0, 1.0} and abs(float(coins.mean()) - 0.3) < 0.03
    spread = noise.uniform(key, jnp.arange(2000))
    assert float(spread.min()) >= 0 and float(spread.max()) < 1 and abs(float(spread.mean()) - 0.5) < 0.03


def test_noise_differs_from_step_to_step():
    batch, method = tiny_batch(), tiny_vae()
    step = jax.jit(make_train_step(method.phases))
    state = state_of(method, batch)
    later = state.replace(step=state.step + 1)
    losses = [float(step(s, batch, jax.random.key(0))[1]["vae/loss"]) for s in (state, later)]
    assert losses[0] != losses[1]


def test_updates_that_are_not_finite_are_left_out_and_counted():
    phases = (quadratic(tx=optax.adam(0.1)), quadratic("sound", tx=optax.sgd(0.25)))
    step = jax.jit(make_train_step(phases))
    start = quadratic_state(phases)
    state, metrics = step(start, image_batch(1, np.nan), jax.random.key(0))
    assert largest_difference(state.variables, start.variables) == 0.0
    assert largest_difference(state.opt_state, start.opt_state) == 0.0
    assert np.isnan(metrics["phase/loss"]) and int(metrics["phase/skipped"]) == 1
    state, _ = step(state, image_batch(1, np.inf), jax.random.key(0))
    assert int(state.skipped_in_a_row["phase"]) == 2
    state, metrics = step(state, image_batch(1, 3), jax.random.key(0))
    assert int(metrics["phase/skipped"]) == 2 and int(metrics["phase/skipped_in_a_row"]) == 0
    assert int(state.step) == 3
    assert largest_difference(state.variables, start.variables) > 0.0


def test_statistics_of_a_skipped_update_are_left_out_too():
    method, batch = tiny_gan(), tiny_batch()
    start = state_of(method, batch)
    bad = {**batch, "image": batch["image"].at[0, 0, 0, 0].set(jnp.nan)}
    state, _ = jax.jit(make_train_step(method.phases))(start, bad, jax.random.key(0))
    assert largest_difference(state.variables["discriminator"], start.variables["discriminator"]) == 0.0


def test_moving_average_by_hand():
    """Half-life of 2 images, batches of 2: beta = 1/2. w goes 0 -> 1 -> 1.5; the average 0 -> .5 -> 1."""
    phases = (quadratic(),)
    state = quadratic_state(phases, ema=("net",))
    step = make_train_step(phases, ema_half_life=2.0, ema_ramp=0.0)
    for expected in (0.5, 1.0):
        state, _ = step(state, image_batch(1, 3), jax.random.key(0))
        np.testing.assert_allclose(state.ema["net"]["params"]["w"], [expected], rtol=1e-6)


def test_moving_average_forgets_the_start_while_it_is_young():
    """Ramp .05: after one step the half-life is .05 batches, so beta = .5^20."""
    phases = (quadratic(),)
    step = make_train_step(phases, ema_half_life=1e9, ema_ramp=0.05)
    state, _ = step(quadratic_state(phases, ema=("net",)), image_batch(1, 3), jax.random.key(0))
    np.testing.assert_allclose(state.ema["net"]["params"]["w"], [1 - 0.5**20], rtol=1e-6)


def test_the_half_life_may_be_a_schedule_over_images():
    """After the first batch of 2 the half-life is 2 images, so beta = 1/2; after the second it is 1, so beta = 1/4."""
    phases = (quadratic(),)
    state = quadratic_state(phases, ema=("net",))
    step = make_train_step(phases, ema_half_life=lambda images: 4 / images)
    for expected in (0.5, 0.25 * 0.5 + 0.75 * 1.5):
        state, _ = step(state, image_batch(1, 3), jax.random.key(0))
        np.testing.assert_allclose(state.ema["net"]["params"]["w"], [expected], rtol=1e-6)


def test_a_periodic_objective_takes_its_turn():
    """Every third step, the first included, has another loss; two programs are compiled."""

    def constant(variables, batch, key):
        return 7.0 + 0 * variables["net"]["params"]["w"].sum(), Aux({})

    phases = (quadratic()._replace(period=3, periodic=constant),)
    assert [bool(due_at(phases, step)) for step in range(5)] == [True, False, False, True, False]
    step, state, losses = jax.jit(make_train_step(phases), static_argnums=3), quadratic_state(phases), []
    for number in range(5):
        state, metrics = step(state, image_batch(1, 3), jax.random.key(0), due_at(phases, number))
        losses.append(float(metrics["phase/loss"]))
    assert [loss == 7.0 for loss in losses] == [True, False, False, True, False]
    assert step._cache_size() == 2


def test_a_rate_scales_updates_by_the_variables():
    phases = (quadratic()._replace(rate=lambda variables: 0.5 ** variables["net"]["state"]["halvings"]),)
    start = quadratic_state(phases)
    moved = []
    for halvings in (0.0, 2.0):
        net = {**start.variables["net"], "state": {"halvings": jnp.float32(halvings)}}
        state, _ = make_train_step(phases)(start.replace(variables={"net": net}), image_batch(1, 3), jax.random.key(0))
        moved.append(float(state.variables["net"]["params"]["w"][0] - start.variables["net"]["params"]["w"][0]))
    assert moved[1] == moved[0] / 4 != 0


def test_no_half_life_copies_the_net():
    phases = (quadratic(),)
    state, _ = make_train_step(phases)(quadratic_state(phases, ema=("net",)), image_batch(1, 3), jax.random.key(0))
    assert float(state.ema["net"]["params"]["w"][0]) == 1.0


@pytest.mark.parametrize("mode", ["jit", "pmap", "sharded"])
def test_no_retrace_after_the_first_step(mode):
    traces = []

    def objective(variables, batch, key):
        traces.append(1)
        return jnp.square(variables["net"]["params"]["w"][None] - batch["image"]).mean(), Aux({})

    phases = (Phase("phase", ("net",), objective, optax.adam(0.1)),)
    compiled = compile_step(make_train_step(phases), mode, jax.devices())
    state = jax.device_put(quadratic_state(phases), compiled.state_sharding)
    batch = jax.device_put({"image": jnp.ones((8, 1))}, compiled.batch_sharding)
    key = jax.device_put(jax.random.key(0), compiled.replicated)
    state, _ = compiled.run(state, batch, key)
    first = len(traces)
    with jax.transfer_guard("disallow"):  # no transfers between host and devices either
        for _ in range(3):
            state, _ = compiled.run(state, batch, key)
    assert len(traces) == first


def test_bfloat16_computes_in_halves_and_keeps_parameters_whole():
    for make in (tiny_gan, tiny_vae):
        state, metrics = run(make(jnp.bfloat16), 3, ema_half_life=50.0)
        assert {x.dtype for x in jax.tree.leaves(state.variables)} == {np.dtype("float32")}
        _, expected = run(make(), 3, ema_half_life=50.0)
        for name in expected:
            if name.endswith("/loss"):
                assert metrics[name].dtype == np.float32
                np.testing.assert_allclose(metrics[name], expected[name], rtol=0.02)


def test_the_state_is_donated():
    phases = (quadratic(),)
    compiled = compile_step(make_train_step(phases), "jit")
    state = jax.device_put(quadratic_state(phases, ema=("net",)), compiled.state_sharding)
    key = jax.device_put(jax.random.key(0), compiled.replicated)
    compiled.run(state, jax.device_put(image_batch(1, 3), compiled.batch_sharding), key)
    assert state.variables["net"]["params"]["w"].is_deleted()


def test_state_can_be_sharded():
    """As for FSDP: the same step with weights sharded over the devices."""
    batch, method = tiny_batch(), tiny_vae()
    replicated = compile_step(make_train_step(method.phases), "sharded")
    mesh = replicated.batch_sharding.mesh

    def cut(x):
        last = x.ndim and x.shape[-1] % mesh.size == 0
        return jax.sharding.NamedSharding(mesh, jax.P(*[None] * (x.ndim - 1), "devices") if last else jax.P())

    start = state_of(method, batch)
    compiled = compile_step(make_train_step(method.phases), "sharded", state_sharding=jax.tree.map(cut, start))
    state = jax.device_put(start, compiled.state_sharding)
    key = jax.device_put(jax.random.key(KEY), compiled.replicated)
    state, metrics = compiled.run(state, jax.device_put(batch, compiled.batch_sharding), key)
    kernel = state.variables["encoder"]["params"]["down1"]["kernel"]
    assert kernel.addressable_shards[0].data.shape[-1] == kernel.shape[-1] // mesh.size
    np.testing.assert_allclose(metrics["vae/loss"], run(method, 1)[1]["vae/loss"], rtol=1e-5)


def test_unknown_mode_and_unknown_net():
    with pytest.raises(UserError, match="unknown mode 'gpu'"):
        compile_step(lambda *_: None, "gpu")
    with pytest.raises(ValueError, match=r"unknown nets \['typo'\]"):
        quadratic_state((quadratic(trains=("typo",)),))


def test_state_is_a_pytree_that_knows_its_step():
    state = quadratic_state((quadratic(),))
    assert isinstance(jax.tree.map(lambda x: x, state), TrainState) and int(state.step) == 0


def test_a_state_sharding_that_a_mode_would_ignore_is_refused():
    step = make_train_step(tiny_vae().phases)
    with pytest.raises(UserError, match="pmap replicates the state"):
        compile_step(
            step, "pmap", jax.devices()[:2], state_sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0])
        )


@pytest.mark.parametrize(
    ("mode", "num_devices", "accumulate"), [("jit", 1, 1), ("jit", 1, 2), ("pmap", 4, 2), ("sharded", 4, 1)]
)
def test_objectives_see_how_far_training_is(mode, num_devices, accumulate):
    """Steps done before, and images in them, those of all devices and microbatches."""

    def objective(variables, batch, key):
        loss = variables["net"]["params"]["x"] ** 2
        return loss, Aux({"step": batch["step"], "images_seen": batch["images_seen"], "size": batch["image"].shape[0]})

    init = lambda key, batch: {"net": {"params": {"x": jnp.ones(())}}}  # noqa: E731
    phases = [Phase("only", ("net",), objective, optax.sgd(0.1))]
    compiled = compile_step(make_train_step(phases, accumulate=accumulate), mode, jax.devices()[:num_devices])
    batch = jax.device_put(tiny_batch(8), compiled.batch_sharding)
    state = jax.device_put(init_state(init, phases, (), jax.random.key(0), batch), compiled.state_sharding)
    key = jax.device_put(jax.random.key(KEY), compiled.replicated)
    seen = []
    for _ in range(3):
        state, metrics = compiled.run(state, batch, key)
        seen.append((float(metrics["only/step"]), float(metrics["only/images_seen"])))
    assert seen == [(0, 0), (1, 8), (2, 16)]
