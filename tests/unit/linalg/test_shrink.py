"""Shrunk weights: a proved norm of at most 1, next to what they were."""

import copy

import pytest
import torch
from torch import nn

import taut
from oracles import dense_operator
from taut.export import shrink_


@pytest.mark.parametrize("architecture", ["small", "large", "wide"])
def test_shrunk_models_have_a_proved_norm_of_at_most_1(architecture):
    shape = (3, 32, 32)
    model = taut.models.kinds()[architecture]().build(shape, 10)
    frozen = taut.freeze(model)
    before = copy.deepcopy(frozen.state_dict())
    assert float(taut.lipschitz_bound(frozen, shape)) > 1
    assert shrink_(frozen, shape) is frozen
    bound = taut.lipschitz_bound(frozen, shape)
    assert all(1 - 2e-6 < row.bound <= 1 for row in bound.layers)
    assert 1 - 2e-6 < float(bound) <= 1
    after = frozen.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before if k.endswith("bias"))
    assert all(torch.allclose(before[k], after[k], rtol=3e-5) for k in before)
    assert all(v.dtype == torch.float32 for v in after.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [(3, 8), (8, 3), (4, 4)])
def test_shrunk_operators_have_a_norm_of_at_most_1(channels, dtype):
    """Against the dense operator of the stored weights."""
    layer = taut.freeze(taut.nn.Conv2d(*channels, 3, bias=False, dtype=dtype))
    shrink_(layer, (channels[0], 5, 5))
    s = torch.linalg.svdvals(dense_operator(copy.deepcopy(layer).double(), (channels[0], 5, 5)))
    assert 1 - 1e-5 < s[-1] <= s[0] <= 1 + 1e-15


@pytest.mark.parametrize("scale", [1.0, 1 + 2**-23, 1 + 1e-6, 1 + 5e-5])
def test_shrinking_gets_below_a_tie_of_rounding(scale):
    """Entries of 1 do not move until the step is half a unit in the last place."""
    layer = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        layer.weight.copy_(scale * torch.eye(3))
    bound = float(taut.lipschitz_bound(shrink_(layer, (3,)), (3,)))
    assert 1 - 1e-6 < bound <= 1


def test_layers_of_other_norms_are_left_alone():
    model = nn.Sequential(*(nn.Linear(3, 3, bias=False) for _ in range(3)))
    with torch.no_grad():
        for layer, scale in zip(model, (2.0, 0.5, 1 + 1e-3), strict=True):
            layer.weight.copy_(scale * torch.eye(3))
    before = copy.deepcopy(model.state_dict())
    shrink_(model, (3,))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_a_weight_used_twice_is_scaled_once_a_round():
    layer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_((1 + 5e-5) * torch.eye(2))
    other = nn.Linear(2, 2, bias=False)
    other.weight = layer.weight
    shrink_(nn.Sequential(layer, other), (2,))
    assert layer.weight.diagonal().min() > 1 - 1e-6


def test_parametrized_layers_are_not_shrunk():
    model = nn.Sequential(taut.nn.Conv2d(3, 8, 3))
    with pytest.raises(ValueError, match=r"`0` \(Conv2d\) computes its weight; call taut.freeze"):
        shrink_(model, (3, 6, 6))


WEIGHTS = {
    "zero": lambda: torch.zeros(4, 4),
    "of rank 1": lambda: torch.full((4, 4), (1 + 3e-6) / 4),
    "badly conditioned": lambda: torch.diag(torch.tensor([1 + 1e-6, 1e-12, 0.0, 1.0])),
    "with subnormal numbers": lambda: torch.diag(torch.tensor([1 + 2e-7, 1e-40, 1e-45, 1.0])),
    "far above 1": lambda: (1 + 9.9e-5) * torch.eye(4),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", WEIGHTS)
def test_shrunk_matrices_of_any_condition_have_a_norm_of_at_most_1(name, dtype):
    layer = nn.Linear(4, 4, bias=False, dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(WEIGHTS[name]())
    bound = float(taut.lipschitz_bound(shrink_(layer, (4,)), (4,)))
    norm = torch.linalg.matrix_norm(layer.weight.detach().double(), 2).item()
    assert norm - 1e-15 <= bound <= 1
    assert name == "zero" or norm > 1 - 1e-6


@pytest.mark.parametrize("mode", ["circular", "zeros"])
@pytest.mark.parametrize(("kernel_size", "stride"), [(2, 2), (4, 2), (6, 3)])
def test_shrunk_strided_kernels_have_a_norm_of_at_most_1(kernel_size, stride, mode):
    layer = taut.nn.Conv2d(3, 8, kernel_size, stride, padding_mode=mode, bias=False)
    frozen = shrink_(taut.freeze(nn.Sequential(layer)), (3, 7, 8))
    dense = dense_operator(copy.deepcopy(frozen).double(), (3, 7, 8))
    assert torch.linalg.matrix_norm(dense, 2) <= 1 + 1e-15
    assert float(taut.lipschitz_bound(frozen, (3, 7, 8))) <= 1
