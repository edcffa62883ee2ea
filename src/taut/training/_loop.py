"""The training loop: on any device, resumed where it stopped."""

import math
import os
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from taut.data import Batches, Dataset, MixedLabels, Share, Stream, StreamedDataset
from taut.kinds import in_file_of
from taut.losses import Margins, label_counts
from taut.parametrizations import after_step, batched_if_quicker, projected, shared_weights
from taut.training._average import Average, parameter_groups
from taut.training._checkpoint import load_checkpoint, save_checkpoint
from taut.training._devices import (
    Device,
    choose_device,
    forked_random,
    steps_between_readings,
)
from taut.training._evaluation import Evaluation, evaluate
from taut.training._interruption import TrainingInterrupted, interrupt_flag
from taut.training._mean_loss import mean_loss
from taut.training._optimisers import OPTIMISERS
from taut.training._processes import Launch, Processes
from taut.training._recipe import Recipe
from taut.training._run import RECIPE, STATE, EpochRow, Run, alone, prepare, write_history
from taut.training._schedules import warm_up
from taut.training._validation import check_fit, divide, write_test

_ALONE = Launch()
_SECONDS_BETWEEN_CHECKPOINTS = 60.0


@final
@dataclass(frozen=True)
class Progress:
    """The state that `train` reports.

    Args:
        step: optimiser steps taken.
        total: optimiser steps of the whole run.
        epoch: the current epoch, from 1.
        loss: mean training loss of the epoch so far.
        evaluation: after the last epoch that this call of `train` finished, or None.
    """

    step: int
    total: int
    epoch: int
    loss: float
    evaluation: Evaluation | None


@final
class TrainingDiverged(RuntimeError):
    """The loss or a weight is not finite; the last checkpoint is unchanged."""


def train(
    recipe: Recipe,
    run_dir: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    device: Device = "auto",
    launch: Launch = _ALONE,
    on_progress: Callable[[Progress], None] | None = None,
) -> Run:
    """Train a recipe into a run folder, from its last checkpoint if it has one.

    The result depends on the recipe alone: on one device a resumed run is bitwise equal to one
    that was never stopped. A checkpoint is written after every epoch and every minute; Ctrl-C and
    SIGTERM finish the step, write one, and raise. On several devices each step uses the batch that
    one device would use, and a run may be resumed on another number of them.

    Args:
        recipe: all settings.
        run_dir: made if it does not exist.
        data_dir: where the data set is; when resuming, where it was by default.
        device: "auto" uses a GPU if there is one.
        launch: number of processes, one per device, that divide each batch.
        on_progress: called after steps (every one on a CPU) and after epochs, in the first process.

    Raises:
        ValueError: if the folder holds a run of another recipe, another process trains in it, the
            data are not those of the recipe, there is no such device, or weights shall be shared
            where gradients accumulate.
        TrainingInterrupted: after Ctrl-C or SIGTERM.
        OtherProcessFailed: in all other processes, if the first one fails at what they wait for.
        TrainingDiverged: if the loss or a weight is not finite.

    Example:
        >>> import tempfile
        >>> recipe = Recipe(name="brief", dataset="fashion-mnist-subset", epochs=1, batch_size=1000)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [row["step"] for row in train(recipe, folder).history()]
        [2]
    """
    check_launch(recipe, launch)
    folder, processes = Path(run_dir), Processes(launch, choose_device(device), recipe.precision)
    if data_dir is None and (folder / RECIPE).is_file():
        data_dir = Run.open(folder).data_dir
    run = Run(folder, recipe, None if data_dir is None else Path(data_dir), launch.workers)
    data = run.data()
    check_fit(recipe, data)
    if not (folder / RECIPE).is_file():
        _try_model(recipe)  # a refused one leaves no folder that the next run would meet
    random = forked_random(processes.fabric.device)
    with ExitStack() as lock, random, interrupt_flag() as interrupted:
        processes.by_first(lambda: prepare(recipe, folder, run.data_dir, run.workers))
        processes.by_first(lambda: lock.enter_context(alone(folder)))
        torch.manual_seed(recipe.seed)
        trainer = Trainer(run, data, processes, launch.share_weights)
        lock.callback(trainer.close)
        trainer.train(interrupted, on_progress or (lambda _: None))
    return run


