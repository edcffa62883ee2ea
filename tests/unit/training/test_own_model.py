"""A model that a function in a file makes, from the command line to the certificate."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import taut
from taut.cli import main
from taut.models import model_of
from taut.training import Recipe, Run

NET = """
import torch
from torch import nn
import taut

def make(width: int = 4, deep=False):
    layers = [nn.Flatten(), taut.nn.Linear(36, width), taut.nn.MaxMin()]
    layers += [taut.nn.Linear(width, width)] if deep else []
    return nn.Sequential(*layers, taut.nn.Linear(width, 3))

def fit(input_shape, classes, parametrization):
    c, h, w = input_shape
    conv = taut.nn.Conv2d(c, 4, 3, parametrization=parametrization)
    return nn.Sequential(conv, taut.nn.MaxMin(), nn.Flatten(), taut.nn.Linear(4 * h * w, classes))

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(36, 3)

    def forward(self, x):
        return self.fc(x.flatten(1))

def needs(size):
    return Net()

def nothing():
    return 3

def many():
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 5))

def other():
    return nn.Sequential(nn.Flatten(), nn.Linear(35, 3))

number = 7
"""


@pytest.fixture
def here(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    images = np.random.default_rng(0).integers(0, 256, (16, 6, 6)).astype(np.uint8)
    labels = np.arange(16) % 3
    np.savez("data.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    recipe = {"name": "tiny", "data": {"kind": "npz", "input_shape": [1, 6, 6], "classes": 3}}
    Path("tiny.json").write_text(json.dumps(recipe | {"epochs": 1, "batch_size": 8}))

    def run(*arguments):
        code = main(list(arguments))
        return code, *capsys.readouterr()

    return run


TRAIN = ("train", "tiny.json", "--data-dir", "data.npz", "--run", "run", "--model")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("net.py:make", ("--model.width", "6", "--model.deep")),
        ("net.py:fit", ("--parametrization", "RKO")),
        ("net.py:Net", ()),
    ],
)
def test_a_model_of_ones_own_trains_and_is_certified_from_its_run_folder(here, kind, options):
    code, _, err = here(*TRAIN, kind, *options)
    assert (code, err) == (0, ""), err
    Path("net.py").unlink()  # the run folder has a copy
    run = Run.open("run")
    assert run.recipe == Recipe.from_json(run.recipe.to_json(), Path("run"))
    model = run.model()
    if kind == "net.py:make":
        assert model[1].weight.shape == (6, 36)
        assert len(model) == 5
    if kind == "net.py:fit":
        assert isinstance(model[0].parametrization, taut.RKO)
    code, _, err = here("certify", "run")
    assert code == 0, err
    images = torch.from_numpy(np.load("data.npz")["x_test"])[:, None].float() / 255
    assert taut.certify(model, images, torch.arange(16) % 3).radius.shape == (16,)
    code, _, err = here(*TRAIN[:-1])
    assert code == 2  # the recipe alone names another model
    assert here("train", "--resume", "run")[0] == 0


@pytest.mark.parametrize(
    ("kind", "options", "sentence"),
    [
        ("net.py:needs", (), "`size` of needs must have a default value, or be one of input_shape"),
        ("net.py:nothing", (), "must return a torch.nn.Module; got int"),
        ("net.py:many", (), "many must give 3 logits for an image of (1, 6, 6), (2, 3) for two"),
        ("net.py:other", (), "other does not take images of (1, 6, 6): "),
        ("net.py:number", (), "net.py:number must be a class derived from taut.models"),
        ("net.py:make", ("--parametrization", "RKO"), "must be left at BCOP for make"),
        ("net.py:make", ("--model.width", "wide"), "`--model.width` must be a whole number"),
        ("net.py:makes", (), "net.py defines no makes. Did you mean make?"),
    ],
)
def test_wrong_models_are_one_sentence(here, kind, options, sentence):
    code, _, err = here(*TRAIN, kind, *options)
    assert (code, err.count("\n")) == (2, 1)
    assert sentence in err


def test_a_function_gives_one_class():
    def make():
        return nn.Linear(2, 2)

    assert model_of(make) is model_of(make)
    assert model_of(make)() == model_of(make)()
