"""Orthogonal matrices as exponentials of skew ones."""

import math
from typing import final

from torch import Tensor

from taut.linalg.exponential import exponential
from taut.linalg.rates import wide
from taut.parametrizations._base import AbstractParametrization


@final
class Exponential(AbstractParametrization):
    r"""Semi-orthogonal matrix: the exponential of a skew-symmetric matrix, cropped.

    The weight is the upper left part of :math:`\exp(A)` with :math:`A = R - R^\top`. R is square,
    with as many rows as the larger feature count n. At R = 0 the weight is the identity.

    The exponential of a matrix of large norm is lost to rounding. Every rotation is that of an A
    of norm at most :math:`\pi`, whose rows have sums of moduli of at most :math:`\pi \sqrt n`.
    So A is divided by a number where its largest row has more: that leaves out no rotation. All is
    computed in float64, and rounded to the precision of R at the end.

    Guarantee: :math:`W W^\top = I` or :math:`W^\top W = I`, whichever the shape allows, for every
        finite R. Square weights are rotations (determinant 1): reflections are not reached.
    Cost: one matrix exponential in float64, some ten products of n x n matrices, and eight times
        that in the backward. Prefer :class:`taut.Orthogonal`, unless you need the identity at 0.

    Raises:
        ValueError: if it gets a kernel size (see :class:`taut.nn.SOC2d` for convolutions), or
            groups.

    Reference:
        Lezcano-Casado, Martinez-Rubio (2019), *Cheap Orthogonal Constraints in Neural Networks*,
        arXiv:1901.08428. The bound of the rows is ours.

    Example:
        >>> w = Exponential(5, 3).weight()
        >>> torch.allclose(w @ w.T, torch.eye(3), atol=1e-6)
        True
    """

    guarantee = "orthogonal"
    reference = "Lezcano-Casado, Martinez-Rubio 2019, arXiv:1901.08428"
    matrices_only = True
    raw_matrix: Tensor

    def check_sizes(self) -> None:
        """Dense layers have no groups."""
        self.refuse_groups()

    def raw_shapes(self) -> dict[str, tuple[int, ...]]:
        """A square matrix."""
        side = max(self.in_channels, self.out_channels)
        return {"raw_matrix": (side, side)}

    def weight(self) -> Tensor:
        """The matrix, `(out_channels, in_channels)`."""
        raw = wide(self.raw_matrix)
        skew = raw - raw.T
        most = math.pi * math.sqrt(len(raw))
        scale = skew.abs().sum(1).amax().clamp(min=most) / most
        rotation = exponential(skew / scale, most)
        return rotation[: self.out_channels, : self.in_channels].to(self.raw_matrix.dtype)
