"""Commands that draw images: sample, reconstruct, interpolate, inpaint."""

import numpy as np
import pytest
from drawn_files import arrays_of, save_mask, size_of
from PIL import Image
from small_runs import contents, load_experiment, tiny_config

from jimgen import data
from jimgen.runs import train
from jimgen.runs.load import load_run


@pytest.mark.parametrize(("name", "shape"), [("dcgan", (16, 16, 1)), ("vae", (8, 8, 3))])
def test_sample_writes_the_same_set_for_the_same_seed(folders, jimgen, tmp_path, name, shape):
    """npz: uint8 images, and int32 labels of a conditional run, in turn; a larger set begins with the smaller."""
    paths = [tmp_path / f"{i}.npz" for i in range(4)]
    for path, num, seed in zip(paths, (13, 13, 5, 13), (1, 1, 1, 2), strict=True):
        said = jimgen("sample", folders[name], "--num", num, "--seed", seed, "--out", path)
        assert str(path) in said
    (first, labels), (again, _), (fewer, _), (other, _) = map(arrays_of, paths)
    assert first.shape == (13, *shape)
    assert labels is None if name == "dcgan" else labels.tolist() == [i % 10 for i in range(13)]
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first[:5], fewer)
    assert (first != other).any()
    assert len({image.tobytes() for image in first}) == 13


def test_sample_draws_a_grid_with_a_class_a_column(folders, jimgen):
    said = jimgen("sample", folders["vae"], "--num", 20)
    assert str(folders["vae"] / "sample.png") in said
    with Image.open(folders["vae"] / "sample.png") as image:
        assert image.size == ((10 * 9 - 1) * 6, (2 * 9 - 1) * 6)


@pytest.mark.parametrize(("num", "columns", "rows"), [(1, 1, 1), (3, 3, 1), (15, 10, 2), (400, 20, 20)])
def test_a_grid_holds_as_many_tiles_as_were_asked_for(folders, jimgen, tmp_path, num, columns, rows):
    """No empty tile for an image beyond the number; many images make a nearly square sheet."""
    jimgen("sample", folders["vae"], "--num", num, "--out", tmp_path / "x.png")
    assert size_of(tmp_path / "x.png") == ((columns * 9 - 1) * 6, (rows * 9 - 1) * 6)


def test_a_sheet_of_very_many_images_is_capped_and_said_so(folders, jimgen, tmp_path):
    """At most 1024 tiles; a message tells that others are left out, and that .npz holds all."""
    said = jimgen("sample", folders["vae"], "--num", 20_000, "--out", tmp_path / "x.png")
    assert "shows the first 1024 of 20000" in said and ".npz" in said
    assert size_of(tmp_path / "x.png") == ((30 * 9 - 1) * 6, (35 * 9 - 1) * 6)
    said = jimgen("interpolate", folders["vae"], "--num", 300, "--steps", 10, "--out", tmp_path / "x.png")
    assert "shows the first 102 of 300" in said and size_of(tmp_path / "x.png")[1] == (102 * 9 - 1) * 6


def test_unlabelled_data_give_no_labels(folders, jimgen, refused, tmp_path):
    """Data of one class, whatever the config; also for reconstructions."""
    images = np.random.default_rng(0).integers(0, 256, (24, 8, 8), np.uint8)
    np.savez(tmp_path / "x.npz", train_images=images, test_images=images[:8])
    config = tiny_config("vae", tmp_path / "vae", data=f"npz:{tmp_path / 'x.npz'}")
    train.run(config, load_experiment("vae").build)
    for command in ("sample", "reconstruct"):
        jimgen(command, tmp_path / "vae", "--num", 3, "--out", tmp_path / "out.npz")
        assert arrays_of(tmp_path / "out.npz")[1] is None
    assert "have no classes" in refused("sample", tmp_path / "vae", "--label", "0")
    flow = load_run(folders["flow"])
    method = load_experiment("flow").build(flow.config, flow.spec._replace(num_classes=1, class_names=("all",)))
    assert flow.config.conditional and flow.conditional and not flow._replace(method=method).conditional


