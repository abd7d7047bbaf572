"""Images from a run: sample, reconstruct, interpolate, inpaint."""

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jimgen.commands.begin import RunFolder, load_run, output_file, output_folder, require_positive, start_jax
from jimgen.errors import UserError

ENDINGS = (".png", ".npz")


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
        classes: of a conditional run; balanced: the classes in turn; frequency: as often as in the training images.
        best: from the best checkpoint that --quality-every kept, not from the newest one.
        change: fields of its config that drawing depends on: guidance=3 num_steps=50.
        out: .png for a grid; .npz for arrays `images` (uint8 [n, h, w, c]) and `labels`; a name without ending for a
            folder of PNGs, one subfolder a class; runs that know no labels write none. Default RUN/sample.png
    """
    from jimgen.noise import require_seed
    from jimgen.runs.subject import draw_images

    require_positive(num=num)
    require_seed(seed)
    path = out or run / "sample.png"
    path = output_file(path, *ENDINGS) if path.suffix else output_folder(path, empty=True)
    with start_jax():
        loaded = load_run(run, best, change)
        shown = _fitting(path, num, loaded.spec.shape)
        drawn = draw_images(loaded, shown, seed, classes, label)
    in_turn = loaded.conditional and label is None and classes == "balanced"
    _write(path, drawn.images, drawn.labels, _class_columns(shown, loaded.spec.num_classes) if in_turn else None)


def reconstruct(run: RunFolder, /, num: int = 40, data: str | None = None, out: Path | None = None) -> None:
    """Encode and decode the first test images: rows of images and of reconstructions, in turn.

    Args:
        run: folder of the run.
        num: how many.
        data: whose test images, as in training; by default the run's own, wherever they lie now.
        out: .png for the grid, .npz for the reconstructions and the images' labels. Default RUN/reconstruct.png
    """
    import numpy as np

    from jimgen import pictures
    from jimgen.data.batches import scale_images
    from jimgen.data.dataset import UNLABELLED, read_rows
    from jimgen.evaluation.generated import CHUNK
    from jimgen.runs.previews import pairs_grid
    from jimgen.runs.subject import load_data
    from jimgen.train_step import eval_variables

    require_positive(num=num)
    path = output_file(out or run / "reconstruct.png", *ENDINGS)
    with start_jax() as jax:
        loaded = load_run(run)
        if loaded.method.reconstruct is None:
            raise UserError(f"{run} cannot reconstruct: its method has no encoder. `jimgen sample` draws from it.")
        dataset = load_data(loaded.config, name=data)
        if dataset.spec.shape != loaded.spec.shape:
            raise UserError(
                f"--data {data}: images {list(dataset.spec.shape)}, the run takes {list(loaded.spec.shape)}"
            )
        if num > dataset.spec.num_test:
            print(f"{dataset.spec.name} has {dataset.spec.num_test} test images: no more can be reconstructed")
            num = dataset.spec.num_test
        images, labels = read_rows(dataset.test, range(_fitting(path, num, dataset.spec.shape, tiles_each=2)))
        reconstruct, variables = jax.jit(loaded.method.reconstruct), eval_variables(loaded.state)
        found = []
        for start in range(0, len(images), CHUNK):
            part = scale_images(jax.numpy.asarray(images[start : start + CHUNK]))
            found.append(pictures.to_uint8(np.asarray(reconstruct(variables, part, labels[start : start + CHUNK]))))
        found = np.concatenate(found)
    if path.suffix.lower() == ".png":
        pictures.save_png(path, pairs_grid(images, found, 10))
        print(path)
    else:
        _write(path, found, labels if dataset.spec.class_names != UNLABELLED else None)


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

    from jimgen.noise import key_of
    from jimgen.runs.subject import require_label
    from jimgen.train_step import eval_variables

    require_positive(num=num, steps=steps)
    key = key_of(seed)
    path = output_file(out or run / "interpolate.png", *ENDINGS)
    with start_jax() as jax:
        loaded = load_run(run)
        if loaded.method.interpolate is None:
            raise UserError(f"{run} cannot interpolate: its method has no continuous latent space")
        if label is not None:
            require_label(loaded, label)
        rows = _fitting(path, num, loaded.spec.shape, tiles_each=steps)
        labels = np.arange(rows) % loaded.spec.num_classes if label is None else np.full(rows, label)
        labels = labels.astype(np.int32)
        walk = jax.jit(loaded.method.interpolate, static_argnums=3)
        images = np.asarray(walk(eval_variables(loaded.state), key, jax.numpy.asarray(labels), steps))
    images = images.reshape(-1, *images.shape[2:])
    _write(path, images, np.repeat(labels, steps) if loaded.conditional else None, columns=steps)


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
        mask: a picture of the same size: white (or 1) is known and stays, black (or 0) is filled in, and so is what is
            transparent; grey counts as known if it is brighter than half the range.
        num: ways to fill it.
        seed: of the noise.
        label: the class to fill in; 0 by default.
        change: fields of its config that drawing depends on: guidance=3 num_steps=50.
        out: .png (the picture, what is known of it, then the results) or .npz. Default RUN/inpaint.png
    """
    import numpy as np

    from jimgen import pictures
    from jimgen.data.batches import scale_images
    from jimgen.data.images import decode, fit_images
    from jimgen.data.masks import fit_mask, read_mask
    from jimgen.noise import key_of
    from jimgen.runs.subject import require_label
    from jimgen.train_step import eval_variables

    require_positive(num=num)
    key = key_of(seed)
    path = output_file(out or run / "inpaint.png", *ENDINGS)
    with start_jax() as jax:
        loaded = load_run(run, changes=change)
        if loaded.method.inpaint is None:
            raise UserError(
                f"{run} cannot inpaint: its method cannot keep known parts; flow, masked and autoregressive ones do"
            )
        if label is not None:
            require_label(loaded, label)
        height, width, channels = loaded.spec.shape
        read, known = decode(image), read_mask(mask)
        if known.shape != read.shape[:2]:
            raise UserError(
                f"--mask {mask} is {known.shape[0]}x{known.shape[1]} and the picture {read.shape[0]}x{read.shape[1]} "
                "(height x width): give them one size"
            )
        size = None if read.shape[:2] == (height, width) else height
        if size and height != width:
            raise UserError(f"{run} was trained on {height}x{width} images: bring the picture and mask to that size")
        fitted = fit_images(read, size=size, fit=loaded.config.fit, channels=channels)
        known = fit_mask(known, size=size, fit=loaded.config.fit)
        num = _fitting(path, num, loaded.spec.shape, besides=2)
        labels = jax.numpy.full(num, label or 0, jax.numpy.int32)
        scaled = scale_images(jax.numpy.asarray(fitted))
        repeated = jax.numpy.broadcast_to(scaled, (num, *scaled.shape))
        masks = jax.numpy.broadcast_to(jax.numpy.asarray(known), (num, *known.shape))
        variables = eval_variables(loaded.state)
        filled = jax.jit(loaded.method.inpaint)(variables, key, repeated, masks, labels)
        filled = pictures.to_uint8(np.asarray(filled))
    if path.suffix.lower() == ".png":
        seen = np.where(known[..., None], fitted, 127).astype(np.uint8)
        filled = np.concatenate([np.stack([fitted, seen]), filled])
    _write(path, filled, np.asarray(labels) if loaded.conditional else None)


