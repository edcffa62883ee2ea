"""Convolutions as linear operators: a kernel together with everything that decides what it does."""

from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from taut.linalg.bounds import abs_norm_bound, conv_norm_bound, tight_norm_bound
from taut.linalg.geometry import AbstractConvolution
from taut.linalg.operator import NormBound, Proof
from taut.linalg.proofs import conv_proofs
from taut.linalg.spectrum import conv_singular_values


@final
@dataclass(frozen=True, eq=False)
class ConvOperator(AbstractConvolution):
    """A linear map `x -> conv(pad(x), kernel)` on inputs of one size, in float64.

    A kernel has no norm of its own: stride, dilation, groups, padding and the size of the input
    make the operator. A matrix is `ConvOperator(weight, ())`, without spatial axes.

    Args:
        kernel: (c_out, c_in / groups, *kernel_size); read without its gradient.
        input_size: spatial size of the input, before any padding; 0 to 3 axes.
        stride: step of the output, one per axis; empty means 1.
        dilation: distance of the taps, one per axis; empty means 1.
        groups: number of blocks of channels that do not mix.
        padding: what is added to the input first.

    Raises:
        ValueError: if the kernel has NaN or Inf, or a size, a stride or a padding cannot be.
    """

    def norm_bound(self, *, tight: bool = False) -> NormBound:
        """Upper bound of the l2 norm; `tight` lowers it where zeros are padded."""
        return tight_norm_bound(self) if tight else conv_norm_bound(self)

    def proofs(self) -> tuple[Proof, ...]:
        """Ways to bound the l2 norm, from cheap to sharp."""
        return conv_proofs(self)

    def abs_norm_bound(self) -> float:
        """Upper bound of the l2 norm of the operator with moduli for entries."""
        return abs_norm_bound(self)

    def singular_values(self) -> Float[Tensor, " s"]:
        """All singular values, descending; on a torus from one small matrix per frequency."""
        return conv_singular_values(self)
