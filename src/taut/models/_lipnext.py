"""LipNeXt."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, final

from torch import nn

from taut._arguments import check_fields, switch, unit_share, whole
from taut.models._net import AbstractNet, Configurations, Part, Parts
from taut.nn import Abs, AdaptiveL2NormPool2d, PositionalEncoding, ShiftMix2d


@final
@dataclass(frozen=True, kw_only=True)
class LipNeXt(AbstractNet):
    """LipNeXt: blocks of orthogonal matrices and shifts, without convolutions.

    Patches of `patch` x `patch` pixels, mapped to `width` channels by an orthogonal matrix; `depth`
    blocks of a positional encoding, a shift between two orthogonal matrices
    (:class:`taut.nn.ShiftMix2d`) and :class:`taut.nn.Abs`; the l2 norm of each channel; the head.
    Up to the pool all layers keep the norm of gradients.

    Guarantee: 1-Lipschitz in l2 with `unit_rows=False`. With unit rows, the default, that holds up
        to the last layer; certificates bound each pair of its rows.

    Args:
        depth: blocks.
        width: channels; with fewer than a patch has numbers, the stem drops some of it.
        patch: pixels of a side of a patch.
        beta: share of the channels of which the absolute value is taken.
        fraction: of the channels that moves in each of four directions, at most 1/4.
        unit_rows: whether the rows of the last layer only have norm 1, certified pair by pair;
            if not, it is orthogonal.
        padding_mode: of the shifts; None for circular, as in the paper.

    L32W1024 has 67.2 M parameters and L32W2048 has 269 M. The paper states 64 M and 256 M, which is
    the size of the matrices of the blocks, 2 depth width^2, in units of 2^20. The code of the paper
    is not public: the stem and its patches are ours. Train it with :class:`taut.optim.Adam`, which
    moves the matrices on the manifold, as the paper does.

    Raises:
        ValueError: if a setting is out of its range.

    Reference:
        Hu, Hu, Fredrikson (2026), *LipNeXt: Scaling up Lipschitz-based Certified Robustness to
        Billion-parameter Models*, arXiv:2601.18513.

    Example:
        >>> net = LipNeXt(depth=2, width=12).build((3, 8, 8), 10)
        >>> net(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 10])
    """

    kind = "lipnext"
    configurations: ClassVar[Configurations] = {
        "l32w1024": {},
        "l32w2048": {"width": 2048},
        "l32w4096": {"width": 4096},
        "small": {"depth": 4, "width": 48},
    }

    depth: int = 32
    width: int = 1024
    patch: int = 2
    beta: float = 0.5
    fraction: float = 1 / 8
    unit_rows: bool = True

    def __post_init__(self) -> None:
        check_fields(self, whole, "depth", "width", "patch")
        check_fields(self, unit_share, "beta")
        check_fields(self, unit_share, "fraction", zero=False)
        check_fields(self, switch, "unit_rows")

    def parts(self, make: Parts) -> Iterator[Part]:
        """Patches, blocks, the pool, and the logits."""
        yield from make.padded(self.patch)
        yield "stem", make.conv(self.width, self.patch, self.patch)
        for block in range(1, self.depth + 1):
            yield f"block{block}", self._block(make)
        yield "pool", make.pooled(AdaptiveL2NormPool2d(1))
        yield "flatten", make.flat()
        yield "head", make.head(self.unit_rows)

    def _block(self, make: Parts) -> nn.Module:
        options: dict[str, Any] = {"fraction": self.fraction, "parametrization": make.dense}
        mix = ShiftMix2d(self.width, self.width, **options, **make.padding, **make.factory)
        position = PositionalEncoding(make.shape[1:], **make.factory)
        return nn.Sequential(position, mix, Abs(self.beta))
