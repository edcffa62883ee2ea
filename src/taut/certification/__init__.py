"""Bound and logits to certified radii: what no perturbation within the radius can change."""

from taut.certification._certify import Certification, certify
from taut.certification._radius import above, as_rational, certified_radius, logit_margin

__all__ = ["Certification", "above", "as_rational", "certified_radius", "certify", "logit_margin"]
