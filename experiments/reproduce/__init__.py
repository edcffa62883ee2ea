"""The founding paper's tables, done again: ours beside what was published.

A table is data: its published values, and for each system the net that does it again. For tables
of classifiers one module plans the runs, one measures them; table 4, of critics, has modules of its
own. All are written by the same one.
"""

from experiments.reproduce._command import EXPERIMENT, critics_table, recorded_tables

__all__ = ["EXPERIMENT", "critics_table", "recorded_tables"]
