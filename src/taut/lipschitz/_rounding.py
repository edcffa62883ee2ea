r"""How far a computed layer may be from the exact one: a rule for each exact module type.

Let f be a layer in real arithmetic and :math:`\hat f` the same layer as it is executed with unit
roundoff u, in any order of summation, with or without fused operations. A rule promises

.. math:: |\hat f(x) - f(x)| \le \gamma_m (|W| |x| + |c|) \quad\text{entry by entry}

up to underflow, with :math:`\gamma_m = m u / (1 - m u)`, a matrix :math:`|W|` of norm at most
`absolute`, and :math:`|f(x)| \le L |x| + \|c\|` for the Lipschitz constant L of its norm rule.

*Linear layers.* An output is a sum of n products and a bias. Whatever the order, a product passes
at most 1 multiplication and n additions, the bias at most n additions; each is a factor
:math:`1 + \delta` with :math:`|\delta| \le u` (Higham 2002, lemma 3.1): m = n + 1 will do. The bias
may not be counted for less: a matrix product that starts from it rounds it once for each block.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, final

import torch
from torch import Tensor, nn

from taut.linalg.operators import ConvOperator
from taut.linalg.rounding import U64, abs_norm_bound, gamma, up_product, up_root, up_sum
from taut.lipschitz._functions import selection_gain
from taut.lipschitz._registry import adjoint_of, operator_of
from taut.lipschitz._result import UnprovenError

__all__ = [
    "EXACT",
    "Affine",
    "Rounding",
    "affine_rounding",
    "exact_rounding",
    "norm_bound",
    "register_rounding",
    "rounding_of",
]

Shape = tuple[int, ...]
_FOLDED = 1 + 2.0**-40
"""Covers the float64 rounding of the few operations that fold a scale."""


@final
@dataclass(frozen=True)
class Rounding:
    """What a rule promises about the rounding of a layer.

    Attributes:
        count: how many roundings anything may pass on its way to an output; 0 if outputs are copies
            of inputs, or of their moduli, whatever the precision.
        absolute: bound of the norm of the map with moduli for entries. No intermediate result is
            larger than `absolute` times the norm of the input plus `constant`.
        constant: l2 norm of what is added to the image of the input.

    Example:
        >>> Rounding(2, 3.0).constant
        0.0
    """

    count: int
    absolute: float
    constant: float = 0.0


EXACT = Rounding(0, 0.0)
"""Of layers that only choose among their inputs and the moduli of their inputs; f(0) = 0."""


@final
@dataclass(frozen=True)
class Affine:
    """A layer that is a convolution, its adjoint or a matrix, and a bias; its rounding follows.

    Attributes:
        op: the operator, on one slice of the input.
        weight: as it is used, in the precision it is used in.
        bias: one number for each output channel, or None.
        adjoint: whether the layer is the adjoint of `op`: a transposed convolution.

    Example:
        >>> weight, bias = torch.ones(1, 3), torch.tensor([2.0])
        >>> layer = Affine(ConvOperator(weight, ()), weight, bias)
        >>> rounding = layer.rounding(entries=12)  # four rows
        >>> rounding.count, round(rounding.constant, 6)
        (5, 4.0)
    """

    op: ConvOperator
    weight: Tensor
    bias: Tensor | None
    adjoint: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """Run the layer in float64 on a batch."""
        y = self.op.adjoint(x) if self.adjoint else self.op(x)
        if self.bias is None:
            return y
        spatial = len(self.op.input_size)
        bias = self.bias.to(y).reshape(-1).expand(y.shape[-1 - spatial])  # never more channels
        return y + bias.reshape(-1, *[1] * spatial)

    def rounding(self, entries: int) -> Rounding:
        """The rounding on an input of so many entries, which may be several slices.

        An output of an adjoint is a sum of at most one product for each tap and each channel of its
        group that the operator writes to.
        """
        outputs, inputs = reversed(self.op.shape) if self.adjoint else self.op.shape
        kernel = self.op.kernel[: len(self.op.kernel) // self.op.groups]
        fan_in = kernel[:, 0].numel() if self.adjoint else kernel[0].numel()
        constant = 0.0
        if self.bias is not None:
            copies = max(1, entries // inputs) * outputs // len(self.bias)
            constant = up_product(norm_bound(self.bias), up_root(float(copies)))
        return Rounding(fan_in + 2, abs_norm_bound(self.op), constant)


def norm_bound(values: Tensor) -> float:
    """The l2 norm of finite numbers, never below the exact one.

    Example:
        >>> 5.0 <= norm_bound(torch.tensor([3.0, 4.0])) < 5.0 + 1e-12
        True
    """
    wide = values.detach().to("cpu", torch.float64).flatten()
    largest = wide.abs().max().item() if len(wide) else 0.0
    if not math.isfinite(largest):
        raise UnprovenError("its bias, or another constant, holds NaN or Inf")
    if largest == 0.0:
        return 0.0
    ratios = wide / largest
    square = ratios.square().sum().item()
    # Squares that underflow are below 2^-1000 of the largest, which is 1.
    factor = up_sum(1.0, gamma(len(wide) + 4, U64), 2.0**-60)
    return up_product(largest, up_root(up_product(square, factor)))


# Modules differ in their attributes; a rule knows the ones of its own type.
Rule = Callable[[Any, Shape], Rounding | Affine]
_R = TypeVar("_R", bound=Rule)
_RULES: dict[type, Rule] = {}


def register_rounding(kind: type[nn.Module]) -> Callable[[_R], _R]:
    """Say how far the computed output of exactly this type may be from the exact one.

    Certificates of the running program need it beside the norm rule of `register`.

    Args:
        kind: the type; its subclasses stay unknown.

    Returns:
        A decorator for the rule `(module, shape) -> Rounding`; `shape` is the shape of the one
        input without its batch dimension. In certificates the module is run as a copy in float64.

    Example:
        >>> class Third(nn.Module):
        ...     def forward(self, x):
        ...         return x.pow(1) / 3
        >>> @register_rounding(Third)
        ... def third(module, shape):
        ...     return Rounding(count=1, absolute=0.34)
    """

    def add(rule: _R) -> _R:
        _RULES[kind] = rule
        return rule

    return add


def rounding_of(module: nn.Module, shape: Shape) -> Rounding | Affine:
    """What the rule for the module's exact type says.

    Raises:
        UnprovenError: if there is none, with the line that would add it.

    Example:
        >>> rounding_of(nn.ReLU(), (3,)) is EXACT
        True
    """
    kind = type(module)
    if kind not in _RULES:
        raise UnprovenError(
            f"{kind.__module__}.{kind.__qualname__} has no proven rounding error; with a proof, "
            f"add `taut.lipschitz.register_rounding({kind.__name__})(rule)`, where rule(module, "
            "shape) returns a Rounding; or certify in real arithmetic"
        )
    return _RULES[kind](module, shape)


@register_rounding(nn.Linear)
@register_rounding(nn.Conv1d)
@register_rounding(nn.Conv2d)
@register_rounding(nn.Conv3d)
def affine_rounding(m: Any, shape: Shape) -> Affine:
    """The rule of layers with an operator, a `weight` and a `bias`.

    Example:
        >>> affine_rounding(nn.Linear(3, 2), (3,)).rounding(entries=3).count
        5
    """
    op = operator_of(m, shape)
    if op is None:
        raise UnprovenError("it has no operator")
    return Affine(op, m.weight.detach(), None if m.bias is None else m.bias.detach())


@register_rounding(nn.ConvTranspose1d)
@register_rounding(nn.ConvTranspose2d)
def _transposed(m: Any, shape: Shape) -> Affine:
    op = adjoint_of(m, shape)
    if op is None:
        raise UnprovenError("it has no operator")
    bias = None if m.bias is None else m.bias.detach()
    return Affine(op, m.weight.detach(), bias, adjoint=True)


def exact_rounding(m: nn.Module, shape: Shape) -> Rounding:
    """The rule of layers that only choose among their inputs and the moduli of their inputs.

    Example:
        >>> exact_rounding(nn.ReLU(), (3,)).count
        0
    """
    return EXACT


for _kind in (
    nn.ReLU, nn.ReLU6, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Flatten,
    nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, nn.ZeroPad1d, nn.ZeroPad2d,
    nn.CircularPad1d, nn.CircularPad2d, nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReplicationPad1d,
    nn.ReplicationPad2d, nn.MaxPool1d, nn.MaxPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d,
    nn.Upsample, nn.UpsamplingNearest2d,
):  # fmt: skip
    register_rounding(_kind)(exact_rounding)


@register_rounding(nn.ConstantPad1d)
@register_rounding(nn.ConstantPad2d)
def _constant_pad(m: nn.ConstantPad1d | nn.ConstantPad2d, shape: Shape) -> Rounding:
    """The value is rounded to the precision of the signal."""
    if m.value == 0:
        return EXACT
    outputs = m(torch.zeros(1, *shape)).numel()
    copies = float(selection_gain(m, (2, *shape)))
    return Rounding(1, up_root(copies), up_product(abs(m.value), up_root(float(outputs))))


@register_rounding(nn.AvgPool1d)
@register_rounding(nn.AvgPool2d)
@register_rounding(nn.AdaptiveAvgPool1d)
@register_rounding(nn.AdaptiveAvgPool2d)
def _average(m: nn.Module, shape: Shape) -> Rounding:
    """A sum, which may overflow before it is divided; the operator's weights are rounded once."""
    op = operator_of(m, shape)
    if op is None:
        raise UnprovenError("it has no operator")
    divisor = max(1.0, 1 / op.kernel.abs().max().item())
    absolute = up_product(abs_norm_bound(op), divisor, _FOLDED)
    return Rounding(math.prod(op.kernel.shape[1:]) + 2, absolute)


