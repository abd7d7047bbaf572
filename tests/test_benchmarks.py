"""The speed benchmark: its workloads are what they are said to be, and so is its count of work."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import ROOT
from tiny import largest_difference

from jimgen.nets.transformer import grid_positions

BATCH = 2
TINY = {"gpt": {"width": 32, "depth": 1}, "dit": {"width": 64, "depth": 1, "size": 8}}


@pytest.fixture
def throughput(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr("jimgen.cpu.keep_freed_memory", lambda: None)
    import throughput

    return throughput


@pytest.fixture
def workloads(throughput):
    import workloads

    return workloads


@pytest.mark.parametrize(
    ("name", "nets"),
    [
        ("dcgan", {"generator": 1_066_880, "discriminator": 661_248}),
        ("sngan", {"generator": 367_041, "discriminator": 263_489}),
        ("vae", {"encoder": 722_016, "decoder": 707_425}),
        ("r1", {"generator": 1_066_880, "discriminator": 660_929}),
        ("gpt", {"net": 5_053_184}),
        ("dit", {"net": 7_375_376}),
    ],
)
def test_number_of_parameters(throughput, workloads, name, nets):
    method = workloads.build(name).method
    variables = jax.eval_shape(method.init, jax.random.key(0), workloads.example_batch(2, 32))
    assert throughput.count_params(variables) == nets


@pytest.mark.parametrize("task", ["train", "sample"])
@pytest.mark.parametrize("name", ["gpt", "dit"])
def test_a_transformer_is_measured(throughput, capsys, name, task):
    args = throughput.Args(workload=name, task=task, batch=BATCH, steps=2, warmup=0, **TINY[name])
    throughput.check(args)
    throughput.measure(args)
    first, *rates = capsys.readouterr().out.splitlines()
    result = json.loads(first.removeprefix("RESULT "))
    assert [rate.split(": ")[0] for rate in rates] == ["images_per_cpu_s", "images_per_s"]
    assert all(np.isfinite(value) for value in result["losses"].values()) and len(result["losses"]) == (task == "train")
    assert result["gflop"] > 0 and result["width"] == TINY[name]["width"]


def test_gpt_decodes_what_it_reads(workloads):
    """Token by token from the cache come the logits of one pass, and no token sees the ones after it."""
    net = workloads.GPT(workloads.Backbone(16, 1, 2, norm="layer", mlp="gelu", qk_norm=False), 7, 5)
    tokens = jax.random.randint(jax.random.key(0), (3, 5), 0, 7)

    @jax.jit
    def both(key):
        variables = net.init(key, tokens)

        def step(cache, i):
            seen = jnp.where(jnp.arange(5)[None] < i, tokens, 0)
            logits, cache = net.apply(variables, cache, seen, i, method="decode")
            return cache, logits

        one_by_one = jax.lax.scan(step, net.backbone.empty_cache(3, 5), jnp.arange(5))[1]
        return one_by_one.swapaxes(0, 1), net.apply(variables, tokens)

    one_by_one, together = both(jax.random.key(1))
    np.testing.assert_allclose(one_by_one, together, atol=1e-5)


def test_dit_has_no_rotary_positions(workloads):
    plain, deaf = (cls(16, 1, 2) for cls in (workloads.Backbone, workloads.WithoutRotary))
    x, positions = jax.random.normal(jax.random.key(0), (1, 6, 16)), grid_positions(2, 3)

    @jax.jit
    def outputs(key):
        variables = plain.init(key, x)
        told = deaf.apply(variables, x, positions=positions)
        return told, plain.apply(variables, x), plain.apply(variables, x, positions=positions)

    told, without, rotated = outputs(jax.random.key(1))
    assert largest_difference(told, without) < 1e-6 < 1e-4 < largest_difference(told, rotated)


@pytest.mark.parametrize(("depth", "attention"), [(1, "einsum"), (12, "cudnn")])
def test_flop_of_gpt(throughput, depth, attention):
    """Matrix products take 2 FLOPs a parameter and token, attention 4 t d a token; backward passes twice that.

    Also of 12 blocks, which are scanned, and of cuDNN's attention, which runs on no CPU.
    """
    width, tokens = 256, BATCH * 256
    args = throughput.Args(workload="gpt", batch=BATCH, width=width, depth=depth, attention=attention)
    products = 2 * tokens * (depth * 12 * width**2 + width * 512)
    expected = products + depth * 4 * tokens * 256 * width
    assert throughput.count_flop(args) == pytest.approx(3 * expected, rel=0.03)


def test_flop_of_sampling(throughput):
    """A sampler's loop counts in all its turns."""
    args = throughput.Args(workload="dit", task="sample", batch=BATCH)
    tokens = BATCH * 64
    blocks = 6 * (2 * tokens * 12 * 256**2 + 4 * tokens * 64 * 256 + 2 * BATCH * 6 * 256**2)
    assert throughput.count_flop(args) == pytest.approx(50 * blocks, rel=0.05)


@pytest.mark.parametrize(
    "changed",
    [
        {"workload": "vae", "task": "sample"},
        {"workload": "gpt", "task": "sample", "mode": "pmap"},
        {"workload": "gpt", "patch": 2},
        {"workload": "r1", "depth": 2},
        {"workload": "gpt", "width": 48},
        {"workload": "dit", "width": 32},
    ],
)
def test_what_there_is_not(throughput, changed):
    with pytest.raises(SystemExit, match="error: .*--(task|mode|patch|depth|width)"):
        throughput.check(throughput.Args(**changed))


@pytest.mark.parametrize(("name", "told"), [("dcgan", []), ("dit", ["--mode", "train"])])
def test_against_another_script(throughput, monkeypatch, capsys, name, told):
    """Both are told the sizes, and the other one the task, where it has several."""
    commands = []

    def run(command, **options):
        commands.append(command)
        rate = 6.0 if command[1] == throughput.__file__ else 4.0
        return subprocess.CompletedProcess(command, 0, f"images_per_cpu_s: {rate}\nimages_per_s: {rate}\n", "")

    monkeypatch.setattr(throughput.subprocess, "run", run)
    args = throughput.Args(workload=name, against="/a/b.py", other_flags="--dtype bf16", repeats=2, batch=3)
    throughput.compare(args)
    sizes = ["--batch", "3", "--steps", "30", "--warmup", "5"]
    assert commands[1] == commands[3] == [sys.executable, "/a/b.py", *told, *sizes, "--dtype", "bf16"]
    assert f"--workload={name}" in commands[0] and "--task=train" in commands[0] and commands[0][-6:] == sizes
    assert capsys.readouterr().out.count("6.0 against 4.0, ratio 1.500 (1.50, 1.50)") == 2
