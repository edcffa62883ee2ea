"""Constants of a forward that may broadcast the signal to a larger shape, which copies entries."""

from typing import Any

from torch import Tensor, fx, nn

from taut import nn as layers

__all__ = ["held", "wider_than"]

_KINDS: tuple[tuple[Any, int], ...] = (
    (layers.Conv1d | layers.ConvTranspose1d, 3),
    (layers.Conv2d | layers.ConvTranspose2d, 4),
    (layers.Conv3d | layers.ConvTranspose3d, 5),
)


def held(model: nn.Module, node: fx.Node) -> Tensor | None:
    """A tensor that a model holds; None for one that its forward makes."""
    if node.op != "get_attr":
        return None
    owner, _, last = str(node.target).rpartition(".")
    module = model.get_submodule(owner)
    return module._parameters.get(last, module._buffers.get(last))


def wider_than(model: nn.Module, node: fx.Node, signal: fx.Node) -> str:
    """Why a call may broadcast the signal; "" where its constants are known to fit.

    One number fits; and so does one number for each channel, where the layer before says how many
    there are and which axis they are.
    """
    known = _channels(model, signal)
    for other in node.all_input_nodes:
        value = None if other is signal else held(model, other)
        if other is signal or (value is not None and value.numel() == 1):
            continue
        if value is None or known is None or not _fits(tuple(value.shape), *known):
            shape = "a shape that is computed" if value is None else f"shape {tuple(value.shape)}"
            return (
                f"its constant, of {shape}, may spread the signal to a larger shape; give "
                "`input_shape`"
            )
    return ""


def _fits(shape: tuple[int, ...], channels: int, axis: int, axes: int) -> bool:
    wide = (*[1] * (axes - len(shape)), *shape)
    return len(wide) == axes and wide[axis] in (1, channels) and wide.count(1) >= axes - 1


def _channels(model: nn.Module, node: Any) -> tuple[int, int, int] | None:
    """Channels of a value, their axis, and the number of axes, from the layer that made it."""
    while isinstance(node, fx.Node) and node.op == "call_module":
        layer = model.get_submodule(str(node.target))
        for kinds, axes in _KINDS:
            if isinstance(layer, kinds):
                return int(layer.out_channels), 1, axes  # pyright: ignore[reportArgumentType]
        if not isinstance(layer, nn.Identity | nn.Dropout | layers.MaxMin):
            return None
        node = node.args[0] if node.args else None
    return None
