"""Last layers whose rows have norm 1: certified by the differences of rows."""

from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from taut._arguments import whole
from taut.nn._linear import AbstractDense
from taut.parametrizations import AbstractParametrization


def unit_rows(raw: Tensor) -> Tensor:
    """Rows divided by their norms; a row of zeros becomes one of equal entries."""
    largest = raw.detach().abs().amax(1, keepdim=True)
    zero = largest < torch.finfo(raw.dtype).tiny
    # Rows of largest entry 1, so that no square over- or underflows; no row divides by 0.
    rows = torch.where(zero, 1.0, raw / torch.where(zero, 1.0, largest))
    return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)


@final
class _UnitRows(AbstractParametrization):
    """A matrix with rows of norm 1: a raw one, each row divided by its norm."""

    guarantee = "none"
    matrices_only = True
    reference = "Singla, Singla, Feizi 2022, arXiv:2108.04062"
    raw_rows: Tensor

    def raw_shapes(self) -> dict[str, tuple[int, ...]]:
        """The matrix before its rows are divided."""
        return {"raw_rows": (self.out_channels, self.in_channels)}

    def reset_parameters(self) -> None:
        """Draw the rows anew, uniformly from the sphere."""
        with torch.no_grad():
            self.raw_rows.normal_()

    def weight(self) -> Tensor:
        """The matrix; a row of zeros has no direction, and becomes one of equal entries."""
        return unit_rows(self.raw_rows)

    def raw_of(self, weight: Tensor) -> dict[str, Tensor]:
        """The matrix itself."""
        return {"raw_rows": weight}


class AbstractUnitLinear(AbstractDense):
    """A dense layer whose matrix comes from one parametrization."""

    method: ClassVar[type[AbstractParametrization]]

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._set_gain(1.0)
        self.in_features = whole("in_features", in_features)
        self.out_features = whole("out_features", out_features)
        factory = {"device": device, "dtype": dtype}
        matrix = self.method(self.in_features, self.out_features, **factory)
        self._set_parameters(matrix, self.out_features, bias, **factory)

    def forward(self, input: Float[Tensor, "*b n"]) -> Float[Tensor, "*b n2"]:
        """Multiply by the matrix and add the bias."""
        return F.linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Bias; the matrix prints the sizes."""
        return f"bias={self.bias is not None}"


@final
class UnitRowLinear(AbstractUnitLinear):
    r"""Last layer of a classifier: a matrix with unit rows, certified for each pair of classes.

    .. math:: z_i = \langle w_i, f(x) \rangle + b_i, \qquad \|w_i\| = 1

    Guarantee: each logit is as Lipschitz as the features f; **the logits as one map are not**.
        :math:`\|W\|` may be up to the root of the number of classes: SLL's published nets for
        CIFAR-100, which end in such a layer, have a constant of 1.8 as maps. What counts for a
        radius is how fast :math:`z_i - z_j` moves, :math:`\|w_i - w_j\| L_f`, which lies between 0
        and :math:`2 L_f`, and may be above the :math:`\sqrt 2` of an orthogonal layer.
        :func:`taut.certify`, :func:`taut.predict` and :func:`taut.certified_radius` take it from
        the rows as they are; the number of :func:`taut.lipschitz_bound` counts :math:`\|W\|`.
    Cost: the plain layer, and its rows divided by their norms.

    Rows may be at any angle, where an orthogonal layer keeps all pairs at a right one. The length
    of a raw row does not matter. `reset_parameters` draws rows uniformly from the sphere. A raw row
    of zeros becomes one of equal entries, without a gradient.

    Args:
        in_features: size of each input.
        out_features: size of each output, the number of classes.
        bias: whether to add a learnable bias.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Raises:
        ValueError: if a size is not a positive integer.

    Reference:
        Singla, Singla, Feizi (2022), *Improved deterministic l2 robustness on CIFAR-10 and
        CIFAR-100*, last layer normalisation and proposition 1; arXiv:2108.04062.

    Example:
        >>> layer = UnitRowLinear(8, 3)
        >>> torch.allclose(layer.weight.norm(dim=1), torch.ones(3))
        True
    """

    method = _UnitRows
