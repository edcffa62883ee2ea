"""Skew orthogonal convolutions: against slow series of dense skew matrices, and to their files."""

import copy
import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import forgery
import taut
from exported_nets import in_onnxruntime
from oracles import dense_operator
from taut.certification import verifier
from taut.export import export, load
from taut.linalg.series import RADII
from thinning import one_in

LAYERS = {1: taut.nn.SOC1d, 2: taut.nn.SOC2d, 3: taut.nn.SOC3d}
CASES = [  # channels, kernel size, input size, options
    (3, 3, (5, 4), {}),
    (4, 3, (4, 3), {"groups": 2}),
    (2, (3, 5), (5, 6), {"dilation": (2, 1)}),
    (3, 5, (3, 2), {}),  # on a periodic domain smaller than the kernel
    (3, 1, (2, 3), {}),
    (4, 3, (7,), {"dilation": 3, "groups": 2}),
    (2, 3, (3, 2, 4), {}),
]
RAWS = ["fresh", "gaussian", "large", "small", "huge", "tiny", "decades", "deficient", "zero"]


def made(case, mode="zeros", kind="gaussian", dtype=torch.float64, **options):
    channels, kernel_size, size, own = case
    layer = LAYERS[len(size)](
        channels, channels, kernel_size, bias=False, padding_mode=mode, dtype=dtype,
        **own, **options,
    )  # fmt: skip
    fill_(layer, kind)
    return layer


def fill_(layer, kind):
    raw = layer.parametrization.raw_kernel
    factors = {"large": 1e6, "small": 1e-6, "huge": 1e36, "tiny": 1e-36, "zero": 0.0}
    with torch.no_grad():
        if kind != "fresh":
            raw.normal_().mul_(factors.get(kind, 1.0))
        if kind == "decades":
            steps = torch.logspace(0, -12, len(raw), dtype=raw.dtype)
            raw *= steps.reshape(-1, *[1] * (raw.dim() - 1))
        if kind == "deficient":
            raw[0] = 0


