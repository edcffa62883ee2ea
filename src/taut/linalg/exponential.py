"""The exponential of a matrix of bounded norm, by products alone."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

_LARGEST = 0.5  # norm of what the series is taken of


def exponential(a: Float[Tensor, "n n"], bound: float) -> Float[Tensor, "n n"]:
    r"""The exponential of a matrix whose norm is at most `bound`.

    Scaling and squaring: the Taylor series of degree 15 of :math:`A / 2^s`, of norm at most 1/2,
    is off by less than :math:`2^{-16} / 16! \cdot 2 < 2 \cdot 10^{-18}`, and is squared s times.
    `torch.linalg.matrix_exp` chooses its degree by the norm, for which it waits for the device, and
    differentiates by an exponential of twice the size, of eight times as many operations.

    Cost: 6 + s products, and twice as many in the backward pass.

    Reference:
        Paterson, Stockmeyer (1973), SIAM J. Comput. 2: polynomials by few products.

    Example:
        >>> half_turn = exponential(torch.tensor([[0.0, -torch.pi], [torch.pi, 0.0]]), 3.2)
        >>> torch.allclose(half_turn, -torch.eye(2), atol=1e-6)
        True
    """
    squarings = max(0, math.ceil(math.log2(bound / _LARGEST)))
    x = a * 0.5**squarings
    powers = [torch.eye(len(a), dtype=a.dtype, device=a.device), x, x @ x]
    powers.append(powers[2] @ x)
    fourth = powers[2] @ powers[2]

    def terms(first: int) -> Tensor:
        parts = [power / math.factorial(first + i) for i, power in enumerate(powers)]
        return parts[0] + parts[1] + parts[2] + parts[3]

    result = terms(12)
    for first in (8, 4, 0):
        result = terms(first) + fourth @ result
    for _ in range(squarings):
        result = result @ result
    return result
