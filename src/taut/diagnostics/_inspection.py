"""Gradient norms and spectra, layer by layer."""

import math
from dataclasses import dataclass, field, replace
from typing import final

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn

from taut._sharding import gathers
from taut.diagnostics._jacobian import MAX_JACOBIAN_OUTPUTS, jacobian_of
from taut.diagnostics._record import ForwardRecord, call_label, recorded
from taut.diagnostics._spectra import spectrum_of


@final
@dataclass(frozen=True, kw_only=True)
class LayerDiagnostics:
    """One call of a module: its spectrum, and the gradient at its input.

    Gradient norms are root mean squares over the images, relative to the norm at the output. They
    are 1 if no later layer attenuates.

    Attributes:
        name: name of the module in the model; empty for the model itself.
        type: class name of the module.
        call: 1, or more if the module was called before.
        input_shape: shape of the input, without the batch.
        whole: whether the whole signal passes here. In one of several branches it does not, and
            the norms are those of the branch's share.
        margin: norm of the gradient of the margin; of the output, for a model with one output.
        random: norm for random directions of the output. For a model with no more outputs than
            directions it covers all of them: the Frobenius norm of the Jacobian from here, divided
            by the root of the number of outputs.
        spectrum: all singular values of the layer as a linear map on that shape, descending; None
            if it is not linear, too large (see :func:`spectra`), or was not asked for.

    Example:
        >>> inspect(nn.Linear(4, 2), torch.ones(1, 4)).layers[0].type
        'Linear'
    """

    name: str
    type: str
    call: int
    input_shape: tuple[int, ...]
    whole: bool
    margin: float
    random: float
    spectrum: Float64[Tensor, " s"] | None = field(default=None, repr=False)

    @property
    def label(self) -> str:
        """The name, followed by the number of the call if it is not the first."""
        return call_label(self.name, self.call)


@final
@dataclass(frozen=True, repr=False)
class Inspection:
    """The result of :func:`inspect`.

    Attributes:
        layers: the layers in the order of the forward pass.
        jacobian: singular values of the Jacobian from each image to the output; None if it was not
            asked for, or the model has more than `MAX_JACOBIAN_OUTPUTS` outputs.
    """

    layers: tuple[LayerDiagnostics, ...]
    jacobian: Float64[Tensor, "b s"] | None

    def __repr__(self) -> str:
        images = "no Jacobian" if self.jacobian is None else f"{len(self.jacobian)} images"
        return f"Inspection({len(self.layers)} layers, {images})"


@gathers
def inspect(
    model: nn.Module,
    images: Float[Tensor, "b *shape"],
    labels: Int[Tensor, " b"] | None = None,
    *,
    jacobian: bool = True,
) -> Inspection:
    """Gradient norms and spectra of all layers, and the spectrum of the Jacobian, for one batch.

    Args:
        model: as :func:`gradient_norms`.
        images: a batch, floating point.
        labels: true classes; the predicted ones if None.
        jacobian: whether to compute the spectrum of the Jacobian.

    Raises:
        ValueError: as :func:`gradient_norms`.

    Example:
        >>> inspection = inspect(taut.nn.Linear(3, 2), torch.ones(1, 3))
        >>> len(inspection.layers), inspection.jacobian.shape
        (1, torch.Size([1, 2]))
    """
    with recorded(model, images) as record:
        pairs = zip(_gradient_norms(record, labels), record.calls, strict=True)
        layers = tuple(replace(norms, spectrum=spectrum_of(call)) for norms, call in pairs)
        few = record.output.shape[1] <= MAX_JACOBIAN_OUTPUTS
        return Inspection(layers, jacobian_of(record) if jacobian and few else None)