@pytest.mark.parametrize("command", ["sample", "interpolate", "inpaint"])
def test_seeds_of_64_bits_are_told_apart(folders, jimgen, refused, tmp_path, command):
    """0, 2^32 and 2^63 - 1 give different images; seeds outside 0 to 2^63 - 1 are refused."""
    run = {"sample": "dcgan", "interpolate": "dcgan", "inpaint": "flow"}[command]
    given = [command, folders[run]]
    if command == "inpaint":
        Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "x.png")
        given += [tmp_path / "x.png", "--mask", save_mask(tmp_path / "mask.png", [[255, 0]])]
    found = []
    for seed in (0, 2**32, 2**63 - 1):
        jimgen(*given, "--num", 1, "--seed", seed, "--out", tmp_path / "x.npz")
        found.append(arrays_of(tmp_path / "x.npz")[0].tobytes())
    assert len(set(found)) == 3
    for seed in (-1, 2**63, 10**30):
        assert f"--seed {seed}: must lie within 0" in refused(*given, f"--seed={seed}")


def test_sample_of_one_class(folders, jimgen, tmp_path):
    """The label reaches the net: the same latents give other images."""
    for label in (0, 9):
        jimgen("sample", folders["vae"], "--num", 3, "--label", label, "--out", tmp_path / f"{label}.npz")
    (zeros, labels), (nines, _) = (arrays_of(tmp_path / f"{label}.npz") for label in (0, 9))
    assert labels.tolist() == [0, 0, 0] and (zeros != nines).any()


def test_sample_writes_a_folder_of_pictures_by_class_or_by_frequency(folders, jimgen, tmp_path):
    """Frequencies of the training digits are nearly equal, so both sets have about two images per class."""
    for classes in ("balanced", "frequency"):
        out = tmp_path / classes
        assert str(out) in jimgen("sample", folders["vae"], "--num", 20, "--classes", classes, "--out", out)
        assert len(list(out.rglob("*.png"))) == 20
    assert [len(list((tmp_path / "balanced" / f"{label:04d}").iterdir())) for label in range(10)] == [2] * 10


