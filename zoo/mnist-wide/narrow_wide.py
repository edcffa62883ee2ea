"""The architecture wide of taut with dense layers that fit into two MiB."""

from torch import nn

import taut


def narrow_wide(input_shape, classes, parametrization, hidden=120):
    """Conv 32 k4 s2, conv 64 k3, conv 64 k4 s2, dense, dense, MaxMin after each."""
    channels, height, width = input_shape
    layers = []
    for outputs, kernel, stride in ((32, 4, 2), (64, 3, 1), (64, 4, 2)):
        layers += [
            taut.nn.Conv2d(channels, outputs, kernel, stride, parametrization=parametrization),
            taut.nn.MaxMin(),
        ]
        channels, height, width = outputs, -(-height // stride), -(-width // stride)
    layers.append(nn.Flatten())
    features = channels * height * width
    for _ in range(2):
        layers += [taut.nn.Linear(features, hidden), taut.nn.MaxMin()]
        features = hidden
    return nn.Sequential(*layers, taut.nn.Linear(features, classes))