@register_rounding(nn.BatchNorm1d)
@register_rounding(nn.BatchNorm2d)
def _batch_norm(m: Any, shape: Shape) -> Rounding:
    r"""Each way to order (x - mean) / sqrt(var + eps) * weight + bias.

    The root of the sum passes 4 roundings (eps, sum, root, inversion; two more where a device has
    its own inverse root), then one for each factor and term: 16 are more than any order takes.
    """
    wide = [None if t is None else t.detach().cpu().double() for t in _statistics(m)]
    mean, variance, weight, bias = wide
    if mean is None or variance is None:
        raise UnprovenError("batch norm without running statistics mixes the samples")
    inverse = (variance + m.eps).rsqrt()
    factor = inverse if weight is None else torch.maximum(inverse, (inverse * weight).abs())
    factor = factor.clamp_min(1.0) * _FOLDED
    added = mean.abs() * factor + (0.0 if bias is None else bias.abs())
    constant = up_product(norm_bound(added), up_root(float(math.prod(shape[1:]))), _FOLDED)
    return Rounding(16, factor.max().item(), constant)


def _statistics(m: Any) -> tuple[Tensor | None, ...]:
    return m.running_mean, m.running_var, m.weight, m.bias


def _not_in_place(m: nn.LeakyReLU | nn.Hardtanh) -> None:
    """What reads the value that it wrote over would not know of the rounding, nor of 0 moved."""
    if m.inplace:
        raise UnprovenError("`inplace` must be False for a layer that rounds")


@register_rounding(nn.LeakyReLU)
def _leaky(m: nn.LeakyReLU, shape: Shape) -> Rounding:
    _not_in_place(m)
    return Rounding(2, max(1.0, abs(m.negative_slope)))  # the slope, the product


@register_rounding(nn.PReLU)
def _prelu(m: nn.PReLU, shape: Shape) -> Rounding:
    return Rounding(1, max(1.0, m.weight.detach().double().abs().max().item()))


@register_rounding(nn.Hardtanh)
def _hardtanh(m: nn.Hardtanh, shape: Shape) -> Rounding:
    """The two ends are rounded; 0 goes to the nearer of them if it is not between."""
    _not_in_place(m)
    end = max(abs(m.min_val), abs(m.max_val))
    return Rounding(1, 1.0, up_product(end, up_root(float(math.prod(shape)))))


@register_rounding(nn.Softsign)
def _softsign(m: nn.Softsign, shape: Shape) -> Rounding:
    return Rounding(2, 1.0)  # the sum below, the division
