"""Drop-in replacements of torch.nn layers with a Lipschitz guarantee; activations; downsampling."""

from taut.nn._conv import Conv1d, Conv2d, Conv3d
from taut.nn._conv_transpose import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from taut.nn._downsampling import InvertibleDownsample2d
from taut.nn._linear import Linear
from taut.nn._padding import PadToMultiple1d, PadToMultiple2d, PadToMultiple3d
from taut.nn._parametrized import AbstractParametrizedLayer, SharedTensors
from taut.nn.activations import GroupSort, MaxMin

__all__ = [
    "AbstractParametrizedLayer",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "GroupSort",
    "InvertibleDownsample2d",
    "Linear",
    "MaxMin",
    "PadToMultiple1d",
    "PadToMultiple2d",
    "PadToMultiple3d",
    "SharedTensors",
]
