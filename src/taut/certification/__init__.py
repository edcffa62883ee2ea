"""Bound and logits to certified radii: what no perturbation within the radius can change."""

from taut.certification._arithmetic import ARITHMETICS, Arithmetic, l2_distance_upper, norms_upper
from taut.certification._certificate import Certificate, prove
from taut.certification._certify import Certification, certify, certify_batches
from taut.certification._eps import Eps, as_eps_sequence
from taut.certification._feature_slopes import FeatureSlopes, slopes
from taut.certification._inputs import numbers_of
from taut.certification._predict import predict, predict_batches
from taut.certification._predictions import Predictions
from taut.certification._radius import (
    above,
    as_rational,
    certified_radius,
    class_logits,
    logit_margin,
)
from taut.certification._verify import Verified, verify

__all__ = [
    "ARITHMETICS",
    "Arithmetic",
    "Certificate",
    "Certification",
    "Eps",
    "FeatureSlopes",
    "Predictions",
    "Verified",
    "above",
    "as_eps_sequence",
    "as_rational",
    "certified_radius",
    "certify",
    "certify_batches",
    "class_logits",
    "l2_distance_upper",
    "logit_margin",
    "norms_upper",
    "numbers_of",
    "predict",
    "predict_batches",
    "prove",
    "slopes",
    "verify",
]
