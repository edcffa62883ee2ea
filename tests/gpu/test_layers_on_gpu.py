"""Every method and layer on a GPU: values, gradients, orthogonality, in all of its arithmetics."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import taut
from gpu_layers import MARKS, METHODS, PLACE, SHAPE, draw_, layer_of, net, products
from oracles import dense_operator
from taut.linalg.bases import orthonormal_basis
from taut.parametrizations import methods

pytestmark = MARKS

ORTHOGONAL = [name for name in METHODS if methods()[name].guarantee == "orthogonal"]
LAYERS = {
    "Conv1d": ((4, 6, 3), {}, (4, 9)),
    "Conv2d": ((4, 6, 3), {"groups": 2, "dilation": 2}, (4, 9, 7)),
    "Conv3d": ((2, 4, 3), {}, (2, 4, 3, 5)),
    "ConvTranspose1d": ((6, 4, 4), {"stride": 2}, (6, 6)),
    "ConvTranspose2d": ((6, 4, 4), {"stride": 2}, (6, 5, 7)),
    "ConvTranspose3d": ((4, 2, 2), {"stride": 2}, (4, 3, 2, 3)),
    "Linear": ((7, 5), {}, (7,)),
    "UnitColumnLinear": ((7, 5), {}, (7,)),
    "UnitRowLinear": ((7, 5), {}, (7,)),
    "SOC2d": ((4, 4, 3), {}, (4, 6, 6)),
    "ShiftMix2d": ((4, 4), {}, (4, 6, 6)),
    "PotentialResidual2d": ((4, 6, 3), {}, (4, 6, 6)),
    "Sandwich2d": ((4, 4, 3), {}, (4, 6, 6)),
    "HouseHolder": ((4,), {}, (4, 5, 5)),
    "MaxMin": ((), {}, (4, 5, 5)),
    "GroupSort": ((2,), {}, (4, 5, 5)),
    "Abs": ((), {}, (4, 5, 5)),
    "L2NormPool2d": ((2,), {}, (4, 6, 6)),
    "ScaledAvgPool2d": ((2,), {}, (4, 6, 6)),
    "InvertibleDownsample2d": ((2,), {}, (4, 6, 6)),
    "LayerCentering": ((), {}, (4, 6, 6)),
}


def results(layer: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Output, gradient of the input, gradients of the parameters; on the CPU."""
    x = x.clone().requires_grad_()
    y = layer(x)
    slope = torch.randn(y.shape, generator=torch.Generator().manual_seed(5)).to(y)
    grads = torch.autograd.grad(y, [x, *layer.parameters()], slope, allow_unused=True)
    return [t.detach().double().cpu() for t in (y, *grads) if t is not None]


def check_equal(layer: nn.Module, x: torch.Tensor) -> None:
    """What the GPU computes in strict float32 is what the CPU computes in float64, to rounding."""
    there = copy.deepcopy(layer).to(PLACE)
    with products(tf32=False):
        ours = results(there, x.to(PLACE))
    expected = results(copy.deepcopy(layer).double(), x.double())
    assert len(ours) == len(expected)
    for mine, theirs in zip(ours, expected, strict=True):
        assert mine.isfinite().all()
        assert (mine - theirs).norm() <= 2e-3 * theirs.norm() + 1e-6


