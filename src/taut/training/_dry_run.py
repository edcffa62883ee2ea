"""The first steps of a training, without a run folder: whether it works, and what it needs."""

import itertools
import math
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch

from taut._arguments import whole
from taut.certification import prove
from taut.training._devices import Device, choose_device, forked_random, peak_memory
from taut.training._loop import Trainer, check_launch
from taut.training._processes import Launch, Processes
from taut.training._recipe import Recipe
from taut.training._run import Run
from taut.training._validation import check_fit

_ALONE = Launch()


@final
@dataclass(frozen=True)
class DryRun:
    """Loss, time and memory of the first steps of a training run.

    Args:
        data: how reports name the data set.
        images: for training and for testing.
        device: where the steps were taken.
        parameters: numbers that are trained.
        losses: of each step, a mean over its batch.
        seconds: of each step with its batch; the first one also allocates, and compiles.
        memory: most bytes in use, on a GPU by tensors, else by the process; None if unknown.
        bound: proven Lipschitz bound of the logits after these steps.
        bound_seconds: that its proof took.
        steps_per_epoch: of the whole run.
    """

    data: str
    images: tuple[int, int]
    device: str
    parameters: int
    losses: tuple[float, ...]
    seconds: tuple[float, ...]
    memory: int | None
    bound: float
    bound_seconds: float
    steps_per_epoch: int


def dry_run(
    recipe: Recipe,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    device: Device = "auto",
    launch: Launch = _ALONE,
    steps: int = 2,
) -> DryRun:
    """Take the first steps of :func:`taut.training.train` without writing files.

    They are those of a run in an empty folder, with the data, the batch size and the settings of
    the recipe; then the bound is proven. Decoded pictures are kept in the cache folder as always.

    Args:
        recipe: all settings.
        data_dir: where the data set is.
        device: "auto" uses a GPU if there is one.
        launch: number of processes, one per device, that divide each batch.
        steps: how many to take; no more than the run has.

    Raises:
        ValueError: if `steps` is below 1; as `train`.
        UnprovenError: (a NotImplementedError and ValueError) if the model has no proven bound.
        TrainingDiverged: if the loss or a weight is not finite.

    Example:
        >>> recipe = Recipe(name="brief", dataset="fashion-mnist-subset", batch_size=20)
        >>> tried = dry_run(recipe, device="cpu")
        >>> len(tried.losses), tried.steps_per_epoch, round(tried.bound, 4)
        (2, 90, 1.0)
    """
    whole("steps", steps)
    check_launch(recipe, launch)
    processes = Processes(launch, choose_device(device), recipe.precision)
    place = None if data_dir is None else Path(data_dir)
    with tempfile.TemporaryDirectory() as folder, forked_random(processes.fabric.device):
        run = Run(Path(folder), recipe, place, launch.workers)
        data = run.data()
        check_fit(recipe, data)
        torch.manual_seed(recipe.seed)
        trainer = Trainer(run, data, processes, launch.share_weights)
        with closing(trainer):
            return _tried(trainer, steps)


def _tried(trainer: Trainer, steps: int) -> DryRun:
    trainer.bound_margins(0)
    losses, seconds = zip(*_timed(_losses(trainer, steps)), strict=True)
    begin = time.perf_counter()
    bound = prove(trainer.finished(), trainer.recipe.input_shape, arithmetic="real").bound
    bound_seconds = time.perf_counter() - begin
    return DryRun(
        data=trainer.data.label,
        images=(len(trainer.data.train), len(trainer.data.test)),
        device=str(trainer.device),
        parameters=sum(p.numel() for p in trainer.plain_model.parameters() if p.requires_grad),
        losses=losses,
        seconds=seconds,
        memory=peak_memory(trainer.device),
        bound=float(bound),
        bound_seconds=bound_seconds,
        steps_per_epoch=trainer.steps_per_epoch,
    )


def _losses(trainer: Trainer, steps: int) -> Iterator[float]:
    """The loss of each of the first steps, as they are taken."""
    batches = itertools.chain.from_iterable(map(trainer.batches.epoch, itertools.count()))
    for at, (images, labels) in enumerate(itertools.islice(batches, min(steps, trainer.total))):
        trainer.losses.zero_()
        trainer.step(images, labels)
        total = float(trainer.processes.total(trainer.losses))  # waits for a GPU
        if not math.isfinite(total):
            raise trainer.diverged()
        yield total / trainer.batches.size(at % trainer.steps_per_epoch)


def _timed(values: Iterator[float]) -> Iterator[tuple[float, float]]:
    """Each value, and the seconds until it came."""
    begin = time.perf_counter()
    for value in values:
        yield value, time.perf_counter() - begin
        begin = time.perf_counter()
