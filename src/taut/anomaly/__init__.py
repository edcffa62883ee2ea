"""Anomaly detection: one-class scores that are 1-Lipschitz, and their certified AUROC."""

from taut.anomaly._attack import attacked_auroc
from taut.anomaly._auroc import auroc, certified_auroc
from taut.anomaly._certify import DetectionCertification, certify
from taut.anomaly._detector import Detector
from taut.anomaly._fit import Settings, fit, neighbours
from taut.anomaly._neighbours import Neighbours
from taut.anomaly._outliers import OUTLIERS

__all__ = [
    "OUTLIERS",
    "DetectionCertification",
    "Detector",
    "Neighbours",
    "Settings",
    "attacked_auroc",
    "auroc",
    "certified_auroc",
    "certify",
    "fit",
    "neighbours",
]
