r"""Intervals that contain the true value with a proven probability, also under attack."""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from taut._arguments import check_tensor
from taut._sharding import gathers
from taut.certification import (
    Certificate,
    Eps,
    as_radius,
    checked_shape,
    class_logits,
    hold_against_model,
    output_constants,
    output_error,
    prove,
)
from taut.conformal._quantile import Alpha, as_alpha, conformal_threshold, too_few
from taut.linalg.rounding import next_down, next_up

__all__ = ["ConformalRegressor"]

_BATCH = 256


@final
@dataclass(frozen=True, eq=False, repr=False)
class ConformalRegressor:
    r"""A regressor whose answer is an interval for each output; made by :meth:`calibrate`.

    .. math:: |y_i - \hat f_i(x')| \le q + L_i \varepsilon, \qquad
       q = s_{(\lceil (n+1)(1-\alpha) \rceil)}, \quad s = \max_i |y_i - \hat f_i(x)|,

    :math:`L_i` the constant of the output i, as of `taut.certified_interval`.

    Guarantee: if the calibration points and a new point (x, y) are exchangeable, then with
        probability at least :math:`1 - \alpha` the intervals of **every** x' with
        :math:`\|x' - x\|_2 \le \varepsilon` contain y, all outputs together. The probability is
        over the calibration points and the new point together. It holds for any model, any data
        and any number of points, and with the rounding of the certified program.
    Cost: the proof of the model once; a forward pass for each input.

    Attributes:
        certificate: what is proven of the model.
        threshold: q; infinite if there are too few points for alpha, and so are the intervals.
        alpha: rate of errors.
        eps: l2 radius of the attack.
        count: number of calibration points n.

    Reference:
        Papadopoulos et al. (2002), *Inductive Confidence Machines for Regression*. Under attack:
        Jeary et al. (2024), *Verifiably Robust Conformal Prediction*; arXiv:2405.18942.

    Example:
        >>> model, x = taut.nn.scaled(taut.nn.Linear(2, 1), 3), torch.rand(50, 2)
        >>> found = ConformalRegressor.calibrate(model, x, x.sum(1, keepdim=True), eps=0.1)
        >>> lower, upper = found.intervals(x)
        >>> bool((upper - lower > 2 * 3 * 0.1).all())
        True
    """

    certificate: Certificate
    threshold: float
    alpha: Alpha
    eps: Eps
    count: int

    @classmethod
    def calibrate(
        cls,
        model: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        *,
        eps: Eps,
        alpha: Alpha = 0.1,
        calibration_eps: Eps = 0,
        arithmetic: str = "float64",
    ) -> "ConformalRegressor":
        r"""Prove the model, and find the threshold on points that it was not trained on.

        Args:
            model: from inputs to outputs of any shape.
            inputs: calibration points, floating point in the model's precision.
            targets: true values, of the shape of the outputs.
            eps: l2 radius within which a new input may be changed; 0 for none.
            alpha: rate of errors, in (0, 1): a number, a fraction or a text such as "1/10".
            calibration_eps: l2 radius within which calibration inputs may have been changed.
            arithmetic: "float64", "float32" or "real", as of `taut.certify`.

        Raises:
            UnprovenError: (a NotImplementedError and ValueError) if the model has no proven bound.
            ValueError: if inputs, targets, eps or alpha are wrong.
        """
        as_radius(eps)
        as_alpha(alpha)
        found = _calibrated(model, inputs, targets, as_radius(calibration_eps), arithmetic)
        certificate, scores = found
        return cls(certificate, conformal_threshold(scores, alpha), alpha, eps, len(scores))

    def intervals(
        self, inputs: Float[Tensor, "n ..."], *, eps: Eps | None = None
    ) -> tuple[Float[Tensor, "n *o"], Float[Tensor, "n *o"]]:
        """Lower and upper ends for each output.

        Args:
            inputs: what the model is fed, which an attacker may have changed within eps.
            eps: another radius than that of the calibration, which does not depend on it.

        Returns:
            In float64 on the CPU.

        Raises:
            ValueError: if inputs or eps are wrong.
        """
        self.certificate.check_inputs(inputs)
        radius = as_radius(self.eps if eps is None else eps)
        outputs, room = _outputs(self.certificate, inputs, radius)
        room = next_up(room + self.threshold)
        return next_down(outputs - room), next_up(outputs + room)

    def __repr__(self) -> str:
        lines = [
            f"ConformalRegressor: the true values are in the intervals with probability >= "
            f"{1 - float(as_alpha(self.alpha)):g}, for inputs changed by at most {self.eps}",
            f"  threshold {self.threshold:.6g}, from {self.count} points; "
            f"{self.certificate.meaning}",
        ]
        if self.threshold == math.inf:
            lines.append(too_few(self.alpha, "each interval is the whole line"))
        return "\n".join(lines)


@gathers
def _calibrated(
    model: nn.Module, inputs: Tensor, targets: Tensor, radius: float, arithmetic: str
) -> tuple[Certificate, Float[Tensor, " n"]]:
    """The certificate, and the scores of the points from above."""
    shape = checked_shape(model, inputs, arithmetic)
    certificate = prove(model, shape, arithmetic=arithmetic)
    outputs, room = _outputs(certificate, inputs, radius)
    for batch, computed in zip(inputs.split(_BATCH), outputs.split(_BATCH), strict=True):
        hold_against_model(model, batch, class_logits(computed))
    check_tensor("targets", targets)
    if targets.shape != outputs.shape or not bool(targets.isfinite().all()):
        raise ValueError(
            f"`targets` must be finite, of the shape of the outputs {tuple(outputs.shape)}; got "
            f"{tuple(targets.shape)}."
        )
    off = next_up((targets.cpu().double() - outputs).abs())
    return certificate, next_up(off + room).reshape(len(off), -1).amax(1)


def _outputs(
    certificate: Certificate, inputs: Tensor, radius: float
) -> tuple[Float[Tensor, "n *o"], Float[Tensor, "n *o"]]:
    """Computed outputs, and how far from each the exact output within the radius may be."""
    outputs = torch.cat([certificate.outputs(part).cpu() for part in inputs.split(_BATCH)]).double()
    moves = next_up(output_constants(certificate) * radius)
    error = output_error(certificate, inputs).reshape(-1, *[1] * moves.dim())
    room = torch.where(outputs.isfinite(), next_up(moves + error), math.inf)
    return outputs.nan_to_num(0.0, 0.0, 0.0), room.nan_to_num(math.inf)
