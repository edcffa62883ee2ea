"""Provably 1-Lipschitz convolutional networks whose gradients do not attenuate."""

from taut import data, deploy, losses, models, nn, theory, wasserstein
from taut.attacks import attack
from taut.certification import certified_radius, certify, l2_distance_upper, verify
from taut.deploy import convert, freeze
from taut.lipschitz import lipschitz_bound, singular_values
from taut.parametrizations import (
    BCOP,
    OSSN,
    RKL2NE,
    RKO,
    SVCM,
    BCOPFixed,
    Orthogonal,
    batched,
    cached,
    projected,
    retract_,
    update_,
)

__version__ = "0.1.0"

__all__ = [
    "BCOP",
    "OSSN",
    "RKL2NE",
    "RKO",
    "SVCM",
    "BCOPFixed",
    "Orthogonal",
    "attack",
    "batched",
    "cached",
    "certified_radius",
    "certify",
    "convert",
    "data",
    "deploy",
    "freeze",
    "l2_distance_upper",
    "lipschitz_bound",
    "losses",
    "models",
    "nn",
    "projected",
    "retract_",
    "singular_values",
    "theory",
    "update_",
    "verify",
    "wasserstein",
]
