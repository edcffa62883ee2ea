r"""Sums and concatenations of branches with weights that sum to 1.

For branches :math:`v_i` of Lipschitz constant at most 1 and weights :math:`t_i \ge 0` of sum 1,
:math:`\sum_i t_i v_i` has at most 1, and so has the concatenation of :math:`\sqrt{t_i} v_i`, since
:math:`\sum_i t_i |\Delta v_i|^2 \le |\Delta x|^2`.
"""

import math
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from taut._arguments import axis, whole
from taut._sharding import draws


def below_one(weights: Tensor) -> float:
    """A factor that covers the rounding of weights: 8 units of the last place below 1."""
    return 1 - 8 * torch.finfo(weights.dtype).eps


class _Convex(nn.Module):
    def __init__(
        self, branches: int = 2, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.branches = whole("branches", branches)
        self.raw = nn.Parameter(torch.empty(self.branches, device=device, dtype=dtype))
        self.reset_parameters()

    @draws
    def reset_parameters(self) -> None:
        """Equal weights."""
        nn.init.zeros_(self.raw)

    def weights(self) -> Float[Tensor, " n"]:
        """The weights of the branches; positive, of sum 1 less what rounding may add."""
        return torch.softmax(self.raw, 0) * below_one(self.raw)

    def _checked(self, values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if len(values) != self.branches:
            raise ValueError(f"`values` must be {self.branches}; got {len(values)}.")
        return values

    def extra_repr(self) -> str:
        """The number of branches."""
        return f"branches={self.branches}"


@final
class ConvexSum(_Convex):
    r"""Convex combination of branches, with learnable weights :math:`t_i > 0` of sum 1.

    In place of the sum of a residual block, `ConvexSum()(x, f(x))` is 1-Lipschitz where f is;
    `x + f(x)` may be 2-Lipschitz.

    Guarantee: 1-Lipschitz in l2 as a function of what all branches are functions of. Values that
        are broadcast count with the root of how often they are copied.

    Args:
        branches: how many values are added.
        device, dtype: of the weights.

    Raises:
        ValueError: if `branches` is not a positive integer, or other than the number of values.

    Example:
        >>> ConvexSum()(torch.ones(1, 2), 3 * torch.ones(1, 2)).round(decimals=4).tolist()
        [[2.0, 2.0]]
    """

    def forward(self, *values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Add up."""
        shape = torch.broadcast_shapes(*(value.shape[1:] for value in self._checked(values)))
        total = None
        for value, weight in zip(values, self.weights(), strict=True):
            copies = math.prod(shape) / math.prod(value.shape[1:])
            term = value * weight if copies == 1 else value * weight * copies**-0.5
            total = term if total is None else total + term
        assert total is not None
        return total


@final
class ConvexConcat(_Convex):
    r"""Concatenate branches, each times the root of a learnable weight :math:`t_i > 0` of sum 1.

    Guarantee: 1-Lipschitz in l2 as a function of what all branches are functions of; parts of one
        value need no weights, they may simply be concatenated.

    Args:
        branches: how many values are concatenated.
        dim: along this axis.
        device, dtype: of the weights.

    Raises:
        ValueError: if `branches` is not a positive integer, or other than the number of values.

    Example:
        >>> joined = ConvexConcat()(torch.ones(1, 2), torch.ones(1, 2))
        >>> f"{joined.norm():.3f}"
        '1.414'
    """

    def __init__(
        self,
        branches: int = 2,
        dim: int = 1,
        *,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(branches, device=device, dtype=dtype)
        self.dim = axis("dim", dim)

    def forward(self, *values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Concatenate."""
        weights = self.weights()
        roots = weights.clamp(min=torch.finfo(weights.dtype).tiny).sqrt()  # 0 has no gradient
        parts = [value * t for value, t in zip(self._checked(values), roots, strict=True)]
        return torch.cat(parts, self.dim)
