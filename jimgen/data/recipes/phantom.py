"""phantom:ct[:NUM]: axial slices of a made-up chest, as a CT scanner would show them.

- Content: NUM train pictures (10,000 by default) and a tenth of that for test, grey, at any size, 64x64 by default.
  Ellipses stand for skin and fat, muscle, ribs, spine, lungs, heart, aorta; their places, sizes and densities vary.
  Vessels and noise are added. No patient was scanned: quality can be claimed here without privacy.
- Labels: class healthy or lesion, half each; attributes side (the lung of the lesion, as in the picture) and lesion
  (its size: small or large); "none" without a lesion. `phantom` also returns a map of regions.
- Split: by index; every picture is a function of (seed, index, size), and those of test have another seed.
- Licence: the package's own, Apache-2.0. Attribution: none needed.
"""

from typing import NamedTuple

import numpy as np

from jimgen.data.dataset import Arrays, Attribute, Source
from jimgen.data.recipes.about import About, choice, count
from jimgen.data.recipes.cache import cached, progress
from jimgen.data.recipes.installed import versions

VERSION = 1
SIZE = (64, 64)
NUM_TRAIN = 10_000
CLASS_NAMES = ("healthy", "lesion")
ATTRIBUTES = (Attribute("side", ("none", "left", "right")), Attribute("lesion", ("none", "small", "large")))
REGIONS = ("air", "fat", "muscle", "lung", "bone", "heart", "aorta", "lesion")
RADII = {"small": (0.035, 0.055), "large": (0.08, 0.11)}  # of a lesion; the picture's height is 2
_NOISE = 5.0  # standard deviation, in levels

ABOUT = About(
    what="made-up chest slices as a CT scanner shows them, grey, any number and size; class healthy or lesion",
    split="by seed: train has seed 0, test seed 1",
    licence="Apache-2.0, as this package",
    attribution="none needed",
    install="",
    is_installed=lambda: True,
)


class Ellipse(NamedTuple):
    """A region in the plane where the picture's shorter side spans [-1, 1]; y points down."""

    region: int
    x: float
    y: float
    width: float  # half axes
    height: float
    angle: float  # radians
    level: float  # grey level in [0, 255]


class Phantom(NamedTuple):
    """A slice with its ground truth."""

    image: np.ndarray  # uint8 [h, w, 1]
    regions: np.ndarray  # uint8 [h, w], numbers of REGIONS
    label: tuple[int, int, int]  # class, side, lesion


def open_phantom(argument: str, size: tuple[int, int] | None) -> Source:
    """Phantoms; `argument` is ct or ct:NUM.

    Raises:
        UserError: the kind or the number is wrong.
    """
    kind, _, num = argument.partition(":")
    nums = count(f"phantom:{choice('phantom', 'kind', kind, ('ct',))}", num, NUM_TRAIN)
    height, width = size or SIZE

    def draw() -> Source:
        ordered = ((seed, index) for seed, total in enumerate(nums) for index in range(total))
        drawn = [phantom(seed, index, (height, width)) for seed, index in progress("phantom:ct", ordered, sum(nums))]
        images, labels = np.stack([one.image for one in drawn]), np.array([one.label for one in drawn], np.int32)
        train, test = (Arrays(images[part], labels[part]) for part in (slice(nums[0]), slice(nums[0], None)))
        return Source(train, test, CLASS_NAMES, (height, width, 1), attributes=ATTRIBUTES)

    name = f"phantom:ct:{nums[0]}-{height}x{width}"
    return cached(name, (VERSION, *versions(), f"numpy {np.__version__}"), draw)


def phantom(seed: int, index: int, size: tuple[int, int] = SIZE) -> Phantom:
    """The slice number `index` of a seed: the same anatomy at every size.

    Args:
        seed: of the set.
        index: of the picture, from 0.
        size: (height, width) in pixels; the chest fits into the shorter side.
    Returns: the picture, the map of its regions, and its label.
    """
    anatomy, texture = (np.random.default_rng([VERSION, seed, index, part]) for part in (0, 1))
    label, ellipses = _anatomy(anatomy)
    y, x = ((2 * np.arange(side) + 1 - side) / min(size) for side in size)
    pixel = 2 / min(size)
    levels, regions = np.zeros(size), np.zeros(size, np.uint8)
    for ellipse in ellipses:
        reach = max(ellipse.width, ellipse.height) + pixel
        part = np.ix_(np.abs(y - ellipse.y) <= reach, np.abs(x - ellipse.x) <= reach)  # most ellipses are small
        inside = _cover(ellipse, x[part[1]], y[part[0]], pixel)
        levels[part] += inside * (ellipse.level - levels[part])
        regions[part] = np.where(inside >= 0.5, ellipse.region, regions[part])
    levels += _NOISE * texture.standard_normal(size)
    return Phantom(np.rint(levels.clip(0, 255)).astype(np.uint8)[..., None], regions, label)


