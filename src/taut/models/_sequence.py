"""Convolutions, then dense layers, MaxMin between all of them: what every net here is."""

import math
from collections.abc import Callable

from torch import nn

from taut.nn import Conv2d, Linear, MaxMin
from taut.parametrizations import BCOP, AbstractParametrization

Parametrization = Callable[..., AbstractParametrization]


def sequence(
    input_shape: tuple[int, ...],
    convolutions: tuple[tuple[int, int, int], ...],
    widths: tuple[int, ...],
    dense: Parametrization,
    parametrization: Parametrization = BCOP,
) -> nn.Sequential:
    """A net of named layers: conv1, maxmin1, ..., flatten, dense1, ...

    Args:
        input_shape: channels, height and width of an image; anything if there are no convolutions.
        convolutions: channels, kernel size and stride of each.
        widths: of the dense layers, the last being the number of classes.
        dense: parametrization of the dense layers.
        parametrization: of the convolutions.

    Raises:
        ValueError: if there are convolutions and `input_shape` is not that of an image.

    Example:
        >>> net = sequence((1, 5, 5), ((8, 4, 2),), (10,), taut.Orthogonal)
        >>> [name for name, _ in net.named_children()]
        ['conv1', 'maxmin1', 'flatten', 'dense1']
    """
    if convolutions and len(input_shape) != 3:
        raise ValueError(f"`input_shape` must be channels, height and width; got {input_shape}.")
    model, shape = nn.Sequential(), input_shape
    for i, (channels, kernel_size, stride) in enumerate(convolutions, 1):
        layer = Conv2d(shape[0], channels, kernel_size, stride, parametrization=parametrization)
        model.add_module(f"conv{i}", layer)
        model.add_module(f"maxmin{i}", MaxMin())
        shape = (channels, *(math.ceil(size / stride) for size in shape[1:]))
    model.add_module("flatten", nn.Flatten())
    features = math.prod(shape)
    for i, width in enumerate(widths, 1):
        model.add_module(f"dense{i}", Linear(features, width, parametrization=dense))
        if i < len(widths):
            model.add_module(f"maxmin{len(convolutions) + i}", MaxMin())
        features = width
    return model
