r"""Changes of whole batches on the device: squares cut out, and images mixed in pairs."""

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor


@final
@dataclass(frozen=True, eq=False)
class MixedLabels:
    r"""Labels of images that are each a mixture of two.

    Args:
        first: labels of the images that come first.
        second: those of their partners.
        share: of the first in each mixture, from 0 to 1.

    Example:
        >>> labels = MixedLabels(torch.tensor([0]), torch.tensor([2]), torch.tensor([0.75]))
        >>> labels.probabilities(3)
        tensor([[0.7500, 0.0000, 0.2500]])
    """

    first: Int64[Tensor, " b"]
    second: Int64[Tensor, " b"]
    share: Float[Tensor, " b"]

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, part: slice) -> "MixedLabels":
        return MixedLabels(self.first[part], self.second[part], self.share[part])

    def probabilities(self, classes: int) -> Float[Tensor, "b classes"]:
        r"""Labels for losses: a probability for each class."""
        rows = self.share.new_zeros(len(self), classes)
        rows.scatter_add_(1, self.first[:, None], self.share[:, None])
        return rows.scatter_add_(1, self.second[:, None], 1 - self.share[:, None])


def cut_out(
    images: UInt8[Tensor, "b c h w"], centres: Int64[Tensor, "b 2"], *, side: int
) -> UInt8[Tensor, "b c h w"]:
    """Each image with zeros in a square about its own centre, as far as that lies inside."""
    inside = []
    for axis, size in enumerate(images.shape[-2:]):
        first = centres[:, axis, None] - side // 2
        places = torch.arange(size, device=images.device)
        inside.append((places >= first) & (places < first + side))
    square = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return images.masked_fill(square, 0)


def mixed(
    images: Float[Tensor, "n c h w"], labels: Int64[Tensor, " n"], share: Float[Tensor, " b"]
) -> tuple[Float[Tensor, "b c h w"], MixedLabels]:
    """The first half of a batch, each image mixed with its partner in the second half."""
    first, second = images.tensor_split(2)
    weight = share[:, None, None, None]
    known, other = labels.tensor_split(2)
    return weight * first + (1 - weight) * second, MixedLabels(known, other, share)


def partners(
    count: int, batch_size: int, alpha: float, draws: torch.Generator
) -> tuple[Int64[Tensor, " n"], Float[Tensor, " n"]]:
    """For each place of an epoch one of its batch, and the share that stays of the first.

    Shares follow a beta distribution, from a seed that is drawn as all else.
    """
    begins = range(0, count, batch_size)
    sizes = [min(batch_size, count - begin) for begin in begins]
    places = [
        begin + torch.randperm(size, generator=draws, device="cpu")
        for begin, size in zip(begins, sizes, strict=True)
    ]
    seed = int(torch.randint(2**62, (), generator=draws, device="cpu"))
    shares = np.random.default_rng(seed).beta(alpha, alpha, count).astype(np.float32)
    return torch.cat(places), torch.from_numpy(shares)
