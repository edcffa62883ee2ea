"""What the page's interpreter runs: a list of steps on flat arrays of numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np

__all__ = ["Steps"]


@final
@dataclass(eq=False)
class Steps:
    """A net in the ten operations of net.js; value 0 is the input, and each step adds one.

    Attributes:
        sizes: numbers in each value.
        steps: each with `op`, the values `from` which it reads, and its parameters.
        arrays: the tensors that steps name by their place.
    """

    sizes: list[int]
    steps: list[dict[str, Any]] = field(default_factory=list)
    arrays: list[np.ndarray] = field(default_factory=list)
    _places: dict[tuple[Any, ...], int] = field(default_factory=dict)

    def add(self, op: str, inputs: Sequence[int], size: int, **parameters: Any) -> int:
        """Add a step; returns the number of the value that it computes."""
        held = {
            name: self._keep(value) if isinstance(value, np.ndarray) else value
            for name, value in parameters.items()
        }
        self.steps.append({"op": op, "from": list(inputs), "size": int(size), **held})
        self.sizes.append(int(size))
        return len(self.sizes) - 1

    def gather(self, value: int, places: np.ndarray) -> int:
        """Add a step whose entries are copies of `value[places]`, and 0 where a place is -1."""
        places = np.ascontiguousarray(places, np.int32).ravel()
        made = self.steps[value - 1] if value else None
        if made is not None and made["op"] == "gather":  # two gathers are one
            inner = self.arrays[made["places"]]
            places = np.where(places < 0, -1, inner[places]).astype(np.int32)
            value = made["from"][0]
        if len(places) == self.sizes[value] and np.array_equal(places, np.arange(len(places))):
            return value
        return self.add("gather", [value], len(places), places=places)

    def pruned(self, output: int) -> "Steps":
        """The steps that a value depends on, with the value last."""
        used, kept = {output}, []
        for place in range(len(self.steps), 0, -1):
            if place in used:
                used.update(self.steps[place - 1]["from"])
                kept.insert(0, place)
        number = {0: 0} | {place: i for i, place in enumerate(kept, 1)}
        result = Steps([self.sizes[0]])
        for place in kept:
            step = dict(self.steps[place - 1])
            held = [name for name in _ARRAYS if name in step]
            arrays = {name: self.arrays[step.pop(name)] for name in held}
            op, inputs, size = step.pop("op"), step.pop("from"), step.pop("size")
            result.add(op, [number[value] for value in inputs], size, **step, **arrays)
        return result

    def _keep(self, array: np.ndarray) -> int:
        """The place of an array; equal ones have one."""
        array = np.ascontiguousarray(array)
        key = array.dtype.str, array.shape, array.tobytes()
        if key not in self._places:
            self._places[key] = len(self.arrays)
            self.arrays.append(array)
        return self._places[key]


_ARRAYS = ("places", "weight", "by", "slope", "low", "high")
