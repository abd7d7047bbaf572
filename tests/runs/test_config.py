"""Configs: which fields `--change` may change, and how images are brought to a size."""

import dataclasses
import json
from dataclasses import dataclass, field

import pytest
import tyro
from small_runs import EXPERIMENTS, load_experiment

from jimgen.data.dataset import DataSpec
from jimgen.data.fitting import Fitting
from jimgen.errors import UserError
from jimgen.runs.compatibility import drawing_fields as by_name
from jimgen.runs.config import DRAWING, RunConfig, changed, drawing_fields, free_fields, from_values, uncompared_fields
from jimgen.runs.folder import Saved, saved_values
from jimgen.runs.resume import require_same_config

DRAWN = {
    "flow": "attention sampler num_steps guidance guidance_interval guidance_schedule dtype",
    "maskgit": "tokenizer num_steps choice_temperature guidance dtype",
    "meanflow": "num_steps dtype",  # its guidance is learned
    "pixel_transformer": "guidance temperature top_k top_p dtype",
    "token_transformer": "tokenizer guidance temperature top_k top_p dtype",
    "ct": "num_steps dtype",
    "hierarchical_vae": "temperature dtype",
    "latent_flow": "autoencoder sampler num_steps guidance guidance_interval dtype",
    "latent_meanflow": "autoencoder num_steps dtype",
    **dict.fromkeys(("dcgan", "r3gan", "sngan", "stylegan2"), "truncation dtype"),
}


@dataclass(frozen=True, kw_only=True)
class Marked(RunConfig):
    num_steps: int = field(default=20, metadata=DRAWING)
    guidance_interval: tuple[float, float] = field(default=(0.0, 1.0), metadata=DRAWING)
    prediction: str = "data"


@dataclass(frozen=True, kw_only=True)
class Earlier(RunConfig):
    """As in runs of versions without metadata."""

    num_steps: int = 20
    guidance: float = 2.0
    prediction: str = "data"


@dataclass(frozen=True, kw_only=True)
class EarlierMeanFlow(Earlier):
    same_time: float = 0.75


MARKED = ["num_steps", "guidance_interval"]


@pytest.mark.parametrize("name", sorted(path.stem for path in EXPERIMENTS.glob("*.py")))
def test_the_fields_that_sampling_alone_depends_on(name):
    assert drawing_fields(load_experiment(name).Config) == DRAWN.get(name, "dtype").split()


def test_changes_replace_their_fields_alone():
    assert changed(Marked(steps=7), [], MARKED) == Marked(steps=7)
    asked = ["num-steps=5", "--guidance_interval=0.1,0.8"]
    assert changed(Marked(steps=7), asked, MARKED) == Marked(steps=7, num_steps=5, guidance_interval=(0.1, 0.8))


@pytest.mark.parametrize("change", ["prediction=noise", "seed=1", "data=digits", "steps=3"])
def test_what_the_weights_depend_on_may_not_change(change):
    with pytest.raises(UserError, match=f"--change {change}: only these .* training: num_steps, guidance_interval$"):
        changed(Marked(), [change], MARKED)


@pytest.mark.parametrize("change", ["num_setps=5", "num_steps"])
def test_a_change_of_no_field_or_to_no_value_is_refused_with_an_example(change):
    with pytest.raises(UserError, match=f"--change {change}: expected field=value .* as num_steps"):
        changed(Marked(), [change], MARKED)


def test_runs_of_earlier_versions_may_change_fields_by_their_names():
    assert changed(Earlier(), ["guidance=3", "num_steps=5"], by_name(Earlier())) == Earlier(guidance=3.0, num_steps=5)
    with pytest.raises(UserError, match="may change after training: num_steps, guidance$"):
        changed(Earlier(), ["prediction=noise"], by_name(Earlier()))
    with pytest.raises(UserError, match="may change after training: num_steps$"):
        changed(EarlierMeanFlow(), ["guidance=3"], by_name(EarlierMeanFlow()))
    with pytest.raises(UserError, match="may change after training: none$"):
        changed(RunConfig(), ["seed=3"], [])


@dataclass(frozen=True, kw_only=True)
class Own(RunConfig):
    """Overrides fields without their metadata, and refuses its own defaults."""

    steps: int = 4
    keep: int = 1
    accumulate: int = 1
    tokenizer: str = ""

    def check(self) -> None:
        super().check()
        if not self.tokenizer:
            raise ValueError("--tokenizer is missing")


def test_a_field_that_a_class_overrides_keeps_its_meaning():
    assert {"steps", "keep"} <= free_fields(Own) and "keep" in uncompared_fields(Own)
    for name in ("steps", "keep", "accumulate"):
        with pytest.raises(UserError, match=f"--{name} 0: must be at least 1"):
            Own(tokenizer="x", **{name: 0})


def test_fields_that_contradict_each_other_are_refused():
    with pytest.raises(UserError, match="--tokenizer is missing"):
        Own()
    with pytest.raises(UserError, match="--batch-size 10 cannot be cut into 4 equal microbatches: use 8"):
        RunConfig(batch_size=10, accumulate=4)


def test_a_class_whose_defaults_are_refused_can_be_saved():
    spec = DataSpec("digits", (8, 8, 1), 1, ("all",), 1, 1, "")
    assert saved_values("own", Own(tokenizer="x", steps=9), spec)["changed"] == {"steps": 9, "tokenizer": "x"}


def test_bad_values_in_a_file_are_blamed_on_the_file(tmp_path):
    with pytest.raises(UserError, match="config.json is damaged .--batch-size 0: must be at least 1"):
        from_values(RunConfig, {"batch_size": 0}, tmp_path / "config.json")


@pytest.mark.parametrize(("flag", "size"), [("64", 64), ("64x96", (64, 96)), ("32x32", 32)])
def test_sizes_come_back_from_flags_and_from_json(flag, size, tmp_path):
    """Also those of runs of earlier versions, which are numbers; a resume sees no change."""
    config = tyro.cli(RunConfig, args=["--size", flag])
    assert config == RunConfig(size=size)
    saved = json.loads(json.dumps(dataclasses.asdict(config)))
    assert from_values(RunConfig, saved, tmp_path) == config
    assert tyro.cli(RunConfig, args=[], default=config) == config
    require_same_config(config, Saved("x", saved, None, ()), "x", tmp_path)
    with pytest.raises(UserError, match="size .* -> 8"):
        require_same_config(RunConfig(size=8), Saved("x", saved, None, ()), "x", tmp_path)


def test_a_run_of_an_earlier_version_keeps_its_fit(tmp_path):
    config = from_values(RunConfig, {"size": 32, "fit": "resize", "channels": None, "bits": None}, tmp_path)
    assert config.fitting() == Fitting((32, 32), "resize") and RunConfig().fit == "crop"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size is 0"),
        ({"size": (0, 64)}, "size is"),
        ({"background": "blue"}, "no colour"),
        ({"crop_scale": 0.5}, "--crop random"),
        ({"crop": "random", "fit": "resize"}, "choose fit 'crop'"),
    ],
)
def test_ways_to_fit_images_that_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        RunConfig(**options)


def test_flags_that_are_no_size_or_channels(capsys):
    for text in ("64x", "0x64"):
        with pytest.raises(UserError, match=f"'{text}' is no size"):
            tyro.cli(RunConfig, args=["--size", text])
    with pytest.raises(SystemExit):
        tyro.cli(RunConfig, args=["--channels", "2"])
    assert "--channels" in capsys.readouterr().err
