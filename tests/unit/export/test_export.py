"""Exported files: the same function in other runtimes, read back and proven from the file alone."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import taut
from exported_nets import NETS, frozen, in_onnxruntime, inputs, pooled, program_files, run
from taut._display import rounded_up
from taut.cli import main
from taut.export import export, load
from taut.export._export import _alike
from taut.export._naming import renamed
from taut.program import fixed_size, trace
from taut.training import Recipe, train

MODULES = """
import sys, torch
sys.modules["taut"] = None
sys.path.insert(0, sys.argv[1])
from importlib import import_module
from safetensors.torch import load_file, save_file
for name in sys.argv[2:]:
    y = import_module(name).load()(load_file(f"{sys.argv[1]}/{name}.in")["x"])
    save_file({"y": y}, f"{sys.argv[1]}/{name}.out")
"""


def same(y: Tensor, expected: Tensor) -> bool:
    """To rounding: kernels choose the order of their sums by where a tensor lies in memory."""
    atol = 1e-6 if y.dtype == torch.float32 else 1e-14
    return y.dtype == expected.dtype and torch.allclose(y, expected, rtol=0, atol=atol)


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    return program_files(tmp_path_factory)


@pytest.mark.parametrize("name", NETS)
def test_onnxruntime_computes_the_same(name, tmp_path):
    model, shape, path = frozen(name), NETS[name][1], tmp_path / "model.onnx"
    exported, x = export(model, path, shape), inputs(shape)
    onnx.checker.check_model(path, full_check=True)
    assert torch.allclose(in_onnxruntime(path, x), model(x), rtol=1e-5, atol=1e-6)
    assert torch.allclose(load(path).model(x), model(x), rtol=1e-5, atol=1e-6)
    assert exported.input_shape == load(path).input_shape == shape


@pytest.mark.parametrize("name", NETS)
def test_exported_programs_compute_the_same(name, programs):
    model, shape, path = frozen(name), NETS[name][1], programs / f"{name}.pt2"
    x, exported = inputs(shape), load(path)
    assert same(load_file(programs / f"{name}.out")["y"], model(x))
    assert same(exported.model(x), model(x))
    assert exported.input_shape == shape
    assert b"/test_export" not in path.read_bytes()
    assert str(Path(taut.__file__).parent).encode() not in path.read_bytes()


def test_modules_of_plain_torch_compute_the_same_without_taut(tmp_path):
    cases = {name: (frozen(name), inputs(shape)) for name, (_, shape) in NETS.items()}
    cases["double"] = (frozen("bare").double(), inputs((4,)).double())
    for name, (model, x) in cases.items():
        exported = export(model, tmp_path / f"{name}.safetensors", tuple(x.shape[1:]))
        assert same(exported.model(x), model(x))
        save_file({"x": x}, tmp_path / f"{name}.in")
    run(MODULES, tmp_path, *cases)
    for name, (model, x) in cases.items():
        assert same(load_file(tmp_path / f"{name}.out")["y"], model(x))


@pytest.mark.parametrize("name", NETS)
def test_programs_survive_every_format(name, tmp_path, programs):
    """Names, arguments and bits of every tensor; numbers to float32, which ONNX holds them in."""
    shape = NETS[name][1]
    program = renamed(trace(frozen(name), shape))
    export(frozen(name), tmp_path / "model.safetensors", shape)
    exact = load(tmp_path / "model.safetensors").model.program
    assert [n.content() for n in exact.nodes] == [n.content() for n in program.nodes]
    export(frozen(name), tmp_path / "model.onnx", shape)
    for path in (tmp_path / "model.safetensors", tmp_path / "model.onnx", programs / f"{name}.pt2"):
        written = load(path).model.program
        for mine, theirs in zip(fixed_size(program).nodes, fixed_size(written).nodes, strict=True):
            assert (mine.name, mine.op, mine.inputs) == (theirs.name, theirs.op, theirs.inputs)
            assert _alike(dict(mine.args), dict(theirs.args))
            for role, tensor in mine.tensors.items():
                assert torch.equal(program.tensors[tensor], written.tensors[theirs.tensors[role]])


def test_sizes_may_stay_open(tmp_path, programs):
    model = pooled()
    path, x = tmp_path / "any.onnx", inputs((1, 16, 12))
    export(model, path, (1, 8, 8), any_size=True)
    for size in ((16, 12), (12, 20), (7, 8)):
        y = model(inputs((1, *size)))
        assert torch.allclose(in_onnxruntime(path, inputs((1, *size))), y, atol=1e-6)
    assert same(load_file(programs / "any.out")["y"], model(x))
    for file in (path, programs / "any.pt2"):
        assert load(file).input_shape == (1, 8, 8)
        exported = load(file, (1, 16, 12))
        assert exported.input_shape == (1, 16, 12)
        assert torch.allclose(exported.model(x), model(x), atol=1e-6)
        with pytest.raises(ValueError, match="`input_shape` must be of the form"):
            load(file, (2, 16, 12))


def test_what_a_file_of_open_sizes_is_certified_for_is_said(tmp_path, capsys):
    path = tmp_path / "any.onnx"
    export(pooled(), path, (1, 8, 8), any_size=True)
    for options, size in (((), "1,8,8"), (("--input-shape", "1,16,12"), "1,16,12")):
        code, out, err = taut_command(capsys, "certify", path, *options)
        assert code == 0, err
        assert f"this holds for {size} alone" in out
    export(pooled(), path, (1, 8, 8))
    assert "alone" not in taut_command(capsys, "certify", path)[1]


@pytest.mark.parametrize("mode", ["circular", "zeros", "reflect", "replicate"])
def test_files_of_any_size_complete_the_stride_of_layers_that_were_not_frozen(mode, tmp_path):
    model = nn.Sequential(taut.nn.Conv2d(3, 2, 2, stride=2, padding_mode=mode))
    export(model, path := tmp_path / "model.onnx", (3, 4, 4), any_size=True)
    for size in ((4, 4), (5, 5), (6, 3)):
        x = inputs((3, *size))
        torch.testing.assert_close(in_onnxruntime(path, x), model(x).detach())


def test_double_precision_is_refused_by_onnx(tmp_path):
    model = frozen("bare").double()
    with pytest.raises(ValueError, match="ONNX files hold float32"):
        export(model, tmp_path / "model.onnx", (4,))
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ".safetensors"])
def test_bound_is_proven_from_the_file(suffix, tmp_path, programs):
    model, shape = frozen("paper"), NETS["paper"][1]
    path = programs / "paper.pt2" if suffix == ".pt2" else tmp_path / f"model{suffix}"
    if suffix != ".pt2":
        export(model, path, shape)
    exported = load(path)
    expected = float(taut.lipschitz_bound(model, shape))
    assert float(taut.lipschitz_bound(*exported)) == pytest.approx(expected, rel=1e-12)


BAD = "cannot be exported"


@pytest.mark.parametrize(
    ("model", "shape", "suffix", "message"),
    [
        (nn.Sequential(nn.GELU()), (3,), ".onnx", f"`gelu1` (GELU) {BAD}: it has no form in ONNX"),
        (
            nn.Sequential(nn.Dropout()),
            (3,),
            ".pt2",
            "`0` (Dropout) has no proven bound: dropout in",
        ),
        (nn.Sequential(nn.Identity()).eval(), (3,), ".pt2", "must hold layers"),
        (nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Flatten(0, 1)), (4,), ".pt2", "batch"),
        (nn.Sequential(nn.Linear(2, 2)), (3, 2), ".onnx", "its input must be flat"),
        (
            nn.Sequential(nn.Linear(2, 2)),
            (3,),
            ".onnx",
            "`input_shape` does not fit the model at `0`",
        ),
        (nn.Sequential(nn.BatchNorm2d(1)), (1, 2, 2), ".onnx", "call model.eval() first"),
        (nn.Sequential(nn.MultiheadAttention(2, 1)), (2,), ".onnx", "MultiheadAttention"),
        (nn.Sequential(nn.Flatten(0)), (1, 2, 2), ".onnx", "batch"),
    ],
)
def test_what_cannot_be_exported_is_refused_by_name(model, shape, suffix, message, tmp_path):
    with pytest.raises(ValueError, match=re.escape(message)):
        export(model, tmp_path / f"model{suffix}", shape)
    assert not list(tmp_path.iterdir())


def test_unknown_endings_and_sizes_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must end in .onnx, .pt2, .safetensors"):
        export(nn.ReLU(), tmp_path / "model.pth", (3,))
    for name, hint in (("model.onx", "Did you mean .onnx"), ("w.pt", "Weights alone are no model")):
        (tmp_path / name).touch()
        with pytest.raises(ValueError, match=rf"{name} must end in \.onnx, .*\. {hint}"):
            load(tmp_path / name)
    with pytest.raises(ValueError, match=r"must be a run folder, or end in .* Did you mean \.onnx"):
        taut.load(tmp_path / "model.onx")
    with pytest.raises(ValueError, match="`any_size` is for images"):
        export(nn.ReLU(), tmp_path / "model.onnx", (3,), any_size=True)
    with pytest.raises(FileNotFoundError, match=r"no file nowhere\.onnx"):
        load("nowhere.onnx")


# The command line.

TINY = Recipe(
    name="tiny",
    dataset="npz",
    input_shape=(1, 6, 6),
    classes=3,
    epochs=1,
    batch_size=8,
    eps=("1/10",),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    labels = np.arange(30) % 3
    images = np.random.default_rng(0).integers(0, 120, (30, 6, 6)) + 60 * labels[:, None, None]
    images = images.clip(0, 255).astype(np.uint8)
    np.savez(folder / "d.npz", x_train=images, y_train=labels, x_test=images[:9], y_test=labels[:9])
    return train(TINY, folder / "run", data_dir=folder / "d.npz").path


def taut_command(capsys, *arguments):
    code = main([str(a) for a in arguments])
    output = capsys.readouterr()
    return code, output.out, output.err


@pytest.mark.parametrize(
    ("to", "name"), [("onnx", "model.onnx"), ("safetensors", "model.safetensors")]
)
def test_a_run_is_exported_and_certified_from_the_file(to, name, trained, capsys, tmp_path):
    folder = tmp_path / to
    code, out, err = taut_command(capsys, "export", trained, "--to", to, "--output", folder)
    assert code == 0, err
    assert "9 test images" in out
    saved = json.loads((folder / "certificate.json").read_text())
    code, out, err = taut_command(capsys, "certify", folder / name)
    assert code == 0, err
    assert f"certificate.json holds for {name}: bound {rounded_up(saved['bound'])}" in out
    assert f"Lipschitz bound in l2: {rounded_up(saved['bound'])}" in out
    found = taut.verify(folder / "certificate.json", folder / "certificate.safetensors")
    assert found.bound == saved["bound"]


def test_a_shrunk_export_has_norm_at_most_one(trained, capsys, tmp_path):
    options = ("--to", "onnx", "--shrink", "--output", tmp_path)
    code, _, err = taut_command(capsys, "export", trained, *options)
    assert code == 0, err
    assert json.loads((tmp_path / "certificate.json").read_text())["bound"] <= 1.0


def test_a_file_changed_after_its_certificate_is_refused(trained, capsys, tmp_path):
    taut_command(capsys, "export", trained, "--to", "onnx", "--output", tmp_path)
    path = tmp_path / "model.onnx"
    content = bytearray(path.read_bytes())
    place = content.rfind(
        onnx.numpy_helper.to_array(onnx.load(path).graph.initializer[0]).tobytes()
    )
    content[place] ^= 1  # the last bit of one number
    path.write_bytes(content)
    code, out, err = taut_command(capsys, "certify", path)
    assert code == 2
    assert "The weights are not the certified ones" in err
    assert "Traceback" not in err + out
    (tmp_path / "certificate.json").unlink()
    code, _, err = taut_command(capsys, "certify", path)  # a file on its own is proven as it is
    assert code == 0, err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("export", "{}/nowhere", "--to", "onnx"), "There is no run folder"),
        (("certify", "{}/recipe.json"), "must end in .onnx"),
        (("certify", "{}/model.safetensors"), "was not written by `taut export`"),
        (("certify", "{}/recipe.json", "--weights", "{}/model.safetensors"), "its own weights"),
    ],
)
def test_wrong_use_is_one_sentence(arguments, words, trained, capsys):
    code, _, err = taut_command(capsys, *(a.replace("{}", str(trained)) for a in arguments))
    assert code == 2
    assert words in err
    assert err.count("\n") == 1
