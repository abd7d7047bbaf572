"""The profile of a training holds the steps that it should, and costs the training nothing else."""

import contextlib
import gzip
import json

import jax
import pytest
from tiny import state_of, tiny_batch, tiny_vae

from jimgen.errors import UserError
from jimgen.runs.profiling import profiled_steps
from jimgen.train_step import compile_step, make_train_step


@pytest.fixture(scope="module")
def train():
    """A function that trains a tiny VAE over the numbers of steps that it is given, up to the step `stop`."""
    method, batch = tiny_vae(), tiny_batch()
    compiled = compile_step(make_train_step(method.phases), "jit")
    initial = state_of(method, batch)

    def run(steps, folder, stop=None):
        state, lines, seen = jax.tree.map(jax.numpy.copy, initial), [], []
        numbers = profiled_steps(steps, folder, wait=lambda: jax.block_until_ready(state), tell=lines.append)
        with contextlib.closing(numbers):
            for number in numbers:
                state, _ = compiled.run(state, batch, jax.random.key(0))
                seen.append(number)
                if number == stop:
                    break
        return seen, lines

    return run


def recorded_steps(folder) -> list[int]:
    """The numbers of the annotated steps, by JAX's own reader."""
    (path,) = folder.glob("plugins/profile/*/*.xplane.pb")
    lines = [line for plane in jax.profiler.ProfileData.from_file(str(path)).planes for line in plane.lines]
    return [dict(event.stats)["step_num"] for line in lines for event in line.events if event.name == "train"]


def test_third_to_eighth_step_are_recorded(train, tmp_path):
    """Of a run that resumed at step 10, with the compiled program, in both files."""
    seen, (line,) = train(range(11, 21), tmp_path / "run" / "profile")
    assert seen == list(range(11, 21))
    assert recorded_steps(tmp_path / "run" / "profile") == list(range(13, 19))
    (perfetto,) = tmp_path.rglob("perfetto_trace.json.gz")
    assert str(perfetto) in line and f"--logdir {tmp_path / 'run' / 'profile'}" in line
    events = json.loads(gzip.decompress(perfetto.read_bytes()))["traceEvents"]
    assert sum(event.get("name") == "train" for event in events) == 6
    programs = [
        event["args"]["run_id"] for event in events if "jit_step" in event.get("args", {}).get("hlo_module", "")
    ]
    assert len(set(programs)) == 6  # all that began has ended within the profile, and nothing else has


def test_training_that_stops_has_its_profile(train, tmp_path):
    seen, lines = train(range(1, 100), tmp_path, stop=4)
    assert seen == [1, 2, 3, 4] and len(lines) == 1
    assert recorded_steps(tmp_path) == [3, 4]


def test_short_training_has_none(train, tmp_path):
    assert train(range(1, 3), tmp_path) == ([1, 2], [])
    assert not list(tmp_path.rglob("*.pb"))


def test_disk_that_fills_up_ends_no_training(train, tmp_path, monkeypatch):
    def stop(stop_trace=jax.profiler.stop_trace):
        stop_trace()
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no space left on device")

    monkeypatch.setattr(jax.profiler, "stop_trace", stop)
    seen, (line,) = train(range(1, 12), tmp_path)
    assert seen == list(range(1, 12)) and "could not be written" in line and "no space left" in line


def test_folder_that_cannot_be_made_is_told_before_the_first_step(train, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Choose another folder"):
        train(range(1, 3), tmp_path / "file" / "profile")
