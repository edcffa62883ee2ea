"""Values side by side, and the larger or smaller of two."""

from typing import Any

import torch
from torch import Tensor

from taut.linalg.rounding import up_root_sum_square
from taut.program._call import Call
from taut.program._op import EXACT, AbstractOp, Rounding, captures, like, norm_upper, op, reads
from taut.program._program import Site
from taut.program._result import UnprovenError
from taut.program.ops._arithmetic import _check_batch, spread
from taut.program.ops._numbers import as_tensor, read_all
from taut.program.ops._shapes import reshaped

__all__ = ["extremum"]


class AbstractJoin(AbstractOp):
    """Copies of several values and of constants, side by side."""

    combine = "root"
    proof = "root of the sum of squares"

    def rounding(self, site: Site) -> Rounding:
        """Copies of signals and of stored numbers; whole ones may have to be rounded."""
        if not site.tensors:
            return EXACT
        sizes = [
            norm_upper(t.expand(site.shape) if self.kind != "concat" else t)
            for t in site.tensors.values()
        ]
        whole = any(not t.is_floating_point() for t in site.tensors.values())
        return Rounding(int(whole), float(whole), up_root_sum_square(*sizes))


@op("concat")
class Concat(AbstractJoin):
    """Parts along an axis of the sample; `parts` names constants by role, and values by number."""

    affine = True

    def gains(self, site: Site) -> tuple[float, ...]:
        """Each once."""
        return (1.0,) * len(site.shapes)

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Concatenate."""
        parts = []
        for part in site.args["parts"]:
            if isinstance(part, int):
                parts.append(x[part])
            else:
                constant = like(site.tensors[part], x[0])
                parts.append(constant.expand(x[0].shape[0], *constant.shape))
        return torch.cat(parts, site.args["axis"] + 1)

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """Signals only."""
        if site.tensors:
            raise ValueError("its parts must depend on the input")
        e.node("Concat", [x[part] for part in site.args["parts"]], axis=site.args["axis"] + 1)

    def source(self, site: Site, *x: str) -> str:
        """As an expression."""
        if site.tensors:
            raise ValueError("its parts must depend on the input")
        parts = ", ".join(x[part] for part in site.args["parts"])
        return f"torch.cat([{parts}], {site.args['axis'] + 1})"


class AbstractExtremum(AbstractJoin):
    """|max(a, b) - max(a', b')| <= max(|a - a'|, |b - b'|), entry by entry."""

    def gains(self, site: Site) -> tuple[float, ...]:
        """Broadcasting copies."""
        return tuple(spread(shape, site.shape) for shape in site.shapes)

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Compare."""
        first, second = (*x, *(like(t, x[0]) for t in site.tensors.values()))
        return getattr(torch, self.kind)(first, second)

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """Of two values, or one and a constant."""
        held = e.held(site, "constant") if site.tensors else []
        e.node({"maximum": "Max", "minimum": "Min"}[self.kind], [*x, *held])

    def source(self, site: Site, *x: str) -> str:
        """As an expression."""
        held = [f"self.{site.node.name}_constant"] if site.tensors else []
        return f"torch.{self.kind}({', '.join([*x, *held])})"


@op("maximum")
class Maximum(AbstractExtremum):
    """The larger of two values."""


@op("minimum")
class Minimum(AbstractExtremum):
    """The smaller of two values."""


# What calls of torch are.


@captures("cat", "concat", "concatenate")
def cat(c: Call, tensors: Any, dim: int = 0, *, axis: int | None = None) -> str:
    """Along an axis of the sample."""
    dim = dim if axis is None else axis
    if dim % c.result.dim() == 0:
        raise UnprovenError("it concatenates along the batch")
    parts: list[Any] = []
    names: list[str] = []
    held: dict[str, Tensor] = {}
    for i, part in enumerate(tensors):
        if not part.numel():
            continue
        if c.is_signal(part):
            parts.append(len(names))
            names.append(c.name(part))
        else:
            constant = c.constant(part)
            if constant.dim() != c.result.dim() or len(constant) != 1:
                raise UnprovenError("a constant differs along the batch")
            held[f"part{i}"] = constant[0]
            parts.append(f"part{i}")
    if parts == [0]:
        return names[0]
    args = {"axis": dim % c.result.dim() - 1, "parts": parts}
    return c.add("concat", names, args=args, tensors=held)


@captures("stack")
def stack(c: Call, tensors: Any, dim: int = 0) -> str:
    """In a new axis of the sample."""
    if dim % c.result.dim() == 0:
        raise UnprovenError("it concatenates along the batch")
    axis = dim % c.result.dim() - 1
    names = []
    for part in tensors:
        name = c.name(part)
        shape = c.shape(name)
        names.append(reshaped(c, name, (*shape[:axis], 1, *shape[axis:])))
    return c.add("concat", names, args={"axis": axis, "parts": list(range(len(names)))})


def extremum(c: Call, input: Any, other: Any, *, kind: str) -> str:
    """The larger or smaller of two values, or of a value and a constant."""
    _check_batch(c, input, other)
    signals = [c.name(value) for value in (input, other) if c.is_signal(value)]
    constants = [c.spread(value) for value in (input, other) if not c.is_signal(value)]
    return c.add(kind, signals, tensors=dict(zip(("constant",), constants, strict=False)))


captures("maximum", kind="maximum")(extremum)
captures("minimum", kind="minimum")(extremum)


# What nodes of ONNX are, as functions of torch.


def _extremes(function: Any, numbers: Any) -> Any:
    """Of tensors and single numbers alike."""
    return read_all(lambda a, b: function(as_tensor(a), as_tensor(b)), numbers)


reads("Max")(_extremes(torch.maximum, max))
reads("Min")(_extremes(torch.minimum, min))


@reads("Concat")
def _concat(*parts: Any, axis: int, moving: list[bool]) -> Any:
    """A constant side by side with the signal has one row, which all samples have."""
    if all(isinstance(part, list) for part in parts) and axis in (0, -1):
        return [entry for part in parts for entry in part]
    if any(moving):
        rows = parts[moving.index(True)].shape[0]
        parts = tuple(
            part if moves else part.expand(rows, *part.shape[1:])
            for part, moves in zip(parts, moving, strict=True)
        )
    return torch.cat(parts, axis)
