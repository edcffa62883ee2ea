"""The macro-architecture with the layers of a method."""

from torch import nn

from taut.models import SimpleNet, layers

WIDTHS = {"XXS": 8, "XS": 16, "S": 32, "M": 64, "L": 128}
"""Channels of the first block. The paper has all sizes but the first."""


def build(method: str, size: str, shape: tuple[int, int, int], classes: int) -> nn.Sequential:
    """A fresh net; ValueError if the method refuses a shape."""
    layer = layers()[method]
    net = SimpleNet(width=WIDTHS[size], layer=layer.layer)
    return net.build(shape, classes, parametrization=layer.parametrization)
