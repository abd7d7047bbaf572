"""The benchmark for borrowed accelerators: what it writes, in a toy size on CPU, and how it keeps to its time."""

import json
import math
import sys
import time

import jax
import jax.numpy as jnp
import pytest
from small_runs import ROOT

from jimgen.errors import UserError

PYTORCH_SCRIPT = """
import sys
assert "--mode=train" in sys.argv and "--device=cpu" in sys.argv, sys.argv
if "--compile=default" in sys.argv:
    sys.exit("it does not compile")
print("RESULT " + '{"ms_median": 4.0, "first_step_s": 0.5, "torch": "2.0"}')
"""


@pytest.fixture
def accelerator(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import accelerator

    return accelerator


@pytest.fixture
def forms(accelerator):
    import accelerator_forms

    return accelerator_forms


@pytest.fixture
def training(accelerator):
    import accelerator_train

    return accelerator_train


@pytest.fixture
def quick_training(training, monkeypatch):
    """Commands that leave what a training and an evaluation leave, at once; returns the list of those that ran."""
    commands = []

    def run_until(command, seconds, stopped_by_us=None):
        commands.append(command)
        if "evaluate" in command:
            folder = training.Path(command[command.index("evaluate") + 1]) / "evaluation"
            folder.mkdir()
            figures = {"fd[digits_classifier@16]": {"value": 3.0, "real": 0.5, "gaussian": 4.0}}
            (folder / "evaluation.json").write_text(json.dumps({"metrics": figures}))
            return
        folder = training.Path(command[-1].removeprefix("--workdir="))
        (folder / "checkpoints" / "2").mkdir(parents=True)
        (folder / "metrics.jsonl").write_text('{"step": 2, "images_per_s": 50.0}\n{"step": 2, "test/loss": 1.0}\n')

    monkeypatch.setattr(training, "_run_until", run_until)
    return commands


@pytest.fixture
def scripts(training, monkeypatch, tmp_path):
    """A folder with a script in the place of PyTorch's GPT, which takes no torch."""
    monkeypatch.setattr(training, "without_torch", lambda python: None)
    folder = tmp_path / "peers"
    folder.mkdir()
    (folder / "bench_ar.py").write_text(PYTORCH_SCRIPT)
    return folder


def test_every_part_is_measured_or_says_why_not(accelerator, quick_training, scripts, tmp_path):
    out = tmp_path / "a" / "results.json"
    args = accelerator.Args(minutes=20, size="toy", workloads="gpt", peers=scripts, out=out, peak_tflops=1e-6)
    accelerator.check(args)
    rows = accelerator.run(args)
    assert json.loads(out.read_text())["rows"] == rows
    found = {part: [row for row in rows if row["part"] == part] for part in accelerator.PARTS}
    measured = {part: [row["result"] for row in of_part if "result" in row] for part, of_part in found.items()}
    assert {part for part, results in measured.items() if not results} == {"compiled"}
    assert {(row["part"], row["status"], row["what"].get("attention")) for row in rows if "result" not in row} == {
        ("attention", "skipped", "cudnn"),
        ("train", "skipped", "cudnn"),
        ("compiled", "failed", None),
    }
    assert all("does not compile" in row["reason"] for row in found["compiled"])

    steps = measured["train"] + measured["large"]
    assert [row["what"]["dtype"] for row in found["train"]] == ["float32", "bfloat16", "bfloat16"]
    positive = ("images_per_s", "waiting_images_per_s", "ms", "compile_s", "tflop_per_s", "mfu", "peak_mib")
    assert all(0 < step[name] < math.inf for step in steps for name in positive)
    assert all(step["loss"] == pytest.approx(math.log(512), rel=0.1) for step in steps)  # of 512 codes, drawn uniformly
    for row in found["attention"] + found["convolution"] + found["grouped"]:
        close = 1e-5 if row["what"]["dtype"] == "float32" else 0.02
        assert all(0 <= value < close for name, value in row.get("result", {}).items() if "difference" in name)
        assert all(0 < value < math.inf for name, value in row.get("result", {}).items() if name.endswith("ms"))
    assert measured["training"][0] | {"images": 128, "images_per_s": 50.0, "fd": 3.0} == measured["training"][0]
    assert quick_training[1][-2:] == ["--num=64", "--extractors=digits_classifier"]


def test_tables(accelerator):
    """The fastest form is bold, PyTorch stands beside the fastest of ours, and equal reasons are told once."""
    step = {"workload": "gpt", "dtype": "bfloat16", "batch": 64}
    rows = [
        {"part": "train", "what": step, "status": "measured", "result": {"waiting_images_per_s": 300.0}},
        {
            **{"part": "train", "what": step | {"attention": "cudnn"}, "status": "measured"},
            "result": {"waiting_images_per_s": 500.0, "images_per_s": 1234.5},
        },
        {"part": "train", "what": step | {"depth": 1}, "status": "measured", "result": {"waiting_images_per_s": 9e9}},
        {"part": "pytorch", "what": step, "status": "measured", "result": {"pytorch_images_per_s": 400.0}},
        *({"part": "compiled", "what": {"n": n}, "status": "skipped", "reason": "no torch"} for n in range(4)),
    ]
    picture = {"operation": "transposed", "picture": "4x4", "batch": 2, "dtype": "float32"}
    for form, ms in (("native", 2.0), ("phases", 1.0)):
        result = {"ms": ms, "difference": 1e-6 * ms}
        rows.append({"part": "convolution", "what": picture | {"form": form}, "status": "measured", "result": result})
    text = accelerator.tables({"date": "2026-01-02", "command": "python x.py", "minutes": 1}, rows)
    assert "## device not asked for, 2026-01-02" in text and "python x.py" in text
    assert "| gpt | bfloat16 | 64 | 500 | cudnn | 400 | 1.25 |" in text
    assert "| transposed | 4x4 | 2 | float32 | 2 | **1** | 2e-06 |" in text
    assert "- compiled (4): skipped: no torch" in text
    assert "| gpt | bfloat16 | cudnn | 64 | 1,234 |" not in text  # a size is a column where there is one
    assert "| gpt |  | bfloat16 | cudnn | 64 | 1,234 |" in text


def test_without_time_all_is_not_reached(accelerator, tmp_path, capsys):
    out = tmp_path / "results.json"
    rows = accelerator.run(accelerator.Args(minutes=0.01, out=out))
    assert {row["status"] for row in json.loads(out.read_text())["rows"]} == {"not reached"}
    assert {row["part"] for row in rows} == set(accelerator.PARTS)
    assert "not reached" in out.with_suffix(".md").read_text() and f"{len(rows)} not reached" in capsys.readouterr().out


def test_a_failure_leaves_the_others_and_what_came_before_is_kept(accelerator, monkeypatch, tmp_path):
    out = tmp_path / "results.json"

    def broken():
        assert [row["part"] for row in json.loads(out.read_text())["rows"]] == ["first"]
        raise ValueError("of two\nlines")

    measurements = [
        accelerator.Measurement("first", {}, lambda: {"ms": 1.0}),
        accelerator.Measurement("second", {}, broken),
        accelerator.Measurement("third", {}, lambda: {"skipped": "no reason"}),
    ]
    monkeypatch.setattr(accelerator, "plan", lambda args, left: measurements)
    rows = accelerator.run(accelerator.Args(size="toy", out=out))
    assert [row["status"] for row in rows] == ["measured", "failed", "skipped"]
    assert rows[1]["reason"] == "ValueError: of two"


def test_a_training_is_told_to_stop_when_its_time_is_over(training):
    began = time.monotonic()
    saves = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(143)); print('ready'); time.sleep(60)"
    training._run_until([sys.executable, "-c", saves], 2.0, stopped_by_us=143)
    assert time.monotonic() - began < 30
    with pytest.raises(RuntimeError, match="^stopped after 0 s, when the time was over, status -15"):
        training._run_until([sys.executable, "-c", "import time; time.sleep(60)"], 0.0)
    with pytest.raises(RuntimeError, match="^status 3: it says why"):
        training._run_until([sys.executable, "-c", "print('it says why'); raise SystemExit(3)"], 30, stopped_by_us=143)


