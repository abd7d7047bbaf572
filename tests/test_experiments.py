"""Every file of experiments/ runs."""

import ast
import math
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from small_runs import (
    EXPERIMENTS,
    figures_of,
    load_experiment,
    rows_of,
    saved_hash,
    saved_steps,
    tiny_config,
    tiny_flags,
)

from jimgen.data.dataset import DataSpec
from jimgen.errors import UserError
from jimgen.runs import train
from jimgen.runs.config import contained_runs
from jimgen.runs.setup import build_method, initialise
from jimgen.train_step import eval_variables

NAMES = sorted(path.stem for path in EXPERIMENTS.glob("*.py"))


def test_there_are_experiments():
    assert {"dcgan", "vae"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_experiment_trains_and_resumes(name, tmp_path):
    """From the command line on digits, as small as its flags allow: finite losses, pictures, checkpoints, a page.

    Begun again from the first of two steps, it ends with the same weights, averages and figures, bit for bit.
    """
    module, run, again = load_experiment(name), tmp_path / "run", tmp_path / "again"
    train.main(module.Config, module.build, tiny_flags(name, run, save_every=1))
    rows = rows_of(run)
    losses = [value for row in rows for metric, value in row.items() if metric.endswith("/loss")]
    assert len(losses) >= 2 and all(math.isfinite(loss) for loss in losses)
    assert all(value == 0 for row in rows for metric, value in row.items() if metric.endswith("/skipped"))
    assert saved_steps(run) == [1, 2]
    for path in ("samples/real.png", "samples/step_00000002.png", "report.html"):
        assert (run / path).exists()
    shutil.copytree(run, again)
    shutil.rmtree(again / "checkpoints" / "2")
    (again / "metrics.jsonl").write_text("".join((run / "metrics.jsonl").read_text().splitlines(keepends=True)[:1]))
    train.run(tiny_config(name, again, save_every=1), module.build)
    assert saved_hash(again) == saved_hash(run)
    assert figures_of(again) == figures_of(run)


@pytest.mark.parametrize("name", NAMES)
def test_images_need_not_be_square_nor_opaque(name, tmp_path):
    """8x12 with four channels (tokens and latents: one, as their runs): all that a method draws has this shape."""
    size, module = (8, 12), load_experiment(name)
    config = tiny_config(name, tmp_path / "run", size=size)
    shape = (*size, 1 if contained_runs(config) else 4)
    spec = DataSpec("drawn", shape, 10, tuple("0123456789"), 20, 10, "0" * 64)
    method = build_method(config, module.build, spec).method
    state = jax.eval_shape(partial(initialise, method, spec, 0))
    key, labels = jax.eval_shape(lambda: jax.random.key(0)), jax.ShapeDtypeStruct((3,), jnp.int32)
    images, known = jax.ShapeDtypeStruct((3, *shape), jnp.float32), jax.ShapeDtypeStruct((3, *size), bool)
    variables = jax.eval_shape(eval_variables, state)
    drawn = {"sample": jax.eval_shape(method.sample, variables, key, labels)}
    if method.reconstruct:
        drawn["reconstruct"] = jax.eval_shape(method.reconstruct, variables, images, labels)
    if method.inpaint:
        drawn["inpaint"] = jax.eval_shape(method.inpaint, variables, key, images, known, labels)
    assert {what: found.shape for what, found in drawn.items()} == {what: (3, *shape) for what in drawn}


@pytest.mark.parametrize(
    ("name", "size", "fits"),
    [
        ("dcgan", (31, 45), "Use 32x44 images"),  # it halves as often as it can: only odd sides are too many
        ("vae", (31, 45), "Use 32x44 images"),
        ("conditional_vae", (31, 45), "Use 32x44 images"),
        ("hierarchical_vae", (30, 46), "Use 32x48 images"),
        ("tokenizer", (30, 46), "Use 32x48 images"),
        ("autoencoder", (30, 46), "Use 32x48 images"),
        ("flow", (30, 46), "or 32x48 images"),
        ("pixel_transformer", (30, 46), "or 32x48 images"),
    ],
)
def test_a_size_that_no_net_takes_is_told_with_one_that_fits(name, size, fits):
    module = load_experiment(name)
    spec = DataSpec("drawn", (*size, 3), 1, ("all",), 20, 10, "0" * 64)
    with pytest.raises(UserError, match=fits):
        build_method(module.Config(), module.build, spec)


@pytest.mark.parametrize("name", NAMES)
def test_experiment_says_what_it_is(name):
    """Its docstring opens with one line, gives the command and the result; each field of its config is explained."""
    source = (EXPERIMENTS / f"{name}.py").read_text()
    first, _, rest = ast.get_docstring(ast.parse(source)).partition("\n")
    assert first.endswith(".") and f"python experiments/{name}.py" in rest and "\nResult" in rest
    config = next(node for node in ast.parse(source).body if getattr(node, "name", "") == "Config")
    for field, after in zip(config.body, [*config.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign):
            assert isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant), field.target.id
