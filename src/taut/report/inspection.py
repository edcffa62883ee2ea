"""What each layer does to lengths: singular values forwards, gradient norms backwards."""

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn

from taut.certification import logit_margin
from taut.lipschitz import singular_values
from taut.parametrizations import cached

BARS = 24
"""Bins of a spectrum's histogram, from 0 to `SPAN`."""
SPAN = 1.2


@final
@dataclass(frozen=True)
class LayerInspection:
    """One layer of a model, in the order of its forward pass.

    Attributes:
        name: of the module in the model.
        type: of the module.
        input_shape: without the batch.
        spectrum: all singular values of the layer as a linear map on that shape, descending; None
            for a layer that is not linear or too large for its exact spectrum.
        gradient_norm: norm of the margin's gradient at the layer's input over its norm at the
            model's output, mean over the images: 1 where no layer above attenuates.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> inspect_layers(model, torch.full((3, 1, 2, 2), 0.5), torch.tensor([0, 1, 1]))[1].type
        'Linear'
    """

    name: str
    type: str
    input_shape: tuple[int, ...]
    spectrum: Float64[Tensor, " s"] | None
    gradient_norm: float

    def histogram(self) -> list[int]:
        """Count of singular values in `BARS` equal bins from 0 to `SPAN`; the last takes the rest.

        Example:
            >>> LayerInspection("0", "Linear", (2,), torch.ones(2).double(), 1.0).histogram()[20]
            2
        """
        if self.spectrum is None:
            return []
        # The bin edges lie at multiples of 0.05: half of 1e-6 keeps a rounded 1 in the bin above 1.
        bins = ((self.spectrum + 5e-7) / SPAN * BARS).long().clamp(0, BARS - 1)
        return torch.bincount(bins.cpu(), minlength=BARS).tolist()


def inspect_layers(
    model: nn.Module, images: Float[Tensor, "b *shape"], labels: Int[Tensor, " b"]
) -> tuple[LayerInspection, ...]:
    """Run one batch forwards and backwards and look at each layer that it passes.

    A layer is a module that calls no other module. The model itself is not touched.

    Args:
        model: maps images to logits.
        images: in [0, 1].
        labels: true classes.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> images, labels = torch.full((3, 1, 2, 2), 0.5), torch.tensor([0, 1, 1])
        >>> [layer.name for layer in inspect_layers(model, images, labels)]
        ['0', '1']
    """
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    with torch.enable_grad(), cached():
        inputs, logits = _trace(frozen, images.detach().requires_grad_())
        margin = logit_margin(logits, labels)
        tensors = [tensor for _, _, tensor in inputs]
        slopes = torch.autograd.grad(margin.sum(), [*tensors, logits])
    norms = [slope.double().flatten(1).norm(dim=1) for slope in slopes]
    with torch.no_grad(), cached():
        return tuple(
            LayerInspection(
                name=name,
                type=type(module).__name__,
                input_shape=tuple(tensor.shape[1:]),
                spectrum=_spectrum(module, tuple(tensor.shape[1:])),
                gradient_norm=float((norm / norms[-1]).mean()),
            )
            for (name, module, tensor), norm in zip(inputs, norms[:-1], strict=True)
        )


def save_inspection(path: str | os.PathLike[str], layers: Sequence[LayerInspection]) -> Path:
    """Draw the spectrum of each layer and the gradient norm by depth as a picture.

    Args:
        path: of a file whose ending names the format.
        layers: as inspected.

    Returns:
        The path.

    Example:
        >>> import tempfile
        >>> layer = LayerInspection("0", "Linear", (2,), torch.ones(2).double(), 1.0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_inspection(Path(folder, "a.png"), [layer]).name
        'a.png'
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 0.4 * len(layers) + 1.6), layout="constrained", dpi=150)
    left, right = figure.subplots(1, 2, sharey=True)
    for place, layer in enumerate(layers):
        counts = layer.histogram()
        for i, count in enumerate(counts):
            edges = (i * SPAN / BARS, SPAN / BARS)
            height = 0.8 * count / max(counts)
            left.broken_barh([edges], (place + 0.4 - height, height), color="#0b6e63")
    gradients = [layer.gradient_norm for layer in layers]
    right.plot(gradients, range(len(layers)), "o-", color="#b4470f")
    right.set_xlim(0, max(1.1, 1.1 * max(gradients)))
    left.set_xlim(0, SPAN)
    left.set_yticks(range(len(layers)), [f"{layer.name} ({layer.type})" for layer in layers])
    left.invert_yaxis()
    left.set_xlabel("singular values (count, relative to the layer's fullest bin)")
    right.set_xlabel("gradient norm at the layer's input, relative to the output")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.axvline(1, color="#9a958c", linewidth=0.8, linestyle="--", zorder=0)
    figure.savefig(path)
    return Path(path)


def _trace(model: nn.Module, images: Tensor) -> tuple[list[tuple[str, nn.Module, Tensor]], Tensor]:
    """Name, module and input of each layer in the order of the forward pass, and the logits."""
    calls: list[tuple[str, nn.Module, Tensor]] = []
    open_calls: list[int] = []
    handles = []
    for name, module in model.named_modules():

        def enter(module: nn.Module, args: tuple[Tensor, ...], name: str = name) -> None:
            open_calls.append(len(calls))
            calls.append((name, module, args[0]))

        def leave(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            start = open_calls.pop()
            if len(calls) > start + 1:  # it called others: they are the layers
                del calls[start]

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    logits = model(images)
    for handle in handles:
        handle.remove()
    return calls, logits


def _spectrum(module: nn.Module, input_shape: tuple[int, ...]) -> Tensor | None:
    """Singular values of a linear layer, None for any other or one too large."""
    if not any(True for _ in module.parameters()):
        return None
    try:
        return singular_values(module, input_shape).cpu()
    except (NotImplementedError, ValueError):
        return None
