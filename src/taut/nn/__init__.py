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
from taut.nn._spectral_conv import FullSizeConv, SpectralConv, SpectralGeometry
from taut.nn._times import Times
from taut.nn.activations import GroupSort, MaxMin
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

__all__ = [
    "AbstractParametrizedLayer",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "ConvexConcat",
    "ConvexSum",
    "FullSizeConv",
    "GroupSort",
    "InvertibleDownsample2d",
    "IsometricPad1d",
    "IsometricPad2d",
    "IsometricPad3d",
    "Linear",
    "MaxMin",
    "PadToMultiple1d",
    "PadToMultiple2d",
    "PadToMultiple3d",
    "ScaledAdaptiveAvgPool1d",
    "ScaledAdaptiveAvgPool2d",
    "ScaledAdaptiveAvgPool3d",
    "ScaledAvgPool1d",
    "ScaledAvgPool2d",
    "ScaledAvgPool3d",
    "ScaledMean",
    "SharedTensors",
    "SpectralConv",
    "SpectralGeometry",
    "Times",
    "isometric_pad",
]