@gathers
def gradient_norms(
    model: nn.Module,
    images: Float[Tensor, "b *shape"],
    labels: Int[Tensor, " b"] | None = None,
    *,
    directions: int = 10,
    seed: int = 0,
) -> tuple[LayerDiagnostics, ...]:
    r"""Gradient norm at the input of every layer, relative to that at the output.

    At each call of a module, :math:`\|J_l^\top v\|_2 / \|v\|_2` for the Jacobian :math:`J_l` from
    the module's input to the output: for v the gradient of the margin, and for random orthonormal
    v. Works for any torch model: sums, branches, modules that are called twice, functions between
    modules. A module that calls others is listed only if it computes something before it calls
    them. The model is run as a copy in eval mode; it is not changed.

    Cost: one forward pass of the batch and `directions` + 2 backward passes, fewer for a model
        with fewer outputs.

    Args:
        model: maps a batch of images to one tensor, each image by itself.
        images: a batch, floating point.
        labels: true classes, for the margin; the predicted ones if None.
        directions: number of random directions of the output for each image.
        seed: seed of the directions.

    Returns:
        One entry for each call, in the order of the forward pass. The first is at the images.

    Raises:
        ValueError: if `directions` is below 1, a label does not fit, there is no image, or the
            output is not one row of finite numbers per image that depends on that image alone.

    Reference:
        Li et al. (2019), section 3; arXiv:1911.00937. Anil, Lucas, Grosse (2019), *Sorting out
        Lipschitz function approximation*; arXiv:1811.05381.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
        >>> with torch.no_grad():
        ...     for layer in model:
        ...         _ = layer.weight.copy_(0.5 * torch.eye(4))
        >>> [(layer.name, layer.random) for layer in gradient_norms(model, torch.ones(1, 4))]
        [('0', 0.25), ('1', 0.5)]
    """
    with recorded(model, images) as record:
        return _gradient_norms(record, labels, directions, seed)


def _gradient_norms(
    record: ForwardRecord, labels: Tensor | None, directions: int = 10, seed: int = 0
) -> tuple[LayerDiagnostics, ...]:
    if directions < 1:
        raise ValueError(f"`directions` must be at least 1; got {directions}.")
    margin = _norms(record, [_margin_gradient(record.output.detach(), labels)])
    random = _norms(record, _directions(record.output, directions, seed))
    return tuple(
        LayerDiagnostics(
            name=call.name,
            type=type(call.module).__name__,
            call=call.number,
            input_shape=call.shape,
            whole=call.whole,
            margin=margin[i],
            random=random[i],
        )
        for i, call in enumerate(record.calls)
    )


def _margin_gradient(output: Tensor, labels: Tensor | None) -> Tensor:
    """Gradient of the margin at the output; 1, whatever its sign, for a model with one output."""
    if labels is not None and labels.shape != output.shape[:1]:
        got = f"{tuple(labels.shape)} for {len(output)} images"
        raise ValueError(f"`labels` must be one class per image; got {got}.")
    if output.shape[1] == 1:
        return torch.ones_like(output)
    index = (output.argmax(1) if labels is None else _checked(labels, output))[:, None]
    others = output.scatter(1, index, -math.inf)
    runners_up = (others == others.amax(1, keepdim=True)).to(output)  # ties share the gradient
    return (-runners_up / runners_up.sum(1, keepdim=True)).scatter(1, index, 1)


def _checked(labels: Tensor, output: Tensor) -> Tensor:
    """The labels, if there is one class for each row of the output."""
    classes = output.shape[1]
    least, most = int(labels.min()), int(labels.max())
    if not 0 <= least <= most < classes:
        raise ValueError(f"`labels` must be in 0..{classes - 1}; got {least}..{most}.")
    return labels


def _directions(output: Tensor, count: int, seed: int) -> list[Tensor]:
    """All directions of the output, or random orthonormal ones for each image."""
    images, outputs = output.shape
    if count >= outputs:
        return list(torch.eye(outputs, device="cpu").to(output)[:, None].expand(-1, images, -1))
    generator = torch.Generator().manual_seed(seed)
    gaussian = torch.randn(
        images, outputs, count, generator=generator, dtype=torch.float64, device="cpu"
    )
    return list(torch.linalg.qr(gaussian).Q.to(output).unbind(2))


def _norms(record: ForwardRecord, cotangents: list[Tensor]) -> list[float]:
    """Root mean square of the gradients' norms at each call, relative to the cotangents'.

    Over the batch as a whole: a tensor inside a model need not have one row per image.
    """
    squares = [0.0] * len(record.calls)
    for cotangent in cotangents:
        for i, gradients in enumerate(record.gradients(cotangent)):
            squares[i] += sum(map(_square, gradients))
    whole = sum(map(_square, cotangents))
    return [math.sqrt(square / whole) for square in squares]


def _square(x: Tensor) -> float:
    return float(x.abs().double().square().sum())
