"""Dense layers whose matrix comes from a parametrization."""

import math
from collections.abc import Callable
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from taut.parametrizations import AbstractParametrization, Orthogonal, read_weight, transformed


@final
class Linear(nn.Module):
    r"""Dense layer with a parametrized matrix: a twin of `torch.nn.Linear`.

    Guarantee: that of the parametrization. With the default the matrix is semi-orthogonal: the
        layer is 1-Lipschitz in l2, and norm preserving on the smaller of its two spaces.
    Cost: that of the plain layer, and of the weight (or of factors that stand for it), once per
        forward pass (under `torch.no_grad()` inside :func:`taut.cached`: once).

    Args:
        in_features: size of each input.
        out_features: size of each output.
        bias: whether to add a learnable bias.
        parametrization: a class of :mod:`taut.parametrizations`, or a partial of one.
        device: of the parameters.
        dtype: of the parameters.

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
        parametrization: Callable[..., AbstractParametrization] = Orthogonal,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.parametrization = parametrization(
            in_features, out_features, device=device, dtype=dtype
        )
        self.bias = None
        if bias:
            self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))
            bound = 1 / math.sqrt(in_features)
            nn.init.uniform_(self.bias, -bound, bound)

    @property
    def weight(self) -> Tensor:
        """The matrix, `(out_features, in_features)`."""
        return read_weight(self.parametrization)

    def forward(self, x: Float[Tensor, "*b n"]) -> Float[Tensor, "*b n2"]:
        """Multiply by the weight, or what comes to the same, and add the bias."""
        y = transformed(self.parametrization, x, self.bias)
        return F.linear(x, self.weight, self.bias) if y is None else y

    def extra_repr(self) -> str:
        """Whether there is a bias; the parametrization prints the sizes."""
        return f"bias={self.bias is not None}"
