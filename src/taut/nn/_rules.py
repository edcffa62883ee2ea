"""The layers of this package in the terms of :mod:`taut.lipschitz`.

The guarantee of a parametrization is not read: bounds come from the weight as used.
"""

from torch import nn

from taut.lipschitz import (
    ConvOperator,
    NormBound,
    Padding,
    affine_rounding,
    exact_rounding,
    register,
    register_linear,
    register_rounding,
)
from taut.nn.activations import GroupSort, MaxMin
from taut.nn.conv import Conv2d
from taut.nn.downsampling import InvertibleDownsample2d
from taut.nn.linear import Linear
from taut.nn.padding import PadToMultiple2d

Shape = tuple[int, ...]


@register_linear(Conv2d)
def _conv2d(layer: Conv2d, shape: Shape) -> ConvOperator:
    pads = layer.pads((shape[-2], shape[-1]))
    padding = Padding(layer.padding_mode, left=pads.left, right=pads.right, extend=pads.extend)
    return ConvOperator(layer.weight, shape[1:], stride=layer.stride, padding=padding)


@register_linear(Linear)
def _linear(layer: Linear, shape: Shape) -> ConvOperator:
    return ConvOperator(layer.weight, ())


@register(InvertibleDownsample2d, linear=True)
def _downsample(layer: nn.Module, shape: Shape) -> NormBound:
    return NormBound(1.0, "permutation")


@register(PadToMultiple2d, linear=True)
def _pad_to_multiple(layer: nn.Module, shape: Shape) -> NormBound:
    return NormBound(1.0, "adds zeros")


@register(MaxMin)
@register(GroupSort)
def _sorting(layer: nn.Module, shape: Shape) -> NormBound:
    return NormBound(1.0, "sorts channels: a permutation at each input")


# Rounding: the layers run as their weight and bias, the others copy numbers.
for _kind in (Conv2d, Linear):
    register_rounding(_kind)(affine_rounding)
for _kind in (InvertibleDownsample2d, PadToMultiple2d, MaxMin, GroupSort):
    register_rounding(_kind)(exact_rounding)
