"""The founding paper's classification tables, done again: ours beside what was published.

A table is data: its published values, and for each system the net that does it again. One module
plans the runs, one trains and measures them, one puts ours beside what was published.

To add a table, write a file with a `TABLE` and add its line here.
"""

from taut.reproduce import table1, table2, table3, table7, table8, table9
from taut.reproduce._comparison import Comparison, Line, compare
from taut.reproduce._page import HEADS, by_dataset, cells, draw, heading, markdown, notes, write
from taut.reproduce._plan import Plan, Trial, check, make_plan
from taut.reproduce._protocol import DATASETS, SETTINGS, DataProtocol, Setting
from taut.reproduce._table import Column, Measure, Published, Row, Table
from taut.reproduce._work import measured, take, trained

TABLES: dict[str, Table] = {
    module.TABLE.name: module.TABLE for module in (table1, table2, table3, table7, table8, table9)
}
"""By the name that the command line knows."""

__all__ = [
    "DATASETS",
    "HEADS",
    "SETTINGS",
    "TABLES",
    "Column",
    "Comparison",
    "DataProtocol",
    "Line",
    "Measure",
    "Plan",
    "Published",
    "Row",
    "Setting",
    "Table",
    "Trial",
    "by_dataset",
    "cells",
    "check",
    "compare",
    "draw",
    "heading",
    "make_plan",
    "markdown",
    "measured",
    "notes",
    "take",
    "trained",
    "write",
]
