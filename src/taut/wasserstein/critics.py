"""Critics: networks from a point to one number, 1-Lipschitz if their parametrization is."""

import math
from collections.abc import Callable
from itertools import pairwise

from torch import nn

from taut._arguments import whole
from taut.nn import Conv2d, Linear, MaxMin
from taut.parametrizations import AbstractParametrization, methods

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"MaxMin": MaxMin, "ReLU": nn.ReLU}


def dcgan(
    input_shape: tuple[int, int, int],
    *,
    width: int = 64,
    activation: str = "MaxMin",
    parametrization: str = "BCOP",
    upsampling: int = 1,
) -> nn.Sequential:
    """The paper's critic, for images of any size: four convolutions k4 s2, then a dense layer.

    Guarantee: that of the parametrization; with upsampling by u its nearest neighbours copy each
        pixel u^2 times, a gain of u that :func:`taut.lipschitz_bound` counts.

    Args:
        input_shape: channels, height and width.
        width: channels of the first convolution; doubled by each that follows.
        activation: "MaxMin", or "ReLU", which attenuates gradients.
        parametrization: name of a class in :mod:`taut.parametrizations`.
        upsampling: factor of nearest neighbours before the first layer; 1 for none.

    Raises:
        ValueError: if a name is unknown or a size is not positive.

    Reference:
        Li et al. (2019), arXiv:1911.00937, appendix on Wasserstein distances: 64, 128, 256, 512
        channels on 64 x 64 images.

    Example:
        >>> import torch
        >>> dcgan((1, 28, 28), width=4)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 1])
    """
    kernels, dense_kind, activate = _kinds(parametrization, activation)
    _check_sizes(input_shape, width=width, upsampling=upsampling)
    channels, *size = (input_shape[0], *(n * upsampling for n in input_shape[1:]))
    model = nn.Sequential()
    if upsampling > 1:
        model.add_module("upsample", nn.Upsample(scale_factor=upsampling))
    for i in range(4):
        layer = Conv2d(channels, width << i, 4, 2, parametrization=kernels)
        model.add_module(f"conv{i + 1}", layer)
        model.add_module(f"activation{i + 1}", activate())
        channels, size = width << i, [math.ceil(n / 2) for n in size]
    model.add_module("flatten", nn.Flatten())
    model.add_module("dense", Linear(channels * math.prod(size), 1, parametrization=dense_kind))
    return model


def deep(
    input_shape: tuple[int, int, int],
    *,
    width: int = 32,
    depth: int = 3,
    activation: str = "MaxMin",
    parametrization: str = "BCOP",
) -> nn.Sequential:
    """A deep critic without residual sums: orthogonal layers need none to pass gradients on.

    Three stages, each of `depth` convolutions k3 s1 and one k4 s2 that doubles the channels.

    Guarantee: that of the parametrization.

    Args:
        input_shape: channels, height and width.
        width: channels of the first stage.
        depth: convolutions of stride 1 in each stage.
        activation: "MaxMin" or "ReLU".
        parametrization: name of a class in :mod:`taut.parametrizations`.

    Raises:
        ValueError: if a name is unknown or a size is not positive.

    Example:
        >>> import torch
        >>> len([m for m in deep((1, 8, 8), width=4, depth=2) if isinstance(m, taut.nn.Conv2d)])
        9
    """
    kernels, dense_kind, activate = _kinds(parametrization, activation)
    _check_sizes(input_shape, width=width, depth=depth)
    channels, *size = input_shape
    layers: list[nn.Module] = []
    for stage in range(3):
        for _ in range(depth):
            layers += [Conv2d(channels, width << stage, 3, parametrization=kernels), activate()]
            channels = width << stage
        layers += [Conv2d(channels, 2 * channels, 4, 2, parametrization=kernels), activate()]
        channels, size = 2 * channels, [math.ceil(n / 2) for n in size]
    head = Linear(channels * math.prod(size), 1, parametrization=dense_kind)
    return nn.Sequential(*layers, nn.Flatten(), head)


def dense(
    input_shape: tuple[int, ...],
    *,
    width: int = 128,
    depth: int = 3,
    activation: str = "MaxMin",
    parametrization: str = "Orthogonal",
) -> nn.Sequential:
    """A dense critic: `depth` hidden layers of `width`, then one number.

    Guarantee: that of the parametrization.

    Args:
        input_shape: of one input, flattened.
        width: of the hidden layers.
        depth: number of hidden layers.
        activation: "MaxMin" or "ReLU".
        parametrization: name of a class in :mod:`taut.parametrizations`.

    Raises:
        ValueError: if a name is unknown or a size is not positive.

    Example:
        >>> critic = dense((2,), width=8)
        >>> round(float(taut.lipschitz_bound(critic, (2,))), 4)
        1.0
    """
    _, kind, activate = _kinds(parametrization, activation)
    _check_sizes(input_shape, width=width, depth=depth)
    widths = [math.prod(input_shape), *[width] * depth]
    model = nn.Sequential(nn.Flatten())
    for inputs, outputs in pairwise(widths):
        model.extend([Linear(inputs, outputs, parametrization=kind), activate()])
    return model.append(Linear(widths[-1], 1, parametrization=kind))


_Kind = Callable[..., AbstractParametrization]


def _kinds(parametrization: str, activation: str) -> tuple[_Kind, _Kind, Callable[[], nn.Module]]:
    """Classes for kernels and for matrices, where some are all `Orthogonal`, and the activation."""
    if activation not in _ACTIVATIONS:
        allowed = " or ".join(_ACTIVATIONS)
        raise ValueError(f"`activation` must be {allowed}; got {activation!r}.")
    if parametrization not in methods():
        raise ValueError(
            f"`parametrization` must be one of {', '.join(methods())}; got {parametrization!r}."
        )
    kind = methods()[parametrization]
    return kind, kind.dense_as(), _ACTIVATIONS[activation]


def _check_sizes(input_shape: tuple[int, ...], **sizes: int) -> None:
    shape = {f"input_shape[{i}]": n for i, n in enumerate(input_shape)}
    for name, size in (shape | sizes).items():
        whole(name, size)
