"""Functions of each entry alone, by their largest slope, and softmax."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from taut.linalg.operator import NormBound
from taut.linalg.rounding import up_product, up_root
from taut.program._call import Call
from taut.program._op import AbstractOp, Rounding, captures, like, op, reads
from taut.program._program import Site
from taut.program._result import UnprovenError

__all__: list[str] = []


class AbstractActivation(AbstractOp):
    """A function of each entry; `slope` is its largest one, rounded up."""

    function: Callable[..., Tensor]
    slope: float = 1.0
    onnx: str = ""

    def gains(self, site: Site) -> tuple[NormBound, ...]:
        """The largest slope."""
        slope = self.largest_slope(site)
        return (NormBound(slope, f"slope at most {slope:.6g}"),)

    def largest_slope(self, site: Site) -> float:
        """For the arguments of this node."""
        return self.slope

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
        args = "".join(f", {name}={value!r}" for name, value in site.args.items())
        return f"{_SOURCES.get(self.kind, 'F')}.{self.kind}({x[0]}{args})"


_SOURCES = {"tanh": "torch", "sigmoid": "torch", "abs": "torch", "neg": "torch"}


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


@op("tanh")
class Tanh(AbstractActivation):
    """tanh x."""

    function = torch.tanh


@op("sigmoid")
class Sigmoid(AbstractActivation):
    """1 / (1 + exp(-x))."""

    function = torch.sigmoid
    slope = 0.25


@op("logsigmoid")
class LogSigmoid(AbstractActivation):
    """log(1 / (1 + exp(-x)))."""

    function = F.logsigmoid


@op("softsign")
class Softsign(AbstractActivation):
    """x / (1 + |x|)."""

    function = F.softsign

    def rounding(self, site: Site) -> Rounding:
        """The sum below, the division."""
        return Rounding(2, 1.0)


@op("selu")
class SELU(AbstractActivation):
    """An exponential below 0, where its slope is scale * alpha = 1.75809934... at most."""

    function = F.selu
    slope = 1.7580994


@op("silu")
class SiLU(AbstractActivation):
    """x s(x), s the sigmoid.

    The slope s + x s (1 - s) is largest where x tanh(x / 2) = 2, and there it is 1/2 + x/4;
    x = 2.39935...
    """

    function = F.silu
    slope = 1.09984


@op("gelu")
class GELU(AbstractActivation):
    """x P(x), P of the normal distribution with density p.

    The slope P + x p has the derivative p (2 - x^2): largest at sqrt(2), 1.128904...
    """

    function = F.gelu
    slope = 1.12891

    def largest_slope(self, site: Site) -> float:
        """Of the exact form."""
        if site.args["approximate"] != "none":
            raise UnprovenError(f"`approximate` must be 'none'; got {site.args['approximate']!r}")
        return self.slope


@op("leaky_relu")
class LeakyReLU(AbstractActivation):
    """x above 0, a multiple of it below."""

    function = F.leaky_relu

    def largest_slope(self, site: Site) -> float:
        """1, or the slope below 0."""
        return _at_least_one(site.args["negative_slope"])

    def rounding(self, site: Site) -> Rounding:
        """The slope, the product."""
        return Rounding(2, self.largest_slope(site))

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """With its slope."""
        e.node("LeakyRelu", x, alpha=site.args["negative_slope"])


@op("elu")
class ELU(AbstractActivation):
    """x above 0, alpha (exp x - 1) below."""

    function = F.elu

    def largest_slope(self, site: Site) -> float:
        """1, or alpha."""
        return _at_least_one(site.args["alpha"])


@op("prelu")
class PReLU(AbstractActivation):
    """LeakyReLU with a slope of each channel."""

    def largest_slope(self, site: Site) -> float:
        """1, or the steepest below 0."""
        return _at_least_one(site.tensors["weight"].double().abs().max().item())

    def rounding(self, site: Site) -> Rounding:
        """The product."""
        return Rounding(1, self.largest_slope(site))

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Apply the function."""
        return F.prelu(x[0], like(site.tensors["weight"], x[0]))


