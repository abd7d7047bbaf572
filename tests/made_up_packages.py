"""Tiny trees of the same form as the packages that recipes read, with random pictures."""

import io
import json
import shutil
import zipfile
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

from jimgen.data.recipes import brain, emoji, environments, furniture, glyphs, heroes, scenery, sprites, tiles


def picture(rng, height, width, channels=4):
    """Random colours; RGBA is opaque within a border of one pixel."""
    pixels = rng.integers(0, 256, (height, width, channels), np.uint8)
    if channels == 4:
        pixels[..., 3] = 0
        pixels[1:-1, 1:-1, 3] = 255
    return Image.fromarray(pixels)


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def make_heroes(root: Path, rng):
    """A sheet for each layer with one box of 6x6 for every frame and direction."""
    folder = root / heroes.FOLDER
    names = [name for hair in heroes.HAIR.values() for name in hair.values()] + list(heroes.HEAD.values())
    names += [name for slot in heroes.BODY for name in (f"default_{slot}", *heroes.BODY[slot])]
    names += [name for name in (*heroes.WEAPONS, *heroes.SHIELDS) if name != "none"]
    (folder / "engine").mkdir(parents=True)
    for sex in heroes.HAIR:
        for name in names:
            save(picture(rng, 12, 12), folder / f"images/avatar/{sex}/{name}.png")
            lines = [f"image=images/avatar/{sex}/{name}.png"]
            for pose, frames in heroes.POSES.items():
                lines.append(f"[{pose}]")
                lines += [
                    f"frame={frame},{direction},{frame % 6},{direction % 6},6,6,{rng.integers(9)},{rng.integers(40)}"
                    for frame in frames
                    for direction in range(8)
                ]
            file = folder / f"animations/avatar/{sex}/{name}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("\n".join(lines))


def make_sprites(root: Path, rng):
    """Two groups of units with two frames each; one frame is too large, and one is a copy."""
    folder = root / sprites.PARENT / "1.16" / sprites.UNITS
    for group in ("elves", "orcs"):
        for unit in ("archer", "scout", "shaman"):
            for frame in ("", "-attack-1"):
                save(picture(rng, 72, 72), folder / group / f"{unit}{frame}.png")
        save(picture(rng, 40, 60), folder / group / "rider" / "rider-1.png")
        save(picture(rng, 80, 80), folder / group / "giant.png")
        shutil.copy(folder / group / "archer.png", folder / group / "archer-defend.png")


def make_tiles(root: Path, rng):
    for module in ("default", "farming"):
        for name in ("stone_a", "dirt_a", "dirt_b", "sand_a"):
            save(picture(rng, 16, 16), root / tiles.MINETEST / module / "textures" / f"{module}_{name}.png")
    for kind in ("grass", "water"):
        for name in ("green", "dry", "dry2", "wet"):
            save(picture(rng, 72, 72), root / sprites.PARENT / "1.16" / tiles.TERRAIN / kind / f"{name}.png")


def make_scenery(root: Path, rng):
    for name in ("beach0", "beach1", "beach2-someone", "city0", "city1", "someone0"):
        image = picture(rng, 6, 12, 3).resize((720, 360), Image.Resampling.NEAREST)
        save(image, root / scenery.FOLDER / f"{name}.jpg")


def make_furniture(root: Path, rng):
    folder = root / furniture.FOLDER
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "mine.sh3f", "w") as archive:
        lines = []
        for number in range(24):
            category = "Living room" if number % 2 else "Kitchen"
            lines += [
                f"name#{number}=Thing {number // 2}",
                f"category#{number}={category}",
                f"icon#{number}=/{number}.png",
            ]
            icon = io.BytesIO()
            picture(rng, 128, 128).save(icon, "PNG")
            archive.writestr(f"{number}.png", icon.getvalue())
        archive.writestr(furniture.CATALOGUE, "\n".join(lines))


def make_glyphs(root: Path, rng):
    """Some of matplotlib's fonts, under names of several families."""
    folder = root / glyphs.FOLDER
    folder.mkdir(parents=True)
    fonts = sorted((Path(matplotlib.get_data_path()) / "fonts/ttf").glob("DejaVuSans*.ttf"))
    fonts = [font for font in fonts if "Display" not in font.name]  # it has no letters
    names = [name for name in (f"{chr(97 + i)}family" for i in range(26)) if glyphs.is_test(name[: glyphs.FAMILY])][:2]
    names += [
        name for name in (f"{chr(97 + i)}others" for i in range(26)) if not glyphs.is_test(name[: glyphs.FAMILY])
    ][:3]
    for name, font in zip(names, fonts, strict=False):
        shutil.copy(font, folder / f"{name}.ttf")
    (folder / "broken.ttf").write_bytes(b"not a font")


def make_brain(root: Path, rng):
    import nibabel

    folder = root / brain.FOLDER
    folder.mkdir(parents=True)
    head = rng.integers(50, 255, (90, 100, 80)).astype(np.uint8)
    regions = (np.arange(90)[:, None, None] // 45 + np.zeros(head.shape)).astype(np.uint8)
    for name, volume in (("ch2", head), ("aal", regions)):
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), folder / f"{name}.nii.gz")
    (folder / "aal.nii.txt").write_text("1 Right_Half 2001\n")


def make_emoji(root: Path, rng):
    """Twelve signs in four styles; one with a skin tone, which is left out."""
    codes = [f"1f60{number:x}" for number in range(12)] + ["1f44d-1f3fb"]
    for style, package in emoji.PACKAGES.items():
        folder = root / "node_modules/@iconify-json" / package
        folder.mkdir(parents=True)
        icons = {}
        for code in codes:
            colour = "#{:02x}{:02x}{:02x}".format(*rng.integers(0, 256, 3))
            icons[f"{style}-{code}"] = {"body": f'<circle cx="16" cy="16" r="10" fill="{colour}"/>'}
        (folder / "icons.json").write_text(json.dumps({"icons": icons, "width": 32, "height": 32}))
        (folder / "chars.json").write_text(json.dumps({code: f"{style}-{code}" for code in codes}))
        categories = {"Smileys & Emotion": [f"{style}-{code}" for code in codes]}
        (folder / "metadata.json").write_text(json.dumps({"categories": categories}))


def make_environments(cache: Path, rng):
    arrays = {
        f"{game}_{split}": rng.integers(0, 256, (4, *environments.SHAPE), np.uint8)
        for game in ("coinrun", "maze")
        for split in ("train", "test")
    }
    arrays["maze_test"][0] = arrays["maze_train"][0]
    np.savez(cache / environments.FILE, **arrays)


def make_root(root: Path) -> Path:
    """All packages below one folder."""
    rng = np.random.default_rng(0)
    for make in (
        make_heroes,
        make_sprites,
        make_tiles,
        make_scenery,
        make_furniture,
        make_glyphs,
        make_brain,
        make_emoji,
    ):
        make(root, rng)
    return root
