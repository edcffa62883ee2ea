"""Frozen models of every exported operation, their files, and other runtimes to run them."""

import itertools
import subprocess
import sys
from functools import partial
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import taut

# The same in every process: the tests draw kernels that start as the identity elsewhere.
DRAWN = partial(taut.BCOP, init="uniform")
Conv2d = partial(taut.nn.Conv2d, parametrization=DRAWN)
PotentialResidual2d = partial(taut.nn.PotentialResidual2d, parametrization=DRAWN)
Sandwich2d = partial(taut.nn.Sandwich2d, parametrization=DRAWN)


class Branches(nn.Module):
    """Residual sums, a layer used twice, functions of torch in the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = Conv2d(4, 4, 3)
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
        nn.Conv2d(6, 6, (2, 3)),
        nn.CircularPad2d((1, 2, 0, 1)),
        nn.Conv2d(6, 3, 3, padding="same", padding_mode="circular"),
        nn.PixelUnshuffle(2),
        nn.AvgPool2d((2, 3)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 3, bias=False),
    )


def sorting() -> nn.Sequential:
    return nn.Sequential(
        Conv2d(1, 7, 4, 2, padding_mode="zeros"),
        taut.nn.MaxMin(),
        taut.nn.GroupSort(3),
        Conv2d(7, 6, 2),
        taut.nn.GroupSort(2),
        taut.nn.IsometricPad2d(1),
        taut.nn.IsometricPad2d((2, 0, 1, 1), "replicate"),
        nn.MaxPool2d(5, 1),
        taut.nn.InvertibleDownsample2d(2),
        nn.Flatten(),
        taut.nn.Linear(96, 5),
        taut.nn.MaxMin(),
        taut.nn.GroupSort(4),
        taut.nn.Linear(5, 3),
    )


def series() -> nn.Sequential:
    return nn.Sequential(
        taut.nn.SOC2d(2, 6, 3, stride=2, degree=4),
        taut.nn.MaxMin(),
        taut.nn.SOC2d(6, 4, 3, groups=2, padding_mode="circular", bias=False),
        nn.Flatten(),
        taut.nn.Linear(36, 3),
    )


def activations() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 5, 2),
        *(taut.nn.Abs(0.4), taut.nn.HouseHolder(5, 2, 2), taut.nn.LinearSpline(5, 5)),
        *(taut.nn.NActivation(3, dim=-1), taut.nn.FullSort(2), nn.PReLU(5), nn.Flatten()),
        *(taut.nn.HouseHolder(60, 1, 7), taut.nn.LinearSpline(60, 3, init="relu")),
        *(taut.nn.NActivation(60), taut.nn.Abs(), taut.nn.FullSort(), nn.Linear(60, 3), nn.PReLU()),
    )


def shifting() -> nn.Sequential:
    return nn.Sequential(
        taut.nn.PositionalEncoding((5, 4)),
        Conv2d(1, 8, 3),
        taut.nn.ShiftMix2d(8, 12),
        taut.nn.MaxMin(),
        taut.nn.ShiftMix2d(12, 6, padding_mode="zeros"),
        nn.Flatten(),
        taut.nn.Linear(120, 3),
    )


def residual() -> nn.Sequential:
    """Layers that are one operation in programs, and several in files."""
    return nn.Sequential(
        taut.nn.PotentialResidual2d(2, 4, parametrization=taut.SLL),
        Sandwich2d(2, 4, hidden_channels=3, stride=2, activation=nn.LeakyReLU(0.5)),
        PotentialResidual2d(4, 3, 2, padding_mode="zeros", bias=False),
        Sandwich2d(4, 2, hidden_channels=3, stride=(1, 2), up=True, padding_mode="zeros"),
        PotentialResidual2d(2, 2, 4, 2, groups=2, activation=nn.Identity()),
        nn.Flatten(),
        taut.nn.Linear(32, 3),
    )


NETS = {
    "paper": (lambda: taut.models.Small().build((1, 9, 6), 3), (1, 9, 6)),
    "plain": (plain, (2, 10, 10)),
    "sorting": (sorting, (1, 7, 8)),
    "activations": (activations, (1, 5, 4)),
    "branches": (lambda: nn.Sequential(Conv2d(1, 4, 2), Branches()), (1, 5, 4)),
    "series": (series, (2, 6, 5)),
    "shifting": (shifting, (1, 5, 4)),
    "residual": (residual, (2, 7, 4)),
    "bare": (lambda: taut.nn.Linear(4, 2), (4,)),
}
PROGRAMS = """
import sys, torch
from pathlib import Path
from safetensors.torch import save_file
from taut.export import export
from exported_nets import NETS, frozen, inputs, pooled
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
