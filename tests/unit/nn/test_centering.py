"""Centring: projections of samples, and shifts by statistics of batches."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import taut
from oracles import dense_operator, rounding_of
from proven import assert_certified, assert_files_agree, jacobians
from taut.nn import BatchCentering, BatchLipNorm, LayerCentering
from taut.program import UnprovenError, trace
from tests.unit.nn.centring_worker import trained

PROJECTIONS = {
    "features": (LayerCentering(-1), (5,)),
    "tokens": (LayerCentering(-1), (3, 4)),
    "channels": (LayerCentering(1), (3, 2, 3)),
    "images": (LayerCentering((-2, -1), (3, 1, 1)), (3, 4, 5)),
    "whole": (LayerCentering((1, 2, 3), (1, 3)), (2, 2, 3)),
}


@pytest.fixture(params=PROJECTIONS)
def projection(request):
    return PROJECTIONS[request.param]


def test_layer_centring_is_the_projection_onto_values_of_mean_zero(projection):
    layer, shape = projection
    matrix = dense_operator(copy.deepcopy(layer).double(), shape)
    torch.testing.assert_close(matrix @ matrix, matrix, rtol=0, atol=1e-14)
    torch.testing.assert_close(matrix.T, matrix, rtol=0, atol=1e-14)
    x = torch.randn(2, *shape, dtype=torch.float64)
    y = copy.deepcopy(layer).double()(x)
    axes = [axis % x.dim() for axis in layer.dim]
    assert y.mean(axes).abs().max() < 1e-14
    kept = x.mean(axes, keepdim=True).expand_as(x)
    torch.testing.assert_close(x - y, kept, rtol=1e-13, atol=1e-13)
    assert (y * kept).sum().abs() < 1e-12


def test_layer_centring_has_the_bound_of_a_projection(projection):
    layer, shape = projection
    assert trace(layer, shape).nodes[0].op == "centre"
    for passes in (None, ()):
        assert float(taut.lipschitz_bound(layer, shape, passes=passes)) == 1.0
    sigma = taut.singular_values(layer, shape)
    assert (sigma - sigma.round()).abs().max() < 1e-12
    assert sigma.max() == pytest.approx(1, abs=1e-12)


def test_layer_centring_in_certificates_and_files(projection, tmp_path):
    layer, shape = copy.deepcopy(projection[0]), projection[1]
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
    assert assert_certified(layer, shape, tmp_path) <= 1 + 3e-6
    assert_files_agree(layer, shape, tmp_path)


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_rounding_of_layer_centring_is_within_what_is_promised(scale):
    layer, shape = LayerCentering((-2, -1)), (2, 5, 6)
    promised = rounding_of(layer, shape)
    x = scale * (torch.randn(50, *shape) + 30)  # most of it is lost
    error = (layer(x).double() - layer(x.double())).flatten(1).norm(dim=1)
    u = promised.count * 2.0**-24
    size = promised.absolute * x.double().flatten(1).norm(dim=1)
    assert (error <= u / (1 - u) * size).all()


class Written(nn.Module):
    """As other libraries write it: a mean of channels, with or without its axes, and a bias."""

    def __init__(self, keepdim, *, reverse=False):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(3))
        self.keepdim, self.reverse = keepdim, reverse

    def forward(self, x):
        mean = x.mean((-2, -1), self.keepdim)
        mean = mean if self.keepdim else mean.view(-1, 3, 1, 1)
        y = -mean + x if self.reverse else x - mean
        return y + self.bias.view(1, -1, 1, 1)


@pytest.mark.parametrize("keepdim", [True, False])
def test_centring_that_is_written_out_counts_with_one(keepdim):
    assert float(taut.lipschitz_bound(Written(keepdim), (3, 20, 20))) == 1.0
    negated = Written(keepdim, reverse=True)  # of a sum the plain rule
    assert float(taut.lipschitz_bound(negated, (3, 4, 4))) <= 2.0


class Halved(nn.Module):
    """Not centring: half of the mean, the mean of something else, and that of other axes."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, x):
        if self.kind == "twice":
            return x - 2 * x.mean(1, keepdim=True)
        if self.kind == "another":
            return x - (3 * x).mean(1, keepdim=True)
        return x.abs() - x.mean(1, keepdim=True)


