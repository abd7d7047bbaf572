"""Checkpoints: every bit comes back, and what is not whole is never taken for a state."""

import errno
import gc
import itertools
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from small_runs import assert_equal_trees, contents, saved_steps
from tiny import largest_difference, state_of, tiny_batch, tiny_gan, tiny_vae

from jimgen.errors import UserError
from jimgen.runs import checkpoint
from jimgen.runs.checkpoint import content_hash, finish, open_checkpoints, read, restore, save
from jimgen.train_step import TrainState, compile_step, make_train_step

# A read that fails leaves half-run coroutines of Orbax behind, which complain when they are collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module", autouse=True)
def collect_them_here():
    """Not in another file's tests."""
    yield
    gc.collect()


def small_state(step: int = 0, seed: int = 0) -> TrainState:
    """A state with integers, nested optimiser states, awkward floats and an empty collection."""
    weights = np.random.default_rng(seed).standard_normal((64, 33)).astype(np.float32)
    weights[0, :5] = [np.nan, np.inf, -0.0, 1e-45, np.float32(0.1)]
    params = {"w": jnp.asarray(weights), "half": jnp.asarray(weights[:2], jnp.bfloat16)}
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3), optax.trace(0.9))
    return TrainState(
        step=jnp.asarray(step, jnp.int32),
        variables={"net": {"params": params, "batch_stats": {}}},
        opt_state={"phase": tx.init(params)},
        ema={"net": {"params": jax.tree.map(lambda x: x + 1, params)}},
        skipped={"phase": jnp.asarray(7, jnp.int32)},
        skipped_in_a_row={"phase": jnp.zeros((), jnp.int32)},
    )


def target_of(state: TrainState, sharding=None) -> TrainState:
    """Shapes and places of a state, as restore asks for them."""
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)


def save_steps(folder: Path, *steps: int, keep: int = 3) -> None:
    manager = open_checkpoints(folder / "checkpoints", keep)
    for step in steps:
        save(manager, small_state(step, seed=step))
    finish(manager)
    manager.close()


def reopened(folder: Path, state: TrainState | None = None, sharding=None):
    """What a new process would find: the state, and the warnings."""
    manager = open_checkpoints(folder / "checkpoints")
    found = restore(manager, target_of(state or small_state(), sharding))
    manager.close()
    return found


def test_round_trip_keeps_every_bit(tmp_path):
    """NaN, infinities, signed zero, subnormals, halves, integers and the optimiser's nested state."""
    save_steps(tmp_path, 4)
    state, warnings = reopened(tmp_path)
    expected = small_state(4, seed=4)
    assert warnings == [] and content_hash(state) == content_hash(expected)
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    for found, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        assert found.dtype == wanted.dtype and np.asarray(found).tobytes() == np.asarray(wanted).tobytes()


def test_an_empty_folder_holds_no_state(tmp_path):
    assert reopened(tmp_path) == (None, [])


def test_the_newest_ones_stay(tmp_path):
    save_steps(tmp_path, 1, 2, 3, 4, 5, keep=2)
    assert saved_steps(tmp_path) == [4, 5]
    assert int(reopened(tmp_path)[0].step) == 5


def test_a_step_that_is_saved_is_left_alone(tmp_path):
    """Saving it again, even with other weights, changes nothing and raises nothing."""
    manager = open_checkpoints(tmp_path / "checkpoints")
    for seed in (1, 2):
        save(manager, small_state(3, seed))
        finish(manager)
    manager.close()
    assert content_hash(reopened(tmp_path)[0]) == content_hash(small_state(3, 1))


def test_a_replacement_that_is_cut_off_loses_nothing(tmp_path, monkeypatch):
    """Before the new checkpoint is complete the old ones come back; afterwards the new one stays."""
    save_steps(tmp_path, 2, 4)
    new = small_state(2, seed=1)

    def killed(*args):
        raise KeyboardInterrupt

    for function, found in (("save", small_state(4, seed=4)), ("_end_replacement", new)):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            manager = open_checkpoints(tmp_path / "checkpoints")
            patch.setattr(checkpoint, function, killed)
            checkpoint.replace(manager, new)
        state, warnings = reopened(tmp_path)
        assert content_hash(state) == content_hash(found) and not warnings
        assert not list(tmp_path.rglob("replaced-*"))


