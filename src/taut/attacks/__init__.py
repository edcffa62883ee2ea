"""Attacks in l2: what an adversary finds, beside what a certificate promises.

An attack bounds the true robust accuracy from above, a certificate from below. One driver runs
every method, keeps its result inside the eps ball and the pixel box, and judges success itself.
"""

from taut.attacks._base import AbstractAttack, AbstractSmallestAttack
from taut.attacks._driver import METHODS, AttackResult, attack, make_method, smallest_attack
from taut.attacks._hold import Certified, hold
from taut.attacks.attacked import ATTACKS, Attacked, read_attacks, write_attacks
from taut.attacks.autoattack import AutoAttack
from taut.attacks.boundary import BoundaryAttack
from taut.attacks.carlini_wagner import CarliniWagner
from taut.attacks.ddn import DDN
from taut.attacks.deepfool import DeepFool
from taut.attacks.fgsm import FGSM
from taut.attacks.pgd import PGD
from taut.attacks.pointwise import PointwiseAttack
from taut.attacks.strongest import Outcome, Strongest, strongest
from taut.attacks.trials import PAPER, Target, Trial, kept_attacks, plan, run_trial

__all__ = [
    "ATTACKS",
    "DDN",
    "FGSM",
    "METHODS",
    "PAPER",
    "PGD",
    "AbstractAttack",
    "AbstractSmallestAttack",
    "AttackResult",
    "Attacked",
    "AutoAttack",
    "BoundaryAttack",
    "CarliniWagner",
    "Certified",
    "DeepFool",
    "Outcome",
    "PointwiseAttack",
    "Strongest",
    "Target",
    "Trial",
    "attack",
    "hold",
    "kept_attacks",
    "make_method",
    "plan",
    "read_attacks",
    "run_trial",
    "smallest_attack",
    "strongest",
    "write_attacks",
]
