"""Experiments as commands: the folder of a run, exact resume across processes, and what bad input is told."""

import dataclasses
import inspect
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image
from small_runs import (
    EXPERIMENTS,
    assert_equal_trees,
    contents,
    figures_of,
    load_experiment,
    saved_hash,
    saved_steps,
    signal_before,
    tiny_autoencoder,
    tiny_config,
    tiny_flags,
    tiny_tokenizer,
)

from jimgen import data, schedules
from jimgen.data.dataset import DataSpec
from jimgen.errors import UserError
from jimgen.methods.autoencoder import autoencoder
from jimgen.nets.autoencoder_kl import Decoder, Encoder
from jimgen.runs import loop, train
from jimgen.runs.checkpoint import content_hash
from jimgen.runs.config import RunConfig, free_fields
from jimgen.runs.load import load_run
from jimgen.runs.lock import only_training
from jimgen.runs.setup import build_method
from jimgen.train_step import eval_variables

NAMES = ("dcgan", "vae")


def trained(name: str, workdir: Path, **options):
    """The last state of a tiny run."""
    return train.run(tiny_config(name, workdir, **options), load_experiment(name).build)


def command(name: str, *flags: str) -> None:
    """An experiment as the command line starts it."""
    module = load_experiment(name)
    train.main(module.Config, module.build, flags)


def refusal(capsys, name: str, *flags: str) -> str:
    """The message of a command that must exit with status 2: one or two lines and no traceback."""
    with pytest.raises(SystemExit) as stop:
        command(name, *flags)
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and "Traceback" not in message
    assert len(message.strip().splitlines()) <= 2
    return message


@pytest.fixture(scope="module", params=NAMES)
def whole(request, tmp_path_factory):
    """An undisturbed run of 12 steps of each experiment: name, folder, last state."""
    folder = tmp_path_factory.mktemp("whole") / request.param
    return request.param, folder, trained(request.param, folder, steps=12, save_every=6)


@pytest.fixture(scope="module")
def vae_run(tmp_path_factory):
    """A finished VAE of two steps."""
    folder = tmp_path_factory.mktemp("runs") / "vae"
    trained("vae", folder)
    return folder


def test_run_folder_holds_everything(whole):
    """All that DESIGN names: what was asked, with which code, on what, what came out, and a page on it."""
    name, folder, state = whole
    saved = json.loads((folder / "config.json").read_text())
    assert saved["experiment"] == name
    assert saved["config"]["steps"] == 12 and saved["config"]["seed"] == 0 and saved["config"]["data"] == "digits"
    assert saved["changed"].keys() >= {"steps", "width", "workdir"} and "seed" not in saved["changed"]
    assert saved["data"]["shape"] == [8, 8, 1] and len(saved["data"]["hash"]) == 64
    assert (folder / "experiment.py").read_bytes() == (EXPERIMENTS / f"{name}.py").read_bytes()
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["versions"]["jax"] == jax.__version__ and environment["data_hash"] == saved["data"]["hash"]
    assert environment.keys() >= {"python", "devices", "git_commit", "seed", "command", "started"}
    assert list(figures_of(folder)) == list(range(1, 13))
    for picture in ("samples/real.png", "samples/step_00000012.png", "plots/losses.png"):
        assert (folder / picture).stat().st_size > 100
    assert saved_steps(folder) == [6, 12] and saved_hash(folder) == content_hash(state)
    page = (folder / "report.html").read_text()
    assert "Real images" in page and "Samples at step 12" in page and "data:image/png;base64," in page


def test_stopping_and_resuming_changes_no_bit(whole, tmp_path, monkeypatch, capsys):
    """SIGTERM at step 5 saves, says how to go on and exits with 128 + 15; the resumed run ends as the whole one."""
    name, folder, state = whole
    flags = tiny_flags(name, tmp_path / "run", steps=12, save_every=6)
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        signal_before(patch, 5)
        command(name, *flags)
    assert stop.value.code == 128 + signal.SIGTERM
    said = capsys.readouterr().out
    assert "saved at step 5 after SIGTERM" in said and re.search(r"to resume: python .*\.py", said)
    assert saved_steps(tmp_path / "run") == [5]
    command(name, "--workdir", str(tmp_path / "run"))  # what was said before need not be said again
    assert "resuming at step 5 of 12" in capsys.readouterr().out
    assert saved_hash(tmp_path / "run") == saved_hash(folder) == content_hash(state)
    assert figures_of(tmp_path / "run") == figures_of(folder)