def test_what_is_saved_is_the_state_of_that_moment(tmp_path):
    """The next step donates the buffers while the save still runs; the checkpoint must not see that."""
    method, batch = tiny_vae(), tiny_batch()
    compiled = compile_step(make_train_step(method.phases), "jit")
    state = jax.device_put(state_of(method, batch), compiled.state_sharding)
    key = jax.device_put(jax.random.key(0), compiled.replicated)
    batch = jax.device_put(batch, compiled.batch_sharding)
    expected = content_hash(state)
    manager = open_checkpoints(tmp_path / "checkpoints")
    save(manager, state)
    for _ in range(3):
        state, _ = compiled.run(state, batch, key)
    finish(manager)
    manager.close()
    restored, warnings = reopened(tmp_path, state)
    assert warnings == [] and content_hash(restored) == expected != content_hash(state)


# The hash


def test_the_hash_sees_one_bit():
    weights = np.ones((3, 2), np.float32)
    before = content_hash({"w": weights})
    assert content_hash({"w": weights.copy()}) == content_hash({"w": jnp.asarray(weights)}) == before
    flipped = weights.copy()
    flipped.view(np.uint32)[1, 1] ^= 1
    assert content_hash({"w": flipped}) != before


@pytest.mark.parametrize(
    "other",
    [
        {"v": np.zeros((3, 2), np.float32)},  # name
        {"w": np.zeros((2, 3), np.float32)},  # shape
        {"w": np.zeros((3, 2), np.int32)},  # dtype
        {"w": -np.zeros((3, 2), np.float32)},  # sign of zero
        {"w": np.zeros((3, 2), np.float32), "x": np.zeros((0,))},  # one more, though without bytes
    ],
)
def test_the_hash_sees_names_shapes_dtypes_and_signs(other):
    assert content_hash(other) != content_hash({"w": np.zeros((3, 2), np.float32)})


def test_the_hash_is_of_the_values_not_of_their_layout():
    weights = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert content_hash([np.asfortranarray(weights)]) == content_hash([weights])


# Damage


def largest_file(folder: Path) -> Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def truncate_data(step: Path) -> None:
    path = largest_file(step / "state")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(step: Path) -> None:
    """In the middle of the largest array: the formats around it stay sound."""
    path = largest_file(step / "state")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def exchange_data(step: Path) -> None:
    """Sound data of another step: only the hash can tell."""
    shutil.rmtree(step / "state")
    shutil.copytree(step.parent / "1" / "state", step / "state")


