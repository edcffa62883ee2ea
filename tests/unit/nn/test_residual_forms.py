"""Residual blocks around any module: bounds follow from the module, Jacobians stay within them."""

import copy
from typing import Any, cast

import jaxtyping
import pytest
import torch
from torch import nn

import taut
from oracles import dense_operator
from proven import assert_certified, assert_files_agree, jacobians
from taut.nn import ConcatResidual, ConvexResidual, ReZeroResidual, SplitResidual, Times

SHAPE = (4, 3, 3)


def core(channels=4, *, gain=1.0):
    """Orthogonal, but not linear."""
    conv = taut.nn.Conv2d(channels, channels, 3, gain=gain)
    return nn.Sequential(conv, taut.nn.MaxMin(), taut.nn.Conv2d(channels, channels, 2))


FORMS = {
    "convex": lambda **k: ConvexResidual(core(**k)),
    "concat": lambda **k: ConcatResidual(core(**k)),
    "rezero": lambda **k: ReZeroResidual(core(**k)),
    "split": lambda **k: SplitResidual(core(2, **k)),
}
ISOMETRIC = ("concat", "split")
RAWS = {
    "fresh": lambda t: t,
    "Gaussian": torch.randn_like,
    "large": lambda t: 1e6 * torch.randn_like(t),
    "tiny": lambda t: 1e-6 * torch.randn_like(t),
}


def made(name, raws="fresh", **options):
    torch.manual_seed(0)
    block = FORMS[name](**options)
    with torch.no_grad():
        for key, parameter in block.named_parameters():
            if key in ("join.raw", "alpha"):
                parameter.copy_(RAWS[raws](parameter))
    return block


@pytest.fixture(params=FORMS)
def name(request):
    return request.param


@pytest.mark.parametrize("raws", RAWS)
def test_jacobians_stay_within_one(name, raws):
    block = made(name, raws).double()
    sigma = jacobians(block, SHAPE)
    assert sigma.max() <= 1 + 1e-9
    if name in ISOMETRIC:
        assert sigma.min() >= 1 - 1e-9
    single = made(name, raws)
    assert jacobians(copy.deepcopy(single).double(), SHAPE).max() <= 1 + 3e-6
    assert float(taut.lipschitz_bound(block, SHAPE)) <= 1 + 1e-9
    assert float(taut.lipschitz_bound(single, SHAPE)) <= 1 + 3e-6


def test_values(name):
    block = made(name, "Gaussian").double()
    x = torch.randn(2, *SHAPE, dtype=torch.float64)
    if name == "convex":
        a = torch.softmax(block.join.raw, 0)[0]
        expected = a * x + (1 - a) * block.f(x)
    elif name == "concat":
        a = torch.softmax(block.join.raw, 0)[0]
        t = torch.acos(a.sqrt())
        expected = torch.cat([torch.cos(t) * x, torch.sin(t) * block.f(x)], 1)
    elif name == "rezero":
        expected = (x + block.alpha * block.f(x)) / (1 + block.alpha.abs())
    else:
        expected = torch.cat([x[:, :2], block.f(x[:, 2:])], 1)
    torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(copy.deepcopy(block)(x), block(x))
    other = FORMS[name]().double()
    other.load_state_dict(block.state_dict())
    assert torch.equal(other(x), block(x))


def test_the_bound_follows_from_that_of_the_module(name):
    block = made(name, "Gaussian", gain=3.0).double()
    if name in ("convex", "concat"):
        weights = block.join.weights().detach()
        expected = {"convex": float(weights[0] + 3 * weights[1]),
                    "concat": float((weights[0] + 9 * weights[1]).sqrt())}[name]  # fmt: skip
    elif name == "rezero":
        size = float(block.alpha.detach().abs())
        expected = (1 + 3 * size) / (1 + size)
    else:
        expected = 3.0
    bound = float(taut.lipschitz_bound(block, SHAPE))
    assert bound == pytest.approx(expected, rel=1e-6)
    assert jacobians(block, SHAPE).max() <= bound * (1 + 1e-12)


def test_certificates_and_files(name, tmp_path):
    block = made(name, "Gaussian")
    assert assert_certified(block, SHAPE, tmp_path) <= 1 + 3e-6
    assert_files_agree(block, SHAPE, tmp_path)


def test_gradients_reach_the_weights_and_the_input(name):
    block = FORMS[name]()
    x = torch.randn(2, *SHAPE, requires_grad=True)
    block(x).square().sum().backward()
    for key, parameter in (("input", x), *block.named_parameters()):
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    if name == "rezero":
        assert block.alpha.grad != 0
    optimiser = torch.optim.SGD(block.parameters(), lr=0.1)
    for _ in range(20):
        optimiser.zero_grad()
        block(x.detach()).sum().backward()
        optimiser.step()
    assert float(taut.lipschitz_bound(block, SHAPE)) <= 1 + 3e-6


@pytest.mark.parametrize("raw", [100.0, 1e6, 1e30])
def test_weights_far_apart_have_finite_gradients(raw):
    for join in (taut.nn.ConvexSum(), taut.nn.ConvexConcat()):
        with torch.no_grad():
            join.raw.copy_(torch.tensor([raw, -raw]))
        x = torch.randn(2, 3)
        y = join(x, 2 * x)
        y.square().sum().backward()
        assert join.raw.grad.isfinite().all()
        torch.testing.assert_close(y[:, :3], x, rtol=1e-5, atol=1e-6)


