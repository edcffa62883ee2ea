"""Potential residuals: the input minus a kernel's adjoint of an activation of the kernel."""

from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from taut._arguments import whole
from taut.nn._conv import Sizes
from taut.nn._parametrized import Parametrization, SharedTensors
from taut.nn.residual._hidden import (
    AbstractHiddenLayer,
    Grid,
    as_parameter,
    batch_of_images,
    column,
    hidden_values,
)
from taut.parametrizations import BCOP, read_scaled_weight


def _residual(
    x: Tensor, kernel: Tensor, scale: Tensor | None, bias: Tensor | None, layer: Any
) -> Tensor:
    """X - 2 C* f(g C x + b) / g."""
    axes = len(layer.stride)
    x, single = batch_of_images(x, kernel.shape[1] * layer.groups, axes)
    grid = Grid(layer.stride, layer.dilation, layer.groups, layer.padding_mode)
    z = grid.convolve(x, kernel, bias if scale is None else None)
    z = hidden_values(z, scale, bias, layer.activation)
    z = z * (2.0 if scale is None else column(2.0 / scale, axes))
    y = x - grid.adjoint(z, kernel, tuple(x.shape[2:]))
    return y[0] if single else y


class _PotentialResidual(AbstractHiddenLayer):
    def __init__(
        self,
        channels: int,
        hidden_channels: int | None = None,
        kernel_size: Sizes = 3,
        stride: Sizes = 1,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "circular",
        *,
        activation: nn.Module | None = None,
        parametrization: Parametrization = BCOP,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels = whole("channels", channels)
        hidden = self.channels if hidden_channels is None else hidden_channels
        self.hidden_channels = whole("hidden_channels", hidden)
        self._set_sizes(kernel_size, stride, dilation, groups)
        self._set_options(padding_mode, activation)
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self._made(parametrization, (self.channels, self.hidden_channels), self.stride, **factory)
        self._set_parameters(self.parametrization, self.hidden_channels, bias, **factory)

    def forward(self, input: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Apply the layer with the kernel of its parametrization."""
        kernel, scale = read_scaled_weight(self.parametrization)
        return _residual(input, kernel, scale, self.bias, self)

    def frozen(self, tensors: SharedTensors) -> nn.Module:
        """The same layer with its kernel and its scale as plain tensors."""
        scale = read_scaled_weight(self.parametrization)[1]
        return FrozenPotentialResidual(
            tensors.weight(self),
            None if scale is None else scale.detach().clone(),
            tensors.bias(self.bias),
            self.activation,
            stride=self.stride,
            dilation=self.dilation,
            groups=self.groups,
            padding_mode=self.padding_mode,
        )


@final
class PotentialResidual1d(_PotentialResidual):
    r"""Potential residual layer of signals; see :class:`PotentialResidual2d`.

    Inputs are `(batch, channels, l)` or `(channels, l)`.

    Example:
        >>> PotentialResidual1d(4)(torch.zeros(1, 4, 9)).shape
        torch.Size([1, 4, 9])
    """

    axes = 1


@final
class PotentialResidual2d(_PotentialResidual):
    r"""Potential residual layer :math:`y = x - 2 C^* g^{-1} \varphi(g C x + b)` with one kernel C.

    :math:`\varphi` is an activation with slopes in [0, 1], and g a positive scale of each hidden
    channel, given by the parametrization (1 unless it is :class:`taut.SLL` or :class:`taut.CPL`).
    There is no factor on the sum, unlike in averages of branches.

    Guarantee: 1-Lipschitz in l2 for kernels of norm at most 1, with circular and zero padding; in
        general :math:`\sqrt{1 + 4 k \max(0, k - 1)}` with :math:`k = \|C\|^2`. With the default,
        :class:`taut.BCOP`, circular padding and as many hidden channels as a window has inputs at
        most, C has orthonormal rows; with ReLU each Jacobian is then a reflection, orthogonal, so
        that gradients keep their norm.
    Cost: the convolution C, a transposed one of the same size, and the kernel once per forward pass
        (once under `torch.no_grad()` inside :func:`taut.cached`).

    Inputs are `(batch, channels, h, w)` or `(channels, h, w)`, of any size; so are outputs.

    Args:
        channels: channels of the input and the output.
        hidden_channels: outputs of C, by default `channels`.
        kernel_size: of C, one size or one per axis.
        stride: of C: hidden positions are this far apart. The output has the size of the input.
        dilation: distance of the taps, one or one per axis.
        groups: blocks of channels that do not mix.
        bias: whether to add b, learnable, to the hidden channels.
        padding_mode: `"circular"` or `"zeros"`.
        activation: a module with slopes in [0, 1], `nn.ReLU()` by default: Identity, ReLU, ReLU6,
            LeakyReLU, ELU, Hardtanh, Tanh, Sigmoid, Softsign, or Softplus with a threshold of at
            least 34. MaxMin has slopes -1 in this sense; it may follow the layer.
        parametrization: of C, a class of :mod:`taut.parametrizations` or a partial of one.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Raises:
        ValueError: if an argument is not one of those; with the argument, what is allowed, and the
            value.

    Reference:
        Meunier et al. (2022), arXiv:2110.12690 (:class:`taut.CPL`); Araujo et al. (2023),
        arXiv:2303.03169 (:class:`taut.SLL`). Orthogonal kernels, strides and the bound for kernels
        of norm above 1 are ours.

    Example:
        >>> layer = PotentialResidual2d(8)
        >>> layer(torch.zeros(1, 8, 7, 5)).shape
        torch.Size([1, 8, 7, 5])
        >>> round(float(taut.lipschitz_bound(layer, (8, 7, 5))), 4)
        1.0
    """

    axes = 2


@final
class PotentialResidual3d(_PotentialResidual):
    r"""Potential residual layer of volumes; see :class:`PotentialResidual2d`.

    Inputs are `(batch, channels, d, h, w)` or `(channels, d, h, w)`.

    Example:
        >>> PotentialResidual3d(2, kernel_size=2)(torch.zeros(1, 2, 3, 4, 5)).shape
        torch.Size([1, 2, 3, 4, 5])
    """

    axes = 3


@final
class FrozenPotentialResidual(nn.Module):
    r"""A frozen potential residual layer, which :func:`taut.freeze` returns.

    Guarantee: that of :class:`PotentialResidual2d` for the kernel that it holds, which
        :func:`taut.lipschitz_bound` proves.
    Cost: a convolution and a transposed one.

    Args:
        weight: the kernel C, `(hidden_channels, channels / groups, *kernel_size)`.
        scale: g, one number above 0 for each hidden channel; None for 1.
        bias: of the hidden channels, or None.
        activation: with slopes in [0, 1].
        stride: of C, one per axis.
        dilation: of C, one per axis.
        groups: blocks of channels that do not mix.
        padding_mode: `"circular"` or `"zeros"`.

    Example:
        >>> layer = FrozenPotentialResidual(torch.eye(2)[:, :, None], None, None, nn.ReLU())
        >>> layer(torch.tensor([[[3.0], [-1.0]]])).flatten().tolist()
        [-3.0, -1.0]
    """

    weight: nn.Parameter
    scale: Tensor | None
    bias: nn.Parameter | None

    def __init__(
        self,
        weight: Tensor,
        scale: Tensor | None,
        bias: Tensor | None,
        activation: nn.Module,
        *,
        stride: tuple[int, ...] | None = None,
        dilation: tuple[int, ...] | None = None,
        groups: int = 1,
        padding_mode: str = "circular",
    ) -> None:
        super().__init__()
        ones = (1,) * (weight.dim() - 2)
        self.weight = as_parameter(weight)
        self.register_buffer("scale", scale)
        self.bias = None if bias is None else as_parameter(bias)
        self.activation = activation
        self.stride, self.dilation = stride or ones, dilation or ones
        self.groups, self.padding_mode = groups, padding_mode

    def forward(self, input: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Apply the layer."""
        return _residual(input, self.weight, self.scale, self.bias, self)

    def extra_repr(self) -> str:
        """Sizes, as torch's layers print them."""
        hidden, inputs, *kernel = self.weight.shape
        text = f"{inputs * self.groups}, hidden_channels={hidden}, kernel_size={tuple(kernel)}"
        return f"{text}, stride={self.stride}, padding_mode={self.padding_mode!r}"