def test_load_run_gives_the_method_and_the_last_state_back(whole):
    """The copy of the experiment in the folder is enough to sample from a run."""
    name, folder, state = whole
    run = load_run(folder)
    assert_equal_trees(jax.device_get(run.state), jax.device_get(state))
    assert run.config.steps == 12 and run.spec.class_names == tuple("0123456789")
    images = run.method.sample(eval_variables(run.state), jax.random.key(0), np.arange(3, dtype=np.int32))
    assert images.shape == (3, 8, 8, 1)


def test_load_run_with_changes(vae_run):
    """Fields that sampling alone depends on are replaced, all else is as it was; unknown and other ones are refused."""
    plain, changed = load_run(vae_run), load_run(vae_run, changes=["dtype=bfloat16"])
    assert dataclasses.asdict(changed.config) == dataclasses.asdict(plain.config) | {"dtype": "bfloat16"}
    assert_equal_trees(jax.device_get(changed.state), jax.device_get(plain.state))
    for change in ("dtpye=bfloat16", "dtype"):
        with pytest.raises(UserError, match=f"--change {change}: expected field=value .* dtype"):
            load_run(vae_run, changes=[change])
    for change in ("kl-weight=3", "latent_dim=9", "seed=1"):
        with pytest.raises(UserError, match=f"--change {change}: only these fields may change after training: dtype"):
            load_run(vae_run, changes=[change])


