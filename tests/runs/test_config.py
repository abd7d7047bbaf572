"""Configs: which fields `--change` may change."""

from dataclasses import dataclass, field

import pytest
from small_runs import EXPERIMENTS, load_experiment

from jimgen.errors import UserError
from jimgen.runs.config import DRAWING, RunConfig, changed, drawing_fields

DRAWN = {
    "flow": "attention sampler num_steps guidance guidance_interval guidance_schedule dtype",
    "maskgit": "tokenizer num_steps choice_temperature guidance dtype",
    "meanflow": "num_steps dtype",  # its guidance is learned
    "pixel_transformer": "guidance temperature top_k top_p dtype",
    "token_transformer": "tokenizer guidance temperature top_k top_p dtype",
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


@pytest.mark.parametrize("name", sorted(path.stem for path in EXPERIMENTS.glob("*.py")))
def test_the_fields_that_sampling_alone_depends_on(name):
    assert drawing_fields(load_experiment(name).Config()) == DRAWN.get(name, "dtype").split()


def test_changes_replace_their_fields_alone():
    assert changed(Marked(steps=7), []) == Marked(steps=7)
    asked = ["num-steps=5", "--guidance_interval=0.1,0.8"]
    assert changed(Marked(steps=7), asked) == Marked(steps=7, num_steps=5, guidance_interval=(0.1, 0.8))


@pytest.mark.parametrize("change", ["prediction=noise", "seed=1", "data=digits", "steps=3"])
def test_what_the_weights_depend_on_may_not_change(change):
    with pytest.raises(UserError, match=f"--change {change}: only these .* training: num_steps, guidance_interval$"):
        changed(Marked(), [change])


@pytest.mark.parametrize("change", ["num_setps=5", "num_steps"])
def test_a_change_of_no_field_or_to_no_value_is_refused_with_an_example(change):
    with pytest.raises(UserError, match=f"--change {change}: expected field=value .* as num_steps"):
        changed(Marked(), [change])


def test_runs_of_earlier_versions_may_change_fields_by_their_names():
    assert changed(Earlier(), ["guidance=3", "num_steps=5"]) == Earlier(guidance=3.0, num_steps=5)
    with pytest.raises(UserError, match="may change after training: num_steps, guidance$"):
        changed(Earlier(), ["prediction=noise"])
    with pytest.raises(UserError, match="may change after training: num_steps$"):
        changed(EarlierMeanFlow(), ["guidance=3"])
    with pytest.raises(UserError, match="may change after training: none$"):
        changed(RunConfig(), ["seed=3"])
