"""Sandwich layers: two parts of one kernel, with an activation between them."""

import contextlib
import math
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from taut._arguments import whole
from taut._sharding import draws
from taut.linalg.embedding import interleaved
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
from taut.parametrizations import BCOP, read_weight

_RANGE = 4.0
"""Logarithms of the scales lie between minus this and this."""


def _sandwich(x: Tensor, kernel: Tensor, scale: Tensor, bias: Tensor | None, layer: Any) -> Tensor:
    """2^(1/2) A* s f(2^(1/2) B x / s + b)."""
    axes, groups = len(layer.stride), layer.groups
    x, single = batch_of_images(x, layer.in_channels, axes)
    outer, inner = _parts(kernel, layer)
    ones, mode = (1,) * axes, layer.padding_mode
    strides = (ones, layer.stride) if layer.up else (layer.stride, ones)
    read, write = (Grid(stride, layer.dilation, groups, mode) for stride in strides)
    z = read.convolve(x, inner, None)
    size = tuple(n * s for n, s in zip(z.shape[2:], strides[1], strict=True))
    z = hidden_values(z, math.sqrt(2) / scale, bias, layer.activation)
    y = write.adjoint(z * column(math.sqrt(2) * scale, axes), outer, size)
    return y[0] if single else y


def _parts(kernel: Tensor, layer: Any) -> tuple[Tensor, Tensor]:
    """A and B, of which the one on the finer grid has all positions of a step of the stride."""
    outputs = layer.out_channels // layer.groups
    if not layer.up:
        return kernel[:, :outputs].contiguous(), interleaved(kernel[:, outputs:], layer.stride)
    outputs *= math.prod(layer.stride)
    return interleaved(kernel[:, :outputs], layer.stride), kernel[:, outputs:].contiguous()