@pytest.mark.parametrize("kind", ["twice", "another", "absolute"])
def test_what_is_no_centring_counts_as_what_it_is(kind):
    model, shape = Halved(kind), (4,)
    sigma = jacobians(model, shape, points=20).max()
    bound = float(taut.lipschitz_bound(model, shape))
    assert sigma <= bound * (1 + 1e-12)
    if kind != "twice":  # which is a reflection
        assert bound > 1.5


# Statistics of batches.


SHAPES = [(4,), (4, 5), (4, 3, 2), (4, 2, 2, 3)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
def test_statistics_move_as_those_of_the_batch_norm_of_torch(shape, momentum):
    torch.manual_seed(0)
    kind = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[len(shape) - 1]
    norm = kind(4, momentum=momentum, affine=False).double()
    ours = [BatchCentering(4, momentum).double(), BatchLipNorm(4, momentum=momentum).double()]
    assert all(layer.running_mean.shape == (4,) for layer in ours)
    for _ in range(4):
        x = 2 + torch.randn(5, *shape, dtype=torch.float64)
        norm(x)
        for layer in ours:
            y = layer(x)
            axes = [0, *range(2, x.dim())]
            assert y.mean(axes).abs().max() < 1e-13
    largest = y.detach().var(axes, correction=0).max().item()
    assert largest == pytest.approx(1, abs=1e-4)  # but for numerical_eps
    for layer in ours:
        torch.testing.assert_close(layer.running_mean, norm.running_mean)
        assert layer.num_batches_tracked == norm.num_batches_tracked == 4
    torch.testing.assert_close(ours[1].running_var, norm.running_var)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bias", [True, False])
def test_evaluation_is_a_shift_and_one_factor(shape, bias):
    torch.manual_seed(0)
    for layer in (BatchCentering(4, bias=bias), BatchLipNorm(4, bias=bias)):
        layer.double()
        if bias:
            nn.init.normal_(layer.bias)
        for _ in range(3):
            layer(3 * torch.randn(6, *shape, dtype=torch.float64))
        layer.eval()
        before = copy.deepcopy(layer.state_dict())
        x = torch.randn(2, *shape, dtype=torch.float64)
        factor = layer.factor() if isinstance(layer, BatchLipNorm) else torch.tensor(1.0)
        wide = (slice(None), *[None] * (len(shape) - 1))
        expected = (x - layer.running_mean[wide]) * factor
        expected = expected + layer.bias[wide] if bias else expected
        torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
        assert all(torch.equal(t, before[name]) for name, t in layer.state_dict().items())
        bound = float(taut.lipschitz_bound(layer, shape))
        assert bound == pytest.approx(float(factor), rel=1e-12)
        sigma = jacobians(layer, shape, points=1)
        torch.testing.assert_close(sigma, factor.double().expand_as(sigma))


@pytest.mark.parametrize("kind", [BatchCentering, BatchLipNorm])
def test_training_is_refused_and_leaves_the_statistics(kind):
    layer = kind(3)
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(UnprovenError, match="in training mixes the samples of a batch; call model"):
        taut.lipschitz_bound(nn.Sequential(layer), (3, 4))
    assert all(torch.equal(t, before[name]) for name, t in layer.state_dict().items())


@pytest.mark.parametrize("kind", [BatchCentering, BatchLipNorm])
def test_batch_statistics_are_composed_with_their_neighbours(kind, tmp_path):
    torch.manual_seed(0)
    body = nn.Sequential(taut.nn.Conv2d(1, 4, 3), kind(4), taut.nn.Conv2d(4, 4, 3))
    with torch.no_grad():
        body(5 * torch.randn(8, 1, 4, 4))
    body.eval()
    bound = taut.lipschitz_bound(body, (1, 4, 4))
    factor = float(body[1].factor()) if kind is BatchLipNorm else 1.0
    assert float(bound) == pytest.approx(factor, rel=1e-5)
    assert len(bound.layers) == 1  # one convolution
    assert_certified(body, (1, 4, 4), tmp_path)
    assert_files_agree(body, (1, 4, 4), tmp_path)


@pytest.mark.parametrize("kind", [BatchCentering, BatchLipNorm])
def test_gradients_in_training(kind):
    layer = kind(3).double()
    x = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: copy.deepcopy(layer)(x), (x,), fast_mode=True)
    layer(torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)).sum().backward()
    assert layer.bias.grad.isfinite().all()
    half = kind(3).to(torch.bfloat16)
    assert half(torch.randn(4, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16
    other = kind(3).double()
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.eval()(x), layer.eval()(x))
    layer.reset_parameters()
    assert layer.num_batches_tracked == 0
    assert not layer.running_mean.any()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_means_in_bfloat16_are_nearly_those_in_float32(layout):
    """Where the mean is far larger than the spread; one rounding to bfloat16 may cost 2e-3."""
    x = (torch.randn(256, 8, 6, 5) + torch.linspace(10, 20, 8)[:, None, None]).bfloat16()
    layer = BatchCentering(8, momentum=1.0)
    layer(x.to(memory_format=layout))
    mean = x.double().mean((0, 2, 3))
    assert ((layer.running_mean.double() - mean) / mean).abs().max() < 5e-4


def test_wrong_arguments_are_named():
    for run, match in (
        (lambda: LayerCentering(0), "`dim` must hold axes of a sample"),
        (lambda: LayerCentering(()), "`dim` must hold axes of a sample"),
        (
            lambda: LayerCentering(3)(torch.zeros(1, 3)),
            "`dim` must hold axes of the input",
        ),
        (lambda: LayerCentering(-1, (2, 3))(torch.zeros(1, 3)), "`bias` must be broadcast"),
        (lambda: BatchCentering(0), "`channels` must be a positive integer"),
        (lambda: BatchCentering(2, momentum=2.0), r"`momentum` must be in \[0, 1\], or None"),
        (lambda: BatchLipNorm(2, -1.0), "`numerical_eps` must be a finite number >= 0"),
        (lambda: BatchCentering(2)(torch.zeros(1, 3)), r"shape \(batch, 2, \*spatial\)"),
        (lambda: BatchLipNorm(2)(torch.zeros(1, 2)), "2 or more entries of each channel"),
        (lambda: BatchCentering(2)(torch.zeros(0, 2)), "1 or more entries of each channel"),
    ):
        with pytest.raises(ValueError, match=match):
            run()


@pytest.mark.slow
def test_two_processes_compute_what_one_does(tmp_path):
    """With uneven parts of a batch, one of them empty: outputs, statistics and gradients."""
    batches = [torch.randn(8, 3, dtype=torch.float64) + 1 for _ in range(2)]
    save_file({str(i): x for i, x in enumerate(batches)}, tmp_path / "batches.safetensors")
    worker = Path(__file__).with_name("centring_worker.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    ours = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    done = subprocess.run(
        [*command, str(worker), str(tmp_path)],
        env=ours | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[:4000]
    for kind in ("centre", "norm"):
        expected = trained(kind, batches, lambda layer: layer)
        said = [load_file(tmp_path / f"{kind}-{rank}.safetensors") for rank in (0, 1)]
        for name, value in expected.items():
            if name.partition(".")[2] in ("x", "y"):
                found = torch.cat([one[name] for one in said])
            else:
                for one in said:
                    torch.testing.assert_close(one[name], said[0][name], rtol=0, atol=0)
                found = said[0][name] * (2 if name.startswith("grad.") else 1)  # DDP averages
            torch.testing.assert_close(found, value, rtol=1e-10, atol=1e-12)
