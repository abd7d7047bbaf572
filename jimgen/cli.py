"""The command `jimgen`: train an experiment by name, and use finished runs.

Nothing heavy is imported before it is needed: --help answers at once.
"""

import contextlib
import difflib
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

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
        "inpaint": inpaint,
        "evaluate": evaluate,
        "compare": compare,
        "reference": reference,
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
    classes: Literal["balanced", "frequency"] = "balanced",
    best: bool = False,
    out: Path | None = None,
) -> None:
    """Draw new images from a run, the same set for the same seed on any number of devices.

    Args:
        run: folder of the run.
        num: how many.
        seed: of the latents.
        label: one class for all.
        classes: balanced: the classes in turn; frequency: as often as in the training images.
        best: from the best checkpoint that --quality-every kept, not from the newest one.
        out: .png for a grid; .npz for arrays `images` (uint8 [n, h, w, c]) and `labels`; a name without ending for a
            folder of PNGs. Default RUN/sample.png
    """
    import numpy as np

    from jimgen import generated, loop

    _require_positive(num=num)
    with _jax() as jax:
        loaded = _load(run, best)
        if label is not None:
            _require_label(loaded, label)
            labels = np.full(num, label, np.int32)
        else:
            labels = generated.class_labels(num, _class_weights(loaded, classes))
        variables = loop.eval_variables(loaded.state)
        drawn = generated.generate(loaded.method, variables, jax.random.key(seed), labels)
    path, count = out or run / "sample.png", loaded.spec.num_classes
    in_columns = label is None and classes == "balanced" and 2 <= count <= 16
    if path.suffix in ("", ".npz"):
        print(generated.save(path, drawn))
    else:
        _write(path, *drawn, columns=count if in_columns else None)


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


def inpaint(
    run: RunFolder,
    image: Annotated[Path, tyro.conf.Positional],
    /,
    mask: Path,
    num: int = 8,
    seed: int = 0,
    label: int | None = None,
    out: Path | None = None,
) -> None:
    """Fill the missing parts of a picture, in several ways.

    Args:
        run: folder of the run.
        image: the picture; brought to the run's size as training pictures were.
        mask: a picture of the same size: white is known and stays, black is filled in.
        num: ways to fill it.
        seed: of the noise.
        label: the class to fill in; 0 by default.
        out: .png (the picture, what is known of it, then the results) or .npz. Default RUN/inpaint.png
    """
    import numpy as np

    from jimgen import loop, pictures
    from jimgen.data.images import decode, fit_images

    _require_positive(num=num)
    with _jax() as jax:
        loaded = _load(run)
        if loaded.method.inpaint is None:
            raise UserError(f"{run} cannot inpaint: its method has no way to keep known parts; flow and masked ones do")
        if label is not None:
            _require_label(loaded, label)
        height, width, channels = loaded.spec.shape
        read, known = decode(image), decode(mask)[..., :1] > 127
        if known.shape[:2] != read.shape[:2]:
            raise UserError(f"--mask is {known.shape[:2]} and the image {read.shape[:2]}: give them one size")
        size = None if read.shape[:2] == (height, width) else height
        if size and height != width:
            raise UserError(f"{run} was trained on {height}x{width} images: bring the picture and mask to that size")
        fitted = fit_images(read, size=size, fit=loaded.config.fit, channels=channels)
        # A pixel is known if all that it was made of is.
        missing = fit_images(~known * np.uint8(255), size=size, fit=loaded.config.fit, channels=1)
        known = missing[..., 0] == 0
        labels = jax.numpy.full(num, label or 0, jax.numpy.int32)
        scaled = loop.scale_images({"image": jax.numpy.asarray(fitted)})["image"]
        repeated = jax.numpy.broadcast_to(scaled, (num, *scaled.shape))
        masks = jax.numpy.broadcast_to(jax.numpy.asarray(known), (num, *known.shape))
        variables = loop.eval_variables(loaded.state)
        filled = jax.jit(loaded.method.inpaint)(variables, jax.random.key(seed), repeated, masks, labels)
        filled = pictures.to_uint8(np.asarray(filled))
    path = out or run / "inpaint.png"
    if path.suffix == ".png":
        seen = np.where(known[..., None], fitted, 127).astype(np.uint8)
        filled = np.concatenate([np.stack([fitted, seen]), filled])
    _write(path, filled, np.asarray(labels))


