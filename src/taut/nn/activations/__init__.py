"""Activations: 1-Lipschitz, most of them preserving gradient norms; one a file."""

from taut.nn.activations._abs import Abs
from taut.nn.activations._full_sort import FullSort
from taut.nn.activations._group_sort import GroupSort
from taut.nn.activations._householder import HouseHolder
from taut.nn.activations._linear_spline import LinearSpline
from taut.nn.activations._maxmin import MaxMin
from taut.nn.activations._n_activation import NActivation

__all__ = [
    "Abs",
    "FullSort",
    "GroupSort",
    "HouseHolder",
    "LinearSpline",
    "MaxMin",
    "NActivation",
]
