"""What lets the attacks of other libraries run here: a module, and no traces left behind."""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from taut.attacks._objective import Objective


def require(name: str) -> None:
    """Refuse a method whose library is not installed.

    Raises:
        ImportError: naming the extra.

    Example:
        >>> require("no_such_library")
        Traceback (most recent call last):
        ImportError: This attack needs no_such_library: pip install "taut[attacks]".
    """
    if find_spec(name) is None:
        raise ImportError(f'This attack needs {name}: pip install "taut[attacks]".')


def library(name: str) -> Any:
    """Import a library, whatever it warns of while it is imported.

    Example:
        >>> library("foolbox").__name__
        'foolbox'
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_module(name)


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Let another library draw from the global generators, print, log and warn, without a trace.

    The generators of torch and numpy start from `seed`, and go back to where they were. Gradients
    are on, whatever the caller's mode.

    Example:
        >>> before = torch.get_rng_state()
        >>> with isolated(0):
        ...     _ = torch.rand(3)
        >>> torch.equal(torch.get_rng_state(), before)
        True
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    state = np.random.get_state()  # noqa: NPY002 - foolbox draws from the global generator
    # Without a handler the first message of a library would install one that prints.
    quiet, root = logging.NullHandler(), logging.getLogger()
    root.addHandler(quiet)
    try:
        with (
            torch.random.fork_rng(devices),
            torch.enable_grad(),
            redirect_stdout(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            torch.manual_seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
        root.removeHandler(quiet)


@final
class Logits(nn.Module):
    """The model of an objective as a module, which is what other libraries take.

    Args:
        objective: whose logits it gives.
        images: their device is its device; the model is fed in their precision.

    Example:
        >>> objective = Objective(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
        >>> images = torch.zeros(3, 1, 2, 2)
        >>> Logits(objective, images)(images.double()).dtype
        torch.float64
    """

    def __init__(self, objective: Objective, images: Float[Tensor, "b ..."]) -> None:
        super().__init__()
        self.place = nn.Parameter(images.new_empty(0), requires_grad=False)
        self._objective = objective
        self.eval()

    def forward(self, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b classes"]:
        """Return logits in the precision of `x`, whatever that of the model."""
        return self._objective.logits(x.to(self.place.dtype)).to(x.dtype)
