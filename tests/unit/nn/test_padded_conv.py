"""Padding and convolution in one step of autograd, against padding by index and torch."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import taut
from taut.nn._padded_conv import Steps, padded_convolution
from taut.nn._padding import Pads
from thinning import one_in

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}
CASES = {  # size, kernel size, left, right, stride, dilation
    "line": ((7,), (3,), (1,), (1,), (1,), (1,)),
    "line, even kernel": ((6,), (4,), (1,), (2,), (1,), (1,)),
    "line, whole size": ((2,), (5,), (2,), (2,), (1,), (1,)),
    "image": ((5, 4), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    "image, steps": ((6, 9), (4, 3), (1, 2), (1, 2), (2, 3), (1, 2)),
    "image, one axis": ((5, 4), (1, 4), (0, 1), (0, 2), (1, 1), (1, 1)),
    "volume": ((3, 2, 4), (3, 2, 3), (1, 0, 1), (1, 1, 1), (1, 1, 2), (1, 1, 1)),
}


def reference(x: Tensor, weight: Tensor, bias: Tensor | None, case: tuple, groups: int) -> Tensor:
    size, _, left, right, stride, dilation = case
    first = x.dim() - len(size)
    for axis, (n, a, b) in enumerate(zip(size, left, right, strict=True), first):
        x = x.index_select(axis, torch.arange(-a, n + b) % n)
    return CONV[len(size)](x, weight, bias, stride, 0, dilation, groups)


def ours(x: Tensor, weight: Tensor, bias: Tensor | None, case: tuple, groups: int) -> Tensor:
    size, _, left, right, stride, dilation = case
    pads = Pads((0,) * len(size), left, right)
    return padded_convolution(x, weight, bias, pads, "circular", Steps(stride, dilation, groups))


def tensors(
    case: tuple, *, groups: int = 1, batch: int = 2, dtype=torch.float64, bias: bool = True
) -> list[Any]:
    channels = (2 * groups, 4 * groups)
    x = torch.randn(batch, channels[0], *case[0], dtype=dtype)
    weight = torch.randn(channels[1], channels[0] // groups, *case[1], dtype=dtype)
    return [x, weight, torch.randn(channels[1], dtype=dtype) if bias else None]


def gradients(function, through, case: tuple, groups: int, inputs, upstream: Tensor | None):
    """The output, and the gradients by what is there of input, weight and bias."""
    x, *others = inputs
    y = function(through(x), *others, case, groups)
    upstream = torch.ones_like(y) if upstream is None else upstream
    return [y, *torch.autograd.grad(y, [t for t in inputs if t is not None], upstream)]


THROUGH = {"leaf": lambda x: x, "maxmin": taut.nn.MaxMin(), "sine": torch.sin}


@pytest.mark.parametrize(
    ("name", "through", "last", "dtype"),
    one_in(
        3,
        itertools.product(CASES, THROUGH, (False, True), (torch.float64, torch.float32)),
    ),
)
def test_gradients_of_every_axis_and_format(name, through, last, dtype):
    case = CASES[name]
    for groups, bias, batch in itertools.product((1, 2), (True, False), (1, 3)):
        x, weight, b = tensors(case, groups=groups, batch=batch, dtype=dtype, bias=bias)
        if last and len(case[0]) > 1:
            x = x.to(memory_format=FORMATS[len(case[0])])
        inputs = [None if t is None else t.requires_grad_() for t in (x, weight, b)]
        upstream = torch.randn_like(reference(x, weight, b, case, groups))
        found, expected = (
            gradients(f, THROUGH[through], case, groups, inputs, upstream)
            for f in (ours, reference)
        )
        error = 1e-4 if dtype == torch.float32 else 1e-12
        torch.testing.assert_close(found, expected, rtol=error, atol=error)


@pytest.mark.parametrize("name", CASES)
def test_all_derivatives(name):
    case = CASES[name]
    arguments = [t.requires_grad_() for t in tensors(case, batch=2)]

    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return ours(x, weight, bias, case, 1)

    assert torch.autograd.gradcheck(function, arguments)
    assert torch.autograd.gradgradcheck(function, arguments)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 1), (1, 2)])
def test_gradients_that_are_asked_for(wanted):
    case = CASES["image, steps"]
    arguments = tensors(case)
    for i in wanted:
        arguments[i].requires_grad_()
    asked, (x, weight, bias) = [arguments[i] for i in wanted], arguments
    found, expected = (
        torch.autograd.grad(f(x, weight, bias, case, 1).square().sum(), asked)
        for f in (ours, reference)
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["line", "image, steps", "volume"])
def test_transforms_and_batched_gradients(name):
    case = CASES[name]
    x, weight, bias = tensors(case)

    def total(function):
        return lambda x, w: function(x, w, bias, case, 1).sin().sum()

    for make in (
        lambda f: torch.func.grad(f, (0, 1))(x, weight),
        lambda f: torch.func.grad(f, (0, 1))(x.requires_grad_(), weight),
        lambda f: torch.func.vmap(torch.func.grad(f), (0, None))(x[:, None], weight),
    ):
        torch.testing.assert_close(make(total(ours)), make(total(reference)))
    x.requires_grad_()
    rows = torch.randn(3, *reference(x, weight, bias, case, 1).shape, dtype=x.dtype)
    found, expected = (
        torch.autograd.grad(f(x.sin(), weight, bias, case, 1), x, rows, is_grads_batched=True)
        for f in (ours, reference)
    )
    torch.testing.assert_close(found, expected)


def test_empty_batches_and_single_images():
    case = CASES["image"]
    x, weight, bias = (t.requires_grad_() for t in tensors(case))
    for part in (x[:0], x[0], x[:1]):
        y = ours(part.sin(), weight, bias, case, 1)
        expected = reference(part.sin(), weight, bias, case, 1)
        torch.testing.assert_close(y, expected)
        grads = [torch.autograd.grad(z.sum(), [x, weight, bias]) for z in (y, expected)]
        torch.testing.assert_close(*grads)


def test_gradients_of_images_have_no_gaps():
    """Attacks flatten them by `view`."""
    layer, delta = taut.nn.Conv2d(3, 4, 3), torch.zeros(2, 3, 6, 5, requires_grad=True)
    (grad,) = torch.autograd.grad(layer(torch.rand(2, 3, 6, 5) + delta).sum(), delta)
    assert grad.view(2, -1).shape == (2, 90)
    last = delta.detach().to(memory_format=torch.channels_last).requires_grad_()
    (grad,) = torch.autograd.grad(layer(last).sum(), last)
    assert grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("last", [False, True])
def test_activations_and_gradients_are_not_copied(last):
    """Behind MaxMin a step copies only the activation into the padded one, and its borders."""
    layer, x = taut.nn.Conv2d(4, 4, 3), torch.randn(2, 4, 6, 6)
    x = x.to(memory_format=torch.channels_last) if last else x
    x, weight = x.requires_grad_(), layer.weight.detach()
    pads, steps = layer.pads((6, 6)), Steps((1, 1), (1, 1), 1)
    copied = []

    class Copies(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func in (torch.ops.aten.copy_.default, torch.ops.aten.clone.default):
                copied.append(args[0].numel())
            return func(*args, **(kwargs or {}))

    y = taut.nn.MaxMin()(x)
    with Copies():
        z = padded_convolution(y, weight, None, pads, "circular", steps)
        del y  # or its gradient is copied, so that whoever holds it may see one without gaps
        assert sorted(copied) == [48, 48, 64, 64, x.numel()]
        copied.clear()
        z.sum().backward()
    assert sum(copied) == 0


def test_double_use_retained_graphs_and_writes_to_the_input():
    case = CASES["image"]
    x, weight, bias = tensors(case)
    x.requires_grad_(), weight.requires_grad_()
    y = taut.nn.MaxMin()(x)
    z = ours(y, weight, bias, case, 1)
    loss = z.sin().sum() + ours(y, weight, bias, case, 1).cos().sum()
    first = torch.autograd.grad(loss, [x, weight], retain_graph=True)
    y.detach().add_(1)  # the padded copy is what is read
    second = torch.autograd.grad(loss, [x, weight])
    torch.testing.assert_close(first, second)
    plain = reference(taut.nn.MaxMin()(x), weight, bias, case, 1)
    torch.testing.assert_close(
        first, torch.autograd.grad(plain.sin().sum() + plain.cos().sum(), [x, weight])
    )


def test_autocast_and_checkpoints():
    layer, x = taut.nn.Conv2d(3, 4, 3), torch.rand(2, 3, 6, 6, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x.sin())
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    expected = torch.autograd.grad(layer(x.sin()).square().sum(), x)[0]
    again = checkpoint(lambda x: layer(x.sin()).square().sum(), x, use_reentrant=False)
    assert isinstance(again, Tensor)
    torch.testing.assert_close(torch.autograd.grad(again, x)[0], expected)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_symmetric_zeros_are_the_convolutions_own(axes):
    kind = {1: taut.nn.Conv1d, 2: taut.nn.Conv2d, 3: taut.nn.Conv3d}[axes]
    layer, seen = kind(2, 4, 3, padding_mode="zeros"), []

    class Functions(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    x, weight = torch.randn(2, 2, *(5, 4, 3)[:axes]), layer.weight
    with Functions():
        y = layer(x)
    assert CONV[axes] in seen
    assert F.pad not in seen
    assert torch.equal(y, CONV[axes](x, weight, layer.bias, padding=1))


@pytest.mark.parametrize("channels", [1, 4, 5])
@pytest.mark.parametrize("last", [False, True])
def test_maxmin_reads_gradients_with_gaps(channels, last):
    x = torch.randn(2, channels, 3, 4)
    x = x.to(memory_format=torch.channels_last) if last else x
    x.requires_grad_()
    wide = torch.randn(2, channels, 5, 6)
    wide = wide.to(memory_format=torch.channels_last) if last else wide
    y = taut.nn.MaxMin()(x)
    (found,) = torch.autograd.grad(y, x, wide[:, :, 1:-1, 1:-1], retain_graph=True)
    dense = wide[:, :, 1:-1, 1:-1].clone(memory_format=torch.contiguous_format)
    (expected,) = torch.autograd.grad(y, x, dense, create_graph=True)
    assert torch.equal(found, expected)
    assert found.is_contiguous(memory_format=FORMATS[2] if last else torch.contiguous_format)


def test_training_with_channels_last_is_training():
    torch.manual_seed(0)
    model = nn.Sequential(
        taut.nn.Conv2d(3, 8, 3), taut.nn.MaxMin(), taut.nn.Conv2d(8, 8, 4, 2), taut.nn.MaxMin()
    ).double()
    x = torch.rand(4, 3, 7, 6, dtype=torch.float64)
    found = []
    for last in (False, True):
        memory = torch.channels_last if last else torch.contiguous_format
        y = model(x.to(memory_format=memory))
        assert y.is_contiguous(memory_format=memory)
        found.append(torch.autograd.grad(y.sin().sum(), list(model.parameters())))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("last", [False, True])
def test_whoever_sees_a_gradient_sees_one_without_gaps(last):
    layer, dense = taut.nn.Conv2d(4, 4, 3), []
    formats = [torch.contiguous_format, torch.channels_last][: 1 + last]
    x = torch.randn(2, 4, 5, 6).to(memory_format=formats[-1]).requires_grad_()

    def see(grad: Tensor) -> None:
        dense.append(any(grad.is_contiguous(memory_format=f) for f in formats))

    for late in (False, True):  # hooks of before the convolution and of after it
        h = taut.nn.MaxMin()(x)
        if not late:
            h.register_hook(see)
        y = layer(h)
        if late:
            h.register_hook(see)
        del h
        y.square().sum().backward()
    h = taut.nn.MaxMin()(x)
    h.retain_grad()
    y = layer(h).square().sum()
    see(torch.autograd.grad(y, h, retain_graph=True)[0])
    y.backward()
    see(h.grad)
    assert dense == 4 * [True]


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # by torch's own rules for tangents
def test_tangents_of_forward_mode_pass_every_fast_path():
    model = nn.Sequential(taut.nn.Conv2d(2, 4, 3), taut.nn.MaxMin(), taut.nn.Conv2d(4, 2, 2))
    model += nn.Sequential(taut.nn.Abs(), taut.nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten())
    model = model.double()
    x, v = torch.randn(2, 8, 2, 5, 4, dtype=torch.float64)
    expected = torch.func.jvp(model, (x,), (v,))[1]
    for tested in (model, taut.freeze(model)):
        with torch.no_grad(), torch.autograd.forward_ad.dual_level():
            y = tested(torch.autograd.forward_ad.make_dual(x, v))
            tangent = torch.autograd.forward_ad.unpack_dual(y).tangent
        torch.testing.assert_close(tangent, expected)
