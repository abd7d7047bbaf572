"""Augmentations: the identity at p = 0, closed forms, shares of transformed images, gradients, and the adaptive p."""

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from numeric import close, uniform

from jimgen import noise, objectives
from jimgen.augment import (
    BGC,
    FLIPS,
    R3GAN,
    Augmentation,
    adapt,
    augment,
    diff_augment,
    overfitting_signal,
    random_flip,
    random_shift,
)
from jimgen.parallel import DEVICE_AXIS

ALL = Augmentation(1, 1, 1, 1, 1)
SHAPES = [(6, 6, 1), (6, 8, 3), (9, 4, 4)]


def images_of(num: int, *shape: int) -> Array:
    return 2 * uniform(0, num, *shape) - 1


def keys_of(num: int, seed: int = 0) -> Array:
    return noise.example_keys(jax.random.key(seed), jnp.arange(num))


@partial(jax.jit, static_argnums=3)
def augmented(images: Array, keys: Array, p: Array | float, augmentation: Augmentation) -> Array:
    return augment(images, keys, p, augmentation)


@partial(jax.jit, static_argnums=2)
def diff_augmented(images: Array, keys: Array, policy: tuple[str, ...]) -> Array:
    return diff_augment(images, keys, policy)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_at_p_0_images_come_back_bit_for_bit_and_at_p_1_they_change(shape: tuple[int, ...]) -> None:
    images = images_of(8, *shape).at[0, 0, 0].set(-0.0)
    same = augmented(images, keys_of(8), 0.0, ALL)
    np.testing.assert_array_equal(np.asarray(same).view(np.int32), np.asarray(images).view(np.int32))
    changed = augmented(images, keys_of(8), 1.0, ALL)
    assert changed.shape == images.shape and changed.dtype == images.dtype and np.isfinite(changed).all()
    assert (np.asarray(changed != images).mean((1, 2, 3)) > 0.3).all()


def test_noise_belongs_to_the_example() -> None:
    images, every = images_of(8, 6, 6, 3), ("colour", "translation", "cutout")
    functions = (
        lambda images, keys: augmented(images, keys, 0.7, ALL),
        lambda images, keys: diff_augmented(images, keys, every),
        random_flip,
        random_shift,
    )
    for function in functions:
        close(function(images[5:7], keys_of(8)[5:7]), function(images, keys_of(8))[5:7])


def test_a_group_draws_the_same_whatever_else_is_on() -> None:
    images = images_of(8, 6, 6, 1)
    alone = np.asarray(augmented(images, keys_of(8), 1.0, Augmentation(cutout=1)))
    others_too = np.asarray(augmented(images, keys_of(8), 1.0, Augmentation(flip=1, colour=1, cutout=1)))
    np.testing.assert_array_equal(others_too == 0, alone == 0)


@pytest.mark.parametrize("p", [0.5, 1.0])
def test_half_of_the_chosen_images_are_mirrored(p: float) -> None:
    images = images_of(2000, 2, 3, 1)
    found = augmented(images, keys_of(2000), p, FLIPS)
    is_same, is_mirrored = ((found == form).all((1, 2, 3)) for form in (images, images[:, :, ::-1]))
    assert (is_same | is_mirrored).all()
    assert is_mirrored.mean() == pytest.approx(p / 2, abs=0.05)
    assert (random_flip(images, keys_of(2000)) == images[:, :, ::-1]).all((1, 2, 3)).mean() == pytest.approx(
        0.5, abs=0.05
    )


def reflected_shift(image: np.ndarray, y: int, x: int) -> np.ndarray:
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="reflect")
    return padded[2 - y : 2 - y + image.shape[0], 2 - x : 2 - x + image.shape[1]]


@pytest.mark.parametrize("shape", [(8, 8, 1), (8, 10, 1)], ids=str)
def test_blitting_moves_pixels_and_changes_none(shape: tuple[int, int, int]) -> None:
    """All results are turns and shifts by at most an eighth of a side, and each of them occurs."""
    height, width, _ = shape
    image = np.asarray(images_of(1, *shape)[0])
    found = augmented(jnp.broadcast_to(image, (400, *shape)), keys_of(400), 1.0, Augmentation(blit=1))
    turns = range(4) if height == width else (0, 2)
    expected = [
        reflected_shift(np.rot90(image, turn), y, x) for turn, y, x in itertools.product(turns, (-1, 0, 1), (-1, 0, 1))
    ]
    distances = np.abs(np.asarray(found)[:, None] - np.stack(expected)[None]).max((2, 3, 4))
    assert (distances.min(1) == 0).all()
    assert set(distances.argmin(1)) == set(range(len(expected)))


