"""`python -m experiments.speed`."""

from experiments.speed import EXPERIMENT

EXPERIMENT.main()
