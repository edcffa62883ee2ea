"""Reports: the page of a run, and the measurements that it shows."""

from taut.report.attacked import AttackLine, attack_lines
from taut.report.attenuation import LayerGradient, attenuation, jacobian_singular_values
from taut.report.attenuation_figure import Profile, five_numbers, profile, save_attenuation
from taut.report.inspection import Inspection, LayerInspection, inspect_layers, inspect_model
from taut.report.inspection_figure import save_inspection
from taut.report.page import ReportInputs, write_report
from taut.report.robustness import Robustness, measure

__all__ = [
    "AttackLine",
    "Inspection",
    "LayerGradient",
    "LayerInspection",
    "Profile",
    "ReportInputs",
    "Robustness",
    "attack_lines",
    "attenuation",
    "five_numbers",
    "inspect_layers",
    "inspect_model",
    "jacobian_singular_values",
    "measure",
    "profile",
    "save_attenuation",
    "save_inspection",
    "write_report",
]
