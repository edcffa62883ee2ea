"""Reports: the pages of a run, of runs compared, and of a distance, one HTML file each."""

from taut.report._attack_lines import AttackLine, attack_lines
from taut.report._comparison import MOST, ComparedRun, write_comparison
from taut.report._distance import DistanceInputs, write_distance_report
from taut.report._robustness import Robustness, measure_robustness
from taut.report._run import ReportInputs, write_report
from taut.report._templates import write_page

__all__ = [
    "MOST",
    "AttackLine",
    "ComparedRun",
    "DistanceInputs",
    "ReportInputs",
    "Robustness",
    "attack_lines",
    "measure_robustness",
    "write_comparison",
    "write_distance_report",
    "write_page",
    "write_report",
]
