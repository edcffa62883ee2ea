"""The founding paper's classification tables, done again: ours beside what was published.

A table is data: its published values, and for each system the net that does it again. One module
plans the runs, one measures a finished run, one puts the two beside each other.
"""

from taut.reproduce._comparison import Comparison, Line, compare
from taut.reproduce._measured import measured
from taut.reproduce._page import HEADS, by_dataset, cells, draw, heading, markdown, notes, write
from taut.reproduce._plan import Plan, Trial, check, make_plan
from taut.reproduce._protocol import DATASETS, SETTINGS, DataProtocol, Setting
from taut.reproduce._table import Column, Measure, Published, Row, Table
from taut.reproduce._work import take, trained
from taut.reproduce.table1 import TABLE1
from taut.reproduce.table2 import TABLE2
from taut.reproduce.table3 import TABLE3
from taut.reproduce.table7 import TABLE7
from taut.reproduce.table8 import TABLE8
from taut.reproduce.table9 import TABLE9

TABLES: dict[str, Table] = {
    table.name: table for table in (TABLE1, TABLE2, TABLE3, TABLE7, TABLE8, TABLE9)
}

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
