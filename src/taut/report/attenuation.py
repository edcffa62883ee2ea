"""How much of the gradient is left at every depth of a model, and the spectrum of its Jacobian."""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn

from taut.certification import logit_margin
from taut.report._trace import Trace, traced

MOST_OUTPUTS = 1024
"""Outputs of a model whose Jacobian is written out."""


@final
@dataclass(frozen=True, kw_only=True)
class LayerGradient:
    """The gradient where one call of a module begins, relative to the output's.

    Norms are root mean squares over the images: of the gradient at what enters the module, over
    what it was at the model's output. 1 where no layer above attenuates.

    Attributes:
        name: of the module in the model; empty for the model itself.
        type: of the module.
        call: 1, or more where the module has been called before.
        input_shape: of what enters, without the batch.
        whole: whether the whole signal passes here. In one branch of several it does not, and
            norms are those of its share.
        margin: norm for the gradient of the margin (of a model with one output, of that).
        random: norm for random directions of the output; of all directions, exactly, for a model
            with no more outputs than directions: the Frobenius norm of the Jacobian from here
            over the root of the number of outputs.

    Example:
        >>> attenuation(nn.Linear(4, 2), torch.ones(1, 4))[0].input_shape
        (4,)
    """

    name: str
    type: str
    call: int
    input_shape: tuple[int, ...]
    whole: bool
    margin: float
    random: float

    @property
    def label(self) -> str:
        """The name as it should be read: with the number of the call, where it is not the first."""
        name = self.name or "(input)"
        return name if self.call == 1 else f"{name} #{self.call}"


def attenuation(
    model: nn.Module,
    images: Float[Tensor, "b *shape"],
    labels: Int[Tensor, " b"] | None = None,
    *,
    directions: int = 10,
    seed: int = 0,
) -> tuple[LayerGradient, ...]:
    r"""Gradient norm at the input of every layer, relative to the output's.

    At each place where a module is called, :math:`\|J_l^\top v\|_2 / \|v\|_2` for the Jacobian
    :math:`J_l` from what enters the module to the output: for v the gradient of the margin, and
    for random orthonormal v. For any torch model: sums, branches, modules that are called again,
    functions between modules. A module that calls others is listed where it computes something
    before it calls them. The model is run as a copy in eval mode; it is not touched itself.

    Cost: one forward pass of the batch, and `directions` + 2 backward passes, fewer for a model
        with fewer outputs.

    Args:
        model: maps a batch of images to one tensor, each image by itself.
        images: a batch, floating point.
        labels: true classes, for the margin; those that the model predicts if None.
        directions: random directions of the output for each image.
        seed: of the directions.

    Returns:
        One entry for each place, in the order of the forward pass. The first is at the images.

    Raises:
        ValueError: if `directions` is below 1, a label does not fit, there is no image, or the
            output is not one row of finite numbers an image that depends on that image alone.

    Reference:
        Li et al. (2019), section 3; arXiv:1911.00937. Anil, Lucas, Grosse (2019), *Sorting out
        Lipschitz function approximation*; arXiv:1811.05381.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
        >>> with torch.no_grad():
        ...     for layer in model:
        ...         _ = layer.weight.copy_(0.5 * torch.eye(4))
        >>> [(layer.name, layer.random) for layer in attenuation(model, torch.ones(1, 4))]
        [('0', 0.25), ('1', 0.5)]
    """
    with traced(model, images) as trace:
        return layer_gradients(trace, labels, directions=directions, seed=seed)


def layer_gradients(
    trace: Trace, labels: Tensor | None, *, directions: int = 10, seed: int = 0
) -> tuple[LayerGradient, ...]:
    """As :func:`attenuation`, of a batch that is on its way.

    Example:
        >>> with traced(nn.Linear(3, 2), torch.zeros(4, 3)) as trace:
        ...     layer_gradients(trace, None)[0].type
        'Linear'
    """
    if directions < 1:
        raise ValueError(f"`directions` must be at least 1; got {directions}.")
    margin = _norms(trace, [_margin_slope(trace.output.detach(), labels)])
    random = _norms(trace, _directions(trace.output, directions, seed))
    return tuple(
        LayerGradient(
            name=place.name,
            type=type(place.module).__name__,
            call=place.call,
            input_shape=place.shape,
            whole=place.whole,
            margin=margin[i],
            random=random[i],
        )
        for i, place in enumerate(trace.places)
    )


