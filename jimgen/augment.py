"""Augmentation of what a discriminator sees, so that it does not learn few images by heart.

`augment` is ADA's pipeline: every transformation is applied with probability p, so that the generator does not learn to
draw augmented images. `adapt` moves p by a signal of overfitting. `diff_augment` always applies its transformations.

Augment real and generated images alike, in the phases of both nets. All functions map float images [b, h, w, c] in
[-1, 1], c = 1, 3 or 4, to images of the same shape, which colour may take out of [-1, 1]. They are differentiable with
respect to the images, twice, so that R1 passes through them. Noise belongs to the example: keys [b] are those of
`noise.example_keys`. With four channels, colour acts on the premultiplied colour and leaves alpha as it is.

References:
    Karras et al., Training Generative Adversarial Networks with Limited Data, arXiv:2006.06676, appendix B; Zhao et
    al., Differentiable Augmentation for Data-Efficient GAN Training, arXiv:2006.10738.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

from jimgen.objectives import Scalar
from jimgen.parallel import mean_over_devices
from jimgen.precision import at_least_float32

# Sizes of ADA's transformations: standard deviations, unless said otherwise.
SHIFT = 0.125  # of the side: the largest shift by whole pixels, and that of shifts by fractions
SCALE = 0.2  # of log2 of the factor
BRIGHTNESS = 0.2
CONTRAST = 0.5  # of log2 of the factor
SATURATION = 1.0  # of log2 of the factor
CUTOUT = 0.5  # side of the square, as a fraction of the image's


class Augmentation(NamedTuple):
    """Strengths in [0, 1]: a transformation of a group is applied with probability p times the group's strength."""

    flip: float = 0.0  # left to right, in half of the cases
    blit: float = 0.0  # turns by 90 degrees (by 180 unless the image is square); shifts by whole pixels
    geometry: float = 0.0  # scaling, equal and unequal by axis; rotation by any angle; shifts by fractions of a pixel
    colour: float = 0.0  # brightness, contrast, reversed luma; for colour images also hue and saturation
    cutout: float = 0.0  # a square of half the image's size is set to 0


FLIPS = Augmentation(flip=1)
BGC = Augmentation(flip=1, blit=1, geometry=1, colour=1)  # "bgc" of ADA
R3GAN = Augmentation(flip=1, blit=1, geometry=1, colour=0.5, cutout=1)  # Huang et al., arXiv:2501.05441


def augment(images: Array, keys: Array, p: Scalar, augmentation: Augmentation = BGC) -> Array:
    """ADA's pipeline. At p = 0 the images come back bit for bit.

    Flips, turns, shifts, scalings and rotations make one map of coordinates, by which pixels are interpolated
    bilinearly once; beyond its edges the image is reflected. (ADA interpolates at twice the resolution, between wavelet
    filters: a difference for shrunken images.) A grey image has no hue and no saturation, and reversed luma is -x.

    Args:
        images: float [b, h, w, c] in [-1, 1].
        keys: PRNG keys [b].
        p: scalar in [0, 1].
        augmentation: strengths of the groups; a group of strength 0 costs nothing.
    Returns: float [b, h, w, c], in the dtype of the images.
    Raises:
        ValueError: images are not float [b, h, w, c] with c = 1, 3 or 4 and sides of at least 2; keys are not [b]; a
            strength, or p where it is known while tracing, is outside [0, 1].
    """
    _check(images, keys)
    if bad := {name: x for name, x in augmentation._asdict().items() if not 0 <= x <= 1}:
        raise ValueError(f"expected strengths within [0, 1], got {bad}")
    if jnp.shape(p) != ():
        raise ValueError(f"expected p a scalar, got {list(jnp.shape(p))}")
    if not isinstance(p, Tracer) and not 0 <= p <= 1:
        raise ValueError(f"expected p within [0, 1], got {p}")
    one = partial(_augment_one, p=jnp.asarray(p, jnp.float32), augmentation=augmentation)
    return jax.vmap(one)(at_least_float32(images), keys).astype(images.dtype)


def random_flip(images: Array, keys: Array) -> Array:
    """Mirrors each image [b, h, w, c] left to right with probability 1/2, for keys [b]; arguments as of `augment`."""
    _check(images, keys)
    return jax.vmap(lambda image, key: _mirrored(image, jax.random.bernoulli(key)))(images, keys)


