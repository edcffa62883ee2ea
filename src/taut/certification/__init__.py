"""Bound and logits to certified radii: what no perturbation within the radius can change."""

from taut.certification._arithmetic import ARITHMETICS, Arithmetic, l2_distance_upper, norms_upper
from taut.certification._certificate import Certificate, prove
from taut.certification._certify import Certification, certify, certify_batches
from taut.certification._eps import Eps, as_eps_sequence, as_radius
from taut.certification._feature_slopes import FeatureSlopes, slopes
from taut.certification._inputs import (
    check_images,
    check_labels,
    check_one_answer,
    checked_shape,
    hold_against_model,
    like_of,
    numbers_of,
)
from taut.certification._interval import (
    CertifiedInterval,
    certified_interval,
    output_constants,
    output_error,
)
from taut.certification._predict import checked_factors, predict, predict_batches
from taut.certification._predictions import Predictions
from taut.certification._radius import (
    above,
    as_rational,
    certified_radius,
    class_bound,
    class_logits,
    constant_of,
    executed_radii_to_classes,
    logit_margin,
    margin_error,
    pair_constants,
    radii_to_classes,
    targeted_radius,
)
from taut.certification._top_k import certified_top_k, check_top_k, radius_to_leave
from taut.certification._verify import Verified, verify

__all__ = [
    "ARITHMETICS",
    "Arithmetic",
    "Certificate",
    "Certification",
    "CertifiedInterval",
    "Eps",
    "FeatureSlopes",
    "Predictions",
    "Verified",
    "above",
    "as_eps_sequence",
    "as_radius",
    "as_rational",
    "certified_interval",
    "certified_radius",
    "certified_top_k",
    "certify",
    "certify_batches",
    "check_images",
    "check_labels",
    "check_one_answer",
    "check_top_k",
    "checked_factors",
    "checked_shape",
    "class_bound",
    "class_logits",
    "constant_of",
    "executed_radii_to_classes",
    "hold_against_model",
    "l2_distance_upper",
    "like_of",
    "logit_margin",
    "margin_error",
    "norms_upper",
    "numbers_of",
    "output_constants",
    "output_error",
    "pair_constants",
    "predict",
    "predict_batches",
    "prove",
    "radii_to_classes",
    "radius_to_leave",
    "slopes",
    "targeted_radius",
    "verify",
]
