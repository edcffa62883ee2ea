"""Layers whose kernel has the size of their input."""

import copy
from typing import Any

import torch
from torch import nn

from taut.nn import AbstractParametrizedLayer, SpectralConv


def input_sizes(
    model: nn.Module,
    layers: list[AbstractParametrizedLayer],
    input_shape: tuple[int, ...] | None,
) -> dict[int, tuple[int, ...]]:
    """Spatial sizes of the inputs of convolutions in a model, by the identity of the layers.

    Raises:
        ValueError: if `input_shape` is needed and missing, or does not fit; if a layer is given
            none, or inputs of several sizes.
    """
    if not layers:
        return {}
    names = {id(module): name or "model" for name, module in model.named_modules()}
    first = layers[0]
    if input_shape is None:
        method = type(first.parametrization).__name__
        raise ValueError(
            f"`input_shape` must be given to freeze `{names[id(first)]}` "
            f"({type(first).__name__}): its {method} kernel fills the size of its input."
        )
    memo: dict[int, Any] = {}
    probe = copy.deepcopy(model, memo).eval()
    seen: dict[int, set[tuple[int, ...]]] = {id(layer): set() for layer in layers}
    for layer in layers:
        memo[id(layer)].register_forward_pre_hook(_note(seen[id(layer)], layer), with_kwargs=True)
    like = next(
        (p for p in probe.parameters() if p.is_floating_point()), torch.zeros((), device="cpu")
    )
    try:
        probe(like.new_zeros(1, *input_shape))
    except (RuntimeError, ValueError, TypeError) as error:
        words = " ".join(str(error).split())
        raise ValueError(f"`input_shape` {input_shape} does not fit the model: {words}") from error
    for layer in layers:
        sizes = sorted(seen[id(layer)])
        if len(sizes) != 1:
            what = f"inputs of the sizes {sizes}" if sizes else "no input"
            raise ValueError(
                f"`{names[id(layer)]}` ({type(layer).__name__}) is given {what} for "
                f"input_shape={tuple(input_shape)}; its frozen kernel has exactly one size."
            )
    return {key: next(iter(sizes)) for key, sizes in seen.items()}


def _note(sizes: set[tuple[int, ...]], layer: Any) -> Any:
    def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
        image = args[0] if args else kwargs["input"]
        sizes.add(tuple(image.shape[-layer.axes :]))

    return hook


def with_taps(model: nn.Module, input_shape: tuple[int, ...]) -> nn.Module:
    """The model with plain convolutions for those in the frequency domain; itself if it has none.

    Raises:
        ValueError: if `input_shape` does not fit.
    """
    from taut.export._freeze import freeze

    modules = list(model.modules())
    if any(isinstance(m, AbstractParametrizedLayer) and m.fills_input for m in modules):
        model = freeze(model, input_shape)
    layers = [m for m in model.modules() if isinstance(m, SpectralConv)]
    memo: dict[int, Any] = {id(m): m.as_taps().train(m.training) for m in layers}
    return copy.deepcopy(model, memo) if layers else model
