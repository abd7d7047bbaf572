"""Images from a run: sample, reconstruct, interpolate, inpaint."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jimgen.commands.shared import RunFolder, load_run, output_file, output_folder, require_positive, start_jax
from jimgen.errors import UserError

ENDINGS = (".png", ".npz")


def sample(
    run: RunFolder,
    /,
    num: int = 64,
    seed: int = 0,
    label: int | None = None,
    set: tuple[str, ...] = (),
    by: str | None = None,
    classes: Literal["balanced", "frequency"] = "balanced",
    best: bool = False,
    change: tuple[str, ...] = (),
    data: str | None = None,
    out: Path | None = None,
) -> None:
    """Draw new images from a run, the same set for the same seed on any number of devices.

    Args:
        run: folder of the run.
        num: number of images.
        seed: random seed for the latents.
        label: index of the class to draw; default: all classes in turn.
        set: values of attributes, or the name of the class: hair=red glasses=round class=3. Other
            attributes are left open.
        by: attribute whose values are drawn in turn, one a column of the grid; default: the class or, without classes
            and --set, the first one.
        classes: proportions of the labels of a conditional run: balanced (the values in turn), or as in the training
            images.
        best: use the best checkpoint, which --quality-every kept, instead of the newest one.
        change: config fields that sampling alone depends on, with new values: guidance=3 num_steps=50.
        data: data set for --classes frequency; default: the run's own.
        out: path of the result: .png for a grid, .npz for arrays `images` (uint8 [n, h, w, c]) and `labels`, no ending
            for a folder of PNGs by class. Runs without labels write none. Default: RUN/sample.png
    """
    from jimgen.data.attributes import column_by_name
    from jimgen.evaluation.asked import column_in_turn
    from jimgen.noise import require_seed
    from jimgen.runs.subject import draw_images, given_labels

    require_positive(num=num)
    require_seed(seed)
    if by is not None and classes == "frequency":
        raise UserError("--by draws the values in turn, --classes frequency as in training: give one of them")
    path = out or run / "sample.png"
    path = output_file(path, *ENDINGS) if path.suffix else output_folder(path, empty=True)
    with start_jax():
        loaded = load_run(run, best, change)
        shown = _fitting(path, num, loaded.spec.shape)
        given = given_labels(loaded, label, set)
        turn = column_in_turn(loaded.spec, given) if by is None else column_by_name(loaded.spec.columns, by)
        if by is not None and (turn in given or not loaded.conditional):
            raise UserError(f"--by {by}: " + ("--set gives it one value" if turn in given else "the run has no labels"))
        drawn = draw_images(loaded, shown, seed, classes, given, turn, data)
    in_turn = loaded.conditional and turn not in given and classes == "balanced"
    columns = _class_columns(shown, len(loaded.spec.columns[turn].values)) if in_turn else None
    _write(path, drawn, columns)


def reconstruct(run: RunFolder, /, num: int = 40, data: str | None = None, out: Path | None = None) -> None:
    """Encode and decode the first test images: alternating rows of images and of reconstructions.

    Args:
        run: folder of the run.
        num: number of images.
        data: name of the data set whose test images are used; by default the run's own.
        out: path of the result: .png for a grid, .npz for reconstructions and labels. Default: RUN/reconstruct.png
    """
    from jimgen import pictures
    from jimgen.data.dataset import read_rows
    from jimgen.evaluation.generated import GeneratedSet
    from jimgen.runs.previews import pairs_grid

    require_positive(num=num)
    path = output_file(out or run / "reconstruct.png", *ENDINGS)
    with start_jax():
        loaded = load_run(run)
        if loaded.method.reconstruct is None:
            raise UserError(f"{run} cannot reconstruct: its method has no encoder. `jimgen sample` draws from it.")
        dataset = _data_of_its_shape(loaded, data)
        if num > dataset.spec.num_test:
            print(f"{dataset.spec.name} has {dataset.spec.num_test} test images: no more can be reconstructed")
            num = dataset.spec.num_test
        images, labels = read_rows(dataset.test, range(_fitting(path, num, dataset.spec.shape, tiles_each=2)))
        found = _reconstructions(loaded, images, labels)
    if path.suffix.lower() == ".png":
        pictures.save_png(path, pairs_grid(images, found, 10))
        print(path)
    else:
        spec = dataset.spec
        _write(path, GeneratedSet(found, labels if spec.conditions else None, attributes=spec.attributes))


def levels(run: RunFolder, /, num: int = 8, seed: int = 0, data: str | None = None, out: Path | None = None) -> None:
    """Show what each level of a hierarchical VAE holds: a row for each test image, which keeps more of it to the right.

    A row begins with the image. Its next picture is drawn freely; the following ones keep the latents of the image at
    the top level, at the two top levels, and so on. What is not kept is drawn with the same noise along the row.

    Args:
        run: folder of the run.
        num: number of rows.
        seed: random seed for the latents.
        data: name of the data set whose test images are used; by default the run's own.
        out: path of the result: .png for a grid, .npz for its images. Default: RUN/levels.png
    """
    import numpy as np

    from jimgen.data.batches import scale_images
    from jimgen.data.dataset import read_rows
    from jimgen.evaluation.generated import GeneratedSet
    from jimgen.noise import key_of
    from jimgen.train_step import eval_variables

    require_positive(num=num)
    key = key_of(seed)
    path = output_file(out or run / "levels.png", *ENDINGS)
    with start_jax() as jax:
        loaded = load_run(run)
        hierarchy = loaded.method.levels
        if hierarchy is None:
            raise UserError(f"{run} has no levels of latents: its method is no hierarchical VAE")
        dataset = _data_of_its_shape(loaded, data)
        columns = len(hierarchy.names) + 2
        rows = _fitting(path, min(num, dataset.spec.num_test), dataset.spec.shape, tiles_each=columns)
        images, labels = map(jax.numpy.asarray, read_rows(dataset.test, range(rows)))
        scaled, draw = scale_images(images), jax.jit(hierarchy.draw, static_argnums=4)
        variables = eval_variables(loaded.state)
        drawn = [draw(variables, jax.random.clone(key), scaled, labels, kept) for kept in range(columns - 1)]
        grid = np.stack([np.asarray(scaled), *map(np.asarray, drawn)], axis=1)
    print("columns: the image, kept nothing, " + ", ".join(f"and {name}" for name in hierarchy.names))
    _write(path, GeneratedSet(grid.reshape(-1, *grid.shape[2:]), None), columns)


def _data_of_its_shape(loaded: Any, name: str | None) -> Any:
    """The run's data set, or the one of that name. Raises UserError for images of another shape, or other labels."""
    from jimgen.runs.subject import load_data, require_same_labels

    dataset = load_data(loaded.config, name=name)
    if dataset.spec.shape != loaded.spec.shape:
        raise UserError(f"--data {name}: images {list(dataset.spec.shape)}, the run takes {list(loaded.spec.shape)}")
    require_same_labels(loaded, dataset.spec)
    return dataset


