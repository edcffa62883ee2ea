"""Runs of a module by torch.compile, as a CUDA graph replays them, and inside `taut.batched`."""

import functools
import warnings
from typing import final

import torch
from torch import Tensor, nn

from experiments.speed._timing import Work
from taut.parametrizations import batched

_WARM_UP = 3


@final
class Batched(nn.Module):
    """A net whose bases of one shape come from one call."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        with batched(self.net):
            return self.net(x)


def compiled(module: nn.Module) -> nn.Module:
    """The module by torch.compile in its default mode; it is compiled when first called."""
    if not _compiler_works(next(module.parameters()).device):
        raise RuntimeError("torch.compile needs a working compiler")
    compiled = torch.compile(module)
    assert isinstance(compiled, nn.Module)
    return compiled


@final
class Captured:
    """The replay of a CUDA graph of a run, which is kept: the graph reads its tensors."""

    def __init__(self, run: Work) -> None:
        self.run, self.graph = run, torch.cuda.CUDAGraph()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                run()
        torch.cuda.current_stream().wait_stream(side)
        try:
            with torch.cuda.graph(self.graph):
                run()
        except Exception:
            _end_capture()
            raise

    def __call__(self) -> None:
        self.graph.replay()


def _end_capture() -> None:
    """Take the generator of random numbers out of a capture that failed; torch leaves it there."""
    torch.cuda.synchronize()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the graph is empty
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            pass


@functools.cache
def _compiler_works(device: torch.device) -> bool:
    try:
        torch.compile(lambda x: 2 * x + 1)(torch.ones(3, device=device))
    except Exception:  # of many kinds, by torch's version and what is missing
        return False
    return True
