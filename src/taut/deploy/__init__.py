"""Models on their way out: frozen to plain modules, proved, and written to files."""

from taut.deploy.convert import Change, Converted, convert
from taut.deploy.export import Exported, export, load
from taut.deploy.freeze import freeze
from taut.deploy.plan import PlainModel
from taut.deploy.shrink import shrink_

__all__ = [
    "Change",
    "Converted",
    "Exported",
    "PlainModel",
    "convert",
    "export",
    "freeze",
    "load",
    "shrink_",
]