def jacobian_singular_values(
    model: nn.Module, images: Float[Tensor, "b *shape"]
) -> Float64[Tensor, "b s"]:
    r"""Exact singular values of the Jacobian from each image to the output.

    All 1 is dynamical isometry: what the output says of the image is neither stretched nor lost.
    Rows by backward passes, each of the whole batch, in the precision of the model; singular
    values in float64. The model is run as a copy in eval mode; it is not touched itself.

    Cost: one forward pass, one backward pass for each output, one SVD for each image.

    Args:
        model: maps a batch of images to one tensor, each image by itself.
        images: a batch, floating point.

    Returns:
        The min(outputs, inputs) values of each image, descending.

    Raises:
        ValueError: if the model has more than `MOST_OUTPUTS` outputs, there is no image, or the
            output is not one row of finite numbers an image that depends on that image alone.

    Reference:
        Saxe, McClelland, Ganguli (2014), *Exact solutions to the nonlinear dynamics of learning in
        deep linear neural networks*; arXiv:1312.6120. Pennington, Schoenholz, Ganguli (2017),
        *Resurrecting the sigmoid in deep learning through dynamical isometry*; arXiv:1711.04735.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), taut.nn.Linear(9, 4), taut.nn.MaxMin())
        >>> jacobian_singular_values(model, torch.rand(2, 1, 3, 3)).round(decimals=4)
        tensor([[1., 1., 1., 1.],
                [1., 1., 1., 1.]], dtype=torch.float64)
    """
    with traced(model, images) as trace:
        return trace_singular_values(trace)


def trace_singular_values(trace: Trace) -> Float64[Tensor, "b s"]:
    """As :func:`jacobian_singular_values`, of a batch that is on its way.

    Example:
        >>> with traced(nn.Identity(), torch.zeros(1, 3)) as trace:
        ...     trace_singular_values(trace)
        tensor([[1., 1., 1.]], dtype=torch.float64)
    """
    outputs = trace.output.shape[1]
    if outputs > MOST_OUTPUTS:
        raise ValueError(
            f"`model` must have at most {MOST_OUTPUTS} outputs for its Jacobian to be written out; "
            f"got {outputs}."
        )
    rows = torch.stack([trace.row(index).flatten(1) for index in range(outputs)], 1)
    return torch.stack([torch.linalg.svdvals(matrix.double()) for matrix in rows]).cpu()


def _margin_slope(output: Tensor, labels: Tensor | None) -> Tensor:
    """Gradient of the margin at the output; of a single output, 1."""
    if labels is None and output.shape[1] == 1:
        return torch.ones_like(output)
    with torch.enable_grad():
        logits = output.requires_grad_()
        margin = logit_margin(logits, logits.argmax(1) if labels is None else labels)
        return torch.autograd.grad(margin.sum(), logits)[0]


def _directions(output: Tensor, count: int, seed: int) -> list[Tensor]:
    """All directions of the output, or orthonormal ones, drawn for each image by itself."""
    images, outputs = output.shape
    if count >= outputs:
        return list(torch.eye(outputs).to(output)[:, None].expand(-1, images, -1))
    draw = torch.Generator().manual_seed(seed)
    gaussian = torch.randn(images, outputs, count, generator=draw, dtype=torch.float64)
    return list(torch.linalg.qr(gaussian).Q.to(output).unbind(2))


def _norms(trace: Trace, cotangents: list[Tensor]) -> list[float]:
    """Norm of the gradients of all images at each place, over that at the output.

    Of all images together: a tensor inside a model need not have one row an image.
    """
    squares = [0.0] * len(trace.places)
    for cotangent in cotangents:
        for i, slopes in enumerate(trace.gradients(cotangent)):
            squares[i] += sum(_square(slope) for slope in slopes)
    whole = sum(_square(cotangent) for cotangent in cotangents)
    return [math.sqrt(square / whole) for square in squares]


def _square(x: Tensor) -> float:
    return float(x.abs().double().square().sum())
