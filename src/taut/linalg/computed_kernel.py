r"""Compose affine layers into one convolution, with a bound of its rounding error.

A step is a convolution, a matrix, a factor for each channel, or a choice of channels. One after the
other, and added or stacked, they are one convolution again in the cases below; in all others there
is None. The kernel K of the result is computed in float64, each entry as a sum of products with at
most m roundings on the way of a product, so that it is off by at most :math:`\gamma_m |K|`, where
:math:`|K|` is what the same steps give for moduli.

*One after the other.* Let A follow B. A factor for each channel commutes with every padding. A
kernel of one tap without stride or padding acts at each place alone: it goes into the kernel of the
other. If A pads nothing, its windows lie in the outputs of B, and

.. math:: (A B x)_j = \sum_t A_t (B x)_{s_A j + d_A t} = \sum_{t, u} A_t B_u\,
          x_{s_B s_A j + s_B d_A t + d_B u},

x padded as B does it. The same holds on a torus: if both are circular, and B has stride 1 and as
many outputs as inputs, paddings add up.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional as F

from taut.linalg.adjoint import AdjointOperator
from taut.linalg.convolution import ConvOperator
from taut.linalg.geometry import composed_taps, stuffed
from taut.linalg.operator import AbstractOperator, NormBound, Proof
from taut.linalg.padding import Padding
from taut.linalg.rounding import U64, gamma, up_product, up_sum

__all__ = ["ComputedKernel"]

_LARGEST = 1 << 23
"""Entries of the largest kernel that is computed."""

_FAR = 2.0**400
"""Entries of what is composed are zero, or no farther from 1 than this factor."""

_TAPS = 1 << 8
"""Taps of the largest kernel that is computed."""


@final
@dataclass(frozen=True, eq=False)
class ComputedKernel:
    """A convolution whose kernel was computed.

    Attributes:
        kernel: (c_out, c_in / groups, *taps); without taps for a matrix.
        size: of the image that it reads.
        stride, dilation, groups, padding: as of `ConvOperator`.
        moduli: what the same steps give for moduli; None for the kernel's own.
        roundings: m above; 0 for a kernel that was not computed.
        transposed: whether it is the adjoint of that convolution.
    """

    kernel: Tensor
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    padding: Padding
    moduli: Tensor | None = None
    roundings: int = 0
    transposed: bool = False

    @staticmethod
    def of(op: ConvOperator) -> "ComputedKernel":
        """A convolution as it is."""
        return ComputedKernel(
            op.kernel, op.input_size, op.stride, op.dilation, op.groups, op.padding
        )

    @staticmethod
    def channelwise(factors: Tensor, size: Sequence[int], roundings: int = 0) -> "ComputedKernel":
        """A factor for each channel."""
        axes = len(size)
        kernel = factors.double().reshape(-1, 1, *[1] * axes)
        ones, zeros = (1,) * axes, (0,) * axes
        padding = Padding("zeros", zeros, zeros, zeros)
        return ComputedKernel(
            kernel, tuple(size), ones, ones, len(kernel), padding, None, roundings
        )

    @staticmethod
    def matrix(weight: Tensor, size: Sequence[int]) -> "ComputedKernel":
        """A matrix at each place."""
        plain = ComputedKernel.channelwise(torch.ones(1, device="cpu"), size)
        return replace(plain, kernel=weight.double()[(...,) + (None,) * len(size)], groups=1)

    @property
    def operator(self) -> AbstractOperator:
        """The operator by the computed kernel."""
        op = self._convolution
        return AdjointOperator(op) if self.transposed else op

    @property
    def _convolution(self) -> ConvOperator:
        return ConvOperator(
            self.kernel, self.size, self.stride, self.dilation, self.groups, self.padding
        )

    @property
    def output_size(self) -> tuple[int, ...]:
        """Of the image that the convolution makes."""
        return self._convolution.output_size

    def norm_bound(self, *, tight: bool = False) -> NormBound:
        """Upper bound of the norm of the exact steps: that of the kernel, and of its error."""
        return self._with_error(self._simple_bound() or self.operator.norm_bound(tight=tight))

    def proofs(self) -> tuple[Proof, ...]:
        """Ways to bound that norm, from cheap to sharp."""
        if self._simple_bound() is not None:
            return (Proof(self.norm_bound, repeated=True),)

        def exact(proof: Proof) -> Proof:
            return replace(proof, bound=lambda: self._with_error(proof.bound()))

        return tuple(map(exact, self.operator.proofs()))

    def _with_error(self, bound: NormBound) -> NormBound:
        """A bound of the norm of the kernel, and of its error."""
        if not self.roundings:
            return bound
        # The moduli are rounded as often as the kernel.
        share = up_product(gamma(2 * self.roundings + 2, U64), self.abs_norm_bound())
        return NormBound(up_sum(bound.value, share), bound.proof)

    def abs_norm_bound(self) -> float:
        """Upper bound of the norm of the computed moduli."""
        moduli = (
            self.operator if self.moduli is None else replace(self, kernel=self.moduli).operator
        )
        return moduli.abs_norm_bound()

    def _simple_bound(self) -> NormBound | None:
        """Of factors by channel, and of choices of channels."""
        if self.is_channelwise:
            return NormBound(self.kernel.abs().max().item(), "largest factor")
        return NormBound(1.0, "permutation or restriction") if self._chooses else None

    @property
    def _chooses(self) -> bool:
        """Whether each output is an input of its own, or zero."""
        if not self.is_pointwise or self.groups > 1:
            return False
        matrix = self.kernel.flatten(1)
        whole = bool(((matrix == 0) | (matrix == 1)).all())
        return whole and bool(matrix.sum(0).max() <= 1) and bool(matrix.sum(1).max() <= 1)

    # What steps amount to.

    def after(self, first: "ComputedKernel") -> "ComputedKernel | None":
        """This step after another one, as one; None where that is no convolution of a fair size."""
        if not (self.is_moderate and first.is_moderate):
            return None
        if self.transposed or first.transposed:
            return self._after_adjoint(first)
        if first.is_channelwise:
            return self._with_inputs_scaled(first)
        if self.is_channelwise:
            return first._with_outputs_scaled(self)
        if self.is_pointwise and self.groups == first.groups == 1:
            return self._over(first, first, "oj,jit->oit")
        if first.is_pointwise and self.groups == first.groups == 1:
            return self._over(first, self, "oit,ij->ojt")
        return self._with_taps(first)

    def _after_adjoint(self, first: "ComputedKernel") -> "ComputedKernel | None":
        """Factors of channels before or behind an adjoint are factors of the convolution."""
        if first.is_channelwise:
            return replace(
                replace(self, transposed=False)._with_outputs_scaled(first), transposed=True
            )
        if self.is_channelwise:
            return replace(
                replace(first, transposed=False)._with_inputs_scaled(self), transposed=True
            )
        return None

    def plus(self, other: "ComputedKernel") -> "ComputedKernel | None":
        """The sum of two steps on the same image."""
        plain = not (self.transposed or other.transposed)
        if not (plain and self.is_moderate and other.is_moderate):
            return None
        one, two = self._aligned(other)
        if one is None or two is None:
            return None
        apart = not bool(((one.kernel != 0) & (two.kernel != 0)).any())
        count = max(one.roundings, two.roundings) + (not apart)
        return _mapped(one, torch.add, one, two, roundings=count)

    def rows(self, before: int, behind: int) -> "ComputedKernel | None":
        """The same with outputs that are zero before its own and behind them."""
        if before == behind == 0:
            return self
        if self.transposed:
            return None
        full = self._ungrouped()
        if full is None or full.kernel[0].numel() * (len(full.kernel) + before + behind) > _LARGEST:
            return None
        pads = [0, 0] * (full.kernel.dim() - 1) + [before, behind]
        return _mapped(full, lambda kernel: F.pad(kernel, pads), full)

    @property
    def is_moderate(self) -> bool:
        """Whether products of two such kernels neither underflow nor overflow."""
        sizes = self._moduli
        inside = (sizes == 0) | ((sizes >= 1 / _FAR) & (sizes <= _FAR))
        return bool(inside.all())

    @property
    def reads(self) -> Tensor:
        """Which channels of the input count, as booleans; what cancels counts."""
        if self.is_channelwise:
            return torch.ones(len(self.kernel), dtype=torch.bool, device="cpu")
        if self.transposed:
            return self._moduli.flatten(1).ne(0).any(1)
        kernel = self._moduli.unflatten(0, (self.groups, -1))
        return kernel.movedim(2, 1).flatten(2).ne(0).any(2).flatten()

    @property
    def writes(self) -> Tensor:
        """Which channels of the output may differ from 0, as booleans; not of an adjoint."""
        return self._moduli.flatten(1).ne(0).any(1)

    @property
    def is_channelwise(self) -> bool:
        """Whether each output is a multiple of the input of its number."""
        return self.is_pointwise and self.groups == len(self.kernel) and self.kernel.shape[1] == 1

    @property
    def is_pointwise(self) -> bool:
        """Whether it acts at each place alone, in the same way."""
        pads = (*self.padding.left, *self.padding.right, *self.padding.extend)
        single = math.prod(self.kernel.shape[2:]) == 1 and not self.transposed
        return single and not any(pads) and all(s == 1 for s in self.stride)

    @property
    def _moduli(self) -> Tensor:
        return self.kernel.abs() if self.moduli is None else self.moduli

    def _with_outputs_scaled(self, last: "ComputedKernel") -> "ComputedKernel":
        def scaled(kernel: Tensor, factors: Tensor) -> Tensor:
            return kernel * factors.reshape(-1, *[1] * (kernel.dim() - 1))

        count = self.roundings + last.roundings + _rounds(last.kernel)
        return _mapped(self, scaled, self, last, roundings=count)

    def _with_inputs_scaled(self, first: "ComputedKernel") -> "ComputedKernel":
        def scaled(kernel: Tensor, factors: Tensor) -> Tensor:
            factors = factors.reshape(self.groups, 1, -1, *[1] * (kernel.dim() - 2))
            return (kernel.unflatten(0, (self.groups, -1)) * factors).flatten(0, 1)

        count = self.roundings + first.roundings + _rounds(first.kernel)
        return _mapped(self, scaled, self, first, roundings=count)

    def _over(
        self, first: "ComputedKernel", kept: "ComputedKernel", terms: str
    ) -> "ComputedKernel | None":
        """A product over channels, one of both with a single tap; strides are those of `kept`."""
        taps = math.prod(kept.kernel.shape[2:])
        if len(self.kernel) * first.kernel.shape[1] * taps > _LARGEST:
            return None
        flat = kept is first

        def product(a: Tensor, b: Tensor) -> Tensor:
            if not kept.kernel.shape[2:]:
                return a.flatten(1) @ b.flatten(1)
            a, b = (a.flatten(1), b.flatten(2)) if flat else (a.flatten(2), b.flatten(1))
            return torch.einsum(terms, a, b).unflatten(2, kept.kernel.shape[2:])

        count = self.roundings + first.roundings
        if not (self._chooses or first._chooses):
            count += len(first.kernel) + 1
        return _mapped(kept, product, self, first, roundings=count)

    def _with_taps(self, first: "ComputedKernel") -> "ComputedKernel | None":
        """A kernel of several taps after one of several taps."""
        padding = self._padding_after(first)
        one, two = self._ungrouped(), first._ungrouped()
        if padding is None or one is None or two is None:
            return None
        steps = [s * d for s, d in zip(two.stride, one.dilation, strict=True)]

        def product(last: Tensor, first: Tensor) -> Tensor:
            return composed_taps(stuffed(last, steps), stuffed(first, two.dilation))

        sides = zip(steps, one.kernel.shape[2:], two.dilation, two.kernel.shape[2:], strict=True)
        taps = [s * (m - 1) + 1 + d * (k - 1) for s, m, d, k in sides]
        entries = len(one.kernel) * two.kernel.shape[1] * math.prod(taps)
        if entries > _LARGEST or math.prod(taps) > _TAPS:
            return None
        return _mapped(
            two,
            product,
            one,
            two,
            stride=tuple(s * t for s, t in zip(one.stride, two.stride, strict=True)),
            dilation=(1,) * len(taps),
            padding=padding,
            roundings=one.roundings + two.roundings + one.kernel[0].numel() + 1,
        )

    def _padding_after(self, first: "ComputedKernel") -> Padding | None:
        """The padding of both, or None if no convolution has it."""
        mine, its = self.padding, first.padding
        if not any((*mine.left, *mine.right, *mine.extend)):
            return its
        torus = (
            mine.mode == its.mode == "circular"
            and not any((*mine.extend, *its.extend))
            and all(s == 1 for s in first.stride)
            and first.output_size == first.size
        )
        if not torus:
            return None
        left = tuple(a + b for a, b in zip(mine.left, its.left, strict=True))
        right = tuple(a + b for a, b in zip(mine.right, its.right, strict=True))
        return Padding("circular", left, right, its.extend)

    def _ungrouped(self) -> "ComputedKernel | None":
        """The same with a kernel for all channels, zero outside of the groups."""
        if self.groups == 1:
            return self
        if self.kernel.numel() * self.groups > _LARGEST:
            return None

        def spread(kernel: Tensor) -> Tensor:
            blocks = kernel.unflatten(0, (self.groups, -1))
            outputs, inputs = blocks.shape[1:3]
            wide = kernel.new_zeros(self.groups, outputs, self.groups, inputs, *kernel.shape[2:])
            places = torch.arange(self.groups, device="cpu")
            wide[places, :, places] = blocks
            return wide.flatten(2, 3).flatten(0, 1)

        return _mapped(self, spread, self, groups=1)

    def _aligned(
        self, other: "ComputedKernel"
    ) -> "tuple[ComputedKernel | None, ComputedKernel | None]":
        """Both with the same geometry, or None."""
        one, two = (self, other) if self.groups == other.groups else (
            self._ungrouped(), other._ungrouped())  # fmt: skip
        if one is None or two is None:
            return None, None
        if one._geometry == two._geometry and one.kernel.shape == two.kernel.shape:
            return one, two
        if two.is_pointwise:
            return one, two._widened(one)
        return (one._widened(two), two) if one.is_pointwise else (None, None)

    @property
    def _geometry(self) -> tuple:
        return self.stride, self.dilation, self.padding

    def _widened(self, like: "ComputedKernel") -> "ComputedKernel | None":
        """A kernel of one tap as one of more: the tap that reads the place of the output."""
        places = []
        for left, d, k in zip(like.padding.left, like.dilation, like.kernel.shape[2:], strict=True):
            if left % d or left // d >= k:
                return None
            places.append(left // d)
        same = all(s == 1 for s in like.stride) and like.output_size == self.output_size
        if not same or self.kernel.shape[:2] != like.kernel.shape[:2]:
            return None

        def put(kernel: Tensor) -> Tensor:
            wide = torch.zeros(like.kernel.shape, dtype=torch.float64, device=kernel.device)
            wide[(slice(None), slice(None), *places)] = kernel.flatten(1)
            return wide

        return _mapped(like, put, self, roundings=self.roundings)


def _mapped(
    like: ComputedKernel, function: Callable[..., Tensor], *steps: ComputedKernel, **changes: Any
) -> ComputedKernel:
    """A kernel made of those of some steps, and moduli made of theirs in the same way."""
    kernel, moduli = function(*(step.kernel for step in steps)), None
    if len(steps) > 1 or any(step.moduli is not None for step in steps):
        moduli = function(*(step._moduli for step in steps))
    return replace(like, kernel=kernel, moduli=moduli, **changes)


def _rounds(factors: Tensor) -> int:
    """How often a product with factors is rounded: not where they are powers of two."""
    mantissa = factors.abs().frexp().mantissa
    return int(not bool(((mantissa == 0.5) | (mantissa == 0.0)).all()))
