"""Reports: the page of a run, and the measurements that it shows."""

from taut.report.inspection import LayerInspection, inspect_layers, save_inspection
from taut.report.page import ReportInputs, write_report
from taut.report.robustness import Robustness, measure

__all__ = [
    "LayerInspection",
    "ReportInputs",
    "Robustness",
    "inspect_layers",
    "measure",
    "save_inspection",
    "write_report",
]
