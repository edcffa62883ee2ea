"""Drop-in replacements of torch.nn layers with a Lipschitz guarantee; activations; downsampling."""

from taut.nn._centring import BatchCentering, BatchLipNorm, LayerCentering
from taut.nn._conv import Conv1d, Conv2d, Conv3d
from taut.nn._conv_transpose import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from taut.nn._isometric_pad import (
    IsometricPad1d,
    IsometricPad2d,
    IsometricPad3d,
    isometric_pad,
)
from taut.nn._linear import Linear
from taut.nn._padding import PadToMultiple1d, PadToMultiple2d, PadToMultiple3d
from taut.nn._parametrized import AbstractParametrizedLayer, SharedTensors
from taut.nn._resampling import (
    InvertibleDownsample1d,
    InvertibleDownsample2d,
    InvertibleDownsample3d,
    InvertibleUpsample1d,
    InvertibleUpsample2d,
    InvertibleUpsample3d,
)
from taut.nn._times import Times
from taut.nn.activations import GroupSort, MaxMin
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

__all__ = [
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
    "GroupSort",
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
    "MaxMin",
    "PadToMultiple1d",
    "PadToMultiple2d",
    "PadToMultiple3d",
    "ReZeroResidual",
    "ScaledAdaptiveAvgPool1d",
    "ScaledAdaptiveAvgPool2d",
    "ScaledAdaptiveAvgPool3d",
    "ScaledAvgPool1d",
    "ScaledAvgPool2d",
    "ScaledAvgPool3d",
    "ScaledMean",
    "SharedTensors",
    "SplitResidual",
    "Times",
    "isometric_pad",
]
