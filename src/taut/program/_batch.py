"""The size of the batch while a model is recorded: it may shape tensors, and nothing else."""

from typing import Any, NoReturn, final

import torch

from taut.program._op import recording
from taut.program._result import UnprovenError

__all__ = ["BatchSize", "concrete", "depends_on_batch"]


@final
class BatchSize(torch.SymInt):
    """A multiple of the size of the batch, as a forward sees it in shapes.

    It passes wherever torch takes a size. It can be multiplied by whole numbers, divided where that
    leaves a whole multiple, and compared where the answer is the same for all batches; all else
    would make the output depend on what else is in the batch, and is refused.

    Args:
        factor: how many times the size of the batch it is.
        batch: the size of the batch at hand.
    """

    def __init__(self, factor: int, batch: int) -> None:
        self.factor, self.batch = factor, batch

    @property
    def node(self) -> NoReturn:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What torch asks for where no function of torch is called with it."""
        _refuse()

    @property
    def value(self) -> int:
        """The number in this batch."""
        return self.factor * self.batch

    def __mul__(self, other: Any) -> "BatchSize":
        if isinstance(other, int) and other >= 1:
            return BatchSize(self.factor * int(other), self.batch)
        _refuse()

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> "int | BatchSize":
        if isinstance(other, BatchSize) and self.factor % other.factor == 0:
            return self.factor // other.factor
        if isinstance(other, int) and other >= 1 and self.factor % other == 0:
            return BatchSize(self.factor // other, self.batch)
        _refuse()

    def _compared(self, other: Any) -> int:
        """The sign of the difference, where it is that for batches of any size."""
        if isinstance(other, BatchSize):
            return (self.factor > other.factor) - (self.factor < other.factor)
        if isinstance(other, int) and other < self.factor:
            return 1
        _refuse()

    def __eq__(self, other: object) -> bool:
        return self._compared(other) == 0

    def __ne__(self, other: object) -> bool:
        return self._compared(other) != 0

    def __lt__(self, other: Any) -> bool:
        return self._compared(other) < 0

    def __le__(self, other: Any) -> bool:
        return self._compared(other) <= 0

    def __gt__(self, other: Any) -> bool:
        return self._compared(other) > 0

    def __ge__(self, other: Any) -> bool:
        return self._compared(other) >= 0

    def __bool__(self) -> bool:
        return True

    def __hash__(self) -> int:
        return hash((BatchSize, self.factor))

    def refuse(self) -> NoReturn:
        """Raise: it is used as a number."""
        _refuse()

    def __repr__(self) -> str:
        return "batch" if self.factor == 1 else f"{self.factor} * batch"


def _refuse(*_: Any, **__: Any) -> NoReturn:
    error = UnprovenError(
        "The forward computes with the size of the batch, so that a sample's output depends on how "
        "many others there are; use it in shapes only."
    )
    recorder = getattr(recording, "recorder", None)
    if recorder is not None:
        recorder.refused = error  # whether or not the forward catches it
    raise error


_REFUSED = (
    "add", "radd", "sub", "rsub", "rfloordiv", "truediv", "rtruediv", "mod", "rmod", "divmod",
    "rdivmod", "pow", "rpow", "neg", "pos", "abs", "index", "int", "float", "complex", "round",
    "trunc", "floor", "ceil", "and", "rand", "or", "ror", "xor", "rxor", "lshift", "rshift",
    "invert", "sym_float", "sym_int",
)  # fmt: skip
for _name in _REFUSED:
    setattr(BatchSize, f"__{_name}__", _refuse)


def concrete(value: Any) -> Any:
    """Arguments of a call with plain numbers for sizes of the batch."""
    if isinstance(value, BatchSize):
        return value.value
    if isinstance(value, slice):
        return slice(*map(concrete, (value.start, value.stop, value.step)))
    if isinstance(value, torch.Size):
        return torch.Size(map(concrete, value))
    if type(value) in (tuple, list):
        return type(value)(map(concrete, value))
    if type(value) is dict:
        return {key: concrete(part) for key, part in value.items()}
    return value


def depends_on_batch(value: Any) -> bool:
    """Whether a size of the batch is among the arguments of a call."""
    if isinstance(value, slice):
        value = (value.start, value.stop, value.step)
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        return any(map(depends_on_batch, value))
    return isinstance(value, BatchSize)
