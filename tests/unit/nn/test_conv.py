"""Convolutions in one to three axes, and transposed, against the dense operator and torch's."""

import copy
import itertools
import math
import re

import jaxtyping
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import taut
from oracles import dense_operator
from taut.certification import verifier
from taut.nn._padding import Pads, pad
from taut.parametrizations import AbstractParametrization, AbstractSpectral, methods
from taut.program import operation, trace
from thinning import one_in

CONV = {1: taut.nn.Conv1d, 2: taut.nn.Conv2d, 3: taut.nn.Conv3d}
PLAIN = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: taut.nn.ConvTranspose1d, 2: taut.nn.ConvTranspose2d, 3: taut.nn.ConvTranspose3d}
PLAIN_TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
SIZES = {  # kernel size, stride, input sizes
    1: [(1, 1, [(4,)]), (3, 1, [(5,), (1,)]), (4, 2, [(8,), (5,)]), (6, 3, [(9,), (7,), (2,)])],
    2: [((4, 3), (2, 1), [(4, 5), (3, 2)])],
    3: [(2, 1, [(3, 2, 3)]), ((3, 2, 4), (1, 2, 2), [(2, 4, 2), (3, 3, 3)])],
}
CASES = [
    (axes, channels, kernel_size, stride, size)
    for axes, rows in SIZES.items()
    for kernel_size, stride, sizes in rows
    for size in sizes
    for channels in [(1, 3), (3, 2)]
]
KERNEL_METHODS = [
    name
    for name, cls in methods().items()
    if not cls.matrices_only and cls is not taut.ECO  # which takes multiples of its kernel size
]


def singular_values(layer: nn.Module, shape: tuple[int, ...]) -> Tensor:
    return torch.linalg.svdvals(dense_operator(layer, shape))


def stirred(layer: nn.Module) -> nn.Module:
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return layer


@pytest.mark.parametrize(
    ("name", "mode", "axes", "channels", "kernel_size", "stride", "size"),
    one_in(
        5,
        (
            (name, mode, *case)
            for name in KERNEL_METHODS
            for mode in ("circular", "zeros")
            for case in CASES
        ),
    ),
)
def test_spectrum_and_bound_of_every_method_on_any_axes(
    name, mode, axes, channels, kernel_size, stride, size
):
    method = methods()[name]
    full = issubclass(method, AbstractSpectral)
    for padding in ("same",) if full else ("same", "valid"):
        options = {"padding_mode": mode, "parametrization": method, "dtype": torch.float64}
        layer = CONV[axes](*channels, kernel_size, stride, padding, **options)
        if padding == "valid" and any(n < k for n, k in zip(size, layer.kernel_size, strict=True)):
            continue  # no output at all
        shape = (channels[0], *size)
        s = singular_values(stirred(layer), shape)
        bound = float(taut.lipschitz_bound(layer, shape))
        assert s.max() <= bound * (1 + 1e-12)
        if method.guarantee != "none":
            assert bound <= 1 + 1e-7
        divides = all(n % step == 0 for n, step in zip(size, layer.stride, strict=True))
        torus = padding == "same" and mode == "circular" and divides
        rows = padding == "valid" and channels[1] <= channels[0] * math.prod(layer.stride)
        if method.guarantee == "orthogonal" and (torus or rows):
            assert s.min() >= 1 - 1e-12


@pytest.mark.parametrize("mode", ["circular", "zeros"])
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize(("kernel_size", "stride", "padding"), [(3, 1, 1), (1, 1, 0), (4, 2, 1)])
def test_layers_compute_what_torchs_compute(axes, kernel_size, stride, padding, mode):
    layer = CONV[axes](2, 3, kernel_size, stride, padding, padding_mode=mode)
    twin = PLAIN[axes](2, 3, kernel_size, stride, padding, padding_mode=mode)
    with torch.no_grad():
        twin.weight.copy_(layer.weight)
        twin.bias.copy_(layer.bias)
    x = torch.randn(4, 2, *(8, 6, 4)[:axes])
    assert torch.allclose(layer(x), twin(x), atol=1e-6)
    assert torch.allclose(layer(input=x[0]), twin(x[0]), atol=1e-6)
    x.requires_grad_()
    grads = [torch.autograd.grad(f(x).pow(3).sum(), x)[0] for f in (layer, twin)]
    assert torch.allclose(*grads, atol=1e-4)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("padding", ["valid", 0])
