"""Provably 1-Lipschitz convolutional networks whose gradients do not attenuate."""

from taut import data, diagnostics, export, losses, models, nn, theory, wasserstein
from taut._load import load
from taut.attacks import attack
from taut.certification import certified_radius, certify, l2_distance_upper, predict, verify
from taut.export import convert, freeze
from taut.parametrizations import (
    AOL,
    BCOP,
    BRO,
    ECO,
    LOT,
    OSSN,
    RKL2NE,
    RKO,
    SVCM,
    BCOPFixed,
    Cayley,
    Orthogonal,
    SpectralQR,
    after_step,
    batched,
    cached,
    projected,
    retract_,
    update_,
)
from taut.program import lipschitz_bound, singular_values

__version__ = "0.1.0"

__all__ = [
    "AOL",
    "BCOP",
    "BRO",
    "ECO",
    "LOT",
    "OSSN",
    "RKL2NE",
    "RKO",
    "SVCM",
    "BCOPFixed",
    "Cayley",
    "Orthogonal",
    "SpectralQR",
    "after_step",
    "attack",
    "batched",
    "cached",
    "certified_radius",
    "certify",
    "convert",
    "data",
    "diagnostics",
    "export",
    "freeze",
    "l2_distance_upper",
    "lipschitz_bound",
    "load",
    "losses",
    "models",
    "nn",
    "predict",
    "projected",
    "retract_",
    "singular_values",
    "theory",
    "update_",
    "verify",
    "wasserstein",
]