class _Sandwich(AbstractHiddenLayer):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes = 3,
        stride: Sizes = 1,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "circular",
        *,
        hidden_channels: int | None = None,
        up: bool = False,
        activation: nn.Module | None = None,
        parametrization: Parametrization = BCOP,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = whole("in_channels", in_channels)
        self.out_channels = whole("out_channels", out_channels)
        self._set_sizes(kernel_size, stride, dilation, groups)
        self._set_options(padding_mode, activation)
        self.up = bool(up)
        sides = self._sides()
        hidden = min(sides) if hidden_channels is None else hidden_channels
        self.hidden_channels = whole("hidden_channels", hidden)
        self._check(sides)
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        channels = (sum(sides), self.hidden_channels)
        self._made(parametrization, channels, (1,) * self.axes, **factory)
        self.raw_scale = nn.Parameter(torch.empty(self.hidden_channels, **factory))
        self._set_parameters(self.parametrization, self.hidden_channels, bias, **factory)
        self._start()

    def _sides(self) -> tuple[int, int]:
        """Channels of A and of B on the coarser grid."""
        positions = math.prod(self.stride)
        if self.up:
            return self.out_channels * positions, self.in_channels
        return self.out_channels, self.in_channels * positions

    def _check(self, sides: tuple[int, int]) -> None:
        if any(s > 1 and d > 1 for s, d in zip(self.stride, self.dilation, strict=True)):
            raise ValueError(
                "`dilation` must be 1 along axes of a stride above 1; got "
                f"dilation={self.dilation}, stride={self.stride}."
            )
        if any(n % self.groups for n in (self.in_channels, self.out_channels)):
            raise ValueError(
                "`groups` must divide the channels of input and output; "
                f"got groups={self.groups}, channels {self.in_channels} and {self.out_channels}."
            )

    @draws
    def reset_parameters(self) -> None:
        """Draw the kernel and the bias anew; as for a new layer."""
        super().reset_parameters()
        self._start()

    @torch.no_grad()
    def _start(self) -> None:
        r"""Equal scales, and :math:`A = B = U / \sqrt 2` at the centre where the method allows."""
        nn.init.zeros_(self.raw_scale)
        weight = read_weight(self.parametrization)
        if weight.is_meta:
            return
        sides = [n // self.groups for n in self._sides()]
        start = torch.zeros_like(weight)
        centre = (slice(None), slice(None), *(k // 2 for k in self.kernel_size))
        for group in start.unflatten(0, (self.groups, -1)):
            parts = {n: _semi_orthogonal(len(group), n) for n in set(sides)}
            group[centre] = torch.cat([parts[n] for n in sides], 1).to(weight) / math.sqrt(2)
        with contextlib.suppress(ValueError):
            self.parametrization.assign_(start)

    @property
    def scale(self) -> Tensor:
        """The positive scales of the hidden channels."""
        return torch.exp(_RANGE * torch.tanh(self.raw_scale / _RANGE))

    def forward(self, input: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Apply the layer with the kernel of its parametrization."""
        kernel = read_weight(self.parametrization)
        return _sandwich(input, kernel, self.scale, self.bias, self)

    def frozen(self, tensors: SharedTensors) -> nn.Module:
        """The same layer with its kernel and its scales as plain tensors."""
        return FrozenSandwich(
            tensors.weight(self),
            self.scale.detach().clone(),
            tensors.bias(self.bias),
            self.activation,
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            stride=self.stride,
            dilation=self.dilation,
            groups=self.groups,
            padding_mode=self.padding_mode,
            up=self.up,
        )

    def extra_repr(self) -> str:
        """What the layer adds to its parametrization, which prints the other sizes."""
        steps = "" if set(self.stride) == {1} else f"stride={self.stride}, up={self.up}, "
        return f"{self.in_channels}, {self.out_channels}, {steps}{super().extra_repr()}"


def _semi_orthogonal(rows: int, columns: int) -> Tensor:
    size = max(rows, columns)
    draw = torch.randn(size, size, dtype=torch.float64, device="cpu")
    return torch.linalg.qr(draw).Q[:rows, :columns]


@final
class Sandwich1d(_Sandwich):
    r"""Sandwich layer of signals; see :class:`Sandwich2d`.

    Inputs are `(batch, in_channels, l)` or `(in_channels, l)`.

    Example:
        >>> Sandwich1d(4, 6, kernel_size=5)(torch.zeros(1, 4, 9)).shape
        torch.Size([1, 6, 9])
    """

    axes = 1


@final
class Sandwich2d(_Sandwich):
    r"""Sandwich layer :math:`y = \sqrt 2 A^* \Psi \varphi(\sqrt 2 \Psi^{-1} B x + b)`.

    A and B are the parts of a kernel :math:`Q = [A\ B]` with `out_channels + in_channels` inputs
    and `hidden_channels` outputs, :math:`\varphi` is an activation with slopes in [0, 1], and
    :math:`\Psi` has a learnable positive scale of each hidden channel.

    Guarantee: 1-Lipschitz in l2 for kernels of norm at most 1, with circular and zero padding; in
        general :math:`\|Q\|^2`. Every linear map of norm at most 1 is one of these with the
        identity for the activation. Gradients may shrink, unlike in :class:`PotentialResidual2d`
        with an orthogonal kernel.
    Start: A and B are semi-orthogonal matrices over :math:`\sqrt 2` at the centre tap, equal where
        they have as many channels, if the parametrization can have such a kernel (kernel sizes are
        to be odd for :class:`taut.BCOP`). With the identity for the activation the layer then keeps
        the norm of inputs or of gradients. A random orthogonal Q has Jacobians with singular values
        down to 0.02.
    Cost: a convolution B and a transposed one A, together as many products as one with
        `in_channels + out_channels` inputs, and the kernel once per forward pass (once under
        `torch.no_grad()` inside :func:`taut.cached`).

    Inputs are `(batch, in_channels, h, w)` or `(in_channels, h, w)`, of any size.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        hidden_channels: outputs of Q; by default the smaller number of channels of A and B.
        kernel_size: of Q, on the coarser grid; one size or one per axis.
        stride: ratio of the two grids. The output has `ceil(h / stride)` rows, or `h * stride` with
            `up=True`; on the finer grid all positions of a step count as channels of Q, so that the
            convolution there has `kernel_size * stride` taps.
        dilation: distance of the taps; 1 along axes with a stride.
        groups: blocks of channels that do not mix.
        bias: whether to add b, learnable, to the hidden channels.
        padding_mode: `"circular"` or `"zeros"`.
        up: whether the output is on the finer grid, instead of the input.
        activation: a module with slopes in [0, 1], `nn.ReLU()` by default: those of
            :class:`PotentialResidual2d`.
        parametrization: of Q, a class of :mod:`taut.parametrizations` or a partial of one.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Raises:
        ValueError: if an argument is not one of those; with the argument, what is allowed, and the
            value.

    Reference:
        Wang, Manchester (2023), *Direct Parameterization of Lipschitz-Bounded Deep Networks*,
        equations 7 and 10, theorem 3.2; arXiv:2301.11526. They take a Cayley transform at each
        frequency; kernels of other methods, strides and zero padding are ours.

    Example:
        >>> layer = Sandwich2d(4, 8, kernel_size=3, stride=2)
        >>> layer(torch.zeros(1, 4, 6, 10)).shape
        torch.Size([1, 8, 3, 5])
        >>> round(float(taut.lipschitz_bound(layer, (4, 6, 10))), 4)
        1.0
    """

    axes = 2


@final
class Sandwich3d(_Sandwich):
    r"""Sandwich layer of volumes; see :class:`Sandwich2d`.

    Inputs are `(batch, in_channels, d, h, w)` or `(in_channels, d, h, w)`.

    Example:
        >>> Sandwich3d(2, 2, kernel_size=2)(torch.zeros(1, 2, 3, 4, 5)).shape
        torch.Size([1, 2, 3, 4, 5])
    """

    axes = 3


@final
class FrozenSandwich(nn.Module):
    r"""A frozen sandwich layer, which :func:`taut.freeze` returns.

    Guarantee: that of :class:`Sandwich2d` for the kernel that it holds, which
        :func:`taut.lipschitz_bound` proves.
    Cost: a convolution and a transposed one.

    Args:
        weight: the kernel Q, on the coarser grid.
        scale: one number above 0 for each hidden channel.
        bias: of the hidden channels, or None.
        activation: with slopes in [0, 1].
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: ratio of the grids, one per axis.
        dilation: distance of the taps, one per axis.
        groups: blocks of channels that do not mix.
        padding_mode: `"circular"` or `"zeros"`.
        up: whether the output is on the finer grid.

    Example:
        >>> q = torch.tensor([[[0.5], [0.5]]])
        >>> sizes = {"in_channels": 1, "out_channels": 1}
        >>> layer = FrozenSandwich(q, torch.ones(1), None, nn.ReLU(), **sizes)
        >>> layer(torch.tensor([[[4.0, -4.0]]])).round(decimals=4).tolist()
        [[[2.0, 0.0]]]
    """

    weight: nn.Parameter
    scale: Tensor
    bias: nn.Parameter | None

    def __init__(
        self,
        weight: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        activation: nn.Module,
        *,
        in_channels: int,
        out_channels: int,
        stride: tuple[int, ...] | None = None,
        dilation: tuple[int, ...] | None = None,
        groups: int = 1,
        padding_mode: str = "circular",
        up: bool = False,
    ) -> None:
        super().__init__()
        ones = (1,) * (weight.dim() - 2)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.weight = as_parameter(weight)
        self.register_buffer("scale", scale)
        self.bias = None if bias is None else as_parameter(bias)
        self.activation = activation
        self.stride, self.dilation = stride or ones, dilation or ones
        self.groups, self.padding_mode, self.up = groups, padding_mode, up

    def forward(self, input: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Apply the layer."""
        return _sandwich(input, self.weight, self.scale, self.bias, self)

    def extra_repr(self) -> str:
        """Sizes, as torch's layers print them."""
        hidden, _, *kernel = self.weight.shape
        text = f"{self.in_channels}, {self.out_channels}, hidden_channels={hidden}, "
        text += f"kernel_size={tuple(kernel)}, stride={self.stride}, up={self.up}, "
        return f"{text}padding_mode={self.padding_mode!r}"