DAMAGES = {
    "data truncated": truncate_data,
    "bit flipped": flip_a_bit,
    "data of another step": exchange_data,
    "hash deleted": lambda step: shutil.rmtree(step / "meta"),
    "hash torn": lambda step: (step / "meta" / "metadata").write_text('{"hash": "12'),
    "data deleted": lambda step: shutil.rmtree(step / "state"),
    "index emptied": lambda step: (step / "state" / "_METADATA").write_text(""),
    "data files deleted": lambda step: shutil.rmtree(step / "state" / "ocdbt.process_0"),
    "folder emptied": lambda step: [shutil.rmtree(step), step.mkdir()],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_checkpoint_is_set_aside(tmp_path, damage):
    """It is named in one line and kept under another name; the one before is used, and is good."""
    save_steps(tmp_path, 1, 2)
    DAMAGES[damage](tmp_path / "checkpoints" / "2")
    state, warnings = reopened(tmp_path)
    assert state is not None and content_hash(state) == content_hash(small_state(1, seed=1))
    if "folder emptied" not in damage:  # Orbax may take that one for a save that never ended
        assert len(warnings) == 1 and "checkpoint 2 is corrupt" in warnings[0] and "corrupt-2" in warnings[0]
        assert len(warnings[0].splitlines()) == 1
        assert (tmp_path / "checkpoints" / "corrupt-2").is_dir()
    assert saved_steps(tmp_path)[0] == 1


def test_a_step_that_was_set_aside_can_be_saved_again(tmp_path):
    """And a second damaged one of the same step gets a name of its own."""
    for name in ("corrupt-2", "corrupt-2-2"):
        save_steps(tmp_path, 1, 2)
        truncate_data(tmp_path / "checkpoints" / "2")
        manager = open_checkpoints(tmp_path / "checkpoints")
        state, warnings = restore(manager, target_of(small_state()))
        assert int(state.step) == 1 and name in warnings[0]
        save(manager, small_state(2, seed=2))
        finish(manager)
        manager.close()
        assert content_hash(reopened(tmp_path)[0]) == content_hash(small_state(2, seed=2))
        shutil.rmtree(tmp_path / "checkpoints" / "2")


def test_nothing_good_left_is_none_with_a_warning_for_each(tmp_path):
    save_steps(tmp_path, 1, 2, 3)
    for step in (1, 2, 3):
        truncate_data(tmp_path / "checkpoints" / str(step))
    state, warnings = reopened(tmp_path)
    assert state is None
    assert [warning.split()[1] for warning in warnings] == ["3", "2", "1"]
    assert reopened(tmp_path) == (None, [])


def test_an_unfinished_save_is_not_a_checkpoint(tmp_path):
    """What a kill in mid-save leaves has no final name, and is cleared away."""
    save_steps(tmp_path, 1, 2)
    folder = tmp_path / "checkpoints"
    (folder / "2").rename(folder / "2.orbax-checkpoint-tmp-17")
    state, warnings = reopened(tmp_path)
    assert int(state.step) == 1 and warnings == []


# What is not damage


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        ValueError("RESOURCE_EXHAUSTED: Error reading"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 4 bytes"),
        RuntimeError("can't start new thread"),
        Exception("Encountered error while reading array index: INTERNAL: Cannot allocate memory"),
        OSError(errno.EIO, "Input/output error"),
        OSError(errno.EMFILE, "Too many open files"),
        PermissionError(errno.EACCES, "Permission denied"),
    ],
    ids=repr,
)
def test_an_error_that_is_not_the_content_s_leaves_all_as_it_was(tmp_path, monkeypatch, error):
    """No step is renamed, and no older one is used in its place: training would silently go back."""
    save_steps(tmp_path, 1, 2)
    before = contents(tmp_path)
    manager = open_checkpoints(tmp_path / "checkpoints")

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(manager, "restore", fail)
    with pytest.raises(UserError, match=r"2 cannot be read here: .*\nThis says nothing about its content"):
        restore(manager, target_of(small_state()))
    monkeypatch.undo()
    manager.close()
    assert contents(tmp_path) == before


def test_the_cause_counts_not_what_it_is_wrapped_in(tmp_path, monkeypatch):
    save_steps(tmp_path, 1)
    manager = open_checkpoints(tmp_path / "checkpoints")

    def fail(*_, **__):
        raise ValueError("pytree structure error") from MemoryError()

    monkeypatch.setattr(manager, "restore", fail)
    with pytest.raises(UserError, match="cannot be read here"):
        restore(manager, target_of(small_state()))


@pytest.mark.parametrize(
    "locked", ["checkpoints", "checkpoints/2", "checkpoints/2/state", "checkpoints/2/meta/metadata"]
)
def test_what_may_not_be_read_is_named_and_not_taken_for_damage(ordinary_user, locked):
    folder, become = ordinary_user
    save_steps(folder, 1, 2)
    with become():
        before = contents(folder)
        (folder / locked).chmod(0)
        for read_it in (lambda: reopened(folder), lambda: read(folder / "checkpoints", target_of(small_state()))):
            with pytest.raises(UserError, match=f"cannot (read|write to) {folder / locked}.*Permission denied"):
                read_it()
        (folder / locked).chmod(0o700)
        assert contents(folder) == before


# Readers


def test_a_reader_finds_what_a_training_would(tmp_path):
    assert read(tmp_path / "none", target_of(small_state())) == (None, [])
    save_steps(tmp_path, 1, 2)
    state, warnings = read(tmp_path / "checkpoints", target_of(small_state()))
    assert warnings == [] and content_hash(state) == content_hash(small_state(2, seed=2))