def _reconstructions(loaded: Any, images: Any, labels: Any) -> Any:
    """Reconstructions uint8 [n, h, w, c] of images uint8 [n, h, w, c] with labels int32 [n], chunk by chunk."""
    import jax
    import numpy as np

    from jimgen import pictures
    from jimgen.data.batches import scale_images
    from jimgen.evaluation.generated import CHUNK
    from jimgen.train_step import eval_variables

    reconstruct, variables = jax.jit(loaded.method.reconstruct), eval_variables(loaded.state)
    found = []
    for start in range(0, len(images), CHUNK):
        part = scale_images(jax.numpy.asarray(images[start : start + CHUNK]))
        found.append(pictures.to_uint8(np.asarray(reconstruct(variables, part, labels[start : start + CHUNK]))))
    return np.concatenate(found)


def interpolate(
    run: RunFolder,
    /,
    num: int = 8,
    steps: int = 10,
    seed: int = 0,
    label: int | None = None,
    set: tuple[str, ...] = (),
    out: Path | None = None,
) -> None:
    """Interpolate between pairs of random latents, one row per pair.

    Args:
        run: folder of the run.
        num: number of rows.
        steps: number of images per row, both ends included.
        seed: random seed for the latents.
        label: number of one class for all images; by default the classes in turn.
        set: values of attributes, as of `jimgen sample`.
        out: path of the result, .png or .npz. Default: RUN/interpolate.png
    """
    import numpy as np

    from jimgen.evaluation.asked import balanced_labels
    from jimgen.methods import latents
    from jimgen.noise import key_of
    from jimgen.runs.subject import given_labels
    from jimgen.train_step import eval_variables

    require_positive(num=num, steps=steps)
    key = key_of(seed)
    path = output_file(out or run / "interpolate.png", *ENDINGS)
    with start_jax() as jax:
        loaded = load_run(run)
        if loaded.method.space is None:
            raise UserError(f"{run} cannot interpolate: its method has no continuous latent space")
        given = given_labels(loaded, label, set)
        rows = _fitting(path, num, loaded.spec.shape, tiles_each=steps)
        labels = balanced_labels(loaded.spec, rows, given)
        walk = jax.jit(partial(latents.interpolate, loaded.method.space), static_argnums=3)
        images = np.asarray(walk(eval_variables(loaded.state), key, jax.numpy.asarray(labels), steps))
    images = images.reshape(-1, *images.shape[2:])
    _write(path, _with_labels(loaded, images, np.repeat(labels, steps, axis=0)), columns=steps)


