"""Names of earlier versions, so that the copies of experiments that old runs keep still work."""

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, get_args, get_type_hints

from jimgen.data.dataset import DataSpec
from jimgen.methods.method import Build, Method
from jimgen.runs.config import CONTAINED_RUN

MOVED = {  # modules that experiments import
    "jimgen.diffusion": "jimgen.sampling.diffusion",
    "jimgen.samplers": "jimgen.sampling.solvers",
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


def _old_modules() -> dict[str, ModuleType]:
    """The modules of earlier versions by name: today's, with the names that have gone elsewhere since."""
    from jimgen.data.batches import scale_batch
    from jimgen.methods import flow, gan, likelihoods, masked, meanflow, vae
    from jimgen.runs.config import RunConfig
    from jimgen.sampling import guidance, logits, posterior, solvers
    from jimgen.train_step import eval_variables

    of_guidance = {name: vars(guidance)[name] for name in ("Guidance", "PLAIN", "guidance_weight", "guide")}
    old = {name: _with(importlib.import_module(now)) for name, now in MOVED.items()}
    vars(old["jimgen.diffusion"]).update(of_guidance)
    inpainting = {"inpaint": posterior.inpaint, "renoise": posterior.renoise}
    vars(old["jimgen.samplers"]).update(inpainting, dpm_solver=solvers.dpmpp_2m)
    vars(old["jimgen.run_folder"]).update(CONTAINED_RUN=CONTAINED_RUN)
    return old | {
        "jimgen.loop": _with(
            ModuleType("jimgen.loop"), RunConfig=RunConfig, scale_images=scale_batch, eval_variables=eval_variables
        ),
        "jimgen.sampling_logits": _with(logits, guide_logits=guidance.guide),
        "jimgen.methods.flow": _with(flow, as_mask=posterior.as_mask),
        "jimgen.methods.gan": _with(gan, gan=_with_num_classes(gan.gan)),
        "jimgen.methods.vae": _with(
            vae,
            vae=_with_num_classes(vae.vae),
            Likelihood=likelihoods.Likelihood,
            bernoulli=likelihoods.bernoulli,
            gaussian=likelihoods.gaussian,
        ),
        "jimgen.methods.masked": _with(masked, masked=_with_old_keywords(masked.masked)),
        "jimgen.methods.meanflow": _with(meanflow, mean_flow=_with_old_keywords(meanflow.mean_flow)),
    }


@contextlib.contextmanager
def names_importable() -> Iterator[None]:
    """Within the block, the names of earlier versions can be imported too, and mean today's."""
    old = _old_modules()
    now = {name: sys.modules.get(name) for name in old}
    methods = importlib.import_module("jimgen.methods")
    attributes = {name.rpartition(".")[2]: module for name, module in old.items() if name.startswith(methods.__name__)}
    before = {name: getattr(methods, name) for name in attributes}
    sys.modules.update(old)
    vars(methods).update(attributes)  # `from jimgen.methods import gan` looks here first
    try:
        yield
    finally:
        vars(methods).update(before)
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


def with_labels(method: Method, config: Any, spec: DataSpec) -> Method:
    """The method of a run of an earlier version, which left it to the config to say whether its nets know labels."""
    conditional = getattr(config, "conditional", False) and spec.num_classes > 1
    return method._replace(num_classes=spec.num_classes) if conditional and not method.num_classes else method


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
