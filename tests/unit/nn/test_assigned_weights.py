"""A weight can be assigned where the method can have it; else nothing changes, and a sentence."""

import pytest
import torch
from torch import Tensor, nn

import taut
from taut.parametrizations import AbstractParametrization


def orthonormal(rows: int, columns: int, dtype=torch.float64) -> Tensor:
    return nn.init.orthogonal_(torch.empty(rows, columns, dtype=torch.float64)).to(dtype)


@pytest.mark.parametrize(("outputs", "inputs"), [(4, 4), (3, 5), (5, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", [taut.Orthogonal, taut.BCOP, taut.RKO])
def test_matrices_are_assigned(method, outputs, inputs, dtype):
    layer = taut.nn.Linear(inputs, outputs, parametrization=method, dtype=dtype)
    keys = list(layer.state_dict())
    weight = orthonormal(outputs, inputs, dtype)
    for value in (weight, nn.Parameter(weight), weight.double()):
        layer.reset_parameters()
        layer.weight = value
        torch.testing.assert_close(layer.weight, weight)
    assert list(layer.state_dict()) == keys
    assert all(p.requires_grad for p in layer.parameters())
    x = torch.randn(2, inputs, dtype=dtype)
    torch.testing.assert_close(layer(x), nn.functional.linear(x, weight, layer.bias))


@pytest.mark.parametrize(("outputs", "inputs"), [(4, 4), (3, 5), (50, 3)])
def test_kernels_of_rko_are_assigned(outputs, inputs):
    layer = taut.nn.Conv2d(inputs, outputs, (3, 4), parametrization=taut.RKO, dtype=torch.float64)
    kernel = orthonormal(outputs, inputs * 12).reshape(outputs, inputs, 3, 4) / 12**0.5
    layer.weight = kernel
    torch.testing.assert_close(layer.weight, kernel)


@pytest.mark.parametrize(
    ("outputs", "inputs", "size"), [(4, 4, 1), (3, 5, 1), (9, 2, 2), (3, 2, 2)]
)
def test_kernels_without_steps_are_assigned(outputs, inputs, size):
    layer = taut.nn.Conv2d(inputs, outputs, size, stride=size, dtype=torch.float64)
    kernel = orthonormal(outputs, inputs * size**2).reshape(outputs, inputs, size, size)
    layer.weight = kernel
    torch.testing.assert_close(layer.weight, kernel)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (2 * torch.eye(4), r"`weight` must be one that Orthogonal can have .* off by 1 \("),
        (torch.full((4, 4), float("nan")), "`weight` must be finite"),
        (torch.eye(3), r"`weight` must be of shape \(4, 4\); got \(3, 3\)"),
        (None, "`weight` must be a tensor; got NoneType"),
    ],
)
def test_other_weights_are_refused_and_change_nothing(value, message):
    layer = taut.nn.Linear(4, 4)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        layer.weight = value
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())


class Squares(AbstractParametrization):
    """Without an inverse."""

    guarantee = "none"
    reference = "none"

    def raw_shapes(self):
        return {"raw_root": (self.out_channels, self.in_channels, *self.kernel_size)}

    def weight(self):
        return self.raw_root.square()


def test_methods_without_an_inverse_name_their_raw_tensors():
    layer = taut.nn.Linear(4, 4, parametrization=Squares)
    with pytest.raises(ValueError, match="cannot be assigned: Squares makes it of raw_root; "):
        layer.weight = layer.weight


def test_an_assigned_weight_is_read_inside_cached():
    layer = taut.nn.Linear(4, 4)
    with torch.no_grad(), taut.cached():
        assert not torch.equal(layer.weight, torch.eye(4))
        layer.weight = torch.eye(4)
        torch.testing.assert_close(layer.weight, torch.eye(4))
