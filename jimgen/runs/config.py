"""The config that every experiment extends, and what its fields mean for a run.

What a field means stands at the field, as metadata: `width: int = field(default=64, metadata=COUNT)`.
"""

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro

from jimgen.data.fitting import Fitting, fitting_of
from jimgen.errors import UserError
from jimgen.sizes import Size

if TYPE_CHECKING:  # the commands that only read folders start without JAX
    import optax

    from jimgen.conditions import NumClasses
    from jimgen.data.dataset import DataSpec
    from jimgen.train_step import HalfLife

COUNT = {"at_least": 1}  # there must be at least one
SEED = {"at_most": 2**63 - 1}
HOW = {"free": True, "compared": False}  # how a run is carried out, not what it computes: may change on resume
LENGTH = {"free": True}  # may change on resume, but `jimgen compare` tells runs apart by it
CHOOSES_BEST = {"free": True, "compared": "best"}  # likewise, where their best checkpoints are compared
REPETITION = {"compared": False}  # `jimgen compare` averages over it
IN_DATA = {"compared": False}  # what it changes are the data, and `jimgen compare` tells these apart by their hash
DRAWING = {"drawing": True}  # sampling may use another value than training did: --change may change it
NOT_EARLIER = {"earlier": None}  # its value is None in runs of earlier versions, which did not have the field
CONTAINED_RUN = {"contained_run": True}  # names a run; this run keeps a copy of it in its own folder

one_of = tyro.extras.literal_type_from_choices  # the type of a field that names an entry of a table

