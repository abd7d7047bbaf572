"""Images from a run: sample, reconstruct, interpolate, inpaint."""

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jimgen.commands.begin import RunFolder, load_run, require_positive, started_jax
from jimgen.errors import UserError


def sample(
    run: RunFolder,
    /,
    num: int = 64,
    seed: int = 0,
    label: int | None = None,
    classes: Literal["balanced", "frequency"] = "balanced",
    best: bool = False,
    change: tuple[str, ...] = (),
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
        change: fields of its config that drawing depends on: guidance=3 num_steps=50.
        out: .png for a grid; .npz for arrays `images` (uint8 [n, h, w, c]) and `labels`; a name without ending for a
            folder of PNGs. Default RUN/sample.png
    """
    import numpy as np

    from jimgen import generated, loop

    require_positive(num=num)
    with started_jax() as jax:
        loaded = load_run(run, best, change)
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
        _write(path, drawn.images, drawn.labels, columns=count if in_columns else None)


def reconstruct(run: RunFolder, /, num: int = 40, out: Path | None = None) -> None:
    """Encode and decode the first test images: rows of images and of reconstructions, in turn.

    Args:
        run: folder of the run; its data must be at hand.
        num: how many.
        out: .png for the grid, .npz for the reconstructions and labels. Default RUN/reconstruct.png
    """
    import numpy as np

    from jimgen import loop, pictures
    from jimgen.data.dataset import read_rows
    from jimgen.evaluate import load_data

    require_positive(num=num)
    with started_jax() as jax:
        loaded = load_run(run)
        if loaded.method.reconstruct is None:
            raise UserError(f"{run} cannot reconstruct: its method has no encoder. `jimgen sample` draws from it.")
        dataset = load_data(loaded.config)
        images, labels = read_rows(dataset.test, range(min(num, dataset.spec.num_test)))
        scaled = loop.scale_images({"image": jax.numpy.asarray(images)})["image"]
        variables = loop.eval_variables(loaded.state)
        found = pictures.to_uint8(np.asarray(jax.jit(loaded.method.reconstruct)(variables, scaled, labels)))
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

    require_positive(num=num, steps=steps)
    with started_jax() as jax:
        loaded = load_run(run)
        if loaded.method.interpolate is None:
            raise UserError(f"{run} cannot interpolate: its method has no continuous latent space")
        if label is not None:
            _require_label(loaded, label)
        labels = np.arange(num, dtype=np.int32) % loaded.spec.num_classes if label is None else np.full(num, label)
        key = jax.random.key(seed)
        walk = jax.jit(loaded.method.interpolate, static_argnums=3)
        rows = walk(loop.eval_variables(loaded.state), key, jax.numpy.asarray(labels), steps)
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
    change: tuple[str, ...] = (),
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
        change: fields of its config that drawing depends on: guidance=3 num_steps=50.
        out: .png (the picture, what is known of it, then the results) or .npz. Default RUN/inpaint.png
    """
    import numpy as np

    from jimgen import loop, pictures
    from jimgen.data.images import decode, fit_images

    require_positive(num=num)
    with started_jax() as jax:
        loaded = load_run(run, changes=change)
        if loaded.method.inpaint is None:
            raise UserError(
                f"{run} cannot inpaint: its method cannot keep known parts; flow, masked and autoregressive ones do"
            )
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


def _class_weights(loaded: Any, classes: str) -> list[float]:
    """How often each class is drawn: equally, or as in the training images."""
    if classes == "balanced":
        return [1.0] * loaded.spec.num_classes
    from jimgen.evaluate import class_frequencies, load_data

    return class_frequencies(load_data(loaded.config)).tolist()


def _require_label(loaded: Any, label: int) -> None:
    if not getattr(loaded.config, "conditional", False):
        raise UserError(f"{loaded.folder} was trained without labels: leave --label out, or train with --conditional")
    names = loaded.spec.class_names
    if not 0 <= label < loaded.spec.num_classes:
        listed = ", ".join(f"{i} {name}" for i, name in enumerate(names[:20]))
        raise UserError(f"--label {label} is out of range: the classes are {listed}")


def _write(path: Path, images: Any, labels: Any, columns: int | None = None) -> None:
    """A grid (.png) or arrays (.npz)."""
    from jimgen import pictures
    from jimgen.files import write_npz

    pixels = pictures.to_uint8(images)
    if path.suffix == ".png":
        pictures.save_png(path, pictures.grid(pixels, columns=columns))
    elif path.suffix == ".npz":
        write_npz(path, {"images": pixels, "labels": labels}, compress=True)
    else:
        raise UserError(f"--out {path}: give a name that ends in .png (a grid) or .npz (arrays)")
    print(path)
