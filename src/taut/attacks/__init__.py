"""Attacks in l2: what an adversary finds, beside what a certificate promises.

An attack bounds the true robust accuracy from above, a certificate from below. One driver runs
every method, keeps its result inside the eps ball and the pixel box, and judges success itself.
"""

from taut.attacks._base import AbstractAttack
from taut.attacks._driver import METHODS, AttackResult, attack, smallest_attack
from taut.attacks.ddn import DDN
from taut.attacks.fgsm import FGSM
from taut.attacks.pgd import PGD

__all__ = [
    "DDN",
    "FGSM",
    "METHODS",
    "PGD",
    "AbstractAttack",
    "AttackResult",
    "attack",
    "smallest_attack",
]
