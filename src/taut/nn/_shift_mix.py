"""Convolutions made of two matrices and a shift."""

import copy
from collections import OrderedDict
from numbers import Real
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from taut._arguments import check_image, whole
from taut._sharding import draws
from taut.linalg.geometry import CONVOLUTIONS
from taut.nn._parametrized import (
    AbstractParametrizedLayer,
    Parametrization,
    SharedTensors,
    filled,
    made,
)
from taut.nn._shift import Shift1d, Shift2d, Shift3d, shift_kernel
from taut.parametrizations import Orthogonal, read_weight, without_autocast

_PLAIN = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_SHIFTS = {1: Shift1d, 2: Shift2d, 3: Shift3d}


class _ShiftMix(AbstractParametrizedLayer):
    axes: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bias: bool = True,
        padding_mode: str = "circular",
        fraction: float = 1 / 8,
        parametrization: Parametrization = Orthogonal,
        gain: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._set_gain(gain)
        self.in_channels = whole("in_channels", in_channels)
        self.out_channels = whole("out_channels", out_channels)
        self.shift = _SHIFTS[self.axes](self._moved(fraction), padding_mode)
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.rotation = made(parametrization, self.in_channels, self.in_channels, **factory)
        mixing = made(parametrization, self.in_channels, self.out_channels, **factory)
        self._set_parameters(mixing, self.out_channels, bias, **factory)

    def _moved(self, fraction: Any) -> int:
        """Channels of each part that moves."""
        parts = 2 * self.axes
        if not (isinstance(fraction, Real) and 0 < float(fraction) <= 1 / parts):
            raise ValueError(
                f"`fraction` must be a number above 0 and at most 1 / {parts}, for {parts} parts "
                f"that move; got {fraction!r}."
            )
        if self.in_channels < parts:
            raise ValueError(
                f"`in_channels` must be at least {parts}, for {parts} parts that move; "
                f"got {self.in_channels}."
            )
        return max(1, int(float(fraction) * self.in_channels + 1e-9))  # 0.29 * 100 is 28.99...

    @draws
    def reset_parameters(self) -> None:
        """Draw the raw tensors and the bias anew."""
        self.rotation.reset_parameters()
        super().reset_parameters()

    def _kernels(self) -> tuple[Tensor, Tensor]:
        """R, and N times the gain, as kernels of one tap."""
        matrices = read_weight(self.rotation), self._amplified(read_weight(self.parametrization))
        rotation, mixing = (matrix[(..., *[None] * self.axes)] for matrix in matrices)
        return rotation, mixing

    @property
    def weight(self) -> Tensor:
        """The same convolution as one kernel, `(out_channels, in_channels, 3, ...)`."""
        rotation, mixing = (kernel.flatten(1) for kernel in self._kernels())
        taps = shift_kernel(self.in_channels, self.shift.moved, self.axes)[:, 0].to(rotation)
        with without_autocast(rotation.device):
            return torch.einsum("om,mi,m...->oi...", mixing, rotation, taps)

    def forward(self, input: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Rotate, shift and mix."""
        check_image(input, self.in_channels, self.axes)
        (rotation, mixing), convolve = self._kernels(), CONVOLUTIONS[self.axes]
        return convolve(self.shift(convolve(input, rotation)), mixing, self.bias)

    def frozen(self, tensors: SharedTensors) -> nn.Module:
        """Two plain convolutions of one tap around the shift."""
        layers = []
        for kernel, bias in zip(self._kernels(), (None, tensors.bias(self.bias)), strict=True):
            outputs, inputs = kernel.shape[:2]
            options: dict[str, Any] = {"bias": bias is not None, "device": "meta"}
            plain = _PLAIN[self.axes](inputs, outputs, 1, **options, dtype=kernel.dtype)
            weight = nn.Parameter(kernel.detach().clone(), requires_grad=False)
            layers.append(filled(plain, weight, bias))
        names = ("rotation", "shift", "layer")
        parts = (layers[0], copy.deepcopy(self.shift), layers[1])
        return nn.Sequential(OrderedDict(zip(names, parts, strict=True)))

    def extra_repr(self) -> str:
        """Bias and gain; rotation, shift and parametrization print the rest."""
        gain = "" if self.gain == 1.0 else f", gain={self.gain}"
        return f"bias={self.bias is not None}{gain}"


@final
class ShiftMix1d(_ShiftMix):
    """Convolution of three taps by two matrices and a shift; see :class:`ShiftMix2d`.

    Inputs are `(batch, in_channels, l)` or `(in_channels, l)`. Two parts of the channels move.

    Example:
        >>> ShiftMix1d(8, 4)(torch.zeros(1, 8, 9)).shape
        torch.Size([1, 4, 9])
    """

    axes = 1


@final
class ShiftMix2d(_ShiftMix):
    r"""The layer of LipNeXt: a 3x3 convolution made of two orthogonal matrices and a shift.

    .. math:: y = N S R x + b

    with an orthogonal matrix R of the channels, :class:`Shift2d` S, which moves four parts of the
    channels by one position, one in each direction, and a matrix N with orthonormal rows or
    columns. The kernel has five taps, the projectors of R, which are a partition of unity.

    Guarantee: with the default parametrization and circular padding all singular values of the
        operator are 1 (semi-orthogonal where the channel counts differ). With zeros 1-Lipschitz:
        what is moved out of the image is lost. Other parametrizations: the product of their norms.
    Cost: `in_channels (in_channels + out_channels)` multiplications a position, where a 3x3 kernel
        has `9 in_channels out_channels`; and the bases of the two matrices.

    Inputs are `(batch, in_channels, h, w)` or `(in_channels, h, w)`; outputs have the same size.
    `weight` is the 3x3 kernel that does the same. Frozen, a layer is a 1x1 convolution, the shift,
    and another 1x1 convolution.

    Args:
        in_channels: channels of the input, at least 4.
        out_channels: channels of the output.
        bias: whether to add a learnable bias.
        padding_mode: `"circular"` or `"zeros"`.
        fraction: of the channels that moves in each direction, at most 1/4; rounded down, but at
            least one channel. LipNeXt has 1/8 or 1/16.
        parametrization: of both matrices: a class of :mod:`taut.parametrizations`, or a partial.
        gain: a positive number by which N is multiplied, and the norm with it.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Raises:
        ValueError: if an argument is not one of those; with the argument, what is allowed, and the
            value.

    Reference:
        Hu, Hu, Fredrikson (2026), *LipNeXt: Scaling up Lipschitz-based Certified Robustness to
        Billion-parameter Models*, arXiv:2601.18513. There :math:`N = M R^\top` with an orthonormal
        M: the same layers, since :math:`M = N R` is as orthonormal as N. They optimise R and M on
        the manifold of orthogonal matrices.

    Example:
        >>> layer = ShiftMix2d(8, 8, bias=False)
        >>> x = torch.randn(2, 8, 5, 6)
        >>> torch.allclose(layer(x).norm(), x.norm())
        True
    """

    axes = 2


@final
class ShiftMix3d(_ShiftMix):
    """Convolution of volumes by two matrices and a shift; see :class:`ShiftMix2d`.

    Inputs are `(batch, in_channels, d, h, w)` or `(in_channels, d, h, w)`. Six parts of the
    channels move, so that there must be at least 6, and `fraction` is at most 1/6.

    Example:
        >>> ShiftMix3d(8, 4)(torch.zeros(1, 8, 3, 4, 5)).shape
        torch.Size([1, 4, 3, 4, 5])
    """

    axes = 3
