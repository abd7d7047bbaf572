"""Pictures that a user gives, in the form that a run takes them."""

from pathlib import Path
from typing import Any

from jimgen.errors import UserError


def fitted_picture(
    loaded: Any, picture: Path, size: tuple[int, int] | None = None, channels: int | None = None, own_size: bool = False
) -> Any:
    """A picture uint8 [h, w, c], as training pictures were fitted.

    Args:
        loaded: the run.
        picture: path of the picture.
        size: (h, w); default: the run's.
        channels: 1, 3 or 4; default: the run's.
        own_size: leave the picture its own size.
    Raises:
        UserError: it cannot be read or brought to that size.
    """
    from jimgen.data.fitting import fit_images
    from jimgen.data.images import decode

    height, width, own_channels = loaded.spec.shape
    wanted = None if own_size else size or (height, width)
    fitting = loaded.config.fitting()._replace(
        size=wanted, channels=channels or own_channels, crop="centre", crop_scale=1.0
    )
    read = decode(picture, **fitting.reading._asdict())
    try:
        return fit_images(read, fitting)
    except UserError as error:
        raise UserError(f"{picture}: {error}") from error


def fitted_picture_and_mask(loaded: Any, picture: Path, mask: Path) -> tuple[Any, Any]:
    """A picture uint8 [h, w, c] and its mask bool [h, w], True where known, in the run's size.

    Raises:
        UserError: one cannot be read, their sizes differ, or they cannot be brought to the run's size.
    """
    from jimgen.data.fitting import fit_images
    from jimgen.data.images import decode
    from jimgen.data.masks import fit_mask, read_mask

    height, width, channels = loaded.spec.shape
    fitting = loaded.config.fitting()._replace(size=(height, width), channels=channels)
    read, known = decode(picture, **fitting.reading._asdict()), read_mask(mask)
    if known.shape != read.shape[:2]:
        raise UserError(
            f"--mask {mask} is {known.shape[0]}x{known.shape[1]} and the picture {read.shape[0]}x{read.shape[1]} "
            "(height x width): give them one size"
        )
    return fit_images(read, fitting), fit_mask(known, fitting)
