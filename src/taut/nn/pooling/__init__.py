"""Pools of norm 1."""

from taut.nn.pooling._l2_norm import (
    AdaptiveL2NormPool1d,
    AdaptiveL2NormPool2d,
    AdaptiveL2NormPool3d,
    L2NormPool1d,
    L2NormPool2d,
    L2NormPool3d,
)
from taut.nn.pooling._scaled import (
    ScaledAdaptiveAvgPool1d,
    ScaledAdaptiveAvgPool2d,
    ScaledAdaptiveAvgPool3d,
    ScaledAvgPool1d,
    ScaledAvgPool2d,
    ScaledAvgPool3d,
    ScaledMean,
)

__all__ = [
    "AdaptiveL2NormPool1d",
    "AdaptiveL2NormPool2d",
    "AdaptiveL2NormPool3d",
    "L2NormPool1d",
    "L2NormPool2d",
    "L2NormPool3d",
    "ScaledAdaptiveAvgPool1d",
    "ScaledAdaptiveAvgPool2d",
    "ScaledAdaptiveAvgPool3d",
    "ScaledAvgPool1d",
    "ScaledAvgPool2d",
    "ScaledAvgPool3d",
    "ScaledMean",
]
