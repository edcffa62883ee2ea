"""Losses that reward certified radius: one a file, as a function and as a module."""

from taut.losses.multi_margin import MultiMargin, multi_margin
from taut.losses.offset_cross_entropy import OffsetCrossEntropy, offset_cross_entropy

__all__ = ["MultiMargin", "OffsetCrossEntropy", "multi_margin", "offset_cross_entropy"]
