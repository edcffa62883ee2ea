"""`python -m experiments.reproduce`."""

from experiments.reproduce import EXPERIMENT

EXPERIMENT.main()
