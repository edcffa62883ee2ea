r"""Named data sets as tensors on the device, and their batches."""

from taut.data.batching import Augment, batches
from taut.data.catalog import load, names
from taut.data.holdout import Holdout
from taut.data.sets import Dataset, Split

__all__ = ["Augment", "Dataset", "Holdout", "Split", "batches", "load", "names"]
