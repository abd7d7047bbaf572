"""The latent space of a run: codes of pictures, and directions of attributes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from jimgen.commands.shared import RunFolder, load_run, output_file, require_positive, start_jax
from jimgen.errors import UserError

if TYPE_CHECKING:
    from jimgen.apps.projection import Projection

ENDINGS = (".png", ".npz")
AT_A_TIME = 16  # pictures whose codes are searched for together


def project(
    run: RunFolder,
    pictures: Annotated[tuple[Path, ...], tyro.conf.Positional],
    /,
    steps: int = 500,
    starts: int = 3,
    seed: int = 0,
    label: int | None = None,
    set: tuple[str, ...] = (),
    out: Path | None = None,
) -> None:
    """Find the latent codes of pictures, from which a GAN or a VAE draws images that resemble them most.

    Args:
        run: folder of the run.
        pictures: pictures to find; they are brought to the run's size as training pictures were.
        steps: number of steps of each search.
        starts: number of searches for each picture, from different codes; the best result is kept.
        seed: random seed for the codes to start from and the noise of the search.
        label: number of the class that the pictures show; needed for a run that was trained with classes alone.
        set: values of attributes that they show, as of `jimgen sample`; others are left open.
        out: path of the result: .png for a row for each picture (itself, its image from w if the run has that space,
            its image from z) or .npz for codes, images and residuals. Default: RUN/project.png
    """
    import numpy as np

    from jimgen.commands.fitted import fitted_picture
    from jimgen.noise import key_of
    from jimgen.runs.subject import given_labels

    require_positive(steps=steps, starts=starts)
    key = key_of(seed)
    path = output_file(out or run / "project.png", *ENDINGS)
    if not pictures:
        raise UserError("give at least one picture to project")
    with start_jax():
        loaded = load_run(run)
        space = _require_space(loaded)
        given = given_labels(loaded, label, set)
        if loaded.conditional and not loaded.spec.attributes and not given:
            raise UserError(f"{run} draws images of a class: say which one the pictures show, for example --label 0")
        _require_room(path, loaded, len(pictures) * (3 if space.is_straight else 2))
        images = np.stack([fitted_picture(loaded, picture) for picture in pictures])
        labels = _labels(loaded, len(pictures), given)
        found = _projections(loaded, images, labels, key, steps, starts)
    for i, picture in enumerate(pictures):
        print(f"{picture}  " + "  ".join(_residuals(name, part, i) for name, part in found._asdict().items() if part))
    _write_projections(path, loaded, images, labels, found, pictures)
    print(path)


def directions(
    run: RunFolder,
    /,
    by: tuple[str, ...],
    num: int = 2000,
    seed: int = 0,
    rows: int = 4,
    orthogonal: bool = False,
    label: int | None = None,
    set: tuple[str, ...] = (),
    out: Path | None = None,
) -> None:
    """Find directions of attributes among the latent codes of a GAN or a VAE, which need not know the attributes.

    A classifier, trained on the run's data, tells which attributes images of random codes show. A linear fit tells in
    which direction of the codes each attribute lies.

    Args:
        run: folder of the run.
        by: what each direction is to bring about: hair=red, glasses!=none, class=3, or several at once:
            hair=red+glasses=round.
        num: number of random codes; a quarter of them judges the fit to the others.
        seed: random seed for the codes.
        rows: number of samples that are shown moved along each direction.
        orthogonal: make each direction orthogonal to all others, so that it changes their attributes less.
        label: number of the class that all codes are drawn for; by default the classes in turn.
        set: values of attributes that all codes are drawn for, as of `jimgen sample`; others are left open.
        out: path of the picture, .png (a row a sample, moved by -3 to 3 standard deviations along a direction). An .npz
            of the same name holds the directions. Default: RUN/directions.png
    """
    from jimgen.apps import directions as apps
    from jimgen.data.attributes import combination_by_name
    from jimgen.noise import key_of
    from jimgen.pictures import grid_of_rows, save_png
    from jimgen.runs.subject import given_labels, load_data
    from jimgen.train_step import eval_variables

    require_positive(num=num, rows=rows)
    key = key_of(seed)
    path = output_file(out or run / "directions.png", *ENDINGS)
    if not by:
        raise UserError("--by: give at least one attribute=value")
    sheet, arrays = (output_file(path.with_suffix(ending), ending) for ending in ENDINGS)
    with start_jax():
        loaded = load_run(run)
        space = _require_space(loaded)
        if not loaded.spec.conditions:
            raise UserError(f"the data of {run} have neither classes nor attributes, so there is no classifier of them")
        asked = {text: combination_by_name(loaded.spec.columns, text, "--by") for text in by}
        given = given_labels(loaded, label, set)
        rows = min(rows, num)
        _require_room(sheet, loaded, rows * len(asked) * len(apps.STRENGTHS))
        labels = _labels(loaded, num, given)
        dataset, variables = load_data(loaded.config), eval_variables(loaded.state)
        draws = apps.draw(space, variables, labels, key)
        shown = _shown(loaded, dataset, draws.images, asked)
        found = [apps.fit_direction(name, draws.codes, yes) for name, yes in shown.items()]
        if orthogonal:
            others = [[other.vector for other in found if other is not one] for one in found]
            found = [
                apps.fit_direction(name, draws.codes, yes, apart)
                for (name, yes), apart in zip(shown.items(), others, strict=True)
            ]
        first = apps.Draws(draws.codes[:rows], draws.images[:rows])
        moved = [apps.images_along(space, variables, first, labels, key, direction) for direction in found]
    for each in found:
        print(f"{each.name}: accuracy {each.quality:.1%} on held-out codes; {each.share:.1%} of images show it")
    save_png(sheet, grid_of_rows([row for images in moved for row in images]))
    apps.save(arrays, found, draws.codes.mean(0), space.is_straight)
    print(sheet, arrays, sep="\n")


def _require_space(loaded: Any) -> Any:
    """The latent space of a run. Raises UserError where its method has none."""
    if loaded.method.space is None:
        raise UserError(f"{loaded.folder} has no latent space: its method is neither a GAN nor a VAE")
    return loaded.method.space


def _require_room(path: Path, loaded: Any, tiles: int) -> None:
    """Raises UserError for more tiles than one sheet holds."""
    from jimgen.pictures import most_tiles

    most = most_tiles(*loaded.spec.shape[:2])
    if path.suffix.lower() == ".png" and tiles > most:
        raise UserError(f"{path}: one picture holds at most {most} images, and these are {tiles}: ask for fewer")


def _labels(loaded: Any, num: int, given: dict[int, int]) -> Any:
    """Labels of `num` images: what is not given is left open or, where a class is all there is, the classes in turn."""
    from jimgen.evaluation.asked import balanced_labels

    spec = loaded.spec
    left_open = {0: spec.num_classes if spec.num_classes > 1 else 0} if spec.attributes else {}
    return balanced_labels(spec, num, left_open | given)


def _projections(loaded: Any, images: Any, labels: Any, key: Any, steps: int, starts: int) -> "Projection":
    """Projections of images uint8 [n, h, w, c], a few at a time, by programs of one size."""
    import jax.numpy as jnp
    import numpy as np

    from jimgen.apps.projection import Found, Projection, Search, project
    from jimgen.data.batches import scale_images
    from jimgen.train_step import eval_variables

    n, variables = len(images), eval_variables(loaded.state)
    at_a_time = min(AT_A_TIME, n)
    parts = []
    for start in range(0, n, at_a_time):
        rows = np.arange(start, start + at_a_time) % n
        batch = scale_images(jnp.asarray(images[rows])), jnp.asarray(labels[rows])
        parts.append(project(loaded.method.space, variables, *batch, key, Search(steps, starts)))

    def joined(places: tuple[Any, ...]) -> Any:
        return None if places[0] is None else Found(*(np.concatenate(x)[:n] for x in zip(*places, strict=True)))

    return Projection(*(joined(places) for places in zip(*parts, strict=True)))


def _residuals(name: str, found: Any, i: int) -> str:
    return f"{name}: PSNR {found.psnr[i]:.2f} dB, squared error {found.mse[i]:.4g}, distance {found.distance[i]:.2f}"


def _write_projections(path: Path, loaded: Any, images: Any, labels: Any, found: "Projection", names: Any) -> None:
    """Writes rows of a picture and its images, or the arrays."""
    import numpy as np

    from jimgen.alpha import unpremultiply
    from jimgen.files import shown, write_npz
    from jimgen.pictures import grid_of_rows, save_png, to_uint8

    parts = {name: part for name, part in found._asdict().items() if part is not None}
    levels = {"": images} | {f"{name}_": to_uint8(part.images) for name, part in parts.items()}
    if path.suffix.lower() == ".png":
        save_png(path, grid_of_rows(list(np.stack(list(levels.values()), axis=1))))
        return
    straight = unpremultiply if images.shape[-1] == 4 else np.asarray
    arrays = {f"{name}images": straight(pixels) for name, pixels in levels.items()}
    for name, part in parts.items():
        arrays |= {name: part.codes, f"{name}_mse": part.mse, f"{name}_psnr": part.psnr}
        arrays[f"{name}_distance"] = part.distance
    arrays |= {"labels": labels} if loaded.conditional else {}
    write_npz(path, arrays | {"names": np.asarray([shown(name) for name in names])}, compress=True)


def _shown(loaded: Any, dataset: Any, images: Any, asked: dict[str, dict[int, list[int]]]) -> dict[str, Any]:
    """Which images uint8 [n, h, w, c] show each combination of values, by the classifier of the data: bool [n] each."""
    from jimgen.data.attributes import show
    from jimgen.evaluation import agreement
    from jimgen.evaluation.opaque import opaque_dataset, opaque_images

    background = loaded.config.fitting().background
    seen, dataset = opaque_images(images, background), opaque_dataset(dataset, background)
    values = agreement.found_values(seen, dataset, agreement.STEPS)
    return {text: show(values, combination) for text, combination in asked.items()}
