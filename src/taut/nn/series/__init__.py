"""Layers that are power series of a convolution."""

from taut.nn.series._soc import SOC1d, SOC2d, SOC3d
from taut.nn.series._twin import SkewExponential

__all__ = ["SOC1d", "SOC2d", "SOC3d", "SkewExponential"]
