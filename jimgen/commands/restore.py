"""Restoration of pictures by a run: denoise, fill in, enlarge, deblur, colourise, CT."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from jimgen.commands.shared import RunFolder, load_run, output_file, output_folder, require_positive, start_jax
from jimgen.errors import UserError

if TYPE_CHECKING:
    from jimgen.apps.restoration_tasks import Options, Problem

ENDINGS = (".png", ".npz")


def restore(
    run: RunFolder,
    picture: Annotated[Path, tyro.conf.Positional],
    /,
    task: Literal["denoise", "inpaint", "enlarge", "deblur", "colourise", "ct"],
    simulate: bool = False,
    num: int = 8,
    mask: Path | None = None,
    sigma: float | None = None,
    factor: int = 2,
    filter: Literal["bicubic", "box"] = "bicubic",
    blur: float = 1.5,
    motion: float | None = None,
    angle: float = 0.0,
    views: int = 32,
    arc: float = 180.0,
    own_size: bool = False,
    steps: int = 100,
    seed: int = 0,
    label: int | None = None,
    set: tuple[str, ...] = (),
    out: Path | None = None,
) -> None:
    """Restore a picture in several ways, all of which agree with what is observed.

    The mean of the ways is the best guess in mean squared error, each way looks like a picture, and their standard
    deviation shows where the model is not sure.

    Args:
        run: folder of the run: a flow, a VAE or a GAN; for inpaint also a conditional VAE, a masked or an
            autoregressive transformer.
        picture: picture to restore, brought to the run's size as training pictures were; for ct without --simulate an
            .npz of `sinogram`, line integrals [views, detectors] of values from 0 (black) to 1, in pixels.
        task: denoise, inpaint (fill in), enlarge, deblur, colourise or ct (computed tomography).
        simulate: damage the picture first, and compare the result with it.
        num: number of ways to restore it.
        mask: inpaint: picture of the same size, white where known and black where to fill in.
        sigma: standard deviation of the noise in grey levels of 0 to 255, at least 1; default: for denoise estimated
            from the picture, for ct half a percent of the largest integral, else 1.
        factor: enlarge: by how much.
        filter: enlarge: how the picture was made smaller.
        blur: deblur: standard deviation of the Gaussian blur in pixels.
        motion: deblur: length of the path in pixels, for blur by motion.
        angle: deblur: direction of the motion in degrees, from the right upwards.
        views: ct: number of views.
        arc: ct: degrees that the views cover, from 0; less than 180 leaves a wedge unseen.
        own_size: keep the size of the picture, and work by overlapping tiles of the run's size; flows only.
        steps: number of steps of a flow.
        seed: random seed for the draws and the simulated noise.
        label: number of the class that the picture shows; flows need none.
        set: values of attributes that it shows, as of `jimgen sample`; others are left open.
        out: path of the result: .png for a sheet (the picture if simulated, the observed, the mean, the standard
            deviation, the draws), .npz for arrays, no ending for a folder of PNGs. Default: RUN/restore.png
    """
    import numpy as np

    from jimgen.apps import restoration
    from jimgen.apps.restoration_tasks import Options
    from jimgen.noise import key_of
    from jimgen.pictures import to_uint8

    require_positive(num=num, steps=steps, factor=factor, views=views)
    if (task == "inpaint") != (mask is not None):
        raise UserError(
            "--task inpaint needs --mask" if task == "inpaint" else f"--mask is for inpaint, not for {task}"
        )
    key = key_of(seed)
    path = out or run / "restore.png"
    path = output_file(path, *ENDINGS) if path.suffix else output_folder(path, empty=True)
    options = Options(sigma, factor, filter, blur, motion, angle, views, arc)
    with start_jax() as jax:
        loaded = load_run(run)
        labels = labels_of_draws(loaded, num, label, set)
        noise_key, draw_key = jax.random.split(key)
        clean, problem = _problem(loaded, picture, task, simulate, mask, own_size, options, noise_key)
        images = draw(loaded, problem.observation, labels, draw_key, restoration.Steps(flow=steps))
    levels = images.astype(np.float32)
    mean, deviation = levels.mean(0), levels.std(0, ddof=1) if num > 1 else np.zeros_like(levels[0])
    shown = {} if clean is None else {"picture": to_uint8(clean)}
    shown |= {"observed": to_uint8(problem.seen), "mean": np.rint(mean).astype(np.uint8), "std": _map_of(deviation)}
    if clean is not None:
        print(_compared(levels, shown))
    print(
        f"standard deviation of the draws: {deviation.mean():.1f} grey levels in the mean, {deviation.max():.0f} most"
    )
    _write(path, shown, images, mean, deviation)


def draw(loaded: Any, observation: Any, labels: Any, key: Any, steps: Any) -> Any:
    """Draws uint8 [n, h, w, c] of `restoration.draws`, with its errors as the user's."""
    from jimgen.apps import restoration
    from jimgen.train_step import eval_variables

    try:
        return restoration.draws(loaded.method, eval_variables(loaded.state), observation, labels, key, steps)
    except ValueError as error:
        raise UserError(f"{loaded.folder}: {error}") from error


def labels_of_draws(loaded: Any, num: int, label: int | None, settings: tuple[str, ...]) -> Any:
    """Labels of the draws: as given, else left open.

    Raises: UserError where nothing is given and the run was trained without hiding labels.
    """
    from jimgen.evaluation.asked import balanced_labels
    from jimgen.runs.subject import given_labels

    spec, given = loaded.spec, given_labels(loaded, label, settings)
    if loaded.conditional and not given and not loaded.method.hides_labels:
        raise UserError(f"{loaded.folder} draws images of a class: say what the picture shows, for example --label 0")
    return balanced_labels(spec, num, {0: spec.num_classes if spec.num_classes > 1 else 0} | given)