def test_geometry_moves_a_plane_linearly() -> None:
    """Bilinear interpolation is exact for x and y themselves: the result shows from where pixels came.

    Of those that came from within, differences along a side are constant: the map is affine.
    """
    y, x = np.meshgrid(np.arange(12.0), np.arange(12.0), indexing="ij")
    plane = jnp.asarray(np.stack([x, y, 0 * x], -1) / 11, jnp.float32)
    found = np.asarray(augmented(jnp.broadcast_to(plane, (64, 12, 12, 3)), keys_of(64), 1.0, Augmentation(geometry=1)))
    came_from = 11 * found[:, 4:8, 4:8, :2]
    is_inside = (np.abs(came_from - 5.5) < 5).all((1, 2, 3))
    assert is_inside.sum() > 10
    across, down = np.diff(came_from[is_inside], axis=2)[:, 0], np.diff(came_from[is_inside], axis=1)[:, :, 0]
    close(across, np.broadcast_to(across[:, :1], across.shape), atol=1e-4)
    close(down, np.broadcast_to(down[:, :1], down.shape), atol=1e-4)
    area = across[:, 0, 0] * down[:, 0, 1] - across[:, 0, 1] * down[:, 0, 0]  # 1 / scale^2, never mirrored
    assert (area > 0).all()
    assert np.log2(area).std() == pytest.approx(2 * 0.2, rel=0.4)


def test_half_a_rotation_and_a_shift_by_hand() -> None:
    from jimgen.augment import _rotated, _shifted, _warped

    image = images_of(1, 4, 6, 2)[0]
    half = _warped(image, _rotated(jnp.asarray(-1.0), jnp.asarray(0.0)))
    close(half, image[::-1, ::-1])
    moved = _warped(image, _shifted(jnp.asarray(0.25), jnp.asarray(0.0)))
    close(moved[:, 1:], 0.25 * image[:, :-1] + 0.75 * image[:, 1:])
    close(moved[:, 0], 0.25 * image[:, 1] + 0.75 * image[:, 0])  # reflected


def test_an_image_is_rotated_with_probability_p() -> None:
    """Twice with 1 - sqrt(1 - p) each: the rest of the geometry is taken out by looking at right angles alone."""
    from jimgen.augment import _Draws, _geometry

    rng = np.random.default_rng(0)

    def matrix(gates: Array) -> Array:
        return _geometry(_Draws(gates, jnp.full(10, 0.7), jnp.zeros(7), jnp.asarray(0.4)), 1.0, 8, 8)

    matrices = jax.jit(jax.vmap(matrix))(jnp.asarray(rng.uniform(size=(4000, 14)), jnp.float32))
    assert np.mean(np.asarray(matrices[:, 0, 1]) != 0) == pytest.approx(0.4, abs=0.03)


def test_reversed_luma_hue_and_saturation_by_hand() -> None:
    from jimgen.augment import _around_grey, _mapped

    colours = jnp.asarray([[[1.0, 0.0, 0.0], [0.3, 0.3, 0.3]]])
    third = 2 * math.pi / 3
    close(_mapped(colours, _around_grey(1.0, third, 1.0)), [[[0, 1, 0], [0.3, 0.3, 0.3]]])  # red becomes green
    close(_mapped(colours, _around_grey(1.0, 0.0, 0.0)), [[[1 / 3, 1 / 3, 1 / 3], [0.3, 0.3, 0.3]]])
    close(_mapped(colours, _around_grey(-1.0, 0.0, 1.0)), [[[1 / 3, -2 / 3, -2 / 3], [-0.3, -0.3, -0.3]]])


