"""What is faster in chains of frozen layers: pads that activations write, and channels last."""

from collections import Counter
from typing import Any

from torch import nn

from taut.nn import (
    Abs,
    CircularConv1d,
    CircularConv2d,
    CircularConv3d,
    CircularPad1d,
    CircularPad2d,
    CircularPad3d,
    MaxMin,
    PadToMultiple1d,
    PadToMultiple2d,
    PadToMultiple3d,
    writes_padded,
)

__all__ = ["shorten"]

_CONVOLUTIONS = {CircularConv1d: nn.Conv1d, CircularConv2d: nn.Conv2d, CircularConv3d: nn.Conv3d}
_PADS = {1: CircularPad1d, 2: CircularPad2d, 3: CircularPad3d}
_MULTIPLES = (PadToMultiple1d, PadToMultiple2d, PadToMultiple3d)
_ANY_FORMAT = (
    *_CONVOLUTIONS, *_CONVOLUTIONS.values(), *_PADS.values(), *_MULTIPLES,
    Abs, MaxMin, nn.Dropout, nn.Dropout2d, nn.Identity, nn.ReLU,
)  # fmt: skip
"""Modules that compute the same in each memory format, and keep it."""


def shorten(frozen: nn.Module, held: set[nn.Module]) -> None:
    """Let activations in chains of a frozen model write to the padded input of what follows.

    A chain is a plain `Sequential` that no module of another class holds, `held`. Convolutions that
    occur once take their input padded.
    """
    modules = [module for _, module in frozen.named_modules(remove_duplicate=False)]
    times = Counter(map(id, modules))
    for chain in dict.fromkeys(modules):
        if _is_chain(chain, held):
            _fuse(chain, times)
    leaves = _leaves(frozen, held)
    ends_flat = False
    for module in reversed(leaves):
        if type(module) is nn.Flatten:
            ends_flat = (module.start_dim, module.end_dim) == (1, -1)
        ends_flat = ends_flat and (type(module) in _ANY_FORMAT or type(module) is nn.Flatten)
        if ends_flat and isinstance(module, CircularConv2d | CircularPad2d):
            module.channels_last = True


def _is_chain(module: nn.Module, held: set[nn.Module]) -> bool:
    return type(module) is nn.Sequential and module not in held


def _leaves(module: nn.Module, held: set[nn.Module]) -> list[nn.Module]:
    """The modules of a chain of chains, in order."""
    if not _is_chain(module, held):
        return [module]
    return [leaf for child in module.children() for leaf in _leaves(child, held)]


def _fuse(chain: nn.Module, times: Counter[int]) -> None:
    """Make one entry of each activation and the pads behind it; the name is the activation's."""
    entries: list[tuple[str, Any]] = list(chain._modules.items())
    chain._modules.clear()
    place = 0
    while place < len(entries):
        name, module = entries[place]
        fused = _fused([m for _, m in entries[place : place + 4]], times)
        if fused is None:
            chain.add_module(name, module)
            place += 1
            continue
        read, pad, conv = fused
        chain.add_module(name, pad.train(module.training))
        if conv is not None:
            chain.add_module(entries[place + read - 1][0], conv)
        place += read


def _fused(
    modules: list[Any], times: Counter[int]
) -> tuple[int, nn.Module, nn.Module | None] | None:
    """How many modules are one pad and perhaps one convolution, if the first is an activation."""
    activation, *rest = modules
    if not writes_padded(activation):
        return None
    multiple: Any = 1
    if rest and type(rest[0]) in _MULTIPLES:
        multiple, *rest = rest[0].multiple, *rest[1:]
    if not rest:
        return None
    read, last = 1 + (multiple != 1) + 1, rest[0]
    if type(last) in _PADS.values() and type(last.activation) is nn.Identity:
        own = last.multiple if multiple == 1 else multiple
        if multiple != 1 and set(last.multiple) != {1}:
            return None
        return read, type(last)(last.padding, activation, multiple=own), None
    if type(last) not in _CONVOLUTIONS or times[id(last)] > 1:
        return None
    axes = len(last.stride)
    sides = [n for p in reversed(last.padding) for n in (p, p)]
    return read, _PADS[axes](sides, activation, multiple=multiple), _without_padding(last)


def _without_padding(conv: Any) -> nn.Module:
    sizes = (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride)
    options: dict[str, Any] = {"bias": conv.bias is not None, "device": "meta"}
    options["dtype"] = conv.weight.dtype
    plain = _CONVOLUTIONS[type(conv)](*sizes, 0, conv.dilation, conv.groups, **options)
    plain.register_parameter("weight", conv.weight)
    plain.register_parameter("bias", conv.bias)
    return plain.train(conv.training)
