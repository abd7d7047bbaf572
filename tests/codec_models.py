"""A tiny codec's variables, made without a net."""

import numpy as np

from jimgen.methods.codec import NUM_SYMBOLS, NUM_TABLES, logistic_tables
from jimgen.nets.codec import Latents

CHANNELS, NUM_RATES, HIDDEN = Latents(3, 2), 2, 6


def codec_variables() -> dict:
    """Priors with random weights, tables with no counts."""
    rng = np.random.default_rng(0)

    def prior(channels: int, above: int) -> dict:
        shapes = {
            "window": (4, 3, 3, channels + above, HIDDEN),
            "rate": (4, NUM_RATES, HIDDEN),
            "middle": (4, HIDDEN, HIDDEN),
            "middle_bias": (4, HIDDEN),
            "output": (4, HIDDEN, 2 * channels),
            "output_bias": (4, 2 * channels),
        }
        return {
            "params": {name: (0.3 * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}
        }

    return {
        "prior_coarse": prior(CHANNELS.coarse, 0),
        "prior_fine": prior(CHANNELS.fine, CHANNELS.coarse),
        "tables": {"counts": np.zeros((NUM_TABLES, NUM_SYMBOLS), np.float32), "logistic": logistic_tables()},
    }
