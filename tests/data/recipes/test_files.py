"""Recipes over files: what decides the split, on made-up trees and on the packages where they are installed."""

import importlib.util

import numpy as np
import pytest
from made_up_packages import save
from PIL import Image

from jimgen.data.recipes import about, glyphs, open_recipe, sprites
from jimgen.data.recipes.heroes import ATTRIBUTES
from jimgen.data.recipes.rows import Picture, tenth_of_each, train_and_test
from jimgen.errors import UserError


def test_all_pictures_of_a_unit_are_on_one_side_and_copies_are_left_out():
    images = [np.full((1, 1, 1), level, np.uint8) for level in (1, 2, 3, 3, 1, 4)]
    units = ("a", "a", "b", "b", "c", "c")
    pictures = [Picture(image, unit, i) for i, (image, unit) in enumerate(zip(images, units, strict=True))]
    train, test = train_and_test(pictures, ["c"])
    assert train.labels.tolist() == [0, 1, 2] and test.labels.tolist() == [5]


def test_a_tenth_of_each_class_is_test_and_never_all():
    chosen = tenth_of_each({"many": [str(i) for i in range(25)], "two": ["x", "y"], "one": ["z"]})
    count = {name: sum(group == name for group, _ in chosen) for name in ("many", "two", "one")}
    assert count == {"many": 3, "two": 1, "one": 0}


@pytest.mark.usefixtures("root", "clean_cache")
def test_no_unit_of_sprites_is_in_both_splits():
    found = sprites.find_sprites(sprites.units_folder())
    held_out = sprites.held_out_units(found)
    units = {(sprite.group, sprite.unit) for sprite in found}
    assert ("elves", "archer") in units and ("elves", "rider") in units and len(held_out) == 2
    source = open_recipe("sprites", "", None)
    kept = {unit for unit in units if unit[1] != "giant"}  # 80x80 drawn, less a border
    assert len(source.train.images) + len(source.test.images) == 2 * 7 and len(kept) == 8


def test_the_teams_magenta_becomes_red_and_other_colours_stay(tmp_path):
    pixels = np.zeros((72, 72, 4), np.uint8)
    pixels[10, 10], pixels[10, 11], pixels[10, 12] = (0xF4, 0x9A, 0xC1, 255), (0x3F, 0, 0x16, 255), (1, 2, 3, 255)
    save(Image.fromarray(pixels), tmp_path / "x.png")
    found = sprites.read_sprite(tmp_path / "x.png")
    dark = round(255 * ((0x3F + 0x16) / 3) / ((0xF4 + 0x9A + 0xC1) / 3))
    assert found[10, 10:13].tolist() == [[255, 0, 0, 255], [dark, 0, 0, 255], [1, 2, 3, 255]]


@pytest.mark.usefixtures("root", "clean_cache")
def test_no_outfit_of_heroes_is_in_both_splits():
    source = open_recipe("heroes", "60", None)
    outfits = [
        {tuple(row) for row in split.labels[:, 1 : len(ATTRIBUTES) - 1]} for split in (source.train, source.test)
    ]
    assert not outfits[0] & outfits[1]
    assert (len(source.train.images), len(source.test.images)) == (60, 6)


@pytest.mark.usefixtures("clean_cache")
def test_letters_of_a_family_of_fonts_stay_together_and_broken_fonts_are_left_out(root):
    source = open_recipe("glyphs", "", (16, 16))
    fonts = sorted((root / glyphs.FOLDER).glob("*.ttf"))
    held_out = {font.name for font in fonts if glyphs.is_test(glyphs.family(font))}
    whole = {font.name for font in fonts if glyphs.draw_letters(font, (16, 16)) is not None}
    assert "broken.ttf" not in whole and len(whole) == len(fonts) - 1
    assert len(source.test.images) == 26 * len(held_out & whole) > 0
    assert np.bincount(source.train.labels).tolist() == [len(whole - held_out)] * 26


@pytest.mark.usefixtures("root", "clean_cache")
def test_rows_of_emoji_hold_one_sign_in_all_styles():
    pytest.importorskip("resvg_py")
    from jimgen.data.recipes.emoji import pairs, read_signs

    signs, drawn = read_signs(), pairs((8, 8))
    assert len(signs) == 12 and drawn.images.shape == (12, 4, 8, 8, 4)
    assert not any("1f3fb" in sign.code for sign in signs)
    source = open_recipe("emoji", "", (8, 8))
    np.testing.assert_array_equal(source.train.labels[:8, 1], [0, 1, 2, 3, 0, 1, 2, 3])
    np.testing.assert_array_equal(source.train.images[:4], drawn.images[~drawn.is_test][0])


@pytest.mark.usefixtures("root", "clean_cache")
def test_slices_of_the_head_keep_their_distance_and_their_regions():
    pytest.importorskip("nibabel")
    from jimgen.data.recipes.brain import read_slices, region_names
    from jimgen.data.slices import GAP

    slices = read_slices()
    for plane in range(3):
        splits = [one.split for one in slices if one.plane == plane]
        places = {split: np.flatnonzero([one == split for one in splits]) for split in ("train", "test")}
        assert len(places["test"]) and np.abs(np.subtract.outer(places["train"], places["test"])).min() > GAP
    images, regions = np.stack([one.image[..., 0] for one in slices]), np.stack([one.regions for one in slices])
    assert (images[regions > 0] > 0).mean() > 0.9  # the maps lie on the head
    assert region_names() == {1: "Right_Half"}


@pytest.mark.usefixtures("clean_cache")
@pytest.mark.parametrize("name", ["sprites", "scenery", "furniture"])
def test_a_damaged_package_is_told_with_its_file(name, root, tmp_path, monkeypatch):
    import shutil

    copy = shutil.copytree(root, tmp_path / "copy")
    monkeypatch.setenv("JIMGEN_DATA_ROOT", str(copy))
    ending = {"sprites": "scout.png", "scenery": "*.jpg", "furniture": "*.sh3f"}[name]
    file = next(file for file in sorted(copy.rglob(ending)))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match="cannot be read .*install its package again: apt-get") as error:
        open_recipe(name, "", None)
    assert str(file) in str(error.value)


REAL = {  # counts of train and test with the packages of Debian 12
    "heroes:20": (20, 2),
    "tiles:minetest": None,
    "furniture": None,
}
SLOW = {"sprites": (4589, 675), "glyphs": None, "scenery": (238, 35), "brain": None, "tiles:wesnoth": None}


@pytest.mark.usefixtures("clean_cache")
@pytest.mark.parametrize("name", [*REAL, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_installed_packages_give_splits_that_are_apart(name):
    kind, _, argument = name.partition(":")
    if not about(kind, argument if kind == "tiles" else "").is_installed():
        pytest.skip(f"{kind} is not installed")
    source = open_recipe(kind, argument, None)
    counts = (len(source.train.images), len(source.test.images))
    assert counts == ({**REAL, **SLOW}[name] or counts) and min(counts) > 0
    assert not {image.tobytes() for image in source.train.images} & {image.tobytes() for image in source.test.images}
    flat = source.train.images.reshape(counts[0], -1)
    assert (flat.max(axis=1) > flat.min(axis=1)).all(), "a blank picture"


def test_the_script_of_environments_needs_only_numpy():
    """It runs where jimgen does not."""
    from jimgen.data.recipes.environments import SCRIPT

    assert "import jimgen" not in SCRIPT.read_text() and "from jimgen" not in SCRIPT.read_text()
    assert importlib.util.find_spec("jimgen.data.recipes.procgen_frames") is not None
