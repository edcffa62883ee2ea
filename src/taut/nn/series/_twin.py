"""The frozen form of a series layer: the same operations with a fixed kernel."""

from typing import final

from torch import Tensor, nn

from taut.nn.series._sizes import SeriesSizes, applied


@final
class SkewExponential(nn.Module):
    """The truncated exponential of a convolution with a skew kernel: a frozen :class:`SOC2d`.

    :func:`taut.freeze` makes it.

    Guarantee: that of :class:`SOC2d`; :func:`taut.lipschitz_bound` proves it from the kernel that
        the layer holds.
    Cost: as many convolutions as the degree.

    Args:
        weight: the skew kernel.
        bias: of the outputs, or None.
        sizes: of the layer.

    Example:
        >>> taut.freeze(taut.nn.SOC1d(2, 2, 3)).weight.shape
        torch.Size([2, 2, 3])
    """

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None, sizes: SeriesSizes) -> None:
        super().__init__()
        self.weight, self.bias, self.sizes = weight, bias, sizes

    def forward(self, input: Tensor) -> Tensor:
        """Apply the series."""
        return applied(input, self.weight, self.bias, self.sizes)

    def extra_repr(self) -> str:
        """The sizes."""
        steps = self.sizes.steps
        text = f"{self.sizes.in_channels}, {self.sizes.out_channels}, stride={self.sizes.stride}"
        text += f", dilation={steps.dilation}, groups={steps.groups}"
        return f"{text}, padding_mode={steps.padding_mode!r}, degree={steps.degree}"
