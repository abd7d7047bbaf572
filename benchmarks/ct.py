"""Reconstruction of phantom slices from few views, a limited angle and a low dose, beside the usual methods.

    python experiments/ct.py --data phantom:ct --size 64 --workdir runs/ct
    python benchmarks/ct.py runs/ct --num 100 --draws 19

Phantoms only: no clinical claim. Baselines: filtered back-projection, SART, and total variation (gradient steps towards
the sinogram, each followed by a total-variation denoiser), both of scikit-image. A classifier that was trained on true
slices says whether a reconstruction shows a lesion: its AUC, and how many healthy slices it takes for sick ones at the
threshold that one true healthy slice in twenty passes. Coverage is the share of true pixels within the central 50 and
90% of 19 draws.
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
from restoration import coverage, mean_psnr
from sklearn.metrics import roc_auc_score

from jimgen.apps.restoration import Observation, Steps, restore
from jimgen.apps.tomography import filtered_back_projection, radon
from jimgen.data.batches import scale_images
from jimgen.data.dataset import num_rows, read_rows
from jimgen.data.labels import classes_of
from jimgen.evaluation.classifier import predict, train_classifier
from jimgen.metrics.image_quality import ssim
from jimgen.pictures import grid_of_rows, save_png, to_uint8
from jimgen.runs.load import load_run
from jimgen.runs.subject import load_data
from jimgen.train_step import eval_variables

ATTENUATION = 0.1  # of a white pixel: e^-0.1 of the photons pass
PHOTONS = 2000  # of a ray, at a low dose
NOISE = 0.005  # of the largest line integral, elsewhere


class Protocol(NamedTuple):
    """How slices are scanned."""

    angles: np.ndarray  # degrees [views]
    photons: int | None = None  # of a ray; None: white noise


PROTOCOLS = {
    "16 views": Protocol(np.linspace(0, 180, 16, endpoint=False)),
    "32 views": Protocol(np.linspace(0, 180, 32, endpoint=False)),
    "90 degrees": Protocol(np.linspace(0, 90, 32, endpoint=False)),
    "low dose": Protocol(np.linspace(0, 180, 64, endpoint=False), PHOTONS),
}


@dataclass(frozen=True)
class Args:
    run: tyro.conf.Positional[Path]
    """folder of the run, a flow on slices"""
    protocols: tuple[str, ...] = ()
    """names of protocols; default: all"""
    num: int = 100
    """number of test slices"""
    draws: int = 19
    """draws of each slice; the coverage takes 19"""
    steps: int = 50
    """steps of the flow"""
    classifier_steps: int = 1500
    """train steps of the classifier of lesions"""
    seed: int = 0
    """random seed of noise and draws"""
    out: Path = Path("ct")
    """folder for results.json and a picture for each protocol"""


def scanned(truth: np.ndarray, protocol: Protocol, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Line integrals float32 [n, views, detectors, 1] of slices in [0, 1], with noise, and its standard deviation."""
    rng = np.random.default_rng(seed)
    clean = np.asarray(jax.jit(radon(protocol.angles))(jnp.asarray(truth)))
    if protocol.photons is None:
        sigma = np.full_like(clean, NOISE * clean.max())
        return clean + sigma * rng.normal(size=clean.shape).astype(np.float32), sigma
    counts = np.maximum(rng.poisson(protocol.photons * np.exp(-ATTENUATION * clean)), 1)
    return (-np.log(counts / protocol.photons) / ATTENUATION).astype(np.float32), (
        1 / (ATTENUATION * np.sqrt(counts))
    ).astype(np.float32)


