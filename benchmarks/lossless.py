"""Compresses test images without loss by a run of pixel_transformer.py or hierarchical_vae.py, and decompresses them.

    pip install constriction
    python benchmarks/lossless.py RUN --num 200

Whole files count, as `jimgen compress` writes them, without names. Prints the bits per dimension of the file and those
of the same images by the model, labels open: their exact likelihood, or the ELBO of 10 samples each.
"""

import dataclasses
import sys
import time
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from jimgen.apps.codec.container import Kind
from jimgen.apps.codec.files import compress, decompress
from jimgen.apps.codec.of_run import payload_of
from jimgen.conditions import open_labels
from jimgen.data.batches import scale_images
from jimgen.data.dataset import Arrays, read_rows
from jimgen.errors import UserError
from jimgen.evaluation.likelihood import importance_bounds
from jimgen.methods.autoregressive import Autoregressive
from jimgen.objectives import bits_per_dim
from jimgen.runs.load import Run, load_run
from jimgen.runs.subject import load_data
from jimgen.train_step import eval_variables

SAMPLES = 10  # of the ELBO


@dataclasses.dataclass(frozen=True)
class Args:
    run: Annotated[Path, tyro.conf.Positional]
    """folder of the run"""
    num: int = 16
    """number of test images"""


def main(args: Args) -> None:
    run = load_run(args.run)
    payload, dataset = payload_of(run), load_data(run.config)
    if payload.kind == Kind.LATENTS:
        raise UserError(f"{args.run} compresses with loss: benchmarks/rate_distortion.py measures it")
    pictures, labels = read_rows(dataset.test, range(min(args.num, dataset.spec.num_test)))
    began = time.perf_counter()
    file = compress(payload, list(pictures), 0)
    encoded = time.perf_counter()
    again = np.stack([picture for _, picture in decompress(payload, file)])
    decoded = time.perf_counter()
    coded = 8 * len(file) / pictures.size
    computed = _bits_per_dim(run, pictures, labels)
    print(f"{len(pictures)} images of {list(pictures.shape[1:])}: {len(file)} bytes, before {pictures.size}")
    print(f"compressed and checked in {encoded - began:.0f} s, decompressed in {decoded - encoded:.0f} s")
    print(f"bits_per_dim of the file: {coded:.4f}, of the model: {computed:.4f}, ratio {coded / computed:.4f}")
    if not np.array_equal(again, pictures):
        raise UserError("the decompressed images are others")
    print("the decompressed images are the same")


def _bits_per_dim(run: Run, pictures: np.ndarray, labels: np.ndarray) -> float:
    """The mean over the pictures of -log2 p(x) per value, or of its bound."""
    variables, num_classes = eval_variables(run.state), run.method.num_classes
    shown = open_labels(jnp.asarray(labels), num_classes) if num_classes else jnp.asarray(labels)
    if isinstance(run.made, Autoregressive):
        nats = -jax.jit(run.made.log_likelihood)(variables, scale_images(jnp.asarray(pictures)), shown)
    else:
        assert run.method.importance is not None
        split = Arrays(pictures, np.asarray(shown))
        sampler, num = run.method.importance, len(pictures)
        bounds = importance_bounds(sampler, variables, split, samples=SAMPLES, num=num, seed=0, chunk=num)
        nats = jnp.asarray(bounds.neg_elbo)
    return float(bits_per_dim(nats, pictures[0].size).mean())


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except UserError as error:
        sys.exit(f"error: {error}")
