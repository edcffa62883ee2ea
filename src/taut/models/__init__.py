"""Classifiers as functions from a frozen description to a plain `nn.Sequential`."""

from taut.models.config import ModelConfig, build
from taut.models.paper import fc3, large, small
from taut.models.wide import wide

__all__ = ["ModelConfig", "build", "fc3", "large", "small", "wide"]
