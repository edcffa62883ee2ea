"""The one training loop: Adam on any device, resumed where it stopped."""

import math
import os
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from taut.data import Batches, Dataset, StreamedDataset
from taut.models import build
from taut.parametrizations import projected, retract_, update_
from taut.training.checkpoint import load_checkpoint, save_checkpoint
from taut.training.evaluation import Evaluation, evaluate
from taut.training.interruption import TrainingInterrupted, interrupt_flag
from taut.training.processes import Launch, Processes, state_of
from taut.training.recipe import Recipe
from taut.training.run import RECIPE, Run, alone, prepare, write_history
from taut.training.schedules import first_moment_decay, learning_rate_factor

Device = Literal["auto", "cpu", "cuda"]

_ALONE = Launch()
_SECONDS_BETWEEN_CHECKPOINTS = 60.0
# Reading the loss makes the CPU wait for a GPU; on the CPU itself it is free.
_STEPS_BETWEEN_READINGS = {"cpu": 1, "cuda": 16}


@final
@dataclass(frozen=True)
class Progress:
    """What a caller of `train` is told.

    Args:
        step: optimiser steps taken.
        total: optimiser steps of the whole run.
        epoch: the current epoch, from 1.
        loss: mean training loss of the epoch so far.
        evaluation: of the test set after the last epoch finished in this sitting, or None.
    """

    step: int
    total: int
    epoch: int
    loss: float
    evaluation: Evaluation | None


@final
class TrainingDiverged(RuntimeError):
    """The loss or a weight is not finite; the last checkpoint is as it was."""


