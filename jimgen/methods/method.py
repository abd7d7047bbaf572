"""The interface of generative methods."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from jax import Array

from jimgen.conditions import NumClasses
from jimgen.data.dataset import DataSpec
from jimgen.metrics.likelihood import DiscreteData
from jimgen.sampling.solvers import Velocity
from jimgen.train_step import Batch, Phase, Variables


class LatentSpace(NamedTuple):
    """The codes [n, d] from which a method draws images, one a row: z or, where a net maps z first, w.

    `keys` are PRNG keys [n], for noise that a net adds to the image of each code.
    """

    latent_dim: int  # of z ~ N(0, I)
    from_z: Callable[[Variables, Array, Array], Array]  # (variables, z [n, latent_dim], labels) -> codes
    decode: Callable[[Variables, Array, Array, Array], Array]  # (variables, codes, labels, keys) -> images
    centre: Callable[[Variables, Array], Array]  # (variables, labels) -> codes: the mean code
    is_straight: bool = False  # whether straight lines between codes are natural, as in w; for z, arcs are
    encode: Callable[[Variables, Array, Array], Array] | None = None  # (variables, images, labels) -> codes


class Flow(NamedTuple):
    """The velocity field of a flow from images to noise (see sampling/diffusion.py)."""

    velocity: Callable[[Variables, Array, bool], Velocity]  # (variables, labels, whether to guide) -> v(x, t)
    times: Callable[[int], np.ndarray]  # number of steps -> times from noise to image


class Levels(NamedTuple):
    """A hierarchy of latents, from the top down, of which images share some with given ones."""

    names: tuple[str, ...]  # of each level, such as 7x7x4
    draw: Callable[[Variables, Array, Array, Array, int], Array]
    # (variables, key, images, labels, kept) -> images with the top `kept` levels of the given ones, the others drawn


class ImportanceSampler(NamedTuple):
    """Importance weights of latents, for bounds of log p(x) that are tighter than the ELBO."""

    data: DiscreteData | None  # the kind of discrete x, as of a Likelihood
    encode: Callable[[Variables, Batch, Array], Any]  # (variables, batch, key) -> x and its posterior, arrays [n, ...]
    log_weight: Callable[[Variables, Any, Batch, Array], Array]
    # (variables, of `encode`, batch, key) -> log p(x, z) - log q(z|x) at one z ~ q(z|x): nats [n]


class Recovery(NamedTuple):
    """How a collapse of the training is noticed, and what changes after a rollback to a healthy checkpoint."""

    diagnose: Callable[[Mapping[str, float]], str | None]  # metrics of a step -> the reason to go back, or None
    is_healthy: Callable[[Variables], bool]  # whether a training may go back to these variables
    rollbacks: Callable[[Variables], int]  # how often training has gone back before
    retry: Callable[[Variables, int], Variables]  # (healthy variables, rollbacks) -> variables to go on with
    most: int  # rollbacks in a run


class Method(NamedTuple):
    """A generative method over given nets: pure functions, no state.

    Images are float32 [n, h, w, c] in [-1, 1], labels int32 [n] or [n, columns] (see conditions.py), keys PRNG
    keys, `variables` the nets' by name. Every method trains and samples. Capabilities that a method lacks are None:

    reconstruct: encodes and decodes images (VAEs, tokenizers).
    space: the latent space, to interpolate in it and to find the code of a picture (GANs, VAEs).
    flow: the velocity field, to draw images given what is observed of them (flows).
    inpaint: draws the unknown part of an image (flows, conditional VAEs, masked and autoregressive transformers).
    evaluate: computes metrics of held-out examples; training reports their means over the test split.
    levels: its latents are of several levels, and images may share the top ones with given images (hierarchical VAEs).
    importance: draws importance weights, from which tight bounds of the likelihood are computed (VAEs).
    aggregate: computes scalar metrics from dataset means, such as the usage of a codebook, which a single example does
        not have. It takes the means [k] of the vector-valued metrics of `evaluate`.
    recovery: notices a collapse in training, and begins again (GANs).
    """

    init: Callable[[Array, Batch], Variables]  # (key, example batch) -> variables of all nets
    phases: tuple[Phase, ...]
    ema: tuple[str, ...]  # nets whose moving average is kept, and used for sampling
    sample: Callable[[Variables, Array, Array], Array]  # (variables, key, labels) -> images
    num_classes: NumClasses = 0  # of the labels that the nets know; 0: samples do not depend on labels
    hides_labels: bool = False  # whether training hides labels at times, so that they may be left open
    reconstruct: Callable[[Variables, Array, Array], Array] | None = None  # (variables, images, labels) -> images
    space: LatentSpace | None = None
    flow: Flow | None = None
    inpaint: Callable[[Variables, Array, Array, Array, Array], Array] | None = None
    # (variables, key, images, mask, labels) -> images; mask bool [n, h, w], True = known
    evaluate: Callable[[Variables, Batch, Array], dict[str, Array]] | None = None  # -> metrics, [n] or [n, k] each
    aggregate: Callable[[dict[str, Array]], dict[str, Array]] | None = None  # means [k] -> metrics, [] each
    levels: Levels | None = None
    importance: ImportanceSampler | None = None
    recovery: Recovery | None = None


class HasMethod(Protocol):
    """A method together with further functions, such as a tokenizer's functions between images and tokens."""

    @property
    def method(self) -> Method: ...


Build = Callable[[Any, DataSpec], Method | HasMethod]  # defined by an experiment: (Config, data) -> method
