"""The host loop: what it writes, how it stops, and that stopping changes nothing."""

import io
import itertools
import math
import shutil
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image
from small_runs import (
    NUM_TEST,
    NUM_TRAIN,
    assert_equal_trees,
    figures_of,
    loop_config,
    random_dataset,
    rows_of,
    saved_steps,
    signal_before,
)
from tiny import SHAPE, largest_difference, tiny_gan, tiny_vae

from jimgen.data.batches import batches, scale_batch
from jimgen.data.dataset import Arrays, Dataset, DataSpec, Stream, read_rows
from jimgen.data.fitting import fitting_of
from jimgen.data.random_crops import random_crops
from jimgen.errors import UserError
from jimgen.methods.likelihoods import gaussian
from jimgen.output import Output
from jimgen.runs import loop
from jimgen.runs.checkpoint import content_hash
from jimgen.runs.dry_run import describe
from jimgen.runs.loop import Interrupted
from jimgen.runs.previews import ROWS, grid_labels, pairs_grid, real_grid, write_previews
from jimgen.runs.setup import compiled_step, initialise, run_keys
from jimgen.train_step import Aux, Phase

METHODS = {"gan": tiny_gan, "vae": tiny_vae}


def train(method, folder: Path, console: Output | None = None, **options):
    """The last state of a run in a folder, on the host."""
    folder.mkdir(parents=True, exist_ok=True)
    console = console or Output(io.StringIO())
    return jax.device_get(loop.train(method, random_dataset(), loop_config(**options), folder, console))


@pytest.fixture(scope="module", params=METHODS)
def whole(request, tmp_path_factory):
    """A run of 12 steps that nothing disturbed, for each family: method, folder, last state."""
    method, folder = METHODS[request.param](), tmp_path_factory.mktemp("whole") / request.param
    return method, folder, train(method, folder)


def test_run_writes_pictures_metrics_and_checkpoints(whole):
    """Real images, samples of the last step, a row of metrics a step, the last checkpoint."""
    method, folder, state = whole
    assert int(state.step) == 12 and saved_steps(folder) == [12]
    pictures = {path.name for path in (folder / "samples").iterdir()}
    expected = {"real.png", "step_00000012.png"}
    assert pictures == expected | ({"reconstruct_step_00000012.png"} if method.reconstruct else set())
    rows = [row for row in rows_of(folder) if not any(name.startswith("test/") for name in row)]
    assert [row["step"] for row in rows] == list(range(1, 13))
    for phase in method.phases:
        assert all(math.isfinite(row[f"{phase.name}/loss"]) for row in rows)
    for clock in ("seconds", "cpu_seconds"):
        times = [row[clock] for row in rows]
        assert times == sorted(times) and times[0] > 0
    assert all(row["images_per_s"] > 0 for row in rows[1:])
    assert "images_per_s" not in rows[0]  # that interval is compilation
    assert ("test/kl_nats" in figures_of(folder)[12]) == (method.evaluate is not None)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_stopping_and_resuming_changes_no_bit(whole, tmp_path, monkeypatch, signum):
    """12 steps equal 5, a signal, and 7 more: weights, averages, optimisers, counters and all figures."""
    method, folder, state = whole
    with monkeypatch.context() as patch:
        signal_before(patch, 5, signum)
        with pytest.raises(Interrupted) as stop:
            train(method, tmp_path)
    assert (stop.value.signum, stop.value.step) == (signum, 5)
    assert saved_steps(tmp_path) == [5]
    resumed = train(method, tmp_path)
    assert_equal_trees(resumed, state)
    assert content_hash(resumed) == content_hash(state)
    assert figures_of(tmp_path) == figures_of(folder)
    for name in ("real.png", "step_00000012.png"):
        assert (tmp_path / "samples" / name).read_bytes() == (folder / "samples" / name).read_bytes()


@pytest.mark.parametrize("name", ["gan", pytest.param("vae", marks=pytest.mark.slow)])
def test_a_run_goes_on_in_every_other_mode(name, tmp_path, monkeypatch):
    """One step a leg, along every change from one mode to another; the end is where jit alone arrives."""
    method = METHODS[name]()
    legs = ["jit", "pmap", "jit", "sharded", "pmap", "sharded", "jit"]
    assert set(itertools.pairwise(legs)) == set(itertools.permutations(("jit", "pmap", "sharded"), 2))
    for step, mode in enumerate(legs[:-1], start=1):
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            signal_before(patch, step)
            train(method, tmp_path / "legs", mode=mode, steps=len(legs), devices=4 if step == 5 else 0)
        assert saved_steps(tmp_path / "legs")[-1] == step
    state = train(method, tmp_path / "legs", mode=legs[-1], steps=len(legs))
    expected = train(method, tmp_path / "alone", steps=len(legs))
    assert int(state.step) == len(legs)
    assert largest_difference(state.variables, expected.variables) < 2e-4
    found, alone = (figures_of(tmp_path / folder)[len(legs)] for folder in ("legs", "alone"))
    for phase in method.phases:
        assert found[f"{phase.name}/loss"] == pytest.approx(alone[f"{phase.name}/loss"], abs=1e-4)


