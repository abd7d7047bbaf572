"""The command `jimgen data`: the list, descriptions, sheets and arrays."""

import numpy as np
import pytest
from PIL import Image

from jimgen.commands.labelled_sheet import labelled_sheet
from jimgen.data import load
from jimgen.data.dataset import UNLABELLED, Attribute
from jimgen.data.recipes import RECIPES
from jimgen.pictures import CHECKS


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JIMGEN_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_the_list_names_every_set_and_how_to_install_what_is_missing(jimgen, monkeypatch, tmp_path):
    monkeypatch.setenv("JIMGEN_DATA_ROOT", str(tmp_path))
    said = jimgen("data").splitlines()
    for usage in ("digits", "folder:PATH", *RECIPES.values()):
        assert sum(line.startswith(usage) for line in said) == 1, usage
    assert any(line.startswith("heroes") and line.endswith("[apt-get install flare-game]") for line in said)
    assert any(line.startswith("phantom:ct") and line.endswith("[installed]") for line in said)


def test_a_description_has_counts_values_split_licence_and_the_hash_of_a_training(jimgen):
    said = jimgen("data", "phantom:ct:20", "--size", 24)
    spec = load("phantom:ct:20", size=24).spec
    for text in (
        "20 train, 2 test",
        "24x24, grey",
        "class",
        "healthy ",
        "lesion",
        "side",
        "seed",
        "Apache-2.0",
        spec.hash,
    ):
        assert text in said, text
    (classes,) = (line for line in said.splitlines() if line.startswith("class"))
    counts = [int(word) for word in classes.replace(",", "").split() if word.isdigit()]
    assert counts[0] == 2 and sum(counts[1:]) == 20
    assert "141" in jimgen("data", "digits") and "licence" not in jimgen("data", "digits")


def test_written_arrays_are_read_again(jimgen, tmp_path):
    jimgen("data", "stacked_digits:30", "--out", tmp_path / "set.npz")
    with np.load(tmp_path / "set.npz") as written:
        source = load("stacked_digits:30")
        np.testing.assert_array_equal(written["train_images"], source.train.images)
        np.testing.assert_array_equal(written["test_attributes"], source.test.labels[:, 1:])
        assert written["attribute_names"].tolist() == ["red", "green", "blue"]
        assert written["attribute_values"].shape == (3, 10) and "train_labels" not in written
    jimgen("data", "digits", "--size", 16, "--out", tmp_path / "digits.npz")
    again, digits = load(f"npz:{tmp_path / 'digits.npz'}"), load("digits", size=16)
    assert again.spec.hash == digits.spec.hash and again.spec.class_names == digits.spec.class_names


def test_transparency_is_kept_unless_channels_say_otherwise(jimgen, monkeypatch, tmp_path):
    from made_up_packages import make_sprites

    make_sprites(tmp_path, np.random.default_rng(0))
    monkeypatch.setenv("JIMGEN_DATA_ROOT", str(tmp_path))
    said = jimgen("data", "sprites", "--size", "48x64")
    assert "48x64, RGBA" in said and "48x64, RGB\n" in jimgen("data", "sprites", "--size", "48x64", "--channels", 3)
    jimgen("data", "sprites", "--out", tmp_path / "x.npz")
    again = load(f"npz:{tmp_path / 'x.npz'}", channels=4)
    np.testing.assert_allclose(again.train.images, load("sprites", channels=4).train.images, atol=1)


def test_a_recipe_is_opened_once(jimgen, monkeypatch):
    from jimgen.data.recipes import phantom

    opened, calls = phantom.open_phantom, []
    monkeypatch.setattr(phantom, "open_phantom", lambda *arguments: calls.append(1) or opened(*arguments))
    jimgen("data", "phantom:ct:20")
    assert calls == [1]


def test_a_combination_is_left_out_of_train_alone(jimgen, refused, tmp_path):
    jimgen("data", "stacked_digits:300", "--out", tmp_path / "x.npz", "--without", "red=1+green!=1,2")
    with np.load(tmp_path / "x.npz") as written:
        red, green = written["train_attributes"][:, 0], written["train_attributes"][:, 1]
        assert not ((red == 1) & ~np.isin(green, (1, 2))).any() and (red == 1).any()
        assert len(written["test_images"]) == 30
    assert "did you mean red" in refused("data", "stacked_digits:300", "--without", "rad=1")
    everything = "red=0,1,2,3,4,5,6,7,8,9"
    assert "no training picture is left" in refused("data", "stacked_digits:30", "--without", everything)


def test_a_sheet_shows_pictures_above_their_labels(jimgen, tmp_path):
    jimgen("data", "phantom:ct:20", "--num", 6, "--out", tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as sheet:
        assert sheet.mode == "RGB" and min(sheet.size) > 200


def test_large_pictures_are_shrunk():
    images = np.full((2, 300, 512, 3), 200, np.uint8)
    sheet = labelled_sheet(images, np.zeros(2, np.int32), (Attribute("class", UNLABELLED),))
    assert sheet.shape == (2 * 150 + 3 * 6, 256 + 2 * 6, 3) and (sheet[6:156, 6:262] == 200).all()


def test_transparent_pictures_are_shown_over_a_board_and_none_is_not_written():
    images = np.zeros((1, 96, 96, 4), np.uint8)
    images[0, 40:50, 40:50] = (200, 0, 0, 255)
    columns = (Attribute("class", UNLABELLED), Attribute("hat", ("none", "red")))
    bare, named = (labelled_sheet(images, np.array([[0, value]]), columns) for value in (0, 1))
    assert set(CHECKS) <= set(bare[6:102, 6:102].ravel().tolist()) and (bare[46:56, 46:56] == (200, 0, 0)).all()
    assert len(named) > len(bare)  # a line of text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["phantom:mri"], "phantom has no kind"),
        (["digts"], "did you mean digits?"),
        (["digits", "--out", "x.gif"], "ends in .png (a grid) or .npz"),
        (["digits", "--num", "0"], "--num 0: must be at least 1"),
    ],
)
def test_what_is_wrong_is_told(refused, arguments, message):
    assert message in refused("data", *arguments)