def choose_device(device: Device) -> torch.device:
    """The device asked for; "auto" is a GPU if there is one.

    Raises:
        ValueError: if a GPU is asked for and torch finds none.

    Example:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    found = torch.cuda.is_available()
    if device == "cuda" and not found:
        raise ValueError("`device` must be auto or cpu where torch finds no GPU; got cuda.")
    if device == "auto":
        return torch.device("cuda" if found else "cpu")
    return torch.device(device)


def train(
    recipe: Recipe,
    run_dir: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    device: Device = "auto",
    launch: Launch = _ALONE,
    on_progress: Callable[[Progress], None] | None = None,
) -> Run:
    """Trains a recipe into a run folder, from its last checkpoint if it has one.

    The result is a function of the recipe alone: on one device a resumed run is bitwise the run
    that was never stopped. A checkpoint is written after every epoch and every minute; Ctrl-C
    finishes the step, writes one, and raises, as SIGTERM does. On several devices, too, each step
    sees the batch that one device would see, and a run may be resumed on another number of them.

    Args:
        recipe: all settings.
        run_dir: the run folder; made if it is not there.
        data_dir: where the files of the data set are; when resuming, None is where they were.
        device: "auto" takes a GPU if there is one.
        launch: how many processes, one a device; each batch is divided among them.
        on_progress: called after steps (every one on a CPU) and after epochs, in the first process.

    Returns:
        The finished run.

    Raises:
        ValueError: if the folder holds a run of another recipe, another process trains in it, the
            data do not fit the model, or there is no such device.
        TrainingInterrupted: after Ctrl-C or SIGTERM.
        OtherProcessFailed: if the first of several processes fails at what all wait for.
        TrainingDiverged: if the loss or a weight is not finite.

    Example:
        >>> import tempfile
        >>> recipe = Recipe(name="brief", dataset="fashion-mnist-subset", epochs=1, batch_size=1000)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [row["step"] for row in train(recipe, folder).history()]
        [2]
    """
    folder, processes = Path(run_dir), Processes(launch, choose_device(device), recipe.precision)
    if data_dir is None and (folder / RECIPE).is_file():
        data_dir = Run.open(folder).data_dir
    data_dir = None if data_dir is None else Path(data_dir)
    run = Run(folder, recipe, data_dir, launch.workers)
    data = run.data()
    _check_fit(recipe, data)
    chosen = processes.fabric.device
    random = torch.random.fork_rng(devices=[chosen] if chosen.type == "cuda" else [])
    with ExitStack() as held, random, interrupt_flag() as interrupted:
        processes.by_first(lambda: prepare(recipe, folder, run.data_dir, run.workers))
        processes.by_first(lambda: held.enter_context(alone(folder)))
        torch.manual_seed(recipe.seed)
        _Trainer(run, data, processes).train(interrupted, on_progress or (lambda _: None))
    return run


@final
class _Trainer:
    def __init__(self, run: Run, data: Dataset | StreamedDataset, processes: Processes) -> None:
        self.run, self.recipe, self.processes = run, run.recipe, processes
        self.fabric, self.device = processes.fabric, processes.fabric.device
        self.data = data.to(self.device)
        self.plain_model = build(self.recipe.model).to(self.device)
        self.plain_optimiser = torch.optim.Adam(self.plain_model.parameters(), fused=True)
        self.position = load_checkpoint(run, self.plain_model, self.plain_optimiser, self.device)
        self._require_one_run()
        self.model: Any
        self.optimiser: Any
        self.model, self.optimiser = self.fabric.setup(self.plain_model, self.plain_optimiser)
        self.loss = self.recipe.loss.build()
        self.batches = Batches(
            split=self.data.train,
            batch_size=self.recipe.batch_size,
            seed=self.recipe.seed,
            augment=self.recipe.augment,
            share=processes.share,
        )
        self.steps_per_epoch = self.batches.steps
        self.total = self.steps_per_epoch * self.recipe.epochs
        self.rows = run.history()[: self.position.step // self.steps_per_epoch]
        self.losses = torch.zeros_like(self.position.loss_sum)  # of this process, not yet told
        self.evaluation: Evaluation | None = None
        self.clock = self.saved = time.monotonic()

    def train(self, interrupted: threading.Event, tell: Callable[[Progress], None]) -> None:
        self.processes.by_first(lambda: write_history(self.run, self.rows))
        tell = tell if self.processes.first else lambda _: None
        stop = False
        while self.position.step < self.total:
            stop = self._epoch(interrupted, tell)
            if stop and self.position.step < self.total:
                raise TrainingInterrupted(
                    f"Stopped after step {self.position.step} of {self.total}; "
                    f"go on with: taut train --resume {shlex.quote(str(self.run.path))}"
                )

    def _epoch(self, interrupted: threading.Event, tell: Callable[[Progress], None]) -> bool:
        """Trains to the end of the epoch, or until all are to stop: whether they are."""
        epoch, start = divmod(self.position.step, self.steps_per_epoch)
        readings = _STEPS_BETWEEN_READINGS[self.device.type]
        if start == 0:
            self.position.loss_sum.zero_()
        for images, labels in self.batches.epoch(epoch, start=start):
            self._step(images, labels)
            if self.position.step % self.steps_per_epoch == 0:
                break
            due = self.position.step % readings == 0
            # Alone, a process need not wait for others to stop at once.
            if not due and self.processes.share.world > 1:
                continue
            self._share_losses()
            if due:
                tell(self._progress())
            late = time.monotonic() - self.saved > _SECONDS_BETWEEN_CHECKPOINTS
            stop, late = self._agree(interrupted.is_set(), late and self.processes.first)
            if late or stop:
                self._save(self._finished())
            if stop:
                return True
        self._share_losses()
        self._finish_epoch()
        tell(self._progress())
        return self._agree(interrupted.is_set())[0]

    def _agree(self, *flags: bool) -> list[bool]:
        """Whether anyone says so."""
        if self.processes.share.world == 1:
            return list(flags)
        mine = torch.tensor(flags, dtype=torch.float32, device=self.device)
        return (self.processes.total(mine) > 0).tolist()

    def _share_losses(self) -> None:
        self.position.loss_sum += self.processes.total(self.losses)
        self.losses.zero_()

    def _step(self, images: Tensor, labels: Tensor) -> None:
        lr = self._learning_rate(self.position.step)
        beta1 = first_moment_decay(self.recipe.schedule, self.position.step, self.total)
        for group in self.plain_optimiser.param_groups:
            group["lr"], group["betas"] = lr, (beta1, group["betas"][1])
        self.optimiser.zero_grad()
        self._backward(images, labels)
        self.optimiser.step()
        self.position.step += 1
        every = self.recipe.retract_every
        with self._finite_raw_tensors():
            if every and self.position.step % every == 0:
                retract_(self.plain_model)
            update_(self.plain_model, self.position.step)

    def _backward(self, images: Tensor, labels: Tensor) -> None:
        world, count = self.processes.share.world, len(labels)
        if count == 0:  # fewer images than processes: one that does not count, to wait for nobody
            (spare,) = self.data.train.fetch(torch.zeros(1, dtype=torch.int64), [slice(1)])
            images, labels = spare.float_images(), spare.labels
        loss = self.loss(self._logits(images), labels)
        self.losses += loss.detach().double() * count
        if world > 1:
            # The mean over processes that is taken of gradients is to be that over all images.
            loss = loss * (
                count * world / self.batches.size(self.position.step % self.batches.steps)
            )
        self.fabric.backward(loss)

    def _logits(self, images: Tensor) -> Tensor:
        with self._finite_raw_tensors():
            return self.model(images)

    @contextmanager
    def _finite_raw_tensors(self) -> Iterator[None]:
        """Inside, raw tensors that are refused for NaN or infinity are a run that diverged."""
        try:
            yield
        except ValueError:
            self._require_finite_weights()
            raise

    def _learning_rate(self, step: int) -> float:
        return self.recipe.lr * learning_rate_factor(
            self.recipe.schedule,
            step,
            steps_per_epoch=self.steps_per_epoch,
            epochs=self.recipe.epochs,
        )

    def _finish_epoch(self) -> None:
        mean_loss = self._progress().loss
        finished = self._finished()
        self.processes.require_equal("Weights", *state_of(self.plain_model))
        self.evaluation = evaluate(finished, self.data.test, self.recipe.eps, self.processes)
        self._tick()
        certified = self.evaluation.certified_accuracy
        self.rows.append(
            {
                "epoch": self.position.step // self.steps_per_epoch,
                "step": self.position.step,
                "lr": self._learning_rate(self.position.step - 1),
                "train_loss": mean_loss,
                "clean_accuracy": self.evaluation.clean_accuracy,
                **{f"certified_accuracy_{eps}": value for eps, value in certified.items()},
                "bound": self.evaluation.bound,
                "seconds": round(self.position.seconds, 3),
            }
        )
        # Rows first: a checkpoint never speaks of an epoch whose row could be missing.
        self.processes.by_first(lambda: write_history(self.run, self.rows))
        self._save(finished)

    def _finished(self) -> nn.Module:
        """The model as others are to have it."""
        self._require_finite_weights()
        return projected(self.plain_model).eval()

    def _progress(self) -> Progress:
        epoch, done = divmod(self.position.step - 1, self.steps_per_epoch)
        seen = min((done + 1) * self.recipe.batch_size, len(self.data.train))
        loss = float(self.position.loss_sum) / seen
        if not math.isfinite(loss):
            raise self._diverged()
        return Progress(self.position.step, self.total, epoch + 1, loss, self.evaluation)

    def _require_one_run(self) -> None:
        """Refuses to train where some processes see no checkpoint, or another one."""
        what = f"The checkpoints in {self.run.path} (is it one folder for all machines?)"
        step = str(self.position.step).encode()
        self.processes.require_equal(what, step, *state_of(self.plain_model))

    def _require_finite_weights(self) -> None:
        if not all(bool(p.isfinite().all()) for p in self.plain_model.parameters()):
            raise self._diverged()

    def _diverged(self) -> TrainingDiverged:
        return TrainingDiverged(
            f"The loss or the weights are not finite after step {self.position.step}; "
            f"{self.run.path} keeps its last checkpoint. "
            f"Try a smaller learning rate than {self.recipe.lr}."
        )

    def _save(self, finished: nn.Module) -> None:
        self._progress()  # refuses a loss that is not finite
        self._require_finite_weights()
        self._tick()
        run, model, optimiser = self.run, self.plain_model, self.plain_optimiser
        self.processes.by_first(
            lambda: save_checkpoint(run, model, optimiser, self.position, finished=finished)
        )
        self.saved = time.monotonic()

    def _tick(self) -> None:
        now = time.monotonic()
        self.position.seconds += now - self.clock
        self.clock = now


def _check_fit(recipe: Recipe, data: Dataset | StreamedDataset) -> None:
    if data.input_shape != recipe.model.input_shape or len(data.classes) != recipe.model.classes:
        raise ValueError(
            f"`model` must take the images of {data.name}, input_shape={data.input_shape} and "
            f"classes={len(data.classes)}; got input_shape={recipe.model.input_shape} and "
            f"classes={recipe.model.classes}."
        )
