"""Cross-entropy of logits moved by margins that adapt to each image."""

from dataclasses import dataclass
from typing import final

import torch.nn.functional as F
from torch import Tensor

from taut._arguments import check_fields, unit_share
from taut.losses._inputs import (
    AbstractImageLoss,
    LossInputs,
    classification,
)
from taut.losses._pairs import Radius, pair_constants, radius_of, radius_setting

_LEAST = 0.01


@final
@dataclass(frozen=True)
class EMMA(AbstractImageLoss):
    r"""EMMA, efficient margin maximisation: cross-entropy at bounded worst-case logits.

    Within :math:`\varepsilon` the logit of class j gains at most :math:`c_{yj}\varepsilon` on that
    of the label y, with :math:`c_{yj} = L \|w_y - w_j\|`. The loss is the cross-entropy of

    .. math:: z_j + r_j\, c_{yj}\, \varepsilon, \qquad
        r_j = \operatorname{clip}\Bigl(\frac{z_y - z_j}{c_{yj}\,\varepsilon}, 0.01, 1\Bigr),

    so that a class which an input within :math:`\varepsilon` could reach is moved up to the label
    and no further, and one that is out of reach by all that is allowed. No gradient flows through
    r; it flows through :math:`c_{yj}`, hence through `head`, and through `bound` if it is a tensor
    that requires one, which keeps both small.

    `taut train` gives the rows of the last layer, and the bound of its features, proven anew at the
    start of each epoch: a number for orthogonal layers, whose constant is 1 at every step. Where
    layers promise no constant, as in LiResNet, it is a tensor that follows their norms from step to
    step, with a gradient. :class:`Margins` gives the same to loops of your own.

    Args:
        eps: the radius aimed at, in the units of the images; a number or a text such as "36/255".
        start: share of `eps` at which the training starts; in (0, 1].
        ramp: share of the training over which the radius grows to `eps`, linearly; 0 for at once.
            It needs `progress`; without one the radius is `eps`.
        smoothing: share of each label that goes to all classes alike; in [0, 1).

    Raises:
        ValueError: if a setting is out of range; on calling, if logits are not `(n, classes)`,
            labels are not class indices, or the head does not have a row for each class.

    Reference:
        Hu et al. (2023), *Unlocking Deterministic Robustness Certification on ImageNet*,
        section 5; arXiv:2301.12549. `bound` is what the caller proves or estimates; theirs is an
        estimate by power iteration, which `Margins` starts from a proof.

    Example:
        >>> loss = EMMA(eps=0.5)
        >>> loss(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
        tensor(0.2425)
    """

    kind = "emma"
    uses_bound = True

    eps: Radius = "108/255"
    start: float = 1 / 30
    ramp: float = 0.5
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self, radius_setting, "eps")
        check_fields(self, unit_share, "start", zero=False)
        check_fields(self, unit_share, "ramp")
        check_fields(self, unit_share, "smoothing", one=False)

    def radius(self, progress: float | None) -> float:
        """The radius after a share of the training."""
        if progress is None or progress >= self.ramp:
            return radius_of(self.eps)
        return radius_of(self.eps) * (self.start + (1 - self.start) * progress / self.ramp)

    def each(self, inputs: LossInputs) -> Tensor:
        """The loss of each image."""
        logits, labels = classification(inputs)
        allowed = pair_constants(inputs, labels) * self.radius(inputs.progress)
        lead = (logits.gather(1, labels[:, None]) - logits).detach()
        # The label has lead 0 and allowance 0: it stays.
        share = (lead / allowed.detach().clamp(min=1e-30)).clamp(_LEAST, 1.0)
        moved = logits + share * allowed
        return F.cross_entropy(moved, labels, reduction="none", label_smoothing=self.smoothing)