def random_shift(images: Array, keys: Array) -> Array:
    """Shifts each image by whole pixels, up to an eighth of each side, and reflects it at its edges.

    All shifts are equally likely. Arguments as of `augment`.

    References:
        Zagoruyko and Komodakis, Wide Residual Networks, arXiv:1605.07146, section 3: 4 pixels of 32.
    """
    _check(images, keys)
    return jax.vmap(_moved)(images, keys)


def adapt(p: Scalar, signal: Scalar, target: Scalar, images: Scalar, length: float = 500_000) -> Array:
    """p +- images / length, up where the signal exceeds the target, clipped to [0, 1]: [].

    p goes from 0 to 1 in `length` images at most. Four steps of 64 images move it by .000512, as ADA does at once.

    Args:
        p: scalar in [0, 1].
        signal: scalar, `overfitting_signal` of this step or its mean over a few.
        target: scalar; .6 in the paper.
        images: number of images in the step, of the global batch.
        length: number of images > 0.
    References:
        Karras et al., arXiv:2006.06676, section 3.1.
    """
    return jnp.clip(p + jnp.sign(signal - target) * images / length, 0.0, 1.0)


def overfitting_signal(real_logits: Array, fake_logits: Array, *, relativistic: bool) -> Array:
    """How surely D tells training images from generated ones: [] in [-1, 1], over the global batch in every mode.

    E sign(D(x)) for losses that place real logits above 0 (ADA's r_t). A relativistic loss does not change if all
    logits move by a constant, so that their signs say nothing; for it E sign(D(x) - D(G(z))) over pairs.

    Args:
        real_logits, fake_logits: float [b], of augmented images.
        relativistic: whether the loss depends on differences of logits alone.
    Raises:
        ValueError: if the logits are not both [b].
    """
    if jnp.ndim(real_logits) != 1 or jnp.shape(real_logits) != jnp.shape(fake_logits):
        raise ValueError(f"expected logits [b], got {list(jnp.shape(real_logits))}, {list(jnp.shape(fake_logits))}")
    real_logits, fake_logits = at_least_float32(real_logits), at_least_float32(fake_logits)
    return mean_over_devices(jnp.sign(real_logits - fake_logits if relativistic else real_logits).mean())


def _check(images: Array, keys: Array) -> None:
    shape = jnp.shape(images)
    if len(shape) != 4 or shape[-1] not in (1, 3, 4) or not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"expected images float [b, h, w, c], c = 1, 3 or 4, got {images.dtype} {list(shape)}")
    if min(shape[1:3]) < 2:
        raise ValueError(f"expected images of at least 2x2 pixels to augment, got {shape[1]}x{shape[2]}")
    if jnp.shape(keys) != shape[:1]:
        raise ValueError(f"expected keys {list(shape[:1])}, one per image, got {list(jnp.shape(keys))}")


# ADA. All functions below take one image [h, w, c]; `augment` maps them over the batch.


class _Draws(NamedTuple):
    """Whether each transformation is applied, and random numbers for it, all scalars unless said otherwise.

    Each name has its place in one draw, so that a transformation draws the same whatever else is on.
    """

    gates: Array  # [len(_GATES)], uniform in [0, 1)
    uniforms: Array  # [len(_UNIFORMS)]
    normals: Array  # [len(_NORMALS)]
    p: Array

    def chosen(self, name: str, strength: float) -> Array:
        return self.gates[_GATES.index(name)] < self.p * strength

    def uniform(self, name: str) -> Array:
        return self.uniforms[_UNIFORMS.index(name)]

    def normal(self, name: str) -> Array:
        return self.normals[_NORMALS.index(name)]


_GATES = ("flip", "turn", "shift", "scale", "rotate", "stretch", "rotate again", "move")
_GATES += ("brightness", "contrast", "luma", "hue", "saturation", "cutout")
_UNIFORMS = ("flip", "turn", "shift x", "shift y", "rotate", "rotate again", "luma", "hue", "cutout x", "cutout y")
_NORMALS = ("scale", "stretch", "move x", "move y", "brightness", "contrast", "saturation")


