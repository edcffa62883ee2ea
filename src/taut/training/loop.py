"""The one training loop: Adam on any device, resumed where it stopped."""

import math
import os
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from taut.certification import Certification, certify
from taut.data import Dataset, batches, load
from taut.models import build
from taut.parametrizations import projected, retract_, update_
from taut.training.checkpoint import load_checkpoint, save_checkpoint
from taut.training.recipe import Recipe
from taut.training.run import RECIPE, Run, alone, prepare, write_history
from taut.training.schedules import first_moment_decay, learning_rate_factor

Device = Literal["auto", "cpu", "cuda"]

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
    evaluation: Certification | None


@final
class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C came, and the run has been saved; the message says how to go on."""


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
    on_progress: Callable[[Progress], None] | None = None,
) -> Run:
    """Trains a recipe into a run folder, from its last checkpoint if it has one.

    The result is a function of the recipe alone: on one device a resumed run is bitwise the run
    that was never stopped. A checkpoint is written after every epoch and every minute; Ctrl-C
    finishes the step, writes one, and raises.

    Args:
        recipe: all settings.
        run_dir: the run folder; made if it is not there.
        data_dir: where the files of the data set are; when resuming, None is where they were.
        device: "auto" takes a GPU if there is one.
        on_progress: called after steps (every one on a CPU) and after epochs.

    Returns:
        The finished run.

    Raises:
        ValueError: if the folder holds a run of another recipe, another process trains in it, the
            data do not fit the model, or there is no such device.
        TrainingInterrupted: after Ctrl-C.
        TrainingDiverged: if the loss or a weight is not finite.

    Example:
        >>> import tempfile
        >>> recipe = Recipe(name="brief", dataset="fashion-mnist-subset", epochs=1, batch_size=1000)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [row["step"] for row in train(recipe, folder).history()]
        [2]
    """
    folder = Path(run_dir)
    if data_dir is None and (folder / RECIPE).is_file():
        data_dir = Run.open(folder).data_dir
    data = load(recipe.dataset, data_dir, holdout=recipe.holdout)
    _check_fit(recipe, data)
    chosen = choose_device(device)
    run = prepare(recipe, folder, None if data_dir is None else Path(data_dir))
    gpus = [torch.cuda.current_device()] if chosen.type == "cuda" else []
    random = torch.random.fork_rng(devices=gpus)
    with alone(folder), random, _interrupt_flag() as interrupted:
        torch.manual_seed(recipe.seed)
        _Trainer(run, data, chosen).train(interrupted, on_progress or (lambda _: None))
    return run


@final
class _Trainer:
    def __init__(self, run: Run, data: Dataset, device: torch.device) -> None:
        from lightning_fabric import Fabric

        self.run, self.recipe = run, run.recipe
        self.fabric = Fabric(accelerator=device.type, devices=1)
        self.device = self.fabric.device
        self.data = data.to(self.device)
        self.plain_model = build(self.recipe.model).to(self.device)
        self.plain_optimiser = torch.optim.Adam(self.plain_model.parameters(), fused=True)
        self.position = load_checkpoint(run, self.plain_model, self.plain_optimiser, self.device)
        self.model: Any
        self.optimiser: Any
        self.model, self.optimiser = self.fabric.setup(self.plain_model, self.plain_optimiser)
        self.loss = self.recipe.loss.build()
        self.steps_per_epoch = -(-len(data.train) // self.recipe.batch_size)
        self.total = self.steps_per_epoch * self.recipe.epochs
        self.rows = run.history()[: self.position.step // self.steps_per_epoch]
        self.evaluation: Certification | None = None
        self.clock = self.saved = time.monotonic()

    def train(self, interrupted: threading.Event, tell: Callable[[Progress], None]) -> None:
        write_history(self.run, self.rows)
        while self.position.step < self.total:
            self._epoch(interrupted, tell)
            if interrupted.is_set() and self.position.step < self.total:
                raise TrainingInterrupted(
                    f"Stopped after step {self.position.step} of {self.total}; "
                    f"go on with: taut train --resume {shlex.quote(str(self.run.path))}"
                )

    def _epoch(self, interrupted: threading.Event, tell: Callable[[Progress], None]) -> None:
        epoch, start = divmod(self.position.step, self.steps_per_epoch)
        readings = _STEPS_BETWEEN_READINGS[self.device.type]
        recipe = self.recipe
        if start == 0:
            self.position.loss_sum.zero_()
        for images, labels in batches(
            self.data.train,
            recipe.batch_size,
            seed=recipe.seed,
            epoch=epoch,
            augment=recipe.augment,
            start=start,
        ):
            self._step(images, labels)
            if self.position.step % self.steps_per_epoch == 0:
                break
            if self.position.step % readings == 0:
                tell(self._progress())
            late = time.monotonic() - self.saved > _SECONDS_BETWEEN_CHECKPOINTS
            if late or interrupted.is_set():
                self._save(self._finished())
            if interrupted.is_set():
                return
        self._finish_epoch()
        tell(self._progress())

    def _step(self, images: Tensor, labels: Tensor) -> None:
        lr = self._learning_rate(self.position.step)
        beta1 = first_moment_decay(self.recipe.schedule, self.position.step, self.total)
        for group in self.plain_optimiser.param_groups:
            group["lr"], group["betas"] = lr, (beta1, group["betas"][1])
        self.optimiser.zero_grad()
        loss = self.loss(self._logits(images), labels)
        self.fabric.backward(loss)
        self.optimiser.step()
        self.position.loss_sum += loss.detach().double() * len(labels)
        self.position.step += 1
        every = self.recipe.retract_every
        with self._finite_raw_tensors():
            if every and self.position.step % every == 0:
                retract_(self.plain_model)
            update_(self.plain_model, self.position.step)

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
        test = self.data.test
        self.evaluation = certify(
            finished, test.float_images(), test.labels, self.recipe.eps, arithmetic="real"
        )
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
                "bound": float(self.evaluation.bound),
                "seconds": round(self.position.seconds, 3),
            }
        )
        # Rows first: a checkpoint never speaks of an epoch whose row could be missing.
        write_history(self.run, self.rows)
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
        optimiser, position = self.plain_optimiser, self.position
        save_checkpoint(self.run, self.plain_model, optimiser, position, finished=finished)
        self.saved = time.monotonic()

    def _tick(self) -> None:
        now = time.monotonic()
        self.position.seconds += now - self.clock
        self.clock = now


def _check_fit(recipe: Recipe, data: Dataset) -> None:
    if data.input_shape != recipe.model.input_shape or len(data.classes) != recipe.model.classes:
        raise ValueError(
            f"`model` must take the images of {data.name}, input_shape={data.input_shape} and "
            f"classes={len(data.classes)}; got input_shape={recipe.model.input_shape} and "
            f"classes={recipe.model.classes}."
        )


@contextmanager
def _interrupt_flag() -> Iterator[threading.Event]:
    """The first Ctrl-C sets the flag, a second one interrupts at once."""
    flag = threading.Event()
    # Python lets only the main thread handle signals.
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    previous = signal.getsignal(signal.SIGINT)

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        flag.set()
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, previous)
