"""The attributes of a DiceBear style, read from its definition: which exist, their values, and how to force them.

A style draws components (eyes, mouth, ...), each in one of its variants, and colours (skin, hair, ...). A component may
be absent by chance, or because the variant that would contain it was not drawn; so may a colour.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

from PIL import ImageColor

from jimgen.data.dataset import Attribute
from jimgen.data.recipes.about import choice
from jimgen.errors import UserError

NONE = "none"  # the value of an attribute that is absent

# Names of the colours of avataaars. Elsewhere a colour is called by the nearest colour name of CSS.
COLOURS = {
    "#614335": "darkest",
    "#ae5d29": "dark_brown",
    "#d08b5b": "brown",
    "#edb98a": "light",
    "#ffdbb4": "pale",
    "#fd9841": "tanned",
    "#f8d25c": "yellow",
    "#a55728": "auburn",
    "#2c1b18": "black",
    "#b58143": "blond",
    "#d6b370": "golden",
    "#724133": "brown",
    "#4a312c": "dark_brown",
    "#f59797": "pink",
    "#ecdcbf": "platinum",
    "#c93305": "red",
    "#e8e1e1": "silver",
    "#262e33": "black",
    "#65c9ff": "sky_blue",
    "#5199e4": "blue",
    "#25557c": "dark_blue",
    "#e6e6e6": "light_grey",
    "#929598": "grey",
    "#3c4f5c": "slate",
    "#b1e2ff": "pale_blue",
    "#a7ffc4": "pale_green",
    "#ffdeb5": "pale_orange",
    "#ffafb9": "pale_red",
    "#ffffb1": "pale_yellow",
    "#ff488e": "pink",
    "#ff5c5c": "red",
    "#ffffff": "white",
}
RENAMED = {"facial_hair": "beard"}
RENAMED_IN = {"avataaars": {"accessories": "glasses"}, "open-peeps": {"accessories": "glasses"}}
NEVER_DRAWN = {"animation"}  # still pictures have none


class Option(NamedTuple):
    """An attribute, and what DiceBear calls it."""

    attribute: Attribute
    key: str  # "hairColor", "eyesVariant"
    stored: tuple[str | None, ...]  # DiceBear's name of each value; None is absence
    always: bool  # never absent


class FaceStyle(NamedTuple):
    """A style: its definition, and its attributes."""

    name: str
    definition: Mapping[str, Any]
    options: tuple[Option, ...]

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        return tuple(option.attribute for option in self.options)


def style_names() -> list[str]:
    """The styles of the package dicebear-styles, without those that write letters, which need a font."""
    files = (file.name for file in resources.files("dicebear_styles").iterdir())
    names = sorted(name.removesuffix(".json") for name in files if name.endswith(".json"))
    return [name for name in names if name not in ("initials", "initial-face")]


def read_style(name: str) -> FaceStyle:
    """A style by its name.

    Raises:
        UserError: there is no such style.
    """
    name = choice("faces", "style", name, style_names())
    definition = json.loads(resources.files("dicebear_styles").joinpath(f"{name}.json").read_text("utf-8"))
    components, always = definition.get("components", {}), _always(definition)
    options = []
    for component in [name for name in components if name not in NEVER_DRAWN]:
        variants = _source(components, component)["variants"]
        stored = [variant for variant, content in variants.items() if content.get("weight", 1) > 0]
        values = [_plain(variant) for variant in stored]
        options.append(_option(_renamed(name, component), f"{component}Variant", stored, values, always))
    for colour, content in definition.get("colors", {}).items():
        known = _renamed(name, colour)
        known = f"{known}_color" if any(_renamed(name, component) == known for component in components) else known
        stored = list(dict.fromkeys(content["values"]))
        if len(stored) > 1:  # the presence of a single colour is that of its component
            options.append(_option(known, f"{colour}Color", stored, _colour_names(stored), always))
    return FaceStyle(name, definition, tuple(option for option in options if len(option.stored) > 1))


def labels_of(style: FaceStyle, resolved: Mapping[str, Any]) -> tuple[int, ...]:
    """The number of each attribute's value, from the options that DiceBear resolved for one picture."""
    found = []
    for option in style.options:
        drawn = resolved.get(option.key)
        drawn = (drawn[0] if drawn else None) if isinstance(drawn, list) else drawn
        found.append(option.stored.index(drawn))
    return tuple(found)


