"""Exported files: the same function in other runtimes, read back and proven from the file alone."""

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

import taut
from taut.cli import main
from taut.deploy import export, load
from taut.deploy.describe import plan_of
from taut.deploy.from_onnx import plan_of_onnx
from taut.deploy.from_torch import plan_of_program
from taut.deploy.plain import plan_of_tensors
from taut.deploy.plan import PlainModel, Plan, Step
from taut.models import ModelConfig
from taut.training import Recipe, train


class Branches(nn.Module):
    """Residual sums, a layer used twice, functions of torch in the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = taut.nn.Conv2d(4, 4, 3)
        self.side = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = 0.25 * x + self.conv(self.conv(x)) * 0.75
        y = torch.cat([F.relu(y), self.side(y), torch.relu(x)], dim=1)
        return y.relu().flatten(1)


def plain() -> nn.Sequential:
    """Layers of torch, with what their constructors can ask for."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, 1, (2, 1), dilation=(2, 1), groups=2),
        nn.BatchNorm2d(4),
        nn.Dropout(),
        nn.ReLU(),
        nn.Conv2d(4, 6, (2, 3), (1, 2), "valid", bias=False),
        nn.MaxPool2d(2, 1),
        nn.ZeroPad2d((2, 0, 2, 2)),
        nn.Identity(),
        nn.Conv2d(6, 3, 3, padding="same", padding_mode="circular"),
        nn.PixelUnshuffle(2),
        nn.AvgPool2d((2, 3)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 3, bias=False),
    )


def sorting() -> nn.Sequential:
    return nn.Sequential(
        taut.nn.Conv2d(1, 7, 4, 2, padding_mode="zeros"),
        taut.nn.MaxMin(),
        taut.nn.GroupSort(3),
        taut.nn.Conv2d(7, 6, 2),
        taut.nn.GroupSort(2),
        taut.nn.InvertibleDownsample2d(2),
        nn.Flatten(),
        taut.nn.Linear(96, 5),
        taut.nn.MaxMin(),
        taut.nn.GroupSort(4),
        taut.nn.Linear(5, 3),
    )


NETS = {
    "paper": (lambda: taut.models.small((1, 9, 6), 3), (1, 9, 6)),
    "plain": (plain, (2, 10, 11)),
    "sorting": (sorting, (1, 7, 8)),
    "branches": (lambda: nn.Sequential(taut.nn.Conv2d(1, 4, 2), Branches()), (1, 5, 4)),
    "bare": (lambda: taut.nn.Linear(4, 2), (4,)),
}
PROGRAMS = """
import sys, torch
from pathlib import Path
from safetensors.torch import save_file
from taut.deploy import export
from test_export import NETS, frozen, inputs, pooled
folder = Path(sys.argv[1])
torch.set_num_threads(1)
for name, (_, shape) in NETS.items():
    export(frozen(name), folder / f"{name}.pt2", shape)
    y = torch.export.load(folder / f"{name}.pt2").module()(inputs(shape))
    save_file({"y": y}, folder / f"{name}.out")
export(pooled(), folder / "any.pt2", (1, 8, 8), any_size=True)
save_file({"y": torch.export.load(folder / "any.pt2").module()(inputs((1, 16, 12)))},
          folder / "any.out")
"""
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


def frozen(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = NETS[name][0]().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
    return taut.freeze(model)


def pooled() -> nn.Sequential:
    """A model that takes images of any size."""
    layers = itertools.takewhile(lambda m: not isinstance(m, nn.Flatten), frozen("sorting"))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))