def generator(layer, size):
    """The dense matrix of J: plain torch, the identity pushed through."""
    weight, steps = layer.weight.detach().double(), layer.sizes.steps
    sides = [d * (k // 2) for d, k in zip(steps.dilation, weight.shape[2:], strict=True)]
    convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(size)]

    def apply(x):
        if steps.padding_mode == "circular":
            for axis, side in enumerate(sides, 2):
                places = torch.arange(-side, x.shape[axis] + side) % x.shape[axis]
                x = x.index_select(axis, places)
        pads = sides if steps.padding_mode == "zeros" else 0
        return convolve(x, weight, None, 1, pads, steps.dilation, steps.groups)

    return dense_operator(apply, (layer.sizes.channels, *size))


def slow_series(matrix, degree):
    total = torch.eye(len(matrix), dtype=torch.float64)
    for j in range(1, degree + 1):
        power = torch.eye(len(matrix), dtype=torch.float64)
        for _ in range(j):
            power = power @ matrix
        total = total + power / math.factorial(j)
    return total


def spectrum(layer, shape):
    return torch.linalg.svdvals(dense_operator(copy.deepcopy(layer).double(), shape))


@pytest.mark.parametrize("mode", ["zeros", "circular"])
@pytest.mark.parametrize("case", CASES)
def test_layer_is_the_series_of_a_dense_skew_matrix(case, mode):
    layer = made(case, mode, degree=7)
    matrix = generator(layer, case[2])
    torch.testing.assert_close(matrix, -matrix.T, rtol=0, atol=1e-15)
    assert 0.1 < torch.linalg.matrix_norm(matrix, 2) <= RADII[7]
    found = dense_operator(layer, (case[0], *case[2]))
    torch.testing.assert_close(found, slow_series(matrix, 7), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", ["zeros", "circular"])
@pytest.mark.parametrize("case", CASES)
def test_layer_of_degree_12_is_orthogonal_also_with_zeros(case, mode):
    layer = made(case, mode, degree=12, radius=1.0)
    found = dense_operator(layer, (case[0], *case[2]))
    expected = torch.linalg.matrix_exp(generator(layer, case[2]))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    assert (torch.linalg.svdvals(found) - 1).abs().max() <= 1e-9
    assert layer.isometry == "both"


@pytest.mark.parametrize(
    ("kind", "case", "mode"),
    one_in(3, [(k, c, m) for k in RAWS for c in CASES[:3] for m in ("zeros", "circular")]),
)
def test_norm_is_at_most_1_for_all_raws(kind, case, mode):
    for dtype, above in ((torch.float64, 1e-9), (torch.float32, 3e-6)):
        layer = made(case, mode, kind, dtype)
        weight = layer.weight
        kernels = weight.detach().unflatten(0, (layer.sizes.steps.groups, -1))
        flipped = kernels.transpose(1, 2).flip(*range(3, kernels.dim()))
        assert torch.equal(kernels, -flipped)
        s = spectrum(layer, (case[0], *case[2]))
        assert s.min() > 0.7
        assert s.max() <= 1 + above
        assert float(taut.lipschitz_bound(layer, (case[0], *case[2]))) == 1.0
        x = torch.randn(2, case[0], *case[2], dtype=dtype)
        layer(x).square().sum().backward()
        assert layer.parametrization.raw_kernel.grad.isfinite().all()


@pytest.mark.parametrize("degree", [*RADII, 5, 6, 9, 10])
def test_polynomials_are_at_most_1_up_to_their_radius(degree):
    """Of a rotation by an angle: singular values are the moduli of the sum at i times it."""
    radius = RADII.get(degree, 1.0)
    for angle in np.linspace(0.02, radius, 100):
        matrix = torch.tensor([[0.0, angle], [-angle, 0.0]], dtype=torch.float64)
        s = torch.linalg.svdvals(slow_series(matrix, degree))
        if degree in RADII:
            assert s.max() <= 1 + 1e-14
        elif angle > 0.5:
            assert s.min() > 1
    beyond = radius * (1 + 3e-4)
    matrix = torch.tensor([[0.0, beyond], [-beyond, 0.0]], dtype=torch.float64)
    assert torch.linalg.matrix_norm(slow_series(matrix, degree), 2) > 1


LEAST = {  # singular values up to norm 1 and up to the radius, as docs/series.md has them
    3: (0.9718, 0.942), 4: (0.9939, 0.5), 7: (1 - 1.6e-5, 0.99984), 8: (1 - 2.2e-6, 0.978),
    11: (1 - 1.3e-9, 1 - 5.7e-8), 12: (1 - 1.3e-10, 0.99989), 15: (1 - 2.9e-14, 1 - 6.1e-12),
    16: (1 - 2.5e-15, 1 - 1.4e-7),
}  # fmt: skip


@pytest.mark.parametrize("degree", RADII)
def test_smallest_singular_values_are_those_of_the_table(degree):
    for most, least in zip((1.0, RADII[degree]), LEAST[degree], strict=True):
        angles = 1j * np.linspace(0, most, 20001)
        values = np.abs(sum(angles**j / math.factorial(j) for j in range(degree + 1)))
        assert least - 1e-15 <= values.min() <= least + 0.1 * (1 - least)


@pytest.mark.parametrize("degree", RADII)
def test_largest_norms_that_a_degree_allows_are_reached(degree):
    """A kernel of one tap and two channels is a rotation, whose angle is its row's sum."""
    layer = made((2, 1, (2, 2), {}), kind="large", degree=degree)
    norm = torch.linalg.matrix_norm(generator(layer, (2, 2)), 2).item()
    assert RADII[degree] * (1 - 1e-5) < norm < RADII[degree]
    assert spectrum(layer, (2, 2, 2)).max() <= 1 + 1e-12
    assert float(taut.lipschitz_bound(layer, (2, 2, 2))) == 1.0


def test_factors_of_the_rows_alone_lose_what_factors_of_both_sides_keep():
    """Rows that are normalised after the skew part (AdaptiveSOC of orthogonium)."""
    layer = made((4, 3, (5, 5), {}), kind="decades", degree=12, radius=1.0)
    with torch.no_grad():
        layer.parametrization.raw_kernel[2] *= 40
    raw = layer.parametrization.raw_kernel.detach()
    skew = raw - raw.transpose(0, 1).flip(2, 3)
    rows = skew / skew.abs().sum((1, 2, 3), keepdim=True)
    twin = taut.freeze(layer)
    with torch.no_grad():
        twin.weight.copy_(rows)
    s = spectrum(twin, (4, 5, 5))
    assert s.max() > 1.01
    assert s.min() < 0.99
    assert (spectrum(layer, (4, 5, 5)) - 1).abs().max() < 1e-9


@pytest.mark.parametrize("sizes", [(2, 8), (3, 4), (2, 11), (4, 4)])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_strides_and_other_channels_are_semi_orthogonal(sizes, groups, mode):
    inputs, outputs = (n * groups for n in sizes)
    layer = taut.nn.SOC2d(inputs, outputs, 3, 2, groups=groups, padding_mode=mode, degree=12,
                          radius=1.0, dtype=torch.float64)  # fmt: skip
    fill_(layer, "gaussian")
    shape = (inputs, 4, 6)
    found = dense_operator(layer, shape)
    assert found.shape == (outputs * 6, inputs * 24)
    assert (torch.linalg.svdvals(found) - 1).abs().max() < 1e-9
    expected = {-1: "columns", 0: "both", 1: "rows"}[np.sign(4 * inputs - outputs)]
    assert layer.isometry == expected
    torch.testing.assert_close(taut.singular_values(layer, shape), torch.linalg.svdvals(found))


def test_stride_is_downsampling_and_the_square_layer():
    layer = taut.nn.SOC2d(2, 8, 3, 2)
    square = taut.nn.SOC2d(8, 8, 3)
    square.load_state_dict(layer.state_dict())
    x = torch.randn(2, 2, 6, 4)
    folded = taut.nn.InvertibleDownsample2d(2)(x)
    torch.testing.assert_close(layer(x), square(folded))
    odd = F.pad(x, (0, 1, 0, 1))
    torch.testing.assert_close(layer(odd), layer(F.pad(odd, (0, 1, 0, 1))))


def test_unequal_strides_move_blocks_into_channels():
    layer = taut.nn.SOC3d(2, 12, 1, (1, 2, 3), bias=False)
    fill_(layer, "zero")
    x = torch.randn(1, 2, 2, 4, 6)
    y = layer(x)
    for c in range(2):
        for i in range(2):
            for j in range(3):
                expected = x[:, c, :, i::2, j::3]
                assert torch.equal(y[:, 6 * c + 3 * i + j], expected)


@pytest.mark.parametrize(
    ("mode", "case"), one_in(3, itertools.product(["zeros", "circular"], CASES[1:3]))
)
def test_gradients_are_those_of_finite_differences_twice(case, mode):
    channels, kernel_size, size, options = case
    layer = taut.nn.SOC2d(channels, channels + 2, kernel_size, padding_mode=mode, degree=3,
                          dtype=torch.float64, **options)  # fmt: skip
    fill_(layer, "gaussian")
    names = [name for name, _ in layer.named_parameters()]
    tensors = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    x = torch.randn(1, channels, 2, size[1] - 2, dtype=torch.float64, requires_grad=True)

    def function(x, *tensors):
        return torch.func.functional_call(layer, dict(zip(names, tensors, strict=True)), (x,))

    assert torch.autograd.gradcheck(function, (x, *tensors))
    assert torch.autograd.gradgradcheck(function, (x, *tensors))


def test_gradients_agree_with_those_that_keep_every_step():
    """Inside of transforms of torch.func autograd records each step."""
    layer, x = taut.nn.SOC2d(3, 4, 3, stride=2), torch.randn(3, 3, 5, 5)
    fill_(layer, "gaussian")
    parameters = dict(layer.named_parameters())

    def loss(parameters, x):
        return torch.func.functional_call(layer, parameters, (x,)).square().sum()

    recorded = torch.func.grad(loss)(parameters, x)
    loss(parameters, x).backward()
    for name, parameter in parameters.items():
        torch.testing.assert_close(parameter.grad, recorded[name], rtol=1e-4, atol=1e-5)
    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    torch.testing.assert_close(each["bias"].sum(0), recorded["bias"], rtol=1e-4, atol=1e-5)
    jacobian = torch.func.jacrev(layer)(x[0]).reshape(4 * 9, -1)
    dense = dense_operator(copy.deepcopy(layer).double(), (3, 5, 5)).float()
    torch.testing.assert_close(jacobian, dense, rtol=1e-4, atol=1e-5)


def test_one_position_of_one_channel_in_each_group_trains():
    """torch fails for a view of one position: "grad_weight must be contiguous"."""
    layer = taut.nn.SOC1d(2, 2, 5, stride=3, groups=2, dtype=torch.float64)
    x = torch.randn(1, 2, 2, dtype=torch.float64)
    layer(x).square().sum().backward()
    assert layer.parametrization.raw_kernel.grad is not None
    assert layer.parametrization.raw_kernel.grad.abs().max() > 0


def test_mixed_precision_trains():
    layers, x = nn.Sequential(nn.Conv2d(2, 3, 3), taut.nn.SOC2d(3, 3, 3)), torch.randn(2, 2, 6, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layers(x)
    y.float().square().sum().backward()
    found = layers[1].parametrization.raw_kernel.grad.clone()
    layers.zero_grad()
    layers(x).square().sum().backward()
    expected = layers[1].parametrization.raw_kernel.grad
    assert (found - expected).norm() < 0.05 * expected.norm()


def test_memory_that_is_kept_does_not_grow_with_the_degree():
    kept = []
    for degree in RADII:
        layer, numbers = taut.nn.SOC2d(4, 4, 3, degree=degree), []
        weight = layer.weight.detach().requires_grad_()
        twin = taut.freeze(layer)
        twin.weight = nn.Parameter(weight)
        x = torch.randn(2, 4, 16, 16, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, numbers=numbers: (numbers.append(t.numel()), t)[1], lambda t: t
        ):
            twin(x)
        kept.append(sum(numbers))
        assert sorted(numbers) == sorted([x.numel(), weight.numel()])
    assert len(set(kept)) == 1


def test_layer_starts_near_the_identity_and_leaves_it():
    layer, x = taut.nn.SOC2d(4, 4, 3, bias=False), torch.randn(16, 4, 6, 6)
    assert 0.01 < (layer(x) - x).norm() / x.norm() < 0.5
    fill_(layer, "zero")
    assert torch.equal(layer(x), x)
    target = x.roll(1, 1)
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = (layer(x) - target).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    s = spectrum(layer, (4, 6, 6))
    assert s.max() <= 1 + 3e-6


def test_modules_keep_the_habits_of_torch():
    layer = taut.nn.SOC2d(2, 4, 3, 2, degree=4)
    x = torch.randn(3, 2, 6, 6)
    torch.testing.assert_close(layer(x[0]), layer(x)[0])
    state = copy.deepcopy(layer.state_dict())
    assert list(state) == ["bias", "parametrization.raw_kernel"]
    torch.testing.assert_close(layer.eval()(x), layer.train()(x), rtol=0, atol=0)
    twin = copy.deepcopy(layer)
    layer.reset_parameters()
    assert not torch.equal(layer(x), twin(x))
    layer.load_state_dict(state)
    assert torch.equal(layer(x), twin(x))
    assert all(torch.equal(state[key], value) for key, value in layer.state_dict().items())
    assert layer.double()(x.double()).dtype == torch.float64
    meta = taut.nn.SOC2d(2, 4, 3, device="meta", dtype=torch.float64)
    assert meta(torch.empty(1, 2, 4, 4, device="meta", dtype=torch.float64)).is_meta
    wide = torch.randn(2, 4, 5, 5).contiguous(memory_format=torch.channels_last)
    assert taut.nn.SOC2d(4, 4, 3)(wide).is_contiguous(memory_format=torch.channels_last)


def test_skew_kernels_can_be_assigned_and_others_not():
    layer, other = taut.nn.SOC2d(3, 3, 3), taut.nn.SOC2d(3, 3, 3)
    layer.weight = other.weight
    torch.testing.assert_close(layer.weight, other.weight)
    with pytest.raises(ValueError, match="`weight` must be one that SkewKernel can have"):
        layer.weight = torch.randn(3, 3, 3, 3)


COMPILED = """
import torch, taut
layer, x = taut.nn.SOC2d(3, 4, 3, stride=2), torch.randn(2, 3, 6, 6)
compiled = torch.compile(layer, fullgraph=True, backend="eager")
torch.testing.assert_close(compiled(x), layer(x))
expected = torch.autograd.grad(layer(x).square().sum(), list(layer.parameters()))
found = torch.autograd.grad(compiled(x).square().sum(), list(layer.parameters()))
torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
"""


@pytest.mark.slow
def test_compiled_layers_do_the_same():
    """In a process of its own: torch.compile cannot see through the shape checks of the tests."""
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"degree": 5}, r"`degree` must be 3, 4, 7, 8, 11, 12, 15 or 16: .*exceeds 1.*; got 5\."),
        ({"degree": 6}, r"`degree` must be .*exceeds 1 for all small angles; got 6\."),
        ({"degree": 19}, r"`degree` must be .*the same to rounding; got 19\."),
        ({"degree": 0}, r"`degree` must be a positive integer; got 0\."),
        ({"kernel_size": 4}, r"`kernel_size` must be odd.*; got \(4, 4\)\."),
        ({"kernel_size": (3, 2)}, r"`kernel_size` must be odd.*; got \(3, 2\)\."),
        ({"padding_mode": "reflect"}, r"`padding_mode` must be 'zeros' or 'circular'.*'reflect'\."),
        ({"groups": 3}, r"`groups` must divide .* groups=3, channels 4 and 4\."),
        ({"groups": 4, "kernel_size": 1}, r"`kernel_size` must be above 1 .*; got \(1, 1\)\."),
        ({"radius": 3.5}, r"`radius` must be above 0 and at most 3\.3951 .*; got 3\.5\."),
        ({"radius": 0.0}, r"`radius` must be above 0 .*; got 0\.0\."),
        ({"stride": 0}, r"`stride` must be a positive integer.*; got 0\."),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        taut.nn.SOC2d(4, 4, **{"kernel_size": 3} | options)


def test_wrong_inputs_are_refused():
    with pytest.raises(ValueError, match=r"`input` must have shape \(2, h, w\) or .*got \(3, 4, 4"):
        taut.nn.SOC2d(2, 2, 3)(torch.zeros(3, 4, 4))


# What the rest of the house makes of it.


def net():
    model = nn.Sequential(
        taut.nn.SOC2d(2, 6, 3, stride=2),
        taut.nn.MaxMin(),
        taut.nn.SOC2d(6, 4, 3, groups=2, degree=4, padding_mode="circular"),
        nn.Flatten(),
        taut.nn.Linear(36, 3),
    )
    for place in (0, 2):
        fill_(model[place], "gaussian")
    return model.eval()


def test_frozen_layers_do_the_same_without_parametrizations():
    model, x = net(), torch.randn(3, 2, 6, 5)
    frozen = taut.freeze(model)
    assert type(frozen[0]) is taut.nn.SkewExponential
    assert not any("raw" in key for key in frozen.state_dict())
    with torch.no_grad():
        assert torch.equal(frozen(x), model(x))
    torch.testing.assert_close(frozen(x), model(x), rtol=0, atol=2e-6)
    assert "degree=8" in repr(frozen)
    for one in (model, frozen):
        bound = taut.lipschitz_bound(one, (2, 6, 5))
        assert float(bound) == pytest.approx(1.0, abs=1e-6)
        assert 1.0 < float(taut.lipschitz_bound(one, (2, 6, 5), passes=())) < 100


@pytest.mark.parametrize("arithmetic", ["float64", "float32"])
def test_certificates_are_verified(arithmetic, tmp_path):
    model, x = net(), torch.rand(6, 2, 6, 5)
    result = taut.certify(model, x, model(x).argmax(1), arithmetic=arithmetic)
    assert (result.radius > 0).sum() > 3
    path, weights = result.save(tmp_path / "certificate.json")
    np.savez(tmp_path / "points.npz", images=x.numpy())
    said = verifier.verify(path, weights, tmp_path / "points.npz")
    assert "answers of 6 images" in said


def other(key, value):
    """A change of the argument of the first series, and of its weight's numbers."""

    def change(content, tensors):
        nodes = [n for n in content["graph"]["nodes"] if n["op"] == "skew_exponential"]
        weight = tensors[nodes[0]["tensors"]["weight"]]
        if key == "weight":
            value(weight)
        else:
            nodes[0]["args"][key] = value

    return change


def one_number(weight):
    weight[0, 1, 0, 0] *= 1 + 1e-6


FORGERIES = {
    "degree 5": (other("degree", 5), "its moduli are too large"),
    "endless": (other("degree", 10**12), "degree is not known"),
    "no degree": (other("degree", 0), "its moduli are too large|degree is not known"),
    "another padding": (other("mode", "reflect"), "not minus its adjoint"),
    "one number": (other("weight", one_number), "not minus its adjoint"),
    "twice the kernel": (other("weight", lambda w: w.mul_(2)), "its moduli are too large"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_series_are_refused_by_both_verifiers(name, tmp_path):
    layer = taut.nn.SOC2d(2, 2, 3, dtype=torch.float64)
    fill_(layer, "large")
    with torch.no_grad():
        layer.parametrization.raw_kernel[0] *= 30  # close to the radius
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(32, 3, dtype=torch.float64)).eval()
    path, weights = forgery.honest(model, (2, 4, 4), tmp_path)
    verifier.verify(path, weights)
    taut.verify(path, weights)
    content, tensors = forgery.opened(path, weights)
    change, message = FORGERIES[name]
    change(content, tensors)
    path, weights = forgery.forge(tmp_path, content, tensors)
    with pytest.raises(verifier.Refused, match=message):
        verifier.verify(path, weights)
    with pytest.raises(ValueError):  # noqa: PT011 - each for a reason of its own
        taut.verify(path, weights)


@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ".safetensors"])
def test_files_hold_the_same_series(suffix, tmp_path):
    frozen, x = taut.freeze(net()), torch.randn(3, 2, 6, 5)
    export(frozen, tmp_path / f"net{suffix}", (2, 6, 5))
    model, shape = load(tmp_path / f"net{suffix}")
    assert [node.op for node in model.program.nodes].count("skew_exponential") == 2
    torch.testing.assert_close(model(x), frozen(x), rtol=0, atol=2e-6)
    assert float(taut.lipschitz_bound(model, shape)) == pytest.approx(1.0, abs=1e-6)
    if suffix == ".onnx":
        found = in_onnxruntime(tmp_path / "net.onnx", x)
        torch.testing.assert_close(found, frozen(x), rtol=0, atol=2e-6)
    if suffix == ".safetensors":
        code = (tmp_path / "net.py").read_text()
        space = {"__file__": str(tmp_path / "net.py"), "__name__": "net"}
        exec(compile(code, "net.py", "exec"), space)
        torch.testing.assert_close(space["load"]()(x), frozen(x), rtol=0, atol=2e-6)


