"""Restoration of test images by a run, beside simple methods: PSNR, Frechet distance, accuracy, calibration.

    python benchmarks/restoration.py runs/flow --num 500 --draws 8 --crop 28
    python benchmarks/restoration.py runs/vae --num 100 --tasks denoise-50 centre

Baselines: the picture as observed; the mean of a Gaussian fitted to the training images, given what is observed (for
noise this is Wiener's filter in the space of the data); the nearest training images of what is observed; and, where
scikit-image is installed, total variation and non-local means. Of a flow also what PnP-Flow and RePaint make. PSNR of
fillings is that of the hole. Single draws are compared by the Frechet distance of the data's classifier to all test
images, and by the accuracy of that classifier.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax import Array

from jimgen import noise
from jimgen.apps.degradations import Operator, box_downsampled, identity, masked
from jimgen.apps.restoration import LEAST_SIGMA, Observation, Steps, restore
from jimgen.data.batches import scale_images
from jimgen.data.dataset import num_rows, read_rows
from jimgen.evaluation.extractors import extract, load_extractor
from jimgen.metrics.frechet import frechet_distance, moments
from jimgen.pictures import grid_of_rows, save_png, to_uint8
from jimgen.runs.compilation_cache import keep_compiled_programs
from jimgen.runs.load import Run, load_run
from jimgen.runs.subject import load_data
from jimgen.sampling.posterior import pnp_flow
from jimgen.train_step import eval_variables

LEVELS = 127.5


class Task(NamedTuple):
    """How images are damaged."""

    operator: Operator
    sigma: float
    known: np.ndarray | None = None  # bool [h, w]


def tasks_of(height: int, width: int, seed: int) -> dict[str, Task]:
    """The tasks by name, for images of this size."""
    centre, half = np.ones((2, height, width), bool)
    top, left = height // 2 - 7, width // 2 - 7
    centre[top : top + 14, left : left + 14] = False
    half[:, width // 2 :] = False
    random = np.random.default_rng(seed).random((height, width)) < 0.1
    fill = lambda known: Task(masked(known), LEAST_SIGMA, known)  # noqa: E731
    return {
        "denoise-25": Task(identity, 25 / LEVELS),
        "denoise-50": Task(identity, 50 / LEVELS),
        "centre": fill(centre),
        "half": fill(half),
        "random-90": fill(random),
        "x2": Task(box_downsampled(2), LEAST_SIGMA),
        "x4": Task(box_downsampled(4), LEAST_SIGMA),
    }


@dataclass(frozen=True)
class Args:
    run: tyro.conf.Positional[Path]
    """folder of the run: a flow, a VAE or a GAN without labels, or with hidden ones"""
    tasks: tuple[str, ...] = ()
    """names of tasks; default: all"""
    num: int = 500
    """number of test images"""
    draws: int = 8
    """draws of each image"""
    ranks: int = 19
    """draws of each of the first 100 images, for the calibration"""
    steps: int = 50
    """steps of a flow"""
    compare: bool = True
    """also compute what a flow makes by PnP-Flow and RePaint"""
    crop: int = 0
    """side of the middle of the images that is compared; 0: all"""
    classifier: str = "fashion_mnist_classifier"
    """extractor of features and classes"""
    seed: int = 0
    """random seed of noise, masks and draws"""
    out: Path = Path("restoration")
    """folder for results.json, a picture for each task and one of all tasks"""


def gaussian_mean(train: np.ndarray, task: Task, observed: np.ndarray) -> np.ndarray:
    """E[x | y] for images float [n, h, w, c] of a Gaussian fitted to the training images, in float64."""
    shape = train.shape[1:]
    flat = train.reshape(len(train), -1).astype(np.float64)
    mean, covariance = flat.mean(0), np.cov(flat.T)
    units = jnp.eye(flat.shape[1]).reshape(-1, *shape)
    rows = np.asarray(jax.jit(task.operator)(units), np.float64).reshape(len(units), -1).T
    rows, y = rows[rows.any(1)], observed.reshape(len(observed), -1)[:, rows.any(1)]
    system = rows @ covariance @ rows.T + task.sigma**2 * np.eye(len(rows))
    gain = np.linalg.solve(system, rows @ covariance).T
    return (mean + (y - rows @ mean) @ gain.T).reshape(-1, *shape)


def nearest(train: np.ndarray, task: Task, observed: np.ndarray, k: int = 5) -> np.ndarray:
    """The mean of the k training images whose observations are nearest."""
    seen = np.asarray(jax.jit(task.operator)(jnp.asarray(train))).reshape(len(train), -1)
    y = observed.reshape(len(observed), -1)
    distance = (seen**2).sum(1) - 2 * y @ seen.T
    return train[np.argpartition(distance, k, axis=1)[:, :k]].mean(1)


def filters(task: Task, observed: np.ndarray) -> dict[str, np.ndarray]:
    """Denoisers of scikit-image, at their best settings for these tasks."""
    try:
        from skimage import restoration
    except ImportError:
        return {}
    grey = observed.mean(-1)
    strength = {25: 0.15, 50: 0.3}.get(round(task.sigma * LEVELS), 0.2)
    total = [restoration.denoise_tv_chambolle((x + 1) / 2, weight=strength) * 2 - 1 for x in grey]
    sigma = task.sigma / 2
    local = [restoration.denoise_nl_means((x + 1) / 2, 5, 6, 0.8 * sigma, sigma=sigma) * 2 - 1 for x in grey]
    return {
        name: np.stack(images)[..., None] for name, images in (("total variation", total), ("non-local means", local))
    }


def others(
    loaded: Run, task: Task, observed: np.ndarray, truth: np.ndarray, labels: np.ndarray, args: Args
) -> dict[str, np.ndarray]:
    """What a flow makes by PnP-Flow and, for fillings, by RePaint (one draw)."""
    flow, variables = loaded.method.flow, eval_variables(loaded.state)
    if flow is None:
        return {}
    key, shape = jax.random.key(args.seed + 2), loaded.spec.shape

    def by_steps(y: Array, labels: Array) -> Array:
        velocity = flow.velocity(variables, labels, False)
        return pnp_flow(velocity, task.operator, y, flow.times(args.steps), key, shape)

    found = {"PnP-Flow": np.asarray(jax.jit(by_steps)(jnp.asarray(observed), jnp.asarray(labels)))}
    if task.known is not None and loaded.method.inpaint is not None:
        known = jnp.broadcast_to(jnp.asarray(task.known), (len(truth), *task.known.shape))
        filled = jax.jit(loaded.method.inpaint)(variables, key, jnp.asarray(truth), known, jnp.asarray(labels))
        found["RePaint, single draw"] = np.asarray(filled)
    if task.known is None:
        return found
    return {name: np.where(task.known[..., None], truth, x) for name, x in found.items()}


def enlarged(task: Task, observed: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The observation as pictures of the full size: itself, or enlarged by Lanczos' filter."""
    if observed.shape[1:] == shape:
        return observed
    return np.asarray(jax.image.resize(jnp.asarray(observed), (len(observed), *shape), "lanczos3"))


