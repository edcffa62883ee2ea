"""Layers of others are bounded by the weights that they use now, in whatever way they keep them."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

import taut
from oracles import dense_operator
from taut.program import UnprovenError


class PowerIteration(nn.Module):
    """Divides by an estimate of the norm, and moves its vector in each call, in evaluation too."""

    def __init__(self, rows):
        super().__init__()
        self.u = nn.Parameter(torch.ones(rows), requires_grad=False)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, weight):
        matrix = weight.flatten(1)
        v = F.normalize(matrix.T @ self.u.data, dim=0)
        self.u.data = F.normalize(matrix @ v, dim=0)
        self.calls += 1
        return weight / (self.u.data @ matrix @ v)


class Twice(nn.Module):
    def forward(self, weight):
        return 2 * weight


class Own(nn.Conv2d):
    """A subclass with a forward of its own."""

    def forward(self, input):
        return 0.5 * F.conv2d(F.pad(input, (1, 1, 1, 1), "circular"), self.weight, self.bias)


class Cached(nn.Linear):
    """Keeps its normalised weight in a buffer while it trains, and reads it in evaluation."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.register_buffer("kept", torch.zeros_like(self.weight))

    def forward(self, input):
        if self.training:
            self.kept = (self.weight / self.weight.norm()).detach()
        return F.linear(input, self.kept, self.bias)


def moving(layer):
    parametrize.register_parametrization(layer, "weight", PowerIteration(layer.weight.shape[0]))
    parametrize.register_parametrization(layer, "weight", Twice())
    return layer


LAYERS = {
    "power iteration": (lambda: moving(nn.Linear(5, 4)), (5,)),
    "power iteration, conv": (lambda: moving(Own(2, 3, 3)), (2, 5, 5)),
    "spectral norm": (lambda: parametrizations.spectral_norm(nn.Linear(5, 4)), (5,)),
    "weight norm": (lambda: parametrizations.weight_norm(nn.Conv1d(2, 3, 3)), (2, 6)),
    "orthogonal": (lambda: parametrizations.orthogonal(nn.Linear(5, 4)), (5,)),
    "cached": (lambda: Cached(5, 4), (5,)),
    "shared": (lambda: nn.Sequential(*[moving(nn.Linear(4, 4))] * 2), (4,)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_bound_is_that_of_the_weights_of_now(name):
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    layer = make().double()
    if name == "cached":
        layer(torch.zeros(1, *shape).double())
    layer.eval()
    before = copy.deepcopy(layer.state_dict())
    bound = float(taut.lipschitz_bound(layer, shape))
    assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items())
    frozen = taut.freeze(layer)
    assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items())
    assert not any(parametrize.is_parametrized(module) for module in frozen.modules())
    norm = torch.linalg.matrix_norm(dense_operator(frozen, shape), 2).item()
    assert norm * (1 - 1e-12) <= bound <= (norm if name != "shared" else 4.5) * (1 + 1e-7)
    x = torch.randn(3, *shape).double()
    expected = copy.deepcopy(layer)(x)  # the next call
    assert torch.allclose(frozen(x), expected, rtol=1e-12) or name == "shared"
    layer(x)  # it still works, with the weights of its own
    again = taut.lipschitz_bound(frozen, shape)
    assert float(again) == pytest.approx(bound, rel=1e-12)


def test_what_moves_with_each_call_is_certified_frozen():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), moving(nn.Linear(4, 3))).eval()
    x, y = torch.rand(4, 1, 2, 2), torch.zeros(4).long()
    with pytest.raises(UnprovenError, match=r"writes to parameters.*Pass taut.freeze\(model\)"):
        taut.certify(model, x, y)
    frozen = taut.freeze(model)
    certified = taut.certify(frozen, x, y)
    assert float(certified.bound) >= float(taut.lipschitz_bound(frozen, (1, 2, 2))) * (1 - 1e-12)


def test_pairs_sorted_by_minimum_and_maximum_are_a_group_sort():
    class Pairs(nn.Module):
        def forward(self, x):
            split = x.view(x.shape[0], x.shape[1] // 2, 2, *x.shape[2:])
            low, high = split.min(2, keepdim=True)[0], split.max(2, keepdim=True)[0]
            return torch.cat([low, high], 2).view(x.shape)

    model = Pairs()
    x = torch.randn(3, 6, 2, 2)
    program = taut.program.trace(model, (6, 2, 2))
    assert [node.op for node in program.nodes] == ["GroupSort"]
    assert torch.equal(taut.nn.GroupSort(2)(x), model(x))
    assert float(taut.lipschitz_bound(model, (6, 2, 2))) == 1.0
    assert float(taut.lipschitz_bound(model, (6, 2, 2), passes=())) > 1.4


def test_a_name_that_a_call_changes_is_named():
    class Remembers(nn.Module):
        def __init__(self):
            super().__init__()
            self.size = 1

        def forward(self, x):
            self.size = x.shape[0]
            return 2 * x

    with pytest.raises(UnprovenError, match="changes `size` from 1 to"):
        taut.lipschitz_bound(Remembers(), (3,))


def test_layers_of_peers_are_bounded_by_their_weights():
    """Their promise is 1; circular padding, and Björck's steps, keep it but for rounding."""
    torchlip = pytest.importorskip("deel.torchlip")
    orthogonium = pytest.importorskip("orthogonium.layers")
    layers = [
        (torchlip.SpectralLinear(6, 4), (6,)),
        (torchlip.FrobeniusLinear(6, 4), (6,)),
        (torchlip.SpectralConv2d(3, 4, 3), (3, 6, 6)),
        (torchlip.GroupSort(2), (6,)),
        (torchlip.ScaledAvgPool2d(2), (3, 6, 6)),
        (torchlip.InvertibleDownSampling(2), (3, 6, 6)),
        (orthogonium.OrthoLinear(6, 4), (6,)),
        (orthogonium.AdaptiveOrthoConv2d(4, 6, 3, padding=1, padding_mode="circular"), (4, 6, 6)),
    ]
    for layer, shape in layers:
        layer(torch.rand(2, *shape))
        model = taut.freeze(nn.Sequential(layer.eval()))
        assert float(taut.lipschitz_bound(layer, shape)) <= 1 + 1e-3
        assert float(taut.lipschitz_bound(model, shape)) <= 1 + 1e-3