FIX = "restore it from a copy, or use another --workdir"
Class = TypeVar("Class")
Config = TypeVar("Config", bound="RunConfig")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The options of every experiment. Experiments add their own fields and override defaults.

    Raises:
        UserError: a number out of range: not finite, negative, 0 where at least 1 is needed, or an integer of 2^31 or
            more (2^63 for the seed); or fields that contradict each other.
    """

    data: str = "digits"
    """data set: digits, fashion_mnist, tfds:NAME, folder:PATH (or a .zip of pictures), npz:PATH, or another that
    `jimgen data` lists"""
    size: Size = field(default=None, metadata=IN_DATA)
    """height and width to bring images to, 64 or 64x96; default: as stored"""
    fit: Literal["crop", "resize", "pad"] = field(default="crop", metadata=IN_DATA)
    """way to bring images to --size: the largest centred window of its shape, stretching, or background around"""
    channels: Literal[1, 3, 4] | None = field(default=None, metadata=IN_DATA)
    """number of channels: 1 for grey, 3 for colour, 4 with transparency; default: grey or colour, as stored"""
    background: str = field(default="black", metadata={"compared": "best"})  # that of transparent images decides then
    """colour under transparent pixels and around padded images: black, white or #rrggbb"""
    resample: Literal["bicubic", "nearest"] = field(default="bicubic", metadata=IN_DATA)
    """way to compute pixels of resized images; nearest for pixel art"""
    flip: bool = False
    """mirror training images left to right, each with probability 1/2"""
    crop: Literal["centre", "random"] = field(default="centre", metadata=IN_DATA)
    """part of an image that training sees: the centre, or another part at each step; test images are centred"""
    crop_scale: float = field(default=1.0, metadata=IN_DATA)
    """least size of random parts, as a fraction of the largest one"""
    bits: int | None = field(default=None, metadata=IN_DATA)
    """bits used in 16-bit grey pictures, such as 12; default: as their files say, else 16"""
    without: tuple[str, ...] = field(default=(), metadata=IN_DATA)
    """combinations of attributes to leave out of training, as hair=red+glasses!=none; values of one by commas"""
    data_dir: str | None = field(default=None, metadata=HOW)
    """folder of prepared TFDS data sets"""
    download: bool = field(default=False, metadata=HOW)
    """let tensorflow-datasets download what is missing"""
    strict: bool = field(default=False, metadata=HOW)
    """fail on a corrupt image instead of leaving it out"""
    steps: int = field(default=1000, metadata=COUNT | LENGTH)
    """train steps in all, those before a resume included"""
    batch_size: int = field(default=64, metadata=COUNT)
    """images per step, over all devices"""
    accumulate: int = field(default=1, metadata=COUNT)
    """microbatches that a step is cut into, to save memory"""
    seed: int = field(default=0, metadata=SEED | REPETITION)
    """random seed for initialisation, noise and data order"""
    ema_half_life: float = 20_000
    """half-life of the moving average of the weights, in images, at most 5% of the images seen; 0 for none"""
    workdir: str | None = field(default=None, metadata=HOW)
    """folder of the run; an existing one resumes. Default runs/EXPERIMENT-DATA"""
    mode: Literal["auto", "jit", "pmap", "sharded"] = field(default="auto", metadata=HOW)
    """way to compile: jit (one device), pmap or sharded (all devices); auto: sharded on several devices, else jit"""
    devices: int = field(default=0, metadata=HOW)
    """number of devices to use, the first ones; 0 for all"""
    log_every: int = field(default=50, metadata=COUNT | HOW)
    """steps between lines of metrics.jsonl"""
    sample_every: int = field(default=0, metadata=HOW)
    """steps between sample grids; 0 for a tenth of the run"""
    save_every: int = field(default=500, metadata=COUNT | HOW)
    """steps between checkpoints"""
    eval_every: int = field(default=0, metadata=HOW)
    """steps between evaluations on the test split, where the method has one; 0 for the end only"""
    quality_every: int = field(default=0, metadata=CHOOSES_BEST)
    """steps between measurements of generated images, whose best checkpoint is kept in best/; 0 for none"""
    quality_metric: Literal["fd", "kid", "is", "precision", "recall", "coverage"] = field(
        default="fd", metadata=CHOOSES_BEST
    )
    """metric that decides which checkpoint is the best"""
    quality_num: int = field(default=2000, metadata=CHOOSES_BEST)
    """images generated for each measurement"""
    quality_extractor: str = field(default="", metadata=CHOOSES_BEST)
    """feature extractor; default: the data's own classifier, else efficientnet_lite0@64"""
    keep: int = field(default=3, metadata=COUNT | HOW)
    """checkpoints to keep"""
    max_skipped: int = field(default=20, metadata=COUNT | HOW)
    """non-finite updates in a row after which training stops; checked at each line of metrics.jsonl"""
    profile: bool = field(default=False, metadata=HOW)
    """record steps 3 to 8 of this start in RUN/profile"""
    override: bool = field(default=False, metadata=HOW)
    """continue although the config or the data differ from those of the run"""
    dry_run: bool = field(default=False, metadata=HOW)
    """print parameters, shapes, FLOPs and memory, and stop"""

    def __post_init__(self) -> None:
        for name, meaning in meanings(type(self)).items():
            _check_number(name, getattr(self, name), meaning)
        try:
            self.check()
        except ValueError as error:
            raise UserError(str(error)) from error

    def check(self) -> None:
        """Raises ValueError for fields that contradict each other; experiments extend it."""
        self.fitting()
        if self.batch_size % self.accumulate:
            fits = max(1, round(self.batch_size / self.accumulate)) * self.accumulate
            raise ValueError(
                f"--batch-size {self.batch_size} cannot be cut into {self.accumulate} equal microbatches: use {fits}"
            )

    def ema_schedule(self) -> "HalfLife":
        """The half-life of the moving average, in images; a function of the images seen where it is scheduled."""
        return self.ema_half_life

    def fitting(self) -> Fitting:
        """The form that images are brought to."""
        return fitting_of(**{name: getattr(self, name) for name in Fitting._fields})


