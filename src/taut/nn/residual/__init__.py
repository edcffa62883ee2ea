"""Residual forms: sums and concatenations of branches, and layers whose proof is of the whole."""

from taut.nn.residual import _ops as _ops
from taut.nn.residual._averaged import Averaged
from taut.nn.residual._convex import ConvexConcat, ConvexSum
from taut.nn.residual._potential import (
    FrozenPotentialResidual,
    PotentialResidual1d,
    PotentialResidual2d,
    PotentialResidual3d,
)
from taut.nn.residual._sandwich import FrozenSandwich, Sandwich1d, Sandwich2d, Sandwich3d
from taut.nn.residual._wrappers import (
    ConcatResidual,
    ConvexResidual,
    ReZeroResidual,
    SplitResidual,
)

__all__ = [
    "Averaged",
    "ConcatResidual",
    "ConvexConcat",
    "ConvexResidual",
    "ConvexSum",
    "FrozenPotentialResidual",
    "FrozenSandwich",
    "PotentialResidual1d",
    "PotentialResidual2d",
    "PotentialResidual3d",
    "ReZeroResidual",
    "Sandwich1d",
    "Sandwich2d",
    "Sandwich3d",
    "SplitResidual",
]