def test_rezero_starts_as_the_identity():
    for dtype, close in ((torch.float32, 2.0**-19), (torch.float64, 2.0**-48)):
        block = ReZeroResidual(nn.Conv2d(4, 4, 1, dtype=dtype), dtype=dtype)
        x = torch.randn(2, *SHAPE, dtype=dtype)
        torch.testing.assert_close(block(x), x, rtol=close, atol=0)


class Coupling(nn.Module):
    """A split as users write it."""

    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, x):
        a, b = x.chunk(2, 1)
        return torch.cat([self.f(b), a], 1)


NESTED = {
    "in itself": lambda: SplitResidual(SplitResidual(taut.nn.Conv2d(1, 1, 1))),
    "around a sum": lambda: SplitResidual(ConvexResidual(core(2))),
    "in a branch": lambda: SplitResidual(nn.Sequential(core(2), SplitResidual(nn.ReLU()))),
    "chunks": lambda: Coupling(core(2)),
}


@pytest.mark.parametrize("kind", NESTED)
def test_splits_are_bounded_by_their_largest_branch(kind, tmp_path):
    """In tables of bounds and in certificates alike; by rows alone each split counts root 2."""
    torch.manual_seed(0)
    blocks = nn.Sequential(NESTED[kind](), taut.nn.Conv2d(4, 4, 2), NESTED[kind]())
    assert float(taut.lipschitz_bound(blocks, SHAPE)) <= 1 + 6e-6
    assert float(taut.lipschitz_bound(blocks, SHAPE, passes=())) > 1.9
    assert assert_certified(blocks, SHAPE, tmp_path) <= 1 + 6e-6
    steep = SplitResidual(Times(1.5))
    assert float(taut.lipschitz_bound(steep, SHAPE)) == pytest.approx(1.5)


class Meeting(nn.Module):
    """No split: both parts read the second and third channel."""

    def forward(self, x):
        return torch.cat([x[:, :3], x[:, 1:].relu()], 1)


class Around(nn.Module):
    """No split: the second part reads the first slice, too."""

    def forward(self, x):
        a, b = x.chunk(2, 1)
        return torch.cat([a, (a + b).relu()], 1)


@pytest.mark.parametrize("model", [Meeting(), Around()])
def test_parts_that_meet_are_no_split(model, tmp_path):
    bound = float(taut.lipschitz_bound(model, SHAPE))
    x = torch.ones(1, *SHAPE, dtype=torch.float64)
    matrix = torch.autograd.functional.jacobian(lambda x: model(x).flatten(), x).reshape(-1, 36)
    sigma = torch.linalg.matrix_norm(matrix, 2)
    assert 1.4 < sigma <= bound * (1 + 1e-12)
    assert assert_certified(model, SHAPE, tmp_path) >= sigma * (1 - 1e-6)


def test_other_axes():
    tokens = torch.randn(2, 5, 6)
    split = SplitResidual(nn.ReLU(), dim=-1)
    assert torch.equal(split(tokens), torch.cat([tokens[..., :3], tokens[..., 3:].relu()], -1))
    odd = SplitResidual(nn.ReLU())(tokens)
    assert torch.equal(odd[:, :3], tokens[:, :3])
    assert ConcatResidual(nn.Linear(6, 2), dim=-1)(tokens).shape == (2, 5, 8)
    image = torch.randn(4, 3, 3)
    assert ConcatResidual(nn.Conv2d(4, 2, 1), dim=-3)(image).shape == (6, 3, 3)
    matrix = dense_operator(ConcatResidual(nn.Identity()).double(), (3,))
    torch.testing.assert_close(matrix.T @ matrix, torch.eye(3, dtype=torch.float64))


def test_wrong_modules_are_named(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    for block in (ConvexResidual(nn.Linear(4, 1)), ReZeroResidual(nn.Linear(4, 1))):
        with pytest.raises(ValueError, match=r"`f` must keep the shape of its input; got \(2, 1\)"):
            block(torch.zeros(2, 4))
    for block in (ConcatResidual(nn.AvgPool1d(2)), SplitResidual(nn.AvgPool1d(2))):
        with pytest.raises(ValueError, match=r"`f` must keep .* all axes but `dim`=1; got \(2, "):
            block(torch.zeros(2, 4, 6))
    for form in (ConvexResidual, ConcatResidual, ReZeroResidual, SplitResidual):
        for f, kind in ((torch.relu, "builtin"), (nn.ReLU, "ReLU")):
            with pytest.raises(ValueError, match=f"`f` must be a torch.nn.Module; got {kind}"):
                form(cast(Any, f))
    with pytest.raises(ValueError, match="`dim` must be an axis of the input; got 7"):
        SplitResidual(nn.ReLU(), dim=7)(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="`input` must have at least 2 channels; got 1"):
        SplitResidual(nn.ReLU())(torch.zeros(2, 1))
    for block in (ConvexResidual(nn.ReLU()), ConcatResidual(nn.ReLU()), ReZeroResidual(nn.ReLU())):
        with torch.no_grad():
            for parameter in block.parameters():
                parameter.fill_(3.0)
        block.reset_parameters()
        assert all(not parameter.any() for parameter in block.parameters())
