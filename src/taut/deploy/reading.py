"""What reading a graph of primitive operations has in common: several make one layer."""

from collections.abc import Mapping, Sequence
from typing import Any, final

from torch import Tensor

from taut.deploy.plan import Plan, Step, step_name

__all__ = ["Reading", "resolve_shape"]

_MOST = 1 << 40  # channels
Soft = tuple[Any, ...]
Sides = tuple[int, int, int, int]  # left, right, top, bottom


@final
class Reading:
    """The steps found so far, and values that are only a part of one.

    A slice, a maximum, a sort and the like are no layers; they are kept as expressions until the
    concatenation that makes a MaxMin or GroupSort of exactly them. What is left over is refused.

    Args:
        source: name of the input.
        tensors: what the file holds, by name.

    Example:
        >>> reading = Reading("x", {})
        >>> halves = [reading.slice(n, "x", 1, *ends) for n, ends in (("a", (0, 2)), ("b", (2, 4)))]
        >>> reading.pairwise("max", "high", "a", "b")
        >>> reading.pairwise("min", "low", "a", "b")
        >>> reading.concatenate("y", ["high", "low"])
        >>> [(step.kind, step.channels) for step in reading.steps]
        [('MaxMin', range(4, 5))]
    """

    def __init__(self, source: str, tensors: Mapping[str, Tensor]) -> None:
        self.source = source
        self.tensors = tensors
        self.steps: list[Step] = []
        self.values: dict[str, str | Soft] = {source: "input"}

    def step(
        self,
        value: str,
        kind: str,
        inputs: Sequence[str],
        args: Mapping[str, Any] | None = None,
        tensors: Mapping[str, str] | None = None,
    ) -> None:
        """Add a step that makes `value`."""
        names = tuple(self.signal(name) for name in inputs)
        self._keep(value, Step("", kind, names, args or {}, tensors or {}))

    def signal(self, value: str) -> str:
        """The step that makes a value.

        Raises:
            ValueError: if it is a part of no known layer, or no value that depends on the input.
        """
        found = self.values.get(value)
        if isinstance(found, str):
            return found
        what = "no value of the graph" if found is None else f"a {found[0]} of no known layer"
        raise ValueError(f"`{value}` is {what}")

    def plan(self, value: str, input_shape: tuple[int, ...], any_size: bool) -> Plan:
        """The whole, which returns `value`; `any_size` if the file leaves sizes open.

        Raises:
            ValueError: if that is not what the last step makes.
        """
        if not self.steps or self.signal(value) != self.steps[-1].name:
            raise ValueError("the output is not what the last layer computes")
        used = {name for step in self.steps for name in step.tensors.values()}
        tensors = {name: tensor for name, tensor in self.tensors.items() if name in used}
        return Plan(tuple(self.steps), tensors, "input", input_shape, any_size)

    def same(self, value: str, other: str) -> None:
        """Another name of a value."""
        self._set(value, self.values.get(other))

    def slice(self, value: str, x: str, axis: int, start: int, stop: int | None) -> None:
        """Some of the channels."""
        if axis != 1 or start < 0 or (stop is not None and stop < start):
            raise ValueError(f"`{value}` slices something else than channels")
        self._set(value, ("slice", self.signal(x), start, stop))

    def pairwise(self, which: str, value: str, a: str, b: str) -> None:
        """The maximum ("max") or minimum ("min") of two values."""
        self._set(value, (which, self.values.get(a), self.values.get(b)))

    def soft(self, which: str, value: str, x: str, *details: Any) -> None:
        """Another part of a layer: of a value, with what it depends on."""
        self._set(value, (which, self.values.get(x), *details))

    def hide(self, value: str) -> None:
        """A value that nothing may read, such as the places of what was sorted."""
        self._set(value, ("value",))

    def downsample(self, value: str, x: str, factor: int, channels: int | None = None) -> None:
        """Pixels into channels; of so many, where the file says so in figures."""
        exactly = None if channels is None else range(channels, channels + 1)
        args = {"factor": factor}
        step = Step("", "InvertibleDownsample2d", (self.signal(x),), args, {}, exactly)
        self._keep(value, step)

    def pad(self, value: str, x: str, sides: Sides) -> None:
        """Zeros around the image."""
        if min(sides) < 0:
            raise ValueError(f"`{value}` cuts off instead of padding")
        self.step(value, "ZeroPad2d", [x], {"padding": sides})

    def wrap(self, value: str, x: str, sides: Sides) -> None:
        """The other side of the image around it, as a convolution after it has."""
        left, right, top, bottom = sides
        if left != right or top != bottom or min(sides) < 0:
            raise ValueError(f"`{value}` wraps the sides unequally")
        self._set(value, ("wrap", self.signal(x), (top, left)))

    def convolve(
        self, value: str, x: str, tensors: Mapping[str, str], args: Mapping[str, Any]
    ) -> None:
        """A convolution with zero padding, or of what was wrapped around."""
        found = self.values.get(x)
        mode = "zeros"
        if isinstance(found, tuple) and found[0] == "wrap":
            if tuple(args["padding"]) != (0, 0):
                raise ValueError(f"`{value}` pads twice")
            args, mode = {**args, "padding": found[2]}, "circular"
            name = found[1]
        else:
            name = self.signal(x)
        self._keep(value, Step("", "Conv2d", (name,), {**args, "padding_mode": mode}, tensors))

    def concatenate(self, value: str, parts: Sequence[str]) -> None:
        """Values side by side: those of a sorting layer, or whole ones."""
        found = [self.values.get(part) for part in parts]
        if all(isinstance(part, str) for part in found):
            self.step(value, "Concatenate", parts)
            return
        sorting = _maxmin(found) or _group_sort(found)
        if sorting is None:
            raise ValueError(f"`{value}` concatenates parts of no known layer")
        x, kind, args, channels = sorting
        self._keep(value, Step("", kind, (x,), args, {}, channels))

    def _keep(self, value: str, step: Step) -> None:
        name = step_name(step.kind, step.tensors, self.steps)
        made = Step(name, step.kind, step.inputs, step.args, step.tensors, step.channels)
        self.steps.append(made)
        self._set(value, name)

    def _set(self, value: str, what: str | Soft | None) -> None:
        if value in self.values or value in self.tensors:
            raise ValueError(f"`{value}` is made twice")
        if what is None:
            raise ValueError(f"`{value}` does not depend on the input")
        self.values[value] = what


