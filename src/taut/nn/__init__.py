"""Drop-in replacements of torch.nn layers with a Lipschitz guarantee; activations; downsampling."""

from taut.nn._conv import Conv1d, Conv2d, Conv3d
from taut.nn._conv_transpose import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from taut.nn._downsampling import InvertibleDownsample2d
from taut.nn._isometric_pad import (
    IsometricPad1d,
    IsometricPad2d,
    IsometricPad3d,
    isometric_pad,
)
from taut.nn._linear import Linear
from taut.nn._padding import PadToMultiple1d, PadToMultiple2d, PadToMultiple3d
from taut.nn._parametrized import AbstractParametrizedLayer, SharedTensors
from taut.nn._positional_encoding import PositionalEncoding
from taut.nn._shift import Shift1d, Shift2d, Shift3d
from taut.nn._shift_mix import ShiftMix1d, ShiftMix2d, ShiftMix3d
from taut.nn._times import Times
from taut.nn.activations import (
    Abs,
    FullSort,
    GroupSort,
    HouseHolder,
    LinearSpline,
    MaxMin,
    NActivation,
)
from taut.nn.pooling import (
    ScaledAdaptiveAvgPool1d,
    ScaledAdaptiveAvgPool2d,
    ScaledAdaptiveAvgPool3d,
    ScaledAvgPool1d,
    ScaledAvgPool2d,
    ScaledAvgPool3d,
    ScaledMean,
)
from taut.nn.residual import ConvexConcat, ConvexSum
from taut.nn.series import SkewExponential, SOC1d, SOC2d, SOC3d

__all__ = [
    "Abs",
    "AbstractParametrizedLayer",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "ConvexConcat",
    "ConvexSum",
    "FullSort",
    "GroupSort",
    "HouseHolder",
    "InvertibleDownsample2d",
    "IsometricPad1d",
    "IsometricPad2d",
    "IsometricPad3d",
    "Linear",
    "LinearSpline",
    "MaxMin",
    "NActivation",
    "PadToMultiple1d",
    "PadToMultiple2d",
    "PadToMultiple3d",
    "PositionalEncoding",
    "SOC1d",
    "SOC2d",
    "SOC3d",
    "ScaledAdaptiveAvgPool1d",
    "ScaledAdaptiveAvgPool2d",
    "ScaledAdaptiveAvgPool3d",
    "ScaledAvgPool1d",
    "ScaledAvgPool2d",
    "ScaledAvgPool3d",
    "ScaledMean",
    "SharedTensors",
    "Shift1d",
    "Shift2d",
    "Shift3d",
    "ShiftMix1d",
    "ShiftMix2d",
    "ShiftMix3d",
    "SkewExponential",
    "Times",
    "isometric_pad",
]