def _augment_one(image: Array, key: Array, p: Array, augmentation: Augmentation) -> Array:
    of_gates, of_uniforms, of_normals = jax.random.split(key, 3)
    draws = _Draws(
        jax.random.uniform(of_gates, (len(_GATES),)),
        jax.random.uniform(of_uniforms, (len(_UNIFORMS),), image.dtype),
        jax.random.normal(of_normals, (len(_NORMALS),), image.dtype),
        p,
    )
    mirrored = draws.chosen("flip", augmentation.flip) & (draws.uniform("flip") < 0.5)
    if augmentation.blit or augmentation.geometry:
        height, width, _ = image.shape
        inverse = _times(
            _scaled(jnp.where(mirrored, -1.0, 1.0), jnp.asarray(1.0)),
            _blit(draws, augmentation.blit, height, width),
            _geometry(draws, augmentation.geometry, height, width),
        )
        # The flip is part of the map: XLA on CPU would mirror the image anew for every pixel that it gathers.
        image = jnp.where((inverse == jnp.eye(3)).all(), image, _warped(image, inverse))
    elif augmentation.flip:
        image = _mirrored(image, mirrored)
    if augmentation.colour:
        image = _coloured(image, draws, augmentation.colour)
    if augmentation.cutout:
        image = _cut_out(image, draws, augmentation.cutout)
    return image


def _mirrored(image: Array, chosen: Array) -> Array:
    return jnp.where(chosen, image[:, ::-1], image)


# Geometry. A matrix [3, 3] takes places (x, y, 1) of the output, counted from the centre, to those of the input. So the
# first factor of a product belongs to the transformation that comes first.


def _times(*matrices: Array) -> Array:
    product = matrices[0]
    for matrix in matrices[1:]:
        product = jnp.matmul(product, matrix, precision="highest")
    return product


def _shifted(x: Array, y: Array) -> Array:
    """Of a shift to the right by x and down by y pixels."""
    return jnp.asarray(((1.0, 0.0, -x), (0.0, 1.0, -y), (0.0, 0.0, 1.0)))


def _scaled(x: Array, y: Array) -> Array:
    return jnp.asarray(((1 / x, 0.0, 0.0), (0.0, 1 / y, 0.0), (0.0, 0.0, 1.0)))


def _rotated(cosine: Array, sine: Array) -> Array:
    return jnp.asarray(((cosine, sine, 0.0), (-sine, cosine, 0.0), (0.0, 0.0, 1.0)))


