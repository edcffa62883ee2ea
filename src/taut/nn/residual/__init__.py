"""Branches that meet again, 1-Lipschitz where each branch is."""

from taut.nn.residual._convex import ConvexConcat, ConvexSum

__all__ = ["ConvexConcat", "ConvexSum"]
