"""Models, losses, schedules and methods from files outside the package, by FILE.py:CLASS."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

import taut
from taut.cli import main
from taut.training import CHOICES, Recipe, Run, train

NET = """
from __future__ import annotations

from dataclasses import dataclass

from torch import nn

import taut
from taut.models import AbstractModel


@dataclass(frozen=True)
class MyNet(AbstractModel):
    \"\"\"A net of one hidden layer.

    Args:
        width: of the hidden layer.
    \"\"\"

    width: int = 4
    sizes: tuple[int, ...] = (1, 2)

    def build(self, input_shape, classes, *, parametrization=taut.BCOP, **options):
        first = taut.nn.Conv2d(input_shape[0], self.width, 2, 2, parametrization=parametrization)
        features = self.width * (input_shape[1] // 2) * (input_shape[2] // 2)
        last = taut.nn.Linear(features, classes)
        return nn.Sequential(first, taut.nn.MaxMin(), nn.Flatten(), last)


class Unfinished(AbstractModel):
    pass


class Plain(MyNet.__bases__[0]):
    def build(self, input_shape, classes, **options):
        return nn.Identity()


@dataclass(frozen=True)
class Failing(AbstractModel):
    def build(self, input_shape, classes, **options):
        return input_shape.width


def function():
    return MyNet()
"""
LOSS = """
from dataclasses import dataclass

from taut.losses import AbstractLoss, LossInputs


@dataclass(frozen=True)
class MyLoss(AbstractLoss):
    scale: float = 1.0

    def value(self, inputs: LossInputs):
        chosen = inputs.logits.gather(1, inputs.labels[:, None])
        return self.scale * (inputs.logits.logsumexp(1) - chosen[:, 0]).mean()


@dataclass(frozen=True)
class Demanding(AbstractLoss):
    power: int

    def value(self, inputs: LossInputs):
        return inputs.logits.sum()


@dataclass(frozen=True)
class Failing(AbstractLoss):
    def value(self, inputs: LossInputs):
        return inputs.logit.sum()
"""
METHOD = """
import math

from taut.parametrizations import AbstractParametrization


class MyMethod(AbstractParametrization):
    guarantee = "lipschitz"
    reference = "folklore"

    def raw_shapes(self):
        inputs = self.in_channels * math.prod(self.kernel_size)
        narrow, wide = sorted((inputs, self.out_channels))
        return {"raw_matrix": (wide, narrow)}

    def weight(self):
        matrix = self.raw_matrix / self.raw_matrix.norm().clamp(min=1)
        return matrix.reshape(self.out_channels, self.in_channels, *self.kernel_size)
"""
SCHEDULE = """
from dataclasses import dataclass

from taut.training import AbstractSchedule


@dataclass(frozen=True)
class Constant(AbstractSchedule):
    def factor(self, step, *, steps_per_epoch, epochs):
        return 1.0

    def beta1(self, step, total):
        return 0.8
"""
FILES = {"net.py": NET, "loss.py": LOSS, "method.py": METHOD, "schedule.py": SCHEDULE}
RECIPE = {
    "name": "tiny",
    "data": {"kind": "npz", "input_shape": [1, 6, 6], "classes": 3},
    "epochs": 2,
    "batch_size": 8,
    "eps": ["0.5"],
}
OPTIONS = [
    *("--model", "net.py:MyNet", "--model.width", "6", "--loss", "loss.py:MyLoss"),
    *(
        "--loss.scale=2",
        "--parametrization",
        "method.py:MyMethod",
        "--schedule=schedule.py:Constant",
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of classes from four files, which are gone."""
    path = tmp_path_factory.mktemp("own")
    labels = np.arange(24) % 3
    images = np.random.default_rng(0).integers(0, 120, (24, 6, 6)) + 60 * labels[:, None, None]
    images = images.clip(0, 255).astype(np.uint8)
    np.savez(path / "data.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    for name, text in FILES.items():
        (path / name).write_text(text)
    (path / "tiny.json").write_text(json.dumps(RECIPE))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        options = ["--data-dir", "data.npz", "--run", "run", *OPTIONS]
        assert main(["train", "tiny.json", *options]) == 0
    for name in FILES:
        (path / name).unlink()
    return path


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_run_folder_keeps_the_files_and_the_settings(folder):
    run = folder / "run"
    assert {name: (run / name).read_text() for name in FILES} == FILES
    stored = json.loads((run / "recipe.json").read_text())
    model = stored["model"]
    assert (model["kind"], model["width"], len(model["sha256"])) == ("net.py:MyNet", 6, 64)
    assert (stored["loss"]["kind"], stored["loss"]["scale"]) == ("loss.py:MyLoss", 2.0)
    assert stored["parametrization"]["kind"] == "method.py:MyMethod"
    assert stored["schedule"]["kind"] == "schedule.py:Constant"
    opened = Run.open(run)
    assert opened.recipe.model.width == 6
    assert opened.model()[0].out_channels == 6
    assert [row["lr"] for row in opened.history()] == [opened.recipe.lr] * 2


@pytest.mark.parametrize(
    "command",
    [
        ["certify"],
        ["attack", "--limit", "3"],
        ["inspect", "--limit", "3"],
        ["report", "--limit", "3"],
        ["export", "--to", "safetensors"],
    ],
    ids=lambda command: command[0],
)
def test_later_commands_work_from_the_run_folder_alone(command, folder, tmp_path, capsys):
    """Wherever the folder is, and wherever its data are now."""
    shutil.copytree(folder / "run", tmp_path / "moved")
    shutil.move(shutil.copy(folder / "data.npz", tmp_path), tmp_path / "new.npz")
    (tmp_path / "moved" / "run.json").write_text('{"data_dir": "/gone", "workers": null}')
    name, *options = command
    assert main([name, str(tmp_path / "moved"), *options]) == 2
    assert "/gone" in capsys.readouterr().err
    options += ["--data-dir", str(tmp_path / "new.npz")]
    assert main([name, str(tmp_path / "moved"), *options]) == 0


def test_a_run_goes_on_in_another_process_and_folder(folder, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        shutil.copytree(folder / "run", "moved")
        for name in ("state.safetensors", "model.safetensors", "metrics.csv"):
            os.remove(f"moved/{name}")
        command = [sys.executable, "-m", "taut", "train", "--resume", "moved"]
        done = subprocess.run(
            [*command, "--data-dir", str(folder / "data.npz")],
            env={**os.environ, "OMP_NUM_THREADS": "1"},  # as here: the order of sums is the same
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    first, again = (Run.open(path).model() for path in (folder / "run", tmp_path / "moved"))
    assert all((v == again.state_dict()[k]).all() for k, v in first.state_dict().items())


def test_the_same_command_again_finds_its_run(folder, files, capsys):
    """Equal files give equal classes, wherever they lie."""
    shutil.copytree(folder / "run", "run")
    shutil.copy(folder / "tiny.json", "tiny.json")
    assert main(["train", "tiny.json", "--run", "run", *OPTIONS]) == 0
    (files / "loss.py").write_text(LOSS.replace("mean", "sum"))
    assert main(["train", "tiny.json", "--run", "run", *OPTIONS]) == 2
    assert "another recipe (`--loss` is MyLoss(scale=2.0) there" in capsys.readouterr().err


def test_a_file_that_was_changed_in_the_run_folder_is_named(folder, tmp_path):
    shutil.copytree(folder / "run", tmp_path / "run")
    (tmp_path / "run" / "net.py").write_text(NET + "\n# another")
    with pytest.raises(
        ValueError, match=r"recipe\.json holds no recipe: net\.py:MyNet has changed"
    ):
        Run.open(tmp_path / "run")


def test_recipes_with_own_classes_survive_json(files):
    recipe = Recipe(
        name="own",
        dataset="mnist",
        model=CHOICES["model"].find("net.py:MyNet")(width=3, sizes=(4, 5)),
        loss=CHOICES["loss"].find("loss.py:MyLoss")(),
        parametrization=CHOICES["parametrization"].find("method.py:MyMethod"),
    )
    assert Recipe.from_json(recipe.to_json(), files) == recipe
    assert [file.name for file in recipe.files] == ["loss.py", "method.py", "net.py"]
    without = json.loads(recipe.to_json())
    del without["model"]["sha256"]  # as one writes it by hand
    assert Recipe.from_json(json.dumps(without), files) == recipe


def test_a_class_that_no_file_holds_cannot_be_stored(tmp_path):
    class Local(taut.losses.AbstractLoss):
        def value(self, inputs):
            return inputs.logits.sum()

    recipe = Recipe(name="a", dataset="fashion-mnist-subset", loss=Local())
    with pytest.raises(ValueError, match=r"`loss` must be one of .*got .*Local\."):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_values_of_another_kind_are_refused():
    """In a process without the type checks of the tests, as users have it."""
    script = """
import taut
from taut.training import Recipe
for name, value in (("model", taut.models.Small), ("loss", "kr"), ("schedule", taut.losses.KR()),
                    ("parametrization", "BCOP"), ("parametrization", taut.losses.KR)):
    try:
        Recipe(name="a", dataset="mnist", **{name: value})
    except ValueError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    method = "`parametrization` must be a class derived from taut.parametrizations."
    assert done.stdout.splitlines() == [
        "`model` must be an instance of taut.models.AbstractModel; "
        "got <class 'taut.models._small.Small'>.",
        "`loss` must be an instance of taut.losses.AbstractLoss; got 'kr'.",
        "`schedule` must be an instance of taut.training.AbstractSchedule; got KR().",
        f"{method}AbstractParametrization; got 'BCOP'.",
        f"{method}AbstractParametrization; got <class 'taut.losses._kr.KR'>.",
    ], done.stderr


def test_settings_that_are_no_json_are_refused(files):
    model = CHOICES["model"].find("net.py:MyNet")(width={1})
    with pytest.raises(ValueError, match="A recipe must hold plain values: Object of type set"):
        Recipe(name="a", dataset="mnist", model=model).to_json()


def test_two_files_of_one_name_are_refused(files):
    (files / "other").mkdir()
    (files / "other" / "net.py").write_text(LOSS)
    own = {"loss": "other/net.py:MyLoss", "model": "net.py:MyNet"}
    classes = {name: CHOICES[name].find(kind)() for name, kind in own.items()}
    recipe = Recipe(name="a", dataset="fashion-mnist-subset", **classes)
    with pytest.raises(ValueError, match=r"two are called net\.py"):
        train(recipe, files / "run")
    assert not (files / "run").exists()


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--model=gone.py:Net", "There is no file gone.py."),
        ("--model=net.py:MyNett", "net.py defines no MyNett. Did you mean MyNet?"),
        (
            "--model=loss.py:MyLoss",
            "loss.py: MyLoss must return a torch.nn.Module; got MyLoss.",
        ),
        (
            "--model=net.py:function",
            "net.py: function must return a torch.nn.Module; got MyNet.",
        ),
        (
            "--model=net.py:Unfinished",
            "net.py:Unfinished must define build, as taut.models.AbstractModel says.",
        ),
        (
            "--loss=net.py:MyNet",
            "net.py:MyNet must be a class derived from taut.losses.AbstractLoss; "
            "got the class MyNet.",
        ),
        (
            "--parametrization=net.py:MyNet",
            "net.py:MyNet must be a class derived from "
            "taut.parametrizations.AbstractParametrization; got the class MyNet.",
        ),
        (
            "--model=net.py:Plain",
            "net.py:Plain must be a dataclass: write @dataclass(frozen=True) above it.",
        ),
        ("--model=net.py:Failing", "net.py, line 42: AttributeError: 'tuple' object has no"),
        ("--loss=loss.py:Demanding", "Demanding needs `power`; got none."),
        ("--loss=loss.py:Failing", "loss.py, line 27: AttributeError: 'LossInputs' object has"),
        ("--model=broken.py:Net", "broken.py, line 2: ZeroDivisionError: division by zero"),
        ("--model=wrong.py:Net", "wrong.py, line 1: not Python (invalid syntax)."),
        ("--model=leaving.py:Net", "leaving.py, line 1: SystemExit: 3"),
    ],
)
def test_mistakes_are_one_sentence(option, sentence, files, capsys):
    (files / "broken.py").write_text("x = 0\ny = 1 / x\n")
    (files / "wrong.py").write_text("class for")
    (files / "leaving.py").write_text("raise SystemExit(3)\n")
    assert main(["train", "demo", option]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"taut: {sentence}")
    assert error.count("\n") == 1


def test_help_shows_the_settings_of_the_chosen_class(files, capsys):
    with pytest.raises(SystemExit) as left:
        main(["train", "demo", "--model", "net.py:MyNet", "--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert "--model.width INT" in text
    assert "The file is executed" in text
    assert "default: net.py:MyNet" in text
