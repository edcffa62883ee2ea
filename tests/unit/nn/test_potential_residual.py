"""Potential residual layers: values, Jacobians, bounds, files and certificates."""

import copy
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from torch import nn

import taut
from oracles import rounding_of
from proven import assert_certified
from residual_oracles import jacobian, linearised, norm, slow_potential
from taut.certification import prove
from taut.nn import (
    FrozenPotentialResidual,
    PotentialResidual1d,
    PotentialResidual2d,
    PotentialResidual3d,
)
from taut.parametrizations import AbstractParametrization, read_scaled_weight
from taut.program import PASSES, Site, operation, replay, trace, verifiable_bound
from thinning import one_in

KINDS = {1: PotentialResidual1d, 2: PotentialResidual2d, 3: PotentialResidual3d}
METHODS = [taut.BCOP, taut.SLL, taut.CPL, taut.AOL, taut.RKO]
CASES = [  # size, channels, hidden channels, kernel, stride, dilation, groups
    ((7,), 4, None, 3, 1, 1, 1),
    ((3,), 4, 2, 5, 1, 2, 2),  # larger than the periodic domain
    ((7,), 2, 4, 4, 3, 1, 1),
    ((5, 4), 3, None, 3, 1, 1, 1),
    ((4, 6), 4, 6, 4, 2, 1, 2),
    ((5, 3), 2, 3, (3, 2), (2, 1), 1, 1),
    ((4, 4), 4, None, 1, 1, 1, 2),
    ((4, 5), 2, None, 2, 1, (2, 1), 1),
    ((2, 3), 2, 2, (2, 3), 3, 1, 1),  # some positions are never read
    ((2, 3, 4), 2, None, 2, 1, 1, 1),
    ((2, 4, 2), 2, 3, (1, 2, 2), (1, 2, 1), 1, 1),
]
GRID = [
    (method, mode, case) for case in CASES for mode in ("circular", "zeros") for method in METHODS
]


def made(case, method: Any = taut.BCOP, mode="circular", dtype=torch.float64, **options):
    size, channels, hidden, *sizes = case
    torch.manual_seed(0)
    kind = KINDS[len(size)]
    options |= {"padding_mode": mode, "parametrization": method, "dtype": dtype}
    return kind(channels, hidden, *sizes, **options)


def image(case, dtype=torch.float64, batch=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, case[1], *case[0], dtype=torch.float64, generator=generator).to(dtype)


@pytest.mark.parametrize(("method", "mode", "case"), one_in(6, GRID))
def test_values_jacobians_and_bounds(method, mode, case):
    layer = made(case, method, mode)
    x = image(case)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), slow_potential(layer, x), rtol=1e-11, atol=1e-11)
    shape = tuple(x.shape[1:])
    assert [node.op for node in trace(layer, shape).nodes] == ["potential_residual"]
    bound = float(taut.lipschitz_bound(layer, shape))
    worst = norm(jacobian(linearised(layer), x[0]))
    assert max(norm(jacobian(layer, x[0])), worst) <= bound + 1e-12
    assert bound <= 1 + 1e-9
    frozen = taut.freeze(layer)
    with torch.no_grad():
        assert torch.equal(frozen(x), layer(x))
    assert float(taut.lipschitz_bound(frozen, shape)) == bound


ORTHOGONAL = [
    ((7,), 4, None, 3, 1, 1, 1),
    ((8,), 2, 5, 4, 3, 1, 1),
    ((6, 4), 3, 2, 3, 1, 1, 1),
    ((4, 6), 4, 8, 4, 2, 1, 2),
    ((2, 4, 2), 2, 3, (1, 2, 2), (1, 2, 1), 1, 1),
]


@pytest.mark.parametrize("case", ORTHOGONAL)
@pytest.mark.parametrize("raw", ["fresh", "gaussian", "huge"])
def test_jacobian_of_an_orthogonal_kernel_is_a_reflection(case, raw):
    if case[0] == (8,):
        case = ((9,), *case[1:])
    layer = made(case)
    with torch.no_grad():
        for parameter in layer.parametrization.parameters():
            if raw != "fresh":
                parameter.normal_().mul_(1e6 if raw == "huge" else 1.0)
    for x in image(case, batch=3):
        j = jacobian(layer, x)
        s = torch.linalg.svdvals(j)
        assert s.max() <= 1 + 1e-9
        assert s.min() >= 1 - 1e-9
        torch.testing.assert_close(j, j.T, rtol=0, atol=1e-9)
    wide = jacobian(copy.deepcopy(layer).float(), image(case, torch.float32)[0])
    s = torch.linalg.svdvals(wide.double())
    assert s.max() <= 1 + 3e-6
    assert s.min() >= 1 - 1e-5


