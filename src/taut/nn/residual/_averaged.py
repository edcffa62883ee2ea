r"""A fixed mean of the input and a nonexpansive branch."""

from typing import Any, final

from jaxtyping import Float
from torch import Tensor, nn

from taut._arguments import is_number
from taut.nn.residual._wrappers import as_module, check_shape

COVERED = 1 - 2.0**-13
"""Factor of the branch: covers bounds up to 1 + 2^-13, as float32 kernels of deep nets have."""


@final
class Averaged(nn.Module):
    r"""The averaged operator :math:`(1 - w) x + w N(x)` with a fixed weight w.

    N is `f` times :math:`1 - 2^{-13}`: kernels in float32 have norms a little above 1, and N must
    not. With w = 1/2, the default, the module D and :math:`x - D(x)` are both firmly nonexpansive:
    :math:`\|D x - D y\|^2 + \|(x - D x) - (y - D y)\|^2 \le \|x - y\|^2`.

    Guarantee: w-averaged, hence 1-Lipschitz in l2, if the constant of f is at most
        :math:`1 + 2^{-13}`; :func:`taut.inverse.averagedness` proves it for the weights as they
        are. :class:`ConvexResidual` learns its weight, this module keeps it.
    Cost: f, two products and a sum.

    Args:
        f: any module that keeps the shape of its input.
        weight: w, above 0 and below 1.

    Raises:
        ValueError: if f is no module, or the weight is no such number; (forward) if f changes the
            shape.

    Reference:
        Combettes, Yamada (2015), *Compositions and convex combinations of averaged nonexpansive
        operators*, definition 1.1; arXiv:1407.5100.

    Example:
        >>> block = Averaged(taut.nn.Abs())
        >>> block(torch.tensor([[-4.0, 4.0]])).abs().round(decimals=2)
        tensor([[0., 4.]])
        >>> taut.inverse.averagedness(block, (2,))
        0.5
    """

    def __init__(self, f: nn.Module, weight: float = 0.5) -> None:
        super().__init__()
        if not is_number(weight) or not 0 < weight < 1:
            raise ValueError(f"`weight` must be above 0 and below 1; got {weight!r}.")
        self.f, self.weight = as_module(f), float(weight)

    def forward(self, input: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Mean of the input and f."""
        y: Any = self.f(input)
        check_shape(input, y)
        return input * (1 - self.weight) + y * (self.weight * COVERED)

    def extra_repr(self) -> str:
        """The weight."""
        return f"weight={self.weight}"