def baselines(sinogram: np.ndarray, protocol: Protocol, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Reconstructions float [n, h, w, 1] in [0, 1] by the usual methods."""
    from skimage.restoration import denoise_tv_chambolle
    from skimage.transform import iradon_sart

    back = jax.jit(lambda y: filtered_back_projection(y, protocol.angles, size))
    found = {"filtered back-projection": np.asarray(back(jnp.asarray(sinogram)))}
    views = sinogram[..., 0].transpose(0, 2, 1).astype(np.float64)
    detectors = views.shape[1]
    top = detectors // 2 - size[0] // 2
    sart = []
    for view in views:
        image = None
        for _ in range(3):
            image = iradon_sart(view, protocol.angles, image=image, relaxation=0.15, clip=(0, 1))
        assert image is not None
        sart.append(image[top : top + size[0], top : top + size[1]])
    found["SART"] = np.stack(sart)[..., None]

    operator = radon(protocol.angles)
    shape = (len(sinogram), *size, 1)
    transpose = jax.linear_transpose(operator, jax.ShapeDtypeStruct(shape, jnp.float32))
    step = jax.jit(lambda x, y: x - transpose(operator(x) - y)[0] / (len(protocol.angles) * detectors))
    best, x = None, jnp.asarray(np.clip(found["filtered back-projection"], 0, 1), jnp.float32)
    for _ in range(100):
        x = step(x, jnp.asarray(sinogram))
        best = np.stack([denoise_tv_chambolle(image, weight=0.01) for image in np.asarray(x)[..., 0]])[..., None]
        x = jnp.asarray(np.clip(best, 0, 1), jnp.float32)
    assert best is not None
    return found | {"total variation": best}


def main(args: Args) -> None:
    loaded = load_run(args.run)
    dataset = load_data(loaded.config)
    size = loaded.spec.shape[:2]
    images, labels = read_rows(dataset.test, range(args.num))
    sick = classes_of(labels) == 1
    truth = (np.asarray(scale_images(jnp.asarray(images))) + 1) / 2
    train_images, train_labels = read_rows(dataset.train, range(num_rows(dataset.train)))
    detector = train_classifier(
        train_images, classes_of(train_labels), num_classes=2, steps=args.classifier_steps, seed=args.seed
    )

    def score(x: np.ndarray) -> np.ndarray:
        logits = predict(detector, to_uint8(2 * np.clip(x, 0, 1) - 1))[0]
        return logits[:, 1] - logits[:, 0]

    every, every_labels = read_rows(dataset.test, range(num_rows(dataset.test)))
    logits = predict(detector, every)[0]
    threshold = np.quantile((logits[:, 1] - logits[:, 0])[classes_of(every_labels) == 0], 0.95)
    results: dict[str, Any] = {}
    for name, protocol in PROTOCOLS.items():
        if args.protocols and name not in args.protocols:
            continue
        sinogram, sigma = scanned(truth, protocol, args.seed)
        found = baselines(sinogram, protocol, size)
        operator = radon(protocol.angles)
        values = 2 * jnp.asarray(sinogram) - operator(jnp.ones((1, *size, 1)))
        seen = Observation(operator, values, 2 * jnp.asarray(sigma), size)
        began = time.process_time()
        drawn = []
        for i in range(args.draws):
            key = jax.random.fold_in(jax.random.key(args.seed), i)
            open_labels = jnp.zeros(args.num, jnp.int32)
            drawn.append(
                restore(loaded.method, eval_variables(loaded.state), seen, open_labels, key, Steps(args.steps))
            )
        seconds = time.process_time() - began
        draws = (np.stack(drawn) + 1) / 2
        found |= {"mean of draws": draws.mean(0), "single draw": draws[0], "the slices themselves": truth}
        everywhere = np.ones(size, bool)
        rows = {}
        for label, x in found.items():
            x = np.clip(x, 0, 1).astype(np.float32)
            scores = score(x)
            rows[label] = {
                "psnr": mean_psnr(2 * x - 1, 2 * truth - 1, everywhere),
                "ssim": float(ssim(jnp.asarray(x), jnp.asarray(truth), data_range=1.0).mean()),
                "auc": float(roc_auc_score(sick, scores)),
                "invented": float((scores[~sick] > threshold).mean()),
            }
        covered = coverage(draws, truth, everywhere, args.seed) if args.draws == 19 else {}
        results[name] = {"rows": rows, "coverage": covered, "cpu_seconds": seconds}
        print(name, json.dumps(results[name]), flush=True)
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        deviation = draws.std(0)
        columns = [truth, *[found[label] for label in list(found)[:-1]], deviation / deviation.max()]
        rows_of_images = [to_uint8(2 * np.clip(np.stack([x[i] for x in columns]), 0, 1) - 1) for i in range(8)]
        save_png(args.out / f"{name.replace(' ', '-')}.png", grid_of_rows(rows_of_images))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
