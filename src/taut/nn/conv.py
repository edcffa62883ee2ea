"""Convolutions whose kernel comes from a parametrization."""

import math
from collections.abc import Callable
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from taut.nn.padding import Pads, Pair, make_pads, pad
from taut.parametrizations import BCOP, AbstractParametrization, read_weight, transformed


@final
class Conv2d(nn.Module):
    r"""2-D convolution with a parametrized kernel: a twin of `torch.nn.Conv2d`.

    Guarantee: that of the parametrization. With the default, :class:`taut.BCOP`, and circular
        padding the operator is orthogonal (semi-orthogonal where the sizes of input and output
        differ): it is 1-Lipschitz in l2 and its transpose keeps the norm of gradients. With zero
        padding, with `"valid"` or a circular padding less than `(kernel_size - 1) / 2`, and with
        sizes that the stride does not divide, it is 1-Lipschitz, but not orthogonal at the border.
    Cost: that of the plain convolution, and of the weight, once per forward pass (under
        `torch.no_grad()` inside :func:`taut.cached`: once); less where a parametrization has a
        cheaper way to the same result.

    Inputs are `(batch, in_channels, h, w)` or `(in_channels, h, w)`, of any size; with
    `padding="same"` the output has `ceil(h / stride)` rows and `ceil(w / stride)` columns. In
    training, where channels lie last in memory (`torch.channels_last`), they do in the output, too.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: one size or a pair (rows, columns); even sizes, too.
        stride: one step or a pair; it must divide the kernel size.
        padding: `"same"`, `"valid"`, or rows and columns added at each side.
        dilation: only 1.
        groups: only 1.
        bias: whether to add a learnable bias.
        padding_mode: `"circular"` or `"zeros"`.
        parametrization: a class of :mod:`taut.parametrizations`, or a partial of one.
        device: of the parameters.
        dtype: of the parameters.

    Raises:
        ValueError: if an argument is not one of those; with the argument, what is allowed, and
            what came.

    Reference:
        Li et al. (2019), sections 4.2 and 5; arXiv:1911.00937.

    Example:
        >>> layer = Conv2d(3, 16, 4, stride=2)
        >>> layer(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 16, 16, 16])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: str | int | Pair = "same",
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "circular",
        *,
        parametrization: Callable[..., AbstractParametrization] = BCOP,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = _pair("kernel_size", kernel_size, least=1)
        self.stride = _pair("stride", stride, least=1)
        self.dilation, self.groups = _pair("dilation", dilation, least=1), groups
        self.padding, self.padding_mode = _padding(padding), padding_mode
        self._refuse_unsupported()
        factory = {"device": device, "dtype": dtype}
        self.parametrization = parametrization(
            in_channels, out_channels, self.kernel_size, stride=self.stride, **factory
        )
        self.bias = nn.Parameter(torch.empty(out_channels, **factory)) if bias else None
        if self.bias is not None:
            bound = 1 / math.sqrt(in_channels * math.prod(self.kernel_size))
            nn.init.uniform_(self.bias, -bound, bound)

    def _refuse_unsupported(self) -> None:
        if self.padding_mode not in ("circular", "zeros"):
            raise ValueError(
                "`padding_mode` must be 'circular' or 'zeros' (others raise the norm of the "
                f"operator above that of the kernel); got {self.padding_mode!r}."
            )
        if self.dilation != (1, 1):
            raise ValueError(f"`dilation` must be 1; got {self.dilation}.")
        if self.groups != 1:
            raise ValueError(f"`groups` must be 1; got {self.groups}.")
        if (
            self.padding_mode == "circular"
            and not isinstance(self.padding, str)
            and any(2 * p > k - 1 for p, k in zip(self.padding, self.kernel_size, strict=True))
        ):
            raise ValueError(
                "`padding` must be 'same' or at most (kernel_size - 1) / 2 with "
                "padding_mode='circular' (more would repeat outputs); "
                f"got padding={self.padding}, kernel_size={self.kernel_size}."
            )

    @property
    def weight(self) -> Tensor:
        """The kernel, `(out_channels, in_channels, *kernel_size)`, stride included."""
        return read_weight(self.parametrization)

    def _fills_torus(self, input_size: Pair) -> bool:
        """Whether the layer is a convolution on a torus that its stride divides."""
        whole = all(n % s == 0 for n, s in zip(input_size, self.stride, strict=True))
        return whole and (self.padding_mode, self.padding) == ("circular", "same")

    def pads(self, input_size: Pair) -> Pads:
        """How an input of this size (rows, columns) is padded before a valid convolution."""
        return make_pads(input_size, self.kernel_size, self.stride, self.padding, self.padding_mode)

    def forward(self, x: Float[Tensor, "*b c h w"]) -> Float[Tensor, "*b c2 h2 w2"]:
        """Pad, then convolve with the weight, or do what comes to the same."""
        if x.ndim == 4 and self._fills_torus((x.shape[2], x.shape[3])):
            y = transformed(self.parametrization, x, self.bias)
            if y is not None:
                return y
        pads = self.pads((x.shape[-2], x.shape[-1]))
        return F.conv2d(pad(x, pads, self.padding_mode), self.weight, self.bias, self.stride)

    def extra_repr(self) -> str:
        """Padding and bias; the parametrization prints the sizes."""
        return f"padding={self.padding!r}, padding_mode={self.padding_mode!r}" + (
            "" if self.bias is not None else ", bias=False"
        )


def _pair(name: str, value: int | Pair, *, least: int) -> Pair:
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    whole = all(isinstance(v, int) and not isinstance(v, bool) for v in pair)
    if len(pair) != 2 or not whole or min(pair) < least:
        raise ValueError(f"`{name}` must be an integer >= {least} or a pair of them; got {value}.")
    return (pair[0], pair[1])


def _padding(padding: str | int | Pair) -> str | Pair:
    if not isinstance(padding, str):
        return _pair("padding", padding, least=0)
    if padding not in ("same", "valid"):
        raise ValueError(
            f"`padding` must be 'same', 'valid', an integer or a pair; got {padding!r}."
        )
    return "same" if padding == "same" else (0, 0)
