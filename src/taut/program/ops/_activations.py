"""Functions of each entry alone, by their largest slope: those made of straight pieces."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from taut.linalg.computed_kernel import ComputedKernel
from taut.linalg.operator import NormBound
from taut.linalg.rounding import up_product, up_root
from taut.program._call import Call
from taut.program._op import AbstractOp, Rounding, captures, like, op, reads
from taut.program._program import Site
from taut.program._result import UnprovenError

__all__ = ["AbstractActivation", "at_least_one", "number", "plain_call"]


class AbstractActivation(AbstractOp):
    """A function of each entry; `slope` is its largest one, rounded up.

    `curvature` is between what its second derivative is, rounded outward; None where the slope is
    not Lipschitz, or nothing is known of it.
    """

    function: Callable[..., Tensor]
    slope: float = 1.0
    curvature: tuple[float, float] | None = None
    onnx: str = ""

    def gains(self, site: Site) -> tuple[NormBound, ...]:
        """The largest slope."""
        slope = self.largest_slope(site)
        return (NormBound(slope, f"slope at most {slope:.6g}"),)

    def largest_slope(self, site: Site) -> float:
        """For the arguments of this node."""
        return self.slope

    def curvatures(self, site: Site) -> tuple[float, float] | None:
        """For the arguments of this node."""
        return self.curvature

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Apply the function."""
        return type(self).function(x[0], **site.args)

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """ONNX has the function by a name."""
        if not self.onnx:
            raise ValueError("it has no form in ONNX")
        e.node(self.onnx, x)

    def source(self, site: Site, *x: str) -> str:
        """As an expression."""
        args = "".join(f", {name}={value!r}" for name, value in sorted(site.args.items()))
        return f"{'torch' if self.kind in _IN_TORCH else 'F'}.{self.kind}({x[0]}{args})"


_IN_TORCH = ("tanh", "sigmoid", "abs", "neg", "sin", "cos", "atan", "erf", "asinh")
"""What `torch` has, and `torch.nn.functional` has not."""


@op("relu")
class ReLU(AbstractActivation):
    """max(x, 0)."""

    function = F.relu
    exact = True
    onnx = "Relu"


@op("relu6")
class ReLU6(AbstractActivation):
    """min(max(x, 0), 6)."""

    function = F.relu6
    exact = True


@op("abs")
class Abs(AbstractActivation):
    """|x|."""

    function = torch.abs
    exact = True
    onnx = "Abs"


@op("neg")
class Neg(AbstractActivation):
    """-x."""

    function = torch.neg
    exact = True
    affine = True
    onnx = "Neg"

    def as_kernel(self, site: Site, *, last: bool) -> ComputedKernel | None:
        """A factor of -1."""
        if not site.shape:
            return None
        size = () if last else site.shape[1:]
        return ComputedKernel.channelwise(
            -torch.ones(site.shape[-1 if last else 0], device="cpu"), size
        )


@op("leaky_relu")
class LeakyReLU(AbstractActivation):
    """x above 0, a multiple of it below."""

    function = F.leaky_relu

    def largest_slope(self, site: Site) -> float:
        """1, or the slope below 0."""
        return at_least_one(site.args["negative_slope"])

    def rounding(self, site: Site) -> Rounding:
        """The slope, the product."""
        return Rounding(2, self.largest_slope(site))

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """With its slope."""
        e.node("LeakyRelu", x, alpha=site.args["negative_slope"])


@op("prelu")
class PReLU(AbstractActivation):
    """LeakyReLU with a slope of each channel."""

    def largest_slope(self, site: Site) -> float:
        """1, or the steepest below 0."""
        return at_least_one(site.tensors["weight"].double().abs().max().item())

    def rounding(self, site: Site) -> Rounding:
        """The product; none where all slopes are 0, 1 or -1."""
        slopes = site.tensors["weight"].double().abs()
        exact = bool(((slopes == 0) | (slopes == 1)).all())
        return Rounding(0 if exact else 1, self.largest_slope(site))

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Apply the function."""
        return F.prelu(x[0], like(site.tensors["weight"], x[0]))

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """With its slopes, which ONNX broadcasts from the last axis."""
        (held,) = e.held(site, "weight")
        e.node("PRelu", [*x, e.unsqueezed("slopes", held, range(1, len(site.shape)))])

    def source(self, site: Site, *x: str) -> str:
        """As an expression."""
        return f"F.prelu({x[0]}, self.{site.node.name}_weight)"


@op("hardtanh")
class Hardtanh(AbstractActivation):
    """x between two numbers."""

    function = F.hardtanh

    def rounding(self, site: Site) -> Rounding:
        """The ends are rounded; 0 goes to the nearer of them if it is not between."""
        end = max(abs(site.args["min_val"]), abs(site.args["max_val"]))
        return Rounding(1, 1.0, up_product(end, up_root(float(site.entries[0]))))


@op("hardsigmoid")
class Hardsigmoid(AbstractActivation):
    """min(max(x + 3, 0), 6) / 6: slope 1/6 between -3 and 3."""

    function = F.hardsigmoid
    slope = math.nextafter(1 / 6, 1.0)

    def rounding(self, site: Site) -> Rounding:
        r"""The sum, the inverse of 6, the quotient, and one to spare.

        :math:`|x + 3| \le |x| + 3` bounds what is cut, what is rounded, and each result between.
        """
        return Rounding(4, 1.0, up_product(3.0, up_root(float(site.entries[0]))))

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """With its slope."""
        e.node("HardSigmoid", x, alpha=1 / 6, beta=0.5)


@op("hardswish")
class Hardswish(AbstractActivation):
    r"""x min(max(x + 3, 0), 6) / 6: slope x/3 + 1/2 from -3 to 3, between -1/2 and 3/2."""

    function = F.hardswish
    slope = 1.5
    onnx = "HardSwish"

    def rounding(self, site: Site) -> Rounding:
        r"""The sum, the product, the inverse of 6, the quotient, and one to spare.

        The sum is off by at most 6 u after it is cut to [0, 6], so that the product is off by
        at most :math:`|x| 6 u` and, in all, :math:`\gamma_5 |x|`; it is at most :math:`6 |x|`.
        """
        return Rounding(5, 6.0)


@op("softshrink")
class Softshrink(AbstractActivation):
    """0 up to `lambd`, from there on slope 1."""

    function = F.softshrink

    def rounding(self, site: Site) -> Rounding:
        """`lambd` is rounded, then the difference."""
        return Rounding(2, 1.0, up_product(site.args["lambd"], up_root(float(site.entries[0]))))

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """A shrinkage that moves the rest."""
        e.node("Shrink", x, lambd=site.args["lambd"], bias=site.args["lambd"])


def at_least_one(value: float | dict) -> float:
    """The larger of 1 and the modulus of a slope."""
    if isinstance(value, dict) or not math.isfinite(value):
        raise UnprovenError("its slope is NaN or Inf")
    return max(1.0, abs(value))


# What calls of torch are.


def number(value: Any, name: str) -> float:
    """A finite real number among the arguments of a call."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise UnprovenError(f"`{name}` must be a finite number; got {value!r}")
    return float(value)


