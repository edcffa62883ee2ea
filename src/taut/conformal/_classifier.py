r"""Sets of labels that contain the true one with a proven probability, also under attack."""

from dataclasses import dataclass
from typing import Any, final

from jaxtyping import Bool, Float
from torch import Tensor, nn

from taut._sharding import gathers
from taut.certification import (
    Eps,
    as_radius,
    check_labels,
    checked_shape,
    hold_against_model,
    numbers_of,
    prove,
)
from taut.conformal._quantile import Alpha, as_alpha, conformal_threshold, too_few
from taut.conformal._score_bounds import ScoreBounds
from taut.conformal._scores import AbstractScore, Margin

__all__ = ["ConformalClassifier"]

_BATCH = 256


@final
@dataclass(frozen=True, eq=False, repr=False)
class ConformalClassifier:
    r"""A classifier whose answer is a set of labels; made by :meth:`calibrate`.

    .. math:: C(x') = \{ y : \min_{\|x - x'\| \le \varepsilon} s(x, y) \le q \}, \qquad
       q = s_{(\lceil (n+1)(1-\alpha) \rceil)},

    with a bound of the minimum below it, from the Lipschitz constants of the model, and with bounds
    of the calibration scores above them.

    Guarantee: if the calibration points and a new point (x, y) are exchangeable, then with
        probability at least :math:`1 - \alpha` the set of **every** x' with
        :math:`\|x' - x\|_2 \le \varepsilon` contains y. The probability is over the calibration
        points and the new point together. It holds for any model, any data and any number of
        points, and with the rounding of the certified program; see `taut.certify` for
        `arithmetic`. A model with a large constant gets large sets, not wrong ones.
    Cost: the proof of the model once; a forward pass for each image.

    Attributes:
        bounds: of the scores; `bounds.certificate` is what is proven of the model.
        threshold: q; infinite if there are too few points for alpha, and then each set is the set
            of all labels.
        alpha: rate of errors.
        eps: l2 radius of the attack.
        count: number of calibration points n.

    Reference:
        Massena et al. (2025), *Efficient Robust Conformal Prediction via Lipschitz-Bounded
        Networks*, sections 2 and 4; arXiv:2506.05434. Here the constant of each pair of classes
        takes the place of that of all logits.

    Example:
        >>> model, images = taut.nn.Linear(4, 3), torch.rand(50, 4)
        >>> found = ConformalClassifier.calibrate(model, images, torch.arange(50) % 3, eps=0.1)
        >>> found.sets(images).shape
        torch.Size([50, 3])
    """

    bounds: ScoreBounds
    threshold: float
    alpha: Alpha
    eps: Eps
    count: int

    @classmethod
    def calibrate(
        cls,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        eps: Eps,
        alpha: Alpha = 0.1,
        score: AbstractScore | None = None,
        calibration_eps: Eps = 0,
        arithmetic: str = "float64",
    ) -> "ConformalClassifier":
        r"""Prove the model, and find the threshold on labelled images that it was not trained on.

        Args:
            model: from images to logits, or to one number f, whose class is 1 where f > 0.
            images: calibration points, floating point in the model's precision.
            labels: their true classes, int64.
            eps: l2 radius within which a new image may be changed; 0 for none.
            alpha: rate of errors, in (0, 1): a number, a fraction or a text such as "1/10".
            score: :class:`Margin` by default; :class:`Logit`, :class:`Softmax` or your own.
            calibration_eps: l2 radius within which calibration images may have been changed.
            arithmetic: "float64", "float32" or "real", as of `taut.certify`.

        Raises:
            UnprovenError: (a NotImplementedError and ValueError) if the model has no proven bound.
            ValueError: if images, labels, eps or alpha are wrong.
        """
        as_radius(eps)
        as_alpha(alpha)
        options = {"score": score or Margin(), "eps": calibration_eps, "arithmetic": arithmetic}
        bounds, scores = _calibrated(model, images, labels, **options)
        return cls(bounds, conformal_threshold(scores, alpha), alpha, eps, len(scores))

    def sets(
        self, images: Float[Tensor, "n ..."], *, eps: Eps | None = None
    ) -> Bool[Tensor, "n k"]:
        """Which labels each set contains.

        Args:
            images: what the model is fed, which an attacker may have changed within eps.
            eps: another radius than that of the calibration, which does not depend on it.

        Returns:
            On the CPU; a set may be empty, where no label suits.

        Raises:
            ValueError: if images or eps are wrong.
        """
        self.bounds.certificate.check_inputs(images)
        below = self.bounds.below(images, self.eps if eps is None else eps)
        return ~(below > self.threshold)  # a score that is no number excludes nothing

    def __repr__(self) -> str:
        lines = [
            f"ConformalClassifier: the true label is in the set with probability >= "
            f"{1 - float(as_alpha(self.alpha)):g}, for inputs changed by at most {self.eps}",
            f"  threshold {self.threshold:.6g} of {self.bounds.score}, from {self.count} points; "
            f"{self.bounds.certificate.meaning}",
        ]
        if self.threshold == float("inf"):
            lines.append(too_few(self.alpha, "each set holds every label"))
        return "\n".join(lines)


@gathers
def _calibrated(
    model: nn.Module, images: Tensor, labels: Tensor, *, score: Any, eps: Eps, arithmetic: str
) -> tuple[ScoreBounds, Tensor]:
    """Bounds of the scores, and those of the true labels from above."""
    shape = checked_shape(model, images, arithmetic)
    check_labels(labels, len(images))
    certificate = prove(model, shape, arithmetic=arithmetic)
    bounds = ScoreBounds(certificate, score)
    for batch in images.split(_BATCH):
        hold_against_model(model, batch, certificate.logits(batch).cpu())
    above = bounds.above(images, eps)
    labels = numbers_of(labels.cpu(), certificate.output_shape)
    if not 0 <= int(labels.min()) <= int(labels.max()) < above.shape[1]:
        raise ValueError(
            f"`labels` must be in 0..{above.shape[1] - 1}; got {labels.min()}..{labels.max()}."
        )
    return bounds, above.gather(1, labels[:, None])[:, 0]
