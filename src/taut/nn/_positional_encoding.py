"""A learned map that tells positions apart."""

from collections.abc import Iterable
from typing import Any, final

import torch
from torch import Tensor, fx, nn

from taut._arguments import whole, wholes
from taut._sharding import draws


@final
class PositionalEncoding(nn.Module):
    r"""Add a learned map to images of one size, which tells circular layers the position.

    Layers with circular padding treat all positions alike; behind this one they need not.

    Guarantee: an isometry: adding a constant changes no distance. It starts as the identity.
    Cost: one sum.

    Inputs are `(batch, c, *size)` or `(c, *size)`.

    Args:
        size: spatial size of the inputs: one number for a signal, else a tuple.
        channels: 1 for one map that is added to all channels, or as many as the inputs have.
        device: device of the map.
        dtype: dtype of the map.

    Raises:
        ValueError: if a size is not a positive integer; in the forward for inputs of another size.

    Reference:
        Hu, Hu, Fredrikson (2026), *LipNeXt: Scaling up Lipschitz-based Certified Robustness to
        Billion-parameter Models*, arXiv:2601.18513, where the map has one channel.

    Example:
        >>> PositionalEncoding((4, 6))(torch.ones(1, 3, 4, 6)).shape
        torch.Size([1, 3, 4, 6])
    """

    def __init__(
        self,
        size: int | tuple[int, ...],
        channels: int = 1,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.size = wholes("size", size, len(tuple(size)) if isinstance(size, Iterable) else 1)
        self.channels = whole("channels", channels)
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.encoding = nn.Parameter(torch.empty(self.channels, *self.size, **factory))
        self.reset_parameters()

    @draws
    def reset_parameters(self) -> None:
        """Set the map to zeros."""
        nn.init.zeros_(self.encoding)

    # No shapes in the annotations: TorchScript reads them.
    def forward(self, input: Tensor) -> Tensor:
        """Add the map."""
        if not torch.jit.is_scripting():  # pyright: ignore[reportPrivateImportUsage]
            self._check(input)
        return input + self.encoding

    def _check(self, input: Tensor) -> None:
        if isinstance(input, fx.Proxy):
            return
        shape, axes = tuple(input.shape), len(self.size)
        image = len(shape) in (axes + 1, axes + 2) and shape[-axes:] == self.size
        if not image or self.channels not in (1, shape[-axes - 1]):
            channels = "c" if self.channels == 1 else self.channels
            sizes = ", ".join(map(str, (channels, *self.size)))
            raise ValueError(
                f"`input` must have shape ({sizes}) or (batch, {sizes}), the size that the encoding"
                f" is for; got {shape}."
            )

    def extra_repr(self) -> str:
        """Size and channels."""
        return f"size={self.size}, channels={self.channels}"
