"""Wasserstein-1 distances from both sides: critics from below, transport plans from above."""

from taut.wasserstein import closed_form, critics, heuristics
from taut.wasserstein._estimate import W1Estimate, W1Progress, estimate
from taut.wasserstein._samples import FEWEST, Samples
from taut.wasserstein.settings import Settings
from taut.wasserstein.wgan import WGAN, WGANRun, train_wgan

__all__ = [
    "FEWEST",
    "WGAN",
    "Samples",
    "Settings",
    "W1Estimate",
    "W1Progress",
    "WGANRun",
    "closed_form",
    "critics",
    "estimate",
    "heuristics",
    "train_wgan",
]