def inpaint(
    run: RunFolder,
    image: Annotated[Path, tyro.conf.Positional],
    /,
    mask: Path,
    num: int = 8,
    steps: int = 100,
    seed: int = 0,
    label: int | None = None,
    set: tuple[str, ...] = (),
    change: tuple[str, ...] = (),
    out: Path | None = None,
) -> None:
    """Fill the missing parts of a picture, in several ways: `jimgen restore` with the task inpaint.

    Args:
        run: folder of the run.
        image: picture to fill; it is brought to the run's size as training pictures were.
        mask: picture of the same size: white (or 1) is known and stays, black (or 0) and transparent parts are filled
            in; grey counts as known if it is brighter than half the range.
        num: number of ways to fill it.
        steps: number of steps of a flow.
        seed: random seed for the noise.
        label: number of the class to fill in; by default left open.
        set: values of attributes, as of `jimgen sample`; others are left open.
        change: config fields that sampling alone depends on, with new values: guidance=3.
        out: path of the result: .png (the picture, its known part, then the results) or .npz. Default: RUN/inpaint.png
    """
    import numpy as np

    from jimgen.commands.fitted import fitted_picture_and_mask
    from jimgen.commands.restore import labels_of_draws
    from jimgen.noise import key_of

    require_positive(num=num, steps=steps)
    key = key_of(seed)
    path = output_file(out or run / "inpaint.png", *ENDINGS)
    with start_jax():
        loaded = load_run(run, changes=change)
        num = _fitting(path, num, loaded.spec.shape, besides=2)
        labels = labels_of_draws(loaded, num, label, set)
        fitted, known = fitted_picture_and_mask(loaded, image, mask)
        filled = _fillings(loaded, key, fitted, known, steps, labels)
    if path.suffix.lower() == ".png":
        grey = np.array([127, 127, 127, 255] if fitted.shape[-1] == 4 else 127, np.uint8)
        seen = np.where(known[..., None], fitted, grey)
        filled = np.concatenate([np.stack([fitted, seen]), filled])
    _write(path, _with_labels(loaded, filled, labels))


def _fillings(loaded: Any, key: Any, picture: Any, known: Any, steps: int, labels: Any) -> Any:
    """Fillings uint8 [n, h, w, c] of a picture uint8 [h, w, c], one for each label."""
    import jax.numpy as jnp
    import numpy as np

    from jimgen.apps.restoration import Steps
    from jimgen.apps.restoration_tasks import Options, given
    from jimgen.commands.restore import draw
    from jimgen.data.batches import scale_images

    image = np.asarray(scale_images(jnp.asarray(picture)))
    problem = given("inpaint", image, known.shape, Options(), known)
    return draw(loaded, problem.observation, labels, key, Steps(flow=steps))


def _fitting(path: Path, num: int, shape: tuple[int, int, int], tiles_each: int = 1, besides: int = 0) -> int:
    """Returns how many of `num` results to compute: all for arrays and folders, as many as a sheet holds for a .png.

    Args:
        path: where the results go.
        num: number asked for.
        shape: (h, w, c) of an image.
        tiles_each: tiles of the sheet for each result.
        besides: further tiles of the sheet.
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
    """Columns of a nearly square sheet in which no column mixes classes; None for one class or more than 16."""
    from jimgen.runs.previews import CLASSES_IN_COLUMNS

    if num_classes not in CLASSES_IN_COLUMNS:
        return None
    return num_classes * max(1, int(num**0.5) // num_classes)


def _with_labels(loaded: Any, images: Any, labels: Any) -> Any:
    """Images with the labels that they were drawn for, if the run knows any, as a GeneratedSet."""
    from jimgen.evaluation.generated import GeneratedSet

    return GeneratedSet(images, labels if loaded.conditional else None, attributes=loaded.spec.attributes)


def _write(path: Path, drawn: Any, columns: int | None = None) -> None:
    """Writes a grid for a name that ends in .png, else what `generated.save` writes."""
    from jimgen import pictures
    from jimgen.evaluation import generated

    pixels = pictures.to_uint8(drawn.images)
    if path.suffix.lower() == ".png":
        pictures.save_png(path, pictures.grid(pixels, columns=columns))
    else:
        generated.save(path, drawn._replace(images=pixels))
    print(path)
