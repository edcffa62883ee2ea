"""Adjoints of linear operators, such as transposed convolutions."""

from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from taut.linalg.operator import AbstractOperator, NormBound, Proof


@final
@dataclass(frozen=True, eq=False)
class AdjointOperator(AbstractOperator):
    """The adjoint of an operator, with the same norms."""

    op: AbstractOperator

    def __post_init__(self) -> None:
        op = self.op
        self._describe(
            in_shape=op.out_shape,
            out_shape=op.in_shape,
            fan_in=op.adjoint_fan_in,
            adjoint_fan_in=op.fan_in,
        )

    def norm_bound(self, *, tight: bool = False) -> NormBound:
        """Upper bound of the l2 norm: that of the operator."""
        return self.op.norm_bound(tight=tight)

    def proofs(self) -> tuple[Proof, ...]:
        """Ways to bound the l2 norm: those of the operator."""
        return self.op.proofs()

    def abs_norm_bound(self) -> float:
        """Upper bound of the norm with moduli for entries: that of the operator."""
        return self.op.abs_norm_bound()

    def singular_values(self) -> Float[Tensor, " s"]:
        """All singular values, descending: those of the operator."""
        return self.op.singular_values()

    def _apply(self, x: Tensor) -> Tensor:
        return self.op.adjoint(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.op.apply(y)
