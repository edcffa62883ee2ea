"""The founding paper's tables, done again: ours beside what was published.

A table is data: its published values, and for each system the net that does it again. For tables
of classifiers one module plans the runs, one trains and measures them, one puts ours beside what
was published; table 4, of critics, has modules of its own. All are written by the same one.

To add a table of classifiers, write a file with a `TABLE` and add its line here.
"""

from taut.reproduce import table1, table2, table3, table7, table8, table9
from taut.reproduce._comparison import Comparison, compare
from taut.reproduce._critics_page import BOUND, CLAIMED, LOWER, critic_page, trained_rows
from taut.reproduce._critics_plan import CriticPlan, fits, make_critic_plan, rows_left
from taut.reproduce._critics_work import complete_critics
from taut.reproduce._line import Line, Quantity
from taut.reproduce._page import page_of
from taut.reproduce._plan import Plan, Trial, check, make_plan
from taut.reproduce._protocol import DATASETS, SETTINGS, DataProtocol, Setting
from taut.reproduce._render import HEADS, Page, by_dataset, cells, draw, markdown, write
from taut.reproduce._table import Column, Measure, Published, Row, Table
from taut.reproduce._work import measured, take, trained
from taut.reproduce.table4 import CRITIC_SETTINGS, PAIRS, CriticSetting, Pair
from taut.reproduce.table4 import NAME as TABLE4

TABLES: dict[str, Table] = {
    module.TABLE.name: module.TABLE for module in (table1, table2, table3, table7, table8, table9)
}
"""By the name that the command line knows."""

__all__ = [
    "BOUND",
    "CLAIMED",
    "CRITIC_SETTINGS",
    "DATASETS",
    "HEADS",
    "LOWER",
    "PAIRS",
    "SETTINGS",
    "TABLE4",
    "TABLES",
    "Column",
    "Comparison",
    "CriticPlan",
    "CriticSetting",
    "DataProtocol",
    "Line",
    "Measure",
    "Page",
    "Pair",
    "Plan",
    "Published",
    "Quantity",
    "Row",
    "Setting",
    "Table",
    "Trial",
    "by_dataset",
    "cells",
    "check",
    "compare",
    "complete_critics",
    "critic_page",
    "draw",
    "fits",
    "make_critic_plan",
    "make_plan",
    "markdown",
    "measured",
    "page_of",
    "rows_left",
    "take",
    "trained",
    "trained_rows",
    "write",
]
