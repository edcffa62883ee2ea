r"""Named data sets as tensors on the device, and their batches."""

from taut.data.batching import Augment, Batches, Share, batches
from taut.data.catalog import load, names
from taut.data.holdout import Holdout
from taut.data.sets import AbstractSplit, Dataset, Split
from taut.data.stream import Stream, StreamedDataset, stream

__all__ = [
    "AbstractSplit",
    "Augment",
    "Batches",
    "Dataset",
    "Holdout",
    "Share",
    "Split",
    "Stream",
    "StreamedDataset",
    "batches",
    "load",
    "names",
    "stream",
]
