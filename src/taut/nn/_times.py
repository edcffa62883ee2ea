"""A constant factor as a layer."""

import math
from typing import final

from jaxtyping import Float
from torch import Tensor, nn


@final
class Times(nn.Module):
    """Multiply by a number, whose absolute value is the Lipschitz constant.

    Args:
        factor: a finite number.

    Raises:
        ValueError: if it is not finite.

    Example:
        >>> Times(0.5)(torch.ones(1, 2))
        tensor([[0.5000, 0.5000]])
    """

    def __init__(self, factor: float) -> None:
        super().__init__()
        if not math.isfinite(factor):
            raise ValueError(f"`factor` must be a finite number; got {factor}.")
        self.factor = float(factor)

    def forward(self, input: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Multiply."""
        return input * self.factor

    def extra_repr(self) -> str:
        """The number."""
        return f"factor={self.factor}"