class Written(nn.Module):
    """The same written by hand, its sums the other way round."""

    def __init__(self, weight, degree, *, factor=1.0, rounded=False):
        super().__init__()
        self.weight, self.degree = nn.Parameter(weight), degree
        factors = [factor / j for j in range(1, degree + 1)]
        self.factors = [float(np.float32(f)) for f in factors] if rounded else factors

    def forward(self, x):
        y = x
        for j in range(self.degree, 0, -1):
            y = F.conv2d(y, self.weight, padding=1) * self.factors[j - 1] + x
        return y


def test_series_written_by_hand_are_recognised_and_others_are_not():
    layer = made((3, 3, (4, 4), {}), degree=8)
    weight = layer.weight.detach()

    def operations(model):
        return [node.op for node in taut.program.trace(model, (3, 4, 4)).nodes]

    model = Written(weight, 8)
    assert operations(model) == ["skew_exponential"]
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(model(x), layer(x))
    off = weight.clone()
    off[0, 1, 0, 2] *= 1 + 1e-15
    single = Written(weight, 8, rounded=True)  # in float64 that is no rounding of a step
    others = (Written(off, 8), Written(weight, 8, factor=0.9), Written(weight, 5), single)
    assert operations(single.float()) == ["skew_exponential"]
    single.double()
    for other in others:
        assert "skew_exponential" not in operations(other)
        norm = torch.linalg.matrix_norm(dense_operator(other, (3, 4, 4)), 2)
        assert norm * (1 - 1e-12) <= float(taut.lipschitz_bound(other, (3, 4, 4)))


def test_kernels_beyond_the_radius_are_bounded_by_the_remainder():
    layer = made((2, 1, (3, 3), {}), kind="large", degree=4)
    twin = taut.freeze(layer)
    with torch.no_grad():
        twin.weight.mul_(1.3)
    norm = spectrum(twin, (2, 3, 3)).max()
    assert norm > 1.2
    bound = float(taut.lipschitz_bound(twin, (2, 3, 3)))
    assert norm * (1 - 1e-12) <= bound < 1 + (1.31 * RADII[4]) ** 5 / 120


def test_moduli_that_leave_no_room_for_underflow_are_not_certified_in_floats():
    twin = taut.freeze(made((2, 1, (3, 3), {}), kind="large", degree=3))
    with torch.no_grad():
        twin.weight.mul_(4)
    x = torch.rand(1, 2, 3, 3, dtype=torch.float64)
    model = nn.Sequential(twin, nn.Flatten(), nn.Linear(18, 2, dtype=torch.float64))
    with pytest.raises(ValueError, match="absolute values of its kernel have too large a norm"):
        taut.certify(model, x, torch.tensor([0]))
