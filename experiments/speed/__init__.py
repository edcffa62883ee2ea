"""What layers cost: cases, contenders, times, memory, and how orthogonal the result is."""

from experiments.speed._command import EXPERIMENT
from experiments.speed._page import TABLES

__all__ = ["EXPERIMENT", "TABLES"]