def evaluate(
    source: RunFolder,
    /,
    data: str | None = None,
    num: int = 10_000,
    metrics: str = "fd,kid,prdc,copying",
    extractors: str = "",
    seed: int = 0,
    classes: Literal["balanced", "frequency"] = "balanced",
    best: bool = False,
    reference: tuple[Path, ...] = (),
    size: int | None = None,
    fit: Literal["resize", "pad"] = "resize",
    channels: Literal[1, 3] | None = None,
    out: Path | None = None,
) -> None:
    """Measure a run, an .npz of images or a folder of pictures against real images; the last line is JSON.

    Beside each figure stand those of real test images and of one Gaussian per class, the line to beat.

    Args:
        source: folder of a run, .npz with `images` (uint8 [n, h, w, c]), or folder of pictures.
        data: real images, as in training; by default the run's own.
        num: images drawn, or the first ones of a set.
        metrics: of fd, fd_infinity, kid, is, prdc, cmmd, copying, fls, cas; separated by commas.
        extractors: names separated by commas; by default the data's own classifier, if there is one, and
            efficientnet_lite0@64. Also inception, and PATH.py:FUNCTION for one's own.
        seed: of the latents and of what is random in the metrics.
        classes: of a run: balanced, or by their frequency in training.
        best: of a run: its best checkpoint, not its newest.
        reference: files of `jimgen reference`, one for each extractor, in place of the data's statistics.
        size, fit, channels: how real images are brought to the shape of the others; by default as the run did.
        out: folder of the results. Default RUN/evaluation
    """
    import json

    from jimgen import data as sets
    from jimgen import evaluate as evaluation
    from jimgen import report as pages
    from jimgen.metrics.evaluation import check_metrics

    _require_positive(num=num)
    chosen = [name.strip() for name in metrics.split(",") if name.strip()]
    check_metrics(chosen)
    with _jax():
        subject, run = evaluation.subject_of(source, num, seed, classes, out, best)
        name = data or (run.config.data if run else None)
        if name is None:
            raise UserError(f"{source} does not say what it should be compared with: give --data")
        if run and name == run.config.data and size is None and channels is None:
            dataset = evaluation.load_data(run.config)
        else:
            dataset = sets.load(name, size=size, fit=fit, channels=channels)
        result = evaluation.evaluate(
            subject,
            dataset,
            extractors=[name.strip() for name in extractors.split(",") if name.strip()],
            metrics=chosen,
            references=reference,
            seed=seed,
        )
    _print_figures(result)
    if run is not None and out is None:
        pages.write_report([source], source / "report.html")
    print(subject.folder / "evaluation.json")
    values = {name: row["value"] for name, row in result["figures"].items()}
    print(json.dumps({**values, "num": num, "data": dataset.spec.name}))


def compare(runs: tyro.conf.Positional[tuple[Path, ...]]) -> None:
    """Put evaluated runs side by side; runs that differ in their seed alone become a mean with a 95% interval.

    Args:
        runs: folders of runs, or of evaluations.
    """
    import json
    import math

    from rich.markup import escape
    from rich.table import Table

    from jimgen import compare as comparison

    groups, beside = comparison.compare(runs)
    table = Table(title=f"{sum(len(group.runs) for group in groups)} runs")
    table.add_column("figure", no_wrap=True)
    for group in groups:
        table.add_column(group.name, justify="right")
    columns = [who for who in ("real", "gaussian") if any(who in row for row in beside.values())]
    for who in columns:
        table.add_column({"real": "real images", "gaussian": "Gaussian per class"}[who], justify="right")
    for name, others in beside.items():
        cells = []
        for group in groups:
            found = group.figures.get(name)
            width = "" if found is None or math.isnan(found.half_width) else f" ± {found.half_width:.2g}"
            cells.append("" if found is None else f"{found.mean:.4g}{width}")
        table.add_row(escape(name), *cells, *(f"{others[who]:.4g}" if who in others else "" for who in columns))
    _show(table)
    rows = {group.name: {name: found._asdict() for name, found in group.figures.items()} for group in groups}
    print(json.dumps(rows).replace("NaN", "null"))


def reference(
    data: tyro.conf.Positional[str],
    out: Path,
    extractor: str = "efficientnet_lite0@64",
    split: Literal["train", "test"] = "train",
    num: int = 0,
    features: bool = False,
    size: int | None = None,
    fit: Literal["resize", "pad"] = "resize",
    channels: Literal[1, 3] | None = None,
) -> None:
    """Make reference statistics of one's own data: a file for `jimgen evaluate --reference`.

    Args:
        data: digits, fashion_mnist, tfds:NAME, folder:PATH or npz:PATH.
        out: the file, .npz.
        extractor: whose features.
        split: which images.
        num: how many of them; 0 for all. A distance compares only with others of the same number.
        features: keep the features too, which kid, prdc and cmmd need; the file is larger.
        size, fit, channels: as in training.
    """
    from jimgen import data as sets
    from jimgen.data.dataset import num_rows
    from jimgen.metrics.extractors import load_extractor
    from jimgen.metrics.reference import make_reference, save_reference

    if out.suffix != ".npz":
        raise UserError(f"--out {out}: give a name that ends in .npz")
    with _jax():
        net = load_extractor(extractor)
        dataset = sets.load(data, size=size, fit=fit, channels=channels)
        count = num or num_rows(dataset.train if split == "train" else dataset.test)
        made = make_reference(dataset, net, split=split, count=count, keep_features=features)
    save_reference(out, made)
    print(f"{count} images of {data} ({split}), {len(made.moments.mean)} features of {extractor}: {out}")


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


def _load(run: Path, best: bool = False):
    from jimgen.experiment import load_run

    return load_run(run, best)


def _class_weights(loaded: Any, classes: str) -> list[float]:
    """How often each class is drawn: equally, or as in the training images."""
    if classes == "balanced":
        return [1.0] * loaded.spec.num_classes
    from jimgen.evaluate import class_frequencies, load_data

    return class_frequencies(load_data(loaded.config)).tolist()


def _show(table: Any) -> None:
    """Prints a table; into a file or a pipe as wide as it needs to be, so that no number is cut."""
    from rich.console import Console

    console = Console()
    (console if console.is_terminal else Console(width=240)).print(table)


def _print_figures(result: dict[str, Any]) -> None:
    """The table of an evaluation."""
    from rich.markup import escape
    from rich.table import Table

    counts = result["num_real"]
    table = Table(title=f"{result['num']} images against {counts['train']} of {result['data']['name']}")
    table.add_column("figure", no_wrap=True)
    for head in ("images", f"real ({counts['test']} test)", "Gaussian per class"):
        table.add_column(head, justify="right")
    for name, row in result["figures"].items():
        table.add_row(escape(name), *(f"{row[who]:.4g}" if who in row else "" for who in ("value", "real", "gaussian")))
    _show(table)
    seconds = result["seconds"]
    print(f"{seconds['images']} s for the images, {seconds['with_comparison']} s with what they are compared with")


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
