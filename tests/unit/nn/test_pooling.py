"""L2 pools: norms of windows, 1-Lipschitz, proven in every file."""

import copy
import itertools
import math

import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import taut
from oracles import rounding_of
from proven import assert_certified, assert_files_agree, jacobians
from taut.nn import (
    AdaptiveL2NormPool1d,
    AdaptiveL2NormPool2d,
    AdaptiveL2NormPool3d,
    L2NormPool1d,
    L2NormPool2d,
    L2NormPool3d,
)
from taut.program import UnprovenError, trace

WINDOWS = {
    "2": (L2NormPool2d(2), (2, 6, 5)),
    "3 at stride 2": (L2NormPool2d(3, 2), (1, 7, 7)),
    "padded": (L2NormPool2d(3, 2, 1), (2, 6, 7)),
    "over the border": (L2NormPool2d((3, 2), 2, ceil_mode=True), (2, 6, 5)),
    "over both": (L2NormPool2d(3, 2, 1, True), (1, 6, 5)),
    "gaps": (L2NormPool2d(1, 2), (2, 5, 4)),
    "line": (L2NormPool1d(5, 2), (3, 11)),
    "smooth": (L2NormPool1d(3, 1, numerical_eps=0.25), (2, 7)),
    "volume": (L2NormPool3d((1, 3, 2), 1, (0, 1, 0)), (1, 2, 4, 3)),
}
ADAPTIVE = {
    "global": (AdaptiveL2NormPool2d(1), (3, 4, 5)),
    "global line": (AdaptiveL2NormPool1d(1), (3, 5)),
    "global volume": (AdaptiveL2NormPool3d(1, numerical_eps=0.1), (2, 2, 3, 2)),
    "whole windows": (AdaptiveL2NormPool2d((2, None)), (2, 4, 3)),
    "shared": (AdaptiveL2NormPool2d((3, 2)), (2, 4, 5)),
    "more": (AdaptiveL2NormPool1d(7), (2, 3)),
}
POOLS = WINDOWS | ADAPTIVE
UNEVEN = ("shared", "more")  # windows of several sizes, which ONNX has no pool for


