"""Losses of 1-Lipschitz models, for certified radius and for distances: one a file.

To add a loss, write a file with a frozen dataclass derived from `AbstractImageLoss`, and add its
line here: recipes, the command line and the tests iterate over these exports.
"""

from taut.kinds import exported
from taut.losses._certificate_regularised import CertificateRegularised
from taut.losses._emma import EMMA
from taut.losses._hinge_kr import HingeKR
from taut.losses._hinge_kr_multiclass import HingeKRMulticlass
from taut.losses._inputs import AbstractImageLoss, AbstractLoss, LossInputs, label_counts
from taut.losses._kr import KR
from taut.losses._logit_annealing import LogitAnnealing
from taut.losses._margins import Margins
from taut.losses._multi_margin import MultiMargin
from taut.losses._offset_cross_entropy import OffsetCrossEntropy
from taut.losses._trades import CertifiedTRADES

__all__ = [
    "EMMA",
    "KR",
    "AbstractImageLoss",
    "AbstractLoss",
    "CertificateRegularised",
    "CertifiedTRADES",
    "HingeKR",
    "HingeKRMulticlass",
    "LogitAnnealing",
    "LossInputs",
    "Margins",
    "MultiMargin",
    "OffsetCrossEntropy",
    "kinds",
    "label_counts",
]


def kinds() -> dict[str, type[AbstractLoss]]:
    """The exported losses by their `kind`."""
    return exported(globals(), AbstractLoss)
