"""Pads that activations write, and circular convolutions of frozen models, against torch's."""

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import taut
from taut.nn import (
    CircularConv1d,
    CircularConv2d,
    CircularConv3d,
    CircularPad1d,
    CircularPad2d,
    CircularPad3d,
)

PADS = {1: CircularPad1d, 2: CircularPad2d, 3: CircularPad3d}
CONVOLUTIONS = {1: CircularConv1d, 2: CircularConv2d, 3: CircularConv3d}
PLAIN = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}
SIZES = {1: (7,), 2: (5, 4), 3: (3, 2, 4)}
SIDES = {1: (2, 1), 2: (1, 2, 0, 1), 3: (1, 1, 0, 2, 1, 0)}
ACTIVATIONS = {
    "none": lambda: None,
    "maxmin": taut.nn.MaxMin,
    "abs": taut.nn.Abs,
    "half abs": lambda: taut.nn.Abs(0.5),
    "relu": nn.ReLU,
}


def images(axes: int, channels: int = 4, batch: int = 2, *, last: bool = False) -> Tensor:
    x = torch.randn(batch, channels, *SIZES[axes])
    return x.to(memory_format=FORMATS[axes]) if last and axes > 1 else x


def expected(activation: nn.Module | None, x: Tensor, sides: tuple[int, ...]) -> Tensor:
    return F.pad(x if activation is None else activation(x), sides, "circular")


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_activation_and_then_torchs_pad(name, axes, last):
    activation = ACTIVATIONS[name]()
    pad, sides = PADS[axes](SIDES[axes], activation), SIDES[axes]
    for channels, batch in itertools.product((1, 4, 5), (0, 1, 3)):
        x = images(axes, channels, batch, last=last)
        before, y = x.clone(), expected(activation, x, sides)
        assert torch.equal(pad(x), y)
        assert torch.equal(x, before)
        with torch.no_grad():
            assert torch.equal(pad(x.requires_grad_()), y)
        with torch.inference_mode():
            assert torch.equal(pad(x), y)
        if last and axes > 1 and batch and channels > 1:
            assert pad(x).is_contiguous(memory_format=FORMATS[axes])
        found, wanted = (
            torch.autograd.grad(f(x).sin().sum(), x)[0]
            for f in (pad, lambda x: expected(activation, x, sides))
        )
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_single_images_and_pads_that_go_round_more_than_once(axes):
    x = images(axes)
    pad = PADS[axes](SIDES[axes])
    assert torch.equal(pad(x[0]), pad(x)[0])
    many, once = PADS[axes](9)(x), x
    for axis in range(2, 2 + axes):
        n = x.shape[axis]
        once = once.index_select(axis, torch.arange(-9, n + 9) % n)
    assert torch.equal(many, once)


@pytest.mark.parametrize("size", [(6, 4), (5, 4), (5, 3), (6, 5)])
def test_zeros_complete_the_input_first(size):
    pad, x = CircularPad2d(1, taut.nn.MaxMin(), multiple=(3, 2)), torch.randn(2, 4, *size)
    y = taut.nn.PadToMultiple2d((3, 2))(taut.nn.MaxMin()(x))
    assert torch.equal(pad(x), F.pad(y, (1, 1, 1, 1), "circular"))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"dilation": 2}, {"groups": 2}])
def test_convolutions_are_torchs(axes, options, last):
    torch.manual_seed(0)
    options = {"padding": 1, "padding_mode": "circular", **options}
    ours, theirs = (kinds[axes](4, 6, 3, **options) for kinds in (CONVOLUTIONS, PLAIN))
    theirs.load_state_dict(ours.state_dict())
    size = [n + 2 for n in SIZES[axes]]
    x = torch.randn(3, 4, *size)
    x = x.to(memory_format=FORMATS[axes]) if last and axes > 1 else x
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours(x[0]), theirs(x[0]))
    if last and axes > 1:
        assert ours(x).is_contiguous(memory_format=FORMATS[axes])
    x.requires_grad_()
    grads = [torch.autograd.grad(f(x).sin().sum(), [x, f.weight]) for f in (ours, theirs)]
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch", [3, 16])
@pytest.mark.parametrize("axes", [2])
def test_channels_last_where_it_is_asked_for(axes, batch):
    x = images(axes, batch=batch)
    pad = PADS[axes](1, taut.nn.MaxMin(), channels_last=True)
    conv = CONVOLUTIONS[axes](4, 6, 3, padding=1, padding_mode="circular")
    plain = conv(x)
    conv.channels_last = True
    for module, wanted in ((pad, expected(taut.nn.MaxMin(), x, (1,) * 4)), (conv, plain)):
        y = module(x).detach()
        torch.testing.assert_close(y, wanted.detach())
        assert y.is_contiguous(memory_format=FORMATS[axes]) == (batch == 16)
        assert module(x.double()).is_contiguous() if module is pad else True
    x.requires_grad_()
    assert torch.autograd.grad(conv(x).sum(), x)[0].is_contiguous()


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("name", ["none", "maxmin", "relu"])
def test_copies_transforms_and_tensors_without_numbers(name, axes):
    model = nn.Sequential(
        PADS[axes](SIDES[axes], ACTIVATIONS[name](), multiple=2),
        CONVOLUTIONS[axes](4, 6, 3, padding=1, padding_mode="circular"),
    ).requires_grad_(False)
    x = torch.randn(2, 4, *(4, 6, 5)[:axes])
    y = model(x)
    torch.testing.assert_close(copy.deepcopy(model)(x), y)
    rows = torch.func.vmap(model, in_dims=0)(torch.stack([x, 2 * x]))
    torch.testing.assert_close(rows[0], y)
    assert copy.deepcopy(model).to("meta")(x.to("meta")).shape == y.shape
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert model(mode.from_tensor(x)).shape == y.shape


def test_wrong_arguments_are_refused():
    for activation in (nn.Tanh(), taut.nn.MaxMin(dim=-1), nn.LeakyReLU()):
        with pytest.raises(ValueError, match="`activation` must be MaxMin or Abs along axis 1"):
            CircularPad2d(1, activation)
    with pytest.raises(ValueError, match="`padding`"):
        CircularPad2d((1, -1, 0, 0))
    with pytest.raises(ValueError, match="`multiple`"):
        CircularPad2d(1, multiple=0)
