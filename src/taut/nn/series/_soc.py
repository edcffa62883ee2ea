"""Skew orthogonal convolutions: exponentials of convolutions with skew kernels."""

from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from taut._arguments import is_number, whole, wholes
from taut.linalg.series import RADII
from taut.nn._parametrized import AbstractParametrizedLayer, SharedTensors
from taut.nn.series._generator import SkewKernel
from taut.nn.series._series import SeriesSteps
from taut.nn.series._sizes import SeriesSizes, applied
from taut.nn.series._twin import SkewExponential
from taut.parametrizations import Isometry


class _SOC(AbstractParametrizedLayer):
    axes: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        *,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        degree: int = 8,
        radius: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._set_gain(1.0)
        taps = wholes("kernel_size", kernel_size, self.axes)
        _check_skew(taps, padding_mode)
        spacing, groups = wholes("dilation", dilation, self.axes), whole("groups", groups)
        steps = SeriesSteps(_checked_degree(degree), spacing, groups, padding_mode)
        channels = whole("in_channels", in_channels), whole("out_channels", out_channels)
        self.sizes = SeriesSizes(*channels, wholes("stride", stride, self.axes), steps)
        self._check_groups(taps)
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        options = {"radius": _checked_radius(radius, steps.degree), "groups": groups}
        kernel = SkewKernel(self.sizes.channels, taps, **options, **factory)
        self._set_parameters(kernel, self.sizes.out_channels, bias, **factory)

    def _check_groups(self, taps: tuple[int, ...]) -> None:
        sizes, groups = self.sizes, self.sizes.steps.groups
        if sizes.in_channels % groups or sizes.out_channels % groups:
            raise ValueError(
                "`groups` must divide the channels of input and output; got "
                f"groups={groups}, channels {sizes.in_channels} and {sizes.out_channels}."
            )
        if sizes.channels == groups and set(taps) == {1}:
            raise ValueError(
                "`kernel_size` must be above 1 for groups of one channel, of which the only skew "
                f"kernel of size 1 is 0; got {taps}."
            )

    @property
    def isometry(self) -> Isometry:
        """What the layer's operator has orthonormal, as of :class:`Conv2d`, but for the remainder.

        On input sizes that the stride divides; zero padding changes nothing. The singular values
        are at most 1, and below it by the remainder of the series.
        """
        if self.sizes.folded == self.sizes.out_channels:
            return "both"
        return "rows" if self.sizes.folded > self.sizes.out_channels else "columns"

    def forward(self, input: Tensor) -> Tensor:
        """Downsample, and apply the series."""
        return applied(input, self.weight, self.bias, self.sizes)

    def frozen(self, tensors: SharedTensors) -> nn.Module:
        """The same series with its kernel."""
        return SkewExponential(tensors.weight(self), tensors.bias(self.bias), self.sizes)

    def extra_repr(self) -> str:
        """What the layer adds to its kernel."""
        sizes, steps = self.sizes, self.sizes.steps
        text = f"{sizes.in_channels}, {sizes.out_channels}, stride={sizes.stride}"
        text += "" if set(steps.dilation) == {1} else f", dilation={steps.dilation}"
        text += "" if self.bias is not None else ", bias=False"
        text += f", padding_mode={steps.padding_mode!r}, degree={steps.degree}"
        return f"{text}, isometry={self.isometry!r}"


def _check_skew(taps: tuple[int, ...], padding_mode: str) -> None:
    """Refuse what no skew convolution has."""
    if any(k % 2 == 0 for k in taps):
        raise ValueError(f"`kernel_size` must be odd, as a skew kernel has a centre; got {taps}.")
    if padding_mode not in ("zeros", "circular"):
        raise ValueError(
            "`padding_mode` must be 'zeros' or 'circular', under which the convolution is "
            f"skew; got {padding_mode!r}."
        )


def _checked_degree(degree: int) -> int:
    degree = whole("degree", degree)
    if degree not in RADII:
        *others, last = map(str, RADII)
        reason = "the sum of another degree, such as 5 or 6, exceeds 1 for all small angles"
        reason = reason if degree % 4 in (1, 2) else "a longer sum is the same to rounding"
        raise ValueError(f"`degree` must be {', '.join(others)} or {last}: {reason}; got {degree}.")
    return degree