def test_square_kernels_give_minus_the_adjoint_of_moduli():
    layer = made(CASES[3], bias=False)
    x = image(CASES[3])
    convolution = taut.nn.Conv2d(3, 3, 3, bias=False, dtype=torch.float64)
    convolution.load_state_dict(layer.state_dict())
    back = taut.nn.ConvTranspose2d(3, 3, 3, bias=False, dtype=torch.float64)
    back.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(x), -back(convolution(x).abs()))


@pytest.mark.parametrize("k", [1.05, 1.5, 4.0])
@pytest.mark.parametrize("mode", ["circular", "zeros"])
def test_bound_of_kernels_of_norm_above_1_is_attained(k, mode):
    init = "identity" if mode == "zeros" else "uniform"  # nothing is read from behind the border
    kernel = taut.BCOP(4, 4, (3, 3), init=init, dtype=torch.float64).weight().detach() * k**0.5
    layer = FrozenPotentialResidual(kernel, None, None, nn.Identity(), padding_mode=mode)
    bound = float(taut.lipschitz_bound(layer, (4, 6, 6)))
    worst = norm(jacobian(layer, torch.zeros(4, 6, 6, dtype=torch.float64)))
    assert bound == pytest.approx(2 * k - 1, rel=1e-9)
    assert worst <= bound + 1e-12
    assert worst == pytest.approx(bound, rel=1e-9)


def test_a_method_without_a_promise_counts_with_its_norm():
    class Free(AbstractParametrization):
        guarantee, reference = "none", "none"

        def raw_shapes(self):
            return {"raw": (self.out_channels, self.in_channels, *self.kernel_size)}

        def weight(self):
            return self.raw.mul(2)

    layer = PotentialResidual1d(3, kernel_size=1, bias=False, parametrization=Free)
    with torch.no_grad():
        next(layer.parametrization.parameters()).copy_(
            torch.diag(torch.tensor([1.0, 0.2, 0.5]))[..., None]
        )
    assert float(taut.lipschitz_bound(layer, (3, 5))) == pytest.approx(7, rel=1e-6)
    assert float(taut.lipschitz_bound(layer, (3, 5), passes=())) == pytest.approx(9, rel=1e-6)


@pytest.mark.parametrize("method", [taut.SLL, taut.CPL])
def test_the_layers_are_those_of_the_papers(method):
    """x - 2 W^T T^-1 f(W x + b), and x - 2 W^T f(W x + b) / bound^2, of the raw kernel W."""
    layer = made(((5,), 3, 4, 3, 1, 1, 1), method)
    x, w = image(((5,), 3)), layer.parametrization.get_parameter("raw_kernel")
    _, scale = read_scaled_weight(layer.parametrization)
    assert scale is not None
    hidden = torch.relu(
        nn.functional.conv1d(nn.functional.pad(x, (1, 1), "circular"), w, layer.bias)
    )
    back = nn.functional.conv_transpose1d(hidden / scale[:, None] ** 2, w)  # (b, c, n + 2)
    back = (
        back[..., 1:-1]
        + nn.functional.pad(back[..., -1:], (0, 4))
        + nn.functional.pad(back[..., :1], (4, 0))
    )
    torch.testing.assert_close(layer(x), x - 2 * back)


REFUSED = [
    taut.nn.MaxMin(), taut.nn.GroupSort(2), nn.GELU(), nn.SiLU(), nn.LeakyReLU(1.5),
    nn.LeakyReLU(-0.1), nn.ELU(2.0), nn.Softplus(), nn.PReLU(), nn.ReLU, "relu",
    nn.Sequential(nn.ReLU()),
]  # fmt: skip
ALLOWED = [
    nn.Identity(), nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.3), nn.ELU(0.5), nn.Hardtanh(-0.5, 2.0),
    nn.Tanh(), nn.Sigmoid(), nn.Softsign(), nn.Softplus(threshold=40),
]  # fmt: skip


