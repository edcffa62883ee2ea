r"""Linear operators: what they do, their adjoint, and proven bounds of their norm and rounding.

One kind of operator a file: `convolution`, `matrix`, `spectral`, `series`; and what is made of
others: `adjoint`, `composed`, `stacked`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from taut.linalg.cholesky import torus_bound
from taut.linalg.gram import gram_kernel
from taut.linalg.rounding import (
    U64,
    gamma,
    power_of_two,
    refuse_flushing,
    underflow,
    up_product,
    up_root,
    up_sum,
)

DENSE_LIMIT = 1 << 24
"""Entries (outputs times inputs) of the largest operator that is written out densely."""

DENSE_PROOF = 1 << 18
"""Entries up to which the norm of an operator is proven from its dense matrix."""


@final
@dataclass(frozen=True)
class NormBound:
    """A proven upper bound `value` and, in words, its `proof`.

    >>> NormBound(1.0, "permutation").value
    1.0
    """

    value: float
    proof: str


@final
@dataclass(frozen=True)
class Proof:
    """A way to bound a norm, not yet taken.

    Attributes:
        bound: the bound.
        work: about how many multiplications it takes.
        factor: about how many times the norm the bound may be.
        repeated: whether it is that of `norm_bound`, which whoever checks a certificate repeats.

    >>> Proof(lambda: NormBound(1.0, "permutation")).bound().value
    1.0
    """

    bound: Callable[[], NormBound]
    work: float = 0.0
    factor: float = 1.0
    repeated: bool = False


@final
@dataclass(frozen=True)
class ExecutionError:
    """A proven bound `relative` |x| + `absolute` of |computed - T x|; the latter for underflow.

    >>> ExecutionError(1e-15, 0.0).relative
    1e-15
    """

    relative: float
    absolute: float


@dataclass(frozen=True, eq=False)
class AbstractOperator(ABC):
    r"""A linear map T of tensors of one shape, without a bias; immutable.

    Bounds are about T in real arithmetic with exactly the stored numbers. They are proofs in
    float64 arithmetic: their own rounding is included.

    *Rounding.* Executed with unit roundoff u, in any order of summation, on numbers that are exact
    in that precision, T is off by at most

    .. math:: |\hat T(x) - T x| \le \gamma_n \, |T| |x|, \quad n = \texttt{fan\_in}

    entry by entry, up to underflow, where :math:`|T|` has a norm of at most `abs_norm_bound`. For a
    single sum of products, n is their number and :math:`|T|` has the moduli of the entries of T.
    For stages that are executed one after the other, n is the sum of theirs and :math:`|T|` the
    product: a product passes the roundings of each stage. `execution_error` bounds the same error
    in the l2 norm, and takes the stages one by one, which is much sharper.

    Attributes:
        in_shape: shape of one input, without the batch.
        out_shape: shape of one output.
        fan_in: n above, of T.
        adjoint_fan_in: n of the adjoint.
    """

    in_shape: tuple[int, ...] = field(init=False, repr=False)
    out_shape: tuple[int, ...] = field(init=False, repr=False)
    fan_in: int = field(init=False, repr=False)
    adjoint_fan_in: int = field(init=False, repr=False)

    def _describe(
        self,
        *,
        in_shape: tuple[int, ...],
        out_shape: tuple[int, ...],
        fan_in: int,
        adjoint_fan_in: int,
    ) -> None:
        """Set what every operator has; to be called once, by the constructor."""
        object.__setattr__(self, "in_shape", in_shape)
        object.__setattr__(self, "out_shape", out_shape)
        object.__setattr__(self, "fan_in", fan_in)
        object.__setattr__(self, "adjoint_fan_in", adjoint_fan_in)

    @abstractmethod
    def norm_bound(self, *, tight: bool = False) -> NormBound:
        """Upper bound of the l2 norm; `tight` spends more time where that may lower it."""

    def proofs(self) -> tuple[Proof, ...]:
        """Ways to bound the l2 norm, from cheap to sharp; by default the one of `norm_bound`."""
        return (Proof(self.norm_bound, repeated=True),)

    @abstractmethod
    def abs_norm_bound(self) -> float:
        r"""Upper bound of the l2 norm of :math:`|T|`: moduli for all entries."""

    @abstractmethod
    def _apply(self, x: Tensor) -> Tensor:
        """T on a batch of the right shape."""

    @abstractmethod
    def _adjoint(self, y: Tensor) -> Tensor:
        """The adjoint of T on a batch of the right shape."""

    def apply(self, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """Return T x in float64 for a batch of shape (b, *in_shape); more batch axes are allowed.

        Raises:
            ValueError: if the shape is another.
        """
        return _batched(self._apply, "x", x, self.in_shape)

    def adjoint(self, y: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """Apply the adjoint of T to a batch of shape (b, *out_shape), likewise.

        Raises:
            ValueError: if the shape is another.
        """
        return _batched(self._adjoint, "y", y, self.out_shape)

    def __call__(self, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """Return `apply(x)`."""
        return self.apply(x)

    @property
    def shape(self) -> tuple[int, int]:
        """(outputs, inputs) of T as a dense matrix."""
        return math.prod(self.out_shape), math.prod(self.in_shape)

    def dense(self) -> Float[Tensor, "m n"]:
        """T as a dense matrix: its action on each unit vector.

        Raises:
            ValueError: if it would have more than `DENSE_LIMIT` entries.
        """
        m, n = self.shape
        if m * n > DENSE_LIMIT:
            raise ValueError(
                f"the input must be smaller: the dense operator may have at most {DENSE_LIMIT} "
                f"entries; got {m} x {n} = {m * n}."
            )
        columns = torch.eye(n, dtype=torch.float64, device="cpu").unflatten(1, self.in_shape)
        return self.apply(columns).flatten(1).T

    def singular_values(self) -> Float[Tensor, " s"]:
        """All min(outputs, inputs) singular values in float64, descending: an estimate, no bound.

        By default those of the dense matrix.
        """
        return torch.linalg.svdvals(self.dense())

    def execution_error(self, u: float = U64) -> ExecutionError:
        """Bound of the l2 norm of the error of an execution with unit roundoff `U64` or `U32`.

        By default that of a single sum of products. Infinite where nothing is proven.
        """
        relative = up_product(gamma(self.fan_in, u), self.abs_norm_bound())
        return ExecutionError(relative, underflow(u))


def tightened(op: AbstractOperator, bound: NormBound) -> NormBound:
    r"""The bound; or that of the dense matrix, where the operator is small and its bound less.

    Each column of the computed matrix D, the image of a unit vector, is off by at most e; so
    :math:`\|T\| \le \|D\| + \sqrt n \, e` for n columns.
    """
    refuse_flushing()
    if math.prod(op.shape) <= DENSE_PROOF and bound.value > 0.0:
        with plain_sums():
            matrix = op.dense()
        if bool(matrix.isfinite().all()) and bool(matrix.any()):
            scale = power_of_two(matrix)
            norm = up_root(torus_bound(gram_kernel(matrix[None] / scale), ()))
            error = op.execution_error()
            column = up_sum(error.relative, error.absolute)
            rest = up_product(up_root(float(op.shape[1])), column)
            value = up_sum(up_product(norm, scale), rest)
            if value < bound.value:
                return NormBound(value, "spectral norm of the dense operator")
    if not math.isfinite(bound.value):
        raise ValueError("the operator must be smaller: the bound of its norm overflows.")
    return bound


def exact_tensor(name: str, values: Tensor) -> Tensor:
    """The numbers of a tensor in double precision, without a gradient; they must be finite."""
    values = values.detach()
    if values.device.type == "mps":  # has no float64
        values = values.cpu()
    values = values.to(torch.complex128 if values.is_complex() else torch.float64)
    if not bool(values.isfinite().all()):
        raise ValueError(f"`{name}` must be finite; it holds NaN or Inf.")
    return values


def plain_sums() -> AbstractContextManager:
    """Make convolutions sums of products on a GPU, too: cuDNN may transform them."""
    if torch.cuda.is_initialized():
        return torch.backends.cudnn.flags(enabled=False)
    return nullcontext()


def _batched(
    function: Callable[[Tensor], Tensor], name: str, values: Tensor, shape: tuple[int, ...]
) -> Tensor:
    """Apply a function of one batch axis to any number of them, after a check of the shape."""
    axes = values.dim() - len(shape)
    if axes < 1 or tuple(values.shape[axes:]) != shape:
        raise ValueError(
            f"`{name}` must have the shape (batch, {', '.join(map(str, shape))}); "
            f"got {tuple(values.shape)}."
        )
    return function(values.flatten(0, axes - 1)).unflatten(0, values.shape[:axes])
