"""Anomaly detection: one-class scores that are 1-Lipschitz, and their certified AUROC."""

from taut.anomaly._auroc import auroc, certified_auroc
from taut.anomaly._certify import DetectionCertification, certify
from taut.anomaly._neighbours import Neighbours

__all__ = [
    "DetectionCertification",
    "Neighbours",
    "auroc",
    "certified_auroc",
    "certify",
]