def inputs(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(5, *shape, generator=torch.Generator().manual_seed(1))


def run(code: str, *arguments: str | Path) -> None:
    """In a process of its own: torch.export cannot see through the shape checks of the tests."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    assert done.returncode == 0, done.stderr


def same(y: Tensor, expected: Tensor) -> bool:
    """To rounding: kernels choose the order of their sums by where a tensor lies in memory."""
    atol = 1e-6 if y.dtype == torch.float32 else 1e-14
    return y.dtype == expected.dtype and torch.allclose(y, expected, rtol=0, atol=atol)


def in_onnxruntime(path: Path, x: Tensor) -> Tensor:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


_WRITTEN: list[Path] = []


def program_files(factory: pytest.TempPathFactory) -> Path:
    """Once in a session: the import of torch.export takes longer than its work."""
    if not _WRITTEN:
        _WRITTEN.append(factory.mktemp("programs"))
        run(PROGRAMS, _WRITTEN[0])
    return _WRITTEN[0]


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
def test_plans_survive_every_format(name, tmp_path, programs):
    """Names, arguments and bits of every tensor; only what a format fixes may differ."""
    shape = NETS[name][1]
    plan = plan_of(frozen(name), shape)
    found = {}
    for suffix, read in ((".onnx", plan_of_onnx), (".safetensors", plan_of_tensors)):
        export(frozen(name), tmp_path / f"model{suffix}", shape)
        found[suffix] = read(tmp_path / f"model{suffix}")
    assert found[".safetensors"].steps == plan.steps
    program = plan_of_program(programs / f"{name}.pt2")
    if name == "plain":  # ONNX keeps the constant of a batch norm in float32
        keys = [(step.name, step.kind, step.inputs) for step in plan.steps]
        assert [(step.name, step.kind, step.inputs) for step in found[".onnx"].steps] == keys
    else:
        assert found[".onnx"].steps == plan.steps
    if name in ("plain", "bare"):
        assert program.steps == plan.steps
    for other in (*found.values(), program):
        for theirs, mine in zip(_tensors(other), _tensors(plan), strict=True):
            assert torch.equal(theirs, mine)


def _tensors(plan: Plan) -> list[Tensor]:
    return [plan.tensors[s.tensors[role]] for s in plan.steps for role in sorted(s.tensors)]


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


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (nn.Sequential(nn.Tanh()), (3,), "`0` (Tanh) cannot be exported; the layers that can"),
        (nn.Sequential(nn.Dropout()), (3,), "`0` (Dropout) cannot be exported"),
        (nn.Sequential(nn.Identity()).eval(), (3,), "must hold layers"),
        (taut.nn.Linear(2, 2), (2,), "`model` (Linear) cannot be exported; the layers that can"),
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), (1, 4, 4), "zeros or circular"),
        (nn.Conv2d(1, 1, 2, padding="same"), (1, 4, 4), "the same on both sides"),
        (nn.Sequential(nn.AvgPool2d(2, padding=1)), (1, 4, 4), "the default padding"),
        (nn.Sequential(nn.Linear(2, 2)), (3, 2), "(its input must be flat)"),
        (nn.Sequential(nn.Linear(2, 2)), (3,), "does not fit an input of shape (3,)"),
        (nn.Sequential(nn.BatchNorm2d(1)), (1, 2, 2), "it must be in eval mode"),
        (nn.Sequential(nn.Flatten(2)), (1, 2, 2), "all but the batch"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(2)), (1, 2, 2), "`output_size` must be 1"),
    ],
)
def test_what_cannot_be_exported_is_refused_by_name(model, shape, message, tmp_path):
    with pytest.raises(ValueError, match=re.escape(message)):
        export(model, tmp_path / "model.safetensors", shape)


def test_unknown_endings_and_sizes_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`path` must end in .onnx, .pt2, .safetensors; got"):
        export(nn.ReLU(), tmp_path / "model.pth", (3,))
    with pytest.raises(ValueError, match="`any_size` is for images"):
        export(nn.ReLU(), tmp_path / "model.onnx", (3,), any_size=True)
    with pytest.raises(FileNotFoundError, match=r"no file nowhere\.onnx"):
        load("nowhere.onnx")


def test_a_plan_that_fits_nothing_is_refused():
    steps = (Step("add1", "Add", ("input", "relu1")), Step("relu1", "ReLU", ("input",)))
    with pytest.raises(ValueError, match="`add1`"):
        PlainModel(Plan(steps, {}, "input", (3,)))


# The command line.

TINY = Recipe(
    name="tiny",
    dataset="npz",
    model=ModelConfig("small", input_shape=(1, 6, 6), classes=3),
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
    assert f"certificate.json holds for {name}: bound {saved['bound']:.9g}" in out
    assert f"Lipschitz bound in l2: {saved['bound']:.9g}" in out
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
    assert "The weights are not the ones that were certified" in err
    assert "Traceback" not in err + out
    (tmp_path / "certificate.json").unlink()
    code, _, err = taut_command(capsys, "certify", path)  # a file on its own is proven as it is
    assert code == 0, err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("export", "{}/nowhere", "--to", "onnx"), "is no run folder"),
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
