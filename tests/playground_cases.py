"""Models that a playground's page must compute, by name, with free weights."""

import torch
from torch import nn

import taut


class Both(nn.Module):
    """A sum and a concatenation of two branches."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(2, 4, 1)

    def forward(self, x):
        return torch.cat([self.one(x) + 0.5 * self.two(x), x / 3 - 1], 1)


def _conv(*arguments, **options):
    return lambda: nn.Conv2d(*arguments, **options)


CASES = {
    "conv, zeros": (_conv(2, 3, 3, padding=1), (2, 5, 4)),
    "conv, circular, stride": (_conv(2, 4, 4, 2, 1, padding_mode="circular"), (2, 6, 8)),
    "conv, valid, dilation": (_conv(2, 3, 3, dilation=2), (2, 7, 6)),
    "conv, groups, reflect": (
        _conv(4, 6, 3, padding=1, groups=2, padding_mode="reflect"), (4, 5, 5)
    ),
    "conv 1-D": (lambda: nn.Conv1d(2, 3, 4, 2, padding=1, bias=False), (2, 9)),
    "conv 3-D": (lambda: nn.Conv3d(1, 2, 2), (1, 3, 4, 3)),
    "dense": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 7)), (3, 2, 2)),
    "dense on places": (lambda: nn.Linear(4, 3), (5, 4)),
    "maxmin": (lambda: taut.nn.MaxMin(), (5, 2, 3)),
    "group sort": (lambda: taut.nn.GroupSort(4), (9, 2, 2)),
    "abs": (lambda: taut.nn.Abs(), (3, 4)),
    "rectifiers": (
        lambda: nn.Sequential(nn.ReLU(), nn.Conv2d(3, 3, 1), nn.LeakyReLU(0.1), nn.PReLU(3)),
        (3, 2, 2),
    ),
    "clamps": (lambda: nn.Sequential(nn.Hardtanh(-0.5, 0.8), nn.ReLU6()), (3, 4)),
    "n-activation": (lambda: taut.nn.NActivation(3), (3, 4, 4)),
    "shuffles": (
        lambda: nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(8, 8, 1), nn.PixelShuffle(2)),
        (2, 4, 6),
    ),
    "pads": (
        lambda: nn.Sequential(nn.ZeroPad2d((1, 2, 0, 1)), nn.ConstantPad2d(1, 0.5)), (1, 3, 4)
    ),
    "pools": (
        lambda: nn.Sequential(nn.AvgPool2d(3, 2, padding=1), nn.MaxPool2d(2, 1, padding=1)),
        (2, 7, 6),
    ),
    "scaled pool": (lambda: taut.nn.ScaledAvgPool2d(2), (2, 4, 6)),
    "adaptive pool": (lambda: nn.AdaptiveAvgPool2d((2, 3)), (2, 5, 7)),
    "l2-norm pool": (lambda: taut.nn.L2NormPool2d(2), (2, 4, 4)),
    "batch norm": (lambda: nn.BatchNorm2d(3), (3, 2, 4)),
    "branches": (Both, (2, 4, 4)),
    "transposed": (lambda: nn.ConvTranspose2d(2, 4, 3, 2, 1, groups=2), (2, 4, 3)),
    "residual": (lambda: taut.nn.PotentialResidual2d(3, 5, 3), (3, 5, 5)),
    "skew": (lambda: taut.nn.SOC2d(4, 4, 3), (4, 5, 5)),
    "centring": (lambda: taut.nn.LayerCentering(), (3, 4, 4)),
    "orthogonal": (
        lambda: nn.Sequential(
            taut.nn.Conv2d(2, 4, 3, stride=2), taut.nn.MaxMin(), nn.Flatten(),
            taut.nn.Linear(36, 5),
        ),
        (2, 5, 6),
    ),
}  # fmt: skip


def made(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """A frozen model of float32 numbers, drawn from a seed."""
    build, shape = CASES[name]
    torch.manual_seed(0)
    model = build()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return taut.freeze(model.eval().requires_grad_(False)), shape
