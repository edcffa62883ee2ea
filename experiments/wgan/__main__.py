"""`python -m experiments.wgan`."""

from experiments.wgan import EXPERIMENT

EXPERIMENT.main()
