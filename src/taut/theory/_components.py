"""Connected components of the space of orthogonal convolutions: membership and number."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from taut.linalg.lu import determinants
from taut.linalg.rounding import U64, gamma
from taut.theory._kernels import orthogonal_taps, square_taps


@final
@dataclass(frozen=True)
class Component:
    r"""The connected component of an orthogonal kernel, given by :math:`\det W(z) = \pm z^m`.

    Attributes:
        sign: 1 or -1, the determinant at z = 1.
        windings: per axis, how often the determinant goes round 0 as z goes round the circle.
    """

    sign: int
    windings: tuple[int, ...]

    def __str__(self) -> str:
        return f"sign {self.sign:+d}, windings {self.windings}"


def component(kernel: Tensor) -> Component:
    r"""The component of an orthogonal kernel: sign and winding numbers.

    Since :math:`W^{-1} = W^*` on the circle, the argument principle
    :math:`m = \frac{1}{2 \pi i} \oint \mathrm{tr}(W^{-1} W')\, dz` is a sum over taps,
    :math:`m = \sum_j j \|K_j\|_F^2`: c times the mean shift of the layer, in pixels.

    Guarantee: proven for the kernel as it is stored, rounding included. In one axis, a path of
        orthogonal kernels connects two kernels of one component (:func:`connect`); in any number of
        axes none connects kernels of different components.
    Cost: the Gram kernel: c^3 times half the number of pairs of taps.

    Args:
        kernel: `(c, c, *kernel_size)`, any number of axes, orthogonal to 0.01.

    Returns:
        The component.

    Raises:
        ValueError: if the kernel is not square, not finite or not orthogonal.

    Reference:
        Li et al. (2019), theorem 1 and appendix; arXiv:1911.00937. The sum over taps and its
        error are ours.

    Example:
        >>> print(component(taut.BCOP(4, 4, (3, 5)).weight()))  # doctest: +ELLIPSIS
        sign ...1, windings (4, 8)
    """
    taps, defect = orthogonal_taps(kernel)
    windings = tuple(_winding(taps, axis, defect) for axis in range(2, taps.ndim))
    return Component(_sign(taps), windings)


def _winding(taps: Tensor, axis: int, defect: float) -> int:
    """The integer that the sum over taps is nearest to, if its error is proven to be below 1/2."""
    # For a defect d < 1 of W W* - I the sum misses the integer by at most
    # d (1 - d)^(-1/2) (sum_j j^2 |K_j|^2)^(1/2): W^-1 - W* = -W^-1 (W W* - I), and Cauchy-Schwarz.
    squares = taps.movedim(axis, 0).flatten(1).square().sum(1).tolist()
    mean = sum(j * square for j, square in enumerate(squares))
    spread = math.sqrt(sum(j * j * square for j, square in enumerate(squares)))
    # The factor covers the few roundings of this line itself.
    error = (defect * spread / math.sqrt(1 - defect) + gamma(taps.numel() + 4, U64) * mean) * 1.01
    if not error < 0.5:
        raise ValueError(
            f"`kernel` must be closer to orthogonal for its size: with a defect of {defect:.3g} "
            f"its winding number {mean:.3f} is only known to {error:.3g}."
        )
    return round(mean)


def _sign(taps: Tensor) -> int:
    """The sign of the determinant of W(1), the sum of taps; its singular values are >= 0.99."""
    # The product of the LU factors has the sign of the pivots, and is proven to be nearer to W(1)
    # than any singular matrix.
    total, sizes = (t.flatten(2).sum(2) if t.ndim > 2 else t for t in (taps, taps.abs()))
    order, lower, upper = torch.linalg.lu(total)
    residual = torch.linalg.matrix_norm(order @ lower @ upper - total).item()
    norms = [torch.linalg.matrix_norm(a).item() for a in (lower, upper, sizes)]
    rounding = gamma(2 * len(total) + taps.numel(), U64) * (norms[0] * norms[1] + 2 * norms[2])
    if not residual + rounding < 0.9:
        raise ValueError("`kernel` must allow an accurate LU factorisation of the sum of its taps.")
    pivots = int((upper.diagonal() < 0).sum())
    return round(torch.linalg.det(order).item()) * (-1) ** pivots


def determinant_curve(
    kernel: Tensor, *, axis: int = 0, points: int = 256
) -> Complex[Tensor, " points"]:
    r"""The determinant of the symbol along the circle, the variables of other axes being 1.

    At :math:`z = e^{2 \pi i t / n}` for t = 0, ..., n - 1.

    Args:
        kernel: `(c, c, *kernel_size)`; need not be orthogonal.
        axis: which of the axes.
        points: number of points, n.

    Returns:
        complex128.

    Raises:
        ValueError: if the kernel is not square or not finite, or an argument does not fit.

    Example:
        >>> determinant_curve(torch.eye(2).reshape(2, 2, 1), points=4).real.tolist()
        [1.0, 1.0, 1.0, 1.0]
    """
    taps = square_taps(kernel)
    if not 0 <= axis < taps.ndim - 2:
        raise ValueError(f"`axis` must be one of the {taps.ndim - 2} axes; got {axis}.")
    if points < 1:
        raise ValueError(f"`points` must be positive; got {points}.")
    taps = taps.movedim(axis + 2, 2).flatten(3).sum(3) if taps.ndim > 3 else taps
    turns = (
        torch.outer(torch.arange(points, device="cpu"), torch.arange(taps.shape[2], device="cpu"))
        % points
    )
    angles = turns.to(taps) * (2 * math.pi / points)
    powers = torch.complex(angles.cos(), angles.sin())
    return determinants(torch.einsum("pk,oik->poi", powers, taps.to(powers.dtype)))


def winding_estimate(kernel: Tensor, *, axis: int = 0) -> int:
    """Estimate of the winding number of the determinant around 0, from a grid of angles.

    Independent of :func:`component`, and defined for kernels that are not orthogonal. Wrong where
    the determinant comes near 0 between the points.

    Args:
        kernel: `(c, c, *kernel_size)`, with a determinant that does not vanish.
        axis: which of the axes.

    Raises:
        ValueError: as :func:`determinant_curve`.

    Example:
        >>> winding_estimate(taut.BCOP(4, 4, (3,)).weight())
        4
    """
    degree = math.prod(kernel.shape[:1]) * (max(kernel.shape[2:], default=1) - 1)
    curve = determinant_curve(kernel, axis=axis, points=4 * degree + 4)
    return round((curve.roll(-1) * curve.conj()).angle().sum().item() / (2 * math.pi))


def components(channels: int, kernel_size: tuple[int, ...]) -> Iterator[Component]:
    r"""All possible values of :func:`component`.

    The taps of an orthogonal kernel have :math:`\sum_j \|K_j\|_F^2 = c`, so each winding number is
    one of 0, ..., (k - 1) c; :func:`representative` shows that each occurs. In one axis these are
    the 2 (k - 1) c + 2 connected components.

    Args:
        channels: c.
        kernel_size: k, per axis.

    Raises:
        ValueError: if a size is not positive.

    Example:
        >>> sum(1 for _ in components(4, (3,)))
        18
    """
    ranges = (range(highest + 1) for highest in _highest(channels, kernel_size))
    for sign, *windings in itertools.product((1, -1), *ranges):
        yield Component(sign, tuple(windings))


def representative(
    member: Component, channels: int, kernel_size: tuple[int, ...]
) -> Float[Tensor, "c c ..."]:
    """The simplest kernel of a component: each channel shifted by a whole number of pixels.

    Shifts are as equal as possible, the larger ones first; the sign is that of the first channel.

    Args:
        member: sign and winding numbers.
        channels: c.
        kernel_size: k, per axis.

    Returns:
        The kernel, in float64, of zeros and ones (and -1).

    Raises:
        ValueError: if there is no such component of that size.

    Example:
        >>> representative(Component(-1, (1,)), 2, (2,)).tolist()
        [[[0.0, -1.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 0.0]]]
    """
    highest = _highest(channels, kernel_size)
    fits = len(member.windings) == len(highest) and abs(member.sign) == 1
    if not fits or any(not 0 <= m <= h for m, h in zip(member.windings, highest, strict=True)):
        raise ValueError(
            f"`member` must have a sign of 1 or -1 and winding numbers of 0 to {highest}; "
            f"got {member}."
        )
    kernel = torch.zeros(channels, channels, *kernel_size, dtype=torch.float64, device="cpu")
    for i in range(channels):
        shifts = (m // channels + (i < m % channels) for m in member.windings)
        kernel[(i, i, *shifts)] = member.sign if i == 0 else 1
    return kernel


def _highest(channels: int, kernel_size: tuple[int, ...]) -> tuple[int, ...]:
    """The largest winding number of each axis."""
    if channels < 1 or any(k < 1 for k in kernel_size):
        raise ValueError(
            "`channels` and `kernel_size` must be positive; "
            f"got channels={channels}, kernel_size={kernel_size}."
        )
    return tuple((k - 1) * channels for k in kernel_size)
