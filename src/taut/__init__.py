"""Provably 1-Lipschitz convolutional networks whose gradients do not attenuate."""

from taut import nn
from taut.lipschitz import lipschitz_bound, singular_values
from taut.parametrizations import BCOP, RKO, Orthogonal, cached

__version__ = "0.1.0"

__all__ = [
    "BCOP",
    "RKO",
    "Orthogonal",
    "cached",
    "lipschitz_bound",
    "nn",
    "singular_values",
]
