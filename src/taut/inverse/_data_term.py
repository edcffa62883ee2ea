"""Convex data terms: what an image must agree with."""

import math
from abc import ABC, abstractmethod
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from taut._arguments import check_tensor, is_number
from taut.inverse._conjugate_gradients import conjugate_gradients
from taut.linalg.matrix import MatrixOperator
from taut.linalg.operator import DENSE_LIMIT
from taut.linalg.rounding import up_product
from taut.program import UnprovenError, lipschitz_bound, operation, trace

__all__ = ["AbstractDataTerm", "LeastSquares"]

Image = Float[Tensor, "b c h w"]


class AbstractDataTerm(ABC):
    """A convex function of an image; subclass it for one of your own.

    `proximal_gradient` uses the gradient and its Lipschitz constant, `admm` the proximal step.

    Example:
        >>> isinstance(LeastSquares(nn.Identity(), torch.zeros(1, 1, 2, 2)), AbstractDataTerm)
        True
    """

    @abstractmethod
    def gradient(self, x: Image) -> Image:
        """The gradient at an image."""

    @abstractmethod
    def lipschitz(self, input_shape: tuple[int, ...]) -> float:
        """A proven Lipschitz constant of the gradient, for images of one shape."""

    @abstractmethod
    def prox(self, x: Image, step: float) -> Image:
        r"""The image z that minimises :math:`f(z) + \|z - x\|^2 / (2 s)` for the step s."""

    def check(self, input_shape: tuple[int, ...]) -> None:  # noqa: B027 - nothing by default
        """Refuse what makes the function not convex."""


