"""Kernels given by one matrix per frequency: real, of the size of the input, else like others."""

import copy
import math
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

import taut
from oracles import dense_operator
from taut.linalg.twiddles import half_plane
from taut.parametrizations import (
    AbstractSpectral,
    kernel_symbol,
    map_symbol,
    methods,
    read_weight,
)

SIZES = [(1, 1), (2, 2), (3, 5), (4, 6), (1, 7), (8, 3)]


def set_raw_(module: AbstractSpectral, kind: str) -> None:
    with torch.no_grad():
        raw = module.raw_kernel.normal_()
        if kind == "graded":
            raw *= torch.logspace(-6, 6, len(raw))[:, None, None, None].to(raw)
        elif kind == "rank-deficient":
            raw[0] = raw[-1]
        elif kind == "zero":
            raw.zero_()


def layer_of(*sizes, **options) -> taut.nn.Conv2d:
    return taut.nn.Conv2d(*sizes, parametrization=taut.SpectralQR, **options)


@pytest.mark.parametrize("raw", ["gaussian", "graded", "rank-deficient", "zero"])
@pytest.mark.parametrize("channels", [(3, 3), (2, 4), (4, 2)])
@pytest.mark.parametrize("size", SIZES)
def test_spectrum_for_every_size_and_raw_tensor(size, channels, raw):
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 3e-6)):
        layer = layer_of(*channels, 3, dtype=dtype, bias=False)
        set_raw_(layer.parametrization, raw)
        kernel = read_weight(layer.parametrization, size)
        assert kernel.dtype == dtype
        assert kernel.shape == (channels[1], channels[0], *size)
        s = torch.linalg.svdvals(
            dense_operator(copy.deepcopy(layer).double(), (channels[0], *size))
        )
        if raw == "gaussian" or dtype == torch.float64:
            assert (s - 1).abs().max() <= 1e-5
        plain = torch.fft.fft2(kernel.double()).flatten(2).movedim(2, 0)
        assert (torch.linalg.svdvals(plain) - 1).abs().max() <= tolerance


@pytest.mark.parametrize("size", SIZES)
def test_symbol_of_a_kernel_is_its_definition_and_gives_the_kernel_back(size):
    class Kernel(AbstractSpectral):
        guarantee, reference = "none", "none"

        def raw_shapes(self):
            return {"raw": (2, 3, 3, 2)}

        def reset_parameters(self):
            nn.init.normal_(self.raw)

        def symbol(self, size):
            return kernel_symbol(self.raw, size)

    module = Kernel(3, 2, (3, 2), dtype=torch.float64)
    found, expected = module.symbol(size), torch.zeros(2, 3, *size, dtype=torch.float64)
    for i in range(3):
        for j in range(2):  # the middle tap (1, 0) lies at the origin
            expected[:, :, (i - 1) % size[0], j % size[1]] += module.raw.detach()[:, :, i, j]
    assert torch.allclose(module.weight(size), expected)
    for matrix, frequency, count in zip(found, *half_plane(size), strict=True):
        total = torch.zeros(2, 3, dtype=torch.complex128)
        for t in torch.cartesian_prod(*map(torch.arange, size)):
            angle = 2 * math.pi * float((frequency * t / torch.tensor(size)).sum())
            total += expected[:, :, t[0], t[1]] * complex(math.cos(angle), math.sin(angle))
        assert torch.allclose(matrix, total)
        assert count == 2 or not matrix.imag.any()


