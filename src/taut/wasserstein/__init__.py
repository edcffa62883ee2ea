"""Wasserstein-1 distances from both sides, and tests for drift between two samples."""

from taut.wasserstein import closed_form, critics
from taut.wasserstein._drift import drift
from taut.wasserstein._drift_monitor import DriftMonitor
from taut.wasserstein._drift_result import Drift
from taut.wasserstein._estimate import estimate
from taut.wasserstein._result import W1Estimate, W1Progress
from taut.wasserstein._samples import FEWEST, Points, Samples, Weights, read_samples
from taut.wasserstein._settings import DriftSettings, Settings
from taut.wasserstein._sources import Source, read_source
from taut.wasserstein._training import (
    CriticTraining,
    MeasuredCritic,
    after_step,
    measure_critic,
    train_critic,
)

__all__ = [
    "FEWEST",
    "CriticTraining",
    "Drift",
    "DriftMonitor",
    "DriftSettings",
    "MeasuredCritic",
    "Points",
    "Samples",
    "Settings",
    "Source",
    "W1Estimate",
    "W1Progress",
    "Weights",
    "after_step",
    "closed_form",
    "critics",
    "drift",
    "estimate",
    "measure_critic",
    "read_samples",
    "read_source",
    "train_critic",
]
