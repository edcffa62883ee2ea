"""Signals times a function of themselves: GELU and SiLU, as they are written out."""

from typing import Any, final

import torch
from torch import Tensor

from taut.linalg.operator import NormBound
from taut.linalg.rounding import up_product, up_sum
from taut.program._op import AbstractOp, op
from taut.program._program import Site

__all__ = ["GATES", "is_gelu_tanh"]

GATES = {"erf": "Erf", "sigmoid": "Sigmoid", "tanh": "Tanh"}
"""Functions h by their names in torch, and in ONNX."""

_STEEPEST = {"erf": 1.25781, "sigmoid": 0.59984, "tanh": 1.19968, "cubic": 1.25800}
_MIDDLE = {"erf": 0.0, "sigmoid": 0.5, "tanh": 0.0}
_CUBIC = 0.07023816
"""0.044715 pi / 2 = 0.070238157..., the cubic term of GELU's tanh for a linear one of 1."""


def is_gelu_tanh(inner: float, cubic: float) -> bool:
    """Whether v = inner (x + cubic x^3) is that of GELU, but for the rounding of its numbers."""
    return inner > 0 and abs(cubic / (inner * inner) - _CUBIC) < 5e-7


@final
@op("gated")
class Gated(AbstractOp):
    r"""x (p + q h(v)), v = c x, and h the error function, the sigmoid or the tanh.

    *Slope.* p + q (h(v) + v h'(v)), whatever c. For odd h that is p plus an odd function of v times
    q, of modulus at most m:

    - erf: the derivative of the odd function is :math:`2 h' (1 - v^2)`: largest at 1, where it is
      :math:`\operatorname{erf} 1 + 2 / (\sqrt\pi e) = 1.257808...`
    - tanh: largest where v tanh v = 1, and v there: 1.199678...
    - sigmoid: 1/2 + tanh(v/2) / 2, so that 1/2 counts for p, and half of tanh's m.

    *cubic.* With tanh, v may be :math:`c (x + d x^3)`, as GELU has it. In t = c x the slope depends
    on :math:`\beta = d / c^2` alone; with T = tanh v and :math:`v' = 1 + 3 \beta t^2` its odd part
    changes by :math:`2 (1 - T^2) |2 t^3 - T v' t^4| < 10` for each unit of :math:`\beta`, as
    :math:`1 - T^2 \le 4 e^{-2 t}`. GELU has :math:`\beta = 0.0702382` and the odd part 1.257986...;
    another :math:`\beta` no further away than :math:`5.2 \cdot 10^{-7}` has 1.25800 at most.
    """

    def gains(self, site: Site) -> tuple[NormBound, ...]:
        """The steepest slope."""
        args = site.args
        function = args["function"]
        steepest = _STEEPEST["cubic" if args["cubic"] else function]
        # |p + q m'| with the middle m' of h is exact for m' = 0, and rounded once else.
        middle = abs(args["constant"] + args["factor"] * _MIDDLE[function])
        rounded = up_product(middle, 1 + 2.0**-50) if _MIDDLE[function] else middle
        slope = up_sum(rounded, up_product(abs(args["factor"]), steepest))
        return (NormBound(slope, f"slope at most {slope:.6g}"),)

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Step by step."""
        args = site.args
        v = x[0]
        if args["cubic"]:
            v = v + args["cubic"] * (v * v * v)
        if args["divides"] or args["inner"] != 1:
            v = v / args["inner"] if args["divides"] else args["inner"] * v
        gate = getattr(torch, args["function"])(v)
        gate = gate if args["factor"] == 1 else args["factor"] * gate
        gate = gate + args["constant"] if args["constant"] else gate
        return x[0] * gate

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """Step by step."""
        args, v = site.args, x[0]
        if args["cubic"]:
            third = e.node("Mul", [e.node("Mul", [v, v], "square"), v], "third")
            third = e.node("Mul", [third, e.number("cubic", args["cubic"])], "cubed")
            v = e.node("Add", [v, third], "sum")
        if args["divides"] or args["inner"] != 1:
            kind = "Div" if args["divides"] else "Mul"
            v = e.node(kind, [v, e.number("inner", args["inner"])], "scaled")
        gate = e.node(GATES[args["function"]], [v], "gate")
        if args["factor"] != 1:
            gate = e.node("Mul", [gate, e.number("factor", args["factor"])], "weighted")
        if args["constant"]:
            gate = e.node("Add", [gate, e.number("constant", args["constant"])], "shifted")
        e.node("Mul", [x[0], gate])

    def source(self, site: Site, *x: str) -> str:
        """As an expression."""
        args, v = site.args, x[0]
        if args["cubic"]:
            v = f"({v} + {args['cubic']!r} * {v} ** 3)"
        if args["divides"] or args["inner"] != 1:
            v = f"{v} / {args['inner']!r}" if args["divides"] else f"{args['inner']!r} * {v}"
        gate = f"{args['factor']!r} * torch.{args['function']}({v}) + {args['constant']!r}"
        return f"{x[0]} * ({gate})"