def plain_call(c: Call, input: Tensor, inplace: bool = False, *, kind: str) -> str:
    """A function without arguments."""
    return c.add(kind, [c.name(input)])


for _kind in ("relu", "relu6", "abs", "neg", "hardswish", "hardsigmoid"):
    captures(_kind, kind=_kind)(plain_call)
captures("absolute", kind="abs")(plain_call)
captures("negative", kind="neg")(plain_call)


@captures("leaky_relu")
def leaky_relu(c: Call, input: Tensor, negative_slope: Any = 0.01, inplace: bool = False) -> str:
    """LeakyReLU."""
    return c.add("leaky_relu", [c.name(input)], args={"negative_slope": float(negative_slope)})


@captures("rrelu")
def rrelu(c: Call, input: Tensor, lower: float = 1 / 8, upper: float = 1 / 3,
          training: bool = False, *_: Any, **kwargs: Any) -> str:  # fmt: skip
    """In evaluation, LeakyReLU with the slope in the middle."""
    if training:
        raise UnprovenError("its slopes are random in training; call model.eval() first")
    return leaky_relu(c, input, (lower + upper) / 2)


@captures("hardshrink")
def hardshrink(c: Call, input: Tensor, lambd: Any = 0.5) -> str:
    """The signal itself where nothing is cut."""
    if lambd != 0:
        raise UnprovenError(
            f"it jumps from 0 to `lambd` = {lambd}, so that it has no Lipschitz constant; "
            "Softshrink has one"
        )
    return c.name(input)


@captures("softshrink")
def softshrink(c: Call, input: Tensor, lambd: Any = 0.5) -> str:
    """Softshrink."""
    return c.add("softshrink", [c.name(input)], args={"lambd": number(lambd, "lambd")})


@captures("_threshold", "threshold")
def threshold(c: Call, input: Tensor, threshold: Any, value: Any, inplace: bool = False) -> str:
    """The larger of the signal and the threshold, where the value below is the threshold."""
    if threshold != value:
        raise UnprovenError(
            f"it jumps from `value` = {value} to `threshold` = {threshold}, so that it has no "
            "Lipschitz constant unless they are equal"
        )
    return c.add("clamp", [c.name(input)], args={"min": number(value, "value"), "max": None})


@captures("prelu", "_prelu_kernel")
def prelu(c: Call, input: Tensor, weight: Tensor) -> str:
    """PReLU."""
    return c.add("prelu", [c.name(input)], tensors={"weight": c.constant(weight)})


@captures("hardtanh")
def hardtanh(
    c: Call, input: Tensor, min_val: Any = -1.0, max_val: Any = 1.0, inplace: bool = False
) -> str:
    """Hardtanh."""
    return c.add(
        "hardtanh", [c.name(input)], args={"min_val": float(min_val), "max_val": float(max_val)}
    )


# What nodes of ONNX are, as functions of torch.

reads("Relu")(lambda x: F.relu(x))
reads("Abs")(lambda x: torch.abs(x))
reads("LeakyRelu")(lambda x, *, alpha=0.01: F.leaky_relu(x, alpha))
reads("HardSwish")(lambda x: F.hardswish(x))


@reads("HardSigmoid")
def _hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    if abs(alpha - 1 / 6) < 1e-7 and beta == 0.5:  # files hold numbers in float32
        return F.hardsigmoid(x)
    return torch.clamp(alpha * x + beta, 0.0, 1.0)


@reads("Shrink")
def _shrink(x: Tensor, *, lambd: float = 0.5, bias: float = 0.0) -> Tensor:
    if lambd != bias:
        raise ValueError("it jumps, unless `bias` is `lambd`")
    return F.softshrink(x, lambd)
