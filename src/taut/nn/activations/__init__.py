"""Activations that preserve gradient norms; one a file."""

from taut.nn.activations._group_sort import GroupSort
from taut.nn.activations._maxmin import MaxMin

__all__ = ["GroupSort", "MaxMin"]
