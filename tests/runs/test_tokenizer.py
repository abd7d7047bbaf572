"""What is told about a --tokenizer that cannot be used."""

from pathlib import Path

import pytest
from small_runs import load_experiment, tiny_config, tiny_tokenizer

from jimgen import data
from jimgen.errors import UserError
from jimgen.methods.tokenizer import NETS
from jimgen.runs import train
from jimgen.runs.tokenizer import load_tokenizer


def test_a_run_comes_back_as_functions_and_variables():
    spec = data.load("digits").spec
    found, variables = load_tokenizer(tiny_tokenizer(8), spec)
    assert found.num_codes == 8 and found.grid == (2, 2) and set(variables) == set(NETS)


def test_what_is_no_tokenizer_for_these_images(tmp_path):
    spec = data.load("digits").spec
    for folder, message in (
        ("", "--tokenizer is missing"),
        (tmp_path, "is not a run"),
        (tiny_tokenizer(16), r"trained on images \[16, 16, 1\], these are \[8, 8, 1\]"),
    ):
        with pytest.raises(UserError, match=message):
            load_tokenizer(folder, spec)
    train.run(tiny_config("vae", tmp_path / "vae"), load_experiment("vae").build)
    with pytest.raises(UserError, match="is a run of vae, not of a tokenizer"):
        load_tokenizer(Path(tmp_path / "vae"), spec)