def test_load_run_refuses_what_is_no_run(vae_run, tmp_path):
    with pytest.raises(UserError, match="is not a run"):
        load_run(tmp_path)
    shutil.copytree(vae_run, tmp_path / "untrained", ignore=shutil.ignore_patterns("checkpoints"))
    with pytest.raises(UserError, match="has no checkpoint yet"):
        load_run(tmp_path / "untrained")
    (tmp_path / "untrained" / "experiment.py").write_text("from jimgen.nets import resnet\n")
    with pytest.raises(UserError, match="another version of jimgen: cannot import name 'resnet'"):
        load_run(tmp_path / "untrained")
    (tmp_path / "untrained" / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json is damaged"):
        load_run(tmp_path / "untrained")


# A workdir that is there already


@pytest.fixture
def copy(vae_run, tmp_path):
    """A copy of the finished VAE, to be changed."""
    return Path(shutil.copytree(vae_run, tmp_path / "copy"))


def test_a_changed_config_is_named_and_refused(copy, capsys):
    """What was, what is, and the two ways on; and not a byte of the run changes."""
    before = contents(copy)
    message = refusal(capsys, "vae", "--workdir", str(copy), "--seed", "3", "--kl-weight", "0.5")
    assert "seed 0 -> 3" in message and "kl_weight 1.0 -> 0.5" in message
    assert "--override" in message and "--workdir" in message
    assert contents(copy) == before


def test_override_goes_on_with_another_config(copy):
    command("vae", "--workdir", str(copy), "--kl-weight", "0.5", "--steps", "3", "--override")
    assert saved_steps(copy)[-1] == 3
    assert json.loads((copy / "config.json").read_text())["config"]["kl_weight"] == 0.5


def test_fewer_steps_than_a_run_has_trained_are_refused(copy, capsys):
    before = contents(copy)
    assert "has trained for 2 steps already" in refusal(capsys, "vae", "--workdir", str(copy), "--steps", "1")
    assert contents(copy) == before


def test_a_longer_run_in_another_mode_needs_no_override(copy, monkeypatch):
    """How a run is carried out may change; all that is not said again stays as it was."""
    asked = []

    def do_not_train(method, dataset, config, folder, output):
        asked.append(config)

    monkeypatch.setattr(loop, "train", do_not_train)
    command("vae", "--workdir", str(copy), "--steps", "3", "--mode", "sharded", "--save-every", "7")
    before = tiny_config("vae", copy)
    assert asked == [dataclasses.replace(before, steps=3, mode="sharded", save_every=7)]


SCHEDULED = (
    "autoencoder",
    "flow",
    "latent_flow",
    "latent_meanflow",
    "maskgit",
    "meanflow",
    "pixel_transformer",
    "token_transformer",
    "tokenizer",
    "vae",
)


@pytest.mark.parametrize("name", SCHEDULED)
def test_the_curve_of_the_learning_rate_belongs_to_schedule_steps_where_they_are_given(name, monkeypatch):
    """Whatever the steps of the run are; without them, it is that of the steps."""
    module, asked = load_experiment(name), []

    def warmup_cosine(peak, warmup_steps, steps):
        asked.append(steps)
        return peak

    monkeypatch.setattr(schedules, "warmup_cosine", warmup_cosine)
    if hasattr(module, "load_tokenizer"):
        monkeypatch.setattr(module, "load_tokenizer", lambda *_: (types.SimpleNamespace(num_codes=8, grid=(2, 2)), {}))
    if hasattr(module, "load_autoencoder"):
        made = autoencoder(Encoder(2, (4,)), Decoder(1, (4,)), image_shape=(8, 8, 1), tx=optax.sgd(1.0))
        monkeypatch.setattr(module, "load_autoencoder", lambda *_: (made, {}))
    for steps, schedule_steps in ((30, 0), (30, 70), (70, 70)):
        config = module.Config(steps=steps, schedule_steps=schedule_steps)
        module.build(config, DataSpec("digits", (8, 8, 1), 10, (), 8, 8, ""))
    assert asked == [30, 70, 70]


@pytest.mark.parametrize("whole", ["vae"], indirect=True)
def test_a_run_that_goes_on_along_its_schedule_is_that_which_never_stopped(whole, tmp_path, capsys):
    """Planned for 12 steps, of which 6 are done at first."""
    _, folder, _ = whole
    for steps in (6, 12):
        trained("vae", tmp_path, steps=steps, schedule_steps=12, save_every=6)
    assert saved_hash(tmp_path) == saved_hash(folder)
    assert "learning rate" not in capsys.readouterr().out


def test_more_steps_that_change_the_learning_rate_are_told(copy, monkeypatch, capsys):
    monkeypatch.setattr(loop, "train", lambda *args: None)
    start = lambda *flags: (command("vae", "--workdir", str(copy), *flags), capsys.readouterr().out)[1]  # noqa: E731
    assert "learning rate" not in start()
    ended = start("--steps", "4", "--schedule-steps", "2")
    assert "jumps" not in ended and "is 0 from step 2 on" in ended
    leaping = start("--steps", "5", "--schedule-steps", "0")
    assert "falls to 0 at step 5, not 2" in leaping and "--schedule-steps 2 keeps the curve" in leaping


def test_another_net_in_the_same_folder_is_refused_even_with_override(copy, capsys):
    message = refusal(capsys, "vae", "--workdir", str(copy), "--hidden", "6", "--override")
    assert "arrays differ" in message and "hidden" in message
    assert saved_steps(copy) == [2]


def test_the_folder_of_another_experiment_is_refused(copy, capsys):
    before = contents(copy)
    assert "is a run of vae, not of dcgan" in refusal(capsys, "dcgan", *tiny_flags("dcgan", copy))
    assert contents(copy) == before


def test_other_data_of_the_same_name_are_refused(copy, capsys):
    saved = json.loads((copy / "config.json").read_text())
    saved["data"]["hash"] = "0" * 64
    (copy / "config.json").write_text(json.dumps(saved))
    assert "not those that" in refusal(capsys, "vae", "--workdir", str(copy))


def test_a_damaged_config_is_named(copy, capsys):
    (copy / "config.json").write_text('{"config": ')
    assert "config.json is damaged" in refusal(capsys, "vae", "--workdir", str(copy))


def test_a_folder_that_is_being_trained_in_is_refused(copy, capsys):
    with only_training(copy):
        before = contents(copy)
        message = refusal(capsys, "vae", "--workdir", str(copy), "--steps", "3")
        assert f"is being trained by process {os.getpid()}" in message and contents(copy) == before


@pytest.mark.parametrize("name", ["exp[/b] [final]", "a b'c", "runs :smile:", "ünï", "-x"])
def test_any_name_will_do_for_a_workdir(tmp_path, monkeypatch, capsys, name):
    """Brackets are no markup, and what is to be typed to resume is quoted for the shell."""
    monkeypatch.chdir(tmp_path)
    flags = tiny_flags("vae", Path(name))
    at = flags.index("--workdir")
    flags[at : at + 2] = [f"--workdir={name}"]
    monkeypatch.setattr(sys, "argv", ["vae.py", *flags])
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        signal_before(patch, 1)
        module = load_experiment("vae")
        train.main(module.Config, module.build)
    assert stop.value.code == 143 and saved_steps(Path(name)) == [1]
    said = capsys.readouterr().out
    assert f"[8, 8, 1]: {Path(name)}\n" in said
    assert shlex.split(said.partition("to resume: ")[2].strip()) == ["python", "vae.py", *flags]


def test_a_workdir_that_is_not_utf_8_is_refused(tmp_path, monkeypatch, capsys):
    """Checkpoints could not be written there."""
    monkeypatch.chdir(tmp_path)
    assert r"--workdir a\udcff is not UTF-8" in refusal(capsys, "vae", "--workdir", "a\udcff")
    assert os.listdir(tmp_path) == []


def test_a_workdir_may_begin_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    trained("vae", Path("~/run"), steps=1)
    assert saved_steps(tmp_path / "run") == [1]


def test_the_home_of_a_user_who_is_not_there_is_no_workdir(capsys):
    assert "write the path in full" in refusal(capsys, "vae", "--workdir", "~nobody-of-this-name/run")


@pytest.mark.parametrize("length", [300, 5000])
def test_very_long_names_of_data_are_told_in_two_lines(capsys, monkeypatch, tmp_path, length):
    monkeypatch.chdir(tmp_path)
    for name in ("folder:" + "x" * length, "npz:" + "x/" * (length // 2)):
        refusal(capsys, "vae", "--data", name)
    message = refusal(capsys, "vae", "--workdir", "x" * length)
    assert "--workdir xxx" in message and "too long" in message and len(message) < 400


def test_what_may_not_be_read_or_written_is_told(capsys, monkeypatch, ordinary_user):
    """A locked parent, a locked workdir, a workdir without the right to write, a locked config."""
    folder, become = ordinary_user
    trained("vae", folder / "run")
    with become():
        for locked, mode in (
            (folder, 0),
            (folder / "run", 0),
            (folder / "run", 0o500),
            (folder / "run/config.json", 0),
        ):
            locked.chmod(mode)
            assert "Permission denied" in refusal(capsys, "vae", "--workdir", str(folder / "run"), "--steps", "3")
            locked.chmod(0o700)


# Runs that need other files


@pytest.mark.parametrize(
    ("name", "kind", "tiny"),
    [("maskgit", "tokenizer", tiny_tokenizer), ("latent_flow", "autoencoder", tiny_autoencoder)],
)
def test_a_run_that_contains_another_is_whole_by_itself(name, kind, tiny, tmp_path, monkeypatch, capsys):
    """From another working directory and without the other's folder it draws the same, and resumes the same."""
    whole, run = tmp_path / "whole", tmp_path / "moved"
    shutil.copytree(tiny(8), tmp_path / "runs" / kind)
    monkeypatch.chdir(tmp_path)
    trained(name, whole, steps=2, **{kind: f"runs/{kind}"})
    with monkeypatch.context() as patch, pytest.raises(loop.Interrupted):
        signal_before(patch, 1)
        trained(name, tmp_path / "run", steps=2, **{kind: f"runs/{kind}"})
    (tmp_path / "run").rename(run)
    shutil.rmtree(tmp_path / "runs")
    monkeypatch.chdir("/")
    command(name, "--workdir", str(run))
    assert saved_hash(run) == saved_hash(whole)
    loaded = load_run(run)
    images = loaded.method.sample(eval_variables(loaded.state), jax.random.key(0), np.arange(3, dtype=np.int32))
    assert images.shape == (3, 8, 8, 1)
    command(name, "--workdir", str(run), f"--{kind}", f"/runs/{kind}")
    message = refusal(capsys, name, "--workdir", str(run), f"--{kind}", "runs/other")
    assert f"{kind} '/runs/{kind}' -> 'runs/other'" in message


def test_a_run_keeps_what_its_experiment_imports(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    source = (EXPERIMENTS / "vae.py").read_text().replace("import optax\n", "import optax\nimport beside_it\n")
    (tmp_path / "mine" / "my_vae.py").write_text(source)
    (tmp_path / "mine" / "beside_it.py").write_text("VALUE = 5\n")
    flags = tiny_flags("vae", tmp_path / "run", steps=1)
    subprocess.run([sys.executable, tmp_path / "mine" / "my_vae.py", *flags], check=True, capture_output=True)
    shutil.rmtree(tmp_path / "mine")
    assert inspect.getmodule(type(load_run(tmp_path / "run").config)).beside_it.VALUE == 5
    (tmp_path / "run" / "modules" / "beside_it.py").unlink()
    with pytest.raises(UserError, match="imports what is not here: No module named 'beside_it'"):
        load_run(tmp_path / "run")


# Bad input


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("vae", ["--steps", "0"], "--steps 0: must be at least 1"),
        ("vae", ["--batch-size", "0"], "--batch-size 0: must be at least 1"),
        ("vae", ["--learning-rate", "-0.1"], "--learning-rate -0.1: must be finite and not negative"),
        ("vae", ["--learning-rate", "nan"], "--learning-rate nan: must be finite and not negative"),
        ("vae", ["--learning-rate", "inf"], "--learning-rate inf: must be finite"),
        ("vae", ["--seed", "-1"], "--seed -1: must be finite and not negative"),
        ("vae", ["--seed", str(2**63)], "--seed 9223372036854775808: must be at most 9223372036854775807"),
        ("vae", ["--hidden", str(2**31)], "--hidden 2147483648: must be at most 2147483647"),
        ("vae", ["--likelihood", "gaussian", "--sigma", "0"], "--sigma 0.0: must be above 0"),
        ("flow", ["--head-dim", "32", "--width", "16"], "divides --width 16: use 4, 8, 16"),
        ("flow", ["--head-dim", "48", "--width", "128"], "divides --width 128: use 4, 8, 16, 32, 64, 128"),
        ("meanflow", ["--head-dim", "0"], "--head-dim 0: must be at least 1"),
        ("pixel_transformer", ["--head-dim", "6", "--width", "12"], "divides --width 12: use 4, 12"),
        ("pixel_transformer", ["--width", "6"], "make the width a multiple of 4"),
        ("pixel_transformer", ["--head-width", "0"], "--head-width 0: must be at least 1"),
        ("vae", ["--size", "0"], "'0' is no size: give height and width in pixels, for example 64 or 64x96"),
        ("vae", ["--latent-dim", "0"], "--latent-dim 0: must be at least 1"),
        ("vae", ["--width", "0"], "--width 0: must be at least 1"),
        ("dcgan", ["--width", "0"], "--width 0: must be at least 1"),
        ("dcgan", ["--r1", "-1"], "--r1 -1.0: must be finite and not negative"),
        ("dcgan", ["--discriminator-steps", "0"], "--discriminator-steps 0: must be at least 1"),
        ("vae", ["--data", "fashion_mnits"], "did you mean fashion_mnist"),
        ("vae", ["--data", "folder:/there/is/none"], "/there/is/none"),
        ("vae", ["--size", "7"], "multiples of 2; got 7x7. Use 8x8"),
        ("dcgan", ["--size", "9"], "multiples of 2; got 9x9. Use 8x8"),
        ("vae", ["--mode", "sharded", "--batch-size", "12"], "--batch-size 16"),
        ("vae", ["--accumulate", "3"], "microbatch"),
        ("vae", ["--devices", "9", "--mode", "sharded"], "only 8"),
        ("codec", ["--sigmas", "0.4", "0"], "--sigmas 0.4 0.0: must be positive"),
        ("codec", ["--sigmas", "0.4", "nan"], "--sigmas 0.4 nan: must be positive"),
        ("codec", ["--hidden", "600"], "a prior of 600 units and 24 channels: at most 512 and 320"),
        ("hierarchical_vae", ["--blocks", "0"], "--blocks 0: must be at least 1"),
        ("hierarchical_vae", ["--levels", "1", "-1"], "--latent-channels must be at least 1 each"),
        ("autoencoder", ["--statistics-half-life", "0"], "--statistics-half-life 0.0: must be at least 1"),
    ],
)
def test_bad_input_is_told_and_nothing_written(capsys, tmp_path, name, flags, message):
    options = tiny_flags(name, tmp_path / "run")
    assert message in refusal(capsys, name, *options, *flags)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--learning-rat", "1e-3"], "--learning-rate"), (["--steps", "many"], "steps"), (["--mode", "gpu"], "sharded")],
)
def test_misspelt_flags_are_answered_with_the_right_ones(capsys, tmp_path, flags, message):
    with pytest.raises(SystemExit) as stop:
        command("vae", "--workdir", str(tmp_path / "run"), *flags)
    captured = capsys.readouterr()
    assert stop.value.code == 2 and message in captured.err + captured.out
    assert not (tmp_path / "run").exists()


def test_a_workdir_that_is_a_file_stays_one(capsys, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert "is a file" in refusal(capsys, "vae", *tiny_flags("vae", tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"


def test_a_workdir_inside_a_file_is_refused(capsys, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert "cannot write to" in refusal(capsys, "vae", *tiny_flags("vae", tmp_path / "file" / "run"))


def test_a_workdir_that_cannot_be_written_is_refused(capsys, tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(train, "write_atomically", refuse)
    assert "Permission denied. Choose another" in refusal(capsys, "vae", *tiny_flags("vae", tmp_path / "run"))


@pytest.mark.parametrize("free", [100_000, 24_000])
def test_a_disk_that_fills_up_is_told_in_one_line(capsys, tiny_disk, free):
    """By whichever of pictures, figures and checkpoints meets it first; what was written before is whole."""
    (tiny_disk / "ballast").write_bytes(bytes(2**20 - free))
    flags = [*tiny_flags("vae", tiny_disk / "run"), "--steps", "300", "--sample-every", "20", "--save-every", "1000"]
    assert "the disk is full: cannot write to" in refusal(capsys, "vae", *flags)
    json.loads((tiny_disk / "run" / "config.json").read_text())
    for picture in (tiny_disk / "run" / "samples").iterdir():
        with Image.open(picture) as image:
            image.load()


def test_a_loss_that_stays_nan_exits_with_status_2(capsys, tmp_path):
    flags = tiny_flags("vae", tmp_path, steps=30, max_skipped=3, learning_rate=1e30, warmup_steps=0)
    assert "phase 'vae' was not finite in 3 updates" in refusal(capsys, "vae", *flags)


def test_labels_need_classes(capsys, tmp_path):
    """A set without classes cannot train a conditional net."""
    np.savez(tmp_path / "x.npz", train_images=np.zeros((16, 8, 8), np.uint8), test_images=np.zeros((8, 8, 8), np.uint8))
    for name in NAMES:
        flags = tiny_flags(name, tmp_path / "run", data=f"npz:{tmp_path}/x.npz")
        assert "--conditional needs classes" in refusal(capsys, name, *flags, "--conditional")


@pytest.mark.parametrize("name", ["flow", "meanflow", "pixel_transformer"])
def test_no_limit_on_the_gradient_is_said_with_0(name):
    """`--clip 0` is the largest limit, and not one that stops all learning."""
    config = tiny_config(name, Path(), clip=0.0, warmup_steps=0)
    spec = data.load("digits").spec
    (phase,) = build_method(config, load_experiment(name).build, spec).method.phases
    params = {"x": jnp.ones((2, 2))}
    updates, _ = phase.tx.update({"x": jnp.full((2, 2), 1e6)}, phase.tx.init(params), params)
    assert (np.abs(np.asarray(updates["x"])) > 5e-4).all()


def test_dry_run_prints_and_writes_nothing(capsys, tmp_path):
    command("dcgan", *tiny_flags("dcgan", tmp_path / "run"), "--dry-run")
    said = capsys.readouterr().out
    assert "generator" in said and "parameters" in said and "GFLOP" in said
    assert not (tmp_path / "run").exists()


def test_help_names_every_field(capsys):
    for name in NAMES:
        with pytest.raises(SystemExit) as stop:
            command(name, "--help")
        said = capsys.readouterr().out
        assert stop.value.code == 0
        for field in load_experiment(name).Config.__dataclass_fields__:
            assert f"--{field.replace('_', '-')}" in said


def test_the_default_workdir_is_named_after_experiment_and_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {**tiny_config("vae", tmp_path).__dict__, "workdir": None}
    train.run(load_experiment("vae").Config(**options), load_experiment("vae").build)
    assert os.listdir(tmp_path / "runs") == ["vae-digits"]


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Two folders of pictures in the working directory, and runs that end before their first step."""
    monkeypatch.chdir(tmp_path)
    for name, level in (("set", 10), ("other", 20)):
        (tmp_path / name).mkdir()
        for number in range(12):
            Image.new("L", (8, 8), level + number).save(tmp_path / name / f"{number}.png")
    monkeypatch.setattr(loop, "train", lambda *_: None)
    monkeypatch.setattr(train, "compiled_step", lambda *_: None)


@pytest.mark.usefixtures("pictures")
def test_one_folder_written_in_several_ways_is_one_config(tmp_path, monkeypatch, capsys):
    flags = tiny_flags("vae", tmp_path / "run")
    command("vae", *flags, "--data", "folder:set")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("folder:set/", "folder:./set", f"folder:{tmp_path}/set", f"folder:{tmp_path}/set//", "folder:~/set"):
        command("vae", *flags, "--data", name)
    shutil.copytree("set", "moved")
    command("vae", *flags, "--data", "folder:moved")  # what they hold decides
    capsys.readouterr()
    assert "are not those that" in refusal(capsys, "vae", *flags, "--data", "folder:other")
    assert "was trained with another config: data" in refusal(capsys, "vae", *flags, "--data", "digits")


@pytest.mark.usefixtures("pictures")
def test_the_default_workdir_is_one_for_all_ways_to_write_a_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    flags = tiny_flags("vae", tmp_path)
    flags = [flag for i, flag in enumerate(flags) if "--workdir" not in (flag, flags[i - 1])]
    for name in ("folder:set", "folder:set/", f"folder:{tmp_path}/set", "folder:~/set"):
        command("vae", *flags, "--data", name)
    assert os.listdir(tmp_path / "runs") == ["vae-folder-set"]
    long = Path("x" * 100, "é" * 100, "z" * 100)
    shutil.copytree("set", long)
    command("vae", *flags, "--data", f"folder:{long}")
    (name,) = set(os.listdir(tmp_path / "runs")) - {"vae-folder-set"}
    assert name.startswith("vae-folder-xxxx") and len(os.fsencode(name)) <= 255


@pytest.mark.usefixtures("pictures")
def test_names_that_are_not_utf8_reach_the_run_folder(tmp_path, capsys):
    for number, folder in enumerate((b"caf\xe9", b"th\xe9")):
        os.mkdir(os.path.join(b"set", folder))
        for name in range(12):
            os.rename(f"{'set' if number else 'other'}/{name}.png", os.path.join(b"set", folder, b"%d.png" % name))
    os.rename(b"set", b"s\xe9t")
    flags = tiny_flags("vae", tmp_path / "run")
    for _ in range(2):
        command("vae", *flags, "--data", "folder:" + os.fsdecode(b"s\xe9t"))
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]["class_names"] == ["caf\\xe9", "th\\xe9"]
    capsys.readouterr().out.encode()


def test_a_build_that_returns_no_method_is_named():
    """As that of a file that is cut off before its last line."""
    with pytest.raises(UserError, match="returned NoneType, neither a Method"):
        build_method(RunConfig(), lambda config, spec: None, data.load("digits").spec)


def test_a_run_whose_experiment_fails_to_build_is_named(vae_run, tmp_path):
    """A file that is cut off can raise anything when it builds; JIMGEN_TRACEBACK=1 shows where."""
    run = tmp_path / "run"
    shutil.copytree(vae_run, run)
    code = (run / "experiment.py").read_text()
    assert "\ndef build(config: Config, data: DataSpec)" in code
    (run / "experiment.py").write_text(code + "\n\ndef build(config, data):\n    return None.method\n")
    with pytest.raises(UserError, match=r"experiment.py cannot build its method \(AttributeError"):
        load_run(run)


def test_a_preset_takes_the_place_of_the_defaults_and_other_flags_change_it(tmp_path, capsys):
    module = load_experiment("dcgan")
    presets = {"wide": module.Config(width=8, batch_size=4, size=(8, 8)), "slow": module.Config(steps=9)}
    flags = ["--preset", "wide", "--width", "6", "--steps", "2", "--mode", "jit", "--workdir", str(tmp_path / "run")]
    train.main(module.Config, module.build, flags, presets=presets)
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert (config["width"], config["batch_size"], config["steps"]) == (6, 4, 2)
    train.main(module.Config, module.build, ["--workdir", str(tmp_path / "run"), "--steps", "3"], presets=presets)
    assert saved_steps(tmp_path / "run") == [2, 3]
    with pytest.raises(SystemExit) as stop:
        train.main(module.Config, module.build, ["--preset", "huge"], presets=presets)
    assert stop.value.code == 2 and "wide, slow" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["r3gan", "sngan"])
def test_a_longer_run_may_keep_the_schedules_that_it_was_begun_with(name):
    assert "schedule_steps" in free_fields(load_experiment(name).Config)
