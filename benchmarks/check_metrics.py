"""Values of public tools on seeded features. Tests in tests/metrics/ check that jimgen/metrics agrees with them.

    python -m venv check
    check/bin/pip install numpy scipy scikit-learn prdc pytorch_msssim torch requests tqdm pillow
    check/bin/pip install --no-deps torch-fidelity clean-fid pytorch-fid torchvision
    check/bin/python benchmarks/check_metrics.py

Features: numpy.random.default_rng(0), a = normal [200, 16], then b = 1.2 normal [180, 16] + .3. Images: default_rng(1),
x = uniform [2, h, w, 3], then y = clip(x + .1 normal, 0, 1), for 24x32 (SSIM) and 176x192 (MS-SSIM). All float64.
Prints one JSON line with the values and the tools' versions. Results are in tests/metrics/test_*.py.
"""

# The tools have their own environment.
# pyright: reportMissingImports=false

import contextlib
import importlib.metadata
import importlib.util
import io
import json
import pathlib
import re

import numpy as np


def features() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(200, 16)), 1.2 * rng.normal(size=(180, 16)) + 0.3


def images(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    x = rng.uniform(size=(2, height, width, 3))
    return x, np.clip(x + 0.1 * rng.normal(size=x.shape), 0, 1)


def main() -> None:
    import torch

    _declare_torchvision_operators()
    from cleanfid.fid import frechet_distance, kernel_distance
    from prdc import compute_prdc
    from pytorch_fid.fid_score import calculate_frechet_distance
    from pytorch_msssim import ms_ssim, ssim
    from torch_fidelity.metric_fid import fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kernel_mmd
    from torch_fidelity.noise import batch_slerp_any

    a, b = features()
    moments = [(z.mean(axis=0), np.cov(z, rowvar=False)) for z in (a, b)]
    statistics = [{"mu": mean, "sigma": covariance} for mean, covariance in moments]
    polynomial = {"kid_kernel": "poly", "kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None}
    polynomial["kid_kernel_poly_coef0"] = 1
    gaussian = {"kid_kernel": "rbf", "kid_kernel_rbf_sigma": 10.0}
    found = {
        "torch-fidelity fid": fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"],
        "torch-fidelity kid [180 and 180]": kernel_mmd(a[:180], b, **polynomial),
        "torch-fidelity rbf mmd [180 and 180]": kernel_mmd(a[:180], b, **gaussian),
        "clean-fid kid [180 and 180]": kernel_distance(a[:180], b, num_subsets=1, max_subset_size=180),
        "torch-fidelity isc of 3 a": isc_features_to_metric(torch.tensor(3 * a), 1, False),
        "torch-fidelity slerp(a_0, b_0; .3)[:3]": batch_slerp_any(torch.tensor(a[:1]), torch.tensor(b[:1]), 0.3)[0, :3],
    }
    with contextlib.redirect_stdout(io.StringIO()):  # prdc prints
        found["prdc"] = compute_prdc(a, b, 5)
    for name, measure, size in (("ssim", ssim, (24, 32)), ("ms_ssim", ms_ssim, (176, 192))):
        x, y = (torch.tensor(z.transpose(0, 3, 1, 2)) for z in images(*size))
        found[f"pytorch_msssim {name}"] = measure(x, y, data_range=1.0, size_average=False)
    with contextlib.suppress(TypeError):  # both use sqrtm(disp=), which newer versions of scipy lack
        found["clean-fid fid"] = frechet_distance(*moments[0], *moments[1])
        found["pytorch-fid fid"] = calculate_frechet_distance(*moments[0], *moments[1])
    tools = ("torch-fidelity", "clean-fid", "pytorch-fid", "prdc", "pytorch_msssim", "torch")
    found["versions"] = {tool: importlib.metadata.version(tool) for tool in tools}
    print(json.dumps(found, default=lambda value: np.asarray(value).tolist()))


def _declare_torchvision_operators() -> None:
    """Declares torchvision's operators, which its import needs if it is not compiled. None is ever called."""
    import torch

    library = torch.library.Library("torchvision", "DEF")
    found = importlib.util.find_spec("torchvision")
    assert found is not None and found.origin is not None
    source = pathlib.Path(found.origin).with_name("_meta_registrations.py").read_text()
    names = re.findall(r'register_(?:meta|fake)\("(?:torchvision::)?(\w+)"', source)
    for operator in sorted({*names, "nms"}):
        library.define(f"{operator}(Tensor x) -> Tensor")
    _KEPT.append(library)


_KEPT = []  # the names are valid as long as their library


if __name__ == "__main__":
    main()