@op("softplus")
class Softplus(AbstractActivation):
    """log(1 + exp(beta x)) / beta."""

    function = F.softplus

    def largest_slope(self, site: Site) -> float:
        """1, without a threshold: above it torch returns x, a jump down."""
        beta, threshold = site.args["beta"], site.args["threshold"]
        if threshold != {"float": "inf"} or not beta > 0:
            shown = threshold["float"] if isinstance(threshold, dict) else threshold
            raise UnprovenError(
                "`threshold` must be inf, as torch jumps down to x at any other, and `beta` > 0; "
                f"got {shown}, {beta}"
            )
        return 1.0

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Apply the function."""
        return F.softplus(x[0], site.args["beta"], math.inf)


@op("hardtanh")
class Hardtanh(AbstractActivation):
    """x between two numbers."""

    function = F.hardtanh

    def rounding(self, site: Site) -> Rounding:
        """The ends are rounded; 0 goes to the nearer of them if it is not between."""
        end = max(abs(site.args["min_val"]), abs(site.args["max_val"]))
        return Rounding(1, 1.0, up_product(end, up_root(float(site.entries[0]))))


@op("softmax")
class Softmax(AbstractOp):
    r"""exp x / sum exp x along an axis.

    The Jacobian diag(p) - p p^T is symmetric with rows of absolute sum 2 p_i (1 - p_i), at most 1/2
    (Gershgorin).
    """

    proof = "Jacobian of norm at most 1/2"

    def gains(self, site: Site) -> tuple[float, ...]:
        """One half."""
        return (0.5,)

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Normalise."""
        return torch.softmax(x[0], site.args["axis"] + 1)

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """Along the axis."""
        e.node("Softmax", x, axis=site.args["axis"] + 1)

    def source(self, site: Site, *x: str) -> str:
        """As an expression."""
        return f"torch.softmax({x[0]}, {site.args['axis'] + 1})"


def _at_least_one(value: float | dict) -> float:
    if isinstance(value, dict) or not math.isfinite(value):
        raise UnprovenError("its slope is NaN or Inf")
    return max(1.0, abs(value))


# What calls of torch are.


def _plain(c: Call, input: Tensor, inplace: bool = False, *, kind: str) -> str:
    return c.add(kind, [c.name(input)])


for _kind in (
    "relu",
    "relu6",
    "abs",
    "neg",
    "tanh",
    "sigmoid",
    "logsigmoid",
    "softsign",
    "selu",
    "silu",
):
    captures(_kind, kind=_kind)(_plain)
captures("absolute", kind="abs")(_plain)
captures("negative", kind="neg")(_plain)
captures("log_sigmoid", kind="logsigmoid")(_plain)


@captures("gelu")
def gelu(c: Call, input: Tensor, approximate: str = "none") -> str:
    """GELU."""
    return c.add("gelu", [c.name(input)], args={"approximate": approximate})


@captures("leaky_relu")
def leaky_relu(c: Call, input: Tensor, negative_slope: Any = 0.01, inplace: bool = False) -> str:
    """LeakyReLU."""
    return c.add("leaky_relu", [c.name(input)], args={"negative_slope": float(negative_slope)})


@captures("elu")
def elu(c: Call, input: Tensor, alpha: Any = 1.0, inplace: bool = False) -> str:
    """ELU."""
    return c.add("elu", [c.name(input)], args={"alpha": float(alpha)})


@captures("prelu", "_prelu_kernel")
def prelu(c: Call, input: Tensor, weight: Tensor) -> str:
    """PReLU."""
    return c.add("prelu", [c.name(input)], tensors={"weight": c.constant(weight)})


@captures("softplus")
def softplus(c: Call, input: Tensor, beta: Any = 1.0, threshold: Any = 20.0) -> str:
    """Softplus."""
    args = {"beta": float(beta), "threshold": float(threshold)}
    return c.add("softplus", [c.name(input)], args=args)


@captures("hardtanh")
def hardtanh(
    c: Call, input: Tensor, min_val: Any = -1.0, max_val: Any = 1.0, inplace: bool = False
) -> str:
    """Hardtanh."""
    return c.add(
        "hardtanh", [c.name(input)], args={"min_val": float(min_val), "max_val": float(max_val)}
    )


@captures("softmax")
def softmax(c: Call, input: Tensor, dim: int | None = None, *_: Any, **kwargs: Any) -> str:
    """Softmax along an axis of the sample."""
    if dim is None or dim % input.dim() == 0:
        raise UnprovenError("it must have a `dim` that is not the batch")
    return c.add("softmax", [c.name(input)], args={"axis": dim % input.dim() - 1})


# What nodes of ONNX are, as functions of torch.

reads("Relu")(lambda x: F.relu(x))
reads("Abs")(lambda x: torch.abs(x))
reads("Tanh")(lambda x: torch.tanh(x))
reads("Sigmoid")(lambda x: torch.sigmoid(x))
reads("Softsign")(lambda x: F.softsign(x))
reads("LeakyRelu")(lambda x, *, alpha=0.01: F.leaky_relu(x, alpha))
reads("Elu")(lambda x, *, alpha=1.0: F.elu(x, alpha))
reads("Softmax")(lambda x, *, axis=-1: torch.softmax(x, axis))
