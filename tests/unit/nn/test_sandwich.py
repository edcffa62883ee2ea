"""Sandwich layers: values, Jacobians, bounds, strides both ways, starts."""

import copy
import math
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from torch import nn

import taut
from convolution_oracles import Case
from residual_oracles import jacobian, linearised, matrix_of, norm, unfolded
from taut.nn import FrozenSandwich, Sandwich1d, Sandwich2d, Sandwich3d
from taut.program import trace
from thinning import one_in

KINDS = {1: Sandwich1d, 2: Sandwich2d, 3: Sandwich3d}
METHODS = [taut.BCOP, taut.AOL, taut.SLL, taut.CPL]
CASES = [  # size, in, out, hidden, kernel, stride, dilation, groups, up
    ((7,), 4, 4, None, 3, 1, 1, 1, False),
    ((3,), 4, 6, 2, 5, 1, 2, 2, False),  # larger than the periodic domain
    ((7,), 2, 3, 4, 2, 3, 1, 1, False),
    ((4,), 6, 2, 4, 3, 2, 1, 2, True),
    ((5, 4), 3, 5, None, 2, 1, 1, 1, False),
    ((4, 5), 2, 4, 6, 3, 2, 1, 2, False),
    ((2, 3), 5, 2, 3, (3, 2), (2, 1), 1, 1, True),
    ((3, 3), 3, 3, 3, 3, 1, (1, 2), 1, False),
    ((2, 3, 4), 2, 3, None, 2, (1, 2, 1), 1, 1, False),
    ((2, 1, 2), 2, 1, 2, (1, 2, 2), (1, 2, 1), 1, 1, True),
]
GRID = [(m, mode, case) for case in CASES for mode in ("circular", "zeros") for m in METHODS]


def made(case, method: Any = taut.BCOP, mode="circular", dtype=torch.float64, **options):
    size, *channels, hidden, kernel, stride, dilation, groups, up = case
    torch.manual_seed(0)
    options |= {"padding_mode": mode, "parametrization": method, "dtype": dtype, "up": up}
    options |= {"hidden_channels": hidden}
    layer = KINDS[len(size)](*channels, kernel, stride, dilation, groups, **options)
    with torch.no_grad():
        layer.raw_scale.normal_()
        for parameter in layer.parametrization.parameters():
            parameter.normal_()
    return layer


def image(case, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, case[1], *case[0], dtype=torch.float64, generator=generator).to(dtype)


