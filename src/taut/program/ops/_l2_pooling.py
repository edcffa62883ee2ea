r"""Roots of sums of squares over windows: l2 pools, as layers and files write them out.

Each output is :math:`y_j = \sqrt{\sum_i P_{ji} x_i^2 + c}` with :math:`P \ge 0`: the norm of
the vector of the :math:`\sqrt{P_{ji}} x_i` and :math:`\sqrt c`. Norms are 1-Lipschitz, so that

.. math:: |y - y'|^2 \le \sum_j \sum_i P_{ji} (x_i - x_i')^2 \le q w |x - x'|^2

where an entry is in at most q windows, with weights P of at most w. With one weight for all this is
attained, for c = 0, by a signal of a single entry.
"""

import functools
import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from taut.linalg.operator import NormBound
from taut.linalg.rounding import up, up_product, up_root
from taut.program._call import Call
from taut.program._op import KINDS, AbstractOp, Rounding, captures, like, op
from taut.program._program import Site
from taut.program._result import UnprovenError
from taut.program.ops._refused import FUNCTIONS_REFUSED

__all__: list[str] = []


@op("l2_pool")
class L2Pool(AbstractOp):
    """The root of f * pool(x^2) + c: `pool` and its arguments, a `factor` f, a `constant` c.

    Pools are averages over windows of one size, or of an adaptive pool, and sums along axes; the
    factor is a number, or a tensor that is broadcast to the output.
    """

    def gains(self, site: Site) -> tuple[NormBound, ...]:
        """The root of the largest weight, times that of how many windows share an entry."""
        windows, (weight, _) = self._windows(site), self._weight(site)
        shared = f", of which up to {windows} share an entry" if windows > 1 else ""
        return (NormBound(up_root(up(weight * windows)), f"norms of weighted windows{shared}"),)

    def _windows(self, site: Site) -> int:
        """How many windows share an entry, at most; of an axis ceil(k / s)."""
        args = site.args
        if args["pool"] == "sum":
            return 1
        if args["pool"] == "average":
            return math.prod(
                max(sum(i in window for window in line) for i in range(line[-1].stop))
                for line in _lines(site)
            )
        pairs = zip(args["kernel_size"], args["stride"], strict=True)
        return math.prod(-(-k // s) for k, s in pairs)

    def _weight(self, site: Site) -> tuple[Fraction, int]:
        """The largest weight of a square, and the entries of the largest window."""
        args, factor = site.args, self._factor(site)
        if args["pool"] == "average":
            lines = [
                torch.tensor([len(window) for window in line], device="cpu")
                for line in _lines(site)
            ]
            counts = functools.reduce(lambda a, b: a[..., None] * b, lines)
            wide = torch.as_tensor(factor, dtype=torch.float64, device="cpu")
            largest = (wide / counts).max().nextafter(torch.tensor(math.inf, device="cpu")).item()
            return Fraction(largest), int(counts.max())
        largest = factor.max().item() if isinstance(factor, Tensor) else factor
        if args["pool"] == "sum":
            return Fraction(largest), math.prod(site.shapes[0]) // math.prod(site.shape)
        return Fraction(largest) / args["divisor"], math.prod(args["kernel_size"])

    def rounding(self, site: Site) -> Rounding:
        r"""The radicand passes n + 6 roundings: square, sum, factor, constant; then the root.

        The root of a number off by a share e is off by a share e at most. What underflows takes at
        most :math:`8 (n + 1) (f + 1) \eta` from a radicand, and the root of that from the root:
        the constant is so large that its share covers it, as :math:`\sqrt\eta \le 2^{-63}`.
        """
        (gain,), (_, count), outputs = self.gains(site), self._weight(site), math.prod(site.shape)
        most = float(torch.as_tensor(self._factor(site), device="cpu").max())
        lost = up_product(up_root(float(outputs * (count + 1))), up_root(most + 1), 2.0**-38)
        held = up_product(up_root(float(outputs)), up_root(site.args["constant"]))
        constant = up_product(lost + held, 1 + 2.0**-40)
        return Rounding(count + 8, max(1.0, gain.value), constant, squares=True)

    def _factor(self, site: Site) -> Any:
        return site.tensors.get("factor", site.args["factor"])

    def _scaled(self, site: Site, x: Tensor) -> Tensor:
        factor = self._factor(site)
        if isinstance(factor, Tensor):
            return x * like(factor, x)
        return x if factor == 1 else x * factor

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Square, pool, scale, add, and take the root."""
        radicand = self._scaled(site, KINDS[site.args["pool"]].run(_pool(site), x[0] * x[0]))
        constant = site.args["constant"]
        return torch.sqrt(radicand + constant if constant else radicand)

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """The same steps."""
        inner = _pool(site)
        square = e.node("Mul", [*x, *x], "square")
        e.site = inner
        KINDS[site.args["pool"]].emit(e, inner, square)
        e.site = site
        last, factor, constant = inner.node.name, site.args["factor"], site.args["constant"]
        if factor != 1:
            held = e.held(site, "factor") or [e.number("factor", factor)]
            last = e.node("Mul", [last, *held], "scaled")
        if constant:
            last = e.node("Add", [last, e.number("constant", constant)], "sum")
        e.node("Sqrt", [last])

    def source(self, site: Site, *x: str) -> str:
        """As an expression."""
        factor, constant = site.args["factor"], site.args["constant"]
        text = KINDS[site.args["pool"]].source(_pool(site), f"({x[0]} * {x[0]})")
        if factor != 1:
            text += f" * {f'self.{site.node.name}_factor' if site.tensors else repr(factor)}"
        return f"torch.sqrt({text}{f' + {constant!r}' if constant else ''})"


def _lines(site: Site) -> list[list[range]]:
    """The windows of an adaptive pool along each axis: i n / m to (i + 1) n / m."""
    sizes = zip(site.shapes[0][1:], site.shape[1:], strict=True)
    return [[range(i * n // m, -(-(i + 1) * n // m)) for i in range(m)] for n, m in sizes]


def _pool(site: Site) -> Site:
    """The pool of the squares as a site of its own."""
    args = {k: v for k, v in site.args.items() if k not in ("pool", "factor", "constant")}
    kind, name = site.args["pool"], f"{site.node.name}.pool"
    node = replace(site.node, name=name, op=kind, args=args, tensors={})
    return Site(node, site.shapes, {})


@captures("sqrt")
def root(c: Call, input: Tensor) -> str:
    """Of a pool of squares; any other root has no Lipschitz constant."""
    name = c.name(input)
    made, constant, factor, tensors = c.made(name), 0.0, 1.0, {}
    if made is not None and made.op == "add" and len(made.inputs) == 1 and not made.tensors:
        constant = made.args["constant"] if made.args["factors"] == [1.0] else -1.0
        name = made.inputs[0]
    made = c.made(name)
    if made is not None and made.op == "scale":
        factor, tensors = made.args.get("factor"), dict(made.tensors)
        name = made.inputs[0]
    squared, made = _squared(c, name), c.made(name)
    weights = [t.min().item() for t in tensors.values()] or [factor or 0.0]
    least = min(constant, *weights)
    if squared is None or made is None or least < 0 or c.shape(name) != tuple(input.shape[1:]):
        raise UnprovenError(FUNCTIONS_REFUSED["sqrt"])
    args = {"pool": made.op, "factor": factor, "constant": constant, **made.args}
    return c.add("l2_pool", [squared], args=args, tensors=tensors)


def _squared(c: Call, name: str) -> str | None:
    """The value of which a pool takes the squares, if it is one."""
    made = c.made(name)
    if made is None or (made.args.get("divisor") or 1) < 0:
        return None
    if made.op not in ("avg_pool", "sum") and made.args.get("adaptive") is not True:
        return None
    square = c.made(made.inputs[0])
    if square is None:
        return None
    if square.op == "product" and square.inputs[0] == square.inputs[1]:
        return square.inputs[0]
    return square.inputs[0] if square.op == "power" and square.args["exponent"] == 2.0 else None
