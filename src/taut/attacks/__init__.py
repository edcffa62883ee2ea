"""Attacks in l2: they bound the robust accuracy from above, as a certificate does from below.

One driver runs every attack, keeps its result inside the eps ball and the pixel box, and judges
success itself. To add an attack, write one file with a final subclass of `AbstractAttack` and add
its line here: `taut.attack`, the command line, the docs and the tests iterate over these exports.
"""

from taut.attacks._base import AbstractAttack, AbstractSmallestAttack
from taut.attacks._ddn import DDN
from taut.attacks._driver import attack, methods, smallest_attack
from taut.attacks._fgsm import FGSM
from taut.attacks._foreign import (
    AutoAttack,
    BoundaryAttack,
    CarliniWagner,
    DeepFool,
    PointwiseAttack,
)
from taut.attacks._hold import hold
from taut.attacks._kept import ATTACKS, Attacked, read_attacks
from taut.attacks._pgd import PGD
from taut.attacks._result import AttackResult
from taut.attacks._strongest import Strongest, strongest
from taut.attacks._trials import PAPER, AttackTrial, Target, plan, run_trial

__all__ = [
    "ATTACKS",
    "DDN",
    "FGSM",
    "PAPER",
    "PGD",
    "AbstractAttack",
    "AbstractSmallestAttack",
    "AttackResult",
    "AttackTrial",
    "Attacked",
    "AutoAttack",
    "BoundaryAttack",
    "CarliniWagner",
    "DeepFool",
    "PointwiseAttack",
    "Strongest",
    "Target",
    "attack",
    "hold",
    "methods",
    "plan",
    "read_attacks",
    "run_trial",
    "smallest_attack",
    "strongest",
]
