"""What is timed: a layer forwards and backwards, a training step of a net, an evaluation."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, final, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from taut.benchmark.cases import Case, LayerCase
from taut.benchmark.timing import Run

Precision = Literal["float32", "bfloat16"]


@final
@dataclass(frozen=True)
class Settings:
    """How everything in one table is measured.

    Args:
        device: "cpu", "cuda" or "cuda:1".
        dtype: "float32", or "bfloat16" for autocast to it.
        repeats: rounds in which the contenders take turns.
        seconds: no new round of a case after that, but three in any case.
        threads: of torch on the CPU.

    Raises:
        ValueError: if a number is not positive or the dtype is another.

    Example:
        >>> Settings(repeats=3).dtype
        'float32'
    """

    device: str = "cpu"
    dtype: Precision = "float32"
    repeats: int = 15
    seconds: float = 20.0
    threads: int = 1

    def __post_init__(self) -> None:
        if self.dtype not in get_args(Precision):
            raise ValueError(f"`dtype` must be float32 or bfloat16; got {self.dtype!r}.")
        for name, value in (("repeats", self.repeats), ("threads", self.threads)):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1; got {value}.")

    @property
    def place(self) -> torch.device:
        """The device as torch has it."""
        return torch.device(self.device)

    def autocast(self) -> AbstractContextManager:
        """The context of every forward."""
        enabled = self.dtype == "bfloat16"
        return torch.autocast(self.place.type, torch.bfloat16, enabled=enabled)


def inputs(case: Case, settings: Settings) -> Tensor:
    """Random images of a case, seeded.

    Example:
        >>> inputs(LayerCase(3, 8, batch=2), Settings()).shape
        torch.Size([2, 3])
    """
    generator = torch.Generator().manual_seed(0)
    return torch.rand(case.batch, *case.input_shape, generator=generator).to(settings.place)


def training_run(module: nn.Module, case: Case, settings: Settings) -> Run:
    """What training repeats.

    Args:
        module: the layer or the net.
        case: a layer runs forwards and backwards, to the gradients of input and parameters; a net
            makes a step: forward, multi-margin loss, backward, Adam.
        settings: device and precision.

    Example:
        >>> layer = nn.Linear(3, 8)
        >>> training_run(layer, LayerCase(3, 8, batch=2), Settings())()
        >>> layer.weight.grad.shape
        torch.Size([8, 3])
    """
    module.train()
    x = inputs(case, settings)
    if isinstance(case, LayerCase):
        return _layer_run(module, x.requires_grad_(), settings)
    labels = torch.arange(case.batch, device=x.device) % 10
    optimiser = torch.optim.Adam(module.parameters(), fused=True)

    def step() -> None:
        optimiser.zero_grad()
        with settings.autocast():
            loss = F.multi_margin_loss(module(x).flatten(1).float(), labels)
        loss.backward()
        optimiser.step()

    return step


def _layer_run(layer: nn.Module, x: Tensor, settings: Settings) -> Run:
    with torch.no_grad(), settings.autocast():
        slope = torch.randn_like(layer(x))

    def run() -> None:
        layer.zero_grad()
        x.grad = None
        with settings.autocast():
            y = layer(x)
        y.backward(slope)

    return run


def evaluation_run(module: nn.Module, case: Case, settings: Settings) -> Run:
    """A forward; gradients are to be disabled, and caches opened, around all of its repetitions.

    Example:
        >>> evaluation_run(nn.Linear(3, 8), LayerCase(3, 8), Settings())()
    """
    module.eval()
    x = inputs(case, settings)

    def forward() -> None:
        with settings.autocast():
            module(x)

    return forward
