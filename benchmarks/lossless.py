"""Compresses test images without loss by the likelihood of a run of pixel_transformer.py, and decompresses them.

    pip install constriction
    python benchmarks/lossless.py RUN --num 16

The coder is that of `jimgen compress` (jimgen/apps/codec/pixels.py), given labels. Prints the bits per
dimension of the code and of the likelihood, which is computed in one pass; the code is up to a hundredth longer.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from jimgen.apps.codec.pixels import decode, encode
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
    again = decode(model, variables, code.tobytes(), labels, num_dims)
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
