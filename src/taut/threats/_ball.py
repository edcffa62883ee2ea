r"""Threats that are balls of a norm around an image: x + D z with D = diag(w) and |z| <= r.

With the cut :math:`f = h \circ A` of `taut.threats._cut` a change z moves the logits by at most
:math:`L^h \|A D z\|`, and by at most :math:`L \|D z\|`. Radii are margins over the smaller of these
constants for the unit ball of the norm.
"""

import math
from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from taut.certification import (
    checked_factors,
    executed_radii_to_classes,
    margin_error,
    norms_upper,
    pair_constants,
    radii_to_classes,
    radius_to_leave,
)
from taut.linalg.operator import DENSE_LIMIT
from taut.linalg.rounding import U64, next_down, next_up, up_product, up_sum
from taut.program import UP_SQRT2, LipschitzBound
from taut.threats._base import AbstractThreat, Radii
from taut.threats._cut import Cut
from taut.threats._norms import NORMS

__all__ = ["AbstractBall", "ones_in"]

_PIECE = 1 << 22
"""Numbers of columns that are computed at once."""


class AbstractBall(AbstractThreat):
    """All x + D z with z in a ball of a norm; D has the `factors` on its diagonal.

    Attributes:
        norm: of z: "l1", "l2" or "linf".
    """

    norm: ClassVar[Literal["l1", "l2", "linf"]]
    unit = "units of a pixel"

    @abstractmethod
    def factors(self, shape: tuple[int, ...]) -> Tensor:
        """The diagonal of D in float64, numbers >= 0 of the shape of an image.

        Raises:
            ValueError: if the settings do not fit that shape.
        """

    def prepared(self, cut: Cut, top_k: int) -> Radii:
        """The constants in z; radii are margins over these."""
        factors = self.factors(cut.certificate.input_shape)
        stretch = NORMS[self.norm].stretch(factors[factors > 0])
        bound = _bound(cut, factors, self.norm, stretch)

        def radii(images: Tensor, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            return _radii(cut, bound, stretch, top_k, images, logits, labels)

        return radii


def ones_in(mask: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    """1 for what may change and 0 for the rest; 1 everywhere without a mask."""
    if mask is None:
        return torch.ones(shape, dtype=torch.float64, device="cpu")
    flags = mask.double() if isinstance(mask, Tensor) and mask.dtype == torch.bool else mask
    return checked_factors("mask", flags, shape)


def _radii(
    cut: Cut, bound: LipschitzBound, stretch: float, top_k: int, images: Tensor, logits: Tensor,
    labels: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Radii from constants in z, as `taut.certification` has them in x."""
    certificate = cut.certificate
    slope, limit = 0.0, torch.tensor(math.inf, dtype=torch.float64, device="cpu")
    error = torch.zeros(len(images), 1, dtype=torch.float64, device="cpu")
    if certificate.arithmetic == "real":
        to_classes = radii_to_classes(logits, labels, bound)
    else:
        norms, composed = norms_upper(images.cpu()), certificate.composed
        # Without any change a positive radius says that whoever sums finds the label ahead.
        to_classes = executed_radii_to_classes(
            logits, labels, norms, bound, composed, stretch or 1.0
        )
        slope, error = composed.error[0], margin_error(composed, norms)[:, None]
        limit = next_down(next_down(composed.norm_limit - norms) / (stretch or 1.0))
    if not stretch:
        everywhere = to_classes.where(to_classes == 0, math.inf)
        return everywhere.topk(top_k, dim=1, largest=False).values[:, -1], everywhere
    z = logits.double()
    gaps = next_down(next_down(z.gather(1, labels[:, None]) - z) - error).where(to_classes > 0, 0.0)
    steep = up_product(slope, stretch)
    radius = radius_to_leave(to_classes, gaps, labels, top_k, bound.value, steep)
    return torch.minimum(radius, limit), to_classes


def _bound(cut: Cut, factors: Tensor, norm: str, stretch: float) -> LipschitzBound:
    """The constants of the logits in z: the least of those known."""
    whole, ball = cut.certificate.class_bound, NORMS[norm]
    classes = cut.certificate.classes
    pairs = _times(pair_constants(whole, classes), stretch)
    gain = up_product(cut.norm, stretch)
    # For l2 and equal factors that is the norm of the matrix, too.
    known = norm == "l2" and torch.equal(factors, factors.flatten()[:1].expand_as(factors))
    columns = None if known and not cut.affine else _columns(cut, factors)
    if columns is not None:
        matrix, error = columns
        error = up_product(ball.error(matrix.shape[1]), error)
        gain = min(gain, up_sum(ball.gain(matrix), error))
        if cut.affine and classes**2 * matrix.shape[1] <= DENSE_LIMIT:
            rows = torch.cat([matrix.new_zeros(1, matrix.shape[1]), matrix])[-classes:]
            norms = ball.dual(rows[:, None] - rows) + up_product(UP_SQRT2, error)
            pairs = torch.minimum(pairs, next_up(norms).fill_diagonal_(0.0))
    pairs = torch.minimum(pairs, _times(pair_constants(cut.rest, classes), gain))
    value = min(up_product(whole.value, stretch), up_product(cut.rest.value, gain))
    return LipschitzBound(value, pairwise=pairs)


def _times(constants: Tensor, factor: float) -> Tensor:
    """A product of constants, rounded up; exact for factors 0 and 1."""
    if factor == 1.0:
        return constants
    return next_up(constants * factor).where(constants > 0, 0.0) if factor else constants * 0.0


def _columns(cut: Cut, factors: Tensor) -> tuple[Tensor, float] | None:
    """A D without its columns of zeros, and a bound of the l2 error of each column.

    As in `taut.program._dense`: a + b for the image of a unit vector and for that of 0, times w,
    and two roundings, of the difference and of the product with w. None where there are no layers,
    or too many numbers.
    """
    shape, places = tuple(factors.shape), factors.flatten().nonzero().flatten()
    outputs = math.prod(cut.first.shapes[cut.first.output])
    if not cut.first.nodes or not len(places) or outputs * len(places) > DENSE_LIMIT:
        return None
    zero, parts = cut.value(torch.zeros(1, *shape)), []
    for some in places.split(max(1, _PIECE // max(outputs, factors.numel()))):
        units = torch.zeros(len(some), factors.numel(), dtype=torch.float64, device="cpu")
        units[torch.arange(len(some), device="cpu"), some] = 1.0
        parts.append((cut.value(units.reshape(-1, *shape)) - zero).T)
    weights = factors.flatten()[places]
    matrix = torch.cat(parts, 1) * weights
    if not matrix.isfinite().all():
        return None
    a, b = cut.error
    computed = up_product(up_sum(a, b, b), float(weights.max()))
    rounded = up_product(4 * U64, float(matrix.norm(dim=0).max()) * (1 + 2.0**-20))
    return matrix, up_sum(computed, rounded, 2.0**-500)
