"""What a run's folder says of it, whole or damaged."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest

from jimgen.data.dataset import DataSpec
from jimgen.errors import UserError
from jimgen.runs.config import CONTAINED_RUN, contained_runs, from_values
from jimgen.runs.folder import find_runs, is_run, read_saved, with_contained_runs

SPEC = DataSpec("digits", (8, 8, 1), 2, ("a", "b"), 3, 1, "0" * 64)


@dataclass(frozen=True)
class Config:
    steps: int = 1
    rate: float = 0.5
    size: int | None = None
    fit: Literal["resize", "pad"] = "resize"
    channels: Literal[1, 3] | None = None
    interval: tuple[float, float] = (0.0, 1.0)
    names: tuple[str, ...] = ()
    strict: bool = False
    width: Annotated[int, "a width"] = 4
    tokenizer: str = field(default="", metadata=CONTAINED_RUN)


def write_run(folder: Path, config: str | None = None) -> Path:
    folder.mkdir(parents=True)
    saved = {"experiment": "vae", "config": {"steps": 3}, "data": SPEC._asdict()}
    (folder / "config.json").write_text(json.dumps(saved) if config is None else config)
    (folder / "experiment.py").write_text("")
    return folder


def test_what_was_saved_comes_back(tmp_path):
    saved = read_saved(write_run(tmp_path / "run"))
    assert saved == ("vae", {"steps": 3}, SPEC, (), ("steps",))
    assert read_saved(tmp_path) is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "3",
        "null",
        "[" * 100_000,
        '{"model_type": "gpt2"}',
        '{"experiment": "vae", "config": [], "data": {}}',
        '{"experiment": "vae", "config": {}, "data": {"name": "digits"}}',
        json.dumps({"experiment": "vae", "config": {}, "data": {**SPEC._asdict(), "shape": [8, 8]}}),
        json.dumps({"experiment": "vae", "config": {}, "data": {**SPEC._asdict(), "num_train": "many"}}),
        json.dumps({"experiment": "vae", "config": {}, "data": {**SPEC._asdict(), "num_classes": 0}}),
        json.dumps({"experiment": "vae", "config": {}, "data": {**SPEC._asdict(), "shape": [8, 8, -1]}}),
    ],
    ids=lambda content: content[:40],
)
def test_a_config_of_another_kind_or_damaged_is_named(tmp_path, content):
    with pytest.raises(UserError, match=r"config.json .*(damaged|not that of a run)") as error:
        read_saved(write_run(tmp_path / "run", content))
    assert len(str(error.value).splitlines()) == 1


def test_a_config_that_may_not_be_read_is_named(ordinary_user):
    folder, become = ordinary_user
    write_run(folder / "run")
    with become():
        for locked in (folder / "run" / "config.json", folder / "run"):
            locked.chmod(0)
            with pytest.raises(UserError, match="cannot read .*config.json: Permission denied"):
                read_saved(folder / "run")
            locked.chmod(0o700)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"steps": 7, "rate": 1, "size": None, "fit": "pad", "channels": 3, "strict": True, "width": 5},
        {"size": 8, "interval": [0, 0.5], "names": ["x", "y", "z"]},
    ],
)
def test_values_of_the_right_type_become_a_config(values):
    expected = {name: tuple(x) if isinstance(x, list) else x for name, x in values.items()}
    assert from_values(Config, {**values, "of another version": 1}, Path("x")) == Config(**expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", "7"),
        ("steps", 7.5),
        ("steps", True),
        ("steps", None),
        ("rate", "fast"),
        ("rate", {}),
        ("size", "8"),
        ("fit", "crop"),
        ("channels", 2),
        ("channels", True),
        ("interval", [0.0]),
        ("interval", 3),
        ("interval", [0.0, "1"]),
        ("names", ["x", 3]),
        ("strict", 1),
        ("width", []),
    ],
)
def test_values_of_the_wrong_type_are_named(name, value):
    with pytest.raises(UserError, match=f"x/config.json is damaged .{name} is"):
        from_values(Config, {name: value}, Path("x/config.json"))


def test_runs_are_found_at_any_depth_but_not_within_runs(tmp_path):
    """A config.json of something else is none of ours; a damaged one of ours is."""
    for name in ("a", "b/c", "a/tokenizer"):
        write_run(tmp_path / name)
    write_run(tmp_path / "damaged", "{")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.json").write_text("{}")
    assert find_runs(tmp_path) == [tmp_path / name for name in ("a", "b/c", "damaged")]
    assert find_runs(tmp_path / "none") == []
    assert not is_run(tmp_path / "foreign")


def test_a_folder_of_runs_that_may_not_be_read_is_named(ordinary_user):
    folder, become = ordinary_user
    write_run(folder / "run")
    with become():
        folder.chmod(0)
        with pytest.raises(UserError, match=f"cannot read {folder}: Permission denied"):
            find_runs(folder)
        folder.chmod(0o700)


def test_a_folder_that_may_be_listed_and_not_entered_is_passed_over(ordinary_user):
    folder, become = ordinary_user
    for name in ("a", "locked"):
        write_run(folder / "runs" / name)
    with become():
        (folder / "runs" / "locked").chmod(0o400)
        assert find_runs(folder / "runs") == [folder / "runs" / "a"]
        (folder / "runs" / "locked").chmod(0o700)


def test_a_contained_run_takes_the_place_of_the_one_that_was_named(tmp_path):
    config = Config(tokenizer="runs/tokenizer")
    assert contained_runs(config) == {"tokenizer": "runs/tokenizer"} and contained_runs(Config()) == {}
    assert with_contained_runs(config, tmp_path) == config
    write_run(tmp_path / "tokenizer")
    assert with_contained_runs(config, tmp_path).tokenizer == str(tmp_path / "tokenizer")
    assert with_contained_runs(Config(), tmp_path) == Config()
