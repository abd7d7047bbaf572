"""Experiments of earlier versions: their names, their configs and what their builds return."""

import sys
from dataclasses import dataclass, replace
from typing import Literal

import optax
import pytest
from tiny import SHAPE

from jimgen import methods
from jimgen.data.dataset import DataSpec
from jimgen.errors import UserError
from jimgen.methods import gan, meanflow
from jimgen.methods.method import Method
from jimgen.nets.dcgan import Discriminator, Generator
from jimgen.runs.compatibility import build_of, renamed, with_labels
from jimgen.runs.config import AdversarialConfig, RunConfig
from jimgen.runs.folder import Saved
from jimgen.runs.load import saved_config
from jimgen.runs.resume import require_same_config
from jimgen.runs.source_files import load_experiment
from jimgen.sampling import guidance, logits, solvers

OLD_NAMES = """
from jimgen import samplers
from jimgen.loop import eval_variables
from jimgen.methods import gan as gans
from jimgen.diffusion import Guidance, uniform_times
from jimgen.experiment import RunConfig, main
from jimgen.methods.gan import gan
from jimgen.methods.meanflow import mean_flow
from jimgen.methods.vae import bernoulli, gaussian, vae
from jimgen.methods.method import Method
from jimgen.nets.stems import patchify
from jimgen.run_folder import CONTAINED_RUN
from jimgen.sampling_logits import LogitFilter, guide_logits
from jimgen.schedules import warmup_cosine
from jimgen.tokenizer_run import load_tokenizer

Config, SAMPLERS = RunConfig, {"dpm_solver": samplers.dpm_solver}

def build(config, data):
    return Method(None, (), (), None)

def build_tokenizer(config, data):
    return "a tokenizer"
"""


@pytest.fixture
def experiment(tmp_path):
    (tmp_path / "experiment.py").write_text(OLD_NAMES)
    return load_experiment(tmp_path)


def test_names_of_earlier_versions_mean_todays(experiment):
    assert {"dpm_solver": solvers.dpmpp_2m} == experiment.SAMPLERS
    assert experiment.Guidance is guidance.Guidance and experiment.LogitFilter is logits.LogitFilter
    assert build_of(experiment)(None, None) == "a tokenizer"


def test_they_can_be_imported_by_these_experiments_only(experiment):
    assert "jimgen.samplers" not in sys.modules
    assert sys.modules["jimgen.methods.gan"] is gan is vars(methods)["gan"] is not experiment.gans
    with pytest.raises(ImportError):
        import jimgen.samplers  # noqa: F401  # pyright: ignore


def test_methods_are_told_what_callers_left_to_the_nets(experiment):
    nets = Generator(SHAPE, (8, 4), num_classes=3), Discriminator((4, 8), num_classes=3)
    tx = optax.sgd(0.1)
    assert experiment.gan(*nets, latent_dim=4, generator_tx=tx, discriminator_tx=tx).num_classes == 3


def test_old_keywords_are_understood(experiment, monkeypatch):
    with pytest.raises(ValueError, match=r"r_equals_t must be in \[0, 1\], got 2.0"):
        experiment.mean_flow(None, image_shape=SHAPE, num_classes=0, tx=optax.sgd(0.1), same_time=2.0)
    with pytest.raises(TypeError, match="same_time"):
        meanflow.mean_flow(None, image_shape=SHAPE, num_classes=0, tx=optax.sgd(0.1), same_time=2.0)  # pyright: ignore


@dataclass
class Before:
    same_time: float = 0.75
    sampler: Literal["heun", "dpm_solver"] = "heun"


@dataclass
class Today:
    r_equals_t: float = 0.75
    sampler: Literal["heun", "dpmpp_2m"] = "heun"


def test_a_saved_config_takes_the_names_of_the_class_that_reads_it():
    saved = {"same_time": 0.5, "sampler": "dpm_solver", "steps": 3}
    assert renamed(saved, Before) == saved
    assert renamed(saved, Today) == {"r_equals_t": 0.5, "sampler": "dpmpp_2m", "steps": 3} == renamed(saved)


@dataclass(frozen=True, kw_only=True)
class TodaysFlow(RunConfig):
    r_equals_t: float = 0.75
    sampler: Literal["heun", "dpmpp_2m"] = "heun"
    conditional: bool = True


SPEC = DataSpec("digits", (8, 8, 1), 10, tuple("0123456789"), 1, 1, "")


def test_a_resume_compares_under_todays_names(tmp_path):
    saved = Saved("flow", {"same_time": 0.5, "sampler": "dpm_solver"}, SPEC, ())
    require_same_config(TodaysFlow(r_equals_t=0.5, sampler="dpmpp_2m"), saved, "flow", tmp_path)
    with pytest.raises(UserError, match="r_equals_t 0.5 -> 0.25"):
        require_same_config(TodaysFlow(r_equals_t=0.25, sampler="dpmpp_2m"), saved, "flow", tmp_path)


def test_methods_of_earlier_versions_are_told_whether_they_know_labels():
    method = Method(init=None, phases=(), ema=(), sample=None)  # pyright: ignore
    assert with_labels(method, TodaysFlow(), SPEC).num_classes == 10
    assert with_labels(method, TodaysFlow(conditional=False), SPEC).num_classes == 0
    assert with_labels(method._replace(num_classes=3), TodaysFlow(), SPEC).num_classes == 3


def test_a_gan_of_an_earlier_version_goes_on_without_health(tmp_path):
    """Its checkpoints hold no health. A resume that asks for rollbacks is refused before it changes the folder."""
    data = DataSpec("random", SHAPE, 3, ("a", "b", "c"), 1, 1, "0" * 64)
    saved = Saved("dcgan", {"steps": 10, "latent_dim": 8}, data, ())
    config = saved_config(AdversarialConfig, saved, tmp_path)
    assert config.rollbacks is None and config.latent_dim == 8
    require_same_config(config, saved, "dcgan", tmp_path)
    with pytest.raises(UserError, match="rollbacks None -> 3"):
        require_same_config(replace(config, rollbacks=3), saved, "dcgan", tmp_path)
    assert saved_config(AdversarialConfig, saved._replace(config={"rollbacks": 2}), tmp_path).rollbacks == 2
