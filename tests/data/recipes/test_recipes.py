"""What holds for all recipes, on made-up packages: the same bytes every time, splits apart, labels in range."""

import importlib.util

import numpy as np
import pytest

from jimgen.data import load
from jimgen.data.recipes import RECIPES, about, installed, open_recipe
from jimgen.errors import UserError

SMALL = {  # a name for each recipe, and its size
    "brain": ("", None),
    "emoji": ("", (16, 16)),
    "environments": ("", None),
    "faces": ("avataaars:20", (16, 24)),
    "furniture": ("", None),
    "glyphs": ("", (12, 16)),
    "heroes": ("20", None),
    "phantom": ("ct:20", (24, 16)),
    "scenery": ("", None),
    "sprites": ("", None),
    "stacked_digits": ("20", None),
    "tiles": ("minetest", None),
}
MODULES = {"faces": "dicebear", "emoji": "resvg_py", "brain": "nibabel"}


def needs(name):
    if name in MODULES and importlib.util.find_spec(MODULES[name]) is None:
        pytest.skip(f"needs {MODULES[name]}")


def small(name):
    needs(name)
    return open_recipe(name, *SMALL[name])


def hashes(images):
    return [image.tobytes() for image in images]


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("name", RECIPES)
def test_same_bytes_from_two_clean_caches_and_from_the_cache(name, clean_cache):
    first = small(name)
    again = small(name)
    clean_cache()
    anew = small(name)
    for source in (again, anew):
        assert source.class_names == first.class_names and source.attributes == first.attributes
        for split in ("train", "test"):
            for ours, theirs in zip(getattr(source, split), getattr(first, split), strict=True):
                np.testing.assert_array_equal(ours, theirs)
                assert ours.dtype == theirs.dtype


@pytest.mark.usefixtures("root", "clean_cache")
@pytest.mark.parametrize("name", RECIPES)
def test_no_picture_of_test_is_in_train_and_labels_are_in_range(name):
    source = small(name)
    assert not set(hashes(source.train.images)) & set(hashes(source.test.images))
    assert (source.shape[2] == 4) == about(name).transparent
    columns = (source.class_names, *(attribute.values for attribute in source.attributes))
    for split in (source.train, source.test):
        assert split.images.dtype == np.uint8 and split.images.shape[1:] == source.shape
        assert split.labels.dtype == np.int32 and len(split.images) == len(split.labels) > 0
        table = split.labels if source.attributes else split.labels[:, None]
        assert table.shape == (len(split.images), len(columns)) and (table >= 0).all()
        assert (table < [len(values) for values in columns]).all()
        if source.shape[2] == 4:
            assert (split.images[..., :3] <= split.images[..., 3:]).all(), "not premultiplied"
        assert len(np.unique(split.images)) > 1
    in_train = source.train.labels.reshape(len(source.train.labels), -1)[:, 0]
    assert set(in_train) == set(range(len(source.class_names))), "a class without a picture in train"


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize("name", sorted(set(RECIPES) - {"phantom", "stacked_digits"}))
def test_a_missing_package_is_told_with_its_command(name, monkeypatch):
    monkeypatch.setattr(installed.util, "find_spec", lambda module: None)
    assert not about(name).is_installed()
    with pytest.raises(UserError, match="(apt-get|pip|npm) install ") as error:
        open_recipe(name, *SMALL[name])
    assert f"{name}" in str(error.value) and "not installed" in str(error.value)


@pytest.mark.usefixtures("root", "clean_cache")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("faces:avatars", "faces has no style 'avatars'; did you mean faces:avataaars?"),
        ("faces", "faces needs a style: write faces:adventurer"),
        ("faces:avataaars:many", "must be from 10 to 1,000,000, as in faces:avataaars:5000"),
        ("environments:coinrum", "did you mean environments:coinrun?"),
        ("phantom:mr", "phantom has no kind 'mr'"),
        ("tiles:mintest", "did you mean tiles:minetest?"),
        ("heroes:5", "must be from 10"),
        ("sprites:large", "sprites takes no argument; write sprites"),
        ("hero", "did you mean heroes?"),
        ("stacked_digit:20", "did you mean stacked_digits?"),
    ],
)
def test_a_wrong_name_is_answered_with_the_right_one(name, message):
    needs(name.partition(":")[0])
    with pytest.raises(UserError) as error:
        load(name)
    assert message in str(error.value)


def test_every_recipe_says_its_licence_and_attribution():
    for name in RECIPES:
        known = about(name)
        assert known.what and known.split and known.licence and known.attribution
        assert len(known.what) < 120 and "\n" not in known.what


@pytest.mark.usefixtures("root", "clean_cache")
def test_load_renders_drawings_at_the_size_asked_for():
    data = load("phantom:ct:20", size=40)
    assert data.spec.shape == (40, 40, 1) and (data.spec.num_train, data.spec.num_test) == (20, 2)
    assert [attribute.name for attribute in data.spec.attributes] == ["side", "lesion"]
