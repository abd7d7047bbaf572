"""A classifier of a data set: its fixed weights, and the classification accuracy score.

    python -m jimgen.evaluation.classifier --data fashion_mnist --out weights/fashion_mnist.npz
    python -m jimgen.evaluation.classifier --data digits --size 16 --fit resize --steps 400 --out weights/digits.npz

These commands made the weights that `jimgen.evaluation.extractors` reads, seed 0, in 200 and 37 CPU seconds of one core
of an AMD EPYC. Their accuracy on the test splits is .9156 and .9933. Metrics can be compared only if the weights are
the same, so these are part of the package.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jimgen.conditions import NumClasses, column_sizes, columns_of
from jimgen.cpu import compiler_options, keep_freed_memory
from jimgen.data import load
from jimgen.data.archive import array_names, read_arrays
from jimgen.data.batches import batches, scale_batch, scale_images
from jimgen.data.dataset import Arrays, Stream
from jimgen.errors import UserError
from jimgen.files import write_npz
from jimgen.nets.classifier import Classifier
from jimgen.noise import example_keys, key_of
from jimgen.train_step import (
    Aux,
    Batch,
    CompiledStep,
    Phase,
    TrainState,
    Variables,
    compile_step,
    init_state,
    make_train_step,
)

STRIDE = 2 ** (len(Classifier.widths) - 1)
BATCH_SIZE = 128
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 5e-3
NET = "classifier"  # name of the net in the variables of the train step


class Trainer(NamedTuple):
    """A compiled train step of `Classifier`, for any number of trainings on images of one shape."""

    first_state: Callable[[Array], TrainState]  # key -> state before the first step
    step: CompiledStep
    steps: int  # over which the learning rate falls to zero


def make_trainer(
    shape: tuple[int, ...],
    *,
    num_classes: NumClasses,
    steps: int,
    augment: Callable[[Array, Array], Array] | None = None,
) -> Trainer:
    """Cross-entropy -log p(label|image), AdamW, and a learning rate that falls to zero, as one compiled step.

    Args:
        shape: (height, width, channels) of the images; height and width multiples of 8.
        num_classes: number of logits, in all or of each column; the cross-entropies of columns are summed.
        steps: number of train steps.
        augment: function of images float32 [b, h, w, c] in [-1, 1] and keys [b] to images. It changes the images for
            which a batch says "augmented", bool [b]. So trainings with and without it share the compiled step.
    Raises:
        UserError: there are no steps.
    References:
        Loshchilov and Hutter, Decoupled Weight Decay Regularization, arXiv:1711.05101.
    """
    if steps < 1:
        raise UserError(f"steps is {steps}: give 1 or more")
    sizes = column_sizes(num_classes)
    net = Classifier(sum(sizes))

    def objective(variables: Variables, batch: Batch, key: Array) -> tuple[Array, Aux]:
        images = batch["image"]
        if augment is not None:
            changed = augment(images, example_keys(key, batch["index"]))
            images = jnp.where(batch["augmented"][:, None, None, None], changed, images)
        (_, logits), stats = net.apply(variables[NET], images, train=True, mutable=["batch_stats"])
        parts = jnp.split(logits, np.cumsum(sizes)[:-1], axis=-1)
        pairs = zip(parts, columns_of(batch["label"]), strict=True)
        nats = sum(optax.softmax_cross_entropy_with_integer_labels(part, column) for part, column in pairs)
        return jnp.mean(nats), Aux({}, {NET: stats})

    def init(key: Array, batch: Batch) -> Variables:
        return {NET: net.init(key, batch["image"], train=True)}

    rate = optax.cosine_decay_schedule(LEARNING_RATE, steps)
    phase = Phase("classifier", (NET,), objective, optax.adamw(rate, weight_decay=WEIGHT_DECAY))
    compiled = compile_step(make_train_step([phase], prepare=scale_batch), "jit")
    example: Batch = {"image": jnp.zeros((2, *shape))}
    first_state = jax.jit(lambda key: init_state(init, [phase], (), key, example))
    return Trainer(first_state, compiled, steps)


def train(trainer: Trainer, fed: Iterable[Batch], *, seed: int, checkpoints: Sequence[int]) -> list[dict[str, Any]]:
    """One training, from random weights to the last step.

    Args:
        trainer: of `make_trainer`.
        fed: batches, at least as many as steps: "image" uint8 [b, h, w, c], "label" int32 [b] or [b, columns], "index"
            int32 [b] and, for a trainer that augments, "augmented" bool [b].
        seed: random seed for initial weights and augmentation.
        checkpoints: numbers of steps done, ascending.
    Returns: The variables that `Classifier.apply` takes, numpy float32, at each checkpoint.
    Raises:
        UserError: an update was not finite.
    """
    init_key, key = jax.random.split(key_of(seed))
    state = jax.device_put(trainer.first_state(init_key), trainer.step.state_sharding)
    kept = []
    for done, batch in zip(range(1, trainer.steps + 1), fed, strict=False):
        state, _ = trainer.step.run(state, batch, key)
        if done in checkpoints:
            kept.append(jax.tree.map(np.array, state.variables[NET]))  # a copy: the step donates the state
    if skipped := int(state.skipped["classifier"]):
        raise UserError(f"{skipped} of {trainer.steps} updates of the classifier were not finite")
    return kept


def train_classifier(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    num_classes: NumClasses,
    steps: int,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
) -> dict[str, Any]:
    """Trains `Classifier` on images, by `make_trainer` and `train`.

    Args:
        images: uint8 [n, h, w, c]; h and w multiples of 8.
        labels: int [n] in [0, num_classes); or [n, columns].
        num_classes, steps: as of `make_trainer`.
        seed: random seed for initial weights and order of images. The same seed gives the same weights.
        batch_size: images per step.
    Returns: The variables that `Classifier.apply` takes: params and batch_stats, numpy float32.
    Raises:
        UserError: the arrays do not fit each other, or the strides do not divide the size.
    """
    _check_images(images)
    labels = _checked_columns(labels, len(images), num_classes)
    trainer = make_trainer(images.shape[1:], num_classes=num_classes, steps=steps)
    fed = batches(Arrays(images, labels), batch_size=batch_size, seed=seed, sharding=trainer.step.batch_sharding)
    return train(trainer, fed, seed=seed, checkpoints=[steps])[0]


def predict(
    variables: Mapping[str, Any], images: np.ndarray, *, batch_size: int = 500
) -> tuple[np.ndarray, np.ndarray]:
    """Logits float32 [n, num_classes] and features float32 [n, 128] of images uint8 [n, h, w, c], in batches.

    Raises:
        UserError: images have another dtype or shape, or the strides do not divide their size.
    """
    _check_images(images)
    net = Classifier(variables["params"]["logits"]["bias"].shape[0])
    on_device = jax.device_put(dict(variables))

    @partial(jax.jit, compiler_options=compiler_options(jax.default_backend()))
    def run(images: Array) -> Any:
        return net.apply(on_device, scale_images(images), train=False)

    features, logits = in_batches(run, images, min(batch_size, len(images)))
    return logits, features


def in_batches(
    run: Callable[[np.ndarray], tuple[Array, Array]], images: np.ndarray, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Runs a compiled function over images [n, ...] in batches of one size; returns both its results, [n, ...] each.

    The last batch is padded by repeating the first images, and their results are dropped.
    """
    results = []
    for start in range(0, len(images), batch_size):
        rows = np.arange(start, start + batch_size) % len(images)
        results.append([np.asarray(result)[: len(images) - start] for result in run(images[rows])])
    first, second = (np.concatenate(parts) for parts in zip(*results, strict=True))
    return first, second


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """The share, in [0, 1], of rows of logits [n, num_classes] whose largest logit is that of labels int [n]."""
    if logits.shape[:1] != np.shape(labels):
        raise ValueError(f"expected logits [n, num_classes] and labels [n], got {logits.shape}, {np.shape(labels)}")
    return float(np.mean(logits.argmax(-1) == labels))


