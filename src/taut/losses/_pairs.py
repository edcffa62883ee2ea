"""How fast the margin between two classes may move."""

import math
from fractions import Fraction

import torch
from torch import Tensor

from taut._arguments import is_number
from taut.losses._inputs import LossInputs

Radius = int | float | str
"""An l2 radius: a number, or a text such as "36/255"."""


def radius_of(eps: Radius) -> float:
    """The number of a radius that is > 0."""
    try:
        # A ratio of two numbers; any other text as floats are read, whatever its exponent.
        known = is_number(eps) or isinstance(eps, str)
        value = float(Fraction(eps) if isinstance(eps, str) and "/" in eps else eps) if known else 0
    except (ValueError, ArithmeticError):
        value = 0.0
    if not 0 < value < math.inf:
        raise ValueError(f'`eps` must be a positive number or a text like "36/255"; got {eps!r}.')
    return value


def radius_setting(name: str, eps: Radius) -> float | str:
    """A setting that is a radius > 0, as recipes store it: a text stays, a number is a float."""
    value = radius_of(eps)
    return eps if isinstance(eps, str) else value


def pair_constants(inputs: LossInputs, classes: Tensor) -> Tensor:
    r"""By how much :math:`z_i - z_j` may move for one unit of the input, `(n, classes)`; i given.

    :math:`L \|w_i - w_j\|` for features of constant L behind rows w, and :math:`\sqrt2 L` where
    the logits as one map have the constant L; 0 for j = i. The rows of `head` are read with their
    gradient; the bound with its own, if it is a tensor that has one.
    """
    logits, head, bound = inputs.logits, inputs.head, inputs.constant
    if head is None:
        others = torch.ones_like(logits).scatter(1, classes[:, None], 0.0)
        return others * (2**0.5 * bound)
    if head.ndim != 2 or len(head) != logits.shape[1]:
        raise ValueError(
            f"`head` must be of shape ({logits.shape[1]}, features), a row for each class; got "
            f"{tuple(head.shape)}."
        )
    same = torch.eye(len(head), dtype=head.dtype, device=head.device)
    # The norm of a difference that is 0 has no gradient: keep those of i = j away from it.
    squares = (head[:, None] - head[None]).square().sum(2) + same
    distances = squares.clamp(min=torch.finfo(head.dtype).tiny).sqrt() * (1 - same)
    return distances[classes] * bound
