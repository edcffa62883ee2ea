"""Run attacks of other libraries: the model as a module, and no side effects left behind."""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from taut.attacks._geometry import per_image
from taut.attacks._objective import Batch, Labels, Objective

_DRAWS = 100
"""Noise images among which a starting point is searched, beside the other images of the batch."""


def quiet_import(name: str) -> Any:
    """Import a library, whatever warnings its import raises."""
    with warnings.catch_warnings(action="ignore"):
        return import_module(name)


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Let a library draw from global generators, print, log and warn without lasting effects.

    The generators of torch and numpy start from `seed`, and return to their state. Gradients are
    on, whatever the caller's mode.
    """
    state = np.random.get_state()  # noqa: NPY002 - foolbox draws from the global generator
    # Without a handler the first message of a library would install one that prints.
    quiet, root = logging.NullHandler(), logging.getLogger()
    root.addHandler(quiet)
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            torch.random.fork_rng(),
            torch.enable_grad(),
            redirect_stdout(io.StringIO()),
        ):
            torch.manual_seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
        root.removeHandler(quiet)


@final
class ObjectiveModule(nn.Module):
    """The model of an objective as a module on the device of `images`, fed in their precision."""

    def __init__(self, objective: Objective, images: Batch) -> None:
        super().__init__()
        self.place = nn.Parameter(images.new_empty(0), requires_grad=False)
        self._objective = objective
        self.eval()

    def forward(self, x: Batch) -> Tensor:
        """Return logits in the precision of `x`."""
        return self._objective.logits(x.to(self.place.dtype)).to(x.dtype)


def run_foolbox(
    method: Any,
    objective: Objective,
    images: Batch,
    labels: Labels,
    seed: int = 0,
    **starts: Batch,
) -> Batch:
    """Run a minimising attack of foolbox, and bisect the way back from what it finds."""
    with isolated(seed):
        module = ObjectiveModule(objective, images)
        model = quiet_import("foolbox").PyTorchModel(module, bounds=(0, 1), device=images.device)
        moved = method.run(model, images, labels, **starts).detach()
    return objective.bisect(images, labels, moved)


def starting_points(objective: Objective, images: Batch, labels: Labels, seed: int) -> Batch:
    """Return a misclassified point for each image, or the image itself if none is known.

    It lies at the boundary, towards the nearest of the other images and of some noise that the
    model does not classify as the label: noise alone often looks like one class to a model.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(_DRAWS, *images.shape[1:], generator=generator, device="cpu").to(images)
    pool = torch.cat([images, noise])
    with torch.no_grad():
        answers = objective.logits(pool).argmax(1)
    apart = torch.cdist(images.flatten(1).double(), pool.flatten(1).double())
    apart = apart.masked_fill(answers[None] == labels[:, None], torch.inf)
    other = per_image(apart.amin(1) < torch.inf, images)
    points = torch.where(other, pool[apart.argmin(1)], images)
    return objective.bisect(images, labels, points)
