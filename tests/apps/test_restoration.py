"""Restoration by a flow, a decoder and a model that fills in, on Gaussian images with known posteriors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian_images import PIXELS, SHAPE, matrix_of, posterior, prior, velocity_of

from jimgen.apps import restoration_tasks as tasks
from jimgen.apps.degradations import box_downsampled, identity, masked
from jimgen.apps.restoration import Observation, Steps, draws, estimated_sigma, restore
from jimgen.apps.restoration_by_codes import CodeSteps
from jimgen.errors import UserError
from jimgen.methods.latents import sampler, z_space
from jimgen.methods.method import Flow, Method
from jimgen.pictures import to_uint8
from jimgen.sampling.diffusion import uniform_times

MEAN, COVARIANCE = prior()
SCALE = np.float32(0.3)  # most pixels then lie in [-1, 1]
KNOWN = np.arange(PIXELS).reshape(4, 4) % 3 != 0
FEW = Steps(flow=10, codes=CodeSteps(starts=4, search=20, chain=20))


def flow_method():
    """Images ~ N(.3 MEAN, .09 COVARIANCE)."""
    mean, covariance = (SCALE * MEAN).astype(np.float32), (SCALE**2 * COVARIANCE).astype(np.float32)
    velocity = velocity_of(mean, covariance)

    def sample(variables, key, labels):
        return jax.random.multivariate_normal(key, mean, covariance, (len(labels),)).reshape(-1, *SHAPE)

    return Method(lambda *_: {}, (), (), sample, flow=Flow(lambda variables, labels, guide: velocity, uniform_times))


def decoder_method():
    """Images .3 MEAN + .3 L z with L L^T = COVARIANCE: the same images."""
    root = (SCALE * np.linalg.cholesky(COVARIANCE)).astype(np.float32)
    shift = (SCALE * MEAN).astype(np.float32)
    space = z_space(PIXELS, lambda variables, z, labels: (z @ root.T + shift[None]).reshape(-1, *SHAPE))
    return Method(lambda *_: {}, (), (), sampler(space), space=space)


def observation(n, operator, sigma, size=(4, 4)):
    """The same observation of one image, n times."""
    rng = np.random.default_rng(1)
    image = SCALE * rng.multivariate_normal(MEAN, COVARIANCE).astype(np.float32).reshape(1, *SHAPE)
    clean = operator(jnp.asarray(image))
    values = clean + sigma * rng.normal(size=clean.shape).astype(np.float32)
    return Observation(operator, jnp.broadcast_to(values, (n, *values.shape[1:])), sigma, size)


@pytest.mark.parametrize(
    "method, steps, operator, tolerance",
    [
        (flow_method(), Steps(flow=50), masked(KNOWN), 0.2),
        (
            decoder_method(),
            Steps(codes=CodeSteps(starts=4, search=60, chain=200, model_sigma=0)),
            box_downsampled(2),
            0.12,
        ),
    ],
    ids=["flow", "decoder"],
)
def test_images_are_drawn_from_the_posterior(method, steps, operator, tolerance, optimised):
    """In 50 steps, though a flow's errors are taken to depend on the frequency alone, and here depend on the place."""
    n, sigma = 1000, 0.1
    seen = observation(n, operator, sigma)
    drawn = restore(method, {}, seen, jnp.zeros(n, jnp.int32), jax.random.key(0), steps).reshape(n, -1)
    matrix = matrix_of(operator)
    observed = np.asarray(seen.values[0], np.float64).ravel()
    mean, covariance = posterior(SCALE * MEAN, SCALE**2 * COVARIANCE, matrix, observed, sigma)
    deviation = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose((drawn.mean(0) - mean) / deviation, 0, atol=0.2)
    np.testing.assert_allclose(drawn.std(0) / deviation, 1, atol=tolerance)


def test_a_decoder_that_cannot_draw_the_picture_is_less_sure():
    """The standard deviation of the model adds to that of the observation."""
    found = []
    for model_sigma in (0.0, 0.5):
        steps = Steps(codes=CodeSteps(starts=4, search=60, chain=200, model_sigma=model_sigma))
        seen = observation(200, identity, 0.05)
        drawn = restore(decoder_method(), {}, seen, jnp.zeros(200, jnp.int32), jax.random.key(0), steps)
        found.append(drawn.std(0).mean())
    assert found[1] > 2 * found[0]


def test_draws_are_the_same_on_any_number_of_devices_and_keep_what_is_known():
    """16 a device: 40 draws take three devices, 3 take one."""
    seen = observation(1, masked(KNOWN), 0.01)._replace(known=KNOWN)
    of = lambda n: draws(flow_method(), {}, seen, np.zeros(n, np.int32), jax.random.key(0), FEW)  # noqa: E731
    many = of(40)
    np.testing.assert_array_equal(many[:3], of(3))
    np.testing.assert_array_equal(
        many[:, KNOWN], np.broadcast_to(to_uint8(seen.values)[:, KNOWN], (40, KNOWN.sum(), 1))
    )
    assert len({image.tobytes() for image in many}) == 40


