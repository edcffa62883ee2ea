"""Convolutions of every kind as single layers, and how fast a plain one of torch can be."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import final

import torch
from torch import Tensor, nn

import taut
from experiments.speed._timing import TimingSettings, Work, alternate, layer_run

_FORMATS = {
    1: {"channels first": torch.contiguous_format},
    2: {"channels first": torch.contiguous_format, "channels last": torch.channels_last},
    3: {"channels first": torch.contiguous_format, "channels last": torch.channels_last_3d},
}


@final
@dataclass(frozen=True)
class LayerKind:
    """A convolution with as many channels out as in, and the images that it is timed on."""

    name: str  # as tables show it
    layer: str  # its class in `torch.nn` and `taut.nn`
    kernel: int  # taps along each axis
    size: tuple[int, ...]  # of the images
    padding: int  # of a plain layer whose output has the size that "same" gives
    options: Mapping[str, int] = field(default_factory=dict)

    def ours(self, channels: int) -> nn.Module:
        """The layer of taut: circular."""
        return vars(taut.nn)[self.layer](channels, channels, self.kernel, **self.options)

    def plain(self, channels: int) -> nn.Module:
        """The layer of torch: zeros around the image, which is faster than circular padding."""
        sizes = (channels, channels, self.kernel)
        return vars(nn)[self.layer](*sizes, padding=self.padding, **self.options)

    def images(self, channels: int, batch: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.rand(batch, channels, *self.size, generator=generator)


_SQUARE = (16, 16)
KINDS = (
    LayerKind("3x3", "Conv2d", 3, _SQUARE, 1),
    LayerKind("3x3, 2 groups", "Conv2d", 3, _SQUARE, 1, {"groups": 2}),
    LayerKind("3x3, 4 groups", "Conv2d", 3, _SQUARE, 1, {"groups": 4}),
    LayerKind("3x3, dilation 2", "Conv2d", 3, _SQUARE, 2, {"dilation": 2}),
    LayerKind("3x3, stride 2", "Conv2d", 3, _SQUARE, 1, {"stride": 2}),
    LayerKind("4x4, stride 2, transposed", "ConvTranspose2d", 4, (8, 8), 1, {"stride": 2}),
    LayerKind("9, 1-D", "Conv1d", 9, (256,), 4),
    LayerKind("3x3x3, 3-D", "Conv3d", 3, (8, 8, 4), 1),
)


def in_formats(
    name: str, module: nn.Module, x: Tensor, run: Callable[[nn.Module, Tensor], Work]
) -> dict[tuple[str, str], Work]:
    """The runs of a module with images, and kernels that it holds, in either memory format."""
    runs = {}
    for label, memory_format in _FORMATS[x.ndim - 2].items():
        twin = copy.deepcopy(module)
        for key, parameter in twin.named_parameters():
            if key.split(".")[-1] == "weight":  # raw tensors are no kernels
                parameter.data = parameter.data.contiguous(memory_format=memory_format)
        runs[name, label] = run(twin, x.clone(memory_format=memory_format))
    return runs


def training(layer: nn.Module, x: Tensor) -> Work:
    """Forwards and backwards, to the gradients of the input and the parameters."""
    return layer_run(layer.train(), x.requires_grad_(), TimingSettings())


def evaluation(layer: nn.Module, x: Tensor) -> Work:
    """A forward; gradients are to be disabled around it."""
    layer.eval()
    return lambda: layer(x)


def fastest(
    runs: Mapping[tuple[str, str], Work], repeats: int, seconds: float
) -> dict[str, list[float]]:
    """By name: the times, round by round, of the run with the shortest median."""
    times, failed = alternate(runs, torch.device("cpu"), repeats=repeats, seconds=seconds)
    if failed:
        raise RuntimeError("; ".join(f"{name}: {why}" for (name, _), why in failed.items()))
    best: dict[str, list[float]] = {}
    for (name, _), taken in times.items():
        if name not in best or median(taken) < median(best[name]):
            best[name] = taken
    return best
