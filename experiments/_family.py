"""Every method as a layer between channels: what tables and figures of all methods iterate over."""

from collections.abc import Callable
from functools import partial

from torch import nn

import taut
from taut.parametrizations import AbstractParametrization, methods

Maker = Callable[[int, int, int, int], nn.Module]
"""`(in_channels, out_channels, kernel_size, stride)` to a layer of two axes."""


def family() -> dict[str, Maker]:
    """By name: a convolution of each method, then the layers that are none."""
    convolutions = {
        name: partial(taut.nn.Conv2d, parametrization=method)
        for name, method in methods().items()
        if not method.matrices_only
    }
    residuals = {"BCOP": taut.BCOP, "SLL": taut.SLL, "CPL": taut.CPL}
    return {
        **convolutions,
        **{f"PotentialResidual2d, {name}": _residual(of) for name, of in residuals.items()},
        "Sandwich2d": _sandwich,
        "ShiftMix2d": _shift,
        "ECO": _dilated,
        "SOC2d": _series,
    }


def _residual(method: type[AbstractParametrization]) -> Maker:
    """Behind an orthogonal convolution, where channels or sizes change."""

    def make(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Module:
        layer = taut.nn.PotentialResidual2d(outputs, kernel_size=kernel, parametrization=method)
        return _resized(inputs, outputs, stride, layer)

    return make


def _sandwich(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Module:
    return taut.nn.Sandwich2d(inputs, outputs, kernel_size=kernel, stride=stride)


def _shift(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Module:
    """One position to each side, whatever the kernel size of the others."""
    return _resized(inputs, outputs, stride, taut.nn.ShiftMix2d(outputs, outputs))


def _series(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Module:
    """Of an odd kernel size, the next smaller one."""
    return taut.nn.SOC2d(inputs, outputs, kernel - 1 + kernel % 2, stride)


def _dilated(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Module:
    """Of an even kernel size, the next larger one: it must divide the size of the input."""
    taps = kernel + kernel % 2
    return taut.nn.Conv2d(inputs, outputs, taps, stride, parametrization=taut.ECO)


def _resized(inputs: int, outputs: int, stride: int, layer: nn.Module) -> nn.Module:
    if inputs == outputs and stride == 1:
        return layer
    return nn.Sequential(taut.nn.Conv2d(inputs, outputs, stride, stride), layer)
