"""Functions of each entry alone, by their largest slope: smooth ones and exponential ones.

Their slopes are rounded up in the last digit shown. Libraries do not specify how they round: their
certificates are of real arithmetic.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from taut.program._call import Call
from taut.program._op import Rounding, captures, op, reads
from taut.program._program import Site
from taut.program._result import UnprovenError
from taut.program.ops._activations import AbstractActivation, at_least_one, number, plain_call

__all__: list[str] = []


@op("tanh")
class Tanh(AbstractActivation):
    """tanh x; its curvature is largest where tanh^2 is 1/3: 4 / (3 sqrt(3))."""

    function = torch.tanh
    curvature = -0.769801, 0.769801
    onnx = "Tanh"


@op("sigmoid")
class Sigmoid(AbstractActivation):
    """1 / (1 + exp(-x)); an eighth of the curvature of the tangent: 1 / (6 sqrt(3))."""

    function = torch.sigmoid
    slope = 0.25
    curvature = -0.096226, 0.096226
    onnx = "Sigmoid"


@op("logsigmoid")
class LogSigmoid(AbstractActivation):
    """log(1 / (1 + exp(-x))), with the curvature -s (1 - s), s the sigmoid."""

    function = F.logsigmoid
    curvature = -0.25, 0.0


@op("softsign")
class Softsign(AbstractActivation):
    """x / (1 + |x|)."""

    function = F.softsign
    onnx = "Softsign"

    def rounding(self, site: Site) -> Rounding:
        """The sum below, the division."""
        return Rounding(2, 1.0)


@op("selu")
class SELU(AbstractActivation):
    """An exponential below 0, where its slope is scale * alpha = 1.75809934... at most."""

    function = F.selu
    slope = 1.7580994
    onnx = "Selu"


@op("silu")
class SiLU(AbstractActivation):
    """x s(x), s the sigmoid.

    The slope s + x s (1 - s) is largest where x tanh(x / 2) = 2, and there it is 1/2 + x/4;
    x = 2.39935... The curvature s (1 - s) (2 + x (1 - 2 s)) is 1/2 at 0 and -0.036914... at least.
    """

    function = F.silu
    slope = 1.09984
    curvature = -0.036915, 0.5


@op("gelu")
class GELU(AbstractActivation):
    r"""x P(x), P of the normal distribution with density p; or the same with a tanh for P.

    *Exact.* The slope P + x p has the derivative p (2 - x^2): largest at sqrt(2), 1.128904... That
    derivative, the curvature, is largest at 0, 0.797885..., and least at 2, -0.107982...

    *tanh.* P = (1 + t) / 2, t = tanh(v), v = sqrt(2 / pi) (x + 0.044715 x^3). The slope
    (1 + t) / 2 + x v' (1 - t^2) / 2 is 1/2 plus an odd function of x; where its derivative
    (1 - t^2) (v' + x v'' / 2 - x v'^2 t) is 0, at x = 1.418504..., it is 1.128993...
    """

    function = F.gelu

    def largest_slope(self, site: Site) -> float:
        """Of the form that is computed."""
        slopes = {"none": 1.12891, "tanh": 1.12900}
        if site.args["approximate"] not in slopes:
            raise UnprovenError(
                f"`approximate` must be 'none' or 'tanh'; got {site.args['approximate']!r}"
            )
        return slopes[site.args["approximate"]]

    def curvatures(self, site: Site) -> tuple[float, float] | None:
        """Of the exact form."""
        return (-0.107983, 0.797885) if site.args["approximate"] == "none" else None


@op("mish")
class Mish(AbstractActivation):
    """x t, t = tanh(log(1 + exp x)).

    The slope t + x s (1 - t^2), s the sigmoid, is largest at x = 1.490571..., where it is
    1.088498...; it is at least -0.112526...
    """

    function = F.mish
    slope = 1.08850
    onnx = "Mish"


@op("tanhshrink")
class Tanhshrink(AbstractActivation):
    """x - tanh x, with the slope tanh(x)^2."""

    function = F.tanhshrink


@op("sin")
class Sin(AbstractActivation):
    """The sine."""

    function = torch.sin
    curvature = -1.0, 1.0
    onnx = "Sin"


@op("cos")
class Cos(AbstractActivation):
    """The cosine."""

    function = torch.cos
    curvature = -1.0, 1.0
    onnx = "Cos"


@op("atan")
class Atan(AbstractActivation):
    """The inverse of the tangent, with the slope 1 / (1 + x^2): curvatures up to 3 sqrt(3) / 8."""

    function = torch.atan
    curvature = -0.649520, 0.649520
    onnx = "Atan"


@op("asinh")
class Asinh(AbstractActivation):
    """The inverse of the hyperbolic sine, with the slope 1 / sqrt(1 + x^2)."""

    function = torch.asinh
    onnx = "Asinh"


@op("erf")
class Erf(AbstractActivation):
    """The error function, with the slope 2 / sqrt(pi) exp(-x^2), 1.128379... at 0."""

    function = torch.erf
    slope = 1.12838
    onnx = "Erf"


@op("elu")
class ELU(AbstractActivation):
    """x above 0, alpha (exp x - 1) below."""

    function = F.elu

    def largest_slope(self, site: Site) -> float:
        """1, or alpha."""
        return at_least_one(site.args["alpha"])

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """With its factor."""
        e.node("Elu", x, alpha=site.args["alpha"])


@op("celu")
class CELU(AbstractActivation):
    """x above 0, alpha (exp(x / alpha) - 1) below: slopes exp(x / alpha) for alpha > 0."""

    function = F.celu

    def largest_slope(self, site: Site) -> float:
        """1, if alpha is above 0."""
        if not site.args["alpha"] > 0:
            raise UnprovenError(f"`alpha` must be > 0; got {site.args['alpha']}")
        return 1.0

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """With its scale."""
        e.node("Celu", x, alpha=site.args["alpha"])


@op("softplus")
class Softplus(AbstractActivation):
    r"""log(1 + exp(beta x)) / beta, with the slope sigmoid(beta x), below 1.

    Torch returns x where beta x is above `threshold`. That is rounding: it is off there by at most
    :math:`\log(1 + \exp(-20)) / \beta < 2.1 \cdot 10^{-9} / \beta` if the threshold is 20 at least,
    far less than a float32 resolves there. Up to 88 the exponential does not
    overflow.
    """

    function = F.softplus

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """ONNX has no factor."""
        if site.args["beta"] != 1:
            raise ValueError("its `beta` must be 1")
        e.node("Softplus", x)

    def curvatures(self, site: Site) -> tuple[float, float]:
        """Beta s (1 - s), s the sigmoid."""
        return 0.0, site.args["beta"] / 4


# What calls of torch are.

for _kind in (
    "tanh", "sigmoid", "logsigmoid", "softsign", "selu", "silu", "mish", "tanhshrink", "sin", "cos",
    "atan", "asinh", "erf",
):  # fmt: skip
    captures(_kind, kind=_kind)(plain_call)
captures("log_sigmoid", kind="logsigmoid")(plain_call)
captures("expit", kind="sigmoid")(plain_call)
captures("arctan", kind="atan")(plain_call)
captures("arcsinh", kind="asinh")(plain_call)


@captures("gelu")
def gelu(c: Call, input: Tensor, approximate: str = "none") -> str:
    """GELU."""
    return c.add("gelu", [c.name(input)], args={"approximate": approximate})


@captures("elu")
def elu(c: Call, input: Tensor, alpha: Any = 1.0, inplace: bool = False) -> str:
    """ELU."""
    return c.add("elu", [c.name(input)], args={"alpha": float(alpha)})


@captures("celu")
def celu(c: Call, input: Tensor, alpha: Any = 1.0, inplace: bool = False) -> str:
    """CELU."""
    return c.add("celu", [c.name(input)], args={"alpha": number(alpha, "alpha")})


@captures("softplus")
def softplus(c: Call, input: Tensor, beta: Any = 1.0, threshold: Any = 20.0) -> str:
    """Softplus."""
    if not 20 <= threshold <= 88 or not beta > 0:
        raise UnprovenError(
            "`threshold` must be between 20 and 88, as torch jumps down to x there, and its "
            f"exponential overflows above, and `beta` > 0; got {threshold}, {beta}"
        )
    args = {"beta": number(beta, "beta"), "threshold": float(threshold)}
    return c.add("softplus", [c.name(input)], args=args)


# What nodes of ONNX are, as functions of torch.

reads("Tanh")(lambda x: torch.tanh(x))
reads("Sigmoid")(lambda x: torch.sigmoid(x))
reads("Softsign")(lambda x: F.softsign(x))
reads("Elu")(lambda x, *, alpha=1.0: F.elu(x, alpha))
reads("Celu")(lambda x, *, alpha=1.0: F.celu(x, alpha))
reads("Mish")(lambda x: F.mish(x))
reads("Softplus")(lambda x: F.softplus(x))
reads("Sin")(lambda x: torch.sin(x))
reads("Cos")(lambda x: torch.cos(x))
reads("Atan")(lambda x: torch.atan(x))
reads("Asinh")(lambda x: torch.asinh(x))
reads("Erf")(lambda x: torch.erf(x))