def _checked_radius(radius: float | None, degree: int) -> float:
    most = RADII[degree]
    if radius is not None and not (is_number(radius) and 0 < radius <= most):
        raise ValueError(
            f"`radius` must be above 0 and at most {most} for degree={degree}; got {radius}."
        )
    return most if radius is None else float(radius)


@final
class SOC1d(_SOC):
    """1-D skew orthogonal convolution: see :class:`SOC2d`.

    Inputs are `(batch, in_channels, l)` or `(in_channels, l)`.

    Example:
        >>> SOC1d(2, 6, 3, stride=3)(torch.zeros(1, 2, 9)).shape
        torch.Size([1, 6, 3])
    """

    axes = 1


@final
class SOC2d(_SOC):
    r"""Skew orthogonal convolution: the exponential of a convolution with a skew-symmetric kernel.

    .. math:: y = \sum_{j \le m} J^j x / j! + b, \qquad J^\top = -J

    J is a convolution whose kernel satisfies :math:`L_{-t} = -L_t^\top` exactly. With circular
    padding *and with zeros* J is then minus its adjoint, and its exponential is orthogonal: this
    layer keeps the norm of gradients at the border of zero-padded images, which no single
    convolution of more than one tap does. The series ends at degree m.

    Guarantee: 1-Lipschitz in l2. For the degrees allowed, :math:`|S_m(i \theta)| \le 1` up to a
        radius (1.73 to 3.39), within which the norm of J is kept. Singular values are below 1 by
        the remainder: with norms of J up to 1 they are at least 0.9718, 0.9939, 1 - 1.6e-5,
        1 - 2.2e-6, 1 - 1.3e-9 and 1 - 1.3e-10 for the degrees 3, 4, 7, 8, 11 and 12; at the largest
        radius they may be 0.942, 0.5, 0.99984, 0.978, 1 - 5.7e-8 and 0.99989. Where sizes of input
        and output differ, rows or columns are orthonormal.
    Cost: `degree` convolutions of `max(in_channels * stride^2, out_channels)` channels forward, and
        three times as many in the backward, which keeps the input alone, whatever the degree.
        Prefer it for orthogonality with zero padding; :class:`Conv2d` is cheaper.

    Inputs are `(batch, in_channels, h, w)` or `(in_channels, h, w)`, of any size; zeros are added
    behind sizes that the stride does not divide. Gradients of gradients are supported. Inside
    `torch.func` transforms, `torch.compile` and autocast, autograd keeps all steps.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: one odd size, or one per axis.
        stride: one step, or one per axis. Blocks of this size move into channels first
            (:class:`InvertibleDownsample2d`); kernel and dilation count blocks.
        dilation: distance of the taps, one or one per axis.
        groups: blocks of channels that do not mix.
        bias: whether to add a learnable bias.
        padding_mode: `"zeros"` or `"circular"`; half the kernel on each side.
        degree: m, one of 3, 4, 7, 8, 11, 12, 15, 16. Others, such as 5 and 6, exceed 1 for all
            small angles.
        radius: largest norm of J; None for the largest that the degree allows. Less means closer
            to orthogonal, and to the identity.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Raises:
        ValueError: if an argument is not one of those; with the argument, what is allowed, and the
            value.

    Reference:
        Singla, Feizi (2021), *Skew Orthogonal Convolutions*, arXiv:2105.11417. They divide by an
        estimate of the norm, and end at degrees at which the norm exceeds 1; the degrees, radii and
        factors here are ours.

    Example:
        >>> layer = SOC2d(4, 4, 3, degree=12, radius=1.0)
        >>> s = taut.singular_values(layer, (4, 5, 5))
        >>> torch.allclose(s, torch.ones_like(s), atol=1e-6)
        True
    """

    axes = 2


@final
class SOC3d(_SOC):
    """3-D skew orthogonal convolution: see :class:`SOC2d`.

    Inputs are `(batch, in_channels, d, h, w)` or `(in_channels, d, h, w)`.

    Example:
        >>> SOC3d(1, 8, 3, stride=2)(torch.zeros(1, 1, 4, 6, 6)).shape
        torch.Size([1, 8, 2, 3, 3])
    """

    axes = 3
