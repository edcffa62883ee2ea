"""Cayley, LOT, BRO, SpectralQR and ECO: what each map is, and what its raw tensors may be."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import taut
from oracles import dense_operator
from taut.linalg.twiddles import half_plane
from taut.linalg.unitary import cayley, polar_factor, unitary_basis
from taut.parametrizations import AbstractSpectral, dilated_symbol, kernel_symbol

METHODS = [taut.BRO, taut.Cayley, taut.ECO, taut.LOT, taut.SpectralQR]
RAWS = ["gaussian", "huge", "tiny", "12 decades", "rank-deficient", "zero", "large scale"]
every_method = pytest.mark.parametrize("cls", METHODS, ids=lambda cls: cls.__name__)


def set_raw_(module: nn.Module, kind: str) -> None:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for raw in module.parameters():
            raw.copy_(torch.randn(raw.shape, generator=generator, dtype=torch.float64))
            if kind == "12 decades" and raw.dim() > 1:
                raw *= torch.logspace(-6, 6, len(raw)).reshape(-1, *[1] * (raw.dim() - 1)).to(raw)
            elif kind == "rank-deficient" and raw.dim() > 1:
                raw[0], raw[:, 0] = raw[-1].clone(), 0
            elif kind == "large scale" and raw.dim() == 1:
                raw.fill_(1e4)
            elif kind in ("huge", "tiny", "zero"):
                raw *= {"huge": 1e6, "tiny": 1e-6, "zero": 0.0}[kind]


@every_method
@pytest.mark.parametrize("raw", RAWS)
def test_symbols_are_unitary_for_all_raw_tensors_in_both_precisions(cls, raw):
    for channels, groups in [((16, 16), 1), ((16, 8), 2), ((8, 16), 2)]:
        module = cls(*channels, (2, 2), groups=groups)
        set_raw_(module, raw)
        symbol = module.symbol((4, 6))
        weights = torch.randn(symbol.shape, generator=torch.Generator().manual_seed(0))
        (symbol.real * weights).sum().backward()
        assert all(bool(p.grad.isfinite().all()) for p in module.parameters())
        s = torch.linalg.svdvals(_blocks(symbol.to(torch.complex128), groups))
        assert s.max() <= 1 + 3e-6
        assert s.min() >= 1 - 1e-5
        exact = _blocks(module.double().symbol((4, 6)), groups)
        assert (torch.linalg.svdvals(exact) - 1).abs().max() <= 1e-12


def _blocks(symbol: Tensor, groups: int) -> Tensor:
    return symbol.detach().unflatten(1, (groups, -1))


@every_method
@pytest.mark.parametrize("size", [(3,), (4, 2), (5, 3), (1, 6)])
def test_the_half_plane_mirrors_exactly_and_kernels_are_real(cls, size):
    module = cls(3, 4, (1,) * len(size), dtype=torch.float64)
    set_raw_(module, "rank-deficient")
    symbol, (grid, counts) = module.symbol(size), half_plane(size)
    assert symbol.shape == (len(grid), 4, 3)
    assert not symbol.imag[counts == 1].any()
    axes = tuple(range(2, 2 + len(size)))
    full = torch.fft.ifftn(module.weight(size), dim=axes, norm="forward")  # e^{+i w t}
    assert torch.allclose(full[(..., *grid.T)].movedim(2, 0), symbol, atol=1e-12)
    # A half plane that mirrors gives a real kernel, of norm 1 at each frequency of the other half.
    s = torch.linalg.svdvals(full.flatten(2).movedim(2, 0))
    assert (s - 1).abs().max() <= 1e-12


def by_definition(cls: type, matrix: Tensor) -> Tensor:
    """The map of a complex square matrix, by another route."""
    eye = torch.eye(len(matrix)) + 0j
    if cls is taut.Cayley:
        skew = matrix - matrix.mH
        return (eye - skew) @ torch.linalg.inv(eye + skew)
    if cls is taut.SpectralQR:  # Gram and Schmidt
        columns: list[Tensor] = []
        for column in matrix.T:
            rest = column - sum((q * (q.conj() @ column) for q in columns), torch.zeros(()))
            columns.append(rest / rest.norm())
        return torch.stack(columns, 1)
    if cls is taut.BRO:
        return eye - 2 * matrix @ torch.linalg.inv(matrix.mH @ matrix) @ matrix.mH
    values, vectors = torch.linalg.eigh(matrix @ matrix.mH)
    return vectors @ torch.diag(values**-0.5 + 0j) @ vectors.mH @ matrix


@every_method
def test_symbols_are_those_of_the_papers(cls):
    torch.set_default_dtype(torch.float64)
    try:
        module = cls(4, 4, (3, 3))
        set_raw_(module, "gaussian")
        raw = module.raw_vectors if cls is taut.BRO else module.raw_kernel
        raw = raw.detach()
        if cls is taut.Cayley:
            scale = 16 * math.tanh(module.raw_scale.item() / 16)
            raw = raw * scale / raw.norm()
        size = (3, 3) if cls is taut.ECO else (5, 4)
        expected = [by_definition(cls, matrix) for matrix in kernel_symbol(raw, size)]
        assert torch.allclose(module.symbol(size), torch.stack(expected), atol=1e-10)
    finally:
        torch.set_default_dtype(torch.float32)


@every_method
@pytest.mark.parametrize("channels", [(6, 6), (6, 3), (3, 6)])
def test_dense_layers_are_semi_orthogonal_and_train(cls, channels):
    layer = taut.nn.Linear(*channels, parametrization=cls, dtype=torch.float64)
    s = torch.linalg.svdvals(layer.weight)
    assert (s - 1).abs().max() <= 1e-12
    x = torch.randn(5, channels[0], dtype=torch.float64)
    other = taut.nn.Linear(*channels, parametrization=cls, dtype=x.dtype)
    target = other(x).detach()
    optimiser, losses = torch.optim.Adam(layer.parameters(), 0.05), []
    for _ in range(30):
        optimiser.zero_grad()
        loss = (layer(x) - target).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert float(taut.lipschitz_bound(layer, channels[:1])) <= 1 + 1e-9


@pytest.mark.parametrize("cls", [taut.Cayley, taut.LOT, taut.ECO, taut.SpectralQR])
def test_layers_start_near_the_identity(cls):
    layer = taut.nn.Conv2d(16, 16, 3, parametrization=cls, bias=False)
    x = torch.randn(2, 16, 6, 6)
    assert (layer(x) - x).norm() < 0.5 * x.norm()


def test_cayley_at_scale_zero_is_the_identity_and_trains_its_scale():
    layer = taut.nn.Conv2d(3, 3, 3, parametrization=taut.Cayley, bias=False)
    assert "raw_scale" in dict(layer.parametrization.named_parameters())  # before any forward
    nn.init.zeros_(layer.parametrization.raw_scale)
    x = torch.randn(1, 3, 5, 5)
    assert torch.allclose(layer(x), x, atol=1e-6)
    (layer(x) * torch.randn_like(x)).sum().backward()
    assert layer.parametrization.raw_scale.grad.abs() > 0


def test_bro_reflects_as_many_directions_as_its_rank():
    for rank in (1, 3, None):
        matrix = taut.BRO(8, 8, rank=rank, dtype=torch.float64).weight()
        count = 4 if rank is None else rank
        assert matrix.trace().item() == pytest.approx(8 - 2 * count)
        assert torch.allclose(matrix, matrix.T, atol=1e-12)
        assert torch.allclose(matrix @ matrix, torch.eye(8, dtype=matrix.dtype))
    layer = taut.nn.Conv2d(4, 6, 3, parametrization=partial(taut.BRO, rank=1))
    assert layer.parametrization.raw_vectors.shape == (6, 1, 3, 3)
    with pytest.raises(ValueError, match="`rank` must be at most the larger number of channels, 6"):
        taut.BRO(4, 6, (3, 3), rank=7)
    with pytest.raises(ValueError, match="`rank` must be a positive integer; got 0"):
        taut.BRO(4, 6, (3, 3), rank=0)


def test_eco_is_its_few_taps_dilated():
    module = taut.ECO(2, 3, (3, 2), dtype=torch.float64)
    taps, kernel = module.taps((6, 8)), module.weight((6, 8))
    assert taps.shape == (3, 2, 3, 2)
    expected = torch.zeros_like(kernel)
    expected[:, :, ::2, ::4] = taps
    assert torch.allclose(kernel, expected, atol=1e-14)
    with pytest.raises(ValueError, match=r"`kernel_size` must divide .*got kernel_size=\(3, 2\)"):
        module.weight((6, 7))
    # Alone, or with zeros around the input, the same taps are no 1-Lipschitz convolution.
    kernel = taut.ECO(4, 4, (3, 3), dtype=torch.float64)
    set_raw_(kernel, "gaussian")
    taps = kernel.taps((9, 9)).detach()
    s = torch.linalg.svdvals(dense_operator(partial(F.conv2d, weight=taps, padding=1), (4, 9, 9)))
    assert s.max() > 1.1


@pytest.mark.parametrize(("dilation", "domain"), [(2, 6), (3, 7), (4, 6), (5, 5), (6, 9)])
def test_symbols_of_dilated_kernels_are_those_of_kernels_with_zeros_between(dilation, domain):
    size = domain // math.gcd(dilation, domain)
    kernel = torch.randn(2, 3, 2, dtype=torch.float64)
    stuffed = torch.zeros(2, 3, 2 * dilation + 1, dtype=torch.float64)
    stuffed[:, :, dilation], stuffed[:, :, 2 * dilation] = kernel.unbind(2)  # the middle: origin
    symbol = dilated_symbol(kernel_symbol(kernel, (size,)), (size,), (dilation,), (domain,))
    assert torch.allclose(symbol, kernel_symbol(stuffed, (domain,)), atol=1e-12)


@pytest.mark.parametrize("function", [unitary_basis, polar_factor, cayley])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("shape", [(2, 3, 3), (4, 2), (2, 4)])
def test_gradients_are_those_of_finite_differences(function, dtype, shape):
    a = torch.randn(shape, dtype=dtype, requires_grad=True)
    assert torch.autograd.gradcheck(function, (a,))
    equal = torch.eye(*shape[-2:], dtype=dtype).mul_(2).requires_grad_()  # equal singular values
    assert torch.autograd.gradcheck(function, (equal,))
    q = function(a)
    for vmapped in (torch.func.vmap(function)(a[None]), function(a[None])):
        assert torch.allclose(vmapped[0], q, atol=1e-12)


def test_bases_follow_the_matrix_continuously():
    """Householder's Q jumps where an entry changes its sign; with a diagonal >= 0 it does not."""
    a = torch.randn(4, 4, dtype=torch.complex128)
    a[0, 0] = 1e-9
    b = a.clone()
    b[0, 0] = -1e-9
    assert (unitary_basis(a) - unitary_basis(b)).abs().max() < 1e-7