def plain(pool, x):
    """Norms of windows entry by entry, not divided."""
    axes = pool.axes
    if hasattr(pool, "output_size"):
        sizes = [n if m is None else m for n, m in
                 zip(x.shape[-axes:], pool.output_size, strict=True)]  # fmt: skip
        windows = [
            [(i * n // m, -(-(i + 1) * n // m)) for i in range(m)]
            for n, m in zip(x.shape[-axes:], sizes, strict=True)
        ]
    else:
        kind = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[axes - 1]
        sized = kind(pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode)
        counts = sized(torch.zeros(1, 1, *x.shape[-axes:])).shape[2:]
        x = F.pad(x, [p for p in pool.padding[::-1] for _ in range(2)])
        padded = x.shape[-axes:]
        windows = [
            [(i * s, min(i * s + k, n)) for i in range(count)]
            for k, s, n, count in zip(pool.kernel_size, pool.stride, padded, counts, strict=True)
        ]
    norms = [
        x[(..., *(slice(*window) for window in place))].flatten(-axes).norm(dim=-1)
        for place in itertools.product(*windows)
    ]
    return torch.stack(norms, -1).reshape(*x.shape[:-axes], *map(len, windows)), windows


def shares(pool, shape):
    """How many windows share an entry in any image of this or a larger size."""
    if hasattr(pool, "output_size"):
        _, windows = plain(pool, torch.zeros(1, *shape))
        lines = [max(sum(a <= i < b for a, b in line) for i in range(line[-1][1]))
                 for line in windows]  # fmt: skip
        return math.prod(lines)
    return math.prod(-(-k // s) for k, s in zip(pool.kernel_size, pool.stride, strict=True))


@pytest.fixture(params=POOLS)
def case(request):
    return POOLS[request.param]


def test_it_is_the_norm_of_each_window(case):
    pool, shape = case
    x = torch.randn(2, *shape, dtype=torch.float64)
    norms, _ = plain(pool, x)
    expected = (norms.square() / shares(pool, shape) + pool.numerical_eps**2).sqrt()
    torch.testing.assert_close(pool(x), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(pool(x)[0], pool(x[0]))
    torch.testing.assert_close(pool(x.float()), expected.float(), rtol=1e-5, atol=1e-6)
    assert torch.equal(torch.func.vmap(pool)(x), pool(x))
    assert torch.equal(copy.deepcopy(pool)(x.requires_grad_()).detach(), pool(x.detach()))


def test_no_jacobian_is_above_one(case):
    pool, shape = case
    assert jacobians(pool, shape).max() <= 1 + 1e-12
    for scale in (1e6, 1e-6):
        scaled = nn.Sequential(taut.nn.Times(scale), pool)
        assert jacobians(scaled, shape).max() / scale <= 1 + 1e-9


def test_the_bound_is_that_of_a_single_entry(case):
    """In images so large that as many windows share an entry as can."""
    pool, _ = case
    shape = (1, *[9] * pool.axes) if not hasattr(pool, "output_size") else case[1]
    bound = float(taut.lipschitz_bound(pool, shape))
    assert 1 <= bound < 1 + 2e-8
    units = 1e6 * torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    moved = pool(units) - pool(torch.zeros_like(units))
    assert moved.flatten(1).norm(dim=1).max() / 1e6 == pytest.approx(1, abs=1e-5)
    assert float(taut.lipschitz_bound(pool, shape, passes=())) == bound


def test_undivided_windows_that_overlap_are_above_one():
    class Undivided(nn.Module):
        def forward(self, x):
            return torch.sqrt(9 * F.avg_pool2d(x * x, 3, 2))

    pool, shape = Undivided(), (1, 7, 7)
    single = torch.zeros(1, *shape, dtype=torch.float64)
    single[..., 2, 2] = 1.0  # where four windows meet
    assert pool(single).norm() == float(taut.lipschitz_bound(pool, shape)) == 2.0
    assert 1.2 < jacobians(pool, shape).max() < 2.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_at_zero_are_zero(case, dtype):
    pool, shape = case
    x = torch.zeros(1, *shape, dtype=dtype, requires_grad=True)
    (gradient,) = torch.autograd.grad(pool(x).sum(), x)
    assert torch.equal(gradient, torch.zeros_like(x))
    transformed = torch.func.grad(lambda x: pool(x).sum())(x.detach())
    assert torch.equal(transformed, gradient)


@pytest.mark.parametrize("name", ["2", "padded", "smooth", "shared"])
def test_gradients(name):
    pool, shape = POOLS[name]
    x = torch.randn(2, *shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(pool, (x,))
    assert torch.autograd.gradgradcheck(pool, (x,), fast_mode=True)


def test_norms_stay_where_windows_do_not_overlap():
    x = torch.randn(4, 3, 6, 6, dtype=torch.float64)
    for pool in (L2NormPool2d(2), L2NormPool2d((1, 3)), AdaptiveL2NormPool2d((2, 3))):
        torch.testing.assert_close(pool(x).flatten(1).norm(dim=1), x.flatten(1).norm(dim=1))
        assert (jacobians(pool, (1, 6, 6)) - 1).abs().max() < 1e-12


QUICK = ("padded", "over both", "smooth", "global", "shared")


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in POOLS]
)
def test_certificates_and_files(name, tmp_path):
    pool, shape = POOLS[name]
    onnx = name not in UNEVEN
    assert assert_certified(pool, shape, tmp_path) <= 1 + 3e-6
    assert_files_agree(pool, shape, tmp_path, onnx=onnx)
    if not onnx:
        with pytest.raises(ValueError, match="windows must have one size"):
            taut.export.export(pool, tmp_path / "m.onnx", shape)


@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e-19, 1e-25, 1e15])
@pytest.mark.parametrize("name", ["padded", "smooth", "shared", "global"])
def test_rounding_is_within_what_is_promised(name, scale):
    pool, shape = POOLS[name]
    promised = rounding_of(pool, shape)
    x = scale * torch.randn(50, *shape)
    error = (pool(x).double() - pool(x.double())).flatten(1).norm(dim=1)
    u = promised.count * 2.0**-24
    size = promised.absolute * x.double().flatten(1).norm(dim=1) + promised.constant
    assert (error <= u / (1 - u) * size).all()
    assert promised.squares


def test_squares_limit_the_size_of_certified_images():
    """Beyond that size squares of float32 overflow, and nothing is claimed."""
    model = nn.Sequential(L2NormPool1d(2), nn.Flatten(), nn.Linear(2, 2))
    limits = {}
    for arithmetic in ("float32", "float64"):
        certificate = taut.certification.prove(model, (1, 4), arithmetic=arithmetic)
        limits[arithmetic] = certificate.composed.norm_limit
    assert 2.0**61 < limits["float32"] <= 2.0**62
    assert 2.0**509 < limits["float64"] <= 2.0**510
    assert L2NormPool1d(2)(torch.full((1, 1, 2), 2.0**61)).isfinite().all()
    assert L2NormPool1d(2)(torch.full((1, 1, 2), 2.0**64)).isinf().all()


WRITTEN = {
    "pool": lambda x: torch.sqrt(4 * F.avg_pool2d(x * x, 2) + 1e-3),
    "overlapping": lambda x: F.avg_pool2d(x.square(), 3, 1).sqrt(),
    "sum": lambda x: (x**2).sum((2, 3)).sqrt(),
    "features": lambda x: 0.5 * (0.01 + 3 * x.square().sum(1, keepdim=True)).sqrt(),
    "whole": lambda x: torch.sqrt(F.adaptive_avg_pool2d(x**2, 1)),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_pools_that_are_written_out_have_a_bound(name, tmp_path):
    class Written(nn.Module):
        def forward(self, x):
            return WRITTEN[name](x)

    model, shape = Written(), (2, 6, 6)
    assert trace(model, shape).nodes[0].op == "l2_pool"
    bound = float(taut.lipschitz_bound(model, shape))
    units = 1e6 * torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    largest = (model(units) - model(0 * units)).flatten(1).norm(dim=1).max() / 1e6
    assert bound == pytest.approx(float(largest), rel=1e-4)
    assert jacobians(model, shape).max() <= bound * (1 + 1e-12)
    assert_certified(model, shape, tmp_path)


ROOTS = {
    "signal": lambda x: x.abs().sqrt(),
    "first power": lambda x: F.avg_pool2d(x, 2).sqrt(),
    "another factor": lambda x: F.avg_pool2d(x * (2 * x), 2).sqrt(),
    "less": lambda x: (F.avg_pool2d(x * x, 2) - 1e-3).sqrt(),
    "negative": lambda x: (-1 * F.avg_pool2d(x * x, 2)).sqrt(),
    "cube": lambda x: F.avg_pool2d(x**3, 2).sqrt(),
    "mean": lambda x: (x**2).mean((2, 3)).sqrt(),
}


@pytest.mark.parametrize("name", ROOTS)
def test_other_roots_are_refused(name):
    class Root(nn.Module):
        def forward(self, x):
            return ROOTS[name](x)

    with pytest.raises(UnprovenError, match=r"sqrt.*no proven bound"):
        taut.lipschitz_bound(Root(), (1, 4, 4))


def test_files_of_global_pools_take_any_size(tmp_path):
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), L2NormPool2d(2))
    model = nn.Sequential(*body, AdaptiveL2NormPool2d(1), nn.Flatten()).eval()
    path, x = tmp_path / "model.onnx", torch.randn(2, 1, 12, 6)
    taut.export.export(model, path, (1, 8, 8), any_size=True)
    session = onnxruntime.InferenceSession(str(path))
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), model(x).detach(), rtol=1e-5, atol=1e-6)
    scaled = nn.Sequential(*body, taut.nn.ScaledAdaptiveAvgPool2d(1)).eval()
    with pytest.raises(ValueError, match=r"`any_size` must be False: .* the factor of a pool"):
        taut.export.export(scaled, path, (1, 8, 8), any_size=True)


