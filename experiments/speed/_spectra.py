"""How orthogonal a layer is, of whatever library: the spectrum of what it does to unit vectors."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from experiments.speed._cases import Case, LayerCase, parse_case
from experiments.speed._contenders import select
from experiments.speed._timing import TimingSettings
from taut.nn import Conv2d, Linear
from taut.parametrizations import cached

_CHUNK = 1 << 24  # numbers pushed at a time
_WORK = 2e9  # width^3 times frequencies that a full spectrum may take
_TOLERANCE = 5e-2  # relative, in bfloat16
_ADAM_STEPS, _FORWARDS = 200, 10

_RAWS = ("gaussian", "trained")
ACCURACY = (
    *product(("128x128x3@8b2", "256x256x3@8b2"), ("taut", "orthogonium"), _RAWS),
    *product(("512x512x3@8b2", "4096x512b8"), ("taut",), _RAWS),
    ("1024x1024x3@8b2", "taut", "gaussian"),
    ("large-cifar10b8", "taut", "trained"),
)
QUICK_ACCURACY = (("8x8x3@8b2", "taut", "gaussian"), ("8x8x3@8b2", "taut", "trained"))


class Orthogonality(NamedTuple):
    """The largest distance of a singular value from 1, and the largest singular value less 1."""

    error: float
    above: float


@dataclass(frozen=True)
class Accuracy:
    """The extreme singular values of one contender for raw tensors of one kind."""

    case: str
    contender: str
    raws: str
    error: float
    above: float


def accuracy(name: str, contender: str, raws: str, settings: TimingSettings) -> Accuracy:
    """The spectrum for "gaussian" raw tensors, or "trained" ones: 200 steps of Adam at 1e-2."""
    torch.manual_seed(0)
    case = parse_case(name)
    module = select([contender])[-1].build(case).to(settings.place).train()
    x = torch.rand(case.batch, *case.input_shape, device=settings.place)
    if raws == "gaussian":
        with torch.no_grad():
            for raw in module.parameters():
                if raw.requires_grad and raw.ndim > 1:
                    raw.normal_()
            for _ in range(_FORWARDS):  # for whoever iterates from one forward to the next
                module(x)
    else:
        target = torch.randn_like(module(x).detach())
        optimiser = torch.optim.Adam(module.parameters(), lr=1e-2, fused=True)
        for _ in range(_ADAM_STEPS):
            optimiser.zero_grad()
            F.mse_loss(module(x), target).backward()
            optimiser.step()
    with settings.autocast():
        return Accuracy(name, contender, raws, *orthogonality(module, case))


def orthogonality(module: nn.Module, case: Case) -> Orthogonality:
    """Extreme singular values of a layer, or of all layers of a net, in float64; biases aside.

    Unit vectors are pushed through the layer as it is used in evaluation: every entry for a dense
    layer, every channel and phase of the stride for a convolution with circular padding. The
    Fourier transform of the answers is the operator, block by block; nothing of the layer's inside
    is read. Where all frequencies would take too long (512 channels and more) the image is a
    smaller one, whose frequencies are some of those of the large one.

    Singular values are roots of eigenvalues of Gram matrices: 1e-15 accurate near 1, 1e-8 near 0.
    """
    module.eval()
    with torch.no_grad(), cached(), parametrize.cached():
        values = torch.cat([_singular_values(layer, part) for layer, part in parts(module, case)])
    return Orthogonality(float((values - 1).abs().max()), float(values.max() - 1))


def parts(module: nn.Module, case: Case) -> Iterator[tuple[nn.Module, LayerCase]]:
    """The layers of a module built for a case, each with the case that it is of its own."""
    if isinstance(case, LayerCase):
        yield module, case
        return
    assert isinstance(module, nn.Sequential)
    with torch.no_grad():
        x = torch.zeros(1, *case.input_shape)
        for layer, ours in zip(module, case.build(), strict=True):
            if isinstance(ours, Linear):
                yield layer, LayerCase(ours.in_features, ours.out_features, batch=case.batch)
            elif isinstance(ours, Conv2d):
                sizes = (ours.in_channels, ours.out_channels, ours.kernel_size[0], ours.stride[0])
                yield layer, LayerCase(*sizes, size=x.shape[-1], batch=case.batch)
            x = ours(x)


def _singular_values(layer: nn.Module, case: LayerCase) -> Tensor:
    place = next(layer.parameters()).device
    if not case.kernel:
        symbols = _push(layer, torch.eye(case.inputs, device=place)).mT.unsqueeze(0)
    else:
        symbols = _symbols(layer, case, place)
    gram = symbols @ symbols.mH if symbols.shape[-2] <= symbols.shape[-1] else symbols.mH @ symbols
    return torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().flatten()


def _symbols(layer: nn.Module, case: LayerCase, place: torch.device) -> Tensor:
    """(frequencies, outputs, inputs times phases): half of the frequencies do."""
    size, s = _torus(case), case.stride
    units = torch.eye(case.inputs * s * s, device=place)
    chunks = units.split(max(1, _CHUNK // (units.shape[1] * size * size)))
    responses = torch.cat([_push(layer, _scatter(chunk, size, s)) for chunk in chunks])
    symbols = torch.fft.rfft2(responses).permute(2, 3, 1, 0)
    x = torch.rand(2, case.inputs * s * s, size // s, size // s, device=place)
    expected = torch.einsum("hwoi,bihw->bohw", symbols, torch.fft.rfft2(x.double()))
    y = _push(layer, F.pixel_shuffle(x, s))
    off = torch.fft.irfft2(expected, s=y.shape[-2:]) - y
    if not bool(off.norm() <= _TOLERANCE * y.norm()):
        raise ValueError("its spectrum is unknown: it is not a convolution on a torus")
    return symbols.flatten(0, 1)


def _scatter(units: Tensor, size: int, stride: int) -> Tensor:
    """Images with a one in the first cell, at the channel and phase of each unit vector."""
    cells = units.new_zeros(*units.shape, size // stride, size // stride)
    cells[..., 0, 0] = units
    return F.pixel_shuffle(cells, stride)


def _push(layer: nn.Module, x: Tensor) -> Tensor:
    """The linear part of the layer, in float64."""
    return layer(x).double() - layer(torch.zeros_like(x[:1])).double()


def _torus(case: LayerCase) -> int:
    """The size itself if that is affordable, its least divisor that holds the kernel otherwise."""
    width = min(case.inputs * case.stride**2, case.outputs)
    if width**3 * (case.size // case.stride) ** 2 / 2 <= _WORK:
        return case.size
    sizes = range(case.kernel, case.size)
    fitting = (s for s in sizes if case.size % s == 0 and s % case.stride == 0)
    return next(fitting, case.size)