@pytest.mark.parametrize("damage", ["bit flipped", "data deleted"])
def test_a_reader_changes_nothing(tmp_path, damage):
    """Not a corrupt step, and not what looks like the rest of a kill: it may be a save that is just being written."""
    save_steps(tmp_path, 1, 2)
    folder = tmp_path / "checkpoints"
    DAMAGES[damage](folder / "2")
    shutil.copytree(folder / "1", folder / "3.orbax-checkpoint-tmp-17")
    before = contents(tmp_path)
    state, warnings = read(folder, target_of(small_state()))
    assert int(state.step) == 1 and len(warnings) == 1 and "checkpoint 2 is corrupt" in warnings[0]
    assert contents(tmp_path) == before


def test_a_reader_that_a_training_overtakes_reads_the_newer_checkpoint(tmp_path, monkeypatch):
    """Steps are deleted while they are read; that is no damage."""
    save_steps(tmp_path, 1)
    restore_step = checkpoint._restore_step

    def overtaken(manager, step, target):
        if step == 1:
            save_steps(tmp_path, 2, keep=1)
        return restore_step(manager, step, target)

    monkeypatch.setattr(checkpoint, "_restore_step", overtaken)
    state, warnings = read(tmp_path / "checkpoints", target_of(small_state()))
    assert int(state.step) == 2 and warnings == []


def test_a_reader_lists_again_what_was_deleted_while_it_was_listed(tmp_path, monkeypatch):
    """Orbax looks into every step that it lists. Other errors, and an end without an end, are told."""
    save_steps(tmp_path, 1)
    vanished, all_steps = iter([True, False, True, True, False]), ocp.CheckpointManager.all_steps

    def listed(self, read=False):
        if read and next(vanished, False):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(tmp_path / "checkpoints" / "0"))
        return all_steps(self, read)

    monkeypatch.setattr(ocp.CheckpointManager, "all_steps", listed)
    state, warnings = read(tmp_path / "checkpoints", target_of(small_state()))
    assert int(state.step) == 1 and warnings == []
    vanished = itertools.repeat(True)
    monkeypatch.setattr(checkpoint, "LISTING_TRIES", 3)
    with pytest.raises(UserError, match="deleted faster than they can be read"):
        read(tmp_path / "checkpoints", target_of(small_state()))


def test_damage_to_the_description_is_not_another_configuration(tmp_path):
    save_steps(tmp_path, 1, 2)
    path = tmp_path / "checkpoints" / "2" / "meta" / "metadata"
    path.write_text(path.read_text().replace("float32", "float33", 1))
    state, warnings = reopened(tmp_path)
    assert int(state.step) == 1 and "its description has changed" in warnings[0]


# Other code


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": jnp.zeros(2, jnp.int32)}, r"1 arrays differ, .step is int32\[\] there and int32\[2\] here"),
        ({"step": jnp.zeros(())}, r"1 arrays differ, .step is int32\[\] there and float32\[\] here"),
        ({"ema": {}}, r"2 arrays differ, .ema\['net'\].* is bfloat16\[2, 33\] there and absent here"),
        ({"ema": {"more": jnp.zeros(1)}}, r"3 arrays differ, .ema\['more'\] is absent there and float32\[1\] here"),
    ],
)
def test_a_state_of_other_code_is_refused_and_left_alone(tmp_path, change, message):
    """The message names an array that differs, and the checkpoint stays where it is."""
    save_steps(tmp_path, 1)
    with pytest.raises(UserError, match=message) as error:
        reopened(tmp_path, small_state().replace(**change))
    assert "written by other code" in str(error.value) and len(str(error.value).splitlines()) == 2
    assert saved_steps(tmp_path) == [1]


# Devices


def spread(state: TrainState) -> TrainState:
    """Shardings that cut the last axis over eight devices where that is possible."""
    mesh = jax.make_mesh((8,), ("devices",))

    def cut(x):
        last = x.ndim > 0 and x.shape[-1] % 8 == 0
        return jax.sharding.NamedSharding(mesh, jax.P(*[None] * (x.ndim - 1), "devices") if last else jax.P())

    return jax.tree.map(cut, state)


