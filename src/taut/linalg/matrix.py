"""Matrices as linear operators."""

from dataclasses import dataclass
from typing import final

from torch import Tensor

from taut.linalg.convolution import ConvOperator
from taut.linalg.operator import AbstractOperator, NormBound, Proof


@final
@dataclass(frozen=True, eq=False)
class MatrixOperator(AbstractOperator):
    """The map `x -> weight @ x` on the last axis.

    Args:
        weight: (out, in); read without its gradient.
    """

    weight: Tensor

    def __post_init__(self) -> None:
        if self.weight.dim() != 2:
            raise ValueError(f"`weight` must have 2 dimensions; got {self.weight.dim()}.")
        object.__setattr__(self, "weight", self._convolution.kernel)
        out, fan_in = self.weight.shape
        self._describe(in_shape=(fan_in,), out_shape=(out,), fan_in=fan_in, adjoint_fan_in=out)

    @property
    def _convolution(self) -> ConvOperator:
        """The same without spatial axes: what is known of one is known of the other."""
        return ConvOperator(self.weight, ())

    def norm_bound(self, *, tight: bool = False) -> NormBound:
        """Upper bound of the l2 norm."""
        return self._convolution.norm_bound(tight=tight)

    def proofs(self) -> tuple[Proof, ...]:
        """Ways to bound the l2 norm, from cheap to sharp."""
        return self._convolution.proofs()

    def abs_norm_bound(self) -> float:
        """Upper bound of the l2 norm of the matrix with moduli for entries."""
        return self._convolution.abs_norm_bound()

    def _apply(self, x: Tensor) -> Tensor:
        return x.to(self.weight) @ self.weight.T

    def _adjoint(self, y: Tensor) -> Tensor:
        return y.to(self.weight) @ self.weight
