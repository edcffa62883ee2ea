"""Orthogonal matrices as products of Householder reflections."""

from typing import Any, final

import torch
from torch import Tensor

from taut._arguments import whole
from taut.linalg.rates import wide
from taut.parametrizations._base import AbstractParametrization


@final
class Householder(AbstractParametrization):
    r"""Semi-orthogonal matrix: a product of Householder reflections, cropped.

    The columns of the raw matrix V are the vectors :math:`v_1 .. v_r` of reflections :math:`H_i = I
    - 2 v_i v_i^\top / v_i^\top v_i`. Their product is one matrix, the compact WY form

    .. math:: H_1 \cdots H_r = I - V T V^\top, \qquad
        T^{-1} = \mathrm{triu}(V^\top V, 1) + \tfrac12 \mathrm{diag}(V^\top V)

    which is orthogonal since :math:`T^{-1} + T^{-\top} = V^\top V`. The weight is its upper left
    part. A zero column is no reflection: its factor is the identity. Computed in float64, and
    rounded to the precision of V at the end: T may be large where columns are nearly parallel.

    Guarantee: :math:`W W^\top = I` or :math:`W^\top W = I`, whichever the shape allows, for every
        finite V. With n reflections, n the larger feature count, and no column zero, a square
        weight has the determinant :math:`(-1)^n`.
    Cost: one product :math:`V^\top V`, one triangular solve and one product: about
        :math:`2 n r^2 + 2 n r m` multiplications in float64, m the smaller feature count. Few
        reflections make a cheap weight close to the identity.

    Args:
        in_channels: features of the input.
        out_channels: features of the output.
        kernel_size: `()`; only matrices have this form.
        reflections: r; None for the smaller feature count.
        options: device and dtype, as :class:`AbstractParametrization` has them.

    Raises:
        ValueError: as the base class; if it gets a kernel size or groups, or `reflections` is not a
            positive integer.

    Reference:
        Joffrain et al. (2006), *Accumulating Householder Transformations, Revisited*;
        Mhammedi et al. (2017), *Efficient Orthogonal Parametrisation of Recurrent Neural Networks
        Using Householder Reflections*, arXiv:1612.00188.

    Example:
        >>> w = Householder(5, 3, reflections=2).weight()
        >>> torch.allclose(w @ w.T, torch.eye(3), atol=1e-6)
        True
    """

    guarantee = "orthogonal"
    reference = "Mhammedi et al. 2017, arXiv:1612.00188; compact WY form"
    matrices_only = True
    raw_vectors: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, ...] = (),
        *,
        reflections: int | None = None,
        **options: Any,
    ) -> None:
        self.reflections = None if reflections is None else whole("reflections", reflections)
        super().__init__(in_channels, out_channels, kernel_size, **options)

    def check_sizes(self) -> None:
        """Dense layers have no groups."""
        self.refuse_groups()

    def raw_shapes(self) -> dict[str, tuple[int, ...]]:
        """The vectors, as columns."""
        narrow, wide = sorted((self.in_channels, self.out_channels))
        return {"raw_vectors": (wide, self.reflections or narrow)}

    def reset_parameters(self) -> None:
        """Draw the vectors anew: normally distributed, so that their directions are uniform."""
        with torch.no_grad():
            self.raw_vectors.normal_()

    def weight(self) -> Tensor:
        """The matrix, `(out_channels, in_channels)`."""
        raw = wide(self.raw_vectors)
        # A reflection does not see the length of its vector: near 1, squares stay in range.
        lengths = raw.detach().abs().amax(0)
        vectors = raw / torch.where(lengths > 0, lengths, 1.0)
        gram = vectors.T @ vectors
        halves = gram.diagonal() / 2
        halves = torch.where(lengths > 0, halves, 1.0)  # T is then 1, of a column that is 0
        inverse = gram.triu(1) + halves.diag()
        rows = torch.linalg.solve_triangular(inverse, vectors[: self.in_channels].T, upper=True)
        sizes = (self.out_channels, self.in_channels)
        identity = torch.eye(*sizes, dtype=rows.dtype, device=rows.device)
        return (identity - vectors[: self.out_channels] @ rows).to(self.raw_vectors.dtype)

    def extra_repr(self) -> str:
        """The sizes and the number of reflections."""
        return f"{super().extra_repr()}, reflections={self.raw_vectors.shape[1]}"