def balanced_accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """The mean over the classes that occur in labels int [n] of `accuracy` on each: every class counts the same."""
    return float(np.mean([accuracy(logits[labels == label], labels[labels == label]) for label in np.unique(labels)]))


def classification_accuracy_score(
    sample_images: np.ndarray,
    sample_labels: np.ndarray,
    test_images: np.ndarray,
    test_labels: np.ndarray,
    *,
    num_classes: int,
    steps: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """CAS: the accuracy on real test images of a classifier that was trained on generated samples alone.

    It falls if samples do not match their labels, lack variety within a class, or look unlike the data. Compare it with
    the same classifier trained on as many real images, as it depends on net, steps and number of samples.

    Args:
        sample_images, sample_labels: generated images, uint8 [n, h, w, c], and the labels they were drawn for, int [n].
        test_images, test_labels: real images, uint8 [m, h, w, c], and their labels, int [m].
        num_classes: labels lie in [0, num_classes).
        steps, seed: as in `train_classifier`.
    Returns:
        accuracy: float in [0, 1]. per_class: list of num_classes floats, the accuracy over the test images of each
        class; None where there are none. num_samples, num_test, steps, seed.
    Raises:
        UserError: as `train_classifier`; or samples and test images have different shapes.
    References:
        Ravuri and Vinyals, Classification Accuracy Score for Conditional Generative Models, arXiv:1905.10887,
        section 3. They train a ResNet-50; this trains `Classifier`.
    """
    _check_images(test_images)
    test_labels = _checked_labels(test_labels, len(test_images), num_classes)
    if sample_images.shape[1:] != test_images.shape[1:]:
        raise UserError(
            f"samples are {sample_images.shape[1:]}, test images {test_images.shape[1:]}: load the test images at the "
            "samples' size, fit and channels"
        )
    variables = train_classifier(sample_images, sample_labels, num_classes=num_classes, steps=steps, seed=seed)
    logits, _ = predict(variables, test_images)
    members = [test_labels == label for label in range(num_classes)]
    return {
        "accuracy": accuracy(logits, test_labels),
        "per_class": [accuracy(logits[own], test_labels[own]) if own.any() else None for own in members],
        "num_samples": len(sample_images),
        "num_test": len(test_images),
        "steps": steps,
        "seed": seed,
    }


def save_weights(path: Path, variables: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    """Writes an .npz of float16 arrays by the paths of their names ("params/stem/kernel"), and meta as JSON."""
    leaves = jax.tree_util.tree_leaves_with_path(dict(variables))
    named = {"/".join(key.key for key in names): np.asarray(leaf, np.float16) for names, leaf in leaves}
    write_npz(path, {"meta": json.dumps(dict(meta)), **named}, compress=True)


def load_weights(path: Path) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Reads a file of `save_weights`: variables in float32, meta, and the sha256 of the file in hex.

    Raises:
        UserError: the file is missing, damaged, or not one of `save_weights`.
    """
    variables: dict[str, Any] = {}
    try:
        arrays = read_arrays(path, array_names(path))
        meta = json.loads(str(arrays["meta"]))
        if not isinstance(meta, dict):
            raise ValueError("meta is not an object")
        for name, array in arrays.items():
            *groups, leaf = name.split("/")
            if groups:
                group = variables
                for part in groups:
                    group = group.setdefault(part, {})
                group[leaf] = array.astype(np.float32)
                if not np.isfinite(group[leaf]).all():
                    raise ValueError(f"{name} is not finite")
    except (UserError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path}: cannot read these weights ({error}). Make them again: "
            "python -m jimgen.evaluation.classifier --help"
        ) from error
    return variables, meta, hashlib.sha256(path.read_bytes()).hexdigest()


def _check_images(images: np.ndarray) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
        raise UserError(f"the classifier takes images uint8 [n, h, w, c], not {images.dtype} {list(images.shape)}")
    height, width = images.shape[1:3]
    if height % STRIDE or width % STRIDE:
        raise UserError(
            f"the classifier takes sides that are multiples of {STRIDE}, not {height}x{width}: load the images with "
            f"another size, or with fit 'pad', for example size={-(-max(height, width) // STRIDE) * STRIDE}"
        )


def pad_to_strides(images: np.ndarray) -> np.ndarray:
    """Pads images uint8 [n, h, w, c] below and right with zeros to multiples of 8, which the strides divide."""
    below, right = (-side % STRIDE for side in images.shape[1:3])
    return np.pad(images, ((0, 0), (0, below), (0, right), (0, 0)))


def _checked_columns(labels: np.ndarray, num_images: int, num_classes: NumClasses) -> np.ndarray:
    """Labels as int32 [num_images] or [num_images, columns]."""
    if not isinstance(num_classes, tuple):
        return _checked_labels(labels, num_images, num_classes)
    columns = [_checked_labels(labels[:, i], num_images, size) for i, size in enumerate(num_classes)]
    return np.stack(columns, axis=1)


def _checked_labels(labels: np.ndarray, num_images: int, num_classes: int) -> np.ndarray:
    """Labels as int32 [num_images]."""
    labels = np.asarray(labels)
    if labels.shape != (num_images,) or labels.dtype.kind not in "iu":
        raise UserError(f"{num_images} images need integer labels [{num_images}], not {labels.dtype} {labels.shape}")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise UserError(f"labels run from {labels.min()} to {labels.max()}: outside [0, {num_classes})")
    return labels.astype(np.int32)


@dataclass(frozen=True, kw_only=True)
class Args:
    """Train the classifier of a data set and write its weights."""

    data: str
    """name of the data set"""
    out: Path
    """path of the .npz file to write"""
    size: int = 32
    """height and width of the images after fitting"""
    fit: Literal["resize", "pad"] = "pad"
    """way to fit images: bicubic resizing, or background around a smaller image"""
    steps: int = 800
    """number of train steps, with 128 images each"""
    seed: int = 0
    """random seed for initial weights and order of images"""


def main(args: Args) -> None:
    """Trains, rounds the weights to float16, measures them on the test split and writes them.

    Raises:
        UserError: as `jimgen.data.load` and `train_classifier`.
    """
    keep_freed_memory()
    spec, train, test, *_ = load(args.data, size=args.size, fit=args.fit)
    if isinstance(train, Stream) or isinstance(test, Stream):
        raise UserError(f"{args.data} is too large to keep in memory: choose a smaller --size")
    variables = train_classifier(
        train.images, train.labels, num_classes=spec.num_classes, steps=args.steps, seed=args.seed
    )
    variables = jax.tree.map(lambda x: x.astype(np.float16).astype(np.float32), variables)
    share = accuracy(predict(variables, test.images)[0], test.labels)
    meta = {
        **{
            "data": args.data,
            "data_hash": spec.hash,
            "shape": spec.shape,
            "fit": args.fit,
            "accuracy": round(share, 4),
        },
        **{"steps": args.steps, "batch_size": BATCH_SIZE, "seed": args.seed},
    }
    save_weights(args.out, variables, meta)
    print(json.dumps(meta))


if __name__ == "__main__":
    import tyro

    try:
        main(tyro.cli(Args))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
