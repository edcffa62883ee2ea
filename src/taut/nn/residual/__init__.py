"""Branches that meet again, 1-Lipschitz where each branch is."""

from taut.nn.residual._convex import ConvexConcat, ConvexSum
from taut.nn.residual._wrappers import (
    ConcatResidual,
    ConvexResidual,
    ReZeroResidual,
    SplitResidual,
)

__all__ = [
    "ConcatResidual",
    "ConvexConcat",
    "ConvexResidual",
    "ConvexSum",
    "ReZeroResidual",
    "SplitResidual",
]
