"""Ends between which entries are kept."""

from typing import Any

import torch
from torch import Tensor

from taut.linalg.rounding import up_product, up_root
from taut.program._call import Call
from taut.program._op import AbstractOp, Rounding, captures, like, op, reads
from taut.program._program import Site
from taut.program.ops._arithmetic import _check_batch, _held, spread

__all__: list[str] = []


@op("clamp")
class Clamp(AbstractOp):
    """Entries between two ends, numbers or tensors that are broadcast."""

    proof = "slope at most 1"

    def gains(self, site: Site) -> tuple[float, ...]:
        """Ends that are tensors may spread the signal."""
        return (spread(site.shapes[0], site.shape),)

    def rounding(self, site: Site) -> Rounding:
        """The ends are rounded; 0 goes to the nearer of them if it is not between."""
        numbers = [abs(v) for v in site.args.values() if v is not None]
        largest = max([*numbers, *(t.double().abs().max().item() for t in site.tensors.values())])
        size = up_product(largest, up_root(float(site.entries[1])))
        (gain,) = self.gains(site)
        return Rounding(1, float(gain), size)

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Clamp."""
        ends = dict(site.args) | {role: like(t, x[0]) for role, t in site.tensors.items()}
        return torch.clamp(x[0], ends.get("min"), ends.get("max"))

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """Ends that are numbers."""
        if site.tensors:
            raise ValueError("its ends must be numbers")
        ends = [
            e.number(k, site.args[k]) if site.args[k] is not None else "" for k in ("min", "max")
        ]
        e.node("Clip", [*x, *ends])

    def source(self, site: Site, *x: str) -> str:
        """As an expression."""
        if site.tensors:
            raise ValueError("its ends must be numbers")
        return f"torch.clamp({x[0]}, {site.args['min']!r}, {site.args['max']!r})"


# What calls of torch are.


@captures("clamp", "clip")
def clamp(c: Call, input: Tensor, min: Any = None, max: Any = None) -> str:
    """Entries between two ends."""
    _check_batch(c, input)
    args: dict[str, Any] = {"min": None, "max": None}
    tensors: dict[str, Tensor] = {}
    for role, end in (("min", min), ("max", max)):
        if end is not None:
            number, tensor = _held(c, end, role)
            args.update(number)
            tensors.update(tensor)
    return c.add("clamp", [c.name(input)], args=args, tensors=tensors)


@captures("clamp_min")
def clamp_min(c: Call, input: Tensor, min: Any) -> str:
    """Entries above an end."""
    return clamp(c, input, min)


@captures("clamp_max")
def clamp_max(c: Call, input: Tensor, max: Any) -> str:
    """Entries below an end."""
    return clamp(c, input, None, max)


# What nodes of ONNX are, as functions of torch.


@reads("Clip")
def _clip(x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    """Ends of one number each."""
    ends = [end.item() if isinstance(end, Tensor) else end for end in (low, high)]
    return torch.clamp(x, *ends)
