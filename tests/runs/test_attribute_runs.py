"""Attributes through every experiment, and from training to a grid of what was asked for."""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from small_runs import EXPERIMENTS, load_experiment, tiny_config

from jimgen.data.dataset import Attribute, DataSpec
from jimgen.errors import UserError
from jimgen.evaluation.asked import balanced_labels, column_in_turn
from jimgen.evaluation.classifier import train_classifier
from jimgen.evaluation.generated import asked_values, read_generated
from jimgen.methods.latents import interpolate
from jimgen.methods.tokenizer import NETS
from jimgen.runs import train
from jimgen.runs.load import load_run
from jimgen.runs.setup import initialise, train_step
from jimgen.runs.subject import draw_images, given_labels, subject_of
from jimgen.train_step import eval_variables

NAMES = sorted(path.stem for path in EXPERIMENTS.glob("*.py"))
HAIR, GLASSES = Attribute("hair", ("black", "red")), Attribute("glasses", ("none", "round", "half"))
SPEC = DataSpec("faces", (8, 8, 1), 1, ("all",), 96, 96, "0" * 64, (HAIR, GLASSES))


def untrained_tokenizer(workdir: str, spec: DataSpec):
    """What `load_tokenizer` returns, with zeros for weights."""
    tokenizer = load_experiment("tokenizer").build(tiny_config("tokenizer", Path(workdir), codes=8), spec)
    shapes = jax.eval_shape(partial(initialise, tokenizer.method, spec, 0)).variables
    return tokenizer, {net: jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes[net]) for net in NETS}


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_takes_attributes(name, tmp_path, monkeypatch):
    """By shapes alone: a step, and what its method draws from labels of three columns."""
    config_class = load_experiment(name).Config
    conditional = {"conditional": True} if "conditional" in config_class.__dataclass_fields__ else {}
    if hasattr(load_experiment(name), "load_tokenizer"):
        monkeypatch.setattr(load_experiment(name), "load_tokenizer", untrained_tokenizer)
        conditional["tokenizer"] = "none"
    config = tiny_config(name, tmp_path, **conditional)
    made = load_experiment(name).build(config, SPEC)
    method = getattr(made, "method", made)
    assert method.num_classes == (SPEC.conditions if "conditional" in conditional else 0)
    state = jax.eval_shape(partial(initialise, method, SPEC, 0))
    of = jax.ShapeDtypeStruct
    labels, key = of((8, 3), jnp.int32), jax.eval_shape(lambda: jax.random.key(0))
    batch = {"image": of((8, *SPEC.shape), jnp.uint8), "label": labels, "index": of((8,), jnp.int32)}
    jax.eval_shape(train_step(method, config), state, batch, key)
    variables = jax.eval_shape(eval_variables, state)
    images = jax.eval_shape(method.sample, variables, key, labels)
    assert images.shape == (8, *SPEC.shape)
    if method.inpaint is not None:
        mask = of((8, 8, 8), jnp.bool_)
        assert jax.eval_shape(method.inpaint, variables, key, images, mask, labels).shape == images.shape
    if method.space is not None:
        walk = jax.eval_shape(partial(interpolate, method.space, steps=3), variables, key, labels)
        assert walk.shape == (8, 3, *SPEC.shape)
    if method.evaluate is not None:
        jax.eval_shape(method.evaluate, variables, {**batch, "image": of((8, *SPEC.shape), jnp.float32)}, key)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A flow trained for two steps on pictures whose level tells their attributes."""
    folder = tmp_path_factory.mktemp("attributes")
    labels = np.array([[hair, glasses] for hair in range(2) for glasses in range(3)] * 16)
    images = (40 * (3 * labels[:, 0] + labels[:, 1])).astype(np.uint8)[:, None, None] + np.zeros((96, 8, 8), np.uint8)
    names = {"attribute_names": np.array(["hair", "glasses"])}
    names["attribute_values"] = np.array([["black", "red", ""], ["none", "round", "half"]])
    both = {
        f"{split}_{kind}": x for split in ("train", "test") for kind, x in (("images", images), ("attributes", labels))
    }
    np.savez(folder / "set.npz", **both, **names)
    config = tiny_config("flow", folder / "run", data=f"npz:{folder / 'set.npz'}", patch=4, size=None)
    train.run(config, load_experiment("flow").build)
    return load_run(folder / "run")


def test_a_run_remembers_its_attributes_and_draws_them_in_a_grid(run):
    assert run.spec.attributes == (HAIR, GLASSES) and run.conditional
    with Image.open(run.folder / "samples" / "real.png") as sheet:
        levels = np.asarray(sheet)[24::54, 24::54, 0]
    assert levels.shape == (8, 2)  # hair in columns, as there is no class
    assert (levels[:, 0] < 120).all() and (levels[:, 1] >= 120).all()


def test_labels_in_turn_with_some_given(run):
    """Where values are given, the other attributes are left open, unless one is to be shown in turn."""
    assert column_in_turn(run.spec) == 1 and column_in_turn(run.spec, {1: 0}) == 0
    assert balanced_labels(run.spec, 3).tolist() == [[0, 0, 3], [0, 1, 3], [0, 0, 3]]
    assert balanced_labels(run.spec, 3, {1: 1}).tolist() == [[0, 1, 3]] * 3
    assert balanced_labels(run.spec, 2, {1: 1}, turn=2).tolist() == [[0, 1, 0], [0, 1, 1]]


def test_what_is_asked_for_is_drawn_and_written(run, tmp_path):
    from jimgen.commands.images import sample

    sample(run.folder, num=6, set=("hair=red",), by="glasses", out=tmp_path / "drawn.npz")
    drawn = read_generated(tmp_path / "drawn.npz")
    assert drawn.labels.tolist() == [[0, 1, 0], [0, 1, 1], [0, 1, 2]] * 2
    assert drawn.attributes == run.spec.attributes
    sample(run.folder, num=3, by="hair", out=tmp_path / "drawn")  # glasses are left open
    lines = (tmp_path / "drawn" / "labels.csv").read_text().splitlines()
    assert lines == ["file,hair,glasses"] + [
        f"0000/{i:06d}.png,{hair},any" for i, hair in enumerate(HAIR.values + ("black",))
    ]
    for path in ("drawn", "drawn.npz"):
        sample(run.folder, num=3, by="hair", out=tmp_path / "again" / path)
        read = read_generated(tmp_path / "again" / path)
        assert asked_values(read, run.spec).tolist() == [[0, 0, 3], [0, 1, 3], [0, 0, 3]]
    sample(run.folder, num=6, out=tmp_path / "drawn.png")
    with Image.open(tmp_path / "drawn.png") as sheet:
        assert sheet.width == 17 * 6  # two columns


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"set": ("hair=rad",)}, "did you mean red"),
        ({"set": ("hat=red",)}, "no attribute 'hat'"),
        ({"by": "glases"}, "did you mean glasses"),
        ({"by": "hair", "set": ("hair=red",)}, "--set gives it one value"),
        ({"by": "hair", "classes": "frequency"}, "give one of them"),
    ],
)
def test_what_is_not_there_is_not_drawn(run, tmp_path, options, message):
    from jimgen.commands.images import sample

    with pytest.raises(UserError, match=message):
        sample(run.folder, num=2, out=tmp_path / "drawn.png", **options)


def test_inpainting_leaves_the_class_open_where_there_are_attributes(run, tmp_path, monkeypatch):
    from jimgen.commands import images

    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(tmp_path / "picture.png")
    of_classes = run._replace(spec=run.spec._replace(num_classes=2, class_names=("a", "b")))
    drawn = []
    monkeypatch.setattr(images, "load_run", lambda *_, **__: of_classes)
    monkeypatch.setattr(images, "_fillings", lambda *args: drawn.append(args[-1]) or np.zeros((2, 8, 8, 1), np.uint8))
    for label in (None, 1):
        options = {"mask": tmp_path / "picture.png", "num": 2, "set": ("hair=red",), "label": label}
        images.inpaint(run.folder, tmp_path / "picture.png", out=tmp_path / "filled.png", **options)
    assert [labels.tolist() for labels in drawn] == [[[2, 1, 3]] * 2, [[1, 1, 3]] * 2]


def test_other_data_must_have_the_labels_of_the_run(run):
    with pytest.raises(UserError, match=r"--data digits has other labels .*class \(10 .*glasses \(3 values"):
        draw_images(run, 4, 0, "frequency", data_name="digits")


def test_quality_is_measured_on_labels_as_in_training(run, monkeypatch):
    from jimgen.evaluation import quality
    from jimgen.evaluation.asked import frequent_labels
    from jimgen.runs.subject import load_data

    class Drawn(Exception):
        pass

    def generate(method, variables, key, labels):
        raise Drawn(labels.tolist())

    monkeypatch.setattr(quality, "generate", generate)
    dataset = load_data(run.config)
    options = {"metric": "fd", "num": 20, "extractor": "digits_classifier"}
    with pytest.raises(Drawn) as drawn:
        quality.measure_quality(run.method, {}, jax.random.key(0), dataset, **options)
    assert drawn.value.args[0] == frequent_labels(dataset, 20, 0).tolist()


def test_labels_as_in_training(run):
    drawn = draw_images(run, 60, 1, "frequency", given_labels(run, None, ["glasses=round"]))
    assert (drawn.labels[:, 2] == 1).all() and 15 < drawn.labels[:, 1].sum() < 45
    larger = draw_images(run, 80, 1, "frequency", given_labels(run, None, ["glasses=round"]))
    np.testing.assert_array_equal(larger.labels[:60], drawn.labels)


def test_agreement_of_real_pictures_and_of_wrong_ones(run, tmp_path, monkeypatch):
    """A classifier of the attributes finds them in real pictures, and nothing in those with shuffled labels."""
    from jimgen.evaluation import agreement
    from jimgen.runs.subject import load_data

    monkeypatch.setattr(agreement, "STEPS", 40)
    monkeypatch.setattr(agreement, "train_classifier", partial(train_classifier, batch_size=24))
    monkeypatch.setenv("JIMGEN_CACHE", str(tmp_path))
    dataset = load_data(run.config)
    images, labels = dataset.test
    right = agreement.agreement(images, labels, dataset)
    assert right == {name: 100.0 for name in ("agreement[hair]", "agreement[glasses]", "agreement[all]")}
    wrong = labels.copy()
    wrong[:, 1] = 1 - wrong[:, 1]
    wrong[::2, 2] = 3  # left open: not counted
    found = agreement.agreement(images, wrong, dataset)
    assert found == {"agreement[hair]": 0.0, "agreement[glasses]": 100.0, "agreement[all]": 0.0}
    with pytest.raises(UserError, match="drawn for values"):
        agreement.agreement(images, np.full_like(labels, 3), dataset)
    with pytest.raises(UserError, match="a run with --conditional"):
        agreement.agreement(images, None, dataset)


def test_agreement_that_cannot_be_told_is_refused_before_anything_is_measured(run, tmp_path, monkeypatch):
    from jimgen.evaluation.evaluate import evaluate
    from jimgen.runs.subject import load_data

    monkeypatch.setattr("jimgen.evaluation.evaluate.measure", None)
    subject, _ = subject_of(run.folder, 40, 0, None, tmp_path / "evaluation")
    drawn = subject.generated._replace(labels=None)
    with pytest.raises(UserError, match="agreement needs images with labels of the attributes"):
        evaluate(subject._replace(generated=drawn), load_data(run.config), metrics=["fd", "agreement"])


def test_evaluation_draws_labels_as_in_training_and_measures_agreement(run, tmp_path, monkeypatch):
    from jimgen.evaluation.evaluate import default_metrics, evaluate
    from jimgen.runs.subject import load_data

    monkeypatch.setattr("jimgen.evaluation.agreement.STEPS", 3)
    monkeypatch.setenv("JIMGEN_CACHE", str(tmp_path))
    subject, _ = subject_of(run.folder, 40, 0, None, tmp_path / "evaluation")
    assert subject.about["classes"] == "frequency"
    dataset = load_data(run.config)
    assert default_metrics(subject.generated, dataset)[-1] == "agreement"
    evaluate(subject, dataset, extractors=["digits_classifier"], metrics=["fd", "agreement"])
    found = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())["metrics"]
    assert {"agreement[hair]", "agreement[all]"} <= found.keys()
    assert found["agreement[hair]"].keys() == {"value", "real", "gaussian"}