def mean_psnr(images: np.ndarray, truth: np.ndarray, where: np.ndarray) -> float:
    """The mean PSNR of images in [-1, 1] over the pixels where bool [h, w] is true."""
    errors = np.square(np.clip(images, -1, 1) - truth)[:, where].mean((1, 2))
    return float(np.mean(10 * np.log10(4 / np.maximum(errors, 1e-12))))


def coverage(ranked: np.ndarray, truth: np.ndarray, where: np.ndarray, seed: int) -> dict[str, float]:
    """The share of true pixels within the central 50 and 90% of 19 draws [19, n, h, w, c].

    Of 19 draws and the truth, all from one distribution, each order is equally likely. Ties are broken at random.
    """
    rng = np.random.default_rng(seed)
    every = np.concatenate([truth[None], ranked])[:, :, where] + rng.uniform(-1e-3, 1e-3, (20, *truth[:, where].shape))
    rank = (every[1:] < every[0]).sum(0)  # 0 to 19
    return {"50%": float(((rank >= 5) & (rank <= 14)).mean()), "90%": float(((rank >= 1) & (rank <= 18)).mean())}


def main(args: Args) -> None:
    keep_compiled_programs()  # each draw compiles anew
    loaded = load_run(args.run)
    dataset = load_data(loaded.config)
    height, width, channels = dataset.spec.shape
    scaled = lambda rows: np.asarray(scale_images(jnp.asarray(rows)))  # noqa: E731
    images, labels = read_rows(dataset.test, range(args.num))
    truth = scaled(images)
    train = scaled(read_rows(dataset.train, range(min(10_000, num_rows(dataset.train))))[0])
    classifier = load_extractor(args.classifier)
    all_test = moments(extract(classifier, read_rows(dataset.test, range(num_rows(dataset.test)))[0]).features)
    inside = np.zeros((height, width), bool)
    margin = (height - args.crop) // 2 if args.crop else 0
    inside[margin : height - margin, margin : width - margin] = True
    open_labels = np.full(args.num, loaded.spec.num_classes if loaded.conditional else 0, np.int32)
    results: dict[str, Any] = {}
    sheet: list[np.ndarray] = []  # three rows a task: truth, observed, Gaussian, mean of draws, three draws
    for name, task in tasks_of(height, width, args.seed).items():
        if args.tasks and name not in args.tasks:
            continue
        where = inside if task.known is None else inside & ~task.known
        clean = task.operator(jnp.asarray(truth))
        key = jax.random.key(args.seed)
        added = task.sigma * noise.normal(key, jnp.arange(args.num), clean.shape[1:])
        observed = np.asarray(clean + (0 if task.known is not None else added))
        found = {"observed": enlarged(task, observed, truth.shape[1:])}
        found["Gaussian"] = gaussian_mean(train, task, observed)
        found["5 nearest"] = nearest(train, task, observed)
        found |= filters(task, observed) if task.operator is identity else {}

        def draw(number: int, num: int, task: Task = task, observed: np.ndarray = observed) -> np.ndarray:
            seen = Observation(task.operator, jnp.asarray(observed[:num]), task.sigma, (height, width), task.known)
            of = jax.random.fold_in(jax.random.key(args.seed + 1), number)
            drawn = restore(
                loaded.method, eval_variables(loaded.state), seen, jnp.asarray(open_labels[:num]), of, Steps(args.steps)
            )
            return drawn if task.known is None else np.where(task.known[..., None], truth[:num], drawn)

        if args.compare:
            found |= others(loaded, task, observed, truth, open_labels, args)
        began = time.process_time()
        drawn = np.stack([draw(i, args.num) for i in range(args.draws)])
        seconds = time.process_time() - began
        found["mean of draws"], found["single draw"] = drawn.mean(0), drawn[0]
        rows = {}
        for label, x in {**found, "the pictures themselves": truth}.items():
            features, logits = extract(classifier, to_uint8(x))
            rows[label] = {
                "psnr": mean_psnr(x, truth, where),
                "fd": frechet_distance(moments(features), all_test),
                "accuracy": float((logits.argmax(1) == labels).mean()),
            }
        few = min(100, args.num)
        extra = [draw(args.draws + i, few) for i in range(args.ranks - min(args.draws, args.ranks))]
        ranked = np.concatenate([drawn[: args.ranks, :few], np.stack(extra)]) if extra else drawn[: args.ranks, :few]
        covered = coverage(ranked, truth[:few], where, args.seed) if args.ranks == 19 else {}
        results[name] = {"rows": rows, "coverage": covered, "cpu_seconds": seconds}
        print(name, json.dumps(results[name]), flush=True)
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        rows_of = lambda columns, count: [to_uint8(np.stack([x[i] for x in columns])) for i in range(count)]  # noqa: E731
        save_png(args.out / f"{name}.png", grid_of_rows(rows_of([truth, *found.values()], min(12, args.num))))
        usual = [truth, found["observed"], found["Gaussian"], found["mean of draws"], *drawn[:3]]
        sheet += rows_of(usual, min(3, args.num))
        save_png(args.out / "tasks.png", grid_of_rows(sheet))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
