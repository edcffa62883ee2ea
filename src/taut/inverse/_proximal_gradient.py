"""Plug-and-play proximal gradient descent."""

import math
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from taut._arguments import is_number, rational
from taut.inverse._averagedness import composed_averagedness
from taut.inverse._data_term import AbstractDataTerm
from taut.inverse._restoration import Restoration, check_arguments, distance, proved_denoiser
from taut.linalg.rounding import up
from taut.parametrizations import cached

__all__ = ["proximal_gradient"]

_THEOREM = (
    "Krasnosel'skii-Mann: the iterated map is averaged, so residuals never grow, and iterates "
    "converge to a fixed point if there is one"
)
_BOUNDED = (
    "Krasnosel'skii-Mann, Brouwer: the iterated map is averaged and maps the box into itself, so "
    "residuals never grow, and iterates converge to a fixed point"
)


@torch.no_grad()
def proximal_gradient(
    denoiser: nn.Module,
    data: AbstractDataTerm,
    start: Float[Tensor, "b c h w"],
    *,
    step: float,
    sigma: float,
    iterations: int = 100,
    box: tuple[float, float] | None = (0.0, 1.0),
    proved: bool = True,
) -> Restoration:
    r"""Restore images by a gradient step on the data term and a denoiser, in turn.

    :math:`x_{k+1} = P\, D_\sigma(x_k - s \nabla f(x_k))`, where P clips pixels to the box.

    Guarantee: for a step s below 2 / L, L the proven Lipschitz constant of the gradient, and a
        denoiser that is proved to be averaged: :math:`\|x_{k+1} - x_k\|` never grows, no distance
        to a fixed point ever grows, and iterates converge to a fixed point. With a box of
        finite ends a fixed point exists; otherwise it does if, say, A is injective. In real
        arithmetic: rounding stops the residual at a multiple of the last place.
    Cost: for each iteration A, its adjoint and the denoiser, whose weights are computed once.

    Args:
        denoiser: called with images and `sigma`, such as :class:`Denoiser`.
        data: the data term f.
        start: the first iterate, one image for each in the batch of measurements.
        step: s.
        sigma: noise level that the denoiser removes; a parameter of the restoration.
        iterations: number of iterations.
        box: least and largest value of a pixel, or None for all numbers.
        proved: whether to prove that the denoiser is averaged, and refuse it otherwise.

    Returns:
        The images, and the residuals :math:`\|x_{k+1} - x_k\|`.

    Raises:
        ValueError: if the step is too large, or an argument is not one of those.
        UnprovenError: if the denoiser or the operator has no proof.

    Reference:
        Venkatakrishnan, Bouman, Wohlberg (2013), *Plug-and-Play priors for model based
        reconstruction*; Combettes, Yamada (2015), arXiv:1407.5100, on which the proof rests.

    Example:
        >>> denoiser = taut.inverse.Denoiser(taut.inverse.conv_net(1, width=8, depth=2))
        >>> data = taut.inverse.LeastSquares(nn.Identity(), torch.rand(2, 1, 6, 6))
        >>> proximal_gradient(denoiser, data, data.y, step=1.0, sigma=0.1).averaged < 1
        True
    """
    step, iterations = check_arguments(data, start, step, iterations)
    shape = tuple(start.shape[1:])
    constant = data.lipschitz(shape)
    exact = rational(constant) if is_number(constant) else None
    if exact is None or exact < 0:
        raise ValueError(f"`data.lipschitz` must return a finite number >= 0; got {constant!r}.")
    share = Fraction(step) * exact / 2
    if share >= 1:
        raise ValueError(
            f"`step` must be below 2 / L = {step / float(share):.6g}, L the Lipschitz constant of "
            f"the gradient of the data term; got {step}."
        )
    least, largest = _checked_box(box)
    averaged = None
    if proved:
        alpha = proved_denoiser(denoiser, sigma, shape, firmly=False)
        averaged = composed_averagedness(alpha, up(share), *[0.5] * (box is not None))
    x, residuals = start, []
    with cached():
        for _ in range(iterations):
            new = denoiser(x - step * data.gradient(x), sigma)
            new = new if box is None else new.clamp(least, largest)
            residuals.append(distance(new, x))
            x = new
    bounded = -math.inf < least <= largest < math.inf
    theorem = (_BOUNDED if bounded else _THEOREM) if proved else ""
    return Restoration(x, torch.stack(residuals), averaged, theorem)


def _checked_box(box: Any) -> tuple[float, float]:
    """The least and the largest value of a pixel; infinite ones for None."""
    if box is None:
        return -math.inf, math.inf
    ends = list(box) if isinstance(box, Iterable) else []
    if len(ends) != 2 or not all(map(is_number, ends)) or not ends[0] <= ends[1]:
        raise ValueError(f"`box` must be a least and a largest value, or None; got {box!r}.")
    return float(ends[0]), float(ends[1])