def test_larger_pictures_are_drawn_by_tiles():
    seen = observation(1, identity, 0.1)
    large = seen._replace(values=jnp.tile(seen.values, (1, 2, 2, 1))[:, :7], size=(7, 8))
    drawn = draws(flow_method(), {}, large, np.zeros(2, np.int32), jax.random.key(0), FEW)
    assert drawn.shape == (2, 7, 8, 1)
    assert np.abs(drawn / 127.5 - 1 - np.asarray(large.values)).mean() < 0.2
    with pytest.raises(UserError, match="draws 4x4 pixels, not 7x8: only flows"):
        draws(decoder_method(), {}, large, np.zeros(2, np.int32), jax.random.key(0), FEW)
    with pytest.raises(ValueError, match="less than that of a tile"):
        draws(
            flow_method(),
            {},
            large._replace(values=large.values[:, :3], size=(3, 8)),
            np.zeros(1, np.int32),
            jax.random.key(0),
            FEW,
        )  # noqa: E501


def test_a_model_that_fills_in_does_only_that():
    fill = lambda variables, key, images, known, labels: jnp.where(known[..., None], images, 0.5)  # noqa: E731
    method = flow_method()._replace(flow=None, inpaint=fill)
    seen = observation(1, masked(KNOWN), 0.01)._replace(known=KNOWN)
    filled = draws(method, {}, seen, np.zeros(2, np.int32), jax.random.key(0))
    assert (filled[:, ~KNOWN] == 191).all()
    with pytest.raises(UserError, match="cannot do more than fill in"):
        draws(method, {}, observation(1, identity, 0.1), np.zeros(2, np.int32), jax.random.key(0))
    with pytest.raises(UserError, match="cannot restore pictures"):
        draws(method._replace(inpaint=None), {}, seen, np.zeros(2, np.int32), jax.random.key(0))


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan")])
def test_sigma_must_be_positive(sigma):
    seen = observation(1, identity, 0.1)._replace(sigma=sigma)
    with pytest.raises(ValueError, match="sigma must be above 0"):
        restore(flow_method(), {}, seen, jnp.zeros(1, jnp.int32), jax.random.key(0), FEW)


def test_an_operator_that_is_not_linear_is_refused():
    seen = observation(1, identity, 0.1)._replace(operator=jnp.tanh)
    with pytest.raises(ValueError, match="not linear"):
        restore(flow_method(), {}, seen, jnp.zeros(1, jnp.int32), jax.random.key(0), FEW)


def test_noise_is_estimated_within_a_tenth():
    rng = np.random.default_rng(0)
    smooth = np.sin(np.linspace(0, 5, 64))[:, None, None] * np.cos(np.linspace(0, 4, 65))[None, :, None]
    for sigma in (0.05, 0.3):
        assert estimated_sigma(smooth + sigma * rng.normal(size=smooth.shape)) == pytest.approx(sigma, rel=0.1)
    assert estimated_sigma(np.zeros((5, 5, 1))) == 0


PICTURE = np.random.default_rng(0).uniform(-1, 1, (8, 12, 3)).astype(np.float32)


@pytest.mark.parametrize("task", ["denoise", "inpaint", "enlarge", "deblur", "colourise", "ct"])
def test_a_simulated_problem_has_the_observation_of_its_operator(task):
    known = np.arange(96).reshape(8, 12) % 2 == 0 if task == "inpaint" else None
    options = tasks.Options(sigma=10, factor=4, views=6)
    problem = tasks.simulated(task, PICTURE, options, jax.random.key(0), known)
    clean = problem.observation.operator(jnp.asarray(PICTURE)[None])
    error = np.asarray(problem.observation.values - clean)
    error = error[:, known] if known is not None else error
    assert error.std() == pytest.approx(10 / 127.5, rel=0.2)
    assert problem.seen.shape == PICTURE.shape and problem.observation.size == (8, 12)


def test_line_integrals_are_those_of_values_from_0_to_1():
    """A sinogram of (x + 1) / 2 is brought to that of x."""
    grey = PICTURE[..., :1]
    operator = tasks.operator_of("ct", tasks.Options(views=6))
    sinogram = operator(jnp.asarray((grey + 1) / 2)[None])[0]
    problem = tasks.given("ct", np.asarray(sinogram), (8, 12), tasks.Options(views=6), None)
    np.testing.assert_allclose(problem.observation.values[0], operator(jnp.asarray(grey)[None])[0], atol=1e-4)


def test_what_a_task_cannot_take_is_an_error():
    with pytest.raises(UserError, match="enlarge: a factor of 5 does not divide"):
        tasks.simulated("enlarge", PICTURE, tasks.Options(factor=5), jax.random.key(0))
    with pytest.raises(UserError, match="colourise: expected images of 3 colours"):
        tasks.simulated("colourise", PICTURE[..., :1], tasks.Options(), jax.random.key(0))
    with pytest.raises(UserError, match="deblur: expected a length > 0"):
        tasks.operator_of("deblur", tasks.Options(motion=-1))
    with pytest.raises(UserError, match="--sigma -5: must be above 0"):
        tasks.simulated("denoise", PICTURE, tasks.Options(sigma=-5), jax.random.key(0))
    with pytest.raises(UserError, match="say how much noise to add"):
        tasks.simulated("denoise", PICTURE, tasks.Options(), jax.random.key(0))
    with pytest.raises(UserError, match="no noise was found"):
        tasks.given("denoise", np.zeros((8, 8, 1)), (8, 8), tasks.Options(), None)