@pytest.mark.parametrize("mode", ["jit", "sharded"])
@pytest.mark.parametrize("name", METHODS)
def test_after_the_first_step_only_row_numbers_travel_and_nothing_is_traced_again(name, mode):
    method, data = METHODS[name](), random_dataset()
    compiled = compiled_step(method, loop_config(mode=mode))
    state = jax.jit(lambda: initialise(method, data.spec, 0), out_shardings=compiled.state_sharding)()
    key = jax.device_put(jax.random.key(0), compiled.replicated)
    feed = batches(data.train, batch_size=8, seed=0, sharding=compiled.batch_sharding)
    state, _ = compiled.run(state, next(feed), key)
    traced = compiled.run._cache_size()
    with jax.transfer_guard("disallow"):  # the feed puts its row numbers on the devices explicitly, which passes
        for _ in range(5):  # the data end within
            state, _ = compiled.run(state, next(feed), key)
        assert compiled.run._cache_size() == traced
        with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
            compiled.run(state, jax.device_get(next(feed)), key)


def test_resuming_from_an_older_checkpoint_doubles_no_row(whole, tmp_path, monkeypatch):
    """The rows behind the checkpoint are taken back and written again, equal to what they were."""
    method, folder, state = whole
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        signal_before(patch, 9)
        train(method, tmp_path, save_every=4)
    assert saved_steps(tmp_path) == [4, 8, 9]
    shutil.rmtree(tmp_path / "checkpoints" / "9")
    shutil.rmtree(tmp_path / "checkpoints" / "8")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 10, "torn')
    assert content_hash(train(method, tmp_path, save_every=4)) == content_hash(state)
    steps = [row["step"] for row in rows_of(tmp_path) if any(name.endswith("/loss") for name in row)]
    assert steps == list(range(1, 13))
    assert figures_of(tmp_path) == figures_of(folder)


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_used(tmp_path):
    """The run says which one, goes back to the last good one, and ends where it would have ended."""
    method = tiny_vae()
    train(method, tmp_path, steps=6, save_every=3)
    (tmp_path / "checkpoints" / "6" / "state" / "_METADATA").write_text("{")
    console = Output(io.StringIO())
    state = train(method, tmp_path, console, steps=8, save_every=3)
    said = console.file.getvalue()
    assert "checkpoint 6 is corrupt" in said and "resuming at step 3 of 8" in said
    assert int(state.step) == 8 and (tmp_path / "checkpoints" / "corrupt-6").is_dir()
    assert saved_steps(tmp_path) == [3, 6, 8]
    assert content_hash(state) == content_hash(train(method, tmp_path / "alone", steps=8))


def test_a_finished_run_trains_no_more(whole, tmp_path):
    """Calling for the steps that are done already leaves state and metrics as they are."""
    method, folder, state = whole
    shutil.copytree(folder, tmp_path / "again")
    assert_equal_trees(train(method, tmp_path / "again"), state)
    assert figures_of(tmp_path / "again") == figures_of(folder)


def test_only_the_newest_checkpoints_stay(tmp_path):
    train(tiny_vae(), tmp_path, steps=6, save_every=1, keep=2)
    assert saved_steps(tmp_path) == [5, 6]


def poisoned(after: int):
    """A method of one weight whose loss is NaN from the step behind `after` on."""

    def objective(variables, batch, key):
        w = variables["net"]["params"]["w"]
        bad = jnp.where(w[0] > 0.1 * (after - 0.5), jnp.nan, 1.0)
        return -w.sum() * bad, Aux({})

    return tiny_vae()._replace(
        init=lambda key, batch: {"net": {"params": {"w": jnp.zeros(1)}}},
        phases=(Phase("poisoned", ("net",), objective, optax.sgd(0.1)),),
        ema=("net",),
        sample=lambda variables, key, labels: jnp.zeros((labels.shape[0], *SHAPE)),
        reconstruct=None,
        evaluate=None,
    )


