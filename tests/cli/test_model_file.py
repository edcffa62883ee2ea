"""Commands on any torch model, made by a function in a Python file, with weights from a file."""

import json

import numpy as np
import pytest
import torch

import taut
from taut.attacks import read_attacks
from taut.cli import main

NET = """
import torch
from torch import nn

def make(width=6):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * width, 3)
    )
"""


@pytest.fixture
def given(tmp_path):
    """Options that name a model with weights, and its test images."""
    (tmp_path / "net.py").write_text(NET)
    names: dict = {}
    exec(compile(NET, "net.py", "exec"), names)
    torch.save(names["make"]().state_dict(), tmp_path / "net.pt")
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (8, 1, 8, 8), dtype=np.uint8)
    with torch.no_grad():
        labels = names["make"]()(torch.from_numpy(images).float() / 255).argmax(1).numpy()
    classes = np.array(["left", "middle", "right"])
    np.savez(tmp_path / "test.npz", x_test=images, y_test=labels, classes=classes)
    model = ["--model", f"{tmp_path / 'net.py'}:make", "--weights", str(tmp_path / "net.pt")]
    return [*model, "--input-shape", "1,8,8"], ["--data", str(tmp_path / "test.npz")]


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    return code, output.out, output.err


def test_attack(given, tmp_path, capsys):
    model, data = given
    arguments = ["attack", *model, *data, "--eps", "36/255", "1/2", "--method", "fgsm"]
    code, out, err = run(capsys, *arguments)
    assert (code, err) == (0, "")
    assert "test.npz, 8 test images" in out
    rows = {line.split()[0]: line for line in out.splitlines() if " %" in line}
    assert set(rows) == {"clean", "certified", "fgsm"}
    kept = tmp_path / "attacks.json"
    code, again, _ = run(capsys, *arguments, "--output", kept)
    assert (code, again) == (0, out)
    assert [len(attacked) for attacked in read_attacks(kept)] == [8, 8]
    code, out, _ = run(capsys, "attack", *model, *data, "--limit", "5", "--steps", "3")
    assert code == 0
    assert all(eps in out for eps in ("36/255", "72/255", "108/255", "5 test images"))


def test_report(given, tmp_path, capsys):
    model, data = given
    page = tmp_path / "page.html"
    code, out, _ = run(capsys, "report", *model, *data, "--limit", "4", "--output", page)
    text = page.read_text()
    assert (code, out) == (0, f"Wrote {page}\n")
    assert "left" in text
    assert "How it was trained" not in text
    command = text.split("<pre")[-1].split(">", 1)[1].split("</pre")[0].strip()
    assert run(capsys, *command.split()[1:])[0] == 0
    assert page.read_text() == text


@pytest.mark.parametrize("with_data", [True, False])
@pytest.mark.parametrize("to", ["safetensors", "torch"])
def test_export(given, tmp_path, capsys, to, with_data):
    model, data = given
    folder, more = tmp_path / "exported", data if with_data else []
    code, out, _ = run(capsys, "export", *model, *more, "--to", to, "--output", folder)
    certificate = json.loads((folder / "certificate.json").read_text())
    assert code == 0
    assert f"Wrote {folder / 'certificate.json'}" in out
    assert ("8 test images" in out) == with_data == ("radius" in certificate)
    suffix = {"torch": "pt2"}.get(to, to)
    loaded = taut.load(folder / f"model.{suffix}")
    names: dict = {}
    exec(compile(NET, "net.py", "exec"), names)
    x = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(loaded(x), names["make"]()(x))


@pytest.mark.parametrize(
    ("command", "arguments", "sentence"),
    [
        ("attack", [], "Give a run folder, or a model with"),
        ("report", [], "Give a run folder, or a model with"),
        ("export", ["--to", "onnx", "--output", "x"], "Give a run folder, or a model with"),
        ("attack", ["MODEL"], "`--model` needs `--data` here, an npz file with test images."),
        ("report", ["MODEL"], "`--model` needs `--data` here, an npz file with test images."),
        ("export", ["MODEL", "--to", "onnx"], "`--output` must name a folder for a model in"),
        ("attack", ["MODEL", "DATA", "--data-dir", "x"], "`--data-dir` is for a run folder"),
        ("report", ["MODEL", "DATA", "--data-dir", "x"], "`--data-dir` is for a run folder"),
        ("export", ["MODEL", "--to", "onnx", "--output", "x", "--data-dir", "x"], "`--data-dir`"),
        ("attack", ["runs/a", "MODEL"], "Give a run folder, or a model with"),
        ("attack", ["runs/a", "DATA"], "A run folder has its own model and data"),
        ("attack", ["runs/a", "--output", "x"], "`--output` is for a model in a file"),
        ("report", ["runs/a", "--output", "x"], "`--output` is for a model in a file"),
        ("attack", ["MODEL", "DATA", "--input-shape", "1,9,8"], "they are 1,8,8."),
    ],
)
def test_wrong_use_is_one_sentence(given, capsys, command, arguments, sentence):
    parts = {"MODEL": given[0], "DATA": given[1]}
    words = [word for argument in arguments for word in parts.get(argument, [argument])]
    code, out, err = run(capsys, command, *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert sentence in err
