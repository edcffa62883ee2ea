"""Nets as other libraries and papers build them, for images of 28 x 28, and what they claim.

`taut certify --model experiments/_referee_nets.py:torch_spectral_norm --weights net.pt
--input-shape 1,28,28` bounds one from the shell.
"""

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from taut.nn import MaxMin

SHAPE, CLASSES = (1, 28, 28), 10
_WIDTHS = (16, 32)
_FEATURES = _WIDTHS[1] * 7 * 7


def deel_torchlip() -> nn.Module:
    """Spectral layers of deel-torchlip, with its settings."""
    from deel import torchlip

    return torchlip.Sequential(
        torchlip.SpectralConv2d(1, _WIDTHS[0], 3, padding=1),
        torchlip.GroupSort2(),
        torchlip.ScaledL2NormPool2d((2, 2)),
        torchlip.SpectralConv2d(*_WIDTHS, 3, padding=1),
        torchlip.GroupSort2(),
        torchlip.ScaledL2NormPool2d((2, 2)),
        nn.Flatten(),
        torchlip.SpectralLinear(_FEATURES, 64),
        torchlip.GroupSort2(),
        torchlip.SpectralLinear(64, CLASSES),
    )


def orthogonium() -> nn.Module:
    """Adaptive orthogonal convolutions of orthogonium, with its settings."""
    from orthogonium.layers import AdaptiveOrthoConv2d, OrthoLinear
    from orthogonium.layers.custom_activations import MaxMin as TheirMaxMin

    return nn.Sequential(
        AdaptiveOrthoConv2d(1, _WIDTHS[0], 3, padding=1, padding_mode="circular"),
        TheirMaxMin(),
        AdaptiveOrthoConv2d(_WIDTHS[0], _WIDTHS[0], 2, stride=2, padding=0),
        TheirMaxMin(),
        AdaptiveOrthoConv2d(*_WIDTHS, 2, stride=2, padding=0),
        TheirMaxMin(),
        nn.Flatten(),
        OrthoLinear(_FEATURES, 64),
        TheirMaxMin(),
        OrthoLinear(64, CLASSES),
    )


def torch_spectral_norm() -> nn.Module:
    """Convolutions under `torch.nn.utils.parametrizations.spectral_norm`, as critics have them."""
    return nn.Sequential(
        spectral_norm(nn.Conv2d(1, _WIDTHS[0], 3, padding=1)),
        nn.ReLU(),
        spectral_norm(nn.Conv2d(*_WIDTHS, 4, stride=2, padding=1)),
        nn.ReLU(),
        spectral_norm(nn.Conv2d(_WIDTHS[1], _WIDTHS[1], 4, stride=2, padding=1)),
        nn.ReLU(),
        nn.Flatten(),
        spectral_norm(nn.Linear(_FEATURES, CLASSES)),
    )


def gloro_like() -> nn.Module:
    """Free convolutions, as GloRo nets have them, whose norms are estimated."""
    return nn.Sequential(
        nn.Conv2d(1, _WIDTHS[0], 3, padding=1),
        MaxMin(),
        nn.Conv2d(*_WIDTHS, 4, stride=2, padding=1),
        MaxMin(),
        nn.Conv2d(_WIDTHS[1], _WIDTHS[1], 4, stride=2, padding=1),
        MaxMin(),
        nn.Flatten(),
        nn.Linear(_FEATURES, CLASSES),
    )


class LinearResidual(nn.Module):
    """x + K x, the block of LiResNet."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.normal_(self.conv.weight, std=1 / (9 * channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


def liresnet_like() -> nn.Module:
    """A stem and linear residual blocks, as LiResNet has them, whose norms are estimated."""
    channels = _WIDTHS[1]
    blocks = [part for _ in range(4) for part in (LinearResidual(channels), MaxMin())]
    return nn.Sequential(
        nn.Conv2d(1, channels, 4, stride=4),
        MaxMin(),
        *blocks,
        nn.Flatten(),
        nn.Linear(_FEATURES, CLASSES),
    )


def claims_one(net: nn.Module) -> float:
    """The constant that libraries state for nets of their layers."""
    return 1.0


def claims_estimate(net: nn.Module, iterations: int) -> float:
    """The product of the norms of all linear parts, each estimated from below."""
    product, x = 1.0, torch.zeros(1, *SHAPE)
    for part in net.children():
        if any(True for _ in part.parameters()):
            product *= _power_iteration(part, x, iterations)
        x = part(x)
    return product


def _power_iteration(part: nn.Module, x: Tensor, iterations: int) -> float:
    """The norm of a linear part, estimated from below."""
    origin, v, norm = part(torch.zeros_like(x)).detach(), torch.randn_like(x), math.nan
    for _ in range(iterations):
        v = (v / v.norm()).requires_grad_()
        y = part(v) - origin
        norm = float(y.norm().detach())
        (v,) = torch.autograd.grad(y.square().sum() / 2, v)
    return norm


NETS: dict[str, tuple[Callable[[], nn.Module], Callable[..., float], Sequence[str]]] = {
    "orthogonium, AdaptiveOrthoConv2d": (orthogonium, claims_one, ("orthogonium",)),
    "deel-torchlip, SpectralConv2d": (deel_torchlip, claims_one, ("deel-torchlip",)),
    "torch, spectral_norm": (torch_spectral_norm, claims_one, ()),
    "like GloRo, 10 iterations": (
        gloro_like,
        functools.partial(claims_estimate, iterations=10),
        (),
    ),
    "like LiResNet, 10 iterations": (
        liresnet_like,
        functools.partial(claims_estimate, iterations=10),
        (),
    ),
}
"""By name: a function that makes the net, one that gives its claimed constant, and packages."""
