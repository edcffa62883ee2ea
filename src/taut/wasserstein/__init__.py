"""Wasserstein-1 distances from both sides: critics from below, transport plans from above."""

from taut.wasserstein import closed_form, critics
from taut.wasserstein._estimate import W1Estimate, W1Progress, estimate
from taut.wasserstein.settings import Settings

__all__ = ["Settings", "W1Estimate", "W1Progress", "closed_form", "critics", "estimate"]
