"""Nets that are monotone in chosen features, and first layers whose columns have norm 1."""

import math
from collections.abc import Iterable
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn
from torch.nn import functional as F

from taut._arguments import is_number
from taut.nn._unit_row_linear import AbstractUnitLinear, unit_rows
from taut.parametrizations import AbstractParametrization

_ROOM = 1 + 2.0**-10
"""How much steeper the linear term is than the slope it outweighs: rounded weights of a model that
is 1-Lipschitz by construction may exceed 1 by some units of the last place of float32."""


@final
class Monotone(nn.Module):
    r"""Make a model monotone in chosen features, by a linear term that outweighs its slopes.

    .. math:: g(x) = f(x) + c \sum_i s_i x_i, \qquad s_i \in \{1, 0, -1\}

    Guarantee: if each output of f changes by at most c per unit of a feature with :math:`s_i = 1`,
        g is nondecreasing in it, with slopes between 0 and 2 c; nonincreasing for
        :math:`s_i = -1`. (The factor in use is :math:`c (1 + 2^{-10})`, because the weights of a
        float32 model exceed their constraint by rounding.) :func:`taut.slopes` proves it from the
        weights; this module proves nothing, and takes any f.
    Cost: f, and one more linear output.

    A 1-Lipschitz f has c = 1, but its *gradient* has norm at most 1: then g cannot be flat in two
    features at once. With :class:`UnitColumnLinear` as the first layer each slope is at most 1, and
    all may be so at once, which fits more functions. For steeper ones multiply the output of f by a
    number (:class:`Times`) and set `constant` to it. A sigmoid behind g keeps the order.

    Args:
        model: f, from `(batch, features)` to `(batch, outputs)`; bounded by taut for the proof.
        directions: one of 1 (nondecreasing), -1 (nonincreasing) and 0 (free) for each feature.
        constant: c, the largest slope of f in the features with a direction; a number, or one for
            each feature. `taut.slopes(f, shape).upper` are those of any net f as it is now.
        device, dtype: of the coefficients.

    Raises:
        ValueError: if f is no module, a direction is none of 1, 0 and -1, or a constant is no
            positive finite number; (forward) if sizes do not fit.

    Reference:
        Nolte, Kitouni, Williams (2023), *Expressive monotonic neural networks*, section 3;
        arXiv:2307.07512. There the norms of the weights are l1 and l-infinity norms; here any f
        will do whose slopes are proved.

    Example:
        >>> f = nn.Sequential(UnitColumnLinear(3, 8), taut.nn.MaxMin(), taut.nn.Linear(8, 1))
        >>> g = Monotone(f, [1, 0, -1])
        >>> found = taut.slopes(g, (3,))
        >>> found.nondecreasing, found.nonincreasing
        ((0,), (2,))
    """

    coefficients: Tensor

    def __init__(
        self,
        model: nn.Module,
        directions: Iterable[int],
        constant: float | Iterable[float] | Tensor = 1.0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise ValueError(f"`model` must be a torch.nn.Module; got {type(model).__name__}.")
        signs = _directions(directions)
        constants = _constants(constant, len(signs))
        self._values = [sign * _ROOM * c for sign, c in zip(signs, constants, strict=True)]
        self.model = model
        # (1, features): a matrix with one row, which all outputs share.
        empty = torch.empty(1, len(signs), device=device, dtype=dtype)
        self.register_buffer("coefficients", empty)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fill the coefficients, which nothing trains. The model stays as it is."""
        with torch.no_grad():
            self.coefficients.copy_(torch.tensor([self._values], dtype=torch.float64))

    def forward(self, input: Float[Tensor, "*b n"]) -> Float[Tensor, "*b m"]:
        """Add the linear term to each output."""
        outputs: Tensor = self.model(input)
        if not isinstance(input, fx.Proxy):
            self._check(input, outputs)
        return outputs + F.linear(input, self.coefficients)

    def _check(self, input: Tensor, outputs: Tensor) -> None:
        features = self.coefficients.shape[1]
        if input.shape[-1:] != (features,):
            raise ValueError(
                f"`input` must have {features} features, one a direction; got {tuple(input.shape)}."
            )
        if outputs.shape[:-1] != input.shape[:-1]:
            raise ValueError(
                "`model` must map (batch, features) to (batch, outputs); got "
                f"{tuple(outputs.shape)} for {tuple(input.shape)}."
            )

    def extra_repr(self) -> str:
        """The directions."""
        return f"directions={self.coefficients[0].sign().int().tolist()}"


def _directions(directions: Any) -> list[int]:
    try:
        values = [int(value) if value in (-1, 0, 1) else None for value in directions]
    except (TypeError, RuntimeError):  # no sequence, or one of arrays
        values = []
    signs = [value for value in values if value is not None]
    if not signs or len(signs) != len(values):
        raise ValueError(f"`directions` must be 1, 0 or -1 for each feature; got {directions!r}.")
    return signs


def _constants(constant: Any, features: int) -> list[float]:
    if is_number(constant):
        values = [constant] * features
    else:
        values = constant.tolist() if isinstance(constant, Tensor) else list(constant)
    good = all(is_number(value) and 0 < value < math.inf for value in values)
    if len(values) != features or not good:
        raise ValueError(
            f"`constant` must be a positive number or {features} of them; got {constant!r}."
        )
    return [float(value) for value in values]


@final
class _UnitColumns(AbstractParametrization):
    """A matrix with columns of norm 1: a raw one, each column divided by its norm."""

    guarantee = "none"
    matrices_only = True
    reference = "Nolte, Kitouni, Williams 2023, arXiv:2307.07512"
    raw_columns: Tensor

    def raw_shapes(self) -> dict[str, tuple[int, ...]]:
        """The matrix before its columns are divided."""
        return {"raw_columns": (self.out_channels, self.in_channels)}

    def reset_parameters(self) -> None:
        """Draw the columns anew, uniformly from the sphere."""
        with torch.no_grad():
            self.raw_columns.normal_()

    def weight(self) -> Tensor:
        """The matrix; a column of zeros has no direction, and becomes one of equal entries."""
        return unit_rows(self.raw_columns.T).T

    def raw_of(self, weight: Tensor) -> dict[str, Tensor]:
        """The matrix itself."""
        return {"raw_columns": weight}


@final
class UnitColumnLinear(AbstractUnitLinear):
    r"""First layer of a net with slopes of at most 1 in each feature: a matrix with unit columns.

    .. math:: y = W x + b, \qquad \|W e_i\| = 1

    Guarantee: a 1-Lipschitz net behind it changes by at most 1 per unit of *each single feature*,
        and so by at most :math:`\|x - x'\|_1`. **In l2 it is not 1-Lipschitz**: :math:`\|W\|` may
        be up to the root of the number of features, and :func:`taut.lipschitz_bound` counts it.
        :func:`taut.slopes` proves the constant of each feature.
    Cost: the plain layer, and its columns divided by their norms.

    Use it in :class:`Monotone`, or wherever features have units of their own.

    Args:
        in_features: size of each input.
        out_features: size of each output.
        bias: whether to add a learnable bias.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Raises:
        ValueError: if a size is not a positive integer.

    Reference:
        Nolte, Kitouni, Williams (2023), *Expressive monotonic neural networks*; arXiv:2307.07512,
        whose first layers are bounded from l1.

    Example:
        >>> layer = UnitColumnLinear(3, 8)
        >>> torch.allclose(layer.weight.norm(dim=0), torch.ones(3))
        True
    """

    method = _UnitColumns
