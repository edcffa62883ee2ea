"""Linear operators one after the other."""

import itertools
from dataclasses import dataclass
from typing import final

from torch import Tensor

from taut.linalg.operator import AbstractOperator, ExecutionError, NormBound, tightened
from taut.linalg.rounding import U64, up_product, up_sum


@final
@dataclass(frozen=True, eq=False, init=False)
class ComposedOperator(AbstractOperator):
    r"""Operators applied first to last, each executed by itself.

    Its norm is at most the product of theirs; where it is small, its dense matrix may prove less.
    An output is no single sum: `fan_in` is the sum of the `fan_in` of the stages, and
    `abs_norm_bound` the product of theirs, which is what the rounding of all stages needs.

    Args:
        *ops: at least one; each takes the outputs of the one before.
    """

    ops: tuple[AbstractOperator, ...]

    def __init__(self, *ops: AbstractOperator) -> None:
        if not ops:
            raise ValueError("`ops` must be at least one operator; got none.")
        for first, second in itertools.pairwise(ops):
            if first.out_shape != second.in_shape:
                raise ValueError(
                    "`ops` must each take what the one before gives; got outputs of shape "
                    f"{first.out_shape} for inputs of shape {second.in_shape}."
                )
        object.__setattr__(self, "ops", ops)
        self._describe(
            in_shape=ops[0].in_shape,
            out_shape=ops[-1].out_shape,
            fan_in=sum(op.fan_in for op in ops),
            adjoint_fan_in=sum(op.adjoint_fan_in for op in ops),
        )

    def norm_bound(self, *, tight: bool = False) -> NormBound:
        """Upper bound of the l2 norm."""
        norms = [op.norm_bound(tight=tight).value for op in self.ops]
        return tightened(self, NormBound(up_product(*norms), f"product of {len(norms)} norms"))

    def abs_norm_bound(self) -> float:
        """Product of the bounds of the stages."""
        return up_product(*(op.abs_norm_bound() for op in self.ops))

    def execution_error(self, u: float = U64) -> ExecutionError:
        r"""Bound of the error of all stages.

        Let what a stage is given be of norm s |x|, exactly, and off by r |x| + a. A stage of norm L
        and error (e, t) passes on L times that error, and adds its own on what it is given:
        :math:`e ((s + r) |x| + a) + t`.
        """
        size, relative, absolute = 1.0, 0.0, 0.0
        for op in self.ops:
            norm, own = op.norm_bound().value, op.execution_error(u)
            given = up_sum(size, relative)
            relative = up_sum(up_product(norm, relative), up_product(own.relative, given))
            absolute = up_sum(up_product(up_sum(norm, own.relative), absolute), own.absolute)
            size = up_product(norm, size)
        return ExecutionError(relative, absolute)

    def _apply(self, x: Tensor) -> Tensor:
        for op in self.ops:
            x = op.apply(x)
        return x

    def _adjoint(self, y: Tensor) -> Tensor:
        for op in reversed(self.ops):
            y = op.adjoint(y)
        return y
