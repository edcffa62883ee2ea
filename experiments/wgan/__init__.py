"""Wasserstein GANs and critics without proof, compared with orthogonal critics."""

from experiments.wgan._command import EXPERIMENT, learning_table

__all__ = ["EXPERIMENT", "learning_table"]
