"""Threats: what an attacker may change, and certified radii for it, all from one Lipschitz bound.

To add a threat, write a file with a frozen dataclass derived from `AbstractThreat`, and add its
line here: the documentation and the tests iterate over these exports.
"""

from taut.kinds import exported
from taut.threats._ball import AbstractBall
from taut.threats._base import AbstractThreat
from taut.threats._brightness import Brightness
from taut.threats._certify import certify
from taut.threats._contrast import Contrast
from taut.threats._l0 import L0
from taut.threats._l1 import L1
from taut.threats._l2 import L2
from taut.threats._linf import Linf
from taut.threats._mask import Mask
from taut.threats._result import ThreatCertification
from taut.threats._rotation import Rotation
from taut.threats._transformation import AbstractTransformation
from taut.threats._translation import Translation
from taut.threats._weighted_l2 import WeightedL2

__all__ = [
    "L0",
    "L1",
    "L2",
    "AbstractBall",
    "AbstractThreat",
    "AbstractTransformation",
    "Brightness",
    "Contrast",
    "Linf",
    "Mask",
    "Rotation",
    "ThreatCertification",
    "Translation",
    "WeightedL2",
    "certify",
    "kinds",
]


def kinds() -> dict[str, type[AbstractThreat]]:
    """The exported threats by their `kind`."""
    return exported(globals(), AbstractThreat)
