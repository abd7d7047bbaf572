import numpy as np
import pytest

pytest.importorskip("dicebear")
pytest.importorskip("resvg_py")

from jimgen.data.recipes.about import UserError  # noqa: E402
from jimgen.data.recipes.face_style import read_style, style_names  # noqa: E402
from jimgen.data.recipes.faces import about_argument, faces, open_faces  # noqa: E402


def column(style, labels, name):
    names = [attribute.name for attribute in read_style(style).attributes]
    place = names.index(name)
    values = read_style(style).attributes[place].values
    return [values[label] for label in labels[:, place + 1]]


@pytest.mark.parametrize("style", ["avataaars", "adventurer", "pixel-art", "open-peeps", "marbles"])
def test_every_drawn_option_has_a_value_and_values_have_one_name(style):
    _, labels = faces(style, range(25), (8, 8))
    for place, attribute in enumerate(read_style(style).attributes, start=1):
        assert len(set(attribute.values)) == len(attribute.values) > 1
        assert "none" not in attribute.values[1:]
        assert labels[:, place].max() < len(attribute.values)


def test_avataaars_has_the_attributes_of_faces():
    names = {attribute.name: attribute.values for attribute in read_style("avataaars").attributes}
    assert {"hair", "skin", "eyes", "mouth", "glasses", "beard", "clothes", "top"} <= set(names)
    assert "red" in names["hair"] and "round" in names["glasses"]
    assert names["hair"][0] == names["glasses"][0] == names["beard"][0] == "none" and "none" not in names["skin"]
    assert len(style_names()) >= 50 and "initials" not in style_names()


@pytest.mark.parametrize(
    "fixed",
    [
        {"hair": "red", "glasses": "round"},
        {"hair": "none"},
        {"hat": "red", "beard": "none"},
        {"clothes_graphic": "bear"},
        {"top": "bun", "glasses_color": "none", "skin": "pale"},
    ],
)
def test_forced_attributes_are_drawn_and_others_still_vary(fixed):
    images, labels = faces("avataaars", range(12), (16, 16), **fixed)
    assert images.shape == (12, 16, 16, 4) and labels.dtype == np.int32
    for name, value in fixed.items():
        assert set(column("avataaars", labels, name)) == {value}
    assert len(set(column("avataaars", labels, "mouth"))) > 3


def test_forcing_hair_colour_changes_only_what_it_must():
    """The same seed keeps its other attributes."""
    _, free = faces("avataaars", range(12), (8, 8))
    _, red = faces("avataaars", range(12), (8, 8), skin="pale")
    for name in ("hair", "eyes", "mouth", "clothes", "top"):
        assert column("avataaars", free, name) == column("avataaars", red, name)


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        ({"hiar": "red"}, "did you mean hair?"),
        ({"hair": "redd"}, "did you mean hair=red?"),
        ({"hair": "none", "top": "bun"}, "no face has all of these values"),
    ],
)
def test_values_that_no_face_has_are_refused(fixed, message):
    with pytest.raises(UserError) as error:
        faces("avataaars", range(2), (8, 8), **fixed)
    assert message in str(error.value)


def test_more_pictures_begin_with_the_same_ones(tmp_path, monkeypatch):
    monkeypatch.setenv("JIMGEN_CACHE", str(tmp_path))
    few, many = open_faces("avataaars:10", (8, 8)), open_faces("avataaars:20", (8, 8))
    np.testing.assert_array_equal(few.train.images, many.train.images[:10])
    assert len(many.test.images) == 2


def test_a_style_with_few_pictures_cannot_fill_a_test_split(tmp_path, monkeypatch):
    monkeypatch.setenv("JIMGEN_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="draws only about .* different pictures"):
        open_faces("lorelei-neutral:100", (1, 1))


def test_the_licence_of_a_style_names_its_artist():
    assert "Pablo Stanley" in about_argument("avataaars").attribution
    assert about_argument("lorelei:100").licence.startswith("CC0 1.0")
