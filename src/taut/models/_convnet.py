"""Convolutions, then dense layers, MaxMin between them: the nets of BCOP's paper, and others."""

import math
from functools import partial
from typing import ClassVar, final

import torch
from torch import nn

from taut._arguments import each, shape_of_image, whole
from taut.models._base import AbstractModel, Parametrization, dense_method
from taut.nn import Conv2d, Linear, MaxMin
from taut.parametrizations import BCOP


class AbstractConvNet(AbstractModel):
    """A sequence of named layers: conv1, maxmin1, ..., flatten, dense1, ...

    Kernels of :class:`taut.BCOP` are drawn uniformly, as in the founding paper. A subclass states
    the channels, kernel size and stride of its convolutions, and the widths of its hidden dense
    layers. Images may have any size.
    """

    convolutions: ClassVar[tuple[tuple[int, int, int], ...]]
    hidden: ClassVar[tuple[int, ...]]

    @final
    def build(
        self,
        input_shape: tuple[int, ...],
        classes: int,
        *,
        parametrization: Parametrization = BCOP,
        dense: Parametrization | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> nn.Sequential:
        """A freshly initialised model; see :meth:`AbstractModel.build`."""
        if self.convolutions:
            shape = shape_of_image("input_shape", input_shape)
        else:
            shape = each("input_shape", input_shape, whole)
        whole("classes", classes)
        factory = {"device": device, "dtype": dtype}
        kernels = partial(BCOP, init="uniform") if parametrization is BCOP else parametrization
        conv = partial(Conv2d, parametrization=kernels, **factory)
        linear = partial(Linear, parametrization=dense or dense_method(parametrization), **factory)
        model = nn.Sequential()
        for i, (channels, kernel_size, stride) in enumerate(self.convolutions, 1):
            model.add_module(f"conv{i}", conv(shape[0], channels, kernel_size, stride))
            model.add_module(f"maxmin{i}", MaxMin())
            shape = (channels, *(math.ceil(size / stride) for size in shape[1:]))
        model.add_module("flatten", nn.Flatten())
        features = math.prod(shape)
        for i, width in enumerate(self.hidden, 1):
            model.add_module(f"dense{i}", linear(features, width))
            model.add_module(f"maxmin{len(self.convolutions) + i}", MaxMin())
            features = width
        model.add_module(f"dense{len(self.hidden) + 1}", linear(features, classes))
        return model