def _cover(ellipse: Ellipse, x: np.ndarray, y: np.ndarray, pixel: float) -> np.ndarray:
    """How much of each pixel an ellipse covers, in [0, 1], from the distance to its edge; x is a row, y a column."""
    c, s = np.cos(ellipse.angle), np.sin(ellipse.angle)
    u = (c * (x - ellipse.x) + s * (y - ellipse.y)) / ellipse.width
    v = (c * (y - ellipse.y) - s * (x - ellipse.x)) / ellipse.height
    radius = np.sqrt(u**2 + v**2)
    slope = np.sqrt((u / ellipse.width) ** 2 + (v / ellipse.height) ** 2) / np.maximum(radius, 1e-9)
    distance = (1 - radius) / np.maximum(slope, 1e-9)  # to first order
    return (0.5 + distance / pixel).clip(0, 1)


def _anatomy(rng: np.random.Generator) -> tuple[tuple[int, int, int], list[Ellipse]]:
    """The label and the ellipses of a slice, from the back to the front."""

    def near(value: float, spread: float = 0.06) -> float:
        return value * float(1 + spread * rng.uniform(-1, 1))

    number = {name: i for i, name in enumerate(REGIONS)}
    wide, tall = near(0.88), near(0.64, 0.1)
    fat = rng.uniform(0.03, 0.12)
    ellipses = [
        Ellipse(number["fat"], 0, 0, wide, tall, 0, near(95)),
        Ellipse(number["muscle"], 0, 0, wide - fat, tall - fat, 0, near(150)),
    ]
    wall = 0.06
    inner = (wide - fat - wall, tall - fat - wall)
    for angle in np.linspace(0, 2 * np.pi, 10, endpoint=False) + rng.uniform(-0.2, 0.2):
        x, y = (wide - fat - wall / 2) * np.cos(angle), (tall - fat - wall / 2) * np.sin(angle)
        turn = np.arctan2((tall - fat) * np.cos(angle), -(wide - fat) * np.sin(angle))
        ellipses.append(Ellipse(number["bone"], x, y, near(0.09, 0.3), 0.022, turn, near(225)))
    lungs = []
    for side in (-1, 1):
        x, y, width, height = (
            side * near(0.5 * inner[0] + 0.04),
            near(-0.02, 1),
            near(0.42 * inner[0]),
            near(0.84 * inner[1]),
        )
        lung = Ellipse(number["lung"], x, y, width, height, side * rng.uniform(-0.05, 0.15), near(28, 0.2))
        lungs.append(lung)
        ellipses.append(lung)
        for _ in range(6):
            x, y = _within(rng, lung, 0.75)
            ellipses.append(
                Ellipse(number["lung"], x, y, rng.uniform(0.008, 0.02), rng.uniform(0.008, 0.02), 0, near(90, 0.3))
            )
    spine = near(0.62 * inner[1])
    ellipses += [
        Ellipse(
            number["heart"], near(0.1, 0.5), near(-0.12, 0.5), near(0.24), near(0.2), rng.uniform(0.2, 0.6), near(165)
        ),
        Ellipse(number["bone"], 0, spine, near(0.13), near(0.11), 0, near(215)),
        Ellipse(number["muscle"], 0, spine + 0.12, 0.035, 0.035, 0, near(110)),
        Ellipse(number["aorta"], near(0.15), spine - 0.16, near(0.06), near(0.06), 0, near(180)),
    ]
    if rng.uniform() < 0.5:
        return (0, 0, 0), ellipses
    side, kind = int(rng.integers(2)), int(rng.integers(2))
    x, y = _within(rng, lungs[side]._replace(x=lungs[side].x + (0.12 if side else -0.12)), 0.5)
    width, height = rng.uniform(*RADII[ATTRIBUTES[1].values[kind + 1]], 2)
    ellipses.append(Ellipse(number["lesion"], x, y, width, height, rng.uniform(0, np.pi), near(150)))
    return (1, side + 1, kind + 1), ellipses


def _within(rng: np.random.Generator, ellipse: Ellipse, part: float) -> tuple[float, float]:
    """A random point in the inner `part` of an ellipse."""
    radius, angle = part * np.sqrt(rng.uniform()), rng.uniform(0, 2 * np.pi)
    u, v = radius * np.cos(angle) * ellipse.width, radius * np.sin(angle) * ellipse.height
    c, s = np.cos(ellipse.angle), np.sin(ellipse.angle)
    return ellipse.x + c * u - s * v, ellipse.y + s * u + c * v
