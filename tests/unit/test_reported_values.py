"""Small nets as users wrote them: the right Lipschitz constant, or why there is none."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import taut
from experiments import _nets as nets
from taut.program import UnprovenError, lipschitz_bound

CIRCULAR = {"padding": 1, "padding_mode": "circular"}


class Forward(nn.Module):
    def __init__(self, forward, **modules):
        super().__init__()
        self.function = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.function(self, x)


class OwnWeights(nn.Module):
    """Flags, asserts, functional calls with own weights, a cast that changes nothing."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(3 * torch.eye(4))
        self.k = nn.Parameter(torch.eye(4).reshape(4, 4, 1, 1))

    def forward(self, x, flag=False):
        assert x.dim() == 2
        if flag:
            x = 9 * x
        x = F.linear(x.float(), self.w) @ self.w.T
        return F.conv2d(x[:, :, None, None], self.k).flatten(1)


def halves(m, x):
    a, b = x.chunk(2, 1)
    return torch.cat([torch.maximum(a, b), torch.minimum(a, b)], 1)


def swapped(m, x):
    a, b = x.chunk(2, 1)
    return torch.cat([b, a], 1)


def coupled(m, x):
    a, b = x.chunk(2, 1)
    return torch.cat((a, F.relu(b)), 1)


def blocks():
    layers = []
    for _ in range(10):
        layers += [taut.nn.Linear(6, 6), Forward(halves)]
    return nn.Sequential(*layers)


KNOWN = {  # model, shape of one input, constant
    "maximum and minimum": (Forward(halves), (4,), 1.0),
    "halves swapped": (Forward(swapped), (4,), 1.0),
    "a coupling": (Forward(coupled), (4,), 1.0),
    "ten layers with MaxMin by hand": (blocks(), (6,), 1.0),
    "own weights": (OwnWeights(), (4,), 9.0),
    "softmax": (nn.Softmax(1), (3,), 0.5),
    "softplus": (nn.Softplus(), (3,), 1.0),
    "gelu of tanh": (nn.GELU("tanh"), (3,), 1.12900),
    "hardswish": (nn.Hardswish(), (3,), 1.5),
    "mish": (nn.Mish(), (3,), 1.08850),
    "sine": (Forward(lambda m, x: torch.sin(x)), (3,), 1.0),
    "a norm": (Forward(lambda m, x: x.norm(dim=1, keepdim=True)), (3,), 1.0),
    "a maximum": (Forward(lambda m, x: x.amax(1)), (3,), 1.0),
    "two maxima": (Forward(lambda m, x: torch.max(*x.chunk(2, 1))), (4,), 1.0),
    "pool of three axes": (nn.MaxPool3d(2), (2, 4, 4, 4), 1.0),
    "average of three axes": (nn.AvgPool3d(2), (2, 4, 4, 4), 8**-0.5),
    "norm of three axes": (nn.BatchNorm3d(2), (2, 3, 3, 3), (1 + 1e-5) ** -0.5),
    "a mean over the image": (Forward(lambda m, x: x.mean((2, 3))), (3, 4, 4), 0.25),
    "a convex sum": (Forward(lambda m, x: 0.3 * x + 0.7 * F.relu(x)), (3,), 1.0),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_constant(name):
    model, shape, constant = KNOWN[name]
    bound = float(lipschitz_bound(model.eval(), shape))
    assert constant * (1 - 1e-5) <= bound <= constant * (1 + 1e-5)


DENSE = {  # affine models: the constant is the norm of the dense operator
    "transposed, three axes": (nn.ConvTranspose3d(2, 3, 2, 2), (2, 2, 3, 2)),
    "bilinear": (nn.Upsample(scale_factor=2, mode="bilinear"), (2, 4, 5)),
    "reflected": (nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(2, 3, 3)), (2, 5, 5)),
    "replicated": (nn.Conv2d(2, 3, 3, padding=1, padding_mode="replicate"), (2, 5, 5)),
    "conv and norm": (nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)), (3, 6, 6)),
    "padded average": (nn.AvgPool2d(3, 2, 1, count_include_pad=False), (2, 7, 7)),
    "adaptive average": (nn.AdaptiveAvgPool2d((3, 2)), (2, 7, 5)),
}  # fmt: skip


@pytest.mark.parametrize("name", DENSE)
def test_constant_of_an_affine_model(name):
    model, shape = DENSE[name]
    nets.settled(model)
    wide = model.double()
    units = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    matrix = (wide(units) - wide(torch.zeros(1, *shape, dtype=torch.float64))).flatten(1)
    norm = torch.linalg.matrix_norm(matrix, 2).item()
    bound = float(lipschitz_bound(wide, shape))
    model.float()
    assert norm * (1 - 1e-12) <= bound <= norm * (1 + 1e-4)


REFUSED = {
    "normalised": (Forward(lambda m, x: F.normalize(x)), (3,), "not Lipschitz at 0"),
    "ConvNeXt": (nets.ConvNeXtBlock(width=4), (4, 8, 8), "it divides by what the data are"),
    "gates": (nn.GLU(1), (4,), "multiplies values that depend on the input"),
    "a step": (Forward(lambda m, x: torch.sign(x)), (3,), "it jumps"),
    "thresholds that overflow": (nn.Softplus(threshold=math.inf), (3,), "threshold"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_sentence(name):
    model, shape, words = REFUSED[name]
    with pytest.raises(UnprovenError, match=words) as caught:
        lipschitz_bound(model.eval(), shape)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("make", [nets.resnet18, nets.MobileNetV2])
def test_large_images(make):
    torch.manual_seed(0)
    bound = lipschitz_bound(nets.settled(make()), (3, 224, 224))
    assert math.isfinite(float(bound))
    assert all(row.excess is None or row.excess < 1.2 for row in bound.layers)


def test_a_squeezed_batch_is_named():
    model = nn.Sequential(nn.Linear(4, 1), Forward(lambda m, x: x.squeeze()))
    with pytest.raises(UnprovenError, match="another shape for a batch of one sample"):
        lipschitz_bound(model, (4,))


def test_a_shape_that_does_not_fit_is_named_with_the_layer():
    model = nn.Sequential(nn.Identity(), nn.BatchNorm2d(3)).eval()
    with pytest.raises(ValueError, match=r"`input_shape` does not fit the model at `1`"):
        lipschitz_bound(model, (3, 4))


@pytest.mark.parametrize("seconds", ["a", -1, math.nan, True])
def test_time_is_a_number(seconds):
    with pytest.raises((ValueError, TypeError), match="seconds"):
        lipschitz_bound(nn.Linear(2, 2), (2,), seconds=seconds)
