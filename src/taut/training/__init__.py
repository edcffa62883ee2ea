"""One training loop, recipes as data, run folders that every later step reads alone."""

from taut.training._devices import Device, choose_device
from taut.training._dry_run import DryRun, dry_run
from taut.training._evaluation import Evaluation
from taut.training._interruption import TrainingInterrupted
from taut.training._loop import Progress, TrainingDiverged, train
from taut.training._opened import OpenedRun, check_limit
from taut.training._processes import Launch, OtherProcessFailed, is_first_process
from taut.training._recipe import CHOICES, Precision, Recipe
from taut.training._run import (
    METRICS,
    MODEL,
    RECIPE,
    TEST,
    EpochRow,
    Run,
    prepare,
    read_recipe,
    refuse_other_recipe,
)
from taut.training._schedules import (
    AbstractSchedule,
    Constant,
    Cosine,
    Exponential,
    MultiStep,
    OneCycle,
)

__all__ = [
    "CHOICES",
    "METRICS",
    "MODEL",
    "RECIPE",
    "TEST",
    "AbstractSchedule",
    "Constant",
    "Cosine",
    "Device",
    "DryRun",
    "EpochRow",
    "Evaluation",
    "Exponential",
    "Launch",
    "MultiStep",
    "OneCycle",
    "OpenedRun",
    "OtherProcessFailed",
    "Precision",
    "Progress",
    "Recipe",
    "Run",
    "TrainingDiverged",
    "TrainingInterrupted",
    "check_limit",
    "choose_device",
    "dry_run",
    "is_first_process",
    "prepare",
    "read_recipe",
    "refuse_other_recipe",
    "train",
]