def _blit(draws: _Draws, strength: float, height: int, width: int) -> Array:
    """Turns by right angles, and shifts by whole pixels, [3, 3] of whole numbers."""
    num_turns = jnp.floor(4 * draws.uniform("turn")).astype(jnp.int32)
    num_turns = jnp.where(draws.chosen("turn", strength), num_turns, 0)
    if height != width:
        num_turns = 2 * (num_turns // 2)
    circle = jnp.asarray([1.0, 0.0, -1.0, 0.0], draws.uniforms.dtype)
    on = draws.chosen("shift", strength)
    x = jnp.where(on, jnp.round((2 * draws.uniform("shift x") - 1) * SHIFT * width), 0)
    y = jnp.where(on, jnp.round((2 * draws.uniform("shift y") - 1) * SHIFT * height), 0)
    return _times(_rotated(circle[num_turns], circle[(num_turns + 3) % 4]), _shifted(x, y))


def _geometry(draws: _Draws, strength: float, height: int, width: int) -> Array:
    """Scaling, rotation, unequal scaling, rotation again, and shifts by fractions of a pixel, [3, 3].

    An image is rotated at all with probability p strength, so each of both rotations is with 1 - sqrt(1 - p strength).
    """

    def rotation(name: str) -> Array:
        chosen = draws.gates[_GATES.index(name)] < 1 - jnp.sqrt(1 - draws.p * strength)
        angle = jnp.where(chosen, (2 * draws.uniform(name) - 1) * jnp.pi, 0)
        return _rotated(jnp.cos(angle), jnp.sin(angle))

    scale = jnp.exp2(jnp.where(draws.chosen("scale", strength), SCALE * draws.normal("scale"), 0))
    stretch = jnp.exp2(jnp.where(draws.chosen("stretch", strength), SCALE * draws.normal("stretch"), 0))
    on = draws.chosen("move", strength)
    x = jnp.where(on, draws.normal("move x") * SHIFT * width, 0)
    y = jnp.where(on, draws.normal("move y") * SHIFT * height, 0)
    rotations = rotation("rotate"), rotation("rotate again")
    return _times(_scaled(scale, scale), rotations[0], _scaled(stretch, 1 / stretch), rotations[1], _shifted(x, y))


def _warped(image: Array, inverse: Array) -> Array:
    """The image [h, w, c] at the places that a matrix [3, 3] names, between pixels bilinear, reflected at the edges.

    Pixels are gathered. On a CPU, products with matrices of weights take 7 times as long for 64 grey images of 32x32,
    and 290 times (with the gradient 30 times) for 64 RGBA images of 64x64.
    """
    height, width, channels = image.shape
    x = jnp.arange(width, dtype=image.dtype)[None, :] - (width - 1) / 2
    y = jnp.arange(height, dtype=image.dtype)[:, None] - (height - 1) / 2
    (left, across), (top, down) = (
        _reflected(row[0] * x + row[1] * y + row[2] + (side - 1) / 2, side)
        for row, side in zip(inverse[:2], (width, height), strict=True)
    )
    pixels, corner = image.reshape(-1, channels), top * width + left

    def at(offset: int) -> Array:
        found = pixels.at[(corner + offset).reshape(-1)].get(mode="promise_in_bounds")
        return found.reshape(image.shape)

    above = (1 - across) * at(0) + across * at(1)
    below = (1 - across) * at(width) + across * at(width + 1)
    return (1 - down) * above + down * below


def _reflected(places: Array, side: int) -> tuple[Array, Array]:
    """Places on a line of pixels, reflected into it: int32 [h, w], the pixel before, and [h, w, 1], the rest."""
    last = side - 1
    inside = last - jnp.abs(jnp.mod(places, 2 * last) - last)
    before = jnp.clip(jnp.floor(inside), 0, last - 1)
    return before.astype(jnp.int32), (inside - before)[..., None]


def _moved(image: Array, key: Array) -> Array:
    for axis, own in enumerate(jax.random.split(key)):
        last, most = image.shape[axis] - 1, _rounded(SHIFT * image.shape[axis])
        places = jnp.arange(last + 1) - jax.random.randint(own, (), -most, most + 1)
        image = jnp.take(image, last - jnp.abs(places % (2 * last) - last), axis=axis, mode="clip")
    return image


def _cut_out(image: Array, draws: _Draws, strength: float) -> Array:
    height, width, _ = image.shape
    x = jnp.abs((jnp.arange(width)[None, :, None] + 0.5) / width - draws.uniform("cutout x")) < CUTOUT / 2
    y = jnp.abs((jnp.arange(height)[:, None, None] + 0.5) / height - draws.uniform("cutout y")) < CUTOUT / 2
    return jnp.where(draws.chosen("cutout", strength) & x & y, 0, image)


# Colour. Red, green and blue are mapped linearly; a grey image takes what the map does to equal colours.


def _coloured(image: Array, draws: _Draws, strength: float) -> Array:
    brightness = jnp.where(draws.chosen("brightness", strength), BRIGHTNESS * draws.normal("brightness"), 0)
    contrast = jnp.exp2(jnp.where(draws.chosen("contrast", strength), CONTRAST * draws.normal("contrast"), 0))
    reversed_luma = draws.chosen("luma", strength) & (draws.uniform("luma") < 0.5)
    is_changed = (brightness != 0) | (contrast != 1) | reversed_luma
    matrix = contrast * jnp.where(reversed_luma, -1, 1)
    if image.shape[-1] > 1:
        hue = jnp.where(draws.chosen("hue", strength), (2 * draws.uniform("hue") - 1) * jnp.pi, 0)
        factor = jnp.exp2(jnp.where(draws.chosen("saturation", strength), SATURATION * draws.normal("saturation"), 0))
        is_changed |= (hue != 0) | (factor != 1)
        matrix = contrast * _around_grey(jnp.where(reversed_luma, -1, 1), hue, factor)
    changed = _with_alpha(_mapped(image[..., :3] + brightness, matrix), image)
    return jnp.where(is_changed, changed, image)


def _around_grey(luma: Scalar, hue: Scalar, saturation: Scalar) -> Array:
    """[3, 3]: scales luma, the mean of the channels; turns by an angle around the axis of greys, and scales the
    distance from this axis."""
    mean = jnp.full((3, 3), 1 / 3)
    # The axis (1, 1, 1) / sqrt 3 times the colour (r, g, b), as vectors: (b - g, r - b, g - r) / sqrt 3.
    across = jnp.asarray([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    return luma * mean + saturation * (jnp.cos(hue) * (jnp.eye(3) - mean) + jnp.sin(hue) * across)


def _mapped(colour: Array, matrix: Array) -> Array:
    """Colours [h, w, 3] times a matrix [3, 3]; or grey ones [h, w, 1] times a number.

    Written by channels, as XLA on CPU takes 3 to 30 times as long for products and means over so short an axis.
    """
    if colour.shape[-1] == 1:
        return colour * matrix
    red, green, blue = (colour[..., i] for i in range(3))
    return jnp.stack([row[0] * red + row[1] * green + row[2] * blue for row in matrix], axis=-1)


def _with_alpha(colour: Array, image: Array) -> Array:
    """Colour [h, w, 1 or 3], with the alpha of the image where it has any."""
    return jnp.concatenate([colour, image[..., 3:]], axis=-1)


# DiffAugment.


def diff_augment(images: Array, keys: Array, policy: Sequence[str] = ("colour", "translation", "cutout")) -> Array:
    """DiffAugment: each transformation of the policy, always applied, with random size.

    colour: brightness x + U(-.5, .5); saturation, distance from grey times U(0, 2); contrast, distance from the image's
    mean times U(.5, 1.5). translation: a shift by up to an eighth of each side in whole pixels, with zeros behind it.
    cutout: a rectangle of half of each side is set to 0.

    Args:
        images, keys: as of `augment`.
        policy: names of transformations, which are applied in the order above.
    Raises:
        ValueError: for images and keys as of `augment`; or a name is unknown.
    """
    _check(images, keys)
    if unknown := set(policy) - set(_DIFF_AUGMENTS):
        raise ValueError(f"expected a policy out of {', '.join(_DIFF_AUGMENTS)}, got {', '.join(sorted(unknown))}")

    def one(image: Array, key: Array) -> Array:
        for place, (name, transform) in enumerate(_DIFF_AUGMENTS.items()):
            if name in policy:
                image = transform(image, jax.random.fold_in(key, place))
        return image

    return jax.vmap(one)(at_least_float32(images), keys).astype(images.dtype)


def _jittered(image: Array, key: Array) -> Array:
    brightness, saturation, contrast = jax.random.uniform(key, (3,), image.dtype)
    colour = image[..., :3] + (brightness - 0.5)
    if image.shape[-1] > 1:
        colour = _mapped(colour, _around_grey(1.0, 0.0, 2 * saturation))
    mean = colour.mean()
    return _with_alpha((colour - mean) * (contrast + 0.5) + mean, image)


def _translated(image: Array, key: Array) -> Array:
    height, width, _ = image.shape
    most = jnp.asarray([_rounded(SHIFT * height), _rounded(SHIFT * width)])
    y, x = jax.random.randint(key, (2,), -most, most + 1)
    return _one_way(_one_way(image, y, axis=0), x, axis=1)


def _one_way(image: Array, shift: Array, axis: int) -> Array:
    """The image shifted along an axis, int32 [], with zeros behind it."""
    side = image.shape[axis]
    places = jnp.arange(side) - shift
    found = jnp.take(image, jnp.clip(places, 0, side - 1), axis=axis, mode="clip")
    is_inside = jnp.expand_dims((places >= 0) & (places < side), [a for a in range(3) if a != axis])
    return jnp.where(is_inside, found, 0)


def _without_a_rectangle(image: Array, key: Array) -> Array:
    is_cut = jnp.ones((1, 1, 1), bool)
    for axis, own in enumerate(jax.random.split(key)):
        side = image.shape[axis]
        size = _rounded(CUTOUT * side)
        start = jax.random.randint(own, (), 0, side + 1 - size % 2) - size // 2
        places = jnp.arange(side)
        within = (places >= start) & (places < start + size)
        is_cut = is_cut & jnp.expand_dims(within, [a for a in range(3) if a != axis])
    return jnp.where(is_cut, 0, image)


def _rounded(x: float) -> int:
    return int(x + 0.5)


_DIFF_AUGMENTS = {"colour": _jittered, "translation": _translated, "cutout": _without_a_rectangle}
