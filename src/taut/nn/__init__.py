"""Twins of torch.nn layers with a Lipschitz guarantee, activations and downsampling."""

from taut.nn import _rules as _rules
from taut.nn.activations import GroupSort, MaxMin
from taut.nn.conv import Conv2d
from taut.nn.downsampling import InvertibleDownsample2d
from taut.nn.linear import Linear
from taut.nn.padding import PadToMultiple2d

__all__ = ["Conv2d", "GroupSort", "InvertibleDownsample2d", "Linear", "MaxMin", "PadToMultiple2d"]
