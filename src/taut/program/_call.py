"""One call of a function of torch, as the functions that add nodes for it see it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from torch import Tensor

from taut.program._program import Shape, plain
from taut.program._result import UnprovenError

if TYPE_CHECKING:
    from taut.program._draft import Made
    from taut.program._trace import Recorder

__all__ = ["Call", "Condition", "Unknown"]


@final
@dataclass(frozen=True)
class Unknown:
    """A value that no operation describes, and why; an error once the output depends on it."""

    reason: str
    condition: "Condition | None" = None


@final
@dataclass(frozen=True)
class Condition:
    """A truth value: whether a value is above a number.

    Attributes:
        name: of the value.
        threshold: the number.
        equal: whether it holds at the number, too.
        contrary: whether the truth value is the contrary of that.
    """

    name: str
    threshold: float
    equal: bool
    contrary: bool


@final
class Call:
    """One call of a function of torch, as a capture sees it.

    Attributes:
        result: what the call returned.
    """

    def __init__(self, recorder: "Recorder", result: Any, function: str) -> None:
        self.recorder, self.result, self.function = recorder, result, function

    def is_signal(self, value: Any) -> bool:
        """Whether a value depends on the input of the model."""
        return isinstance(value, Tensor) and id(value) in self.recorder.values

    def name(self, value: Any) -> str:
        """The name of a tensor that depends on the input."""
        if not self.is_signal(value):
            raise UnprovenError("it may only combine the signal with constants")
        known = self.recorder.values[id(value)]
        if isinstance(known, Unknown):
            raise UnprovenError(known.reason)
        return known

    def shape(self, name: str) -> Shape:
        """Shape of one sample of a value."""
        return self.recorder.draft.shapes[name]

    def made(self, name: str) -> "Made | None":
        """What a value was made by; None for the input of the model."""
        return self.recorder.draft.made(name)

    def condition(self, value: Any) -> Condition | None:
        """The comparison that made a truth value, if it was one."""
        known = self.recorder.values.get(id(value))
        return known.condition if isinstance(known, Unknown) else None

    def constant(self, value: Tensor) -> Tensor:
        """A tensor that does not depend on the input; of one sample where each has its own."""
        if self.is_signal(value):
            raise UnprovenError("it may only combine the signal with constants")
        return self.recorder.rows.get(id(value), value)

    def spread(self, value: Tensor) -> Tensor:
        """A constant without the axis of the batch, where it has one: it is 1 there."""
        constant = self.constant(value)
        axes = self.result.dim()
        if constant.dim() == axes:
            if constant.shape[0] != 1:
                raise UnprovenError("a constant differs along the batch")
            return constant[0]
        return constant

    def add(
        self,
        op: str,
        inputs: Iterable[str],
        shape: Shape | None = None,
        args: Mapping[str, Any] | None = None,
        tensors: Mapping[str, Tensor | None] | None = None,
    ) -> str:
        """Add a node, by default of the shape of the result; returns the name of its value."""
        sample = tuple(self.result.shape[1:]) if shape is None else tuple(shape)
        held = {role: t for role, t in (tensors or {}).items() if t is not None}
        layer = self.recorder.places.layer(self.function)
        return self.recorder.draft.add(op, tuple(inputs), sample, plain(args or {}), held, layer)
