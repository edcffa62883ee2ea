import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from taut.cli.app import COMMANDS, main
from taut.recipes import RECIPES
from taut.training import Recipe, Run

RECIPE = {
    "name": "tiny",
    "dataset": "npz",
    "model": {"architecture": "small", "input_shape": [1, 6, 6], "classes": 3},
    "epochs": 2,
    "batch_size": 8,
    "eps": ["0.5"],
}


def taut(*arguments, cwd=None):
    command = [sys.executable, "-m", "taut", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, check=False, env=environment
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set, a recipe file, and the run trained from them as a user does."""
    path = tmp_path_factory.mktemp("cli")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (16, 6, 6)).astype(np.uint8)
    labels = np.arange(16) % 3
    np.savez(path / "data.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    (path / "tiny.json").write_text(json.dumps(RECIPE))
    result = taut("train", "tiny.json", "--data-dir", "data.npz", "--seed", 3, cwd=path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("epoch 1  loss ")
    assert "certified" in result.stdout.splitlines()[-1]
    return path


@pytest.fixture
def here(tmp_path, monkeypatch, capsys):
    """`taut` in this process and an empty folder: quick, for what fails before it starts."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        try:
            code = main(arguments)
        except SystemExit as left:
            code = left.code
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return run


def refused(result, *parts, code=2):
    """One sentence on stderr, no traceback, and the exit code of wrong use."""
    assert result.returncode == code
    assert result.stderr.startswith("taut: ")
    assert result.stderr.count("\n") == 1
    assert all(part in result.stderr for part in parts), result.stderr


def test_train_makes_a_run_folder_named_by_recipe_and_seed(folder):
    run = Run.open(folder / "runs" / "tiny-seed3")
    assert run.recipe == Recipe.from_json(json.dumps(RECIPE | {"seed": 3}))
    assert run.data_dir == folder / "data.npz"
    assert len(run.history()) == 2


def test_a_dry_run_says_what_training_needs_and_writes_nothing(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    code = main(["train", "tiny.json", "--data-dir", "data.npz", "--dry-run", "--epochs", "50"])
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[:-1])
    assert code == 0
    assert sorted(folder.rglob("*")) == before
    assert list(rows) == [
        *("data", "device", "parameters", "loss", "seconds", "memory", "bound", "training")
    ]
    assert rows["data"] == "data, 16 + 16 images of 1x6x6, 3 classes"
    assert rows["device"] == "cpu"
    model = Run.open(folder / "runs" / "tiny-seed3").initial_model()
    assert rows["parameters"] == f"{sum(p.numel() for p in model.parameters()):,}"
    assert rows["loss"].endswith("of 2 steps of 8 images")
    assert len(rows["seconds"].split(", ")) == 2
    assert rows["memory"].endswith(" GiB at most")
    assert rows["bound"].startswith("1.00001, proven in ")
    assert rows["training"].startswith("50 epochs, 100 steps: ")


def test_a_dry_run_refuses_what_training_refuses(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    words = ["train", "tiny.json", "--data-dir", "data.npz", "--dry-run"]
    assert main([*words, "--classes", "4"]) == 2
    assert "--classes" in capsys.readouterr().err
    assert main([*words, "--lr", "1e300"]) == 1
    assert capsys.readouterr().err.startswith("taut: The loss or the weights are not finite")


def test_train_again_or_resume_asks_for_no_setting(folder, monkeypatch, capsys):
    run = folder / "runs" / "tiny-seed3"
    before = (run / "model.safetensors").read_bytes()
    monkeypatch.chdir(folder)
    for arguments in (["tiny.json", "--seed", "3"], ["--resume", "runs/tiny-seed3"]):
        assert main(["train", *arguments]) == 0
        assert capsys.readouterr().out.startswith("runs/tiny-seed3: clean ")
    assert (run / "model.safetensors").read_bytes() == before


def test_ctrl_c_saves_and_says_how_to_go_on(folder):
    command = [sys.executable, "-m", "taut", "train", "tiny.json", "--data-dir", "data.npz"]
    command += ["--run", "stopped", "--epochs", "100000"]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True, stdout=-3)
    deadline = time.monotonic() + 60
    while not (folder / "stopped" / "state.safetensors").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "taut train --resume stopped" in stderr.splitlines()[-1]
    assert "Traceback" not in stderr
    rows = len(Run.open(folder / "stopped").history())
    resumed = subprocess.Popen(
        [sys.executable, "-m", "taut", "train", "--resume", "stopped"],
        cwd=folder,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert resumed.stdout is not None
    # The first line is about the epoch after the ones that were done.
    assert resumed.stdout.readline().split()[1] == str(rows + 1)
    resumed.send_signal(signal.SIGINT)
    resumed.communicate(timeout=60)
    assert resumed.returncode == 130


def test_a_terminal_gets_a_bar_with_loss_and_accuracies(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["train", "tiny.json", "--data-dir", "data.npz", "--run", "bar"]) == 0
    captured = capsys.readouterr()
    assert all(part in captured.err for part in ("epoch 2 of 2", "loss ", "clean ", "eps 0.5"))
    assert "━" in captured.err
    assert "…" not in captured.err
    assert captured.out.count("\n") == 1


def test_another_recipe_in_the_folder_is_refused(folder):
    result = taut("train", "tiny.json", "--run", "runs/tiny-seed3", cwd=folder)
    refused(result, "runs/tiny-seed3", "`--seed` is 3 there, 0 now", "Nothing was changed")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["train"], ["needs a recipe"]),
        (["train", "nope"], ["no recipe 'nope'", "`taut list`"]),
        (["train", "gone.json"], ["gone.json"]),
        (["train", "dmeo"], ["no recipe 'dmeo'", "Did you mean demo?"]),
        (["train", "mnist-small"], ["`--data-dir`"]),
        (["train", "mnist-small", "--data-dir", "gone"], ["gone"]),
        (["train", "demo", "--epochs", "0"], ["`--epochs` must be a positive integer; got 0"]),
        (["train", "demo", "--lr", "-1"], ["`--lr` must be a positive number; got -1.0"]),
        (["train", "demo", "--eps", "much"], ["`--eps`", "'much'"]),
        (["train", "demo", "--classes", "7"], ["`--classes` must be", "and 10; got", "and 7"]),
        (["train", "--resume", "gone"], ["There is no run folder gone"]),
        (["train", "demo", "--device", "cuda"], ["`--device`", "no GPU"]),
        (
            ["train", "demo", "--device", "gpu"],
            ["`--device` must be one of auto, cpu, cuda, mps, xpu"],
        ),
        (
            ["train", "demo", "--loss.temperature", "-1"],
            ["`--loss.temperature` must be a positive"],
        ),
        (["train", "demo", "--epohs", "3"], ["no option --epohs. Did you mean --epochs?"]),
        (["train", "demo", "--epochs=three"], ["`--epochs` must be a whole number; got 'three'"]),
        (["train", "demo", "--lr", "x"], ["`--lr` must be a number; got 'x'"]),
        (["train", "demo", "--epochs"], ["`--epochs` needs a value"]),
        (["train", "demo", "--input-shape", "1", "2"], ["`--input-shape` must be", "got '1,2'"]),
        (["train", "demo", "--input-shape", "1", "2", "x"], ["takes no argument x"]),
        (["train", "demo", "more"], ["takes no argument more"]),
        (
            ["train", "demo", "--dataset", "mnits"],
            ["`--dataset` must be one", "Did you mean mnist?"],
        ),
        (["train", "demo", "--holdout", "2"], ["`--holdout` must be between 0 and 1; got 2.0"]),
        (["train", "demo", "--model", "smal"], ["`--model` must be one of", "Did you mean small?"]),
        (["train", "demo", "--model"], ["`--model` needs a value"]),
        (["train", "demo", "--parametrization=bkop"], ["`--parametrization`", "mean BCOP?"]),
        (["attack"], ["Give a run folder, or a model with --model"]),
        (["export", "run"], ["`taut export` needs --to"]),
        (["export", "run", "--too", "onnx"], ["no option --too. Did you mean --to?"]),
        (["attack", "run", "--method", "pdg"], ["`--method` must be one of", "Did you mean pgd?"]),
        (["wasserstein", "--steps", "1.5", "a", "b"], ["`--steps` must be a whole number"]),
        (["trian"], ["no command 'trian'", "Did you mean train?"]),
    ],
)
def test_mistakes_are_told_in_one_sentence(here, arguments, parts, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    refused(here(*arguments), *parts)
    assert os.listdir() == []


@pytest.mark.parametrize("text", ["{", "[]", '{"name": 3}', '{"epohs": 3}'])
def test_malformed_recipe_files_are_named(here, text):
    Path("bad.json").write_text(text)
    refused(here("train", "bad.json"), "bad.json holds no recipe")


def test_a_mistake_leaves_no_traceback_in_a_process_of_its_own(tmp_path):
    (tmp_path / "bad.json").write_text(json.dumps(RECIPE | {"schedule": "step"}))
    result = taut("train", "bad.json", cwd=tmp_path)
    refused(result, "bad.json holds no recipe", "one-cycle", "'step'")


def test_help_lists_every_command_with_an_example(here):
    result = here("--help")
    assert result.returncode == 0
    assert all(f"  {name} " in result.stdout for name in COMMANDS)
    assert "Example: " in result.stdout


@pytest.mark.parametrize("command", [["train", "demo"], *([name] for name in COMMANDS)])
def test_help_of_a_command_has_an_example(here, command):
    result = here(*command, "--help")
    assert result.returncode == 0
    assert "Example: taut" in result.stdout


def test_help_fills_its_lines(here, monkeypatch):
    """Whatever the width, a line breaks only where the next word would not fit."""
    for width in (80, 100):
        monkeypatch.setenv("COLUMNS", str(width))
        lines = [line.strip("│ ") for line in here("attack", "--help").stdout.splitlines()]
        start = next(i for i, line in enumerate(lines) if line.startswith("the attacks to run"))
        room = width - len("│ --device {auto,cpu,cuda}   │")
        for line, after in zip(lines[start:], lines[start + 1 :], strict=False):
            if after.startswith("--"):
                break
            assert len(f"{line} {after.split()[0]}") > room, line


def test_help_shows_a_torchrun_command_that_may_name_the_run(here):
    assert "torchrun --nproc-per-node=4 -m -- taut" in here("train", "--help").stdout


def test_help_loads_nothing_heavy():
    script = (
        "import sys; from taut.cli import main; main(['--help']); heavy = {'lightning_fabric', "
        "'matplotlib', 'rich', 'tyro', 'jinja2'} & set(sys.modules); assert not heavy, heavy"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


def test_list_names_recipes_data_sets_and_methods(here):
    result = here("list")
    assert result.returncode == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    first = [words[0] for words in lines if words]
    assert set(RECIPES) <= set(first)
    assert {"fashion-mnist-subset", "cifar10", "BCOP", "RKO", "Orthogonal"} <= set(first)
    assert any(words[:2] == ["BCOP", "orthogonal"] for words in lines)


def test_version(here):
    assert here("--version").stdout.startswith("taut 0.")