def test_a_loss_that_stays_nan_ends_the_run(tmp_path):
    """It stops after max_skipped updates, names the phase, and the checkpoint from before stays the newest good one."""
    with pytest.raises(UserError, match=r"phase 'poisoned' was not finite in 3 updates in a row up to step 8") as error:
        train(poisoned(after=5), tmp_path, save_every=4, max_skipped=3)
    assert "the last good checkpoint is step 4" in str(error.value)
    assert "poisoned/loss" in str(error.value) and len(str(error.value).splitlines()) == 2
    assert [row["step"] for row in rows_of(tmp_path)] == list(range(1, 9))
    assert all(saved <= 5 for saved in saved_steps(tmp_path))
    with pytest.raises(UserError, match="no checkpoint was written yet"):
        train(poisoned(after=0), tmp_path / "at once", max_skipped=3)


def test_samples_that_are_nan_do_not_end_a_run_whose_losses_are_finite(tmp_path):
    said, method = io.StringIO(), tiny_vae()
    lost = method._replace(sample=lambda variables, key, labels: jnp.full((len(labels), *SHAPE), jnp.nan))
    state = train(lost, tmp_path, Output(said), steps=3, sample_every=2)
    assert int(state.step) == 3 and saved_steps(tmp_path) == [3]
    assert "no samples of step 2: images hold" in said.getvalue()


def test_a_learning_rate_beyond_all_bounds_ends_the_run(tmp_path):
    """The nets overflow after one huge step, and the message says which phase."""
    huge = tiny_vae(likelihood=gaussian(0.1))
    phase = huge.phases[0]._replace(tx=optax.sgd(1e30))
    with pytest.raises(UserError, match="phase 'vae' was not finite in 4 updates"):
        train(huge._replace(phases=(phase,)), tmp_path, max_skipped=4)


def test_pictures_are_a_function_of_the_state(whole, tmp_path):
    """The same latents and labels at every draw: the same state gives the same picture, another one another."""
    method, folder, state = whole
    key = run_keys(0).samples
    for name in ("first", "second"):
        write_previews(method, random_dataset(), tmp_path / name, key, state)
    name = "step_00000012.png"
    drawn = (tmp_path / "first" / name).read_bytes()
    assert drawn == (tmp_path / "second" / name).read_bytes() == (folder / "samples" / name).read_bytes()
    other = state.replace(ema=jax.tree.map(lambda x: x + 0.5, state.ema))
    write_previews(method, random_dataset(), tmp_path / "other", key, other)
    assert drawn != (tmp_path / "other" / name).read_bytes()


@pytest.mark.parametrize("mode", ["jit", "sharded", "pmap"])
@pytest.mark.parametrize("batch_size", [8, 16])
def test_evaluate_is_the_plain_mean_over_the_test_split(mode, batch_size):
    """Each of the 13 rows counts once, whatever the batch, the mode and what fills the last batch up."""
    method, data = tiny_vae(likelihood=gaussian(0.5)), random_dataset()
    variables = jax.jit(lambda: initialise(method, data.spec, 0))().variables
    compiled = compiled_step(method, loop_config(mode=mode, batch_size=8))
    key = jax.random.key(3)
    placed = jax.device_put(variables, compiled.replicated)
    figures = loop.evaluate(method, placed, data, key, compiled, batch_size)
    whole_split = {
        "image": jnp.asarray(data.test.images),
        "label": jnp.asarray(data.test.labels),
        "index": jnp.arange(NUM_TEST),
    }
    expected = method.evaluate(variables, scale_batch(whole_split), key)
    assert set(figures) == set(expected) >= {"neg_elbo_nats", "kl_nats"}
    for name, values in expected.items():
        assert figures[name] == pytest.approx(float(np.mean(values)), rel=1e-5)


def test_figures_of_a_whole_set_come_from_means_of_vectors():
    """Each of the 13 rows counts once in a histogram of labels; the method makes figures of it."""
    method, data = tiny_vae(), random_dataset()
    method = method._replace(
        evaluate=lambda variables, batch, key: {
            "label": 1.0 * batch["label"],
            "share": jax.nn.one_hot(batch["label"], 3),
        },
        aggregate=lambda means: {"most": means["share"].max(), "sum": means["share"].sum()},
    )
    variables = jax.jit(lambda: initialise(method, data.spec, 0))().variables
    figures = loop.evaluate(method, variables, data, jax.random.key(3), compiled_step(method, loop_config()), 8)
    counts = np.bincount(data.test.labels, minlength=3)
    expected = {"label": data.test.labels.mean(), "most": counts.max() / NUM_TEST, "sum": 1.0}
    assert figures == pytest.approx(expected, rel=1e-6)


