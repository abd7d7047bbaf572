"""Runs side by side: groups of seeds, and what may not be compared."""

import json

import pytest

from jimgen.commands.metrics import compare as show_side_by_side
from jimgen.errors import UserError
from jimgen.runs.config import RunConfig, free_fields
from jimgen.runs.report import write_report
from jimgen.runs.subject import compare_runs

DATA = {
    "hash": "a",
    "name": "digits",
    "shape": [8, 8, 1],
    "num_classes": 2,
    "class_names": ["a", "b"],
    "num_train": 3,
    "num_test": 1,
}


def write(folder, value, seed=0, experiment="dcgan", width=64, num=1000, subject=None, **fields):
    """A run's config and evaluation, with one metric of its own and the values that stand beside it."""
    (folder / "evaluation").mkdir(parents=True)
    config = {"seed": seed, "width": width, "workdir": str(folder), **fields}
    (folder / "config.json").write_text(json.dumps({"experiment": experiment, "config": config, "data": DATA}))
    found = {"data": {"name": "digits"}, "num": num, "num_real": {"train": num, "test": num}}
    found["extractors"] = {"tiny@8": {"weights_hash": "0" * 64}}
    found["metrics"] = {"fd[tiny@8]": {"value": value, "real": 1.0, "gaussian": 9.0}}
    found |= {} if subject is None else {"subject": subject}
    (folder / "evaluation" / "evaluation.json").write_text(json.dumps(found))
    return folder


def test_runs_that_differ_in_their_seed_are_one_group(tmp_path):
    runs = [write(tmp_path / f"a{seed}", value, seed=seed) for seed, value in enumerate((1.0, 2.0, 3.0))]
    runs.append(write(tmp_path / "wide", 7.0, width=128))
    groups, beside = compare_runs(runs)
    assert [len(group.runs) for group in groups] == [3, 1]
    assert groups[0].metrics["fd[tiny@8]"].mean == 2 and groups[1].metrics["fd[tiny@8]"].mean == 7
    assert beside == {"fd[tiny@8]": {"real": 1.0, "gaussian": 9.0}}


@pytest.mark.parametrize("field", sorted(free_fields(RunConfig)))
def test_fields_of_how_a_run_is_carried_out_do_not_split_its_seeds(tmp_path, field):
    """data_dir, quality_*, max_skipped, ...; only the numbers of steps, which are training itself."""
    groups, _ = compare_runs([write(tmp_path / str(seed), 1.0, seed=seed, **{field: seed}) for seed in range(2)])
    assert len(groups) == (2 if field == "steps" else 1)


def test_seeds_are_one_group_where_the_same_data_lie_elsewhere(tmp_path):
    """By the hash of the data that they were trained on."""
    runs = [write(tmp_path / str(seed), 1.0, seed=seed, data=f"folder:{seed}") for seed in range(3)]
    for run, digest in zip(runs, ("a", "a", "b"), strict=True):
        saved = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps({**saved, "data": DATA | {"hash": digest}}))
    assert [len(group.runs) for group in compare_runs(runs)[0]] == [2, 1]


def changes(run, config, **more):
    """Changes a run's config.json: fields of its config, and its other parts."""
    saved = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**saved, **more, "config": saved["config"] | config}))


def test_how_pictures_were_fitted_does_not_count_where_the_data_came_out_alike(tmp_path):
    """As square pictures do, fitted by --fit resize, once the default, or by --fit crop."""
    old, new = (write(tmp_path / str(seed), 1.0, seed=seed) for seed in range(2))
    changes(old, {"fit": "resize", "size": 16})
    changes(new, {"fit": "crop", "size": [16, 16], "background": "white"}, changed={"size": [16, 16], "background": ""})
    assert len(compare_runs([old, new])[0]) == 1


def test_fields_that_came_later_count_only_where_they_were_changed(tmp_path):
    old, new, other = (write(tmp_path / str(seed), 1.0, seed=seed) for seed in range(3))
    changes(new, {"flip": False, "label_drop": 0.1}, changed={})
    changes(other, {"flip": True, "label_drop": 0.1}, changed={"flip": True})
    assert [len(group.runs) for group in compare_runs([old, new, other])[0]] == [2, 1]
    assert [len(group.runs) for group in compare_runs([new, other])[0]] == [1, 1]


