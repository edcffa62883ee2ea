"""Every method in one macro-architecture, trained for the same time on the same machine."""

from experiments.compare._command import EXPERIMENT
from experiments.compare._page import TABLES

__all__ = ["EXPERIMENT", "TABLES"]