@dataclass(frozen=True, kw_only=True)
class ScheduledConfig(RunConfig):
    """A config whose learning rate rises along a line, and then falls to 0 along a cosine."""

    learning_rate: float = 1e-3
    """peak learning rate"""
    warmup_steps: int = 100
    """steps over which the learning rate rises from 0; then it falls to 0 along a cosine"""
    schedule_steps: int = field(default=0, metadata=LENGTH)
    """step at which the learning rate reaches 0; 0 for the last one. Set it if you may raise --steps later"""

    def schedule(self) -> "optax.Schedule":
        """The learning rate at each step."""
        from jimgen.schedules import warmup_cosine

        return warmup_cosine(self.learning_rate, self.warmup_steps, self.schedule_length())

    def schedule_length(self) -> int:
        """Steps after which the learning rate is 0."""
        return self.schedule_steps or self.steps


@dataclass(frozen=True, kw_only=True)
class AdversarialConfig(RunConfig):
    """A config of a generator and a discriminator."""

    latent_dim: int = field(default=100, metadata=COUNT)
    """dimensions of z ~ N(0, I)"""
    conditional: bool = False
    """give class and attributes to both nets"""
    label_drop: float = 0.1
    """probability with which training hides the labels, where there are attributes, so that they may be left open"""
    rollbacks: int | None = field(default=3, metadata=NOT_EARLIER)
    """times that training may go back to its last healthy checkpoint after a collapse; 0 for never; None, as in runs of
    earlier versions, measures no health either"""
    truncation: float = field(default=1.0, metadata=DRAWING)
    """factor on the distance from the mean code, for samples; less is less varied"""
    dtype: Literal["float32", "bfloat16"] = field(default="float32", metadata=DRAWING)
    """precision of the computation; parameters and statistics stay float32"""

    def num_classes(self, data: "DataSpec") -> "NumClasses":
        """The labels that the nets know. Raises ValueError where there are none to know."""
        if not self.conditional:
            return 0
        if not data.conditions:
            raise ValueError(f"--conditional needs classes or attributes, and {data.name} has none")
        return data.conditions

    def common(self, data: "DataSpec") -> dict[str, Any]:
        """The arguments of `methods.gan.gan` that follow from these fields alone."""
        return {
            "latent_dim": self.latent_dim,
            "num_classes": self.num_classes(data),
            "label_drop": self.label_drop if data.attributes else 0.0,
            "truncation": self.truncation,
            "rollbacks": self.rollbacks,
        }


def _check_number(name: str, value: Any, meaning: Mapping[str, Any]) -> None:
    if not isinstance(value, (int, float)):
        return
    flag = f"--{name.replace('_', '-')} {value}"
    if not 0 <= value < math.inf:
        raise UserError(f"{flag}: must be finite and not negative")
    least, most = meaning.get("at_least", 0), meaning.get("at_most", 2**31 - 1)
    if value < least:
        raise UserError(f"{flag}: must be at least {least}")
    if isinstance(value, int) and value > most:
        raise UserError(f"{flag}: must be at most {most}")


def meanings(config_class: type) -> dict[str, dict[str, Any]]:
    """What each field of a config means for a run; a field that a class overrides keeps the meaning that it had."""
    found: dict[str, dict[str, Any]] = {}
    for base in reversed(config_class.__mro__):
        for each in dataclasses.fields(base) if dataclasses.is_dataclass(base) else ():
            found[each.name] = found.get(each.name, {}) | dict(each.metadata)
    return found


def free_fields(config_class: type[RunConfig]) -> set[str]:
    """The names of the fields that may change when a run resumes."""
    return {name for name, meaning in meanings(config_class).items() if meaning.get("free")}


def uncompared_fields(config_class: type[RunConfig], best: bool = False) -> set[str]:
    """The names of the fields that `jimgen compare` ignores; `best`: where best checkpoints are compared."""
    compared = {name: meaning.get("compared", True) for name, meaning in meanings(config_class).items()}
    return {name for name, when in compared.items() if not (when is True or best and when == "best")}