def _problem(
    loaded: Any,
    picture: Path,
    task: Any,
    simulate: bool,
    mask: Path | None,
    own_size: bool,
    options: "Options",
    key: Any,
) -> tuple[Any, "Problem"]:
    """The picture float [h, w, c] if the damage is simulated, else None; and the problem."""
    import jax.numpy as jnp
    import numpy as np

    from jimgen.apps import restoration_tasks as tasks
    from jimgen.commands.fitted import fitted_picture, fitted_picture_and_mask
    from jimgen.data.batches import scale_images

    height, width, channels = loaded.spec.shape
    scaled = lambda levels: np.asarray(scale_images(jnp.asarray(levels)))  # noqa: E731
    if task == "colourise" and channels != 3:
        raise UserError(f"{loaded.folder} draws pictures of {channels} channels: colourise needs a run on colours")
    if task == "ct" and not simulate and channels != 1:
        raise UserError(f"{loaded.folder} draws pictures of {channels} channels: a sinogram needs a run on grey ones")
    if own_size and mask is not None:
        raise UserError("--own-size does not fill in: leave it out, or cut the picture to the run's size")
    if task == "ct" and not simulate:
        return None, tasks.given(task, _sinogram(picture, options, (height, width)), (height, width), options, None)
    if mask is not None:
        levels, known = fitted_picture_and_mask(loaded, picture, mask)
    else:
        size, seen = (height, width), channels
        if not simulate and task == "enlarge":
            _require_divisor(options.factor, size)
            size = height // options.factor, width // options.factor
        if not simulate and task == "colourise":
            seen = 1
        levels, known = fitted_picture(loaded, picture, size, seen, own_size), None
    image = scaled(levels)
    if simulate:
        return image, tasks.simulated(task, image, options, key, known)
    size = (image.shape[0], image.shape[1])
    if task == "enlarge":
        size = size[0] * options.factor, size[1] * options.factor
    return None, tasks.given(task, image, size, options, known)


def _require_divisor(factor: int, size: tuple[int, int]) -> None:
    if size[0] % factor or size[1] % factor:
        raise UserError(f"--factor {factor}: must divide the run's size of {size[0]}x{size[1]}")


def _sinogram(path: Path, options: "Options", size: tuple[int, int]) -> Any:
    """Line integrals float [views, detectors, 1] from an .npz."""
    import numpy as np

    from jimgen.apps.tomography import num_detectors
    from jimgen.data.archive import read_arrays

    sinogram = read_arrays(path, ["sinogram"])["sinogram"]
    expected = (options.views, num_detectors(*size))
    if sinogram.shape != expected or not np.isfinite(sinogram).all():
        raise UserError(
            f"{path}: expected a finite `sinogram` [views, detectors] {list(expected)} for --views {options.views} and "
            f"{size[0]}x{size[1]} pixels, got {list(sinogram.shape)}"
        )
    return sinogram[..., None].astype(np.float32)


def _map_of(deviation: Any) -> Any:
    """The standard deviation as a picture: its mean over colours, white where it is largest."""
    import numpy as np

    mean = deviation.mean(-1, keepdims=True)
    scaled = np.rint(255 * mean / max(mean.max(), 1e-6)).astype(np.uint8)
    shown = np.repeat(scaled, deviation.shape[-1], axis=-1)
    if shown.shape[-1] == 4:
        shown[..., 3] = 255
    return shown


def _compared(levels: Any, shown: dict[str, Any]) -> str:
    """The PSNR of the observed, of the mean and of single draws to the picture."""
    import jax.numpy as jnp
    import numpy as np

    from jimgen.metrics.image_quality import psnr

    def found(images: Any) -> float:
        x = jnp.asarray(np.asarray(images, np.float32))
        y = jnp.broadcast_to(jnp.asarray(shown["picture"], jnp.float32), x.shape)
        return float(psnr(x, y, data_range=255.0).mean())

    parts = {"observed": shown["observed"][None], "mean of the draws": levels.mean(0)[None], "single draws": levels}
    return "PSNR: " + ", ".join(f"{name} {found(images):.2f} dB" for name, images in parts.items())


def _write(path: Path, shown: dict[str, Any], images: Any, mean: Any, deviation: Any) -> None:
    """Writes the sheet, the arrays, or a folder of pictures."""
    import numpy as np

    from jimgen.alpha import unpremultiply
    from jimgen.files import disk_errors, write_npz
    from jimgen.pictures import encode_png, grid, save_png

    straight = unpremultiply if images.shape[-1] == 4 else np.asarray
    if path.suffix.lower() == ".png":
        save_png(path, grid(np.concatenate([np.stack(list(shown.values())), images])))
    elif path.suffix:
        arrays = {name: straight(levels[None])[0] for name, levels in shown.items() if name not in ("mean", "std")}
        write_npz(path, arrays | {"images": straight(images), "mean": mean, "std": deviation}, compress=True)
    else:
        named = {**shown, **{f"draw_{i:03d}": image for i, image in enumerate(images)}}
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            for name, levels in named.items():
                pixels = levels if name == "std" else straight(levels[None])[0]
                (path / f"{name}.png").write_bytes(encode_png(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))
    print(path)