@every_method
def test_every_size_has_the_parameters_of_the_kernel_size(cls):
    shapes = {k: v.shape for k, v in cls(2, 3, (2, 2)).state_dict().items()}
    assert all(max(shape) <= 3 for shape in shapes.values())
    assert issubclass(cls, AbstractSpectral)
    assert cls.guarantee == "orthogonal"


@every_method
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_raw_tensors_that_are_not_finite_have_no_bound(cls, wrong):
    """torch's singular value decomposition fails in its own words."""
    layer = taut.nn.Conv1d(2, 2, 3, parametrization=cls)
    raw = layer.parametrization.get_parameter("raw_vectors" if cls is taut.BRO else "raw_kernel")
    with torch.no_grad():
        raw.view(-1)[0] = wrong
    with pytest.raises(ValueError, match=r"must be finite|NaN"):
        taut.lipschitz_bound(layer, (2, 6))


@every_method
def test_half_precision_is_refused(cls):
    layer = taut.nn.Conv1d(2, 2, 3, parametrization=cls).half()
    with pytest.raises(ValueError, match=f"`dtype` must be .* for {cls.__name__}"):
        layer(torch.ones(1, 2, 6, dtype=torch.float16))


@every_method
def test_equal_rows_of_wide_matrices_leave_the_norm_within_float32(cls):
    """BRO: 1 + 7e-6 where its basis and its product are rounded in float32."""
    module = cls(256, 256)
    with torch.no_grad():
        for raw in module.parameters():
            raw.copy_(torch.randn_like(raw[:1]).expand_as(raw))
        s = torch.linalg.svdvals(module.weight().double())
    assert s.max() <= 1 + 1e-6
    assert s.min() >= 1 - 1e-6


@pytest.mark.parametrize("method", [taut.Cayley, taut.SpectralQR])
def test_wide_layers_are_orthogonal_with_several_threads(method):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        layer = method(192, 192, (2, 2))
        symbol = layer.symbol((2, 2))
        symbol.abs().square().sum().backward()
    finally:
        torch.set_num_threads(threads)
    unit = symbol.detach().mH @ symbol.detach()
    assert (unit - torch.eye(192)).abs().max() < 1e-5
    assert all(bool(raw.grad.isfinite().all()) for raw in layer.parameters())
