"""Reconstruction of phantom slices from few views, a limited angle and a low dose, beside the usual methods.

    python experiments/ct.py --data phantom:ct --size 64 --patch 8 --steps 2000 --workdir runs/ct
    python benchmarks/ct.py runs/ct --num 100 --draws 19

Phantoms only: no clinical claim. Baselines: filtered back-projection, SART, and total variation (gradient steps towards
the sinogram, each followed by a total-variation denoiser), both of scikit-image and tuned on eight training slices. A
classifier that was trained on true slices says whether a reconstruction shows a lesion: its AUC, and how many healthy
slices it takes for sick ones at the threshold that one true healthy slice in twenty passes. Coverage is the share of
true pixels within the central 50 and 90% of 19 draws.
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
from jimgen.runs.compilation_cache import keep_compiled_programs
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


def back_projected(sinogram: np.ndarray, protocol: Protocol, size: tuple[int, int]) -> np.ndarray:
    """The filtered back-projection: float32 [n, h, w, 1], about [0, 1]."""
    return np.asarray(jax.jit(lambda y: filtered_back_projection(y, protocol.angles, size))(jnp.asarray(sinogram)))


def sart(sinogram: np.ndarray, protocol: Protocol, size: tuple[int, int], rounds: int) -> np.ndarray:
    """Simultaneous algebraic reconstruction, so many rounds of it: float [n, h, w, 1] in [0, 1]."""
    from skimage.transform import iradon_sart

    views = sinogram[..., 0].transpose(0, 2, 1).astype(np.float64)
    top, left = (views.shape[1] // 2 - side // 2 for side in size)
    found = []
    for view in views:
        image = None
        for _ in range(rounds):
            image = iradon_sart(view, protocol.angles, image=image, relaxation=0.15, clip=(0, 1))
        assert image is not None
        found.append(image[top : top + size[0], left : left + size[1]])
    return np.stack(found)[..., None]


def least_variation(sinogram: np.ndarray, protocol: Protocol, size: tuple[int, int], weight: float) -> np.ndarray:
    """Proximal gradient steps of |Hx - y|^2 and the total variation: float [n, h, w, 1] in [0, 1]."""
    from skimage.restoration import denoise_tv_chambolle

    operator, y = radon(protocol.angles), jnp.asarray(sinogram)
    transpose = jax.linear_transpose(operator, jax.ShapeDtypeStruct((len(sinogram), *size, 1), jnp.float32))
    scale = len(protocol.angles) * sinogram.shape[2]
    step = jax.jit(lambda x: x - transpose(operator(x) - y)[0] / scale)
    x = np.clip(back_projected(sinogram, protocol, size), 0, 1)
    for _ in range(100):
        moved = np.asarray(step(x))[..., 0]
        x = np.stack([denoise_tv_chambolle(image, weight=weight) for image in moved])[..., None]
        x = np.clip(x, 0, 1).astype(np.float32)
    return x


def baselines(
    sinogram: np.ndarray, protocol: Protocol, size: tuple[int, int], tuning: tuple[np.ndarray, np.ndarray]
) -> dict[str, np.ndarray]:
    """Reconstructions float [n, h, w, 1], about [0, 1], by the usual methods.

    Args:
        tuning: sinogram and true slices that SART's rounds and the weight of the total variation are chosen on.
    """
    other, truth = tuning
    everywhere = np.ones(size, bool)

    def best(method: Any, choices: tuple[float, ...]) -> np.ndarray:
        scores = [
            mean_psnr(2 * method(other, protocol, size, choice) - 1, 2 * truth - 1, everywhere) for choice in choices
        ]
        return method(sinogram, protocol, size, choices[int(np.argmax(scores))])

    return {
        "filtered back-projection": back_projected(sinogram, protocol, size),
        "SART": best(sart, (1, 3, 10, 30)),
        "total variation": best(least_variation, (0.0001, 0.0003, 0.001, 0.003, 0.01)),
    }


def main(args: Args) -> None:
    keep_compiled_programs()  # each draw compiles anew
    loaded = load_run(args.run)
    dataset = load_data(loaded.config)
    size = loaded.spec.shape[:2]
    images, labels = read_rows(dataset.test, range(args.num))
    sick = classes_of(labels) == 1
    truth = (np.asarray(scale_images(jnp.asarray(images))) + 1) / 2
    train_images, train_labels = read_rows(dataset.train, range(num_rows(dataset.train)))
    tuned = (np.asarray(scale_images(jnp.asarray(train_images[:8]))) + 1) / 2
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
        found = baselines(sinogram, protocol, size, (scanned(tuned, protocol, args.seed + 1)[0], tuned))
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
        columns = [truth, *[found[label] for label in list(found)[:-1]], deviation / max(deviation.max(), 1e-6)]
        rows_of_images = [to_uint8(2 * np.clip(np.stack([x[i] for x in columns]), 0, 1) - 1) for i in range(8)]
        save_png(args.out / f"{name.replace(' ', '-')}.png", grid_of_rows(rows_of_images))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
