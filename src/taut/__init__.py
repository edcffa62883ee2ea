"""Provably 1-Lipschitz convolutional networks whose gradients do not attenuate."""

from taut import data, deploy, losses, models, nn
from taut.attacks import attack
from taut.certification import certified_radius, certify, l2_distance_upper, verify
from taut.deploy import freeze
from taut.lipschitz import lipschitz_bound, singular_values
from taut.parametrizations import BCOP, RKO, Orthogonal, batched, cached, retract_

__version__ = "0.1.0"

__all__ = [
    "BCOP",
    "RKO",
    "Orthogonal",
    "attack",
    "batched",
    "cached",
    "certified_radius",
    "certify",
    "data",
    "deploy",
    "freeze",
    "l2_distance_upper",
    "lipschitz_bound",
    "losses",
    "models",
    "nn",
    "retract_",
    "singular_values",
    "verify",
]