@pytest.mark.parametrize("activation", REFUSED, ids=repr)
def test_activations_of_other_slopes_are_refused(activation, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    with pytest.raises(ValueError, match=r"^`activation` must have slopes in \[0, 1\], .*\.$"):
        PotentialResidual2d(4, activation=activation)


def test_refused_sizes_are_said_of_the_hidden_channels():
    with pytest.raises(ValueError, match=r"from 4 channels to `hidden_channels`=40 is .* 16 "):
        PotentialResidual2d(4, 40, 2, stride=4)


def test_a_class_in_place_of_an_activation_is_named(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    with pytest.raises(ValueError, match="got the class Tanh, not an instance"):
        PotentialResidual2d(4, activation=nn.Tanh)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("activation", ALLOWED, ids=repr)
@pytest.mark.parametrize("method", [taut.BCOP, taut.SLL])
def test_activations_with_slopes_in_0_1(activation, method):
    layer = made(((5,), 4, None, 3, 1, 1, 1), method, activation=activation)
    x = 3 * image(((5,), 4))
    assert norm(jacobian(layer, x[0])) <= 1 + 1e-9
    assert float(taut.lipschitz_bound(layer, (4, 5))) <= 1 + 1e-9
    frozen = taut.freeze(layer)
    with torch.no_grad():
        assert torch.equal(frozen(x), layer(x))


def test_a_function_of_slope_minus_1_inside_has_a_larger_constant():
    """What MaxMin would do: the plain rule, and Jacobians of norm 3."""
    layer = made(CASES[3], bias=False)
    layer.activation = taut.nn.MaxMin()
    assert float(taut.lipschitz_bound(layer, (3, 5, 4))) == pytest.approx(3, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_unbatched_inputs_and_other_uses(kind, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    layer = KINDS[kind](np.int64(4), kernel_size=np.int64(2), dtype=torch.float64)
    x = torch.randn(2, 4, *(3, 5, 2)[:kind], dtype=torch.float64)
    torch.testing.assert_close(layer(x)[1], layer(x[1]))
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    assert torch.equal(layer.train()(x), layer.eval()(x))
    other = KINDS[kind](4, kernel_size=2, dtype=torch.float64)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    assert all(torch.equal(before[name], t) for name, t in layer.state_dict().items())
    layer.reset_parameters()
    assert not torch.equal(other(x), layer(x))
    with torch.no_grad(), taut.cached():
        torch.testing.assert_close(layer(x), layer(x), rtol=0, atol=0)
    meta = KINDS[kind](4, kernel_size=2, device="meta")
    assert meta(torch.zeros(2, 4, *(3, 5, 2)[:kind], device="meta")).shape == x.shape
    with pytest.raises(ValueError, match=r"`input` must have shape \(4, "):
        layer(x[:, :3])


@pytest.mark.parametrize("method", [taut.BCOP, taut.SLL, taut.CPL])
@pytest.mark.parametrize("mode", ["circular", "zeros"])
def test_gradients_are_those_of_finite_differences(method, mode):
    layer = made(((3, 4), 2, 3, 2, (2, 1), 1, 1), method, mode, activation=nn.Tanh())
    names, x = [n for n, _ in layer.named_parameters()], image(((3, 4), 2))

    def function(x, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    inputs = [x, *(p.detach().clone() for p in layer.parameters())]
    assert torch.autograd.gradcheck(function, [t.requires_grad_() for t in inputs])


@pytest.mark.parametrize("method", [taut.SLL, taut.CPL, taut.AOL])
@pytest.mark.parametrize("size", [0.0, 1e-12, 1e30])
def test_raw_kernels_of_any_size(method, size):
    layer = PotentialResidual2d(4, 6, parametrization=method)
    with torch.no_grad():
        layer.parametrization.get_parameter("raw_kernel").mul_(size)
    x = torch.randn(2, 4, 5, 5)
    layer(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
    assert float(taut.lipschitz_bound(layer, (4, 5, 5))) <= 1 + 3e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "`channels` must be a positive integer; got 0"),
        ({"hidden_channels": -1}, "`hidden_channels` must be a positive integer; got -1"),
        (
            {"padding_mode": "reflect"},
            "`padding_mode` must be 'circular' or 'zeros'; got 'reflect'",
        ),
        ({"groups": 3}, "`groups` must divide the channels"),
        ({"kernel_size": 0}, "`kernel_size` must be a positive integer"),
        ({"parametrization": "BCOP"}, "`parametrization` must be a class"),
        ({"hidden_channels": 40, "stride": 4}, "orthogonal"),
    ],
)
def test_wrong_arguments_are_refused(options, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    with pytest.raises(ValueError, match=message):
        PotentialResidual2d(**({"channels": 4} | options))


@pytest.mark.parametrize("arithmetic", ["float32", "float64"])
def test_rounding_is_within_its_bound(arithmetic):
    """Against the same layer in float64 for float32, and many digits for float64."""
    dtype = getattr(torch, arithmetic)
    layer = made(((5, 4), 3, 8, 3, 1, 1, 1), taut.SLL, dtype=dtype)
    with torch.no_grad():
        layer.bias.mul_(10)
    program = trace(layer, (3, 5, 4))
    (site,) = program.sites()
    rounding = rounding_of(layer, (3, 5, 4))
    x = image(((5, 4), 3), dtype)
    found = operation(site).run(site, x).double()
    wide = {role: t.double() for role, t in site.tensors.items()}
    exact = operation(site).run(Site(site.node, site.shapes, wide), x.double())
    u = 2.0**-24 if dtype == torch.float32 else 2.0**-53
    allowed = (
        rounding.count
        * u
        * (rounding.absolute * x.double().flatten(1).norm(dim=1) + rounding.constant)
    )
    assert ((found - exact).flatten(1).norm(dim=1) <= allowed).all()
    reach = rounding.absolute * x.double().flatten(1).norm(dim=1) + rounding.constant
    assert (exact.flatten(1).norm(dim=1) <= reach).all()
    assert rounding.absolute < 60


def test_factors_far_from_1_have_real_certificates_only():
    layer = FrozenPotentialResidual(
        torch.eye(2)[..., None], torch.tensor([1.0, 2.0**40]), None, nn.ReLU()
    )
    assert float(taut.lipschitz_bound(layer, (2, 3))) <= 1 + 1e-6
    with pytest.raises(ValueError, match="factors of hidden channels"):
        prove(layer, (2, 3), arithmetic="float32")


def test_recognition_is_a_pass():
    assert "recognise_residuals" in PASSES
    layer = PotentialResidual1d(2)
    assert "recognise_residuals" in taut.lipschitz_bound(layer, (2, 5)).passes


class Written(nn.Module):
    """By hand, and with a fault."""

    def __init__(self, fault=""):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv1d(2, 2, 3, padding=1)
        nn.init.orthogonal_(self.conv.weight[..., 1].data)
        self.other = nn.Parameter(self.conv.weight.detach().clone())
        self.fault = fault

    def forward(self, x):
        z = self.conv(x)
        if self.fault == "bias":
            z = nn.functional.conv1d(x, self.conv.weight, padding=1) + self.other[:, :1, 0]
        z = torch.relu(z) * (3.0 if self.fault == "factor" else 2.0)
        if self.fault == "activation":
            z = z.abs()
        weight = self.other + 1e-3 if self.fault == "weight" else self.other
        shift = 0 if self.fault == "padding" else 1
        y = nn.functional.conv_transpose1d(z, weight, padding=shift)[..., : x.shape[2]]
        y = y[..., :1] if self.fault == "copies" else y
        return (-x if self.fault == "sign" else x) - y


@pytest.mark.parametrize("form", ["", "bias"])
def test_layers_by_hand_are_recognised(form):
    bound = float(taut.lipschitz_bound(Written(form), (2, 5)))
    x = torch.randn(3, 2, 5)
    torch.testing.assert_close(replay(trace(Written(form), (2, 5)), x), Written(form)(x))
    norm_of_kernel = float(verifiable_bound(Written().conv, (2, 5)))
    assert bound == pytest.approx(max(1.0, 2 * norm_of_kernel**2 - 1), rel=1e-6)


@pytest.mark.parametrize("fault", ["activation", "weight", "padding", "sign", "copies"])
def test_what_is_not_the_layer_is_not_recognised(fault):
    ops = [node.op for node in trace(Written(fault), (2, 5)).nodes]
    assert "potential_residual" not in ops
    factor = trace(Written("factor"), (2, 5))
    assert [node.op for node in factor.nodes] == ["potential_residual"]
    layer = Written("factor").double()
    bound = float(taut.lipschitz_bound(layer, (2, 5)))
    assert bound >= norm(jacobian(layer, torch.randn(2, 5, dtype=torch.float64)))
    square = float(verifiable_bound(layer.conv, (2, 5))) ** 2
    assert bound == pytest.approx(max(1, 3 * square - 1), rel=1e-4)


class Twice(nn.Module):
    """A layer on ten times the input and on the input itself."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(10 * x) + self.layer(x)


@pytest.mark.parametrize("kind", [taut.nn.PotentialResidual1d, taut.nn.Sandwich1d])
def test_layers_that_run_twice_count_twice(kind, tmp_path):
    """Both were named after their module: a bound of 2 for a norm of 11, and no proof in a row."""
    layer = kind(*(4,) * (2 if kind is taut.nn.Sandwich1d else 1)).double()
    x = torch.randn(4, 5, dtype=torch.float64)
    with torch.no_grad():
        layer.bias.fill_(100.0)  # so that the activation is the identity
    for model, expected in ((Twice(layer), 11.0), (nn.Sequential(layer, layer), 1.0)):
        names = [node.name for node in trace(model, (4, 5)).nodes]
        assert len(set(names)) == len(names)
        bound = float(taut.lipschitz_bound(model, (4, 5)))
        assert norm(jacobian(model, 0.1 * x)) == pytest.approx(expected)
        assert bound == pytest.approx(expected)
        assert_certified(copy.deepcopy(model).float(), (4, 5), tmp_path)
