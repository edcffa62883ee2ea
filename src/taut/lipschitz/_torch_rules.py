"""Rules for torch's own modules. Biases shift and never matter."""

import math
from fractions import Fraction
from typing import Any

import torch
from torch import nn

from taut.linalg.bounds import NormBound
from taut.linalg.operators import ConvOperator, Padding
from taut.linalg.rounding import up, up_product, up_root
from taut.lipschitz._functions import selection_gain
from taut.lipschitz._registry import register, register_adjoint, register_linear
from taut.lipschitz._result import UnprovenError

Shape = tuple[int, ...]

_AXES: dict[type[nn.Module], int] = {
    nn.AvgPool1d: 1, nn.AvgPool2d: 2, nn.AdaptiveAvgPool1d: 1, nn.AdaptiveAvgPool2d: 2,
    nn.MaxPool1d: 1, nn.MaxPool2d: 2, nn.AdaptiveMaxPool1d: 1, nn.AdaptiveMaxPool2d: 2,
}  # fmt: skip


def _axes(m: nn.Module, shape: Shape) -> int:
    """Spatial axes of a pool; without channels torch would take the batch for them."""
    axes = _AXES[type(m)]
    if len(shape) != axes + 1:
        raise UnprovenError(f"its input must be (batch, channels, {axes} axes); got (b, *{shape})")
    return axes


def _tuple(value: Any, axes: int) -> tuple[Any, ...]:
    return (value,) * axes if isinstance(value, int) else tuple(value)


# Linear maps given by their operator.


@register_linear(nn.Linear)
def _matrix(m: nn.Linear, shape: Shape) -> ConvOperator:
    return ConvOperator(m.weight, ())


@register_linear(nn.Conv1d)
@register_linear(nn.Conv2d)
@register_linear(nn.Conv3d)
def _conv(m: nn.Conv1d | nn.Conv2d | nn.Conv3d, shape: Shape) -> ConvOperator:
    # torch keeps (last axis left, last axis right, ...), also for padding="same"; but with zeros it
    # reads `padding`, which may have been set later.
    pads = m._reversed_padding_repeated_twice
    left, right = tuple(pads[::2][::-1]), tuple(pads[1::2][::-1])
    if m.padding_mode == "zeros" and not isinstance(m.padding, str):
        left = right = m.padding
    elif m.padding_mode == "zeros":
        axes = zip(m.dilation, m.weight.shape[2:], strict=True)
        total = [d * (k - 1) if m.padding == "same" else 0 for d, k in axes]
        left, right = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    padding = Padding(m.padding_mode, left, right)
    return ConvOperator(m.weight, shape[1:], m.stride, m.dilation, m.groups, padding)


@register_adjoint(nn.ConvTranspose1d)
@register_adjoint(nn.ConvTranspose2d)
def _transposed(m: nn.ConvTranspose1d | nn.ConvTranspose2d, shape: Shape) -> ConvOperator:
    """A convolution from the output to the input."""
    pads = _tuple(m.padding, len(shape) - 1)
    taps = m.weight.shape[2:]
    axes = zip(shape[1:], m.stride, pads, m.dilation, taps, m.output_padding, strict=True)
    size = tuple((n - 1) * s - 2 * p + d * (k - 1) + o + 1 for n, s, p, d, k, o in axes)
    padding = Padding("zeros", pads, pads)
    return ConvOperator(m.weight, size, m.stride, m.dilation, m.groups, padding)


@register_linear(nn.AvgPool1d)
@register_linear(nn.AvgPool2d)
def _average_pool(m: nn.AvgPool1d | nn.AvgPool2d, shape: Shape) -> ConvOperator:
    """A convolution with a constant kernel on each channel alone."""
    axes = _axes(m, shape)
    kernel, pads = _tuple(m.kernel_size, axes), _tuple(m.padding, axes)
    stride = _tuple(m.stride, axes)
    if any(pads) and not m.count_include_pad:
        raise UnprovenError("`count_include_pad` must be True where there is padding")
    if m.ceil_mode and any(
        (n + 2 * p - k) % s for n, p, k, s in zip(shape[1:], pads, kernel, stride, strict=True)
    ):
        raise UnprovenError("`ceil_mode` must be False where windows do not fit")
    divisor = math.prod(kernel)
    if isinstance(m, nn.AvgPool2d) and m.divisor_override is not None:
        divisor = m.divisor_override
    return ConvOperator(
        _mean(kernel, divisor), shape[1:], stride, (), 1, Padding("zeros", pads, pads)
    )