def slow(layer, x):
    """The layer on the coarse grid, with dense matrices, and phases by loops."""
    weight, scale = layer.parametrization.weight().detach(), layer.scale.detach()
    grid = x if layer.up else unfolded(x, layer.stride)
    size, hidden = tuple(grid.shape[2:]), len(weight)
    outputs = (weight.shape[1] - grid.shape[1] // layer.groups) * layer.groups
    options = {"groups": layer.groups, "mode": layer.padding_mode}
    options |= {"dilation": (*layer.dilation, 1, 1)[:3]}
    ones = (1,) * len(size)
    parts = weight.split([outputs // layer.groups, grid.shape[1] // layer.groups], 1)
    a = matrix_of(Case(outputs, hidden, layer.kernel_size, ones, size, **options), parts[0])
    b = matrix_of(Case(grid.shape[1], hidden, layer.kernel_size, ones, size, **options), parts[1])
    positions = math.prod(size)
    psi, bias = (t.repeat_interleave(positions) for t in (scale, layer.bias.detach()))
    z = layer.activation(math.sqrt(2) / psi * (grid.flatten(1) @ b.T) + bias)
    y = math.sqrt(2) * (psi * z) @ a
    y = y.reshape(len(x), outputs, *size)
    if not layer.up:
        return y
    fine = torch.zeros(
        len(x), layer.out_channels, *(n * s for n, s in zip(size, layer.stride, strict=True))
    )
    numbers = torch.arange(fine[0].numel()).reshape(1, *fine.shape[1:]).double()
    return y.flatten(1)[:, unfolded(numbers, layer.stride).flatten().long().argsort()].reshape(
        fine.shape
    )


def has_left_of_its_own(case):
    """Zero pads in front of a finer grid may be of another number of its positions."""
    return any(k % 2 == 0 and s > 1 for k, s in _axes(case))


def _axes(case):
    axes = len(case[0])
    pairs = (n if isinstance(n, tuple) else (n,) * axes for n in case[4:6])
    return list(zip(*pairs, strict=True))


@pytest.mark.parametrize(("method", "mode", "case"), one_in(6, GRID))
def test_values_jacobians_and_bounds(method, mode, case):
    layer, x = made(case, method, mode), image(case)
    shape = tuple(x.shape[1:])
    with torch.no_grad():
        y = layer(x)
        if not has_left_of_its_own(case):
            torch.testing.assert_close(y, slow(layer, x), rtol=1e-11, atol=1e-11)
    size = [n * s if layer.up else -(-n // s) for n, s in zip(case[0], layer.stride, strict=True)]
    assert y.shape == (2, layer.out_channels, *size)
    assert [node.op for node in trace(layer, shape).nodes] == ["sandwich"]
    bound = float(taut.lipschitz_bound(layer, shape))
    worst = norm(jacobian(linearised(layer), x[0]))
    assert max(norm(jacobian(layer, x[0])), worst) <= bound + 1e-12
    assert bound <= 1 + 1e-9
    frozen = taut.freeze(layer)
    with torch.no_grad():
        assert torch.equal(frozen(x), y)
    assert float(taut.lipschitz_bound(frozen, shape)) == bound


@pytest.mark.parametrize("k", [1.3, 4.0, 0.5])
@pytest.mark.parametrize("mode", ["circular", "zeros"])
def test_bound_of_other_norms_is_attained(k, mode):
    u = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q * (k / 2) ** 0.5
    weight = torch.zeros(4, 8, 3, 3, dtype=torch.float64)
    weight[:, :, 1, 1] = torch.cat([u, u], 1)
    psi = torch.rand(4).double() + 0.1
    sizes: dict[str, Any] = {"in_channels": 4, "out_channels": 4}
    layer = FrozenSandwich(weight, psi, None, nn.Identity(), padding_mode=mode, **sizes)
    bound = float(taut.lipschitz_bound(layer, (4, 5, 6)))
    assert bound == pytest.approx(k, rel=1e-9)
    worst = norm(jacobian(layer, torch.zeros(4, 5, 6, dtype=torch.float64)))
    assert worst == pytest.approx(k, rel=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("c_in", "c_out"), [(4, 4), (6, 4), (4, 6)])
def test_start_keeps_norms_with_the_identity(method, c_in, c_out):
    layer = Sandwich2d(c_in, c_out, parametrization=method, dtype=torch.float64)
    j = jacobian(linearised(layer), torch.randn(c_in, 4, 5, dtype=torch.float64))
    s = torch.linalg.svdvals(j)
    assert len(s) == min(c_in, c_out) * 20
    torch.testing.assert_close(s, torch.ones_like(s), rtol=0, atol=1e-9)
    if c_in == c_out:
        torch.testing.assert_close(j, torch.eye(80, dtype=torch.float64), rtol=0, atol=1e-9)


@pytest.mark.parametrize("up", [False, True])
def test_start_of_strided_layers(up):
    layer = Sandwich2d(4, 4, hidden_channels=4, stride=2, up=up, dtype=torch.float64)
    j = jacobian(linearised(layer), torch.randn(4, 4, 4, dtype=torch.float64))
    s = torch.linalg.svdvals(j)
    kept = s[s > 1e-9]
    assert len(kept) == 4 * (16 if up else 4)
    torch.testing.assert_close(kept, torch.ones_like(kept), rtol=0, atol=1e-9)


@pytest.mark.parametrize("raw", ["huge", "tiny", "zero", "12 decades"])
@pytest.mark.parametrize("method", [taut.BCOP, taut.AOL, taut.CPL])
def test_raw_tensors_of_any_size(method, raw):
    for dtype, above in ((torch.float32, 3e-6), (torch.float64, 1e-9)):
        layer = made(CASES[5], method, dtype=dtype)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.mul_({"huge": 1e6, "tiny": 1e-6, "zero": 0.0}.get(raw, 1.0))
                if raw == "12 decades" and parameter.dim() > 1:
                    scale = torch.logspace(0, -12, parameter.shape[-2])
                    parameter.mul_(scale[:, None].to(dtype))
        x = image(CASES[5], dtype)
        worst = norm(jacobian(linearised(layer), x[0]).double())
        assert worst <= 1 + above
        layer(x).square().sum().backward()
        assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_unbatched_inputs_and_other_uses(kind, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    options = {"kernel_size": np.int64(2), "stride": 2}
    layer = KINDS[kind](np.int64(4), 2, dtype=torch.float64, **options)
    x = torch.randn(2, 4, *(4, 5, 2)[:kind], dtype=torch.float64)
    torch.testing.assert_close(layer(x)[1], layer(x[1]))
    assert torch.equal(layer.train()(x), layer.eval()(x))
    other = KINDS[kind](4, 2, dtype=torch.float64, **options)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    layer.reset_parameters()
    assert not torch.equal(other(x), layer(x))
    meta = KINDS[kind](4, 2, device="meta", **options)
    assert meta(x.to("meta").float()).shape == layer(x).shape
    with pytest.raises(ValueError, match=r"`input` must have shape \(4, "):
        layer(x[:, :3])


@pytest.mark.parametrize("case", [CASES[2], CASES[6]])
def test_gradients_are_those_of_finite_differences(case):
    layer = made(case, taut.CPL, activation=nn.Tanh())
    names, x = [n for n, _ in layer.named_parameters()], image(case)[:1]

    def function(x, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    inputs = [x, *(p.detach().clone() for p in layer.parameters())]
    assert torch.autograd.gradcheck(function, [t.requires_grad_() for t in inputs])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_channels": 0}, "`in_channels` must be a positive integer; got 0"),
        ({"groups": 3}, "`groups` must divide the channels of input and output"),
        ({"stride": 2, "dilation": 2}, "`dilation` must be 1 along axes of a stride above 1"),
        ({"padding_mode": "reflect"}, "`padding_mode` must be 'circular' or 'zeros'"),
        ({"activation": taut.nn.MaxMin()}, r"`activation` must have slopes in \[0, 1\]"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Sandwich2d(**({"in_channels": 4, "out_channels": 4} | options))
