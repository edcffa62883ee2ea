"""The table of operations that the page runs, and what its rules have in common."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from taut.playground._steps import Steps
from taut.program import Site

__all__ = ["RULES", "by_channel", "grid_of", "numbers_of", "padded", "rule", "spread"]

Rule = Callable[[Steps, Site, list[int]], int]

RULES: dict[str, Rule] = {}
"""By the kind of an operation: adds steps, and returns the number of the value that it computes."""


def rule(*kinds: str) -> Callable[[Rule], Rule]:
    def add(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(kinds, function))
        return function

    return add


def numbers_of(site: Site, role: str) -> np.ndarray:
    """A tensor in the narrowest precision that holds it: float32, or float64."""
    wide = site.tensors[role].detach().cpu().double().numpy()
    with np.errstate(over="ignore"):
        narrow = wide.astype(np.float32)
    return narrow if np.array_equal(narrow.astype(np.float64), wide) else wide


def spread(array: Any, site: Site) -> np.ndarray:
    """A constant for each entry of the output; a single one where all are equal."""
    array = np.asarray(array, np.float64)
    return array.reshape(1) if array.size == 1 else np.broadcast_to(array, site.shape).ravel()


def by_channel(array: np.ndarray, site: Site) -> np.ndarray:
    return array.reshape(-1, *[1] * (len(site.shape) - 1))


def grid_of(shape: tuple[int, ...]) -> np.ndarray:
    """The places of the entries of a value."""
    return np.arange(math.prod(shape)).reshape(shape)


def padded(places: np.ndarray, mode: str, left: list[int], right: list[int]) -> np.ndarray:
    """The places that a padded image copies, along its last axes; -1 for zeros."""
    sides = [(0, 0)] * (places.ndim - len(left)) + [*zip(left, right, strict=True)]
    names: dict[str, Any] = {"circular": "wrap", "reflect": "reflect", "replicate": "edge"}
    if mode == "zeros":
        return np.pad(places, sides, constant_values=-1)
    return np.pad(places, sides, names[mode])