def test_colour_leaves_alpha_and_grey_images_stay_grey() -> None:
    rgba = images_of(16, 4, 4, 4)
    found = augmented(rgba, keys_of(16), 1.0, Augmentation(colour=1))
    np.testing.assert_array_equal(found[..., 3], rgba[..., 3])
    assert (np.asarray(found[..., :3] != rgba[..., :3]).mean((1, 2, 3)) == 1).all()
    close(found[..., :3], augmented(rgba[..., :3], keys_of(16), 1.0, Augmentation(colour=1)))
    # With equal channels, colour images become what grey ones do: hue and saturation keep greys.
    grey = images_of(16, 4, 4, 1)
    as_grey = augmented(grey, keys_of(16), 1.0, Augmentation(colour=1))
    as_colour = augmented(jnp.repeat(grey, 3, axis=-1), keys_of(16), 1.0, Augmentation(colour=1))
    close(as_colour, np.repeat(as_grey, 3, axis=-1), atol=1e-5)
    contrast = np.asarray(as_grey).std((1, 2, 3)) / np.asarray(grey).std((1, 2, 3))
    assert 0.2 < np.log2(contrast).std() < 0.9  # .5


def test_cutout_zeroes_a_square_of_half_the_side() -> None:
    found = np.asarray(augmented(jnp.ones((200, 8, 12, 1)), keys_of(200), 1.0, Augmentation(cutout=1)))[..., 0] == 0
    heights, widths = found.any(2).sum(1), found.any(1).sum(1)
    assert (found.sum((1, 2)) == heights * widths).all()  # rectangles
    assert heights.max() == 4 and widths.max() == 6
    assert heights.min() >= 2 and widths.min() >= 3  # cut at the edges


def test_diff_augment_by_its_parts() -> None:
    images = images_of(300, 8, 8, 1)
    moved = np.asarray(diff_augmented(images, keys_of(300), ("translation",)))
    padded = np.pad(np.asarray(images), ((0, 0), (1, 1), (1, 1), (0, 0)))
    places = [padded[:, y : y + 8, x : x + 8] for y in range(3) for x in range(3)]
    matches = np.stack([(moved == place).all((1, 2, 3)) for place in places])
    assert (matches.sum(0) == 1).all() and matches.any(1).all()
    cut = np.asarray(diff_augmented(images, keys_of(300), ("cutout",))) == 0
    assert cut.sum((1, 2, 3)).max() == 16 and cut.sum((1, 2, 3)).min() >= 4
    jittered = np.asarray(diff_augmented(images, keys_of(300), ("colour",)))
    ratio, shift = jittered.std((1, 2, 3)) / np.asarray(images).std((1, 2, 3)), (jittered - images).mean((1, 2, 3))
    assert 0.5 <= ratio.min() < 0.55 and 1.45 < ratio.max() <= 1.5
    assert -0.5 <= shift.min() < -0.45 and 0.45 < shift.max() <= 0.5
    rgba = images_of(4, 4, 4, 4)
    np.testing.assert_array_equal(diff_augmented(rgba, keys_of(4), ("colour",))[..., 3], rgba[..., 3])
    np.testing.assert_array_equal(diff_augment(images, keys_of(300), ()), images)


def test_shifts_are_by_whole_pixels_up_to_an_eighth_and_reflected() -> None:
    images = images_of(300, 8, 16, 1)
    moved = np.asarray(random_shift(images, keys_of(300)))
    padded = np.pad(np.asarray(images), ((0, 0), (1, 1), (2, 2), (0, 0)), mode="reflect")
    places = [padded[:, y : y + 8, x : x + 16] for y in range(3) for x in range(5)]
    matches = np.stack([(moved == place).all((1, 2, 3)) for place in places])
    assert (matches.sum(0) == 1).all() and matches.mean(1).min() > 0.02  # each of 15 in 1/15 of the cases