def resolve_shape(said: list[int | None], given: tuple[int, ...] | None) -> tuple[int, ...]:
    """The shape of one input: what was given, else what the file says.

    Args:
        said: by the file; None where it leaves a size open.
        given: by the user; None if nothing was.

    Raises:
        ValueError: if the two contradict each other, or a size stays open.

    Example:
        >>> resolve_shape([3, None, None], (3, 32, 32))
        (3, 32, 32)
    """
    shape = tuple(said) if given is None else given
    fits = len(shape) == len(said) and all(b in (None, a) for a, b in zip(shape, said, strict=True))
    if not fits or not all(isinstance(n, int) and n > 0 for n in shape):
        raise ValueError(f"`input_shape` must be of the form {said}; got {given}")
    return tuple(int(n) for n in shape if n)


Sorting = tuple[str, str, dict[str, Any], range]


def _maxmin(parts: list[Any]) -> Sorting | None:
    """The input and its channels, if the parts are those of a MaxMin."""
    match parts:
        case [
            ("max", ("slice", x, 0, half), ("slice", y, start, whole)) as high,
            ("min", a, b),
            *rest,
        ] if (a, b) == high[1:] and x == y and start == half and whole == 2 * half:
            return _with_rest(rest, x, whole, "MaxMin", 2)
    return None


def _group_sort(parts: list[Any]) -> Sorting | None:
    """The same for a GroupSort."""
    match parts:
        case [("merged", ("sorted", ("split", ("slice", x, 0, whole), size))), *rest]:
            if isinstance(whole, int) and whole % size == 0:
                return _with_rest(rest, x, whole, "GroupSort", size)
        # A slice of all channels is left out by some writers: then nothing remains to pass on.
        case [("merged", ("sorted", ("split", str(x), size)))]:
            return x, "GroupSort", {"group_size": size}, range(size, _MOST, size)
        case [("merged", ("sorted", ("split", str(x), size))), ("slice", y, whole, None)]:
            if x == y and whole % size == 0:
                return x, "GroupSort", {"group_size": size}, range(whole, whole + 1)
    return None


def _with_rest(rest: list[Any], x: str, whole: int, kind: str, size: int) -> Sorting | None:
    """The layer, if nothing comes after the sorted channels but the others as they are."""
    args = {"group_size": size} if kind == "GroupSort" else {}
    if not rest:
        return x, kind, args, range(whole, whole + 1)
    return (
        (x, kind, args, range(whole, whole + size)) if rest == [("slice", x, whole, None)] else None
    )