def test_global_averages_keep_constants_in_every_dimension():
    kinds = (taut.nn.ScaledAdaptiveAvgPool1d, taut.nn.ScaledAdaptiveAvgPool2d,
             taut.nn.ScaledAdaptiveAvgPool3d)  # fmt: skip
    for axes, kind in enumerate(kinds, 1):
        shape = (2, *(3, 4, 2)[:axes])
        sigma = taut.singular_values(kind(1), shape)
        assert (sigma - 1).abs().max() < 1e-12


def test_wrong_arguments_are_named():
    for make, match in (
        (lambda: L2NormPool2d(0), "`kernel_size` must be a positive integer"),
        (lambda: L2NormPool1d(2, padding=-1), "`padding` must be an integer >= 0"),
        (lambda: L2NormPool1d(2, numerical_eps=-1.0), "`numerical_eps` must be a finite number"),
        (lambda: AdaptiveL2NormPool2d(0), "`output_size` must be a positive integer or None"),
        (lambda: AdaptiveL2NormPool2d((1, 2, 3)), "`output_size` must be .* or 2 of them"),
    ):
        with pytest.raises(ValueError, match=match):
            make()


@pytest.mark.parametrize("kind", [taut.nn.L2NormPool2d, taut.nn.ScaledAvgPool2d])
def test_inputs_that_do_not_fit_are_named(kind):
    for shape in ((1, 2, 4, 4), (2, 2, 9)):
        with pytest.raises(ValueError, match=r"`kernel_size` must be at most .* got .*\(5, 2\)"):
            kind((5, 2))(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"`input` must have shape \(c, h, w\) or .* got \(4,\)"):
        kind(2)(torch.zeros(4))
    for adaptive in (taut.nn.AdaptiveL2NormPool2d, taut.nn.ScaledAdaptiveAvgPool2d):
        with pytest.raises(ValueError, match=r"`input` must have shape \(c, h, w\) or .* \(4,\)"):
            adaptive(1)(torch.zeros(4))
    with pytest.raises(ValueError, match="`dim` must hold axes of the input; got 5"):
        taut.nn.ScaledMean(5)(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="`padding` must be at most half of `kernel_size`; got"):
        kind(3, padding=2)
    for size, stride in itertools.product(range(1, 7), range(1, 5)):  # refused where torch refuses
        plain = nn.AvgPool2d(4, stride, 1, ceil_mode=True)
        x = torch.ones(1, 1, size, 4)
        try:
            shape = plain(x).shape
        except RuntimeError:
            shape = None
        pool = kind(4, stride, 1, ceil_mode=True)
        if shape is None:
            with pytest.raises(ValueError, match="`kernel_size` must be at most"):
                pool(x)
        else:
            assert pool(x).shape == shape
