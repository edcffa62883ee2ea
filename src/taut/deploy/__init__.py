"""Models on their way out: frozen to plain modules, their norms proved to be at most 1."""

from taut.deploy.freeze import freeze
from taut.deploy.shrink import shrink_

__all__ = ["freeze", "shrink_"]