def test_flop_are_those_of_direct_convolutions(training):
    """A multiply-add counts as two wherever the kernel lies on the picture; on CPU some convolutions take fewer.

    A VAE's step has two dense layers and three convolutions of 4x4 with stride 2 in each net, and takes twice their
    products again backward, but for the gradient in the picture.
    """
    batch = 64  # beside which Adam's share is small
    taps = {side: (4 * side // 2 - 2) ** 2 for side in (32, 16, 8)}  # within the picture, over all places of a result
    layers = [taps[32] * 1 * 32, taps[16] * 32 * 64, taps[8] * 64 * 128]
    encoder, decoder = [*layers, 2048 * 256, 256 * 128], [64 * 256, 256 * 2048, *layers]
    expected = 2 * batch * (3 * (sum(encoder) + sum(decoder)) - layers[0])
    assert training.count_flop(training.Case("vae", "float32", batch)) == pytest.approx(expected, rel=0.03)


def test_the_forms_lower_for_cuda(forms):
    """Without a device: what a GPU would compile can at least be written down."""
    for picture in (forms.Picture(2, 8, 1, 8, 4, 2), forms.Picture(2, 8, 8, 8, 3, 1)):
        for operation, found in forms.convolution_forms(picture).items():
            for form in found.values():
                inputs = forms.convolution_inputs(operation, picture)
                assert jax.jit(form).trace(*inputs).lower(lowering_platforms=("cuda",)).as_text()
    x = jax.ShapeDtypeStruct((2, 16, 2, 8), jnp.bfloat16)
    for form in ("einsum", "xla"):
        backward = forms.partial(forms.attend_backward, form, True)
        assert jax.jit(backward).trace(x, x, x, x).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize(
    "changed",
    [
        {"parts": "versions,nonsense"},
        {"workloads": ""},
        {"minutes": -1},
        {"peak_tflops": float("nan")},
        {"out": ROOT / "results.txt"},
        {"peers": ROOT / "nowhere"},
    ],
)
def test_arguments_that_make_no_sense_are_refused(accelerator, changed):
    (name,) = changed
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')}"):
        accelerator.check(accelerator.Args(**changed))


@pytest.mark.slow
def test_a_training_and_its_distance(training, tmp_path):
    found = training.train_and_evaluate(training.TOY, tmp_path / "run", lambda: 600, 60)
    assert found["images"] == found["images_asked"] == 128
    assert 0 < found["fd"] < math.inf and 0 < found["fd_of_real_images"] < math.inf