@pytest.mark.parametrize("make", [tiny_gan, tiny_vae])
def test_one_device_and_eight_read_each_other_s_checkpoints(tmp_path, make):
    """Saved under jit and restored cut over eight devices, and back, without a changed bit."""
    method, batch = make(), tiny_batch()
    state = state_of(method, batch)
    places = spread(state)
    one = open_checkpoints(tmp_path / "one" / "checkpoints")
    save(one, state)
    finish(one)
    target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, places)
    cut, warnings = restore(one, target)
    one.close()
    assert warnings == [] and max(len(x.sharding.device_set) for x in jax.tree.leaves(cut)) == 8
    assert any(not x.sharding.is_fully_replicated for x in jax.tree.leaves(cut))
    assert content_hash(cut) == content_hash(state)

    eight = open_checkpoints(tmp_path / "eight" / "checkpoints")
    save(eight, cut)
    finish(eight)
    eight.close()
    back, warnings = reopened(tmp_path / "eight", state)
    assert warnings == [] and all(len(x.sharding.device_set) == 1 for x in jax.tree.leaves(back))
    assert_equal_trees(back, state)
    assert largest_difference(back, cut) == 0.0


# The disk


@pytest.mark.parametrize("when", ["at once", "in the background"])
def test_a_full_disk_is_told_with_its_mend(tmp_path, monkeypatch, when):
    """Whether it is found out while saving begins or when the background save is waited for."""
    manager = open_checkpoints(tmp_path / "checkpoints")

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(manager, "save" if when == "at once" else "wait_until_finished", fail)
    with pytest.raises(UserError, match="the disk is full.*Free some space"):
        save(manager, small_state(1))
        finish(manager)
    monkeypatch.undo()
    manager.close()


def test_a_disk_that_really_fills_up_keeps_the_last_good_checkpoint(tiny_disk):
    """Saving into a full file system is told in one line, and the state of before is still there."""
    save_steps(tiny_disk, 1)
    (tiny_disk / "ballast").write_bytes(bytes(900_000))
    manager = open_checkpoints(tiny_disk / "checkpoints")
    state = small_state(2).replace(ema={"net": jnp.asarray(np.random.default_rng(0).standard_normal(100_000))})
    with pytest.raises(UserError, match="the disk is full"):
        save(manager, state)
        finish(manager)
    (tiny_disk / "ballast").unlink()
    restored, warnings = reopened(tiny_disk)
    assert int(restored.step) == 1 and warnings == []


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_other_disk_errors_name_the_folder(tmp_path, monkeypatch, number):
    def fail(*_, **__):
        raise OSError(number, "refused")

    monkeypatch.setattr(Path, "mkdir", fail)
    with pytest.raises(UserError, match=rf"cannot write to {tmp_path}.*refused"):
        open_checkpoints(tmp_path / "checkpoints")


def test_errors_that_are_not_the_disk_s_pass_unchanged(tmp_path):
    with pytest.raises(ZeroDivisionError), checkpoint._disk_errors(tmp_path):
        1 / 0  # noqa: B018


@pytest.mark.parametrize("text", ["[]", '{"init_timestamp_nsecs": "x"}', '{"metrics": 3}', "{", "[" * 100_000])
def test_a_damaged_description_of_a_step_is_named_and_can_be_removed(tmp_path, text):
    """Orbax reads it before it lists any step. Where it does not mind the damage, or the file is gone, nor do we."""
    save_steps(tmp_path, 1, 2)
    folder = tmp_path / "checkpoints"
    (folder / "2" / "_CHECKPOINT_METADATA").write_text(text)
    for opened in (lambda: read(folder, target_of(small_state())), lambda: reopened(tmp_path)):
        try:
            assert int(opened()[0].step) == 2
        except UserError as error:
            assert "Remove the newest _CHECKPOINT_METADATA" in str(error)
    (folder / "2" / "_CHECKPOINT_METADATA").unlink()
    state, warnings = read(folder, target_of(small_state()))
    assert int(state.step) == 2 and warnings == []
