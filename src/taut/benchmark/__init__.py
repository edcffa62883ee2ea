"""What a layer costs: cases, contenders, times, memory, and how orthogonal the result is.

`taut bench` is its face; :func:`taut.benchmark.run` its one entry.
"""

from taut.benchmark.cases import Case, LayerCase, NetCase, parse_case, parse_layer, parse_net
from taut.benchmark.contenders import Contender, contenders, load_contender, select, twin
from taut.benchmark.floors import Floor, Rates, floor, measured_rates, plain_flops
from taut.benchmark.machine import environment
from taut.benchmark.memory import peak_memory
from taut.benchmark.plots import save_plots
from taut.benchmark.rows import Row, measure
from taut.benchmark.session import Results, Session, read_results, run
from taut.benchmark.spectra import Orthogonality, orthogonality
from taut.benchmark.steps import Settings
from taut.benchmark.table import cells, markdown
from taut.benchmark.timing import alternate, median_ratio
from taut.benchmark.trends import growth, sweeps

__all__ = [
    "Case",
    "Contender",
    "Floor",
    "LayerCase",
    "NetCase",
    "Orthogonality",
    "Rates",
    "Results",
    "Row",
    "Session",
    "Settings",
    "alternate",
    "cells",
    "contenders",
    "environment",
    "floor",
    "growth",
    "load_contender",
    "markdown",
    "measure",
    "measured_rates",
    "median_ratio",
    "orthogonality",
    "parse_case",
    "parse_layer",
    "parse_net",
    "peak_memory",
    "plain_flops",
    "read_results",
    "run",
    "save_plots",
    "select",
    "sweeps",
    "twin",
]
