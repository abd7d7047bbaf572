"""The arms of a test of downstream utility: four ways to train one classifier, on real and generated images.

Each arm trains `Classifier` from the same first weights for the same number of steps:

    real             few real images alone
    augmented        the same, with shifts, and flips if asked for
    real+generated   in each batch a share of generated images, the others real
    generated        generated images alone
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from jimgen.augment import random_flip, random_shift
from jimgen.cpu import compiler_options
from jimgen.data.batches import rows_at, scale_images
from jimgen.data.dataset import Arrays, num_rows, read_rows
from jimgen.errors import UserError
from jimgen.evaluation.classifier import Trainer, accuracy, balanced_accuracy, in_batches, train
from jimgen.nets.classifier import Classifier

BATCH_SIZE = 64
SHARES = (0.25, 0.5, 0.75)
CHECKPOINTS = (0.25, 0.5, 0.75, 1.0)  # of the steps

REAL, AUGMENTED, MIXED, GENERATED = "real", "augmented", "real+generated", "generated"

Predict = Callable[[dict[str, Any], np.ndarray], np.ndarray]  # (variables, images) -> logits


class Arm(NamedTuple):
    """One way to train."""

    name: str
    shares: tuple[float, ...]  # of generated images in a batch, to choose from
    augmented: bool = False


class Score(NamedTuple):
    """The test accuracies, in [0, 1], of one training, and what validation images chose."""

    accuracy: float
    balanced_accuracy: float
    validation_accuracy: float
    share: float
    step: int


def arms_of(shares: Sequence[float]) -> tuple[Arm, ...]:
    """The four arms, real images alone first.

    Args:
        shares: those of real+generated to choose from.
    Raises:
        UserError: there are none, or a batch would hold no real or no generated image.
    """
    is_bad = [not 0 < share < 1 or not 0 < round(share * BATCH_SIZE) < BATCH_SIZE for share in shares]
    if any(is_bad) or not shares:
        raise UserError(f"shares {list(shares)}: give numbers between 0 and 1, such as 0.5")
    return Arm(REAL, (0.0,)), Arm(AUGMENTED, (0.0,), True), Arm(MIXED, tuple(shares)), Arm(GENERATED, (1.0,))


def shifted(images: Array, keys: Array, *, flip: bool) -> Array:
    """The classic augmentation: `random_shift`, and with `flip` also `random_flip`."""
    to_shift, to_flip = (jax.vmap(partial(jax.random.fold_in, data=i))(keys) for i in range(2))
    moved = random_shift(images, to_shift)
    return random_flip(moved, to_flip) if flip else moved


def mixed_batches(
    real: Arrays, generated: Arrays, *, share: float, augmented: bool, seed: int
) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches of BATCH_SIZE, of which `share` is generated, rounded to whole images.

    Images of each kind come in the order of `rows_at`. Labels are int32 [n].
    """
    num = round(share * BATCH_SIZE)
    parts = [(split, count) for split, count in ((real, BATCH_SIZE - num), (generated, num)) if count]
    index, flags = np.arange(BATCH_SIZE, dtype=np.int32), np.full(BATCH_SIZE, augmented)
    step = 0
    while True:
        rows = [rows_at(step, num_rows=num_rows(split), batch_size=count, seed=seed) for split, count in parts]
        read = [read_rows(split, chosen) for (split, _), chosen in zip(parts, rows, strict=True)]
        images, labels = (np.concatenate(found) for found in zip(*read, strict=True))
        yield {"image": images, "label": labels, "index": index, "augmented": flags}
        step += 1


def compiled_predict(num_classes: int) -> Predict:
    """A function of variables and images uint8 [n, h, w, c] to logits [n, num_classes], one program for any n."""
    net = Classifier(num_classes)

    @partial(jax.jit, compiler_options=compiler_options(jax.default_backend()))
    def run(variables: dict[str, Any], images: Array) -> Any:
        return net.apply(variables, scale_images(images), train=False)

    def predict(variables: dict[str, Any], images: np.ndarray) -> np.ndarray:
        return in_batches(partial(run, jax.device_put(variables)), images, BATCH_SIZE)[1]

    return predict


def score_arm(
    arm: Arm,
    trainer: Trainer,
    predict: Predict,
    real: Arrays,
    validation: Arrays,
    generated: Arrays,
    test: Arrays,
    *,
    seed: int,
) -> Score:
    """Trains one arm with each of its shares, and tests what is best on validation images.

    Best is the highest accuracy; of equal ones, the lowest cross-entropy.
    """
    checkpoints = sorted({max(1, round(part * trainer.steps)) for part in CHECKPOINTS})
    found = []
    for share in arm.shares:
        fed = mixed_batches(real, generated, share=share, augmented=arm.augmented, seed=seed)
        placed = (jax.device_put(batch, trainer.step.batch_sharding) for batch in fed)
        kept = train(trainer, placed, seed=seed, checkpoints=checkpoints)
        for step, variables in zip(checkpoints, kept, strict=True):
            logits = predict(variables, validation.images)
            quality = accuracy(logits, validation.labels), -_cross_entropy(logits, validation.labels)
            found.append((quality, share, step, variables))
    (right, _), share, step, variables = max(found, key=lambda one: one[0])
    logits = predict(variables, test.images)
    return Score(accuracy(logits, test.labels), balanced_accuracy(logits, test.labels), right, share, step)


def _cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """The mean of -log p(label|image), in nats, for logits [n, num_classes] and labels int [n]."""
    return float(np.mean(np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(labels)), labels]))
