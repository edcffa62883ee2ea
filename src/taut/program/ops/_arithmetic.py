"""Sums, and products, quotients and ends by constants; broadcasting copies entries."""

import math
import operator
from typing import Any

import torch
from torch import Tensor

from taut.linalg.computed_kernel import ComputedKernel
from taut.linalg.rounding import up_product, up_root
from taut.program._batch import BatchSize
from taut.program._call import Call
from taut.program._op import AbstractOp, Rounding, captures, like, norm_upper, op, reads
from taut.program._program import Shape, Site
from taut.program._result import UnprovenError
from taut.program.ops._centring import mean_axes
from taut.program.ops._numbers import elementwise, quotient, read_all

__all__: list[str] = []

_ROUNDED = 1 + 2.0**-40
"""Covers the float64 rounding of the few operations on constants."""


def spread(shape: Shape, result: Shape) -> float:
    """Broadcasting copies each entry equally often: the root of how often."""
    return up_root(math.prod(result) / max(1, math.prod(shape)))


@op("add")
class Add(AbstractOp):
    """x + f y of two values, or f x + c of one: `factors` of the values, and a `constant`.

    The constant is a number, or the tensor `constant` times that number.
    """

    affine = True
    proof = "sums add"

    def gains(self, site: Site) -> tuple[float, ...]:
        """The modulus of each factor."""
        pairs = zip(site.args["factors"], site.shapes, strict=True)
        return tuple(up_product(abs(f), spread(shape, site.shape)) for f, shape in pairs)

    def as_kernel(self, site: Site, *, last: bool) -> ComputedKernel | None:
        """The factor of one value that a constant is added to."""
        if site.shapes != (site.shape,):
            return None
        return _by_channel(torch.tensor(site.args["factors"][0], device="cpu"), site, last=last)

    def rounding(self, site: Site) -> Rounding:
        """A number is rounded first; then the product, then the sum."""
        return Rounding(3, max(self.gains(site)), self._size(site))

    def _size(self, site: Site) -> float:
        value = site.args["constant"]
        if "constant" in site.tensors:
            tensor = value * site.tensors["constant"].double().cpu()
            size = norm_upper(tensor.expand(site.shape))
        else:
            size = up_product(abs(value), up_root(float(math.prod(site.shape))))
        return up_product(size, _ROUNDED)

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Add up."""
        factors, value = site.args["factors"], site.args["constant"]
        if len(x) == 2:
            return torch.add(x[0], x[1], alpha=factors[1])
        constant = like(site.tensors["constant"], x[0]) if site.tensors else value
        if factors[0] != 1:
            return torch.rsub(x[0], constant, alpha=-factors[0])
        return torch.add(x[0], constant, alpha=value) if site.tensors else torch.add(x[0], constant)

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """Products where factors are not 1, then the sum; or a difference."""
        if site.args["factors"] == [1.0, -1.0]:
            e.node("Sub", x)
            return
        parts = []
        for i, (factor, name) in enumerate(zip(site.args["factors"], x, strict=True)):
            scaled = factor != 1
            parts.append(
                e.node("Mul", [name, e.number(f"factor{i}", factor)], f"part{i}")
                if scaled
                else name
            )
        if len(parts) == 1:
            parts.append(self._emitted(e, site))
        e.node("Add", parts)

    def _emitted(self, e: Any, site: Site) -> str:
        if not site.tensors:
            return e.number("constant", site.args["constant"])
        (held,) = e.held(site, "constant")
        value = site.args["constant"]
        return held if value == 1 else e.node("Mul", [held, e.number("times", value)], "constant")

    def source(self, site: Site, *x: str) -> str:
        """As an expression."""
        terms = [
            name if f == 1 else f"{f!r} * {name}"
            for f, name in zip(site.args["factors"], x, strict=True)
        ]
        value = site.args["constant"]
        if site.tensors:
            held = f"self.{buffer_name(site)}"
            terms.append(held if value == 1 else f"{value!r} * {held}")
        elif len(x) == 1:
            terms.append(repr(value))
        return "(" + " + ".join(terms) + ")"


def buffer_name(site: Site) -> str:
    """What files of plain torch call the one tensor of an operation."""
    return f"{site.node.name}_{next(iter(site.node.tensors))}"


class AbstractScale(AbstractOp):
    """A product or quotient by a constant: a number, or a tensor that is broadcast."""

    affine = True
    proof = "largest factor"

    def as_kernel(self, site: Site, *, last: bool) -> ComputedKernel | None:
        """A factor for each channel, where the constant is one."""
        constant = site.tensors.get(self.role, site.args.get(self.role))
        values = torch.as_tensor(constant, dtype=torch.float64, device="cpu")
        values = values.reciprocal() if self.role == "divisor" else values
        exact = self.role == "factor" or bool((values.abs().frexp().mantissa == 0.5).all())
        return _by_channel(values, site, last=last, roundings=int(not exact))

    def rounding(self, site: Site) -> Rounding:
        """The constant, the operation, and one to spare."""
        (gain,) = self.gains(site)
        return Rounding(3, float(gain))  # pyright: ignore[reportArgumentType]

    def _constant(self, site: Site, x: Tensor) -> Any:
        return like(site.tensors[self.role], x) if site.tensors else site.args[self.role]

    def _shown(self, site: Site) -> str:
        return f"self.{buffer_name(site)}" if site.tensors else repr(site.args[self.role])

    role = ""
    onnx = ""

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """A product or a quotient."""
        held = (
            e.held(site, self.role)[0]
            if site.tensors
            else e.number(self.role, site.args[self.role])
        )
        e.node(self.onnx, [*x, held])


def _by_channel(
    values: Tensor, site: Site, *, last: bool, roundings: int = 0
) -> ComputedKernel | None:
    """Factors that are the same at each place, as a kernel."""
    shape = site.shape
    values = values.double()[(None,) * (len(shape) - values.dim())]
    axis = len(shape) - 1 if last else 0
    single = all(n == 1 for i, n in enumerate(values.shape) if i != axis)
    if site.shapes[0] != shape or not shape or not single:
        return None
    return ComputedKernel.channelwise(
        values.flatten().expand(shape[axis]), () if last else shape[1:], roundings
    )


@op("scale")
class Scale(AbstractScale):
    """A product."""

    role, onnx = "factor", "Mul"

    def gains(self, site: Site) -> tuple[float, ...]:
        """The largest entry."""
        constant = site.tensors.get("factor", site.args.get("factor"))
        values = torch.as_tensor(constant, dtype=torch.float64, device="cpu").abs()
        largest = values.max().item() if values.numel() else 0.0
        return (up_product(largest, spread(site.shapes[0], site.shape)),)

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Multiply."""
        return x[0] * self._constant(site, x[0])

    def source(self, site: Site, *x: str) -> str:
        """As an expression."""
        return f"({self._shown(site)} * {x[0]})"


