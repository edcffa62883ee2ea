"""`taut train --init`: recipes to edit, and what they train."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from taut.cli import main
from taut.data import Augment
from taut.losses import OffsetCrossEntropy
from taut.training import Run, read_recipe

NET = """
import taut
from torch import nn

def make(width=5):
    return nn.Sequential(nn.Flatten(), taut.nn.Linear(36, width), taut.nn.Linear(width, 3))
"""


@pytest.fixture
def here(tmp_path, monkeypatch, capsys):
    """A folder with pictures of two classes, an npz file of three, and a model."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    for name in ("cat", "dog"):
        Path("photos", name).mkdir(parents=True)
        for i in range(5):
            pixels = draw.integers(0, 255, (8, 9, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(f"photos/{name}/{i}.png")
    images = draw.integers(0, 256, (9, 6, 6)).astype(np.uint8)
    labels = np.arange(9) % 3
    np.savez("data.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    Path("net.py").write_text(NET)

    def run(*arguments):
        code = main(["train", *arguments])
        return code, *capsys.readouterr()

    return run


def test_shape_and_classes_come_from_the_pictures_and_flags_are_kept(here):
    options = ("--holdout", "0.4", "--augment", "crop=2,flip", "--loss.offset", "0.5")
    code, out, err = here("--init", "mine.json", "--data-dir", "photos", *options, "--epochs", "1")
    assert (code, err) == (0, "")
    assert "photos, 6 + 4 images of 3x8x9, 2 classes" in out
    recipe = read_recipe(Path("mine.json"))
    assert (recipe.name, recipe.dataset, recipe.input_shape, recipe.classes) == (
        "mine",
        "folder",
        (3, 8, 9),
        2,
    )
    assert recipe.augment == Augment(crop_padding=2, flip=True)
    assert isinstance(recipe.loss, OffsetCrossEntropy)
    assert (recipe.loss.offset, recipe.holdout.fraction) == (0.5, 0.4)
    command = out.splitlines()[-1].partition("taut train ")[2].split()
    assert command == ["mine.json", "--data-dir", "photos"]
    assert here(*command, "--run", "run")[0] == 0
    assert len(Run.open("run").history()) == 1


def test_resized_pictures(here):
    shape = ("--input-shape", "1", "4", "4", "--resize")
    assert here("--init", "a.json", "--data-dir", "photos", "--holdout", "0.4", *shape)[0] == 0
    assert read_recipe(Path("a.json")).image_shape == (1, 4, 4)


def test_a_model_and_its_file_may_be_edited(here):
    given = ("--data-dir", "data.npz", "--model", "net.py:make", "--model.width", "7")
    assert here("--init", "a.json", *given, "--epochs", "1")[0] == 0
    assert "sha256" not in Path("a.json").read_text()
    content = json.loads(Path("a.json").read_text())
    content["model"]["width"] = 4
    Path("a.json").write_text(json.dumps(content))
    Path("net.py").write_text(NET + "# edited\n")
    assert here("a.json", "--data-dir", "data.npz", "--run", "run")[0] == 0
    assert Run.open("run").model()[1].weight.shape == (4, 36)


@pytest.mark.parametrize(
    ("text", "augment"),
    [
        ("none", None),
        ("flip", Augment(0, True)),
        ("crop=3", Augment(3, False)),
        ("flip,cutout=2,mixup=0.5", Augment(0, True, cutout=2, mixup=0.5)),
    ],
)
def test_augmentation_of_any_recipe(here, text, augment):
    given = ("--init", "a.json", "--data-dir", "data.npz", "--epochs", "1")
    assert here(*given, "--augment", "crop=1,flip")[0] == 0
    assert read_recipe(Path("a.json")).augment == Augment(1, True)
    run = ("a.json", "--data-dir", "data.npz", "--run", "run", "--augment", text)
    assert here(*run)[0] == 0
    assert Run.open("run").recipe.augment == augment


def test_shape_in_both_forms(here):
    given = ("--data-dir", "photos", "--holdout", "0.4", "--resize", "--input-shape")
    assert here("--init", "a.json", *given, "3,4,5")[0] == 0
    assert here("--init", "b.json", *given, "3", "4", "5")[0] == 0
    recipes = [read_recipe(Path(name)) for name in ("a.json", "b.json")]
    assert [recipe.input_shape for recipe in recipes] == [(3, 4, 5)] * 2
    for text in ("3,x,5", "3,0,5"):
        code, _, err = here("--init", "c.json", *given, text)
        assert code == 2
        assert err == (
            f"taut: `--input-shape` must be positive integers such as 3,32,32; got {text!r}.\n"
        )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"lr": "fast"}, "`lr` must be a number; got 'fast'."),
        ({"epochs": "3"}, "`epochs` must be a whole number; got '3'."),
        ({"epochs": 1.5}, "`epochs` must be a whole number; got 1.5."),
        ({"epochs": True}, "`epochs` must be a whole number; got True."),
        ({"name": 3}, "`name` must be a text; got 3."),
        ({"augment": {"crop_padding": "a"}}, "`crop_padding` must be a whole number; got 'a'."),
        ({"augment": {"flip": "no"}}, "`flip` must be true or false; got 'no'."),
        ({"loss": {"kind": "kr", "x": 1}}, "`x` is no setting of KR; it has none."),
        (
            {"loss": {"kind": "multi-margin", "eps_train": "x"}},
            "`eps_train` must be a number; got 'x'.",
        ),
        (
            {"data": {"kind": "npz", "input_shape": [1, "6", 6]}},
            "`input_shape` must be a list of whole numbers; got '6' in it.",
        ),
        (
            {"data": {"kind": "folder", "holdout": {"fraction": "x"}}},
            "`fraction` must be a number; got 'x'.",
        ),
        ({"data": {"kind": "folder", "resize": "no"}}, "`resize` must be true or false; got 'no'."),
        (None, "it is not JSON: Expecting"),
        ({"name": ...}, "Recipe needs `name`; got none."),
    ],
)
def test_wrong_value_in_a_recipe_is_named(here, change, sentence):
    values = {"name": "a", "data": {"kind": "fashion-mnist-subset"}} | (change or {})
    values = {name: value for name, value in values.items() if value is not ...}
    Path("a.json").write_text(json.dumps(values) if change is not None else "{name: 3}")
    code, out, err = here("a.json")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"taut: a.json holds no recipe: {sentence}")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "`--init` needs the name of a new file"),
        (("a.json",), "`--init` needs --data-dir"),
        (("a.txt", "--data-dir", "photos"), "`--init` must be a new file that ends in .json"),
        (("old.json", "--data-dir", "photos"), "old.json exists"),
        (("a.json", "--data-dir", "photos"), "or `--holdout` must say"),
        (("a.json", "--data-dir", "gone"), "gone"),
        (("a.json", "--dataset", "mnits"), "`--dataset` must be one of"),
        (("a.json", "--data-dir", "data.npz", "--classes", "3"), "`--classes` comes from the data"),
        (("a.json", "--data-dir", "data.npz", "--augment", "turn"), "`--augment` must be none,"),
        (
            ("a.json", "--data-dir", "data.npz", "--augment", "flip,crop=-1"),
            "`--augment` cannot be 'flip,crop=-1': crop must be an integer >= 0; got -1.",
        ),
        (
            ("a.json", "--data-dir", "data.npz", "--augment", "resized-crop=2"),
            "`--augment` cannot be 'resized-crop=2': resized-crop must be from 0 to 1; got 2.0.",
        ),
        (
            ("a.json", "--data-dir", "data.npz", "--augment", "magnitude=3"),
            "`--augment` takes magnitude only with randaugment; got 'magnitude=3'.",
        ),
        (("a.json", "--data-dir", "photos", "--resize"), "`--resize` needs `--input-shape`"),
        (
            ("a.json", "--data-dir", "data.npz", "--input-shape", "1", "5", "6"),
            "`--input-shape` must be that of the images, (1, 6, 6)",
        ),
        (("a.json", "--data-dir", "data.npz", "--lr", "-1"), "`--lr` must be a positive number"),
        (("sub/a.json", "--data-dir", "data.npz", "--model", "net.py:make"), "must lie beside"),
        (
            ("a.json", "--data-dir", "photos", "--holdout", "0.4", "--model", "net.py:make"),
            "does not take images of (3, 8, 9)",
        ),
    ],
)
def test_wrong_use_is_one_sentence_and_writes_nothing(here, arguments, sentence):
    Path("old.json").touch()
    Path("sub").mkdir()
    code, out, err = here("--init", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert sentence in err
    assert not Path("a.json").exists()
    assert not Path("sub/a.json").exists()
