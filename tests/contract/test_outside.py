"""One of each kind from a package outside the tree: written in one file, used by every step."""

import json
import sys

import numpy as np
import pytest
import torch

import taut
from taut.cli import main
from taut.export import export, load

PACKAGE = '''
"""A kernel method, a spectral method, an activation, a loss, a model, an attack and a layer."""

from dataclasses import dataclass

import torch
from torch import nn

from taut.attacks import AbstractAttack
from taut.linalg.matrix import MatrixOperator
from taut.losses import AbstractLoss
from taut.models import AbstractModel
from taut.nn import Conv2d, Linear
from taut.parametrizations import AbstractParametrization, AbstractSpectral
from taut.parametrizations import kernel_symbol, map_symbol
from taut.program import AbstractOp, op


class Rescaled(AbstractParametrization):
    """The raw kernel over a bound of its norm: the root of the product of its absolute sums."""

    guarantee = "lipschitz"
    reference = "here"

    def raw_shapes(self):
        narrow, wide = sorted((self.out_channels, self.in_channels * self.taps))
        return {"raw": (wide, narrow)}

    @property
    def taps(self):
        return torch.Size(self.kernel_size).numel()

    def weight(self):
        flat = self.raw if self.raw.shape[0] == self.out_channels else self.raw.T
        kernel = flat.reshape(self.out_channels, self.in_channels, *self.kernel_size)
        flat = kernel.flatten(1).abs()
        rows = flat.sum(1).max()
        columns = kernel.abs().reshape(*kernel.shape[:2], -1).sum((0, 2)).max()
        return kernel / (rows * columns).sqrt()


class Polar(AbstractSpectral):
    """The polar factor of the symbol of a raw kernel, at each frequency."""

    guarantee = "orthogonal"
    reference = "here"

    def raw_shapes(self):
        sides = sorted((self.out_channels, self.in_channels), reverse=True)
        return {"raw": tuple(sides)}

    def symbol(self, size):
        raw = self.raw if self.raw.shape[0] == self.out_channels else self.raw.T
        kernel = raw.reshape(self.out_channels, self.in_channels, *[1] * len(size))
        return map_symbol(self.polar, kernel_symbol(kernel, size), size)

    @staticmethod
    def polar(symbol):
        u, _, vh = torch.linalg.svd(symbol, full_matrices=False)
        return u @ vh


class Folded(nn.Module):
    """|x| minus a number: slopes of modulus 1."""

    def __init__(self, shift=0.25):
        super().__init__()
        self.shift = shift

    def forward(self, x):
        return x.abs() - self.shift


@op(Folded)
class FoldedOp(AbstractOp):
    proof = "slopes of modulus 1"

    def gains(self, site):
        return (1.0,)

    def rounding(self, site):
        from taut.program import Rounding

        entries = torch.Size(site.shape).numel()
        return Rounding(1, 1.0, abs(site.args["shift"]) * entries**0.5 * 1.01)


class Mirror(nn.Module):
    """A layer kind of its own: a fixed orthogonal matrix, the features back to front."""

    def forward(self, x):
        return x.flip(-1)


@op(Mirror)
class MirrorOp(AbstractOp):
    affine = True
    exact = True

    def operator(self, site):
        return MatrixOperator(torch.eye(site.shape[-1]).flip(0))


@dataclass(frozen=True)
class Squared(AbstractLoss):
    """The squared distance of the logits to a multiple of the label's unit vector."""

    kind = "squared"
    scale: float = 2.0

    def value(self, inputs):
        target = nn.functional.one_hot(inputs.labels, inputs.logits.shape[1]) * self.scale
        return (inputs.logits - target).square().sum(1).mean()


@dataclass(frozen=True)
class Net(AbstractModel):
    kind = "net"
    width: int = 8

    def build(self, input_shape, classes, *, parametrization, dense=None, device=None, dtype=None):
        options = {"device": device, "dtype": dtype}
        channels, rows, columns = input_shape
        features = self.width * rows * columns
        return nn.Sequential(
            Conv2d(channels, self.width, 3, parametrization=parametrization, **options), Folded(),
            nn.Flatten(), Mirror(), Linear(features, classes, **options),
        )


@dataclass(frozen=True)
class Straight(AbstractAttack):
    """One step along the gradient, half as long as is allowed."""

    kind = "straight"

    def perturb(self, objective, images, labels, radius):
        _, gradient = objective.slope(images, labels)
        unit = gradient / gradient.flatten(1).norm(dim=1).clamp(min=1e-12).reshape(-1, 1, 1, 1)
        step = 0.5 * radius.reshape(-1, 1, 1, 1).to(images.dtype)
        return (images + step * unit).clamp(0, 1)
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outside")
    (folder / "mine.py").write_text(PACKAGE)
    labels = np.arange(60) % 3
    images = np.random.default_rng(0).integers(0, 120, (60, 6, 6)) + 60 * labels[:, None, None]
    images = images.clip(0, 255).astype(np.uint8)
    np.savez(
        folder / "d.npz", x_train=images, y_train=labels, x_test=images[:12], y_test=labels[:12]
    )
    return folder


@pytest.fixture(scope="module")
def mine(folder):
    sys.path.insert(0, str(folder))
    import mine

    yield mine
    sys.path.remove(str(folder))


def command(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    assert code == 0, output.err
    return output.out


def test_a_recipe_of_own_classes_is_trained_certified_and_exported(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    options = ("--model", "mine.py:Net", "--loss", "mine.py:Squared")
    options += ("--parametrization", "mine.py:Rescaled", "--epochs", "3", "--run", folder / "run")
    options += ("--input-shape", "1", "6", "6", "--classes", "3")
    command(
        capsys, "train", "mnist-small", "--dataset", "npz", "--data-dir", folder / "d.npz", *options
    )
    (folder / "mine.py").unlink()  # the run folder has what it needs
    command(capsys, "certify", folder / "run", "--eps", "0.01")
    certificate = json.loads((folder / "run" / "certificate.json").read_text())
    assert certificate["bound"] <= 1 + 1e-6
    assert [node["op"] for node in certificate["graph"]["nodes"]][1] == "custom.Folded"
    command(capsys, "export", folder / "run", "--to", "onnx")
    (folder / "mine.py").write_text(PACKAGE)


@pytest.mark.parametrize("method", ["Rescaled", "Polar"])
def test_layers_of_own_methods_train_bound_and_certify(method, mine):
    torch.manual_seed(0)
    model = mine.Net().build((1, 6, 6), 3, parametrization=getattr(mine, method))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    x, y = torch.rand(20, 1, 6, 6), torch.arange(20) % 3
    losses = []
    for step in range(1, 20):
        optimiser.zero_grad()
        loss = mine.Squared()(model(x), y)
        loss.backward()
        optimiser.step()
        taut.after_step(model, step)
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert float(taut.lipschitz_bound(model, (1, 6, 6))) <= 1 + 1e-5
    for arithmetic in ("float64", "float32", "real"):
        result = taut.certify(model.eval(), x, model(x).argmax(1), arithmetic=arithmetic)
        assert (result.radius > 0).any() or arithmetic == "float32"
    attacked = taut.attack(model, x, model(x).argmax(1), 0.2, method=mine.Straight())
    assert attacked.distance.shape == (20,)
    assert (attacked.distance[attacked.success] <= 0.2).all()


@pytest.mark.parametrize("suffix", [".onnx", ".safetensors", ".pt2"])
def test_own_operations_are_frozen_and_exported(suffix, mine, tmp_path):
    torch.manual_seed(0)
    model = mine.Net().build((1, 6, 6), 3, parametrization=mine.Rescaled).eval()
    frozen = taut.freeze(model)
    assert type(frozen[0]) is taut.nn.CircularConv2d
    x = torch.rand(4, 1, 6, 6)
    exported = export(frozen, tmp_path / f"model{suffix}", (1, 6, 6))
    assert torch.allclose(exported.model(x), model(x), atol=1e-6)
    bound = float(taut.lipschitz_bound(*load(tmp_path / f"model{suffix}")))
    assert bound == pytest.approx(float(taut.lipschitz_bound(model, (1, 6, 6))), rel=1e-9)
