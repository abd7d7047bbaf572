"""Trains a plain PyTorch DCGAN or VAE and draws images from it, to compare its results with ours.

    python benchmarks/pytorch_samples.py path/to/bench_dcgan.py --steps 2500 --seed 0 --out dcgan-0.npz
    jimgen evaluate dcgan-0.npz --data fashion_mnist --size 32 --fit pad

The script must define build(args) -> (step, net, ...): step() is one update, and the net a DCGAN's generator (latents
[n, 100, 1, 1] -> images in [-1, 1]) or a VAE with `dl` and `dec` (latents [n, 64] -> logits of grey values), NCHW. Run
it with an interpreter that has PyTorch; it does not need jimgen.
"""

import argparse
import importlib.util
import sys
import time
from pathlib import Path

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("script", type=Path)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--num", type=int, default=10_000)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()

    import torch  # pyright: ignore[reportMissingImports]

    sys.path.insert(0, str(options.script.parent))
    spec = importlib.util.spec_from_file_location("script", options.script)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    settings = {"batch": options.batch, "device": "cpu", "channels_last": 1, "compile": "none", "dtype": "fp32"}
    step, net, *_ = module.build(argparse.Namespace(**settings))
    began = time.perf_counter()
    for number in range(1, options.steps + 1):
        loss = step()
        if number % 250 == 0:
            print(f"step {number} loss {float(loss):.4g} {time.perf_counter() - began:.0f} s", flush=True)
    seconds = time.perf_counter() - began

    net.eval()
    images = []
    with torch.no_grad():
        for start in range(0, options.num, 250):
            n = min(250, options.num - start)
            if hasattr(net, "dec"):
                pixels = torch.sigmoid(net.dec(net.dl(torch.randn(n, 64)).view(n, -1, 4, 4)))
            else:
                pixels = (net(torch.randn(n, 100, 1, 1)) + 1) / 2
            images.append((pixels * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy())
    np.savez_compressed(options.out, images=np.concatenate(images))
    print(f"trained {options.steps} steps in {seconds:.0f} s; {options.num} images: {options.out}")


if __name__ == "__main__":
    main()
