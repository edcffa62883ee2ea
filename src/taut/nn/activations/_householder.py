"""HouseHolder: groups of channels folded along learned hyperplanes."""

import math
from fractions import Fraction
from typing import Any, final

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from taut._arguments import axis, whole
from taut._sharding import draws
from taut.linalg.derivatives import applied, keep
from taut.linalg.operator import NormBound
from taut.linalg.rates import wide
from taut.linalg.rounding import U64, gamma, up, up_product, up_sum
from taut.nn.activations._along import along, beside, check_channels
from taut.program import AbstractOp, Call, Rounding, Site, UnprovenError, like, op, single_call

fx.wrap("_folded")  # it counts channels, which a symbolic trace does not know
fx.wrap("_units")


@final
class HouseHolder(nn.Module):
    r"""Householder activation: reflect groups of channels at learned hyperplanes.

    For unit vectors :math:`v_1, \ldots, v_n` of each group, in turn

    .. math:: z \leftarrow z + (|v \cdot z| - v \cdot z)\, v,

    which reflects what lies behind the hyperplane :math:`v \cdot z = 0` to its front. With
    `order=1` and `group=2`, :math:`v = (\sin \theta/2, -\cos \theta/2)` is the activation
    :math:`\sigma_\theta` of the paper; it starts at :math:`\theta = \pi/2`, where it is the maximum
    and the minimum of each pair. The paper has groups of two; here they have any size, and folds
    follow one another in any number. There is no factor in front: with :math:`1/\sqrt 2`, as
    orthogonium has it, gradients would lose norm.

    Guarantee: 1-Lipschitz in l2 and gradient norm preserving: each fold is the identity or a
        reflection, equal where they meet; on the hyperplane the gradient is that of the
        identity.
        Directions are normalised for any raw tensor, at most 1 long as executed; singular values
        are at least 1 - 1e-6 for each fold in float32.
    Cost: a product with the directions, a sum over each group, and one more product, for each fold.

    Groups are neighbouring channels, as those of :class:`GroupSort`; channels beyond a multiple of
    the group size do not change. Inputs are `(batch, channels, *spatial)`, or have their channels
    along `dim`.

    Args:
        channels: of the input.
        order: number of folds.
        group: channels per group.
        dim: the axis of the channels; -1 for tokens `(batch, tokens, features)`, -3 for an image
            without a batch.
        device: of the parameter.
        dtype: of the parameter.

    Attributes:
        raw: the directions before normalisation, `(order, groups, group)`. A direction of zeros
            counts as that of the start.

    Raises:
        ValueError: if a size is not a positive integer, or the input has another number of
            channels.

    Reference:
        Singla, Singla, Feizi (2022), *Improved deterministic l2 robustness on CIFAR-10 and
        CIFAR-100*, arXiv:2108.04062.

    Example:
        >>> HouseHolder(4)(torch.tensor([[1.0, 2.0, 4.0, 3.0]])).detach().round(decimals=4)
        tensor([[2., 1., 4., 3.]])
    """

    def __init__(
        self,
        channels: int,
        order: int = 1,
        group: int = 2,
        dim: int = 1,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels, self.order = whole("channels", channels), whole("order", order)
        self.group, self.dim = whole("group", group), axis("dim", dim)
        shape = (self.order, self.channels // self.group, self.group)
        self.raw = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.reset_parameters()

    @draws
    def reset_parameters(self) -> None:
        """The first fold exchanges neighbours; further ones are random."""
        with torch.no_grad():
            self.raw.normal_()
            self.raw[0] = _alternating(self.raw)

    def directions(self) -> Tensor:
        """Unit vectors `(order, groups, group)`, rounded down; with a zero row for the rest."""
        return _units(self.raw, self.channels)

    def forward(self, input: Tensor) -> Tensor:
        """Apply the activation along its dimension."""
        check_channels(input, self.channels, self.dim)
        return along(_folded, input, self.dim, self.directions())

    def extra_repr(self) -> str:
        """The sizes, and the axis where it is not the first behind the batch."""
        sizes = f"{self.channels}, order={self.order}, group={self.group}"
        return sizes + ("" if self.dim == 1 else f", dim={self.dim}")


def _units(raw: Tensor, channels: int) -> Tensor:
    """Unit vectors for raw ones, at most 1 long; and zeros for channels of no group."""
    size, exact = raw.shape[2], wide(raw)
    largest = exact.detach().abs().amax(2, keepdim=True)
    zero = largest == 0  # NaN and Inf pass on as NaN
    exact = torch.where(zero, _alternating(exact), exact / torch.where(zero, 1.0, largest))
    # The norm is off by (size + 2) u; rounding to the precision of raw adds eps / 2.
    below = 1 - torch.finfo(raw.dtype).eps - (size + 4) * torch.finfo(exact.dtype).eps
    units = exact * (below / exact.norm(dim=2, keepdim=True))
    return F.pad(units, (0, 0, 0, 1 if channels % size else 0)).to(raw.dtype)


def _alternating(like: Tensor) -> Tensor:
    """The direction (1, -1, 1, ...), in the precision of a tensor of directions."""
    places = torch.arange(like.shape[2], device=like.device)
    return (1 - 2 * (places % 2)).to(like.dtype)


def _folded(x: Tensor, directions: Tensor) -> Tensor:
    """All folds, one after the other; a last incomplete group is filled with zeros."""
    channels, (_, groups, size) = x.shape[1], directions.shape
    z = x
    if channels < groups * size:
        z = F.pad(x, (0, 0) * (x.dim() - 2) + (0, groups * size - channels))
    z = z.unflatten(1, (groups, size))
    for direction in directions:
        z = fold(z, direction)
    z = z.flatten(1, 2)
    return z[:, :channels] if channels < groups * size else z


def _captured(c: Call, x: Any, direction: Any) -> str:
    tensors = {"direction": c.constant(direction)}
    return c.add("HouseHolder", [c.name(x)], tensors=tensors)


@single_call(_captured)
def fold(x: Tensor, direction: Tensor) -> Tensor:
    r"""The fold x - min(v x, 0) 2 v of x `(b, groups, group, ...)`, with a v for each group.

    Products of 2 are exact, so both sides round the same.
    """
    if torch.is_grad_enabled() and (x.requires_grad or direction.requires_grad):
        return applied(_Fold, x, direction)
    return _plain(x, direction)


def _plain(x: Tensor, direction: Tensor) -> Tensor:
    v = beside(direction, x[:, 0])
    side = (x * v).sum(2, keepdim=True).clamp(max=0.0)
    return x - side * (2 * v)


class _Fold(torch.autograd.Function):
    """For a gradient g: g behind the plane reflected, and -2 ((v g) x + (v x) g) summed for v."""

    generate_vmap_rule = True
    forward = staticmethod(_plain)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        keep(ctx, *inputs)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor | None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, direction = ctx.saved_tensors
        v = beside(direction, x[:, 0])
        inner = (x * v).sum(2, keepdim=True)
        behind = inner < 0  # products with truth values are faster than `where` on a CPU
        slope = (grad * v).sum(2, keepdim=True) * behind
        moved = grad - slope * (2 * v)
        if not ctx.needs_input_grad[1]:
            return moved, None
        others = [axis for axis in range(grad.dim()) if axis not in (1, 2)]
        return moved, -2 * (slope * x + (inner * behind) * grad).sum(others)

    @staticmethod
    def tangent(ctx, *tangents: Tensor | None) -> Tensor:
        x, direction = ctx.saved_tensors
        v = beside(direction, x[:, 0])
        inner = (x * v).sum(2, keepdim=True)
        moved, turned = tangents
        slope, y = 0.0, 0.0
        if moved is not None:
            slope, y = (moved * v).sum(2, keepdim=True), moved
        if turned is not None:
            turned = beside(turned, x[:, 0])
            slope = slope + (x * turned).sum(2, keepdim=True)
            y = y - 2 * (inner.clamp(max=0.0) * turned)
        return y - slope * (inner < 0) * (2 * v)  # pyright: ignore[reportReturnType]


@op("HouseHolder")
class _HouseHolderOp(AbstractOp):
    r"""One fold of x `(groups, group, ...)` along directions `(groups, group)`.

    For a direction v of any length a fold is the identity in front of its hyperplane, and
    :math:`1 - 2 v v^\top` behind it, equal on it: its constant is
    :math:`\max(1, |1 - 2 |v|^2|)`.
    """

    proof = "the identity or a reflection, equal where they meet"
    helper = '''
def fold(x, direction):
    """Reflect what lies behind the hyperplane of each group of channels."""
    v = direction.reshape(direction.shape + (1,) * (x.dim() - 3))
    side = (x * v).sum(2, keepdim=True).clamp(max=0.0)
    return x - side * (2 * v)
'''

    def gains(self, site: Site) -> tuple[NormBound, ...]:
        steepest = up(2 * Fraction(_largest_square(site)) - 1)
        if steepest <= 1:
            return (NormBound(1.0, self.proof),)
        return (NormBound(steepest, "folds along directions that are too long"),)

    def rounding(self, site: Site) -> Rounding:
        r"""An inner product of n terms, a product, a difference, and one to spare.

        The computed :math:`v \cdot x` is off by at most :math:`\gamma_n |v| \cdot |x|`, of which
        the minimum keeps no more; so that all is off by at most :math:`\gamma_{n + 2}` times
        :math:`(1 + 2 |v| |v|^\top) |x|`.
        """
        absolute = up_sum(1.0, up_product(2.0, _largest_square(site)))
        return Rounding(site.shape[1] + 3, absolute)

    def run(self, site: Site, *x: Tensor) -> Tensor:
        return fold(x[0], like(site.tensors["direction"], x[0]))

    def emit(self, e: Any, site: Site, *x: str) -> None:
        (held,) = e.held(site, "direction")
        v = e.unsqueezed("v", held, range(2, len(site.shape)))
        product = e.node("Mul", [*x, v], "product")
        inner = e.node("ReduceSum", [product, e.integers("axes", [2])], "inner", keepdims=1)
        side = e.node("Clip", [inner, "", e.number("zero", 0.0)], "side")
        twice = e.node("Mul", [v, e.number("two", 2.0)], "twice")
        e.node("Sub", [*x, e.node("Mul", [side, twice], "moved")])

    def source(self, site: Site, *x: str) -> str:
        return f"fold({x[0]}, self.{site.node.name}_direction)"


def _largest_square(site: Site) -> float:
    """The largest squared length of the directions, never below the exact one."""
    v = site.tensors["direction"].detach().to("cpu", torch.float64)
    if v.dim() != 2 or v.shape != site.shape[:2] or len(site.shapes[0]) < 2:
        raise UnprovenError("its directions are not one for each group")
    largest = v.square().sum(1).max().item()
    if not math.isfinite(largest):
        raise UnprovenError("its directions hold NaN or Inf")
    return up_product(largest, up_sum(1.0, gamma(v.shape[1] + 4, U64), 2.0**-60))