@final
class LeastSquares(AbstractDataTerm):
    r"""The data term :math:`f(x) = \frac12 \|A x - y\|^2` of linear measurements y.

    Guarantee: f is convex, and :math:`\|A\|^2` is a Lipschitz constant of its gradient. A module is
        checked to be linear, and its norm is proved by :func:`taut.lipschitz_bound`. For other
        operators (physics of deepinv whose steps have no rule here) the norm is that of the matrix
        of all columns, as computed, on images of at most 4,096 numbers; for larger images give a
        `norm`.

    Args:
        physics: the operator A: a linear module, whose adjoint is computed by differentiation and
            whose proximal step by conjugate gradients, of which 200 may be too few to be exact for
            steps above some 1,000 / L; or an object with `A(x)` and `A_adjoint(y)`,
            as :class:`Blur` and the linear physics of deepinv have, and with `prox_l2(z, y, gamma)`
            for :func:`admm`.
        y: the measurements of a batch of images.
        norm: an upper bound of the norm of A that you vouch for, in place of a proof.

    Raises:
        ValueError: if an argument is not one of those; later, if the operator is not linear.

    Example:
        >>> data = LeastSquares(nn.Identity(), torch.ones(1, 1, 2, 2))
        >>> data.gradient(torch.zeros(1, 1, 2, 2))[0, 0].tolist(), data.lipschitz((1, 2, 2))
        ([[-1.0, -1.0], [-1.0, -1.0]], 1.0)
    """

    def __init__(self, physics: Any, y: Tensor, norm: float | None = None) -> None:
        check_tensor("y", y)
        if not y.is_floating_point():
            raise ValueError(f"`y` must be a floating-point tensor; got {y.dtype}.")
        if not y.isfinite().all():
            raise ValueError("`y` must be finite; it holds NaN or Inf.")
        if norm is not None and not (is_number(norm) and 0 <= norm < math.inf):
            raise ValueError(f"`norm` must be a number of at least 0, or None; got {norm!r}.")
        self.known = hasattr(physics, "A") and hasattr(physics, "A_adjoint")
        if not self.known and not isinstance(physics, nn.Module):
            raise ValueError(
                "`physics` must be a torch.nn.Module, or have `A` and `A_adjoint`; got "
                f"{type(physics).__name__}."
            )
        self.physics: Any = physics
        self.y, self.norm = y, norm

    def measured(self, x: Image) -> Tensor:
        """A x."""
        return self.physics.A(x) if self.known else self.physics(x)

    def adjoint(self, y: Tensor, like: Image) -> Image:
        """The adjoint of A at measurements, for images of the shape of `like`."""
        if self.known:
            return self.physics.A_adjoint(y)
        pull = torch.func.vjp(self.physics, like)[1]
        return pull(y)[0]

    def gradient(self, x: Image) -> Image:
        r""":math:`A^\top (A x - y)`."""
        return self.adjoint(self.measured(x) - self.y, x)

    def prox(self, x: Image, step: float) -> Image:
        r"""Solve :math:`(I + s A^\top A) z = x + s A^\top y`."""
        if hasattr(self.physics, "prox_l2"):
            return self.physics.prox_l2(x, self.y, step)
        right = x + step * self.adjoint(self.y, x)
        return conjugate_gradients(
            lambda z: z + step * self.adjoint(self.measured(z), z), right, start=x
        )

    @torch.no_grad()
    def check(self, input_shape: tuple[int, ...]) -> None:
        """Refuse a module that is not linear, and an adjoint that is none at a random image.

        What has `A` and `A_adjoint` is trusted to be linear.
        """
        if not self.known:
            self._check_linear(input_shape)
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(1, *input_shape, generator=generator, device="cpu").to(self.y)
        y = self.measured(x)
        if y.shape[1:] != self.y.shape[1:]:
            raise ValueError(
                f"`y` must be measurements of shape {tuple(y.shape[1:])} of images of shape "
                f"{input_shape}; got {tuple(self.y.shape[1:])}."
            )
        square = float(y.double().square().sum())
        same = float((x.double() * self.adjoint(y, x).double()).sum())
        if not abs(square - same) <= 0.01 * square:
            raise ValueError(
                "`physics` must give its adjoint, as `A_adjoint` or by differentiation; got "
                f"<A x, A x> = {square:.6g} and <x, A* A x> = {same:.6g}."
            )

    def _check_linear(self, input_shape: tuple[int, ...]) -> None:
        program = trace(self.physics, input_shape)
        for site in program.sites():
            kind = operation(site)
            if not kind.affine and kind.operator(site) is None:
                raise ValueError(
                    f"`physics` must be linear; its `{site.node.name}` ({site.node.type}) is not."
                )
        zero = self.y.new_zeros(1, *input_shape)
        if bool(self.measured(zero).any()):
            raise ValueError("`physics` must be linear; it does not map 0 to 0.")

    def lipschitz(self, input_shape: tuple[int, ...]) -> float:
        r""":math:`\|A\|^2`, rounded up."""
        self.check(input_shape)
        norm = self._norm(input_shape) if self.norm is None else float(self.norm)
        return up_product(norm, norm)

    def _norm(self, input_shape: tuple[int, ...]) -> float:
        try:
            return float(lipschitz_bound(_Measured(self), input_shape))
        except UnprovenError:
            if not self.known:
                raise
        inputs, outputs = math.prod(input_shape), math.prod(self.y.shape[1:])
        if inputs > 4096 or inputs * outputs > DENSE_LIMIT:
            raise UnprovenError(
                f"The norm of {type(self.physics).__name__} has no proof on images of {inputs} "
                "numbers; pass a `norm` that you know."
            )
        units = torch.eye(inputs, dtype=self.y.dtype, device=self.y.device)
        columns = self.measured(units.reshape(inputs, *input_shape)).reshape(inputs, -1)
        return MatrixOperator(columns.T.double()).norm_bound(tight=True).value


@final
class _Measured(nn.Module):
    """The operator of a data term as a module."""

    def __init__(self, data: LeastSquares) -> None:
        super().__init__()
        self.data = data
        self.physics = data.physics if isinstance(data.physics, nn.Module) else None

    def forward(self, x: Image) -> Tensor:
        return self.data.measured(x)
