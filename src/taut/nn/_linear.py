"""Dense layers whose matrix comes from a parametrization."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from taut._arguments import whole
from taut.nn._parametrized import (
    AbstractParametrizedLayer,
    Parametrization,
    SharedTensors,
    filled,
    made,
)
from taut.parametrizations import Orthogonal, may_transform


class AbstractDense(AbstractParametrizedLayer):
    """A layer that multiplies by a matrix and adds a bias."""

    in_features: int
    out_features: int

    def frozen(self, tensors: SharedTensors) -> nn.Linear:
        """A plain dense layer."""
        weight, bias = tensors.weight(self), tensors.bias(self.bias)
        sizes = (self.in_features, self.out_features, bias is not None)
        return filled(nn.Linear(*sizes, device="meta", dtype=weight.dtype), weight, bias)


@final
class Linear(AbstractDense):
    r"""Dense layer with a parametrized matrix: a drop-in replacement of `torch.nn.Linear`.

    Guarantee: that of the parametrization. With the default the matrix is semi-orthogonal: the
        layer is 1-Lipschitz in l2, and preserves norms on the smaller of its two spaces.
    Cost: the plain layer, and the weight (or its factors) once per forward pass (once under
        `torch.no_grad()` inside :func:`taut.cached`).

    Args:
        in_features: size of each input.
        out_features: size of each output.
        bias: whether to add a learnable bias.
        parametrization: a class of :mod:`taut.parametrizations`, or a partial of one.
        gain: a positive number by which the weight is multiplied, and its norm with it.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Raises:
        ValueError: if a size is not a positive integer.

    Example:
        >>> layer = Linear(8, 8, bias=False)
        >>> x = torch.randn(2, 8)
        >>> torch.allclose(layer(x).norm(dim=1), x.norm(dim=1))
        True
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        parametrization: Parametrization = Orthogonal,
        gain: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._set_gain(gain)
        self.in_features = whole("in_features", in_features)
        self.out_features = whole("out_features", out_features)
        factory = {"device": device, "dtype": dtype}
        method = made(parametrization, self.in_features, self.out_features, **factory)
        self._set_parameters(method, self.out_features, bias, **factory)

    def forward(self, input: Float[Tensor, "*b n"]) -> Float[Tensor, "*b n2"]:
        """Multiply by the weight or its factors, and add the bias."""
        if may_transform(self.parametrization, input):
            y = self.parametrization.transform(self._amplified(input), self.bias, None)
            if y is not None:
                return y
        return F.linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Bias and gain; the parametrization prints the sizes."""
        gain = "" if self.gain == 1.0 else f", gain={self.gain}"
        return f"bias={self.bias is not None}{gain}"