@pytest.mark.parametrize("name", METHODS)
def test_every_method_computes_what_the_cpu_does(name):
    check_equal(*layer_of(name))


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_computes_what_the_cpu_does(name):
    arguments, options, shape = LAYERS[name]
    torch.manual_seed(2)
    layer = vars(taut.nn)[name](*arguments, **options)
    check_equal(layer, torch.randn(3, *shape))
    single = layer.to(PLACE)(torch.randn(1, *shape, device=PLACE))
    assert single.device.type == PLACE.type


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_under_autocast_to_bfloat16(name):
    layer, x = layer_of(name)
    expected = layer(x)
    layer, x = layer.to(PLACE), x.to(PLACE).requires_grad_()
    with torch.autocast(PLACE.type, torch.bfloat16):
        y = layer(x)
    y.float().square().mean().backward()
    grads = [x.grad, *(p.grad for p in layer.parameters() if p.grad is not None)]
    assert len(grads) > 1
    assert all(grad.isfinite().all() for grad in grads)
    assert (y.float().cpu() - expected).norm() <= 0.05 * expected.norm()


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("name", ORTHOGONAL)
def test_weights_are_orthogonal_whatever_products_are_allowed(name, tf32):
    """The weights are computed on the GPU; their operator is judged on the CPU in float64."""
    layer, x = layer_of(name)
    with products(tf32=tf32):
        frozen = taut.freeze(layer.to(PLACE), tuple(x.shape[1:]))
    values = torch.linalg.svdvals(dense_operator(frozen.cpu().double(), tuple(x.shape[1:])))
    assert values.max() <= 1 + 3e-6
    assert values.min() >= 1 - 1e-5


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_wide_layers_are_orthogonal_in_every_arithmetic(tf32, autocast):
    layer = taut.nn.Conv2d(256, 256, 3, device=PLACE)
    dense = taut.nn.Linear(512, 512, device=PLACE)
    for each in (layer, dense):
        draw_(each)
    with (
        torch.no_grad(),
        products(tf32=tf32),
        torch.autocast(PLACE.type, torch.bfloat16, enabled=autocast),
    ):
        kernel, matrix = layer.weight, dense.weight
    # A 3x3 kernel on a 4x4 domain: its Fourier transform there is the operator, block by block.
    padded = F.pad(kernel.double().cpu(), (0, 1, 0, 1))
    blocks = torch.fft.fft2(padded).permute(2, 3, 0, 1)
    for values in (torch.linalg.svdvals(blocks), torch.linalg.svdvals(matrix.double().cpu())):
        assert values.max() <= 1 + 3e-6
        assert values.min() >= 1 - 1e-5


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["gaussian", "huge", "tiny", "12 decades", "deficient", "zero"])
@pytest.mark.parametrize("sizes", [(5, 3), (33, 33), (300, 129), (2, 64, 32), (0, 4, 2)])
def test_bases_are_orthonormal_and_differentiable(sizes, kind, dtype, tf32):
    raw = torch.randn(sizes, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    if kind == "12 decades":
        raw *= torch.logspace(0, -12, sizes[-1], dtype=torch.float64)
    if kind == "deficient":
        raw[..., -1] = raw[..., 0]
    raw *= {"huge": 1e6, "tiny": 1e-6, "zero": 0.0}.get(kind, 1.0)
    raw = raw.to(PLACE, dtype).requires_grad_()
    with products(tf32=tf32):
        learned = orthonormal_basis(raw)
        (grad,) = torch.autograd.grad(learned.square().sum() + learned.sum(), raw)
        exact = orthonormal_basis(raw.detach())
    assert grad.isfinite().all()
    assert learned.device == exact.device == raw.device
    rounding = 2e-9 if dtype == torch.float64 else 6e-6
    identity = torch.eye(sizes[-1], dtype=torch.float64)

    def defect(basis: torch.Tensor) -> torch.Tensor:
        q = basis.detach().double().cpu()
        return q.mT @ q - identity

    assert (torch.linalg.matrix_norm(defect(exact), 2) <= rounding).all()
    if kind in ("gaussian", "huge", "tiny"):  # of condition numbers up to 1e6
        assert (torch.linalg.matrix_norm(defect(learned), 2) <= rounding).all()
    assert (torch.linalg.eigvalsh(defect(learned)) <= rounding).all()


def test_channels_last_is_kept_and_changes_nothing():
    model = net().to(PLACE)
    x = torch.randn(3, *SHAPE, device=PLACE)
    with products(tf32=False):
        expected = results(model, x)
        last = copy.deepcopy(model).to(memory_format=torch.channels_last)
        ours = results(last, x.to(memory_format=torch.channels_last))
        features = last[:5](x.to(memory_format=torch.channels_last))
    assert features.is_contiguous(memory_format=torch.channels_last)
    for mine, theirs in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_layers_are_made_on_the_device_and_seeds_are_obeyed(name):
    made = []
    for _ in range(2):
        torch.manual_seed(11)
        cls = methods()[name]
        options = {"parametrization": cls, "device": PLACE}
        layer = (
            taut.nn.Linear(6, 6, **options)
            if cls.matrices_only
            else taut.nn.Conv2d(2, 2, 3, **options)
        )
        tensors = [*layer.parameters(), *layer.buffers()]
        assert {tensor.device.type for tensor in tensors} == {PLACE.type}
        made.append(tensors)
    assert all(torch.equal(a, b) for a, b in zip(*made, strict=True))


def test_default_device_and_dtype_of_the_user_are_no_hindrance():
    model = net().to(PLACE)
    x = torch.randn(2, *SHAPE, device=PLACE)
    expected = model(x)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device(PLACE)
    try:
        y = model(x)
        y.square().sum().backward()
        made = taut.nn.Conv2d(2, 2, 3)
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, expected)
    assert made.weight.dtype == torch.float64
    assert made.weight.device.type == PLACE.type
