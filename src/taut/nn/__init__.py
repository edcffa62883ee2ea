"""Drop-in replacements of torch.nn layers with a Lipschitz guarantee; activations; downsampling."""

from taut.nn._centring import BatchCentering, BatchLipNorm, LayerCentering
from taut.nn._conv import Conv1d, Conv2d, Conv3d
from taut.nn._conv_transpose import (
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    SizedConvTranspose,
)
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
from taut.nn._resampling import (
    InvertibleDownsample1d,
    InvertibleDownsample2d,
    InvertibleDownsample3d,
    InvertibleUpsample1d,
    InvertibleUpsample2d,
    InvertibleUpsample3d,
)
from taut.nn._shift import Shift1d, Shift2d, Shift3d
from taut.nn._shift_mix import ShiftMix1d, ShiftMix2d, ShiftMix3d
from taut.nn._times import Times
from taut.nn._unit_row_linear import UnitRowLinear
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
    AdaptiveL2NormPool1d,
    AdaptiveL2NormPool2d,
    AdaptiveL2NormPool3d,
    L2NormPool1d,
    L2NormPool2d,
    L2NormPool3d,
    ScaledAdaptiveAvgPool1d,
    ScaledAdaptiveAvgPool2d,
    ScaledAdaptiveAvgPool3d,
    ScaledAvgPool1d,
    ScaledAvgPool2d,
    ScaledAvgPool3d,
    ScaledMean,
)
from taut.nn.residual import (
    ConcatResidual,
    ConvexConcat,
    ConvexResidual,
    ConvexSum,
    ReZeroResidual,
    SplitResidual,
)
from taut.nn.series import SkewExponential, SOC1d, SOC2d, SOC3d

__all__ = [
    "Abs",
    "AbstractParametrizedLayer",
    "AdaptiveL2NormPool1d",
    "AdaptiveL2NormPool2d",
    "AdaptiveL2NormPool3d",
    "BatchCentering",
    "BatchLipNorm",
    "ConcatResidual",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "ConvexConcat",
    "ConvexResidual",
    "ConvexSum",
    "FullSort",
    "GroupSort",
    "HouseHolder",
    "InvertibleDownsample1d",
    "InvertibleDownsample2d",
    "InvertibleDownsample3d",
    "InvertibleUpsample1d",
    "InvertibleUpsample2d",
    "InvertibleUpsample3d",
    "IsometricPad1d",
    "IsometricPad2d",
    "IsometricPad3d",
    "L2NormPool1d",
    "L2NormPool2d",
    "L2NormPool3d",
    "LayerCentering",
    "Linear",
    "LinearSpline",
    "MaxMin",
    "NActivation",
    "PadToMultiple1d",
    "PadToMultiple2d",
    "PadToMultiple3d",
    "PositionalEncoding",
    "ReZeroResidual",
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
    "SizedConvTranspose",
    "SkewExponential",
    "SplitResidual",
    "Times",
    "UnitRowLinear",
    "isometric_pad",
]
