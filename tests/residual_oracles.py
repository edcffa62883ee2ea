"""Residual layers by dense matrices from index arithmetic, and their Jacobians."""

import copy

import numpy as np
import torch
from torch import Tensor, nn

from convolution_oracles import Case, slow_matrix


def jacobian(layer: nn.Module, x: Tensor) -> Tensor:
    """The matrix of derivatives at one input."""
    found = torch.autograd.functional.jacobian(lambda t: layer(t[None])[0], x)
    return found.reshape(-1, x.numel())


def norm(matrix: Tensor) -> float:
    return torch.linalg.matrix_norm(matrix, 2).item()


def linearised(layer: nn.Module) -> nn.Module:
    """The layer with the identity for the activation: the worst case."""
    copied = copy.deepcopy(layer)
    copied.activation = nn.Identity()
    return copied


def matrix_of(case: Case, weight: Tensor) -> Tensor:
    """The matrix of a convolution."""
    return torch.from_numpy(slow_matrix(case, weight.detach().double().numpy()))


def case_of(layer, channels, hidden, size, stride=None, kernel=None) -> Case:
    """The convolution from the channels of an image to the hidden ones."""
    dilation = (*layer.dilation, 1, 1)[:3]
    kernel, stride = kernel or layer.kernel_size, stride or layer.stride
    options = {"dilation": dilation, "groups": layer.groups, "mode": layer.padding_mode}
    return Case(channels, hidden, kernel, stride, size, **options)


def slow_potential(layer, x: Tensor) -> Tensor:
    """x - 2 C^T f(g C x + b) / g with a dense C."""
    weight, scale = layer.parametrization.scaled_weight()
    c = matrix_of(case_of(layer, layer.channels, len(weight), tuple(x.shape[2:])), weight)
    positions = len(c) // len(weight)
    g = torch.ones(len(weight)) if scale is None else scale.detach()
    g = g.double().repeat_interleave(positions)
    b = 0 if layer.bias is None else layer.bias.detach().double().repeat_interleave(positions)
    flat = x.double().flatten(1)
    hidden = layer.activation(g * (flat @ c.T) + b) / g
    return (flat - 2 * hidden @ c).reshape(x.shape)


def unfolded(image: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Phases of the stride as channels, by loops: (b, c, *n) to (b, c * s, *(n / s))."""
    size = [-(-n // s) for n, s in zip(image.shape[2:], stride, strict=True)]
    out = torch.zeros(len(image), image.shape[1], int(np.prod(stride)), *size, dtype=image.dtype)
    for place in np.ndindex(*image.shape[2:]):
        phase, at = 0, []
        for p, s in zip(place, stride, strict=True):
            phase, at = phase * s + p % s, [*at, p // s]
        out[(slice(None), slice(None), phase, *at)] = image[(slice(None), slice(None), *place)]
    return out.flatten(1, 2)