def test_endings_may_be_in_capitals_and_home_is_expanded(folders, jimgen, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("x.PNG", "X.Npz"):
        assert str(tmp_path / name) in jimgen("sample", folders["vae"], "--num", 2, "--out", f"~/{name}")
    assert size_of(tmp_path / "x.PNG") == ((2 * 9 - 1) * 6, 8 * 6) and len(arrays_of(tmp_path / "X.Npz")[0]) == 2


def test_sample_with_a_changed_config(folders, jimgen, refused, tmp_path):
    """The same weights and latents by another solver; the run itself does not change. Other fields are refused."""
    before = contents(folders["flow"])
    for name, more in {"own": [], "same": ["sampler=heun"], "other": ["sampler=euler", "num-steps=3"]}.items():
        changed = ["--change", *more] if more else []
        jimgen("sample", folders["flow"], "--num", 4, *changed, "--out", tmp_path / f"{name}.npz")
    own, same, other = (arrays_of(tmp_path / f"{name}.npz")[0] for name in ("own", "same", "other"))
    assert (own == same).all() and (own != other).any()
    for change in ("seed=1", "data=digits", "prediction=noise"):
        message = refused("sample", folders["flow"], "--change", change, "--out", tmp_path / "x.npz")
        assert f"--change {change}: only these fields may change" in message and "sampler, num_steps" in message
    assert contents(folders["flow"]) == before and not (tmp_path / "x.npz").exists()


def test_reconstruct_of_the_test_images(folders, jimgen, tmp_path):
    """Pairs of rows as a picture, or the reconstructions with the labels of the test set."""
    jimgen("reconstruct", folders["vae"], "--num", 12, "--out", tmp_path / "x.npz")
    images, labels = arrays_of(tmp_path / "x.npz")
    assert images.shape == (12, 8, 8, 3)
    test = data.load("digits").test
    np.testing.assert_array_equal(labels, test.labels[:12])
    jimgen("reconstruct", folders["vae"], "--num", 20, "--out", tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        sheet = np.asarray(image)
    assert sheet.shape == ((4 * 9 - 1) * 6, (10 * 9 - 1) * 6, 3)
    np.testing.assert_array_equal(sheet[: 8 * 6 : 6, : 8 * 6 : 6, 0], test.images[0, :, :, 0])


@pytest.mark.parametrize(("num", "columns", "rows"), [(1, 1, 2), (15, 10, 4), (25, 10, 6), (500, 10, 60)])
def test_reconstruct_shows_every_image_that_was_asked_for(folders, jimgen, tmp_path, num, columns, rows):
    """Also in a last row that is not full; and all 299 if more were asked for."""
    said = jimgen("reconstruct", folders["vae"], "--num", num, "--out", tmp_path / "x.png")
    assert ("no more can be reconstructed" in said) == (num > 299)
    with Image.open(tmp_path / "x.png") as image:
        sheet = np.asarray(image)[::6, ::6]
    assert sheet.shape[:2] == (rows * 9 - 1, columns * 9 - 1)
    y, x = divmod(min(num, 299) - 1, 10)
    last = sheet[2 * y * 9 :, x * 9 :][:8, :8, 0]
    np.testing.assert_array_equal(last, data.load("digits").test.images[min(num, 299) - 1, :, :, 0])


@pytest.mark.parametrize("name", ["dcgan", "vae"])
def test_interpolate_walks_from_one_image_to_another(folders, jimgen, tmp_path, name):
    """One row per pair; two steps show the ends of five."""
    for steps in (2, 5):
        out = tmp_path / f"{steps}.npz"
        jimgen("interpolate", folders[name], "--num", 3, "--steps", steps, "--seed", 4, "--out", out)
    (ends, _), (walk, labels) = (arrays_of(tmp_path / f"{steps}.npz") for steps in (2, 5))
    assert walk.shape[0] == 15
    assert labels is None if name == "dcgan" else labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    walk, ends = (images.astype(int).reshape(3, -1, *images.shape[1:]) for images in (walk, ends))
    assert np.abs(walk[:, [0, -1]] - ends).max() <= 1
    assert (walk[:, 0] != walk[:, -1]).any()


def test_inpaint_keeps_what_is_known(folders, jimgen, tmp_path):
    """The left half of a digit does not change; the right half differs between fillings."""
    digit = data.load("digits").test.images[0]
    Image.fromarray(digit[..., 0]).save(tmp_path / "digit.png")
    mask = np.zeros((8, 8), np.uint8)
    mask[:, :4] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    given = ["inpaint", folders["flow"], tmp_path / "digit.png", "--mask", tmp_path / "mask.png", "--num", 3]
    jimgen(*given, "--out", tmp_path / "x.npz")
    filled, _ = arrays_of(tmp_path / "x.npz")
    assert filled.shape == (3, 8, 8, 1)
    np.testing.assert_array_equal(filled[:, :, :4], np.broadcast_to(digit[:, :4], (3, 8, 4, 1)))
    assert len({image.tobytes() for image in filled}) == 3
    assert str(folders["flow"] / "inpaint.png") in jimgen(*given)
    jimgen(*given[:3], "--mask", save_mask(tmp_path / "01.png", [[1, 0]]), "--num", 3, "--out", tmp_path / "01.npz")
    np.testing.assert_array_equal(arrays_of(tmp_path / "01.npz")[0], filled)  # a mask of 0 and 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[0]], "has no white (known) pixel: its values lie within 0 and 0"),
        ([[255]], "has no black (missing) pixel"),
        ([[1]], "has no black (missing) pixel"),
        ([[0, 100]], "has no white (known) pixel: its values lie within 0 and 100"),
    ],
)
def test_a_mask_that_leaves_nothing_to_do_or_nothing_to_go_by_is_refused(folders, refused, tmp_path, rows, message):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "x.png")
    mask = save_mask(tmp_path / "mask.png", rows)
    given = ["inpaint", folders["flow"], tmp_path / "x.png", "--mask", mask]
    assert message in refused(*given, "--out", tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()
