"""Commands on any torch model, made by a function in a Python file, with weights from a file."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

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


def state():
    names: dict = {}
    exec(compile(NET, "net.py", "exec"), names)
    return names["make"]().state_dict()


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrapped_models_are_left_out(given, prefix, tmp_path, capsys):
    model, _ = given
    torch.save({f"{prefix}{name}": t for name, t in state().items()}, tmp_path / "wrapped.pt")
    code, plain, _ = run(capsys, "certify", *model)
    model[3] = str(tmp_path / "wrapped.pt")
    assert run(capsys, "certify", *model) == (code, plain, "")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda state: {f"a.{name}": t for name, t in state.items()},
            "it has no 0.bias, 0.weight, 3.bias and 1 more; it has a.0.bias, a.0.weight, a.3.bias "
            "and 1 more instead.",
        ),
        (lambda state: {"0.weight": state["0.weight"]}, "it has no 0.bias, 3.bias, 3.weight."),
        (lambda state: state | {"x": state["0.bias"]}, "it has x, which the model lacks."),
        (
            lambda state: state | {"0.bias": torch.zeros(7)},
            "0.bias is (7,) there, and (6,) in the model.",
        ),
        (
            lambda state: {"epoch": 3, "net": state},
            "tensors by name; got epoch, net. Save its 'net' alone, if that is one.",
        ),
        (lambda state: [1], "must hold a state_dict, tensors by name; got list."),
    ],
)
def test_weights_that_do_not_fit_are_told_by_their_keys(given, change, sentence, tmp_path, capsys):
    model, _ = given
    torch.save(change(state()), tmp_path / "net.pt")
    code, out, err = run(capsys, "certify", *model)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert sentence in err


def test_shape_of_an_input_in_both_forms(given, capsys):
    model, data = given
    words = [*model[:-1], *model[-1].split(",")]
    assert run(capsys, "certify", *words, *data) == run(capsys, "certify", *model, *data)


def test_images_are_brought_to_the_precision_of_the_model(given, tmp_path, capsys):
    model, data = given
    torch.save({name: t.double() / 3 for name, t in state().items()}, tmp_path / "net.pt")
    code, out, err = run(capsys, "certify", *model, *data)
    assert (code, err) == (0, "")
    assert "test.npz, 8 test images" in out


def test_one_image_is_no_plural(given, tmp_path, capsys):
    model, _ = given
    np.savez(tmp_path / "one.npz", images=np.zeros((1, 8, 8), np.uint8), labels=np.zeros(1, int))
    for command in ("certify", "inspect"):
        _, out, _ = run(capsys, command, *model, "--data", tmp_path / "one.npz")
        assert "1 test image" in out
        assert "1 test images" not in out


def test_second_format_does_not_replace_the_certificate_of_the_first(given, tmp_path, capsys):
    model, _ = given
    folder = tmp_path / "exported"
    arguments = ["export", *model, "--output", folder, "--to"]
    assert run(capsys, *arguments, "torch")[0] == 0
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    code, out, err = run(capsys, *arguments, "safetensors")
    assert (code, out) == (2, "")
    assert f"{folder / 'certificate.json'} is of model.pt2, and would be replaced." in err
    assert f"such as {folder / 'safetensors'}." in err
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert run(capsys, *arguments, "torch")[0] == 0  # the same file again
    code, out, _ = run(capsys, "certify", folder / "model.pt2")
    assert code == 0
    assert f"{folder / 'certificate.json'} holds for model.pt2" in out
    types = [line.split()[1] for line in out.splitlines() if "spectral norm" in line]
    assert types == ["conv2d", "linear"]  # as the functions of torch are called
    # What is wrong is said before anything is proven.
    code, out, err = run(capsys, "certify", folder / "model.pt2", "--eps", "0.1")
    assert (code, out) == (2, "")
    assert "`--eps` needs `--data`" in err


@pytest.mark.parametrize("other", ["recipe.json", "certificate.json"])
def test_export_into_the_folder_of_something_else_is_refused(given, other, tmp_path, capsys):
    model, _ = given
    (tmp_path / other).write_text("{}")
    code, _, err = run(capsys, "export", *model, "--output", tmp_path, "--to", "torch")
    assert code == 2
    assert "`--output` must " in err
    assert (tmp_path / other).read_text() == "{}"
    assert not (tmp_path / "model.pt2").exists()


@pytest.mark.parametrize(
    ("command", "arguments", "sentence"),
    [
        ("attack", [], "Give a run folder, or a model with"),
        ("report", [], "Give a run folder, an exported file, or a model with"),
        ("export", ["--to", "onnx", "--output", "x"], "Give a run folder, or a model with"),
        ("attack", ["MODEL"], "`--model` needs `--data` here, an npz file with test images."),
        ("report", ["MODEL"], "`--model` needs `--data` here, an npz file with test images."),
        ("export", ["MODEL", "--to", "onnx"], "`--output` must name a folder for a model in"),
        ("attack", ["MODEL", "DATA", "--data-dir", "x"], "`--data-dir` is for a run folder"),
        ("report", ["MODEL", "DATA", "--data-dir", "x"], "`--data-dir` is for a run folder"),
        ("export", ["MODEL", "--to", "onnx", "--output", "x", "--data-dir", "x"], "`--data-dir`"),
        ("attack", ["runs/a", "MODEL"], "Give runs/a or `--model`, not both."),
        ("certify", ["runs/a", "MODEL"], "Give runs/a or `--model`, not both."),
        ("inspect", ["runs/a", "MODEL"], "Give runs/a or `--model`, not both."),
        ("attack", ["RUN", "DATA"], "A run folder has its own model and data"),
        ("certify", ["runs/a"], "There is no run folder or file runs/a."),
        ("inspect", ["runs/a"], "There is no run folder runs/a."),
        ("certify", ["near"], "There is no run folder or file near. Did you mean runs/neat?"),
        ("train", ["--resume", "runs/nea"], "There is no run folder runs/nea. Did you mean runs/"),
        (
            "certify",
            ["files"],
            "it has no recipe.json. It holds files/a.pt2: give that.",
        ),
        ("train", ["--resume", "files/a.pt2"], "files/a.pt2 is a file; give a run folder. `taut c"),
        ("certify", ["RUN", "--output", "x.json"], "`--output` is for a model in a file"),
        ("certify", ["MODEL", "--output", "net.json"], "net.safetensors would be written over."),
        ("certify", ["MODEL", "--output", "c.safetensors"], "`--output` must be the JSON file"),
        *(
            (command, ["files/a.pt2"], "files/a.pt2 is a file; give a run folder, or a model with")
            for command in ("attack", "inspect", "export --to onnx")
        ),
        ("attack", ["runs/a", "--output", "x"], "`--output` is for a model in a file"),
        ("report", ["runs/a", "--output", "x"], "`--output` is for a model in a file"),
        ("attack", ["MODEL", "DATA", "--input-shape", "1,9,8"], "they are 1,8,8."),
    ],
)
def test_wrong_use_is_one_sentence(
    given, tmp_path, monkeypatch, capsys, command, arguments, sentence
):
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/neat", "files"):
        Path(folder).mkdir(parents=True)
    for file in ("runs/neat/recipe.json", "files/a.pt2"):
        Path(file).touch()
    save_file(state(), "net.safetensors")
    model = [str(word).replace("net.pt", "net.safetensors") for word in given[0]]
    parts = {"MODEL": model, "DATA": given[1], "RUN": ["runs/neat"]}
    words = [word for argument in arguments for word in parts.get(argument, [argument])]
    code, out, err = run(capsys, *command.split(), *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert sentence in err


SIGNALS = """
import torch
import taut