def _mean(kernel: Shape, divisor: int) -> torch.Tensor:
    """The kernel of sums divided by a number, no entry of smaller modulus than the exact one.

    Moduli are a bound: the norm of a matrix whose entries have one sign grows with each of them.
    """
    entry = math.copysign(up(Fraction(1, abs(divisor))), divisor)
    return torch.full((1, 1, *kernel), entry, dtype=torch.float64)


@register_linear(nn.AdaptiveAvgPool1d)
@register_linear(nn.AdaptiveAvgPool2d)
def _adaptive_average(m: nn.AdaptiveAvgPool1d | nn.AdaptiveAvgPool2d, shape: Shape) -> ConvOperator:
    _axes(m, shape)
    kernel = _adaptive_kernel(m.output_size, shape[1:])
    return ConvOperator(_mean(kernel, math.prod(kernel)), shape[1:], kernel)


def _adaptive_kernel(output_size: Any, size: Shape) -> tuple[int, ...]:
    outputs = _tuple(output_size, len(size)) if output_size is not None else size
    outputs = tuple(n if o is None else o for o, n in zip(outputs, size, strict=True))
    if any(n % o for o, n in zip(outputs, size, strict=True)):
        raise UnprovenError(f"`output_size` must divide the input size {size}; got {outputs}")
    return tuple(n // o for o, n in zip(outputs, size, strict=True))


# Affine maps without an operator.


@register(nn.BatchNorm1d, linear=True)
@register(nn.BatchNorm2d, linear=True)
def _batch_norm(m: nn.BatchNorm1d | nn.BatchNorm2d, shape: Shape) -> NormBound:
    if m.training:
        raise UnprovenError("batch norm in training mixes the samples; call model.eval() first")
    if m.running_var is None:
        raise UnprovenError("batch norm without running statistics mixes the samples")
    # The variance and its eps are added in the module's own precision, or in a wider one.
    variance = m.running_var.detach().cpu()
    lowest = torch.minimum((variance + m.eps).double(), variance.double() + m.eps)
    root = _next(_next(lowest, 0.0).sqrt(), 0.0)
    weight = torch.ones_like(root) if m.weight is None else m.weight.detach().cpu().double()
    largest = _next(weight.abs() / root, math.inf).max().item()
    return _finite(up_product(largest, 1 + torch.finfo(variance.dtype).eps), "largest scale")


def _next(values: torch.Tensor, towards: float) -> torch.Tensor:
    return values.nextafter(torch.full_like(values, towards))


def _finite(value: float, proof: str) -> NormBound:
    if not math.isfinite(value):
        raise UnprovenError("its weights hold NaN or Inf")
    return NormBound(value, proof)


@register(nn.Dropout, linear=True)
@register(nn.Dropout1d, linear=True)
@register(nn.Dropout2d, linear=True)
def _dropout(m: nn.Module, shape: Shape) -> NormBound:
    if m.training:
        raise UnprovenError("dropout in training is random; call model.eval() first")
    return NormBound(1.0, "identity in eval")


@register(nn.Identity, linear=True)
def _identity(m: nn.Identity, shape: Shape) -> NormBound:
    return NormBound(1.0, "identity")


def _selection(m: nn.Module, shape: Shape) -> NormBound:
    """Copies of entries: the norm is the root of how often the most copied one comes."""
    most = selection_gain(m, (2, *shape))
    proof = "permutation or restriction" if most <= 1 else f"copies an entry up to {most} times"
    return NormBound(up_root(float(most)), proof)


for _kind in (
    nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, nn.ZeroPad1d,
    nn.ZeroPad2d, nn.ConstantPad1d, nn.ConstantPad2d, nn.CircularPad1d, nn.CircularPad2d,
    nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReplicationPad1d, nn.ReplicationPad2d,
):  # fmt: skip
    register(_kind, linear=True)(_selection)


@register(nn.Upsample, linear=True)
@register(nn.UpsamplingNearest2d, linear=True)
def _upsample(m: nn.Upsample, shape: Shape) -> NormBound:
    if m.mode not in ("nearest", "nearest-exact"):
        raise UnprovenError(f"`mode` must be nearest; got {m.mode!r}")
    # Each axis alone, where float32 can count; it rounds to other places than float64.
    most = math.prod(_most_copies(m, shape[1:], axis) for axis in range(len(shape) - 1))
    return NormBound(up_root(float(most)), f"copies an entry up to {most} times")


def _most_copies(m: nn.Upsample, size: Shape, axis: int) -> int:
    places = torch.arange(size[axis]).reshape(-1, *[1] * (len(size) - axis - 1)).expand(1, 1, *size)
    copies = [m(places.to(dtype)) for dtype in (torch.float32, torch.float64)]
    lines = [c.movedim(axis + 2, 0).flatten(1)[:, 0].long() for c in copies]
    return max(int(line.bincount().max()) for line in lines)


# Pooling by maximum.


@register(nn.MaxPool1d)
@register(nn.MaxPool2d)
def _max_pool(m: nn.MaxPool1d | nn.MaxPool2d, shape: Shape) -> NormBound:
    r"""An output moves at most as far as the farthest entry of its window.

    So the squared distance is at most that of the inputs times the largest number of windows that
    share an entry. Window j covers s j + d t, t < k: on each axis those t are one residue class
    modulo s / gcd(s, d), at most ceil(k gcd(s, d) / s) of them.
    """
    axes = _axes(m, shape)
    if m.return_indices:
        raise UnprovenError("`return_indices` must be False")
    shares = 1
    for k, s, d in zip(
        *(_tuple(v, axes) for v in (m.kernel_size, m.stride, m.dilation)), strict=True
    ):
        shares *= -(-k * math.gcd(s, d) // s)
    if shares == 1:
        return NormBound(1.0, "maxima over windows that do not overlap")
    return NormBound(up_root(float(shares)), f"maxima; up to {shares} windows share an entry")


@register(nn.AdaptiveMaxPool1d)
@register(nn.AdaptiveMaxPool2d)
def _adaptive_max(m: nn.AdaptiveMaxPool1d | nn.AdaptiveMaxPool2d, shape: Shape) -> NormBound:
    if m.return_indices:
        raise UnprovenError("`return_indices` must be False")
    _axes(m, shape)
    _adaptive_kernel(m.output_size, shape[1:])
    return NormBound(1.0, "maxima over windows that do not overlap")


# Activations, entry by entry: the largest slope.

_SLOPES: dict[type[nn.Module], float] = {
    nn.ReLU: 1.0, nn.ReLU6: 1.0, nn.Hardtanh: 1.0, nn.Tanh: 1.0, nn.Sigmoid: 0.25,
    nn.Softsign: 1.0, nn.LogSigmoid: 1.0,
}  # fmt: skip


def _activation(m: nn.Module, shape: Shape) -> NormBound:
    return _slope(_SLOPES[type(m)])


def _slope(slope: float, *, inplace: bool = False) -> NormBound:
    # Written over its input, a steep function would also steepen whatever else reads that input.
    if inplace and slope > 1:
        raise UnprovenError(f"`inplace` must be False for a slope above 1; the slope is {slope}")
    return NormBound(slope, f"slope at most {slope:.6g}")


for _kind in _SLOPES:
    register(_kind)(_activation)


@register(nn.SELU)
def _selu(m: nn.SELU, shape: Shape) -> NormBound:
    return _slope(1.7580994, inplace=m.inplace)  # scale * alpha = 1.75809934..., below 0


@register(nn.SiLU)
def _silu(m: nn.SiLU, shape: Shape) -> NormBound:
    # The slope s + x s (1 - s) of x s(x) is largest where x tanh(x / 2) = 2, and there
    # it is 1/2 + x/4; x = 2.39935...
    return _slope(1.09984, inplace=m.inplace)


@register(nn.LeakyReLU)
def _leaky(m: nn.LeakyReLU, shape: Shape) -> NormBound:
    return _slope(_at_least_one(m.negative_slope), inplace=m.inplace)


@register(nn.ELU)
def _elu(m: nn.ELU, shape: Shape) -> NormBound:
    return _slope(_at_least_one(m.alpha), inplace=m.inplace)


@register(nn.PReLU)
def _prelu(m: nn.PReLU, shape: Shape) -> NormBound:
    return _slope(_at_least_one(m.weight.detach().double().abs().max().item()))


def _at_least_one(value: float) -> float:
    if not math.isfinite(value):
        raise UnprovenError("its slope is NaN or Inf")
    return max(1.0, abs(value))


@register(nn.Softplus)
def _softplus(m: nn.Softplus, shape: Shape) -> NormBound:
    # Above the threshold torch returns x: down by log(1 + exp(-threshold)) / beta at once.
    if m.threshold != math.inf or not m.beta > 0:
        raise UnprovenError(
            "`threshold` must be inf, as torch jumps down to x at any other, and `beta` > 0; got "
            f"{m.threshold}, {m.beta}"
        )
    return _slope(1.0)


@register(nn.GELU)
def _gelu(m: nn.GELU, shape: Shape) -> NormBound:
    if m.approximate != "none":
        raise UnprovenError(f"`approximate` must be 'none'; got {m.approximate!r}")
    # The slope P + x p has the derivative p (2 - x^2): largest at sqrt(2), 1.128904...
    return _slope(1.12891)
