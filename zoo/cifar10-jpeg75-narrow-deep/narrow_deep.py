"""The architecture deep of taut with a third stage and a dense layer that fit into two MiB."""

from torch import nn

import taut


def narrow_deep(input_shape, classes, parametrization, hidden=112):
    """Three stages of a 3x3 and a strided 4x4 convolution, a dense layer, MaxMin after each."""
    channels, height, width = input_shape
    layers = []
    for outputs in (32, 64, 96):
        for kernel, stride in ((3, 1), (4, 2)):
            layers += [
                taut.nn.Conv2d(channels, outputs, kernel, stride, parametrization=parametrization),
                taut.nn.MaxMin(),
            ]
            channels = outputs
        height, width = -(-height // 2), -(-width // 2)
    layers += [nn.Flatten(), taut.nn.Linear(channels * height * width, hidden), taut.nn.MaxMin()]
    return nn.Sequential(*layers, taut.nn.Linear(hidden, classes))