@op("divide")
class Divide(AbstractScale):
    """A quotient."""

    role, onnx = "divisor", "Div"

    def gains(self, site: Site) -> tuple[float, ...]:
        """The inverse of the smallest entry."""
        smallest = _smallest(site)
        exact = math.frexp(smallest)[0] == 0.5  # a power of two
        inverse = 1 / smallest if exact else math.nextafter(1 / smallest, math.inf)
        return (up_product(inverse, spread(site.shapes[0], site.shape)),)

    def rounding(self, site: Site) -> Rounding:
        """As of a product; a divisor that may be rounded or flushed to 0 has none."""
        if not _smallest(site) >= 2.0**-126:
            raise UnprovenError("it divides by a number below 2^-126, which float32 may take for 0")
        return super().rounding(site)

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Divide."""
        return x[0] / self._constant(site, x[0])

    def source(self, site: Site, *x: str) -> str:
        """As an expression."""
        return f"({x[0]} / {self._shown(site)})"


def _smallest(site: Site) -> float:
    divisor = site.tensors.get("divisor", site.args.get("divisor"))
    return torch.as_tensor(divisor, dtype=torch.float64, device="cpu").abs().min().item()


# What calls of torch are.


def _check_batch(c: Call, *values: Any) -> None:
    for value in values:
        if c.is_signal(value) and (value.dim() != c.result.dim() or len(value) != len(c.result)):
            raise UnprovenError("it broadcasts over the batch dimension")


def _number(value: Any, *, what: str = "its constant") -> float:
    if isinstance(value, BatchSize):
        value.refuse()
    if not isinstance(value, int | float):
        raise UnprovenError(f"{what} must be a real number; got {value!r}")
    if not math.isfinite(value):
        raise UnprovenError(f"{what} holds NaN or Inf")
    return float(value)


def _held(c: Call, value: Any, role: str) -> tuple[dict[str, float], dict[str, Tensor]]:
    """A constant as an argument or as a tensor."""
    if not isinstance(value, Tensor):
        return {role: _number(value)}, {}
    constant = c.spread(value)
    if constant.is_complex():
        raise UnprovenError("its constant must be a real number")
    if not bool(constant.isfinite().all()):
        raise UnprovenError("its constant holds NaN or Inf")
    if constant.dim() == 0:
        return {role: float(constant)}, {}
    return {}, {role: constant}


def _sum(c: Call, first: Any, factor: Any, second: Any, other: Any) -> str:
    """Factor * first + other * second, in the one form that sums have."""
    _check_batch(c, first, second)
    if c.is_signal(first) and c.is_signal(second):
        terms = [(_number(factor), first), (_number(other), second)]
        (one, a), (f, b) = terms if terms[0][0] == 1 else terms[::-1]
        if one != 1:
            raise UnprovenError("one of its factors must be 1")
        axes = mean_axes(c, c.name(a), c.name(b)) if f == -1 else None
        if axes is not None:
            return c.add("centre", [c.name(a)], args={"axes": axes})
        args = {"factors": [one, f], "constant": 0.0}
        return c.add("add", [c.name(a), c.name(b)], args=args)
    if not c.is_signal(first):
        first, factor, second, other = second, other, first, factor
    number, tensors = _held(c, second, "constant")
    scale = _number(other, what="`alpha`")
    constant = scale * number["constant"] if number else scale
    args = {"factors": [_number(factor, what="`alpha`")], "constant": constant}
    return c.add("add", [c.name(first)], args=args, tensors=tensors)


@captures("add", "__radd__", "__iadd__")
def add(c: Call, input: Any, other: Any, *, alpha: Any = 1) -> str:
    """A sum."""
    return _sum(c, input, 1.0, other, alpha)


@captures("sub", "subtract", "__isub__")
def sub(c: Call, input: Any, other: Any, *, alpha: Any = 1) -> str:
    """A difference."""
    return _sum(c, input, 1.0, other, -alpha)


@captures("rsub", "__rsub__")
def rsub(c: Call, input: Any, other: Any, alpha: Any = 1) -> str:
    """A difference the other way."""
    return _sum(c, input, -alpha, other, 1.0)


@captures("mul", "multiply", "__rmul__", "__imul__")
def mul(c: Call, input: Any, other: Any) -> str:
    """A product, one factor of which is constant."""
    _check_batch(c, input, other)
    for value, mask in ((input, other), (other, input)):
        known = c.condition(mask)
        if known is not None and c.is_signal(value):
            kept = {"above": None, "below": 0.0}
            kept = {"above": 0.0, "below": None} if known.contrary else kept
            args = {"threshold": known.threshold, "equal": known.equal} | kept
            return c.add("choice", [known.name, c.name(value)], args=args)
    if c.is_signal(input) and c.is_signal(other):
        return c.add("product", [c.name(input), c.name(other)])
    signal, constant = (input, other) if c.is_signal(input) else (other, input)
    args, tensors = _held(c, constant, "factor")
    return c.add("scale", [c.name(signal)], args=args, tensors=tensors)


@captures("div", "divide", "true_divide", "__rdiv__", "__rtruediv__", "reciprocal", "__itruediv__")
def div(c: Call, input: Any, other: Any = None, *, rounding_mode: str | None = None) -> str:
    """A quotient by a constant."""
    _check_batch(c, input, other)
    if rounding_mode is not None:
        raise UnprovenError("a division that rounds has no Lipschitz constant")
    if c.is_signal(input) and c.is_signal(other):
        return c.add("quotient", [c.name(input), c.name(other)])
    if c.function in ("__rdiv__", "__rtruediv__", "reciprocal") or not c.is_signal(input):
        raise UnprovenError("it may only divide the signal by constants")
    divisor = c.constant(other) if isinstance(other, Tensor) else _number(other, what="its divisor")
    smallest = torch.as_tensor(divisor, device="cpu").abs().min().item()
    if not smallest > 0:
        raise UnprovenError("it divides by 0 or NaN")
    args, tensors = _held(c, other, "divisor")
    return c.add("divide", [c.name(input)], args=args, tensors=tensors)


# What nodes of ONNX are, as functions of torch.

reads("Add")(elementwise(operator.add))
reads("Sub")(elementwise(operator.sub))
reads("Mul")(elementwise(operator.mul))
reads("Div")(elementwise(quotient))
reads("Sum")(read_all(operator.add))
reads("Mean")(lambda *values: read_all(operator.add)(*values) / len(values))
