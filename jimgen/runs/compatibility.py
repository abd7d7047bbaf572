"""Names of earlier versions, so that the copies of experiments that old runs keep still work."""

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, get_args, get_type_hints

from jimgen.methods.method import Build, Method
from jimgen.runs.config import CONTAINED_RUN

MOVED = {  # modules that experiments import
    "jimgen.diffusion": "jimgen.sampling.diffusion",
    "jimgen.samplers": "jimgen.sampling.solvers",
    "jimgen.sampling_logits": "jimgen.sampling.logits",
    "jimgen.nets.stems": "jimgen.nets.embeddings",
    "jimgen.run_folder": "jimgen.runs.folder",
    "jimgen.tokenizer_run": "jimgen.runs.tokenizer",
}
KEYWORDS = {"same_time": "r_equals_t", "randomness": "choice_temperature"}  # of methods, and fields of configs
SAMPLERS = {"dpm_solver": "dpmpp_2m"}
DRAWING_FIELDS = {  # names that stand for DRAWING in configs without metadata
    *("guidance", "guidance_interval", "guidance_schedule", "sampler", "num_steps", "choice_temperature", "randomness"),
    *("temperature", "top_k", "top_p", "tokenizer", "attention", "dtype"),
}


@contextlib.contextmanager
def names_importable() -> Iterator[None]:
    """Within the block, the names of earlier versions can be imported too, and mean today's."""
    from jimgen.methods import gan, masked, meanflow, vae
    from jimgen.sampling import guidance, solvers

    old = {name: _with(importlib.import_module(now)) for name, now in MOVED.items()}
    vars(old["jimgen.diffusion"]).update(Guidance=guidance.Guidance)
    vars(old["jimgen.samplers"]).update(dpm_solver=solvers.dpmpp_2m)
    vars(old["jimgen.run_folder"]).update(CONTAINED_RUN=CONTAINED_RUN)
    old |= {
        "jimgen.methods.gan": _with(gan, gan=_with_num_classes(gan.gan)),
        "jimgen.methods.vae": _with(vae, vae=_with_num_classes(vae.vae)),
        "jimgen.methods.masked": _with(masked, masked=_with_old_keywords(masked.masked)),
        "jimgen.methods.meanflow": _with(meanflow, mean_flow=_with_old_keywords(meanflow.mean_flow)),
    }
    now = {name: sys.modules.get(name) for name in old}
    sys.modules.update(old)
    try:
        yield
    finally:
        for name, module in now.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def build_of(module: ModuleType) -> Build:
    """The `build` of an experiment. In earlier versions it returned a bare Method; another function had the rest."""

    def build(config: Any, data: Any) -> Any:
        made = module.build(config, data)
        for name in ("build_tokenizer", "build_autoregressive"):
            if isinstance(made, Method) and hasattr(module, name):
                made = getattr(module, name)(config, data)
        return made

    return build


def renamed(values: Mapping[str, Any], config_class: type | None = None) -> dict[str, Any]:
    """A saved config under today's names; with a class, only where it has these and not those of earlier versions."""
    hints = get_type_hints(config_class) if config_class else None

    def name_of(name: str) -> str:
        now = KEYWORDS.get(name, name)
        return now if hints is None or (now in hints and name not in hints) else name

    found = {name_of(name): value for name, value in values.items()}
    sampler = found.get("sampler")
    if sampler in SAMPLERS and (hints is None or sampler not in get_args(hints.get("sampler"))):
        found["sampler"] = SAMPLERS[sampler]
    return found


def drawing_fields(config: Any) -> list[str]:
    """The names of the fields that only sampling depends on, of a config without metadata."""
    names = list(get_type_hints(type(config)))
    learned = {"guidance"} if {"r_equals_t", "same_time"} & {*names} else set()  # mean flows are trained with it
    return [name for name in names if name in DRAWING_FIELDS - learned]


def _with(module: ModuleType, **names: Any) -> ModuleType:
    """A module with the content of another one, and more."""
    copy = ModuleType(module.__name__)
    vars(copy).update({**vars(module), **names})
    return copy


def _with_num_classes(method: Callable[..., Any]) -> Callable[..., Any]:
    """gan or vae for callers that do not pass num_classes: it is taken from the first net."""

    def wrapped(first: Any, *args: Any, **options: Any) -> Any:
        return method(first, *args, **{"num_classes": getattr(first, "num_classes", 0), **options})

    return wrapped


def _with_old_keywords(method: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*args: Any, **options: Any) -> Any:
        return method(*args, **{KEYWORDS.get(name, name): value for name, value in options.items()})

    return wrapped
