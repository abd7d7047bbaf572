"""Every experiment lowers for GPUs and TPUs, at its defaults and at the presets of its docstring.

Lowering turns a traced function into the program that a platform's compiler takes. It needs no device of that platform
and no array: shapes are enough. It finds operations and shapes that a platform refuses, not what its compiler refuses.
"""

import ast
import dataclasses
import re
import shlex

import jax
import jax.numpy as jnp
import pytest
import tyro
from runs import EXPERIMENTS, load_experiment

from jimgen import loop
from jimgen.data.dataset import DataSpec
from jimgen.generated import CHUNK
from jimgen.tokenizer_run import NETS

NAMES = sorted(path.stem for path in EXPERIMENTS.glob("*.py"))
PLATFORMS = ("cuda", "tpu")
NATIVE = {"convolution", "reverse", "transpose"}  # the operations of a native convolution and its transpose


def presets(name: str) -> list[list[str]]:
    """The arguments of the commands that a docstring gives under "On an accelerator"."""
    docstring = ast.get_docstring(ast.parse((EXPERIMENTS / f"{name}.py").read_text())) or ""
    _, _, after = docstring.partition("\nOn an accelerator")
    lines = [line.strip() for line in after.partition("\nResult:")[0].splitlines() if line.startswith("    ")]
    commands = [shlex.split(line) for line in lines]  # Python has joined the lines that end in a backslash
    assert all(command[:2] == ["python", f"experiments/{name}.py"] for command in commands), lines
    return [command[2:] for command in commands]


CASES = [
    pytest.param(name, flags, id=f"{name}-{'preset' + str(number) if number else 'defaults'}")
    for name in NAMES
    for number, flags in enumerate([[], *presets(name)])
]


@pytest.fixture(autouse=True)
def no_cudnn(monkeypatch):
    """Attention by XLA in place of cuDNN's: JAX refuses to trace that where it finds no cuDNN, so without a GPU.

    The checks of `cudnn_attention` itself, of dtype and head size, stay.
    """
    attention = jax.nn.dot_product_attention

    def by_xla(*args, **options):
        return attention(*args, **(options | {"implementation": "xla"}))

    monkeypatch.setattr(jax.nn, "dot_product_attention", by_xla)


def config_of(name: str, flags: list[str]):
    return tyro.cli(load_experiment(name).Config, args=flags)


def spec_of(config) -> DataSpec:
    """The data of a config: digits, or a folder of colour pictures, with ten classes."""
    kind = config.data.partition(":")[0]
    shape = {"digits": (8, 8, 1), "folder": (config.size, config.size, config.channels or 3)}[kind]
    return DataSpec(config.data, shape, 10, tuple("0123456789"), num_train=50_000, num_test=10_000, hash="0" * 64)


def tokenizer_config(workdir: str):
    """The config of the tokenizer that a command reads from this folder; the defaults for a command that names none."""
    configs = {config.workdir: config for config in (config_of("tokenizer", flags) for flags in presets("tokenizer"))}
    return configs[workdir] if workdir else config_of("tokenizer", [])


def new_tokenizer(workdir: str, spec: DataSpec):
    """What `load_tokenizer` returns, of an untrained one. Called under `jax.eval_shape`, it makes no arrays."""
    config = tokenizer_config(workdir)
    assert spec_of(config).shape == spec.shape
    tokenizer = load_experiment("tokenizer").build_tokenizer(config, spec)
    variables = loop.initialise(tokenizer.method, spec, config.seed).variables
    return tokenizer, {net: variables[net] for net in NETS}


def built(name: str, config, monkeypatch):
    """The method of a config, and the shapes of its first state."""
    module, spec, methods = load_experiment(name), spec_of(config), []
    if hasattr(module, "load_tokenizer"):
        monkeypatch.setattr(module, "load_tokenizer", new_tokenizer)

    def initialise():
        methods.append(module.build(config, spec))
        return loop.initialise(methods[0], spec, config.seed)

    return jax.eval_shape(initialise), methods[0]


def of_shape(*shape: int, dtype=jnp.int32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def key_shape():
    return jax.eval_shape(lambda: jax.random.key(0))


def traced_step(method, state, config):
    """The train step as `train` compiles it, traced for uint8 images."""
    spec, num = spec_of(config), config.batch_size
    batch = {"image": of_shape(num, *spec.shape, dtype=jnp.uint8), "label": of_shape(num), "index": of_shape(num)}
    return loop.prepare(method, spec, config).run.trace(state, batch, key_shape())


def platform_choices(text: str) -> list[set[str]]:
    """The operations of each form that `lax.platform_dependent` has chosen: such a choice is a case of one branch."""
    branches = re.findall(r'"stablehlo\.case"\(%\w+\) \(\{\n(.*?)\n *\}\) : ', text, re.DOTALL)
    return [set(re.findall(r"stablehlo\.(\w+)", body)) - {"return"} for body in branches if "}, {" not in body]


@pytest.mark.parametrize(("name", "flags"), CASES)
def test_train_step_and_sampler_lower_for_accelerators(name, flags, monkeypatch):
    """With one device, without the forms that are meant for CPUs, and without calls into a CPU's libraries."""
    config = dataclasses.replace(config_of(name, flags), mode="jit")
    state, method = built(name, config, monkeypatch)
    step = traced_step(method, state, config)
    draw = jax.jit(method.sample).trace(loop.eval_variables(state), key_shape(), of_shape(CHUNK))
    for traced in (step, draw):
        for platform in PLATFORMS:
            text = traced.lower(lowering_platforms=(platform,)).as_text()
            assert all("convolution" in form and form <= NATIVE for form in platform_choices(text))
            assert "custom_call" not in text


def test_forms_for_cpus_would_be_noticed(monkeypatch):
    """The check above tells a program for CPUs from one for GPUs."""
    config = dataclasses.replace(config_of("dcgan", []), mode="jit")
    state, method = built("dcgan", config, monkeypatch)
    step = traced_step(method, state, config)
    gpu, cpu = (platform_choices(step.lower(lowering_platforms=(name,)).as_text()) for name in ("cuda", "cpu"))
    assert len(gpu) == len(cpu) >= 10
    assert all(form <= NATIVE for form in gpu) and any("dot_general" in form for form in cpu)


@pytest.mark.parametrize("name", NAMES)
def test_sharded_step_lowers_for_accelerators(name, monkeypatch):
    """As one program for four devices."""
    config = dataclasses.replace(config_of(name, []), mode="sharded", devices=4)
    state, method = built(name, config, monkeypatch)
    step = traced_step(method, state, config)
    for platform in PLATFORMS:
        assert "num_partitions = 4" in step.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("name", NAMES)
def test_there_is_a_preset_for_accelerators(name):
    assert presets(name)