@pytest.mark.parametrize("other", [{"best": True}, {"classes": "frequency"}, {"changes": ["guidance=3"]}])
def test_runs_that_were_drawn_from_in_another_way_are_groups_of_their_own(tmp_path, other):
    usual = {"best": False, "classes": "balanced", "changes": []}
    runs = [write(tmp_path / str(seed), 1.0, seed=seed, subject=usual) for seed in range(2)]
    runs.append(write(tmp_path / "other", 1.0, subject=usual | other))
    assert [len(group.runs) for group in compare_runs(runs)[0]] == [2, 1]


def test_what_decides_on_the_best_checkpoint_counts_where_that_one_was_evaluated(tmp_path):
    runs = [
        write(tmp_path / f"{i}", 1.0, subject={"best": True}, quality_metric=m) for i, m in enumerate(("fd", "kid"))
    ]
    assert len(compare_runs(runs)[0]) == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"num": None},
        {"num_real": {"train": 10}},
        {"data": {}},
        {"extractors": {"tiny@8": {}}},
        {"extractors": [1]},
        {"metrics": {"fd[tiny@8]": {"real": 1.0}}},
        {"metrics": {"fd[tiny@8]": {"value": "x"}}},
        {"metrics": {"fd[tiny@8]": {"value": 1.0, "real": None}}},
        {"metrics": {"fd[tiny@8]": {"value": 10**400}}},
        {"per_class": [{"share": 0.5}]},
        {"per_class": [{"class": "0", "share": "x"}]},
        {"subject": {"changes": 3}},
        {"subject": []},
    ],
)
def test_an_evaluation_whose_parts_are_damaged_is_named(tmp_path, changed):
    """By `compare` and by the page, which read the same parts."""
    run = write(tmp_path / "run", 1.0)
    path = run / "evaluation" / "evaluation.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(UserError, match="evaluation.json is damaged.*`jimgen evaluate` again"):
        compare_runs([run])
    with pytest.raises(UserError, match="evaluation.json is damaged"):
        write_report([run], tmp_path / "report.html")


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[]", "[" * 100_000, "\ud800", '{"config": 3}', '{"experiment": "x"}']
)
def test_a_damaged_config_is_named(tmp_path, text):
    run = write(tmp_path / "run", 1.0)
    (run / "config.json").write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(UserError, match="config.json is .*damaged"):
        compare_runs([run])


def test_what_may_not_stand_side_by_side(tmp_path):
    first = write(tmp_path / "a", 1.0)
    with pytest.raises(UserError, match="different num: 500 and 1000"):
        compare_runs([first, write(tmp_path / "b", 1.0, num=500)])
    with pytest.raises(UserError, match="has no evaluation yet"):
        compare_runs([first, tmp_path])
    with pytest.raises(UserError, match="at least one run"):
        compare_runs([])
    (first / "evaluation" / "evaluation.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        compare_runs([first])


@pytest.mark.parametrize("name", ["exp[b]", "run [final]", "a:smile:"])
def test_brackets_in_names_are_no_markup(tmp_path, capsys, name):
    show_side_by_side((write(tmp_path / name, 1.0),))
    head = capsys.readouterr().out.partition("fd[tiny@8]")[0]
    assert name in head


def test_groups_of_one_name_are_told_apart_by_their_folders(tmp_path):
    runs = [write(tmp_path / place / "vae", 1.0, width=width) for width, place in enumerate("ab")]
    assert [group.name for group in compare_runs(runs)[0]] == [str(run) for run in runs]


def test_evaluations_of_earlier_versions_are_read(tmp_path):
    """They call metrics figures."""
    run = write(tmp_path / "run", 1.0)
    path = run / "evaluation" / "evaluation.json"
    path.write_text(path.read_text().replace('"metrics"', '"figures"'))
    assert compare_runs([run])[0][0].metrics["fd[tiny@8]"].mean == 1


def test_fields_that_an_experiment_marks_are_ignored_too(tmp_path):
    """config.json names them, so that the experiment need not be run."""
    runs = [write(tmp_path / str(i), 1.0, width=i) for i in range(2)]
    assert len(compare_runs(runs)[0]) == 2
    for run in runs:
        saved = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps({**saved, "uncompared": ["width"]}))
    assert len(compare_runs(runs)[0]) == 1