@pytest.mark.parametrize("mode", ["circular", "zeros"])
def test_without_padding_nothing_is_padded_and_nothing_exceeds_1(axes, padding, mode):
    """Sizes that the stride does not divide: torch's outputs, with a bound of 1."""
    layer = CONV[axes](2, 3, 2, 2, padding, padding_mode=mode)
    x = torch.randn(1, 2, *[9, 5, 3][:axes])
    twin = PLAIN[axes](2, 3, 2, 2, padding)
    with torch.no_grad():
        twin.weight.copy_(layer.weight)
        twin.bias.copy_(layer.bias)
        assert torch.allclose(layer(x), twin(x), atol=1e-6)
    assert layer(x).shape == (1, 3, *[4, 2, 1][:axes])
    assert float(taut.lipschitz_bound(layer, x.shape[1:])) <= 1 + 1e-6


@pytest.mark.parametrize("frozen", [False, True])
def test_certificates_of_layers_without_padding_are_verified(frozen, tmp_path):
    torch.manual_seed(0)
    conv = taut.nn.Conv2d(1, 4, 2, 2, padding="valid")
    model = nn.Sequential(conv, taut.nn.MaxMin(), nn.Flatten(), taut.nn.Linear(4 * 16, 3))
    model = taut.freeze(model) if frozen else model
    x = torch.rand(8, 1, 9, 9)
    found = taut.certify(model, x, model(x).argmax(1))
    path, weights = found.save(tmp_path / "certificate.json")
    assert f"Lipschitz bound {float(found.bound)}" in verifier.verify(path, weights)