def one():
    torch.manual_seed(0)
    first = taut.nn.Conv1d(2, 8, 5, stride=4)
    return torch.nn.Sequential(first, taut.nn.MaxMin(), torch.nn.Flatten(), taut.nn.Linear(32, 3))

def three():
    torch.manual_seed(0)
    first = taut.nn.Conv3d(1, 8, 2, stride=2)
    return torch.nn.Sequential(first, taut.nn.MaxMin(), torch.nn.Flatten(), taut.nn.Linear(64, 3))

def features():
    torch.manual_seed(0)
    return taut.nn.Linear(5, 3)
"""


@pytest.mark.parametrize(
    ("make", "shape"), [("one", (2, 16)), ("three", (1, 4, 4, 4)), ("features", (5,))]
)
def test_data_may_be_signals_volumes_and_features(make, shape, tmp_path, capsys):
    (tmp_path / "net.py").write_text(SIGNALS)
    names: dict = {}
    exec(compile(SIGNALS, "net.py", "exec"), names)
    x = np.random.default_rng(0).standard_normal((6, *shape)).astype(np.float32)
    with torch.no_grad():
        labels = names[make]()(torch.from_numpy(x)).argmax(1)
    np.savez(tmp_path / "test.npz", images=x, labels=labels.numpy())
    model = ["--model", f"{tmp_path / 'net.py'}:{make}", "--input-shape", ",".join(map(str, shape))]
    data, certificate = ["--data", tmp_path / "test.npz"], tmp_path / "certificate.json"
    code, out, err = run(capsys, "certify", *model, *data, "--output", certificate)
    assert (code, err) == (0, "")
    own = taut.certify(names[make]().eval(), torch.from_numpy(x), labels, eps=("36/255",))
    assert json.loads(certificate.read_text())["radius"] == own.radius.tolist()
    row = next(line.split() for line in out.splitlines() if line.startswith("36/255"))
    assert row[1::2] == ["100.00", f"{100 * own.certified_accuracy['36/255']:.2f}"]
    code, out, _ = run(capsys, "verify", certificate, "--points", tmp_path / "test.npz")
    assert code == 0
    assert "radii and answers of 6 images" in out
    assert run(capsys, "inspect", *model, *data)[0] == 0
    np.savez(tmp_path / "test.npz", images=x * np.inf, labels=labels.numpy())
    assert "images must hold finite floats" in run(capsys, "certify", *model, *data)[2]
