r"""Bounds of scores over all inputs within a radius."""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from taut.certification import (
    Certificate,
    Eps,
    as_radius,
    check_one_answer,
    output_constants,
    output_error,
    pair_constants,
)
from taut.conformal._scores import AbstractScore
from taut.linalg.rounding import next_down, next_up
from taut.program import UP_SQRT2

__all__ = ["ScoreBounds"]

_BATCH = 256
_ENTRIES = 1 << 22
_UNDERFLOW, _LARGE = 2.0**-1000, 2.0**1023


@final
@dataclass(frozen=True, eq=False)
class ScoreBounds:
    r"""Bounds of the score of each label, for every input within a radius of a given one.

    The exact score of the model, in real numbers, lies between them. What the certified program
    rounds is counted, for any order of summation, as in `taut.certify`:

    .. math:: z_j - z_y \in \hat z_j - \hat z_y \pm (L_{yj} \varepsilon + E(\|x\|)),

    and the score does not decrease in any of these differences.

    Attributes:
        certificate: what is proven of the classifier.
        score: the score.

    Raises:
        ValueError: if the model answers at many places of an image.

    Example:
        >>> from taut.certification import prove
        >>> from taut.conformal import Margin
        >>> bounds = ScoreBounds(prove(torch.nn.Linear(4, 3), (4,)), Margin())
        >>> x = torch.rand(5, 4)
        >>> bool((bounds.below(x, 0.1) < bounds.above(x, 0.1)).all())
        True
    """

    certificate: Certificate
    score: AbstractScore

    def __post_init__(self) -> None:
        """Refuse a model that answers at many places of an image."""
        check_one_answer(self.certificate.output_shape)

    def above(self, images: Float[Tensor, "b ..."], eps: Eps = 0) -> Float[Tensor, "b k"]:
        """Numbers that the score of no input within eps exceeds; infinite where none is proven."""
        return self._bounds(images, as_radius(eps), 1.0)

    def below(self, images: Float[Tensor, "b ..."], eps: Eps = 0) -> Float[Tensor, "b k"]:
        """Numbers that the score of each input within eps is at least."""
        return self._bounds(images, as_radius(eps), -1.0)

    def _bounds(self, images: Tensor, radius: float, sign: float) -> Tensor:
        constants = self._constants()
        size = max(1, min(_BATCH, _ENTRIES // constants.numel()))
        # (k, k + 1), the last column for 0 - z_y; then (b, 1, 1) more
        slack = next_up(constants * radius)
        parts = [self._part(batch, slack, sign) for batch in images.split(size)]
        return torch.cat(parts)

    def _part(self, images: Tensor, slack: Tensor, sign: float) -> Tensor:
        z = self.certificate.logits(images).cpu().double()
        error = next_up(UP_SQRT2 * output_error(self.certificate, images))
        error = torch.where(z.isfinite().all(1), error, math.inf)
        z = z.nan_to_num(0.0, 0.0, 0.0)
        ahead = torch.cat([z, torch.zeros_like(z[:, :1])], 1)
        room = next_up(slack + error[:, None, None])
        apart = _toward(ahead[:, None, :] - z[:, :, None], sign)
        apart = _toward(apart + sign * room, sign)
        own = torch.arange(z.shape[1], device="cpu")
        apart[:, own, own] = -math.inf
        return self._rounded(self.score(apart), sign)

    def _rounded(self, values: Tensor, sign: float) -> Tensor:
        """The values with the error of the score itself."""
        error = self.score.relative_error(values.shape[1])
        if not error:
            return values
        if sign < 0:  # what overflows is at least that
            values = values.clamp(max=_LARGE)
        return _toward(values * (1 + sign * 2 * error) + sign * _UNDERFLOW, sign)

    def _constants(self) -> Float[Tensor, "k n"]:
        """Of z_j - z_y for each label y and class j, and last of z_y."""
        classes = self.certificate.classes
        pairs = pair_constants(self.certificate.class_bound, classes)
        own = output_constants(self.certificate).reshape(-1)
        if len(own) < classes:  # a single output f: the logits are (0, f)
            own = torch.cat([torch.zeros_like(own), own])
        return torch.cat([pairs, own[:, None]], 1)


def _toward(values: Tensor, sign: float) -> Tensor:
    return next_up(values) if sign > 0 else next_down(values)
