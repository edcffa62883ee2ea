"""Linear splines: a learned piecewise linear function of each channel."""

import math
from typing import Any, final

import torch
from torch import Tensor, fx, nn

from taut._arguments import axis, is_number, whole
from taut._sharding import draws
from taut.linalg.derivatives import applied, keep
from taut.linalg.operator import NormBound
from taut.linalg.rounding import up_product, up_root
from taut.nn.activations._along import along, beside, check_channels
from taut.program import AbstractOp, Call, Rounding, Site, UnprovenError, like, op, single_call

fx.wrap("_clamped")  # it asks for gradients, which a symbolic trace does not know

_STARTS = {"abs": (-1.0, 1.0), "relu": (0.0, 1.0), "identity": (1.0, 1.0)}
"""Slopes below and above 0, by the name of the start."""

_MOST_KNOTS = 2047
"""Up to here all knots are exact in float32."""

_WIDEST = 2.0**100
"""The largest step and range, far from overflow in float32."""


@final
class LinearSpline(nn.Module):
    r"""A learned piecewise linear function of each channel, with slopes between -1 and 1.

    Knots :math:`t_k` lie h apart; between them f has the slopes :math:`s_k`, the raw parameters
    clamped to [-1, 1], and beyond the outermost ones it goes on with the first and the last slope.
    Its values are sums of slopes times lengths, from 0 outwards. Only slopes are clamped, never
    values. :math:`f(0) = 0`: shifts belong to the biases around.

    Guarantee: 1-Lipschitz in l2, for any parameters; gradient norm preserving only where all
        slopes are 1 or -1, as at the start with `init="abs"`.
    Cost: two table look-ups and one product for each number, whatever the number of knots; in ONNX
        files and in those of torch.export one pass for each piece.

    The gradient of a slope that is clamped passes where it leads back into [-1, 1], so that no
    slope stays at an end for good. Inputs are `(batch, channels, *spatial)`, or have their channels
    along `dim`.

    Args:
        channels: of the input.
        knots: how many, an odd number from 3 to 2047; one lies at 0.
        range: of the outermost knots, in the units of the input; the step is rounded to 12 bits,
            so that all knots are exact numbers.
        init: the start: `"abs"`, `"relu"` or `"identity"`.
        dim: the axis of the channels; -1 for tokens `(batch, tokens, features)`, -3 for an image
            without a batch.
        device: of the parameter.
        dtype: of the parameter.

    Attributes:
        raw: the slopes before they are clamped, `(channels, knots - 1)`.

    Raises:
        ValueError: if `knots` is even or out of bounds, `range` is no positive number, `init` is
            another, or the input has another number of channels.

    Reference:
        Ducotterd, Goujon, Bohra, Perdios, Neumayer, Unser (2024), *Improving Lipschitz-constrained
        neural networks by learning activation functions*, arXiv:2210.16222; they project slopes
        to [-1, 1] and add a total variation to the loss.

    Example:
        >>> LinearSpline(2)(torch.tensor([[-3.0, 0.5]])).detach()
        tensor([[3.0000, 0.5000]])
    """

    def __init__(
        self,
        channels: int,
        knots: int = 21,
        range: float = 1.0,
        init: str = "abs",
        dim: int = 1,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels, self.knots, self.dim = (
            whole("channels", channels),
            whole("knots", knots),
            axis("dim", dim),
        )
        if self.knots % 2 == 0 or not 3 <= self.knots <= _MOST_KNOTS:
            raise ValueError(f"`knots` must be odd, from 3 to {_MOST_KNOTS}; got {knots}.")
        if not (is_number(range) and 1 / _WIDEST <= range <= _WIDEST):
            raise ValueError(f"`range` must be a positive number; got {range}.")
        if init not in _STARTS:
            raise ValueError(f"`init` must be one of {', '.join(_STARTS)}; got {init!r}.")
        self.init, self.step = init, _rounded(2 * range / (self.knots - 1))
        shape = (self.channels, self.knots - 1)
        self.raw = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.reset_parameters()

    @draws
    def reset_parameters(self) -> None:
        """The function that `init` names."""
        below, above = _STARTS[self.init]
        with torch.no_grad():
            self.raw[:, : self.knots // 2] = below
            self.raw[:, self.knots // 2 :] = above

    def slopes(self) -> Tensor:
        """The slopes between the knots, from -1 to 1, `(channels, knots - 1)`."""
        return _clamped(self.raw)

    def forward(self, input: Tensor) -> Tensor:
        """Apply the activation along its dimension."""
        check_channels(input, self.channels, self.dim)
        return along(linear_spline, input, self.dim, self.slopes(), self.step)

    def extra_repr(self) -> str:
        """The sizes, and the axis of the channels where it is not the first behind the batch."""
        sizes = f"{self.channels}, knots={self.knots}, range={self.step * (self.knots // 2):.6g}"
        return sizes + ("" if self.dim == 1 else f", dim={self.dim}")


def _rounded(step: float) -> float:
    """To 12 bits."""
    mantissa, exponent = math.frexp(step)
    return math.ldexp(round(mantissa * 2**12), exponent - 12)


def _clamped(raw: Tensor) -> Tensor:
    if torch.is_grad_enabled() and raw.requires_grad:
        return applied(_Clamped, raw)
    return raw.clamp(-1, 1)


class _Clamped(torch.autograd.Function):
    """Clamp to [-1, 1]; gradients pass inside, and outside where a step against them leads back."""

    generate_vmap_rule = True

    @staticmethod
    def forward(raw: Tensor) -> Tensor:
        return raw.clamp(-1, 1)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor], output: Tensor) -> None:
        keep(ctx, inputs[0])

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (raw,) = ctx.saved_tensors
        stuck = ((raw > 1) & (grad < 0)) | ((raw < -1) & (grad > 0))
        return torch.where(stuck, 0.0, grad)

    @staticmethod
    def tangent(ctx, tangent: Tensor) -> Tensor:
        (raw,) = ctx.saved_tensors
        return torch.where(raw.abs() > 1, 0.0, tangent)


def _captured(c: Call, x: Any, slopes: Any, step: float) -> str:
    tensors = {"slopes": c.constant(slopes)}
    return c.add("LinearSpline", [c.name(x)], args={"step": step}, tensors=tensors)


@single_call(_captured)
def linear_spline(x: Tensor, slopes: Tensor, step: float) -> Tensor:
    """The spline of slopes `(channels, pieces)`, half of the pieces on each side of 0."""
    if torch.compiler.is_exporting():
        return _written_out(x, slopes, step)
    channels, pieces = slopes.shape
    half = pieces // 2
    place = (x.detach() / step).floor().clamp(-half, half - 1).nan_to_num()
    first = torch.arange(half, channels * pieces, pieces, device=x.device)
    index = (place.long() + beside(first, x)).flatten()
    slope, offset = (
        table.flatten().index_select(0, index).view(x.shape)
        for table in (slopes, _offsets(slopes, step))
    )
    return offset + slope * x


def _offsets(slopes: Tensor, step: float) -> Tensor:
    """Where each piece, continued, is at 0.

    From 0 outwards, piece k begins at the distance k h with the value
    :math:`h (s_0 + ... + s_{k-1})`. Its line meets 0 at :math:`h (s_0 + ... + s_{k-1} - k s_k)`;
    below 0, at the negative of that.
    """
    half = slopes.shape[1] // 2
    counts = torch.arange(half, device=slopes.device)
    below, above = slopes[:, :half].flip(1), slopes[:, half:]
    below, above = (s.cumsum(1) - s - counts * s for s in (below, above))
    return step * torch.cat((-below.flip(1), above), 1)


def _written_out(x: Tensor, slopes: Tensor, step: float) -> Tensor:
    """The same as a sum over the pieces, in operations that files hold."""
    half = slopes.shape[1] // 2
    inside = x.clamp(-half * step, half * step)
    beyond = x - inside
    anchor, low, high = (beside(t, x) for t in _pieces(half, step, x))
    parts = torch.minimum(torch.maximum(inside.unsqueeze(2) - anchor, low), high)
    first, last = beside(slopes[:, 0], x), beside(slopes[:, -1], x)
    inner = (parts * slopes.reshape(*slopes.shape, *[1] * (x.dim() - 2))).sum(2)
    return inner + (beyond.clamp(max=0.0) * first + beyond.clamp(min=0.0) * last)


def _pieces(half: int, step: float, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each piece the end near 0, and how far it reaches from there, down and up."""
    outwards = torch.arange(half, dtype=like.dtype, device=like.device) * step
    none, whole = torch.zeros_like(outwards), torch.full_like(outwards, step)
    return (
        torch.cat((-outwards.flip(0), outwards)),
        torch.cat((-whole, none)),
        torch.cat((none, whole)),
    )


@op("LinearSpline")
class _LinearSplineOp(AbstractOp):
    """Slopes of each channel, `step` apart, half of them on each side of 0; f(0) = 0."""

    helper = '''
def linear_spline(x, slopes, step):
    """Pieces of width `step`, half of them on each side of 0, continued beyond the last ones."""
    pieces, half = slopes.shape[1], slopes.shape[1] // 2
    place = (x / step).floor().clamp(-half, half - 1).nan_to_num().long()
    first = torch.arange(half, slopes.numel(), pieces, device=x.device)
    index = place + first.reshape(-1, *[1] * (x.dim() - 2))
    counts = torch.arange(half, device=x.device)
    below, above = slopes[:, :half].flip(1), slopes[:, half:]
    below, above = (s.cumsum(1) - s - counts * s for s in (below, above))
    offsets = step * torch.cat((-below.flip(1), above), 1)
    return offsets.flatten()[index] + slopes.flatten()[index] * x
'''

    def gains(self, site: Site) -> tuple[NormBound, ...]:
        steepest = _steepest(site)
        return (NormBound(steepest, f"continuous, slope at most {steepest:.6g}"),)

    def rounding(self, site: Site) -> Rounding:
        r"""With p pieces, s the steepest slope: :math:`\gamma_{p + 12}` of :math:`3 s |x|`.

        Knots are exact. The piece of x begins at :math:`|t| \le |x|`, at k steps from 0. Its
        offset is a sum of k slopes, k times another, a difference and a product: off by at most
        :math:`\gamma_{k + 3} 2 s |t|`. The product with x and the sum make it
        :math:`\gamma_{k + 5} 3 s |x|`. The quotient by the step is off by one rounding: a piece
        next to the right one may be taken if x is within :math:`\gamma_1 |x|` of a knot, which
        changes the result by at most :math:`2 s \gamma_1 |x|`. As a sum over pieces, which files
        hold, it is p + 4 roundings of a sum of moduli of at most :math:`s |x|`.

        Where :math:`|x| < \eta h` the quotient may underflow, and x count as positive: off by at
        most :math:`2 s \eta h`, where :math:`\eta \le 2^{-102} u`.
        """
        steepest, step = max(1.0, _steepest(site)), site.args["step"]
        if step > _WIDEST:
            raise UnprovenError("its knots are more than 2^100 apart")
        lost = up_product(steepest, step, 2.0**-101, up_root(float(site.entries[1])))
        return Rounding(site.tensors["slopes"].shape[1] + 12, up_product(3.0, steepest), lost)

    def run(self, site: Site, *x: Tensor) -> Tensor:
        return linear_spline(x[0], like(site.tensors["slopes"], x[0]), site.args["step"])

    def emit(self, e: Any, site: Site, *x: str) -> None:
        slopes, step = site.tensors["slopes"], site.args["step"]
        half, axes = slopes.shape[1] // 2, range(1, len(site.shape))
        ends = [e.number("start", -half * step), e.number("stop", half * step)]
        inside = e.node("Clip", [*x, *ends], "inside")
        beyond = e.node("Sub", [*x, inside], "beyond")
        sample = torch.empty(1, *site.shape, device="cpu")
        anchor, low, high = (
            e.tensor(name, beside(t, sample))
            for name, t in zip(("anchor", "low", "high"), _pieces(half, step, sample), strict=True)
        )
        stacked = e.unsqueezed("stacked", inside, [2])
        above = e.node("Max", [e.node("Sub", [stacked, anchor], "from"), low], "above")
        parts = e.node("Min", [above, high], "parts")
        (held,) = e.held(site, "slopes")
        factors = e.unsqueezed("factors", held, [1 + axis for axis in axes])
        scaled = e.node("Mul", [parts, factors], "scaled")
        inner = e.node("ReduceSum", [scaled, e.integers("axes", [2])], "inner", keepdims=0)
        tails = []
        for name, start, ends in (("first", 0, ["", "zero"]), ("last", 2 * half - 1, ["zero"])):
            index = e.integer(f"{name}.place", start)
            slope = e.node("Gather", [held, index], f"{name}.slope", axis=1)
            slope = e.unsqueezed(f"{name}.at", slope, axes)
            zero = [e.number(f"{name}.{end}", 0.0) if end else "" for end in ends]
            tail = e.node("Clip", [beyond, *zero], f"{name}.tail")
            tails.append(e.node("Mul", [tail, slope], f"{name}.product"))
        e.node("Add", [inner, e.node("Add", tails, "tails")])

    def source(self, site: Site, *x: str) -> str:
        return f"linear_spline({x[0]}, self.{site.node.name}_slopes, {site.args['step']!r})"


def _steepest(site: Site) -> float:
    """The largest modulus of a slope, of as many for each channel on both sides of 0."""
    slopes, step = site.tensors["slopes"], site.args["step"]
    pieces = slopes.shape[1] if slopes.dim() == 2 and len(slopes) == site.shape[0] else 1
    exact = isinstance(step, float) and 0 < step < math.inf and _rounded(step) == step
    if pieces % 2 or not 2 <= pieces < _MOST_KNOTS or not exact:
        raise UnprovenError("its slopes are not those of a spline with exact knots")
    steepest = slopes.double().abs().max().item()
    if not math.isfinite(steepest):
        raise UnprovenError("its slopes hold NaN or Inf")
    return steepest
