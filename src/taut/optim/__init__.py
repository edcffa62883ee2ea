"""Optimisers that keep the raw tensors of orthogonal layers orthonormal: no basis in training."""

from taut.optim._adam import Adam
from taut.optim._sgd import SGD

__all__ = ["SGD", "Adam"]
