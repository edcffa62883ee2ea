"""Compiled models compute what they compute without a compiler, values and gradients."""

import subprocess
import sys

import pytest
import torch

from taut.nn._gathered import Gathered
from taut.nn._padding import Pads, pad
from taut.parametrizations import methods

CASES = [
    *("small", "large", "wide", "soc", "shift_mix", "potential", "sandwich", "transposed"),
    *("volume", "signal", "strided"),
    *methods(),
]

COMPILED = """
import sys, torch, taut
from torch import nn

torch.manual_seed(0)
backend, case, format = sys.argv[1:]
channels_last = format == "channels_last"

def net(case):
    maxmin, flatten = taut.nn.MaxMin(), nn.Flatten()
    if case in ("small", "large"):
        return getattr(taut.models, case.title())().build((1, 9, 10), 3), (1, 9, 10)
    if case == "wide":
        convs = taut.nn.Conv2d(64, 64, 3), taut.nn.Conv2d(64, 8, 3)
        return nn.Sequential(convs[0], maxmin, convs[1]), (64, 8, 8)
    if case == "soc":
        return nn.Sequential(taut.nn.SOC2d(4, 6, 3), maxmin), (4, 6, 6)
    if case == "shift_mix":
        return taut.nn.ShiftMix2d(8, 8), (8, 6, 6)
    if case == "potential":
        return taut.nn.PotentialResidual2d(4, 4, 3, parametrization=taut.SLL), (4, 6, 6)
    if case == "sandwich":
        return taut.nn.Sandwich2d(4, 4, 3), (4, 6, 6)
    if case == "transposed":
        return nn.Sequential(taut.nn.ConvTranspose2d(8, 4, 3, 2), maxmin), (8, 4, 4)
    if case == "volume":
        return nn.Sequential(taut.nn.Conv3d(2, 4, 3), maxmin), (2, 3, 4, 5)
    if case == "signal":
        return nn.Sequential(taut.nn.Conv1d(2, 5, 4, padding=(1,)), maxmin), (2, 7)
    if case == "strided":
        return nn.Sequential(taut.nn.Conv2d(3, 8, 4, 2), maxmin, taut.nn.Conv2d(8, 8, 2)), (3, 7, 6)
    method = getattr(taut, case)
    if method.matrices_only:
        return taut.nn.Linear(6, 4, parametrization=method), (6,)
    conv = taut.nn.Conv2d(4, 8, 3, parametrization=method)
    return nn.Sequential(conv, maxmin, taut.nn.Conv2d(8, 4, 3, parametrization=method)), (4, 6, 6)

def agree(one, other, tolerance):
    for a, b in zip(one, other, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert (a - b).abs().max() <= tolerance * (1 + b.abs().max()), (a - b).abs().max()

def gradients(function, model, x):
    x = x.clone().requires_grad_()
    y = function(x)
    return [y, *torch.autograd.grad((y * y.detach().cos()).sum(), [x, *model.parameters()])]

model, shape = net(case)
x = torch.rand(4, *shape)
if channels_last and x.ndim == 4:
    model = model.to(memory_format=torch.channels_last)
    x = x.contiguous(memory_format=torch.channels_last)
explained = torch._dynamo.explain(model)(x)
assert (explained.graph_count, explained.graph_break_count) == (1, 0), explained.break_reasons
torch._dynamo.reset()
compiled = torch.compile(model, fullgraph=True, backend=backend)
for n in (4, 3, 5):  # from the second size on with any size of batch
    part = torch.cat([x, x])[:n]
    agree(gradients(compiled, model, part), gradients(model, model, part), 1e-4)
raws = list(model.parameters())
for raw in raws:
    raw.grad = None
optimiser = torch.optim.Adam(raws, lr=1e-3)
compiled(x).square().sum().backward()
optimiser.step()  # a compiled model follows every step
agree([compiled(x)], [model(x)], 2e-5)
for evaluated in (model.eval(), taut.freeze(model, shape)):
    torch._dynamo.reset()
    compiled = torch.compile(evaluated, fullgraph=True, backend=backend)
    with torch.no_grad(), taut.cached():
        for n in (4, 3, 5):
            part = torch.cat([x, x])[:n]
            agree([compiled(part)], [evaluated(part)], 1e-5)
"""


def run(*arguments: str) -> None:
    """In a process of its own: torch.compile cannot see through the shape checks of the tests."""
    command = [sys.executable, "-c", COMPILED, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_layer_in_one_graph(case):
    run("aot_eager", case, "contiguous")


def test_convolutions_in_one_graph():
    run("aot_eager", "signal", "contiguous")


@pytest.mark.slow
@pytest.mark.parametrize("case", ["small", "large", "wide", "soc", "shift_mix", "potential", "AOL"])
@pytest.mark.parametrize("format", ["contiguous", "channels_last"])
def test_compiled_by_inductor(case, format):
    run("inductor", case, format)


PADS = [
    ((5,), (2,), (1,)),
    ((4,), (4,), (4,)),
    ((4, 6), (1, 1), (1, 1)),
    ((4, 6), (0, 3), (2, 0)),
    ((1, 2), (1, 0), (0, 2)),
    ((3, 2, 4), (1, 2, 0), (3, 0, 1)),
]


@pytest.mark.parametrize(("size", "left", "right"), PADS)
def test_gathered_padding_is_circular_padding(size, left, right):
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    expected = pad(x, Pads((0,) * len(size), left, right), "circular")
    found = Gathered.apply(x, left, right)
    assert torch.equal(found, expected)
    out = torch.randn_like(found)
    (by_gather,) = torch.autograd.grad(found, x, out, create_graph=True)
    (by_pad,) = torch.autograd.grad(expected, x, out)
    assert torch.allclose(by_gather, by_pad)
    assert torch.autograd.gradcheck(lambda x: Gathered.apply(x, left, right), x)
    assert torch.autograd.gradgradcheck(lambda x: Gathered.apply(x, left, right), x)
    mapped = torch.func.vmap(lambda x: Gathered.apply(x, left, right))(x)
    assert torch.equal(mapped, expected)
