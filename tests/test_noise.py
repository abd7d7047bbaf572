"""Seeds: a different key for each, and unchanged keys of small seeds."""

import jax
import numpy as np
import pytest

from jimgen.errors import UserError
from jimgen.noise import key_of


def data(seed: int) -> tuple[int, ...]:
    return tuple(np.asarray(jax.random.key_data(key_of(seed))).tolist())


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1, 2**31, 2**32 - 1])
def test_seeds_of_32_bits_have_the_key_that_jax_gives_them(seed):
    assert data(seed) == tuple(np.asarray(jax.random.key_data(jax.random.key(seed))).tolist())


def test_seeds_of_63_bits_have_a_key_each():
    """Also seeds with equal low or equal high bits."""
    seeds = [*range(4), 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**33, 2**33 + 1, 2**62, 2**63 - 2**32, 2**63 - 1]
    assert len({data(seed) for seed in seeds}) == len(seeds)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("seed", "low"), [(7, 7), (2**40 + 7, 7), (2**63 - 1, 2**32 - 1)])
def test_the_key_does_not_depend_on_the_precision(seed, low):
    """By hand: the key of the low bits, with the high ones folded in."""
    with jax.enable_x64(False):
        expected = jax.random.key(low)
        expected = jax.random.fold_in(expected, seed >> 32) if seed >> 32 else expected
    assert data(seed) == tuple(np.asarray(jax.random.key_data(expected)).tolist())


@pytest.mark.parametrize("seed", [-1, -(2**32), 2**63, 2**64, 10**30])
def test_other_seeds_are_refused(seed):
    with pytest.raises(UserError, match=f"--seed {seed}: must lie within 0 and 9223372036854775807"):
        key_of(seed)
