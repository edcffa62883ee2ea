"""One training loop, recipes as data, run folders that every later step reads alone."""

from taut.training.evaluation import Evaluation
from taut.training.interruption import TrainingInterrupted
from taut.training.loop import Device, Progress, TrainingDiverged, choose_device, train
from taut.training.processes import Launch, OtherProcessFailed, is_first_process
from taut.training.recipe import MultiMarginLoss, OffsetCrossEntropyLoss, Recipe
from taut.training.run import Run
from taut.training.schedules import (
    PAPER_DECAY,
    Schedule,
    first_moment_decay,
    learning_rate_factor,
)

__all__ = [
    "PAPER_DECAY",
    "Device",
    "Evaluation",
    "Launch",
    "MultiMarginLoss",
    "OffsetCrossEntropyLoss",
    "OtherProcessFailed",
    "Progress",
    "Recipe",
    "Run",
    "Schedule",
    "TrainingDiverged",
    "TrainingInterrupted",
    "choose_device",
    "first_moment_decay",
    "is_first_process",
    "learning_rate_factor",
    "train",
]
