"""Models on their way out: frozen to plain modules, converted, and written to files."""

from taut.export._change import Change, Converted
from taut.export._convert import convert
from taut.export._export import SUFFIXES, Exported, export, load
from taut.export._freeze import freeze
from taut.export._shrink import shrink_

__all__ = [
    "SUFFIXES",
    "Change",
    "Converted",
    "Exported",
    "convert",
    "export",
    "freeze",
    "load",
    "shrink_",
]
