"""Functions of each entry that are written out step by step have the bound of the whole."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import taut
from taut.export import export, load
from taut.program import UnprovenError, replay, trace

ROOT, TANH = math.sqrt(2), math.sqrt(2 / math.pi)
SLOPES = torch.tensor([0.5, -2.0, 0.0]).double()


class Written(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.register_buffer("a", SLOPES)

    def forward(self, x):
        return self.function(x, self.a)


def log1p_exp(x):
    return torch.log1p(torch.exp(x))


WRITTEN = {
    "silu": ("silu", lambda x, _: x * torch.sigmoid(x)),
    "silu swapped": ("silu", lambda x, _: x.sigmoid() * x),
    "quick gelu": ("gated", lambda x, _: x * torch.sigmoid(1.702 * x)),
    "gelu": ("gated", lambda x, _: 0.5 * x * (1 + torch.erf(x / ROOT))),
    "gelu times": ("gated", lambda x, _: x * (torch.erf(x * 0.7071067811865476) * 0.5 + 0.5)),
    "gelu tanh": (
        "gated", lambda x, _: 0.5 * x * (1 + torch.tanh(TANH * (x + 0.044715 * x**3))),
    ),
    "gelu tanh cubed": (
        "gated", lambda x, _: x * (1 + torch.tanh(TANH * (x + (x * x * x) * 0.044715))) * 0.5,
    ),
    "negative gate": ("gated", lambda x, _: x * (1 - 0.25 * torch.tanh(-3 * x))),
    "mish": ("mish", lambda x, _: x * torch.tanh(F.softplus(x))),
    "mish by a choice": (
        "mish", lambda x, _: x * torch.tanh(torch.where(x > 20, x, log1p_exp(x))),
    ),
    "softsign": ("softsign", lambda x, _: x / (1 + x.abs())),
    "tanhshrink": ("tanhshrink", lambda x, _: x - torch.tanh(x)),
    "hardswish": ("hardswish", lambda x, _: x * F.relu6(x + 3) / 6),
    "hardswish, clamped twice": (
        "hardswish", lambda x, _: x * (x + 3).clamp(min=0).clamp(max=6) / 6,
    ),
    "hardswish by hardsigmoid": ("hardswish", lambda x, _: x * (F.relu6(x + 3) / 6)),
    "hardsigmoid": ("hardsigmoid", lambda x, _: F.hardtanh(x + 3, 0, 6) / 6),
    "softplus": ("softplus", lambda x, _: torch.where(x > 20, x, log1p_exp(x))),
    "softplus, other way": ("softplus", lambda x, _: torch.where(x <= 20, log1p_exp(x), x)),
    "softplus with beta": (
        "softplus", lambda x, _: torch.where(3 * x > 20, x, log1p_exp(3 * x) / 3),
    ),
    "logsigmoid": ("logsigmoid", lambda x, _: torch.sigmoid(x).log()),
    "logsigmoid by minimum": (
        "logsigmoid",
        lambda x, _: torch.minimum(torch.zeros(()).double(), x) - log1p_exp(-x.abs()),
    ),
    "elu": ("elu", lambda x, _: torch.where(x > 0, x, 1.5 * torch.expm1(x))),
    "celu": ("celu", lambda x, _: torch.where(x > 0, x, torch.expm1(x / 0.5) * 0.5)),
    "leaky": ("leaky_relu", lambda x, _: torch.where(x > 0, x, -1.5 * x)),
    "leaky, other way": ("leaky_relu", lambda x, _: torch.where(x < 0, 0.1 * x, x)),
    "prelu": ("prelu", lambda x, a: torch.where(x > 0, x, a * x)),
    "relu by a mask": ("clamp", lambda x, _: x * (x > 0)),
    "threshold": ("clamp", lambda x, _: torch.where(x <= 0.5, 0.5, x)),
    "upper threshold": ("clamp", lambda x, _: torch.where(x >= 0.5, 0.5, x)),
    "softshrink": (
        "softshrink",
        lambda x, _: torch.where(x.abs() > 0.5, x - 0.5 * torch.sign(x), 0 * x),
    ),
    "softshrink in two": (
        "softshrink",
        lambda x, _: torch.where(x > 0.5, x - 0.5, 0.0) + torch.where(x < -0.5, x + 0.5, 0.0),
    ),
}  # fmt: skip


def steepest(model):
    """The largest slope on a fine grid, from derivatives that torch computes."""
    grid = torch.cat([torch.linspace(-9, 9, 60001), torch.linspace(-30, 30, 601)]).double()
    x = grid[:, None].expand(-1, 3).clone().requires_grad_()
    (slope,) = torch.autograd.grad(model(x).sum(), x)
    return slope.abs().nan_to_num(0.0).max().item()


@pytest.mark.parametrize("name", WRITTEN)
def test_a_function_written_out_is_the_function(name):
    kind, function = WRITTEN[name]
    model = Written(function).double()
    program = trace(model, (3,))
    assert [node.op for node in program.nodes if node.op != "scale"] == [kind]
    x = torch.linspace(-12, 12, 999).double().reshape(-1, 3)
    assert torch.allclose(replay(program, x), model(x), rtol=1e-12, atol=3e-9)
    bound, slope = float(taut.lipschitz_bound(model, (3,))), steepest(model)
    assert slope * (1 - 1e-9) <= bound <= slope * (1 + 2e-4)


def test_without_the_pass_the_steps_have_no_bound():
    with pytest.raises(UnprovenError, match="two signals"):
        taut.lipschitz_bound(Written(WRITTEN["silu"][1]).double(), (3,), passes=())


@pytest.mark.parametrize(
    ("name", "ending"),
    [("gelu", ".pt2"), ("gelu", ".onnx"), ("gelu tanh", ".onnx"), ("quick gelu", ".safetensors")],
)
def test_a_written_gate_goes_through_files(name, ending, tmp_path):
    model = nn.Sequential(Written(WRITTEN[name][1]), nn.Linear(3, 2)).float()
    if ending == ".onnx":  # whose numbers are those of float32
        model[0].function = {
            "gelu": lambda x, _: 0.5 * x * (1 + torch.erf(x / 1.4142135381698608)),
            "gelu tanh": lambda x, _: 0.5 * x * (
                1 + torch.tanh(0.7978845834732056 * (x + 0.044714998453855515 * x**3))
            ),
            "quick gelu": lambda x, _: x * torch.sigmoid(1.7020000219345093 * x),
        }[name]  # fmt: skip
    export(model, tmp_path / f"model{ending}", (3,))
    again = load(tmp_path / f"model{ending}")
    x = torch.randn(5, 3)
    assert torch.allclose(again.model(x), model(x), atol=1e-6)
    bounds = [float(taut.lipschitz_bound(m, (3,))) for m in (model, again.model)]
    assert bounds[0] == pytest.approx(bounds[1], rel=1e-9)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, _: x * torch.sigmoid(x.flip(1)),
        lambda x, _: x * torch.sigmoid(x + 1),
        lambda x, _: (x + 1) * torch.sigmoid(x),
        lambda x, _: x * torch.tanh(TANH * (x + 0.05 * x**3)),
        lambda x, _: x * torch.sigmoid(x + 0.044715 * x**3),
        lambda x, _: x * torch.tanh(x.flip(1) + 0.044715 * x**3),
        lambda x, _: x * x,
        lambda x, _: x**3,
        lambda x, _: x / (2 + x.abs()),
        lambda x, _: x / (1 - x.abs()),
        lambda x, _: x / (1 + x.flip(1).abs()),
        lambda x, _: x / (1 + 2 * x.abs()),
        lambda x, _: torch.where(x > 0.1, x, 0.5 * x),
        lambda x, _: torch.where(x > 0, x.flip(1), 0.5 * x),
        lambda x, _: torch.where(x.flip(1) > 0, x, 0.5 * x),
        lambda x, a: torch.where(x > 0.1, x, a * x),
        lambda x, _: torch.where(x > 0.5, x, 0.4),
        lambda x, _: torch.where(x > 0.5, 0.5, 2 * x),
        lambda x, _: torch.where(x > 19, x, log1p_exp(x)),
        lambda x, _: torch.where(x > 20, x, log1p_exp(2 * x)),
        lambda x, _: torch.where(2 * x > 20, x, log1p_exp(2 * x) / 3),
        lambda x, _: torch.where(x > 0, x, torch.expm1(x / 0.5) * 0.4),
        lambda x, _: torch.where(x.abs() > 0.5, x - 0.4 * torch.sign(x), 0 * x),
        lambda x, _: torch.where(x.abs() > 0.5, x, 0.0),
        lambda x, _: torch.where(x > 0.5, x - 0.5, 0.0) + torch.where(x < -0.4, x + 0.4, 0.1),
        lambda x, _: x * F.relu6(x + 2) / 6,
        lambda x, _: torch.where(x > x.flip(1), x, -x),
        lambda x, _: x * (x > 1),
        lambda x, _: torch.log(torch.sigmoid(x) + 1),
        lambda x, _: torch.exp(x),
    ],
)  # fmt: skip
def test_what_only_looks_like_them_is_refused(function):
    with pytest.raises(UnprovenError, match="has no proven bound") as caught:
        taut.lipschitz_bound(Written(function).double(), (3,))
    assert "\n" not in str(caught.value)


def test_a_slope_for_each_channel_is_that_of_the_channel():
    """Images: a factor along rows is no PReLU."""
    a = SLOPES.reshape(3, 1, 1)
    model = Written(lambda x, _: torch.where(x > 0, x, a * x))
    model.register_buffer("b", a)
    model.function = lambda x, _: torch.where(x > 0, x, model.b * x)
    x = torch.randn(4, 3, 2, 2).double()
    program = trace(model, (3, 2, 2))
    assert [node.op for node in program.nodes] == ["prelu"]
    assert torch.equal(replay(program, x), model(x))
    assert float(taut.lipschitz_bound(model, (3, 2, 2))) == 2.0
    model.b = a.reshape(1, 3, 1)
    with pytest.raises(UnprovenError, match="chooses"):
        taut.lipschitz_bound(model, (3, 3, 2))
