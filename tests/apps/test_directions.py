"""Directions: slopes of linear fits that are known, on a linear generator and on made-up codes."""

import jax
import numpy as np
import pytest
from linear_spaces import SHAPE, w_space, weights

from jimgen.apps.directions import (
    Direction,
    Draws,
    draw,
    fit_direction,
    images_along,
    load,
    move,
    orthogonal,
    save,
)
from jimgen.errors import UserError
from jimgen.methods.latents import z_space

SPACE, KEY = w_space(), jax.random.key(0)
DIRECTION = Direction("bright", np.array([0.6, 0.8, 0, 0], np.float32), 2.0, 0.9, 0.5)


def cosine(a, b) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_draws_are_codes_with_their_images_in_any_chunks():
    variables = weights(noise=0.1)
    draws = draw(SPACE, variables, np.zeros(7, np.int32), KEY, chunk=3)
    again = draw(SPACE, variables, np.zeros(5, np.int32), KEY, chunk=8)
    assert draws.codes.shape == (7, 4) and draws.images.shape == (7, *SHAPE) and draws.images.dtype == np.uint8
    np.testing.assert_allclose(draws.codes[:5], again.codes, rtol=1e-5)
    assert np.abs(draws.images[:5].astype(int) - again.images).max() <= 1
    still = images_along(SPACE, variables, Draws(*(x[:2] for x in draws)), np.zeros(7, np.int32), KEY, DIRECTION)
    assert still.shape == (2, 7, *SHAPE)
    assert np.abs(still[:, 3].astype(int) - draws.images[:2]).max() <= 1  # strength 0, and the noise of each draw
    assert (still[:, 0] != still[:, 6]).any()


def test_the_direction_in_which_a_region_of_a_linear_generator_gets_brighter():
    """Mean of the upper half = w (mean of the columns of b there): its gradient is the direction, though entries of w
    are correlated. As a score and as a yes or no."""
    variables = weights()
    draws = draw(SPACE, variables, np.zeros(2000, np.int32), KEY)
    b = np.asarray(variables["b"])
    brightness = draws.codes @ b[:, :32].mean(1)
    expected = b[:, :32].mean(1)
    score = fit_direction("bright", draws.codes, brightness)
    assert cosine(score.vector, expected) > 0.999999 and score.quality > 0.999999
    assert score.spread == pytest.approx(brightness.std() / np.linalg.norm(expected), rel=1e-4)
    for cut, least in ((50, 0.99), (90, 0.97)):
        shown = brightness > np.percentile(brightness, cut)
        found = fit_direction("bright", draws.codes, shown)
        assert cosine(found.vector, expected) > least and found.quality > 0.9
        assert found.share == pytest.approx(1 - cut / 100) and np.linalg.norm(found.vector) == pytest.approx(1)


def test_what_codes_do_not_tell_has_the_quality_of_chance():
    """Also a rare attribute: never saying yes would be right for 90%."""
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(2000, 30)).astype(np.float32)
    assert fit_direction("x", codes, rng.random(2000) < 0.1).quality == pytest.approx(0.5, abs=0.08)
    assert abs(fit_direction("x", codes, rng.normal(size=2000)).quality) < 0.15


def test_codes_move_by_standard_deviations():
    moved = move(np.zeros((2, 4), np.float32), DIRECTION, [-1, 0, 2])
    np.testing.assert_allclose(moved, [[[-1.2, -1.6, 0, 0], [0, 0, 0, 0], [2.4, 3.2, 0, 0]]] * 2, rtol=1e-6)


def test_orthogonal_by_hand_and_in_a_fit():
    """(.6, .8) without its part along x is y; a fit beside others does not change them."""
    np.testing.assert_allclose(orthogonal("a", np.array([0.6, 0.8]), [np.array([1.0, 0])]), [0, 1], atol=1e-12)
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(400, 5))
    first = fit_direction("a", codes, codes @ [1, 1, 0, 0, 0]).vector
    found = fit_direction("b", codes, codes @ [0, 1, 1, 0, 0], [first])
    assert abs(found.vector @ first) < 1e-6 and cosine(found.vector, np.array([-1, 1, 2, 0, 0])) > 0.9999
    with pytest.raises(UserError, match="b: its direction is that of the others"):
        fit_direction("b", codes, codes @ [1, 1, 0, 0, 0], [first])


def test_directions_are_written_and_read(tmp_path):
    path = tmp_path / "x.npz"
    other = DIRECTION._replace(name="dark", quality=0.5)
    save(path, [DIRECTION, other], np.full(4, 2.0), is_straight=True)
    for read, one in zip(load(path, SPACE, 4), (DIRECTION, other), strict=True):
        np.testing.assert_array_equal(read.vector, one.vector)
        assert read.name == one.name and read[2:] == pytest.approx(one[2:])
    with np.load(path) as saved:
        assert saved["centre"].tolist() == [2.0] * 4 and str(saved["space"]) == "w" and saved["vectors"].shape == (2, 4)
        arrays = dict(saved)
    for space, size in ((SPACE, 5), (z_space(4, lambda *_: None), 4)):
        with pytest.raises(UserError, match=r"directions in w \[4\], and the codes of the run are [wz] \[[45]\]"):
            load(path, space, size)
    nan = np.full(2, np.nan, np.float32)
    for changed in ({"spreads": np.ones(3, np.float32)}, {"shares": nan}, {"names": nan}, {"space": "v"}):
        np.savez(path, **{**arrays, **changed})
        with pytest.raises(UserError, match="is damaged: make it again"):
            load(path, SPACE, 4)
    del arrays["shares"]
    np.savez(path, **arrays)
    with pytest.raises(UserError, match="holds no directions .it lacks shares"):
        load(path, SPACE, 4)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.arange(100) < 19, "19 of 100 images show it"),
        (np.arange(100) >= 19, "81 of 100 images show it"),
        (np.ones(100), "must be finite and differ"),
        (np.full(100, np.nan), "must be finite and differ"),
    ],
)
def test_scores_that_tell_nothing_are_refused(scores, message):
    with pytest.raises(UserError, match=message):
        fit_direction("x", np.random.default_rng(0).normal(size=(100, 3)), scores)


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"codes \[n, d\] and scores \[n\], got \[5, 3\] and \[4\]"):
        fit_direction("x", np.zeros((5, 3)), np.zeros(4))
