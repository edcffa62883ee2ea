"""Linear operators side by side: on the same input, or each on its own channels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from taut.linalg.operator import AbstractOperator, ExecutionError, NormBound, tightened
from taut.linalg.rounding import U64, up_root_sum_square

Ops = Sequence[AbstractOperator]


@final
@dataclass(frozen=True, eq=False)
class StackedOperator(AbstractOperator):
    r"""Operators on the same input, their outputs concatenated along an axis.

    :math:`\|T\|^2 \le \sum_i \|T_i\|^2`, since :math:`|T x|^2 = \sum_i |T_i x|^2`; where it is
    small, its dense matrix may prove less.

    Args:
        ops: at least one, with inputs of one shape and outputs that differ along the axis at most.
        axis: of one output, without the batch.
    """

    ops: Ops
    axis: int = 0

    def __post_init__(self) -> None:
        ops, axis = tuple(self.ops), self.axis
        inputs = sorted({op.in_shape for op in ops})
        if len(inputs) != 1:
            raise ValueError(f"`ops` must take inputs of one shape; got {inputs}.")
        if not 0 <= axis < len(ops[0].out_shape):
            raise ValueError(
                f"`axis` must be 0 to {len(ops[0].out_shape) - 1} for outputs of shape "
                f"{ops[0].out_shape}; got {axis}."
            )
        object.__setattr__(self, "ops", ops)
        self._describe(
            in_shape=ops[0].in_shape,
            out_shape=_joined([op.out_shape for op in ops], axis),
            fan_in=max(op.fan_in for op in ops),
            adjoint_fan_in=sum(op.adjoint_fan_in for op in ops),
        )

    def norm_bound(self, *, tight: bool = False) -> NormBound:
        """Upper bound of the l2 norm."""
        value = up_root_sum_square(*(op.norm_bound(tight=tight).value for op in self.ops))
        return tightened(self, NormBound(value, f"root of {len(self.ops)} squared norms"))

    def abs_norm_bound(self) -> float:
        """Root of the sum of the squared bounds of the parts."""
        return up_root_sum_square(*(op.abs_norm_bound() for op in self.ops))

    def execution_error(self, u: float = U64) -> ExecutionError:
        """Roots of the sums of the squared errors of the parts."""
        errors = [op.execution_error(u) for op in self.ops]
        relative = up_root_sum_square(*(error.relative for error in errors))
        return ExecutionError(relative, up_root_sum_square(*(error.absolute for error in errors)))

    def _apply(self, x: Tensor) -> Tensor:
        return torch.cat([op.apply(x) for op in self.ops], 1 + self.axis)

    def _adjoint(self, y: Tensor) -> Tensor:
        parts = y.split([op.out_shape[self.axis] for op in self.ops], 1 + self.axis)
        first, *others = (op.adjoint(part) for op, part in zip(self.ops, parts, strict=True))
        return sum(others, start=first)


@final
@dataclass(frozen=True, eq=False)
class BlockOperator(AbstractOperator):
    """Operators on groups of channels of their own: block diagonal, with the largest of the norms.

    Args:
        ops: at least one; shapes differ along axis 0 at most, the channels.
    """

    ops: Ops

    def __post_init__(self) -> None:
        ops = tuple(self.ops)
        if not ops:
            raise ValueError("`ops` must be at least one operator; got none.")
        object.__setattr__(self, "ops", ops)
        self._describe(
            in_shape=_joined([op.in_shape for op in ops], 0),
            out_shape=_joined([op.out_shape for op in ops], 0),
            fan_in=max(op.fan_in for op in ops),
            adjoint_fan_in=max(op.adjoint_fan_in for op in ops),
        )

    def norm_bound(self, *, tight: bool = False) -> NormBound:
        """The largest bound of the blocks."""
        largest = max((op.norm_bound(tight=tight) for op in self.ops), key=lambda b: b.value)
        return NormBound(largest.value, f"{largest.proof}, largest of {len(self.ops)} blocks")

    def abs_norm_bound(self) -> float:
        """The largest bound of the blocks."""
        return max(op.abs_norm_bound() for op in self.ops)

    def execution_error(self, u: float = U64) -> ExecutionError:
        """The largest relative error of the blocks, as they share out the input."""
        errors = [op.execution_error(u) for op in self.ops]
        relative = max(error.relative for error in errors)
        return ExecutionError(relative, up_root_sum_square(*(error.absolute for error in errors)))

    def _apply(self, x: Tensor) -> Tensor:
        parts = x.split([op.in_shape[0] for op in self.ops], 1)
        return torch.cat([op.apply(part) for op, part in zip(self.ops, parts, strict=True)], 1)

    def _adjoint(self, y: Tensor) -> Tensor:
        parts = y.split([op.out_shape[0] for op in self.ops], 1)
        return torch.cat([op.adjoint(part) for op, part in zip(self.ops, parts, strict=True)], 1)


def _joined(shapes: list[tuple[int, ...]], axis: int) -> tuple[int, ...]:
    """The shape of tensors concatenated along an axis."""
    if len({(*shape[:axis], *shape[axis + 1 :]) for shape in shapes}) != 1:
        raise ValueError(
            f"`ops` must have shapes that differ along axis {axis} only; got {shapes}."
        )
    return *shapes[0][:axis], sum(shape[axis] for shape in shapes), *shapes[0][axis + 1 :]