@pytest.mark.parametrize(
    "function",
    [lambda x, keys: augment(x, keys, 0.8, ALL), lambda x, keys: diff_augment(x, keys)],
    ids=["augment", "diff_augment"],
)
def test_r1_through_an_augmentation_has_the_slope_of_finite_differences(function, x64: None) -> None:
    """The gradient of a gradient with respect to the images before augmentation, in float64."""
    images = images_of(4, 5, 6, 3).astype(jnp.float64)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(90, 3)))

    @jax.jit
    def penalty(theta: Array) -> Array:
        def discriminator(x: Array) -> Array:
            return jnp.tanh(theta * function(x, keys_of(4)).reshape(4, -1) @ weights).sum(1)

        return objectives.squared_gradient_norm(discriminator, theta * images)[1].mean()

    theta = jnp.asarray(0.3)
    slope, difference = jax.grad(penalty)(theta), (penalty(theta + 1e-6) - penalty(theta - 1e-6)) / 2e-6
    assert abs(difference) > 1e-3
    close(slope, difference, rtol=1e-6)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_augmentations_and_their_gradients_lower_for_accelerators(platform: str) -> None:
    def gradient(images: Array, keys: Array, p: Array) -> Array:
        return jax.grad(lambda x: (augment(x, keys, p, R3GAN) + diff_augment(x, keys)).sum())(images)

    arguments = jax.ShapeDtypeStruct((4, 8, 8, 3), jnp.float32), jax.eval_shape(lambda: keys_of(4)), 0.5
    jax.jit(gradient).trace(*arguments).lower(lowering_platforms=(platform,))


def test_bad_input_is_refused() -> None:
    images, keys = images_of(2, 4, 4, 1), keys_of(2)
    for sides in ((1, 4), (4, 1)):
        with pytest.raises(ValueError, match="at least 2x2 pixels"):
            augment(jnp.zeros((2, *sides, 1)), keys, 0.5)
    for p in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"p within \[0, 1\]"):
            augment(images, keys, p)
    with pytest.raises(ValueError, match=r"strengths within \[0, 1\], got {'colour': 2}"):
        augment(images, keys, 0.5, Augmentation(colour=2))
    with pytest.raises(ValueError, match=r"expected p a scalar, got \[2\]"):
        augment(images, keys, jnp.ones(2))
    with pytest.raises(ValueError, match=r"keys \[2\], one per image, got \[3\]"):
        diff_augment(images, keys_of(3))
    with pytest.raises(ValueError, match=r"uint8 \[2, 4, 4, 1\]"):
        augment(images.astype(jnp.uint8), keys, 0.5)
    with pytest.raises(ValueError, match=r"c = 1, 3 or 4, got float32 \[2, 4, 4, 2\]"):
        random_flip(jnp.zeros((2, 4, 4, 2)), keys)
    with pytest.raises(ValueError, match="colour, translation, cutout, got colours"):
        diff_augment(images, keys, ("colours",))


def test_adaptive_probability_by_hand() -> None:
    p = jnp.asarray(0.0)
    for _ in range(4):
        p = adapt(p, signal=0.7, target=0.6, images=64)
    close(p, 0.000512)
    close(adapt(0.5, 0.5, 0.6, 64), 0.5 - 0.000128)
    close(adapt(0.5, 0.6, 0.6, 64), 0.5)
    assert adapt(0.0, -1.0, 0.6, 64) == 0 and adapt(0.99999, 1.0, 0.6, 64) == 1


def test_signal_of_overfitting_by_hand() -> None:
    real, fake = jnp.asarray([1.0, -1.0, 2.0, 3.0]), jnp.asarray([0.0, 2.0, 1.0, 5.0])
    close(overfitting_signal(real, fake, relativistic=False), 0.5)
    close(overfitting_signal(real, fake, relativistic=True), 0.0)
    # A drift of both changes the one and not the other.
    close(overfitting_signal(real + 9, fake + 9, relativistic=False), 1.0)
    close(overfitting_signal(real + 9, fake + 9, relativistic=True), 0.0)
    over_devices = jax.pmap(partial(overfitting_signal, relativistic=False), DEVICE_AXIS, devices=jax.devices()[:2])
    close(over_devices(real.reshape(2, 2), fake.reshape(2, 2)), [0.5, 0.5])
    with pytest.raises(ValueError, match=r"logits \[b\], got \[4\], \[4, 1\]"):
        overfitting_signal(real, fake[:, None], relativistic=True)


def test_presets() -> None:
    assert BGC == (1, 1, 1, 1, 0)
    assert R3GAN == (1, 1, 1, 0.5, 1)
