import numpy as np
import pytest

from jimgen.data.slices import GAP, Levels, Plane, grey_slices, split_of_slice

FULL = Levels(0, 255)


def plane(values, **rest):
    return Plane(np.asarray(values, np.float32), **rest)


def levels_of(planes, levels=None):
    return [image[..., 0].tolist() for image in grey_slices(planes, levels)]


def test_a_window_maps_its_ends_to_black_and_white_and_clips():
    values = [[-1000, -160, 40, 240, 3000]]
    assert levels_of([plane(values)], Levels(-160, 240)) == [[[0, 0, 128, 255, 255]]]


def test_the_window_of_the_file_comes_after_one_that_is_asked_for():
    planes = [plane([[0, 50, 100]], levels=Levels(0, 100)), plane([[0, 50, 100]], levels=Levels(0, 50))]
    assert levels_of(planes) == [[[0, 128, 255]], [[0, 255, 255]]]
    assert levels_of(planes, Levels(0, 200)) == [[[0, 64, 128]]] * 2


def test_without_a_window_percentiles_of_the_whole_volume_are_black_and_white():
    planes = [plane(np.arange(1000).reshape(20, 50) + 1000 * i) for i in range(2)]
    first, second = grey_slices(planes)
    low, high = np.percentile(np.arange(2000), (0.5, 99.5))
    np.testing.assert_array_equal(first[..., 0].ravel()[:11], 0)
    np.testing.assert_array_equal(second[..., 0].ravel()[-10:], 255)
    assert first[0, 30, 0] == round((30 - low) / (high - low) * 255)


def test_inverted_slices_and_values_that_were_not_measured():
    """What was not measured is black either way, and does not move the percentiles."""
    values = [[0, 255, np.nan, np.inf]]
    assert levels_of([plane(values, inverted=True)], FULL) == [[[255, 0, 0, 0]]]
    spread = np.append(np.linspace(0, 1, 999), np.nan).reshape(10, 100)
    assert grey_slices([plane(spread)])[0][-1, -2:, 0].tolist() == [255, 0]


@pytest.mark.parametrize(
    ("spacing", "shape"), [((2, 1), (8, 4)), ((1, 2), (4, 8)), ((3, 3), (4, 4)), ((1.5, 1), (6, 4))]
)
def test_the_coarser_direction_is_enlarged_to_square_pixels(spacing, shape):
    (image,) = grey_slices([plane(np.full((4, 4), 200), spacing=spacing)], FULL)
    assert image.shape == (*shape, 1) and (image == 200).all()


def test_a_disc_in_stretched_voxels_becomes_round():
    y, x = np.mgrid[-20:20, -20:20] + 0.5
    disc = np.where((3 * y) ** 2 + x**2 < 15**2, 200.0, 0.0)  # rows are 3 mm apart
    (image,) = grey_slices([plane(disc, spacing=(3, 1))], FULL)
    rows, columns = np.nonzero(image[..., 0] > 100)
    assert abs(np.ptp(rows) - np.ptp(columns)) <= 2


@pytest.mark.parametrize("spacing", [(0.0, 1.0), (float("nan"), 1.0), (-1.0, 2.0), (1.0, 1.005)])
def test_spacings_that_are_unknown_or_nearly_square_change_nothing(spacing):
    assert grey_slices([plane(np.full((4, 4), 200), spacing=spacing)], FULL)[0].shape == (4, 4, 1)


def test_spacings_that_no_scanner_has_are_refused():
    with pytest.raises(ValueError, match="differ too much"):
        grey_slices([plane(np.full((4, 4), 200), spacing=(1, 1000))], FULL)
    with pytest.raises(ValueError, match="too large"):
        grey_slices([plane(np.full((4000, 4000), 200), spacing=(30, 1))], FULL)


def test_slices_of_air_are_left_out():
    pictures = np.zeros((4, 10, 10))
    pictures[0] = 20  # not brighter than air
    pictures[1, 0, :2] = 255  # 2 of 100 pixels, not more
    pictures[2, 0, :3] = 255
    kept = grey_slices([plane(picture) for picture in pictures], FULL)
    assert len(kept) == 1 and (kept[0] > 0).sum() == 3


def test_a_volume_of_one_value_or_none_is_air():
    assert grey_slices([]) == []
    assert grey_slices([plane(np.full((4, 4), 7))]) == []
    assert grey_slices([plane(np.full((4, 4), np.nan))]) == []


@pytest.mark.parametrize("count", [4, 5, 11, 30, 71, 72, 180, 500])
def test_train_and_test_slices_keep_their_distance(count):
    sides = np.array([split_of_slice(place, count) for place in range(count)])
    train, test = (np.flatnonzero(sides == side) for side in ("train", "test"))
    assert np.abs(np.subtract.outer(train, test)).min() > GAP
    assert len(test) >= count // 12 and len(train) >= 1


def test_of_many_slices_blocks_have_twelve_and_every_sixth_is_test():
    sides = [split_of_slice(place, 150) for place in range(150)]
    test = [place for place, side in enumerate(sides) if side == "test"]
    assert test == [*range(36, 48), *range(108, 120)]
    assert [place for place, side in enumerate(sides) if not side] == [34, 35, 48, 49, 106, 107, 120, 121]
