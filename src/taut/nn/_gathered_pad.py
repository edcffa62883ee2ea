"""Circular padding in one launch, where launches count: every position is read from its place."""

import torch
from torch import Tensor

from taut._torch_private import cached_constants
from taut.linalg.padding import padded_index

Size = tuple[int, ...]  # one number per spatial axis


def gathered(x: Tensor, left: Size, right: Size, *, channels_last: bool) -> Tensor:
    """Circular padding of the last axes, in the memory format of the input."""
    first, size = x.ndim - len(left), tuple(x.shape[x.ndim - len(left) :])
    index = _positions(size, left, right, x.device)
    padded = tuple(map(sum, zip(left, size, right, strict=True)))
    if channels_last:
        rows = x.movedim(1, -1).flatten(1, -2).index_select(1, index)
        return rows.unflatten(1, padded).movedim(-1, 1)
    return x.flatten(first).index_select(first, index).unflatten(first, padded)


@cached_constants
def _positions(size: Size, left: Size, right: Size, device: torch.device) -> Tensor:
    """Which position of the input, counted through, each position of the padded one is."""
    index = torch.zeros((), dtype=torch.int32, device="cpu")
    for n, a, b in zip(size, left, right, strict=True):
        own = padded_index(n, a, b, "circular", "cpu").int()
        index = (index[..., None] * n + own).contiguous()
    return index.flatten().to(device)
