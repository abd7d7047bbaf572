"""The command `jimgen` trains an experiment by name and uses finished runs. `jimgen --version` prints the version."""

# Commands import heavy libraries only when they need them, so that --help answers at once.

import difflib
import os
import sys
from pathlib import Path
from typing import Any

import tyro

from jimgen import __version__
from jimgen.commands.codec import codec_info, compress, decompress
from jimgen.commands.data import data
from jimgen.commands.images import inpaint, interpolate, levels, reconstruct, sample
from jimgen.commands.latents import directions, project
from jimgen.commands.likelihood import likelihood
from jimgen.commands.metrics import compare, evaluate, reference
from jimgen.commands.pack import pack
from jimgen.commands.restore import restore
from jimgen.commands.shared import output_file, start_jax
from jimgen.commands.utility import utility
from jimgen.errors import UserError, errors_in_a_line
from jimgen.interrupts import end_at_once


def main() -> None:
    """Entry point. On a fault that the user can fix, prints one line to stderr and exits with status 2."""
    commands = {
        "train": train,
        "sample": sample,
        "reconstruct": reconstruct,
        "interpolate": interpolate,
        "levels": levels,
        "inpaint": inpaint,
        "restore": restore,
        "project": project,
        "directions": directions,
        "compress": compress,
        "decompress": decompress,
        "codec-info": codec_info,
        "evaluate": evaluate,
        "likelihood": likelihood,
        "compare": compare,
        "reference": reference,
        "utility": utility,
        "pack": pack,
        "report": report,
        "runs": runs,
        "data": data,
        "doctor": doctor,
    }
    with errors_in_a_line(), end_at_once():  # safe, as commands write their files atomically
        if sys.argv[1:2] == ["train"] and len(sys.argv) > 2 and not sys.argv[2].startswith("-"):
            train(sys.argv[2], *sys.argv[3:])  # its flags are the experiment's own
        elif sys.argv[1:] == ["--version"]:
            print(f"jimgen {__version__}")
        else:
            tyro.extras.subcommand_cli_from_dict(commands, prog="jimgen", description=__doc__)


def train(experiment: tyro.conf.Positional[str], *flags: str) -> None:
    """Train an experiment: jimgen train NAME [flags]. `jimgen train NAME --help` lists its flags.

    Args:
        experiment: name of a file in experiments/ (dcgan, vae, ...), or path of a .py file.
        flags: flags of the experiment.
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


def report(runs: tyro.conf.Positional[tuple[Path, ...]], out: Path | None = None) -> None:
    """Write a self-contained HTML page on one or more runs.

    Args:
        runs: folders of the runs.
        out: path of the page. Default: report.html in the first run.
    """
    from jimgen.runs import report as pages
    from jimgen.runs.folder import REPORT

    if not runs:
        raise UserError("give the folder of at least one run; `jimgen runs` lists them")
    print(pages.write_report(list(runs), output_file(out or runs[0] / REPORT)))


def runs(folder: tyro.conf.Positional[Path] = Path("runs")) -> None:
    """List the runs in a folder, with their last step and metrics.

    Args:
        folder: folder that contains runs, at any depth.
    """
    from jimgen.curves import read_metrics
    from jimgen.runs.folder import METRICS_FILE, find_runs, read_saved

    found = find_runs(folder)
    if not found:
        raise UserError(f"no runs in {folder}: train one, for example `jimgen train vae`")
    for run in found:
        try:
            saved = read_saved(run)
            assert saved is not None
            rows = read_metrics(run / METRICS_FILE) if (run / METRICS_FILE).exists() else []
        except UserError as error:
            print(f"{run}  {error}")
            continue
        last: dict[str, Any] = {}
        for row in rows:
            last |= row
        names = [name for name in last if name.endswith("/loss") or name.startswith("test/")]
        shown = "  ".join(f"{name} {last[name]:.4g}" for name in names)
        steps = saved.config.get("steps", "?")
        print(f"{run}  {saved.data.name}  step {last.get('step', 0)} of {steps}  {shown}")


def doctor() -> None:
    """Show devices, versions and data sets on this machine, and what to install."""
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
    with start_jax() as jax:
        for device in jax.devices():
            print(f"device {device.id}: {device.device_kind} ({device.platform})")
        if jax.default_backend() == "cpu":
            print("  for an NVIDIA GPU: pip install -e '.[cuda]'; for a TPU: pip install -e '.[tpu]'")
        from jimgen.data import load

        for name in ("digits", "fashion_mnist"):
            try:
                spec = load(name).spec
                print(
                    f"data {name}: {spec.num_train} + {spec.num_test} images {list(spec.shape)}, hash {spec.hash[:12]}"
                )
            except UserError as error:
                print(f"data {name}: not here. {error}")
        print("`jimgen data` lists all data sets, with what to install")
