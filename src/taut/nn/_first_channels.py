"""The first channels of an input."""

from typing import final

import torch
from torch import Tensor, fx, nn

from taut._arguments import whole


@final
class FirstChannels(nn.Module):
    """Keep the first channels (or features) and drop the others.

    Several papers reduce channels this way behind a square layer, and end in logits this way.

    Guarantee: 1-Lipschitz in l2, semi-orthogonal: its rows are orthonormal.
    Cost: none; the output is a view.

    Inputs are `(batch, c, ...)`.

    Args:
        channels: how many are kept.

    Raises:
        ValueError: if `channels` is not a positive integer, or the input has fewer.

    Example:
        >>> FirstChannels(2)(torch.arange(3.0)[None])
        tensor([[0., 1.]])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = whole("channels", channels)

    # No shapes in the annotations: TorchScript reads them.
    def forward(self, input: Tensor) -> Tensor:
        """The first channels, a view."""
        if not torch.jit.is_scripting():  # pyright: ignore[reportPrivateImportUsage]
            self._check(input)
        return input[:, : self.channels]

    def _check(self, input: Tensor) -> None:
        if isinstance(input, fx.Proxy):
            return
        shape = tuple(input.shape)
        if len(shape) < 2 or shape[1] < self.channels:
            raise ValueError(
                f"`input` must have at least {self.channels} channels behind the batch; "
                f"got {shape}."
            )

    def extra_repr(self) -> str:
        """The number of channels."""
        return f"channels={self.channels}"
