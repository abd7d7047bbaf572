"""A tiny codec's variables, made without a net."""

import numpy as np

from jimgen.methods.codec import NUM_SYMBOLS, NUM_TABLES, logistic_tables
from jimgen.nets.codec import NUM_STEPS, WINDOW, Channels

CHANNELS, NUM_RATES, HIDDEN = Channels(4, 2), 2, 6


def codec_variables() -> dict:
    """Priors with random weights, tables with no counts."""
    rng = np.random.default_rng(0)

    def prior(channels: int, above: int) -> dict:
        draws = {name: 0.3 * rng.standard_normal(shape) for name, shape in prior_shapes(channels, above).items()}
        return {"params": {name: draw.astype(np.float32) for name, draw in draws.items()}}

    return {
        "prior_coarse": prior(CHANNELS.coarse, 0),
        "prior_fine": prior(CHANNELS.fine, CHANNELS.coarse),
        "tables": {"counts": np.zeros((NUM_TABLES, NUM_SYMBOLS), np.float32), "logistic": logistic_tables()},
    }


def prior_shapes(channels: int, above: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters of a `nets.codec.Prior`."""
    shapes = {
        "window": (NUM_STEPS, WINDOW, WINDOW, channels, HIDDEN),
        "rate": (NUM_STEPS, NUM_RATES, HIDDEN),
        "middle": (NUM_STEPS, HIDDEN, HIDDEN),
        "middle_bias": (NUM_STEPS, HIDDEN),
        "output": (NUM_STEPS, HIDDEN, channels),
        "output_bias": (NUM_STEPS, channels),
    }
    of_above = {
        "above0": (3, 3, above, HIDDEN),
        "above0_bias": (HIDDEN,),
        "above1": (3, 3, HIDDEN, HIDDEN),
        "above1_bias": (HIDDEN,),
        "across": (NUM_STEPS, HIDDEN, HIDDEN),
    }
    return shapes | of_above if above else shapes