@final
class Trainer:
    """One sitting of a training, from the last checkpoint on."""

    def __init__(
        self,
        run: Run,
        data: Dataset | StreamedDataset,
        processes: Processes,
        share_weights: bool,
    ) -> None:
        self.share_weights = share_weights
        self.run, self.recipe, self.processes = run, run.recipe, processes
        self.fabric, self.device = processes.fabric, processes.fabric.device
        self.data, self.judged_on = divide(data.to(self.device), self.recipe)
        self.plain_model = self.recipe.build_model().to(self.device)
        groups = parameter_groups(self.plain_model, self.recipe.weight_decay)
        self.kind = OPTIMISERS[self.recipe.optimizer]
        self.plain_optimiser = self.kind.make(groups)
        self.average = Average(self.plain_model, self.recipe.ema) if self.recipe.ema else None
        averaged = None if self.average is None else self.average.model
        state = self.plain_model, self.plain_optimiser, self.device
        self.position = load_checkpoint(run, *state, average=averaged)
        what = f"The checkpoints in {run.path} (is it one folder for all machines?)"
        step, weights = str(self.position.step).encode(), self.plain_model.state_dict().values()
        processes.require_equal(what, step, *weights)
        model: Any = self.plain_model
        model = torch.compile(model) if self.recipe.compile else model
        wrapped: Any = self.fabric.setup(model, self.plain_optimiser)
        self.model, self.optimiser = wrapped
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
        self.losses = torch.zeros_like(self.position.loss_sum)  # of this process, not yet shared
        self.evaluation: Evaluation | None = None
        self.margins: Margins | None = None
        self.clock = self.saved = time.monotonic()

    def train(self, interrupted: threading.Event, tell: Callable[[Progress], None]) -> None:
        self.processes.by_first(lambda: write_history(self.run, self.rows))
        tell = tell if self.processes.first else lambda _: None
        while self.position.step < self.total:
            stop = self._epoch(interrupted, tell)
            if stop and self.position.step < self.total:
                raise TrainingInterrupted(
                    f"Stopped after step {self.position.step} of {self.total}; "
                    f"continue with: taut train --resume {shlex.quote(str(self.run.path))}"
                )

        if self.recipe.validation and self.run.test_accuracy() is None:
            found = evaluate(self.finished(), self.data.test, self.recipe.eps, self.processes)
            self.processes.by_first(lambda: write_test(self.run, self.position.step, found))

    def close(self) -> None:
        """End the processes that decode images."""
        for split in (self.data.train, self.judged_on, self.data.test):
            if isinstance(split, Stream):
                split.close()

    def _epoch(self, interrupted: threading.Event, tell: Callable[[Progress], None]) -> bool:
        """Train to the end of the epoch, or until a process is told to stop; whether one was."""
        epoch, start = divmod(self.position.step, self.steps_per_epoch)
        readings = steps_between_readings(self.device)
        if start == 0:
            self.position.loss_sum.zero_()
        self.bound_margins(start)
        for images, labels in self.batches.epoch(epoch, start=start):
            self.step(images, labels)
            if self.position.step % self.steps_per_epoch == 0:
                break
            due = self.position.step % readings == 0
            # A single process can stop after any step.
            if not due and self.processes.share.world > 1:
                continue
            self._share_losses()
            if due:
                tell(self._progress())
            late = time.monotonic() - self.saved > _SECONDS_BETWEEN_CHECKPOINTS
            stop, late = self._agree(interrupted.is_set(), late and self.processes.first)
            if late or stop:
                self._save(self.finished())
            if stop:
                return True
        self._share_losses()
        self._finish_epoch()
        tell(self._progress())
        return self._agree(interrupted.is_set())[0]

    def bound_margins(self, start: int) -> None:
        """For a loss that needs it, bound the margins; a resumed epoch goes on with its own."""
        if self.recipe.loss.uses_bound:
            self.margins = Margins(self.plain_model, self.recipe.input_shape)
            if start > 0 and self.position.margins:
                self.margins.load_state_dict(self.position.margins)

    def _agree(self, *flags: bool) -> list[bool]:
        """For each flag, whether any process has it set."""
        if self.processes.share.world == 1:
            return list(flags)
        mine = torch.tensor(flags, dtype=torch.float32, device=self.device)
        return (self.processes.total(mine) > 0).tolist()

    def _share_losses(self) -> None:
        self.position.loss_sum += self.processes.total(self.losses)
        self.losses.zero_()

    def step(self, images: Tensor, labels: Tensor | MixedLabels) -> None:
        """Take the next step; `losses` grows by the loss of this process's images."""
        lr = self._learning_rate(self.position.step)
        beta1 = self.recipe.schedule.beta1(self.position.step, self.total)
        self.kind.drive(self.plain_optimiser, lr, beta1)
        self.optimiser.zero_grad()
        self._backward(images, labels)
        if self.recipe.clip_norm:
            nn.utils.clip_grad_norm_(self.plain_model.parameters(), self.recipe.clip_norm)
        with self._finite_raw_tensors():
            self.optimiser.step()
        self.position.step += 1
        with self._finite_raw_tensors():
            after_step(
                self.plain_model,
                self.position.step,
                retract_every=self.recipe.retract_every if self.kind.retracts else 0,
            )
            if self.margins is not None:
                self.margins.update_()
        if self.average is not None:
            self.average.update(self.plain_model, self.position.step)

    def _backward(self, images: Tensor, labels: Tensor | MixedLabels) -> None:
        """Add up the gradients of the parts of a batch; processes exchange them with the last."""
        count, parts = len(labels), self.recipe.accumulate
        counts = None
        if self.recipe.loss.compares_classes and isinstance(labels, Tensor):
            counts = label_counts(labels, self.recipe.classes)
        slices = [Share(part, parts).of(0, count) for part in range(parts)]
        filled = [part for part in slices if part.stop > part.start]
        if count == 0:  # fewer images than processes: take part with one of weight 0
            (spare,) = self.data.train.fetch(
                torch.zeros(1, dtype=torch.int64, device="cpu"), [slice(1)]
            )
            images, labels, filled = spare.float_images(), spare.labels, [slice(0, 1)]
        if self.recipe.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        for part in filled:
            waits = part is not filled[-1]
            with self.fabric.no_backward_sync(self.model, enabled=waits):
                self._backward_part(
                    images[part], labels[part], counts, min(count, part.stop - part.start)
                )

    def _backward_part(
        self, images: Tensor, labels: Tensor | MixedLabels, counts: Tensor | None, count: int
    ) -> None:
        world = self.processes.share.world
        with self._finite_raw_tensors(), self._weights():
            logits = self.model(images)
            known = {} if self.margins is None else self.margins()
        known |= {"counts": counts, "progress": self.position.step / self.total}
        with in_file_of(type(self.recipe.loss)):
            loss = mean_loss(self.recipe.loss, logits, labels, **known)
        self.losses += loss.detach().to(self.losses) * count
        if world > 1 or self.recipe.accumulate > 1:
            # Gradients are averaged over processes; weighted so, that is the mean over all images.
            total = self.batches.size(self.position.step % self.batches.steps)
            loss = loss * (count * world / total)
        self.fabric.backward(loss)

    def _weights(self) -> AbstractContextManager[None]:
        """Inside, weights are computed once over all processes, if asked for, or few at a time."""
        return (shared_weights if self.share_weights else batched_if_quicker)(self.plain_model)

    @contextmanager
    def _finite_raw_tensors(self) -> Iterator[None]:
        """Inside, a refusal of raw tensors that are not finite means that the run diverged."""
        try:
            yield
        except ValueError:
            self._require_finite_weights()
            raise

    def _learning_rate(self, step: int) -> float:
        steps, epochs = self.steps_per_epoch, self.recipe.epochs
        factor = self.recipe.schedule.factor(step, steps_per_epoch=steps, epochs=epochs)
        return self.recipe.lr * factor * warm_up(step, self.recipe.warmup * steps)

    def _finish_epoch(self) -> None:
        mean_loss = self._progress().loss
        finished = self.finished()
        averages = [] if self.average is None else self.average.model.state_dict().values()
        self.processes.require_equal("Weights", *self.plain_model.state_dict().values(), *averages)
        self.evaluation = evaluate(finished, self.judged_on, self.recipe.eps, self.processes)
        self._tick()
        certified = self.evaluation.certified_accuracy
        row: EpochRow = {
            "epoch": self.position.step // self.steps_per_epoch,
            "step": self.position.step,
            "lr": self._learning_rate(self.position.step - 1),
            "train_loss": mean_loss,
            "clean_accuracy": self.evaluation.clean_accuracy,
            **{f"certified_accuracy_{eps}": value for eps, value in certified.items()},
            "bound": self.evaluation.bound,
            "seconds": round(self.position.seconds, 3),
        }
        self.rows.append(row)
        # Rows first, so that every epoch of a checkpoint has its row.
        self.processes.by_first(lambda: write_history(self.run, self.rows))
        self._save(finished)

    def finished(self) -> nn.Module:
        """The model to save for others, to evaluate and to certify."""
        self._require_finite_weights()
        if self.average is not None:
            return projected(self.average.model).eval()
        return projected(self.kind.averaged(self.plain_optimiser, self.plain_model)).eval()

    def _progress(self) -> Progress:
        epoch, done = divmod(self.position.step - 1, self.steps_per_epoch)
        seen = min((done + 1) * self.recipe.batch_size, len(self.data.train))
        loss = float(self.position.loss_sum) / seen
        if not math.isfinite(loss):
            raise self.diverged()
        return Progress(self.position.step, self.total, epoch + 1, loss, self.evaluation)

    def _require_finite_weights(self) -> None:
        if not all(bool(p.isfinite().all()) for p in self.plain_model.parameters()):
            raise self.diverged()

    def diverged(self) -> TrainingDiverged:
        """The error for a loss or a weight that is not finite."""
        kept = (self.run.path / STATE).is_file()
        return TrainingDiverged(
            f"The loss or the weights are not finite after step {self.position.step}"
            f"{f'; {self.run.path} keeps its last checkpoint' if kept else ''}. "
            f"Try a smaller learning rate than {self.recipe.lr}."
        )

    def _save(self, finished: nn.Module) -> None:
        self._progress()  # raises if the loss is not finite
        self._tick()
        self.position.margins = {} if self.margins is None else self.margins.state_dict()
        state = self.run, self.plain_model, self.plain_optimiser, self.position
        average = None if self.average is None else self.average.model
        self.processes.by_first(lambda: save_checkpoint(*state, finished=finished, average=average))
        self.saved = time.monotonic()

    def _tick(self) -> None:
        now = time.monotonic()
        self.position.seconds += now - self.clock
        self.clock = now


def check_launch(recipe: Recipe, launch: Launch) -> None:
    """Refuse to share weights where gradients accumulate."""
    if launch.share_weights and recipe.accumulate > 1:
        raise ValueError(
            "`share_weights` must be False where a batch has several parts, of which processes may "
            f"have different numbers; got accumulate={recipe.accumulate}."
        )


def _try_model(recipe: Recipe) -> None:
    """Build the model and run one input, so that what its layers refuse is refused."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        model = recipe.build_model()
        model.eval()(torch.zeros(1, *recipe.input_shape, device="cpu"))
    parameter_groups(model, recipe.weight_decay)  # refuses a decay that would do nothing
