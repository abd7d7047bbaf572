"""The command `jimgen`: train an experiment by name, and use finished runs.

Nothing heavy is imported before it is needed: --help answers at once.
"""

import contextlib
import difflib
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

from jimgen.errors import UserError

RunFolder = Annotated[Path, tyro.conf.Positional]


def main() -> None:
    """Entry point. Exits with status 2 and a line on stderr where the user can mend something."""
    commands = {
        "train": train,
        "sample": sample,
        "reconstruct": reconstruct,
        "interpolate": interpolate,
        "report": report,
        "runs": runs,
        "doctor": doctor,
    }
    try:
        if sys.argv[1:2] == ["train"] and len(sys.argv) > 2 and not sys.argv[2].startswith("-"):
            train(sys.argv[2], *sys.argv[3:])  # its flags are the experiment's own
        else:
            tyro.extras.subcommand_cli_from_dict(commands, prog="jimgen", description=__doc__)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def train(experiment: tyro.conf.Positional[str], *flags: str) -> None:
    """Run an experiment: jimgen train NAME [its flags]. NAME is a file of experiments/, or a path.

    Args:
        experiment: dcgan, vae, ... or a path to a .py file.
        flags: passed on; jimgen train NAME --help lists them.
    """
    path = Path(experiment)
    if path.suffix != ".py":
        folders = [Path("experiments"), Path(__file__).parent.parent / "experiments"]
        found = {file.stem: file for folder in reversed(folders) for file in sorted(folder.glob("*.py"))}
        if experiment not in found:
            near = difflib.get_close_matches(experiment, found, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UserError(f"unknown experiment {experiment!r}; {hint}There are: {', '.join(found) or 'none here'}")
        path = found[experiment]
    if not path.is_file():
        raise UserError(f"there is no experiment {path}")
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, str(path), *flags])


def sample(
    run: RunFolder,
    /,
    num: int = 64,
    seed: int = 0,
    label: int | None = None,
    out: Path | None = None,
) -> None:
    """Draw new images from a run, the same set for the same seed.

    Args:
        run: folder of the run.
        num: how many.
        seed: of the latents.
        label: one class for all; by default the classes in turn.
        out: .png for a grid, .npz for arrays `images` (uint8 [n, h, w, c]) and `labels`. Default RUN/sample.png
    """
    import numpy as np

    from jimgen import loop
    from jimgen.methods.method import sample_many

    _require_positive(num=num)
    with _jax() as jax:
        loaded = _load(run)
        classes = loaded.spec.num_classes
        if label is not None:
            _require_label(loaded, label)
        labels = np.arange(num, dtype=np.int32) % classes if label is None else np.full(num, label, np.int32)
        images = sample_many(loaded.method, loop.eval_variables(loaded.state), jax.random.key(seed), labels)
    _write(out or run / "sample.png", images, labels, columns=classes if label is None and 2 <= classes <= 16 else None)


def reconstruct(run: RunFolder, /, num: int = 40, out: Path | None = None) -> None:
    """Encode and decode the first test images: rows of images and of reconstructions, in turn.

    Args:
        run: folder of the run; its data must be at hand.
        num: how many.
        out: .png for the grid, .npz for the reconstructions and labels. Default RUN/reconstruct.png
    """
    import numpy as np

    from jimgen import data, loop, pictures
    from jimgen.data.dataset import read_rows

    _require_positive(num=num)
    with _jax() as jax:
        loaded = _load(run)
        if loaded.method.reconstruct is None:
            raise UserError(f"{run} cannot reconstruct: its method has no encoder. `jimgen sample` draws from it.")
        config = loaded.config
        dataset = data.load(
            config.data, size=config.size, fit=config.fit, channels=config.channels, data_dir=config.data_dir
        )
        images, labels = read_rows(dataset.test, range(min(num, dataset.spec.num_test)))
        scaled = loop.scale_images({"image": jax.numpy.asarray(images)})["image"]
        variables = loop.eval_variables(loaded.state)
        found = pictures.to_uint8(np.asarray(loaded.method.reconstruct(variables, scaled, jax.numpy.asarray(labels))))
    path = out or run / "reconstruct.png"
    if path.suffix == ".png":
        columns = min(10, len(images))
        whole = len(images) // columns * columns
        pictures.save_png(path, loop.pairs_grid(images[:whole], found[:whole], columns))
        print(path)
    else:
        _write(path, found, labels)


