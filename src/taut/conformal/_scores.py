r"""Nonconformity scores of classifiers: large where a label does not suit an input.

Each is a nondecreasing function of the differences of logits :math:`z_j - z_y`, and of
:math:`0 - z_y`. How fast those move with the input is known pair by pair, so that bounds of the
differences give bounds of the score without a Lipschitz constant of the score itself.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from taut._arguments import positive

__all__ = ["AbstractScore", "Logit", "Margin", "Softmax"]


class AbstractScore(ABC):
    """A score of each label, from the differences of the logits.

    Example:
        >>> differences = torch.tensor([[[-torch.inf, 1.0, 0.5], [-1.0, -torch.inf, -0.5]]])
        >>> Margin()(differences)
        tensor([[ 1., -1.]])
    """

    @abstractmethod
    def __call__(self, differences: Float[Tensor, "b k n"]) -> Float[Tensor, "b k"]:
        """Return the score of each label y; it does not decrease in any difference.

        Args:
            differences: n = k + 1 of them for each label y: :math:`z_j - z_y` for each class j,
                where -inf stands for j = y, and last :math:`0 - z_y`.
        """

    def relative_error(self, classes: int) -> float:
        """How far a computed score may be off, relative to it; scores with an error are >= 0."""
        return 0.0


@final
@dataclass(frozen=True)
class Margin(AbstractScore):
    r"""The largest other logit minus that of the label, :math:`\max_{j \ne y} z_j - z_y`.

    Guarantee: it moves by at most :math:`\max_j L_{yj}` for each unit of the input, where
        :math:`L_{yj}` is the constant of :math:`z_j - z_y`: at most :math:`\sqrt 2` times that of
        the logits. It is computed without rounding.

    The true label of a correctly classified input has a negative score, minus the margin. The
    label that the model predicts is in the set if any label is.

    Example:
        >>> Margin()
        Margin()
    """

    def __call__(self, differences: Float[Tensor, "b k n"]) -> Float[Tensor, "b k"]:
        """The largest difference to another class."""
        return differences[..., :-1].amax(-1)


@final
@dataclass(frozen=True)
class Logit(AbstractScore):
    r"""Minus the logit of the label.

    Guarantee: it moves by at most the constant of that logit alone, which is :math:`\sqrt 2` times
        less than that of a difference for orthonormal rows. It is computed without rounding.

    The sets are those of the score :math:`1 - \sigma((z_y - b) / T)` of Massena et al. for every b
    and T > 0, since that increases with this one. It suits losses that push each logit to a level
    of its own; after a loss of differences alone, such as cross-entropy, `Margin` is sharper.

    Reference:
        Massena et al. (2025), *Efficient Robust Conformal Prediction via Lipschitz-Bounded
        Networks*; arXiv:2506.05434. Code: deel-ai-papers/lip-rcp@df6ec07, `robust_ps.py`.

    Example:
        >>> Logit()
        Logit()
    """

    def __call__(self, differences: Float[Tensor, "b k n"]) -> Float[Tensor, "b k"]:
        """The difference of 0 and the logit."""
        return differences[..., -1]


@final
@dataclass(frozen=True)
class Softmax(AbstractScore):
    r"""The odds against the label, :math:`(1 - p_y) / p_y = \sum_{j \ne y} e^{(z_j - z_y) / T}`.

    The sets are those of :math:`1 - p_y`, the score LAC, which increases with the odds; near 1 a
    probability is rounded and the odds are not.

    Guarantee: the logarithm of the odds moves by at most :math:`\max_j L_{yj} / T` for each unit of
        the input, since its gradient is a convex combination of those of :math:`(z_j - z_y) / T`.
        (The probability itself moves by at most :math:`\sqrt 2 / 4 \cdot L / T` for L-Lipschitz
        logits, as :math:`\|\nabla_z p_y\| \le \sqrt 2\, p_y (1 - p_y) / T`. That is never sharper:
        the slope of p at the point is used here, and the largest slope there.) The bounds hold if
        torch's exponential is within a relative error of 2^-40 in float64.

    Args:
        temperature: T > 0. Low ones approach `Margin`.

    Raises:
        ValueError: if the temperature is not a positive number.

    Reference:
        Sadinle, Lei, Wasserman (2019), *Least Ambiguous Set-Valued Classifiers with Bounded Error
        Levels*; arXiv:1609.00451.

    Example:
        >>> Softmax(temperature=0.5)
        Softmax(temperature=0.5)
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what is no temperature."""
        positive("temperature", self.temperature)

    def __call__(self, differences: Float[Tensor, "b k n"]) -> Float[Tensor, "b k"]:
        """The sum of exponentials."""
        return (differences[..., :-1] / self.temperature).exp().sum(-1)

    def relative_error(self, classes: int) -> float:
        """Of an exponential, of the quotient in it (at most 745 u) and of the sum."""
        return 2.0**-40 + 2.0**-42 + classes * 2.0**-52
