"""What each layer does to lengths: singular values forwards, gradient norms backwards."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn

from taut.linalg.spectrum import is_torus
from taut.lipschitz import operator_of, singular_values
from taut.parametrizations import cached
from taut.report._trace import Place, traced
from taut.report.attenuation import (
    MOST_OUTPUTS,
    LayerGradient,
    layer_gradients,
    trace_singular_values,
)

BARS = 24
"""Bins of a spectrum's histogram, from 0 to `SPAN`."""
SPAN = 1.2
MOST_WORK = 1 << 32
"""Outputs times inputs times the smaller of both, up to which the spectrum of a layer is taken that
is no convolution on a torus: seconds, where the exact spectrum of any layer may take minutes."""


@final
@dataclass(frozen=True)
class LayerInspection:
    """One layer of a model, in the order of its forward pass.

    Attributes:
        gradient: at the layer's input, with the name and the type of the layer.
        spectrum: all singular values of the layer as a linear map on that shape, descending; None
            for a layer that is not linear or too large for its exact spectrum.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> inspect_layers(model, torch.full((3, 1, 2, 2), 0.5))[1].type
        'Linear'
    """

    gradient: LayerGradient
    spectrum: Float64[Tensor, " s"] | None

    @property
    def name(self) -> str:
        """Of the module in the model."""
        return self.gradient.name

    @property
    def type(self) -> str:
        """Of the module."""
        return self.gradient.type

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of what enters, without the batch."""
        return self.gradient.input_shape

    @property
    def gradient_norm(self) -> float:
        """Norm of the margin's gradient at the layer's input over its norm at the output."""
        return self.gradient.margin

    def histogram(self) -> list[int]:
        """Count of singular values in `BARS` equal bins from 0 to `SPAN`; the last takes the rest.

        Example:
            >>> layers = inspect_layers(taut.nn.Linear(2, 2), torch.ones(1, 2))
            >>> layers[0].histogram()[20]
            2
        """
        return [] if self.spectrum is None else histogram(self.spectrum)


@final
@dataclass(frozen=True)
class Inspection:
    """A model, looked at with a batch.

    Attributes:
        layers: in the order of the forward pass.
        jacobian: singular values of the Jacobian from each image to the output; None for a model
            with too many outputs.
    """

    layers: tuple[LayerInspection, ...]
    jacobian: Float64[Tensor, "b s"] | None


def histogram(values: Float64[Tensor, "..."]) -> list[int]:
    """Count of values in `BARS` equal bins from 0 to `SPAN`; the last takes the rest.

    Example:
        >>> histogram(torch.ones(3).double())[20]
        3
    """
    # The bin edges lie at multiples of 0.05: half of 1e-6 keeps a rounded 1 in the bin above 1.
    bins = ((values.flatten() + 5e-7) / SPAN * BARS).clamp(0, BARS - 1).long()
    return torch.bincount(bins.cpu(), minlength=BARS).tolist()


def inspect_layers(
    model: nn.Module, images: Float[Tensor, "b *shape"], labels: Int[Tensor, " b"] | None = None
) -> tuple[LayerInspection, ...]:
    """Run one batch forwards and backwards and look at each layer that it passes.

    Args:
        model: maps a batch of images to one tensor, each image by itself; not touched itself.
        images: a batch, floating point.
        labels: true classes; those that the model predicts if None.

    Raises:
        ValueError: as :func:`taut.report.attenuation`.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> images, labels = torch.full((3, 1, 2, 2), 0.5), torch.tensor([0, 1, 1])
        >>> [layer.name for layer in inspect_layers(model, images, labels)]
        ['0', '1']
    """
    with traced(model, images) as trace:
        gradients, places = layer_gradients(trace, labels), trace.places
        return _with_spectra(gradients, places)


def inspect_model(
    model: nn.Module, images: Float[Tensor, "b *shape"], labels: Int[Tensor, " b"] | None = None
) -> Inspection:
    """Look at each layer, and at the Jacobian of the whole model.

    Args:
        model: maps a batch of images to one tensor, each image by itself; not touched itself.
        images: a batch, floating point.
        labels: true classes; those that the model predicts if None.

    Raises:
        ValueError: as :func:`taut.report.attenuation`.

    Example:
        >>> found = inspect_model(taut.nn.Linear(3, 2), torch.ones(1, 3))
        >>> len(found.layers), found.jacobian.shape
        (1, torch.Size([1, 2]))
    """
    with traced(model, images) as trace:
        gradients = layer_gradients(trace, labels)
        few = trace.output.shape[1] <= MOST_OUTPUTS
        jacobian = trace_singular_values(trace) if few else None
        return Inspection(_with_spectra(gradients, trace.places), jacobian)


def _with_spectra(
    gradients: Sequence[LayerGradient], places: Sequence[Place]
) -> tuple[LayerInspection, ...]:
    with torch.no_grad(), cached():
        return tuple(
            LayerInspection(gradient, _spectrum(place))
            for gradient, place in zip(gradients, places, strict=True)
        )


def _spectrum(place: Place) -> Tensor | None:
    """Singular values of a linear layer, None for any other or one too large."""
    parameters = any(True for _ in place.module.parameters())
    if not (parameters and place.leaf and len(place.edges) == 1):
        return None
    try:
        if _cost(place) > MOST_WORK:
            return None
        return singular_values(place.module, place.shape).cpu()
    except (NotImplementedError, ValueError):
        return None


def _cost(place: Place) -> int:
    """Outputs times inputs times the smaller of both, where a spectrum needs the dense operator."""
    op = operator_of(place.module, place.shape)
    if op is not None and op.input_size and is_torus(op):
        return 0
    inputs = math.prod(place.shape)
    sides = (inputs, inputs) if op is None else op.shape
    return math.prod(sides) * min(sides)
