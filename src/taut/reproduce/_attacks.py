"""The attacks of the paper's tables."""

from collections.abc import Iterable

import torch
from torch import nn

from taut.attacks import FGSM, PGD, AbstractAttack, attack
from taut.reproduce._table import Kind

# PGD by the paper's protocol; the last two by the name that the driver knows.
ATTACKS: dict[Kind, str | AbstractAttack] = {
    "pgd": PGD(steps=200, step_size=0.01),
    "fgsm": FGSM(),
    "boundary": "boundary",
    "pointwise": "pointwise",
}


def check_attacks(kinds: Iterable[Kind]) -> None:
    """Fails on no images as an attack would on all of them, hours later.

    Args:
        kinds: of a table's columns.

    Raises:
        ImportError: if an attack needs an extra that is not installed.

    Example:
        >>> check_attacks(["clean", "pgd"])
    """
    images, labels = torch.zeros(0, 1, 1, 1), torch.zeros(0, dtype=torch.int64)
    for kind in kinds:
        if kind in ATTACKS:
            attack(nn.Flatten(), images, labels, 1, ATTACKS[kind])