@pytest.mark.parametrize("padding", [(0, 1), (1, 0)])
@pytest.mark.parametrize("size", [(9, 9), (8, 9), (5, 6)])
def test_an_axis_without_padding_stays_as_it_is(padding, size):
    layer = taut.nn.Conv2d(2, 5, 4, 2, padding, dtype=torch.float64)
    frozen, x = taut.freeze(layer), torch.randn(2, 2, *size, dtype=torch.float64)
    free, other = padding.index(0), padding.index(1)
    assert layer(x).shape[2 + free] == (size[free] - 4) // 2 + 1
    assert layer(x).shape[2 + other] == -(-size[other] // 2)
    assert torch.allclose(frozen(x), layer(x))
    s = singular_values(layer, (2, *size))
    for each in (layer, frozen):
        assert s.max() - 1e-12 <= float(taut.lipschitz_bound(each, (2, *size))) <= 1 + 1e-7


def padded_by_index(x: Tensor, left: tuple[int, ...], right: tuple[int, ...]) -> Tensor:
    for axis, (a, b) in enumerate(zip(left, right, strict=True), 2):
        x = x.index_select(axis, torch.arange(-a, x.shape[axis] + b) % x.shape[axis])
    return x


@pytest.mark.parametrize(
    ("size", "left", "right"),
    [
        ((4,), (2,), (1,)),
        ((3,), (0,), (3,)),
        ((3,), (4,), (1,)),
        ((2, 3, 2), (1, 2, 0), (2, 0, 1)),
        ((2, 3, 2), (0, 0, 2), (0, 0, 0)),
        ((2, 1, 2), (1, 2, 0), (1, 1, 1)),
    ],
)
@pytest.mark.parametrize("last", [False, True])
def test_circular_padding_of_any_axes_and_its_gradients(size, left, right, last):
    x = torch.randn(2, 2, *size, dtype=torch.float64)
    if last and len(size) == 3:
        x = x.to(memory_format=torch.channels_last_3d)
    x.requires_grad_()

    def wrap(x: Tensor) -> Tensor:
        return pad(x, Pads((0,) * len(size), left, right), "circular")

    assert torch.equal(wrap(x), padded_by_index(x, left, right))
    with torch.no_grad():
        assert torch.equal(wrap(x), padded_by_index(x, left, right))
        assert torch.equal(wrap(x[0]), padded_by_index(x, left, right)[0])
    assert torch.autograd.gradcheck(wrap, (x,))
    assert torch.autograd.gradgradcheck(wrap, (x,))
    assert torch.equal(torch.func.vmap(wrap)(x), wrap(x))


def test_volumes_with_channels_last_stay_so_in_training():
    layer = taut.nn.Conv3d(4, 6, 3)
    x = torch.randn(3, 4, 4, 5, 6, requires_grad=True)
    last = x.detach().to(memory_format=torch.channels_last_3d).requires_grad_()
    y, grad = layer(last), torch.randn(3, 6, 4, 5, 6)
    assert y.is_contiguous(memory_format=torch.channels_last_3d)
    (found,) = torch.autograd.grad(y, last, grad)
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(found, torch.autograd.grad(layer(x), x, grad)[0])


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_padding_to_a_multiple(axes):
    kinds = {1: taut.nn.PadToMultiple1d, 2: taut.nn.PadToMultiple2d, 3: taut.nn.PadToMultiple3d}
    module, x = kinds[axes]((2, 3, 4)[:axes]), torch.randn(2, 1, *(3, 3, 6)[:axes])
    y, grown = module(x), (4, 3, 8)[:axes]
    assert y.shape == (2, 1, *grown)
    assert torch.equal(y[(..., *(slice(n) for n in x.shape[2:]))], x)
    assert y.count_nonzero() == x.numel()
    assert float(taut.lipschitz_bound(module, x.shape[1:])) == 1.0
    assert torch.equal(kinds[axes](1)(x), x)


# Transposed convolutions


def convolution_of(layer: nn.Module, mode: str):
    """The convolution whose adjoint the layer is, from its definition."""

    def convolved(y: Tensor) -> Tensor:
        total = [k - s for k, s in zip(layer.kernel_size, layer.stride, strict=True)]
        left = tuple(t // 2 for t in total)
        right = tuple(t - a for t, a in zip(total, left, strict=True))
        if mode == "zeros":
            y = F.pad(y, [v for pair in zip(left[::-1], right[::-1], strict=True) for v in pair])
        else:
            y = padded_by_index(y, left, right)
        functions = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
        return functions[layer.axes](y, layer.weight, None, layer.stride)

    return convolved


@pytest.mark.parametrize("parametrization", [taut.BCOP, taut.RKO])
@pytest.mark.parametrize("mode", ["circular", "zeros"])
@pytest.mark.parametrize(
    ("axes", "channels", "kernel_size", "stride", "size"),
    one_in(
        3,
        [
            *CASES,
            *(
                (1, (2, 3), k, s, (n,))
                for k, s, n in itertools.product((1, 2, 3, 4, 5, 6, 8, 9), (1, 2, 3, 4), (1, 3))
                if k % s == 0
            ),
        ],
    ),
)
def test_transposed_layers_are_the_dense_adjoint(
    axes, channels, kernel_size, stride, size, mode, parametrization
):
    options = {"padding_mode": mode, "parametrization": parametrization, "dtype": torch.float64}
    layer = stirred(TRANSPOSED[axes](*channels, kernel_size, stride, **options))
    grown = tuple(n * s for n, s in zip(size, layer.stride, strict=True))
    matrix = dense_operator(layer, (channels[0], *size))
    adjoint = dense_operator(convolution_of(layer, mode), (channels[1], *grown))
    assert layer(torch.zeros(1, channels[0], *size).double()).shape == (1, channels[1], *grown)
    assert torch.allclose(matrix, adjoint.T, atol=1e-14)
    s = torch.linalg.svdvals(matrix)
    assert s.max() <= float(taut.lipschitz_bound(layer, (channels[0], *size))) * (1 + 1e-12)
    if parametrization is taut.BCOP:
        assert s.max() <= 1 + 1e-12
        assert mode == "zeros" or s.min() >= 1 - 1e-12


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize(
    ("kernel_size", "stride", "padding", "output_padding"),
    [(2, 2, 0, 0), (2, 2, "valid", 1), (4, 2, 1, 0), (4, 2, 1, 1), (3, 1, 1, 0), (6, 3, 2, 2)],
)
def test_transposed_layers_with_zeros_compute_what_torchs_compute(
    axes, kernel_size, stride, padding, output_padding
):
    sizes = (2, 3, kernel_size, stride, padding, output_padding)
    layer = TRANSPOSED[axes](*sizes, padding_mode="zeros")
    twin = PLAIN_TRANSPOSED[axes](*sizes[:4], 0 if padding == "valid" else padding, output_padding)
    with torch.no_grad():
        twin.weight.copy_(layer.weight)
        twin.bias.copy_(layer.bias)
    x = torch.randn(2, 2, *(4, 3, 2)[:axes])
    assert torch.allclose(layer(x), twin(x), atol=1e-6)
    assert torch.allclose(layer(x[0]), twin(x[0]), atol=1e-6)
    s = singular_values(copy.deepcopy(layer).double(), x.shape[1:])
    assert s.max() <= float(taut.lipschitz_bound(layer, x.shape[1:])) <= 1 + 1e-6
    if padding in (0, "valid"):  # rows of the convolution are orthonormal: an isometry
        assert s.min() >= 1 - 1e-6


@pytest.mark.parametrize("mode", ["circular", "zeros"])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_rounding_of_transposed_layers_covers_their_error(axes, mode):
    layer, shape = TRANSPOSED[axes](4, 2, 5, padding_mode=mode), (4, *(2, 3, 2)[:axes])
    site = next(site for site in trace(layer, shape).sites() if site.node.op == "conv_transpose")
    rounding = operation(site).rounding(site)
    x = torch.randn(10, *shape)
    with torch.no_grad():
        wide = dense_operator(copy.deepcopy(layer).double(), shape) @ x.double().flatten(1).T
        error = layer(x).double() - layer.bias.double().reshape(1, -1, *[1] * axes)
        error = (error.flatten(1).T - wide).norm(dim=0)
    size = rounding.absolute * x.double().flatten(1).norm(dim=1) + rounding.constant
    assert (error <= rounding.count * 2.0**-24 * size).all()
    assert error.max() > 0
    assert rounding.count >= 4 * 5**axes


def test_models_of_any_axes_are_certified():
    torch.manual_seed(0)
    for axes in (1, 2, 3):
        model = nn.Sequential(
            CONV[axes](1, 4, 2, 2), taut.nn.MaxMin(), TRANSPOSED[axes](4, 2, 2, 2),
            taut.nn.MaxMin(), nn.Flatten(), taut.nn.Linear(2 * 4**axes, 3),
        )  # fmt: skip
        x = torch.rand(8, 1, *[4] * axes)
        found = taut.certify(model, x, model(x).argmax(1))
        assert float(found.bound) <= 1 + 1e-5
        assert (found.radius > 0).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dilation": 0}, "`dilation` must be a positive integer or a tuple of 2; got 0"),
        ({"groups": 3}, "`groups` must leave more than one channel a group"),
        ({"groups": 2}, "`groups` must divide the channels of input and output; got groups=2"),
        ({"in_channels": 0}, "`in_channels` must be a positive integer; got 0"),
        ({"out_channels": 0}, "`out_channels` must be a positive integer; got 0"),
        ({"padding_mode": "reflect"}, "`padding_mode` must be 'circular' or 'zeros'"),
        ({"padding": 0}, "`padding` must be 'same' with padding_mode='circular', or give"),
        ({"output_padding": 1}, "`output_padding` must be 0 with padding='same'"),
        (
            {"output_padding": 1, "padding": 0, "padding_mode": "zeros"},
            "`output_padding` must be less than `stride` or `dilation`; got output_padding=(1, 1)",
        ),
        ({"stride": 4, "in_channels": 30}, "`out_channels` must be at most 27 for an orthogonal"),
        ({"kernel_size": (3, 3, 3)}, "`kernel_size` must be a positive integer or a tuple of 2"),
    ],
)
def test_wrong_arguments_of_transposed_layers_are_refused(arguments, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    given = {"in_channels": 3, "out_channels": 3, "kernel_size": 3} | arguments
    with pytest.raises(ValueError, match=re.escape(message)):
        taut.nn.ConvTranspose2d(**given)


def test_integers_of_numpy_are_sizes(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    two = np.int64(2)
    layers = [
        taut.nn.Conv2d(two, two, (two, two), two, padding=np.int32(0)),
        taut.nn.ConvTranspose1d(two, two, two, two),
        taut.nn.Linear(two, two),
    ]
    for layer in layers:
        assert type(layer.parametrization.in_channels) is int
    assert layers[0](torch.zeros(1, 2, 4, 4)).shape == (1, 2, 2, 2)
    assert taut.nn.GroupSort(two)(torch.zeros(1, 4)).shape == (1, 4)


class GroupedKernel(AbstractParametrization):
    """A raw kernel as it is, with groups."""

    guarantee = "none"
    reference = "none"

    def raw_shapes(self) -> dict[str, tuple[int, ...]]:
        inputs = self.in_channels // self.groups * math.prod(self.kernel_size)
        return {"raw": (self.groups, inputs, self.out_channels // self.groups)}

    def weight(self) -> Tensor:
        return self.raw.mT.reshape(self.out_channels, -1, *self.kernel_size)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_layers_take_the_groups_that_a_method_can_do(axes):
    pairs = [(CONV, PLAIN, (4, 6)), (TRANSPOSED, PLAIN_TRANSPOSED, (6, 4))]
    for kinds, plain, channels in pairs:
        options = {"padding": 0, "groups": 2, "padding_mode": "zeros"}
        layer = kinds[axes](*channels, 4, 2, parametrization=GroupedKernel, **options)
        twin, x = plain[axes](*channels, 4, 2, **options), torch.randn(2, channels[0], *[6] * axes)
        with torch.no_grad():
            twin.weight.copy_(layer.weight)
            twin.bias.copy_(layer.bias)
        assert torch.allclose(layer(x), twin(x), atol=1e-5)
        bound = float(taut.lipschitz_bound(layer, x.shape[1:]))
        assert bound == float(taut.lipschitz_bound(twin, x.shape[1:]))


# Initialisation

LAYERS = {
    "linear": lambda **options: taut.nn.Linear(4, 6, **options),
    "conv": lambda **options: taut.nn.Conv2d(2, 3, 4, 2, **options),
    "transposed": lambda **options: taut.nn.ConvTranspose1d(2, 3, 3, **options),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("name", methods())
def test_layers_made_on_meta_and_reset_are_fresh_layers(name, kind):
    method = methods()[name]
    if method.matrices_only and kind != "linear":
        return
    torch.manual_seed(3)
    expected = LAYERS[kind](parametrization=method)
    layer = LAYERS[kind](parametrization=method, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        for tensor in layer.state_dict().values():
            tensor.fill_(math.nan)
    torch.manual_seed(3)
    layer.reset_parameters()
    state, fresh = layer.state_dict(), expected.state_dict()
    assert list(state) == list(fresh)
    assert all(torch.equal(state[key], fresh[key]) for key in fresh)