def interpolate(
    run: RunFolder,
    /,
    num: int = 8,
    steps: int = 10,
    seed: int = 0,
    label: int | None = None,
    out: Path | None = None,
) -> None:
    """Walk between pairs of random latents, a row a pair.

    Args:
        run: folder of the run.
        num: rows.
        steps: images a row, both ends included.
        seed: of the latents.
        label: one class for all; by default the classes in turn.
        out: .png or .npz. Default RUN/interpolate.png
    """
    import numpy as np

    from jimgen import loop

    _require_positive(num=num, steps=steps)
    with _jax() as jax:
        loaded = _load(run)
        if loaded.method.interpolate is None:
            raise UserError(f"{run} cannot interpolate: its method has no continuous latent space")
        if label is not None:
            _require_label(loaded, label)
        labels = np.arange(num, dtype=np.int32) % loaded.spec.num_classes if label is None else np.full(num, label)
        key = jax.random.key(seed)
        rows = loaded.method.interpolate(loop.eval_variables(loaded.state), key, jax.numpy.asarray(labels), steps)
    images = np.asarray(rows).reshape(-1, *rows.shape[2:])
    _write(out or run / "interpolate.png", images, np.repeat(labels, steps), columns=steps)


def report(runs: tyro.conf.Positional[tuple[Path, ...]], out: Path | None = None) -> None:
    """Write one self-contained HTML page on one run or several.

    Args:
        runs: folders of runs.
        out: the page. Default: report.html in the first run.
    """
    from jimgen import report as pages

    if not runs:
        raise UserError("give the folder of at least one run; `jimgen runs` lists them")
    print(pages.write_report(list(runs), out or runs[0] / "report.html"))


def runs(folder: tyro.conf.Positional[Path] = Path("runs")) -> None:
    """List the runs in a folder, with their last step and figures.

    Args:
        folder: where runs lie.
    """
    import json

    from jimgen.curves import read_metrics

    found = sorted(path.parent for path in folder.rglob("config.json"))
    if not found:
        raise UserError(f"no runs in {folder}: train one, for example `jimgen train vae`")
    for run in found:
        saved = json.loads((run / "config.json").read_text())
        rows = read_metrics(run / "metrics.jsonl") if (run / "metrics.jsonl").exists() else []
        last: dict[str, Any] = {}
        for row in rows:
            last |= row
        figures = {name: value for name, value in last.items() if name.endswith("/loss") or name.startswith("test/")}
        shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        print(f"{run}  {saved['config']['data']}  step {last.get('step', 0)} of {saved['config']['steps']}  {shown}")


def doctor() -> None:
    """Say what this machine has: devices, versions, data; and what to install."""
    import platform
    from importlib import metadata

    print(f"python {platform.python_version()} on {platform.platform()}, {os.cpu_count()} processors")
    for name in (
        "jimgen",
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "orbax-checkpoint",
        "tensorflow-datasets",
        "grain",
        "numpy",
    ):
        try:
            print(f"  {name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            print(f"  {name} is missing: pip install {name}")
    with _jax() as jax:
        for device in jax.devices():
            print(f"device {device.id}: {device.device_kind} ({device.platform})")
        if jax.default_backend() == "cpu":
            print("  for an NVIDIA GPU: pip install -e '.[cuda]'; for a TPU: pip install -e '.[tpu]'")
        from jimgen import data

        for name in ("digits", "fashion_mnist"):
            try:
                spec = data.load(name).spec
                print(
                    f"data {name}: {spec.num_train} + {spec.num_test} images {list(spec.shape)}, hash {spec.hash[:12]}"
                )
            except UserError as error:
                print(f"data {name}: not here. {error}")


@contextlib.contextmanager
def _jax():
    """JAX, imported late, with its start-up faults as one line."""
    import jax

    try:
        yield jax
    except RuntimeError as error:
        if "backend" in str(error).lower():
            raise UserError(
                f"JAX found no device: {error}. `jimgen doctor` says more; JAX_PLATFORMS=cpu runs without."
            ) from error
        raise


def _load(run: Path):
    from jimgen.experiment import load_run

    return load_run(run)


def _require_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise UserError(f"--{name} {number}: must be at least 1")


def _require_label(loaded: Any, label: int) -> None:
    if not getattr(loaded.config, "conditional", False):
        raise UserError(f"{loaded.folder} was trained without labels: leave --label out, or train with --conditional")
    names = loaded.spec.class_names
    if not 0 <= label < loaded.spec.num_classes:
        listed = ", ".join(f"{i} {name}" for i, name in enumerate(names[:20]))
        raise UserError(f"--label {label} is out of range: the classes are {listed}")


def _write(path: Path, images: Any, labels: Any, columns: int | None = None) -> None:
    """A grid (.png) or arrays (.npz)."""
    import io

    import numpy as np

    from jimgen import pictures
    from jimgen.files import write_atomically

    pixels = pictures.to_uint8(images)
    try:
        if path.suffix == ".png":
            pictures.save_png(path, pictures.grid(pixels, columns=columns))
        elif path.suffix == ".npz":
            arrays = io.BytesIO()
            np.savez_compressed(arrays, images=pixels, labels=labels)
            write_atomically(path, arrays.getvalue())
        else:
            raise UserError(f"--out {path}: give a name that ends in .png (a grid) or .npz (arrays)")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    print(path)
