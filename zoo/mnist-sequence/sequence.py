"""A 1-D net that reads an image as one sequence of pixels, row by row."""

from torch import nn

import taut


def sequence(input_shape, classes, parametrization, width=32):
    channels, *size = input_shape
    layers, inputs, length = [nn.Flatten(2)], channels, size[0]*size[1]
    for outputs, kernel, stride in ((width, 8, 4), (2 * width, 8, 4), (2 * width, 7, 1), (2*width, 8, 4)):
        layers += [taut.nn.Conv1d(inputs, outputs, kernel, stride, parametrization=parametrization), taut.nn.MaxMin()]
        inputs, length = outputs, -(-length // stride)
    return nn.Sequential(*layers, nn.Flatten(), taut.nn.Linear(inputs*length, 64), taut.nn.MaxMin(), taut.nn.Linear(64, classes))
