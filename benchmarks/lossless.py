"""Compresses test images without loss by the likelihood of a run of pixel_transformer.py, and decompresses them.

    pip install constriction
    python benchmarks/lossless.py RUN --num 16

A range coder turns probabilities into bits. Encoder and decoder compute these by one compiled program, one sub-pixel at
a time, because a single different bit in a probability would spoil all that follows. Prints the bits per dimension of
the code and of the likelihood, which is computed in one pass; the code is up to a hundredth longer.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax import Array

from jimgen.data.batches import scale_images
from jimgen.data.dataset import read_rows
from jimgen.errors import UserError
from jimgen.methods.autoregressive import Autoregressive
from jimgen.objectives import bits_per_dim
from jimgen.runs.load import load_run
from jimgen.runs.subject import load_data
from jimgen.train_step import eval_variables


@dataclasses.dataclass(frozen=True)
class Args:
    run: Annotated[Path, tyro.conf.Positional]
    """folder of the run"""
    num: int = 16
    """number of test images"""


def encode(model: Autoregressive, variables: Any, images: Array, labels: Array) -> np.ndarray:
    """Images float32 [n, h, w, c] in [-1, 1] -> the code of all images, uint32 [words]."""
    constriction = _constriction()
    levels = np.asarray(model.to_levels(images))
    coder, family = constriction.stream.queue.RangeEncoder(), _family(constriction)
    probabilities = _program(model, variables, labels)
    decoding = model.empty(len(levels))
    for i in range(levels.shape[1]):
        p, decoding = probabilities(decoding, jnp.asarray(levels), jnp.asarray(i, jnp.int32))
        coder.encode(np.ascontiguousarray(levels[:, i]), family, np.asarray(p))
    return coder.get_compressed()


def decode(model: Autoregressive, variables: Any, code: np.ndarray, labels: Array, num_places: int) -> Array:
    """The images [n, h, w, c] of a code, for labels int32 [n]."""
    constriction = _constriction()
    coder, family = constriction.stream.queue.RangeDecoder(code), _family(constriction)
    probabilities = _program(model, variables, labels)
    decoding, levels = model.empty(len(labels)), np.zeros((len(labels), num_places), np.int32)
    for i in range(num_places):
        p, decoding = probabilities(decoding, jnp.asarray(levels), jnp.asarray(i, jnp.int32))
        levels[:, i] = coder.decode(family, np.asarray(p))
    return model.to_images(jnp.asarray(levels))


def _program(model: Autoregressive, variables: Any, labels: Array):
    """Returns a function (decoding, levels, i) -> (probabilities float32 [n, levels] of place i, decoding)."""

    @jax.jit
    def run(variables: Any, decoding: Any, levels: Array, i: Array) -> tuple[Array, Any]:
        logits, decoding = model.decode(variables, decoding, levels, i, labels)
        return jax.nn.softmax(logits), decoding

    return lambda *args: run(variables, *args)


def _family(constriction: Any) -> Any:
    return constriction.stream.model.Categorical(perfect=False)


def _constriction() -> Any:
    try:
        import constriction  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError("the coder is missing: pip install constriction") from error
    return constriction


def main(args: Args) -> None:
    run = load_run(args.run)
    if not isinstance(run.made, Autoregressive):
        raise UserError(f"{args.run} is a run of {run.experiment}: give one of experiments/pixel_transformer.py")
    dataset = load_data(run.config)
    pixels, labels = read_rows(dataset.test, range(min(args.num, dataset.spec.num_test)))
    model, variables, labels = run.made, eval_variables(run.state), jnp.asarray(labels)
    images = scale_images(jnp.asarray(pixels))
    num_dims = pixels[0].size

    code = encode(model, variables, images, labels)
    again = decode(model, variables, code, labels, num_dims)
    same = np.array_equal(np.asarray(jnp.round((again + 1) * 127.5)), pixels)
    nats = -jax.jit(model.log_likelihood)(variables, images, labels)
    computed, coded = float(bits_per_dim(nats, num_dims).mean()), 32 * len(code) / pixels.size
    print(f"{len(pixels)} images of {list(run.spec.shape)}: {4 * len(code)} bytes, before {pixels.size}")
    print(f"bits_per_dim of the code: {coded:.4f}, of the likelihood: {computed:.4f}, ratio {coded / computed:.4f}")
    print(f"decoded images equal: {same}")
    if not same:
        sys.exit(1)


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except UserError as error:
        sys.exit(f"error: {error}")