def test_evaluations_and_samples_come_when_asked_for(tmp_path):
    train(tiny_vae(), tmp_path, steps=5, eval_every=2, sample_every=2, log_every=3)
    figures = figures_of(tmp_path)
    assert [step for step, row in figures.items() if "test/kl_nats" in row] == [2, 4, 5]
    assert [step for step, row in figures.items() if "vae/loss" in row] == [1, 3, 5]
    drawn = sorted(path.name for path in (tmp_path / "samples").glob("step_*"))
    assert drawn == [f"step_{step:08d}.png" for step in (2, 4, 5)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "sharded", "batch_size": 12}, r"12 cannot be shared .* by 8 device.*--batch-size 16"),
        ({"mode": "pmap", "batch_size": 3}, "--batch-size 8"),
        ({"mode": "jit", "batch_size": 10, "accumulate": 4}, r"4 equal microbatches: use 8"),
        ({"mode": "sharded", "devices": 9}, "--devices 9: only 8"),
    ],
)
def test_what_the_devices_cannot_share_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        compiled_step(tiny_vae(), loop_config(**options))


def test_scaled_images_span_minus_one_to_one():
    scaled = scale_batch({"image": jnp.asarray([0, 51, 255], jnp.uint8), "label": jnp.zeros(3)})
    np.testing.assert_allclose(scaled["image"], [-1.0, -0.6, 1.0], atol=1e-6)
    assert scaled["image"].dtype == jnp.float32 and "label" in scaled


def test_grids_have_a_class_a_column():
    spec = random_dataset().spec
    labels, columns = grid_labels(spec, rows=2)
    assert columns == 3 and labels.tolist() == [0, 1, 2, 0, 1, 2] and labels.dtype == np.int32
    labels, columns = grid_labels(spec._replace(num_classes=1, class_names=("all",)))
    assert columns == ROWS and not labels.any()
    labels, columns = grid_labels(spec._replace(num_classes=100, class_names=tuple(map(str, range(100)))))
    assert columns == ROWS and labels.max() < 100


def test_the_real_grid_shows_each_class_in_its_column():
    """Pictures whose grey is their class: every column has one grey."""
    labels = np.asarray([2, 2, 0, 1, 0, 1] * 8, np.int32)
    images = np.broadcast_to((labels * 100).astype(np.uint8)[:, None, None, None], (48, 8, 8, 1))
    spec = DataSpec("grey", (8, 8, 1), 3, ("a", "b", "c"), 48, 48, "0" * 64)
    sheet = real_grid(Dataset(spec, Arrays(images, labels), Arrays(images, labels)))
    scale = 6
    centres = (np.arange(3) * 9 + 4) * scale
    rows = (np.arange(8) * 9 + 4) * scale
    np.testing.assert_array_equal(sheet[np.ix_(rows, centres)][..., 0], np.tile([0, 100, 200], (8, 1)))


def test_a_stream_reads_the_rows_that_arrays_read():
    arrays = random_dataset().train
    stream = Stream(lambda row: (arrays.images[row], int(arrays.labels[row])), NUM_TRAIN, "x")
    for found, expected in zip(read_rows(stream, [5, 0]), read_rows(arrays, [5, 0]), strict=True):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype


def test_pairs_alternate_rows():
    images, again = np.full((4, 8, 8, 1), 10, np.uint8), np.full((4, 8, 8, 1), 200, np.uint8)
    sheet = pairs_grid(images, again, columns=2)
    assert sheet[(np.arange(4) * 9 + 4) * 6, 20, 0].tolist() == [10, 200, 10, 200]


def test_dry_run_counts_parameters_flops_and_memory():
    console, method = Output(io.StringIO()), tiny_vae()
    describe(method, random_dataset().spec, loop_config(), console)
    said = console.file.getvalue()
    variables = jax.eval_shape(lambda: initialise(method, random_dataset().spec, 0)).variables
    for net in ("encoder", "decoder"):
        count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables[net]["params"]))
        assert f"{net}: {count:,} parameters" in said
    assert "down0/kernel" in said and "GFLOP" in said and "MiB" in said


def test_samples_are_pictures_of_the_right_size(whole):
    _, folder, _ = whole
    with Image.open(folder / "samples" / "step_00000012.png") as image:
        assert image.size == ((3 * 13 - 1) * 6, (8 * 9 - 1) * 6)


def test_flips_and_random_crops_are_part_of_what_resumes(tmp_path, monkeypatch):
    """Stopped at step 2 of 4 and begun again, a run sees the same windows, mirrored alike."""
    fitting = fitting_of(SHAPE[:2], crop="random", crop_scale=0.5)
    data, method = random_dataset(), tiny_vae()
    data = data._replace(train=random_crops(data.train, fitting, SHAPE, 2**20))

    def trained(name: str):
        (tmp_path / name).mkdir(exist_ok=True)
        arguments = (method, data, loop_config(steps=4, flip=True), tmp_path / name, Output(io.StringIO()))
        return jax.device_get(loop.train(*arguments))

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        signal_before(patch, 2)
        trained("stopped")
    assert_equal_trees(trained("stopped"), trained("whole"))
