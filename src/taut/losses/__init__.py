"""Losses of 1-Lipschitz models, for certified radius and for distances: one a file.

Each is a function and a module.
"""

from taut.losses.hkr import HingeKR, HingeKRMulticlass, hinge_kr, hinge_kr_multiclass
from taut.losses.kr import KR, kr
from taut.losses.multi_margin import MultiMargin, multi_margin
from taut.losses.offset_cross_entropy import OffsetCrossEntropy, offset_cross_entropy

__all__ = [
    "KR",
    "HingeKR",
    "HingeKRMulticlass",
    "MultiMargin",
    "OffsetCrossEntropy",
    "hinge_kr",
    "hinge_kr_multiclass",
    "kr",
    "multi_margin",
    "offset_cross_entropy",
]
