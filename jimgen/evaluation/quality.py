"""Sample quality during training: a metric at regular steps, by which the best checkpoint is kept."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from jax import Array

from jimgen.alpha import BLACK, Colour
from jimgen.conditions import is_conditional
from jimgen.data.dataset import Dataset, num_rows
from jimgen.errors import UserError
from jimgen.evaluation.asked import balanced_labels, frequent_labels
from jimgen.evaluation.extractors import load_extractor
from jimgen.evaluation.generated import generate
from jimgen.evaluation.measure import METRICS, is_better, measure
from jimgen.evaluation.opaque import opaque_images
from jimgen.methods.method import Method
from jimgen.train_step import Variables

DECIDING = {"fd": "fd", "kid": "kid", "is": "is", "precision": "prdc", "recall": "prdc", "coverage": "prdc"}
OF_DATA = {"fashion_mnist": "fashion_mnist_classifier", "digits": "digits_classifier"}


def extractor_name(asked: str, data: str) -> str:
    """The extractor asked for, or the data's own classifier where one ships with the package."""
    return asked or OF_DATA.get(data, "efficientnet_lite0@64")


def check_quality(metric: str, num: int, dataset: Dataset) -> None:
    """Raises UserError before training if measuring would fail later."""
    if metric not in DECIDING:
        raise UserError(f"--quality-metric {metric}: choose one of {', '.join(DECIDING)}")
    most = num_rows(dataset.train)
    if not 20 <= num <= most:
        raise UserError(f"--quality-num {num}: must lie between 20 and the {most} training images")


def measure_quality(
    method: Method,
    variables: Variables,
    key: Array,
    dataset: Dataset,
    *,
    metric: str,
    num: int,
    extractor: str,
    background: Colour = BLACK,
) -> tuple[float, dict[str, float]]:
    """Draws `num` images and measures them against as many training images.

    Classes come in turn. With attributes labels are as in training, since each value in turn would be another mixture.
    Transparent images are measured over the background; `dataset` is that of `opaque_dataset`.

    Returns: The deciding metric; and all metrics, with the duration as "seconds".
    """
    assert DECIDING[metric] in METRICS
    began = time.perf_counter()
    as_in_training = dataset.spec.attributes and is_conditional(method.num_classes)
    labels = frequent_labels(dataset, num, seed=0) if as_in_training else balanced_labels(dataset.spec, num)
    images = generate(method, variables, key, labels).images
    images = opaque_images(images, background)
    net = load_extractor(extractor_name(extractor, dataset.spec.name))
    found = measure(images, None, dataset, [net], [DECIDING[metric]]).metrics
    decided = next(value for name, value in found.items() if name.partition("[")[0] == metric)
    return decided, found | {"seconds": round(time.perf_counter() - began, 2)}


def best_so_far(rows: Iterable[Mapping[str, Any]], metric: str) -> float | None:
    """The best value of the deciding metric in rows of metrics.jsonl; None if there is none yet."""
    found = [v for row in rows for name, v in row.items() if name.startswith(f"quality/{metric}[")]
    best = None
    for value in found:
        best = value if best is None or is_better(metric, value, best) else best
    return best
