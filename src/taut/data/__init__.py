r"""Named data sets as tensors on the device, and their batches."""

from taut.data._augment import Augment, Variation
from taut.data._batching import Batches, Share, batches
from taut.data._holdout import Holdout
from taut.data._inputs import Inputs, class_names, read_inputs
from taut.data._load import is_published, load, load_test, names
from taut.data._mixing import MixedLabels
from taut.data._npz import read_array, read_arrays
from taut.data._pixels import images_below, read_images
from taut.data._sets import AbstractSplit, Dataset, Split, generator, to_unit_range
from taut.data._stream import Stream, StreamedDataset, stream

__all__ = [
    "AbstractSplit",
    "Augment",
    "Batches",
    "Dataset",
    "Holdout",
    "Inputs",
    "MixedLabels",
    "Share",
    "Split",
    "Stream",
    "StreamedDataset",
    "Variation",
    "batches",
    "class_names",
    "generator",
    "images_below",
    "is_published",
    "load",
    "load_test",
    "names",
    "read_array",
    "read_arrays",
    "read_images",
    "read_inputs",
    "stream",
    "to_unit_range",
]
