"""Singular values of the linear layers of a model."""

import math

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from taut._sharding import gathers
from taut.diagnostics._record import ModuleCall, recorded
from taut.linalg.convolution import ConvOperator
from taut.linalg.spectral import SpectralOperator
from taut.parametrizations import cached
from taut.program import single_operator, singular_values, trace

HISTOGRAM_BINS, HISTOGRAM_SPAN = 24, 1.2
MAX_WORK = 1 << 32
"""Largest outputs * inputs * min(outputs, inputs) of a dense operator whose spectrum is computed:
seconds, where the exact spectrum of any layer may take minutes."""


@gathers
def spectra(model: nn.Module, input_shape: tuple[int, ...]) -> dict[str, Float64[Tensor, " s"]]:
    """Exact singular values of each linear layer with parameters, on the shape of its input.

    Layers whose spectrum would take minutes are left out: those that are neither convolutions with
    circular padding nor small enough to be written out densely.

    Args:
        model: as :func:`gradient_norms`.
        input_shape: shape of one input, without the batch.

    Returns:
        All singular values, descending, by the name of the layer; if it is called again, "conv #2"
        is its second call.

    Raises:
        ValueError: if `input_shape` does not fit the model, and as :func:`gradient_norms`.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), taut.nn.Linear(9, 4), taut.nn.MaxMin())
        >>> {name: values.shape for name, values in spectra(model, (1, 3, 3)).items()}
        {'1': torch.Size([4])}
    """
    tensors = (*model.parameters(), *model.buffers())
    like = next((x for x in tensors if x.is_floating_point()), torch.zeros((), device="cpu"))
    noise = torch.rand(
        1, *input_shape, generator=torch.Generator().manual_seed(0), device="cpu"
    ).to(like)
    try:
        with recorded(model, noise) as record:
            layers = {call.label: spectrum_of(call) for call in record.calls}
    except RuntimeError as error:
        raise ValueError(
            f"`input_shape` must fit the model; with {tuple(input_shape)}: {error}"
        ) from None
    return {name: values for name, values in layers.items() if values is not None}


@gathers
def orthogonality_defects(model: nn.Module, input_shape: tuple[int, ...]) -> dict[str, float]:
    r"""Largest :math:`|\sigma - 1|` over the singular values of each linear layer.

    It is 0 for orthogonal layers, and for semi-orthogonal ones.

    Args:
        model: as :func:`gradient_norms`.
        input_shape: shape of one input, without the batch.

    Returns:
        The defect by the name of the layer, for the layers that :func:`spectra` returns.

    Raises:
        ValueError: as :func:`spectra`.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> with torch.no_grad():
        ...     _ = layer.weight.copy_(torch.diag(torch.tensor([1.0, 0.75])))
        >>> orthogonality_defects(nn.Sequential(layer), (2,))
        {'0': 0.25}
    """
    layers = spectra(model, input_shape)
    return {name: float((values - 1).abs().max()) for name, values in layers.items()}


def histogram(values: Float64[Tensor, "..."]) -> list[int]:
    """Count singular values in 24 equal bins from 0 to 1.2; the last bin takes larger ones, too.

    Args:
        values: singular values.

    Example:
        >>> histogram(torch.ones(3).double())[20]
        3
    """
    # Bin edges are multiples of 0.05: half of 1e-6 keeps a rounded 1 in the bin that starts at 1.
    bins = (values.flatten() + 5e-7) / HISTOGRAM_SPAN * HISTOGRAM_BINS
    last = HISTOGRAM_BINS - 1
    return torch.bincount(bins.clamp(0, last).long().cpu(), minlength=HISTOGRAM_BINS).tolist()


def spectrum_of(call: ModuleCall) -> Float64[Tensor, " s"] | None:
    """Singular values of a linear layer; None for a module that is not one, or too large."""
    parameters = any(True for _ in call.module.parameters())
    if not parameters or call.inner or len(call.edges) != 1:
        return None
    try:
        with torch.no_grad(), cached():
            if _work(call.module, call.shape) > MAX_WORK:
                return None
            return singular_values(call.module, call.shape).cpu()
    except (NotImplementedError, ValueError):
        return None


def _work(module: nn.Module, shape: tuple[int, ...]) -> int:
    """Outputs * inputs * min(outputs, inputs); 0 if the spectrum needs no dense operator."""
    operator = single_operator(trace(module, shape))
    if isinstance(operator, ConvOperator) and operator.input_size and operator.is_torus:
        return 0
    if isinstance(operator, SpectralOperator):
        return 0
    sides = [math.prod(shape)] * 2
    if operator is not None:
        sides = [math.prod(operator.out_shape), math.prod(operator.in_shape)]
    return math.prod(sides) * min(sides)
