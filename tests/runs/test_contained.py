"""What is told about a --tokenizer or an --autoencoder that cannot be used."""

from pathlib import Path

import pytest
from small_runs import load_experiment, tiny_autoencoder, tiny_config, tiny_tokenizer

from jimgen import data
from jimgen.errors import UserError
from jimgen.methods import autoencoder, tokenizer
from jimgen.runs import train
from jimgen.runs.autoencoder import load_autoencoder
from jimgen.runs.tokenizer import load_tokenizer

SPEC = data.load("digits").spec


def test_a_run_comes_back_as_functions_and_variables():
    found, variables = load_tokenizer(tiny_tokenizer(8), SPEC)
    assert found.num_codes == 8 and found.grid == (2, 2) and set(variables) == set(tokenizer.NETS)
    found, variables = load_autoencoder(tiny_autoencoder(8), SPEC)
    assert found.latent_shape == (2, 2, 4) and set(variables) == set(autoencoder.NETS)
    assert variables["latents"]["images"] == 16  # of two steps


def test_what_is_no_such_run_for_these_images(tmp_path):
    train.run(tiny_config("vae", tmp_path / "vae"), load_experiment("vae").build)
    for load, name, of_another_size in (
        (load_tokenizer, "tokenizer", tiny_tokenizer(16)),
        (load_autoencoder, "autoencoder", tiny_autoencoder(16)),
    ):
        for folder, message in (
            ("", rf"--{name} is missing: train one, `python experiments/{name}.py"),
            (tmp_path, "is not a run"),
            (of_another_size, r"trained on images \[16, 16, 1\], these are \[8, 8, 1\]"),
            (Path(tmp_path / "vae"), f"is a run of vae, not of an? {name}"),
        ):
            with pytest.raises(UserError, match=message):
                load(folder, SPEC)