def _fitting(path: Path, num: int, shape: tuple[int, int, int], tiles_each: int = 1, besides: int = 0) -> int:
    """How many of `num` results are computed: all for arrays and folders, as many as a sheet holds for a .png.

    Args:
        path: of the results.
        num: asked for.
        shape: of an image.
        tiles_each: of the sheet, for each result.
        besides: tiles that are there anyway.
    """
    from jimgen import pictures

    most = pictures.most_tiles(*shape[:2]) - besides
    if path.suffix.lower() != ".png" or num * tiles_each <= most:
        return num
    if tiles_each > most:
        raise UserError(f"{path}: one picture holds at most {most} images; give --out a name that ends in .npz")
    print(f"{path} shows the first {most // tiles_each} of {num}: give --out a name that ends in .npz for all")
    return max(1, most // tiles_each)


def _class_columns(num: int, num_classes: int) -> int | None:
    """Columns of a sheet near square with a class a column, or each class in several; None for many classes or one."""
    if not 2 <= num_classes <= 16:
        return None
    return num_classes * max(1, int(num**0.5) // num_classes)


def _write(path: Path, images: Any, labels: Any | None, columns: int | None = None) -> None:
    """A grid for a name that ends in .png; else as `generated.save` writes it."""
    from jimgen import pictures
    from jimgen.evaluation import generated

    pixels = pictures.to_uint8(images)
    if path.suffix.lower() == ".png":
        pictures.save_png(path, pictures.grid(pixels, columns=columns))
    else:
        generated.save(path, generated.GeneratedSet(pixels, labels))
    print(path)
