"""Differentially private training of Lipschitz nets, without clipping gradients."""

from taut.private._accounting import SampledGaussian
from taut.private._losses import ClippedCrossEntropy, loss_bound
from taut.private._sensitivity import project_, sensitivities
from taut.private._training import train

__all__ = [
    "ClippedCrossEntropy",
    "SampledGaussian",
    "loss_bound",
    "project_",
    "sensitivities",
    "train",
]