@pytest.mark.parametrize(("size", "stride"), [((4, 6), (2, 2)), ((6, 3), (3, 1)), ((5, 7), (2, 2))])
def test_strided_layers_are_orthogonal_on_what_the_stride_divides(size, stride):
    layer = layer_of(2, 5, tuple(2 * s for s in stride), stride, dtype=torch.float64)
    y = layer(torch.randn(2, 2, *size, dtype=torch.float64))
    assert y.shape == (2, 5, *(-(-n // s) for n, s in zip(size, stride, strict=True)))
    s = torch.linalg.svdvals(dense_operator(layer, (2, *size)))
    assert s.max() <= 1 + 1e-12
    if all(n % step == 0 for n, step in zip(size, stride, strict=True)):
        assert s.min() >= 1 - 1e-12
    bound = float(taut.lipschitz_bound(layer, (2, *size)))
    assert s.max() <= bound <= 1 + 1e-7


@pytest.mark.parametrize("axes", [0, 1, 3])
def test_other_axes_and_dense_layers(axes):
    if axes == 0:
        layer, shape = taut.nn.Linear(3, 5, parametrization=taut.SpectralQR).double(), (3,)
    else:
        kind = taut.nn.Conv1d if axes == 1 else taut.nn.Conv3d
        layer, shape = (
            kind(3, 5, 3, parametrization=taut.SpectralQR).double(),
            (3, *(3, 2, 4)[:axes]),
        )
    s = torch.linalg.svdvals(dense_operator(layer, shape))
    assert (s - 1).abs().max() <= 1e-12
    assert 1 - 1e-12 <= float(taut.lipschitz_bound(layer, shape)) <= 1 + 1e-7


def test_gradients_are_those_of_finite_differences():
    layer = layer_of(2, 3, 3, dtype=torch.float64)
    raws = tuple(p.detach().clone().requires_grad_() for p in layer.parameters())
    names = [name for name, _ in layer.named_parameters()]
    x = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)

    def forward(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(forward, (x, *raws))


def test_constants_of_a_size_do_not_stay_in_the_transform_that_meets_it_first():
    layer, shape = layer_of(2, 2, 3), (2, 11, 13)  # a size of this test alone
    x = torch.randn(1, *shape)
    names = [name for name, _ in layer.named_parameters()]

    def total(*values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,)).sum()

    torch.func.grad(total)(*(p.detach() for p in layer.parameters()))
    assert float(taut.lipschitz_bound(layer, shape)) <= 1 + 1e-6


def test_a_training_step_and_a_state_of_no_size():
    model = nn.Sequential(layer_of(1, 4, 3), taut.nn.MaxMin(), nn.AdaptiveAvgPool2d(1))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    losses = []
    for step in range(1, 11):
        size = (4, 5) if step % 2 else (6, 6)
        optimiser.zero_grad()
        loss = (model(torch.ones(2, 1, *size)) - 1).square().sum()
        loss.backward()
        optimiser.step()
        taut.after_step(model, step, retract_every=2)
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    state = model.state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == {
        "0.parametrization.raw_kernel": (4, 1, 3, 3),
        "0.bias": (4,),
    }
    twin, x = nn.Sequential(layer_of(1, 4, 3), *model[1:]), torch.randn(2, 1, 5, 5)
    twin.load_state_dict(load_safetensors(save_safetensors(state)))
    assert torch.equal(twin(x), model(x))
    assert torch.equal(copy.deepcopy(model).eval()(x), model(x))


def test_cached_keeps_a_kernel_for_each_size(monkeypatch):
    calls, symbol = [], taut.SpectralQR.symbol

    def counted(self, size):
        calls.append(size)
        return symbol(self, size)

    monkeypatch.setattr(taut.SpectralQR, "symbol", counted)
    layer = layer_of(2, 2, 3)
    images = [torch.randn(1, 2, *size) for size in ((4, 4), (5, 4), (4, 4), (5, 4))]
    with torch.no_grad():
        expected = [layer(x) for x in images]
        calls.clear()
        with taut.cached():
            assert all(torch.equal(layer(x), y) for x, y in zip(images, expected, strict=True))
            assert calls == [(4, 4), (5, 4)]
            layer.parametrization.raw_kernel.mul_(2).add_(1)
            found = layer(images[0])
        assert torch.equal(found, layer(images[0]))
        assert not torch.equal(found, expected[0])


def test_what_a_full_size_kernel_cannot_do_is_refused():
    layer = layer_of(2, 2, (4, 3), (2, 1))
    with pytest.raises(ValueError, match=r"`size` must be .* SpectralQR fills; got None"):
        _ = layer.weight
    with pytest.raises(ValueError, match=r"`input_shape` must be given to freeze `model` .*QR"):
        taut.freeze(layer)
    with pytest.raises(
        ValueError, match=r"multiple of `stride`; got size=\(5, 5\), stride=\(2, 1\)"
    ):
        layer.parametrization.weight((5, 5))
    with pytest.raises(ValueError, match=r"`size` must be a positive integer or a tuple of 2; got"):
        layer.parametrization.weight((4, 4, 4))
    for options, message in (
        ({"padding": "valid"}, r"`padding` must be 'same', or .* SpectralQR.* got \(0, 0\)"),
        ({"padding": 1, "dilation": 2}, r"`padding` must be 'same', or .* got \(1, 1\)"),
        ({"padding": 0, "stride": 3, "padding_mode": "zeros"}, r"must be 'same', or .* \(0, 0\)"),
        ({"padding_mode": "reflect"}, "`padding_mode` must be 'circular' or 'zeros' for"),
        ({"stride": 3, "dilation": 2}, r"`dilation` must be 1 where `stride` is above 1"),
    ):
        with pytest.raises(ValueError, match=message):
            layer_of(2, 2, 3, **options)
    assert AbstractSpectral not in methods().values()


@pytest.mark.parametrize("mode", ["circular", "zeros"])
@pytest.mark.parametrize("transposed", [False, True])
def test_padding_in_numbers_that_is_the_same(mode, transposed):
    """As in nets written for torch, whose layers have `padding=1` for a 3x3 kernel."""
    kind = taut.nn.ConvTranspose2d if transposed else taut.nn.Conv2d
    for kernel, stride, padding, dilation in ((3, 1, 1, 1), ((5, 3), 1, (4, 2), 2), (4, 2, 1, 1)):
        options = {"stride": stride, "dilation": dilation, "padding_mode": mode}
        options |= {"parametrization": taut.Cayley}
        if mode == "zeros" and stride == 2 and not transposed:
            with pytest.raises(ValueError, match="`padding` must be"):  # odd sizes would differ
                kind(2, 3, kernel, padding=padding, **options)
            continue
        layer = kind(2, 3, kernel, padding=padding, **options)
        same = kind(2, 3, kernel, **options)
        same.load_state_dict(layer.state_dict())
        for size in ((6, 8), (7, 5)):
            x = torch.randn(2, 2, *size)
            assert torch.equal(layer(x), same(x))
            plain = torch.nn.ConvTranspose2d if transposed else torch.nn.Conv2d
            if mode == "zeros":
                sizes = plain(2, 3, kernel, stride, padding, dilation=dilation)(x).shape
                assert layer(x).shape == sizes


def test_kernels_take_an_integer_for_a_size():
    layer = layer_of(2, 2, 3)
    assert torch.equal(layer.kernel(4), layer.kernel((4, 4)))
    with pytest.raises(ValueError, match=r"`input_size` must be a positive .* tuple of 2; got"):
        layer.kernel((4, 4, 4))


def test_autocast_and_inference_mode_leave_the_kernel_its_precision():
    layer, x = layer_of(2, 2, 3), torch.randn(1, 2, 4, 4)
    expected = layer.kernel((4, 4))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.kernel((4, 4)), expected)
        assert layer(x).dtype == torch.bfloat16
    with torch.inference_mode(), taut.cached():
        assert torch.allclose(layer(x), layer(x))
        assert torch.equal(layer.kernel((4, 4)), expected)


@pytest.mark.parametrize("size", [(), (2,), (5,), (4, 3), (2, 2, 2)])
def test_functions_see_real_matrices_where_the_symbol_is_real(size):
    kernel = torch.randn(2, 3, *(2,) * len(size), dtype=torch.float64)
    seen, symbol = {}, kernel_symbol(kernel, size)

    def negated(a: Tensor) -> Tensor:
        seen[a.dtype] = seen.get(a.dtype, 0) + len(a)
        return -a.mT

    assert torch.equal(map_symbol(negated, symbol, size), -symbol.mT)
    counts = half_plane(size)[1].tolist()
    expected = {torch.float64: counts.count(1), torch.complex128: counts.count(2)}
    assert seen == {dtype: count for dtype, count in expected.items() if count}


COMPILED = """
import torch, taut
from test_spectral import layer_of
model = torch.nn.Sequential(layer_of(2, 4, 3), taut.nn.MaxMin(), layer_of(4, 2, 2, 2))
compiled, x = torch.compile(model, fullgraph=True, backend="eager"), torch.rand(1, 2, 4, 5)
assert torch.allclose(compiled(x), model(x), atol=1e-6)
"""


@pytest.mark.slow
def test_compiled_in_one_graph():
    """In a process of its own: torch.compile cannot see through the shape checks of the tests."""
    command = [sys.executable, "-c", COMPILED]
    paths = os.pathsep.join([__file__.rpartition("/")[0], *filter(None, sys.path)])
    environment = os.environ | {"PYTHONPATH": paths}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


FIRST_CALL = """
import torch, taut
layer = taut.nn.Conv2d(2, 2, 3, parametrization=taut.Cayley)
x = torch.rand(1, 2, 4, 4)
def hessian(): return torch.func.hessian(lambda z: layer(z).pow(2).sum())(x)
first = hessian()
assert torch.equal(hessian(), first)
layer(x)
assert torch.equal(hessian(), first)
"""


def test_no_constant_outlives_a_transform():
    """In a process of its own, in which nothing is cached yet."""
    done = subprocess.run([sys.executable, "-c", FIRST_CALL], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