def drawing_fields(config_class: type[RunConfig]) -> list[str]:
    """The names of the fields that sampling may use with another value than training did."""
    return [name for name, meaning in meanings(config_class).items() if meaning.get("drawing")]


def values_not_there(config_class: type) -> dict[str, Any]:
    """The values of fields that runs of earlier versions did not have, where they differ from the defaults."""
    return {name: meaning["earlier"] for name, meaning in meanings(config_class).items() if "earlier" in meaning}


def contained_runs(config: Any) -> dict[str, str]:
    """The fields of a config that name runs to be contained, with their values; empty ones are left out."""
    names = [name for name, meaning in meanings(type(config)).items() if meaning.get("contained_run")]
    return {name: value for name in names if (value := getattr(config, name))}


def changed(config: Config, changes: Sequence[str], allowed: Sequence[str]) -> Config:
    """The config with "field=value" in place of some of its fields; a tuple's values are separated by commas.

    Raises:
        UserError: a change of another form, of an unknown field, or of one that sampling does not depend on.
    """
    fields = [each.name for each in dataclasses.fields(config)]
    flags: list[str] = []
    for change in changes:
        name, equals, value = change.partition("=")
        name = name.strip().lstrip("-").replace("-", "_")
        if not equals or name not in fields:
            near = difflib.get_close_matches(name, allowed or fields, n=1, cutoff=0.0)
            raise UserError(f"--change {change}: expected field=value with a field of the run's config, as {near[0]}")
        if name not in allowed:
            listed = ", ".join(allowed) or "none"
            raise UserError(f"--change {change}: only these fields may change after training: {listed}")
        flags += [f"--{name.replace('_', '-')}", *value.split(",")]
    return tyro.cli(type(config), args=flags, default=config, prog="--change") if flags else config


def from_values(made: type[Class], values: Mapping[str, Any], path: Path) -> Class:
    """An instance of a dataclass or NamedTuple from its values in JSON; unknown names are left out.

    Args:
        made: the class.
        values: by field; lists for tuples. Missing ones take the class's defaults, or None where they say NOT_EARLIER.
        path: where they come from, for messages.
    Raises:
        UserError: a value of the wrong type, or none for a field without a default.
    """
    hints = get_type_hints(made, include_extras=True)
    names = [each.name for each in dataclasses.fields(made)] if dataclasses.is_dataclass(made) else list(hints)
    found = {name: _tuples(values[name]) for name in names if name in values}
    for name, value in found.items():
        if not _is_of_type(value, hints[name]):
            raise UserError(f"{path} is damaged ({name} is {value!r:.60}): {FIX}")
    found = {name: _named(value, hints[name]) for name, value in found.items()}
    try:
        return made(**(values_not_there(made) | found))
    except (TypeError, UserError) as error:
        raise UserError(f"{path} is damaged ({error}): {FIX}") from error


def _tuples(value: Any) -> Any:
    return tuple(_tuples(x) for x in value) if isinstance(value, list) else value


def _named(value: Any, hint: Any) -> Any:
    """A tuple as the NamedTuple that it is, or with its items as theirs."""
    if get_origin(hint) is tuple and get_args(hint)[1:] == (...,):
        return tuple(_named(item, get_args(hint)[0]) for item in value)
    return hint(*value) if _is_named_tuple(hint) else value


def _is_named_tuple(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, tuple) and hasattr(hint, "_fields")


def _is_of_type(value: Any, hint: Any) -> bool:
    if _is_named_tuple(hint):
        hint = tuple[*get_type_hints(hint).values()]
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _is_of_type(value, parts[0])
    if origin is Literal:
        return any(value == part and type(value) is type(part) for part in parts)
    if origin in (Union, UnionType):
        return any(_is_of_type(value, part) for part in parts)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        wanted = parts[:1] * len(value) if parts[1:] == (...,) else parts
        return len(wanted) == len(value) and all(map(_is_of_type, value, wanted))
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return value is None if hint in (None, NoneType) else isinstance(value, origin or hint)