def forced(style: FaceStyle, fixed: Mapping[str, str]) -> dict[str, Any]:
    """DiceBear's options that make every picture have these values.

    Where a value needs another component (hair colour needs a top with hair), that one is drawn from those that fit.

    Raises:
        UserError: an attribute or a value is unknown.
    """
    given: dict[str, Any] = {}
    for name, value in fixed.items():
        names = [attribute.name for attribute in style.attributes]
        option = style.options[names.index(choice(f"faces:{style.name}", "attribute", name, names, "{near}"))]
        known = option.attribute.values
        stored = option.stored[
            known.index(choice(f"faces:{style.name}", f"value of {name}", value, known, f"{name}={{near}}"))
        ]
        subject = re.sub("(Variant|Color)$", "", option.key)
        if option.key.endswith("Variant"):
            given[f"{subject}Probability"] = 0 if stored is None else 100
        if stored is not None:
            given[option.key] = [stored] if option.key.endswith("Color") else _narrowed(given, option.key, [stored])
        if not option.always:
            kind = "color" if option.key.endswith("Color") else "component"
            _require_in_parents(style, given, (kind, subject), stored is not None)
    return given


def _require_in_parents(style: FaceStyle, given: dict[str, Any], part: tuple[str, str], wanted: bool) -> None:
    """Narrows the components that contain a part in some variants to the variants that do, or do not."""
    for component, content in style.definition.get("components", {}).items():
        variants = content.get("variants", {})
        containing = [name for name, variant in variants.items() if part in _parts(variant["elements"])]
        others = [name for name in variants if name not in containing]
        if containing and wanted:
            given[f"{component}Probability"] = 100
        if containing and others:
            key = f"{component}Variant"
            given[key] = _narrowed(given, key, containing if wanted else others)
        elif containing and not wanted:
            given[f"{component}Probability"] = 0


def _narrowed(given: Mapping[str, Any], key: str, allowed: Sequence[str]) -> list[str]:
    both = [value for value in given.get(key, allowed) if value in allowed]
    if not both:
        raise UserError(f"no face has all of these values: they ask for different {key.removesuffix('Variant')}")
    return both


def _always(definition: Mapping[str, Any]) -> set[tuple[str, str]]:
    """The components and colours that every picture of a style has: ("component", name), ("color", name)."""
    components = definition.get("components", {})

    def within(parts: set[tuple[str, str]]) -> set[tuple[str, str]]:
        found = set(parts)
        for kind, name in parts:
            if kind == "component":
                source = _source(components, name)
                if source.get("probability", 100) < 100:
                    found.discard((kind, name))
                else:
                    drawn = [variant for variant in source["variants"].values() if variant.get("weight", 1) > 0]
                    found |= set.intersection(*(within(_parts(variant["elements"])) for variant in drawn))
        return found

    background = {("color", "background")} & {("color", name) for name in definition.get("colors", {})}
    return within(_parts(definition["canvas"]["elements"])) | background


def _parts(elements: Any) -> set[tuple[str, str]]:
    """The components and colours that elements refer to, at any depth."""
    found: set[tuple[str, str]] = set()
    if isinstance(elements, Mapping):
        if elements.get("type") in ("component", "color"):
            found.add((elements["type"], elements["name"]))
        elements = elements.values()
    if isinstance(elements, Iterable) and not isinstance(elements, str):
        for element in elements:
            found |= _parts(element)
    return found


def _source(components: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The definition of a component, or of the one that it repeats."""
    content = components[name]
    return components[content["extends"]] if "extends" in content else content


def _option(name: str, key: str, stored: Sequence[str], values: Sequence[str], always: set[tuple[str, str]]) -> Option:
    kind, subject = ("color", key[:-5]) if key.endswith("Color") else ("component", key[:-7])
    is_always = (kind, subject) in always
    absent = () if is_always else (NONE,)
    named = (*absent, *(f"{value}_" if absent and value == NONE else value for value in values))
    return Option(Attribute(name, named), key, (*(None for _ in absent), *stored), is_always)


def _renamed(style: str, name: str) -> str:
    name = _plain(name)
    return {**RENAMED, **RENAMED_IN.get(style, {})}.get(name, name)


def _plain(name: str) -> str:
    """shirtVNeck -> shirt_v_neck."""
    return re.sub("(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _colour_names(colours: Sequence[str]) -> list[str]:
    """A name for each colour #rrggbb; those that would share one get their digits behind it."""
    names = [COLOURS.get(colour) or _nearest(colour) for colour in colours]
    return [
        f"{name}_{colour[1:]}" if names.count(name) > 1 else name for name, colour in zip(names, colours, strict=True)
    ]


def _nearest(colour: str) -> str:
    red, green, blue = ImageColor.getrgb(colour)[:3]

    def distance(name: str) -> int:
        r, g, b = ImageColor.getrgb(name)[:3]
        return (r - red) ** 2 + (g - green) ** 2 + (b - blue) ** 2

    return min(sorted(ImageColor.colormap), key=distance)
