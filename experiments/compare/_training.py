"""Train a net for a number of steps, from its last checkpoint on."""

import itertools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn

from experiments.compare._clock import Clock, Spent
from taut.data import Augment, Batches, Split
from taut.files import (
    load_state,
    load_tensors,
    optimiser_state,
    optimiser_tensors,
    save_tensors,
    tensors_under,
)
from taut.losses import EMMA, AbstractImageLoss, Margins, OffsetCrossEntropy
from taut.parametrizations import batched_if_quicker, update_
from taut.training import OneCycle
from taut.training._interruption import interrupt_flag

LOSS = OffsetCrossEntropy.for_radius("36/255", temperature=0.25)
LOSSES: dict[str, AbstractImageLoss] = {"LiRes": EMMA("36/255")}
"""Of methods whose norms nothing but the loss of their paper keeps down."""

_SCHEDULE = OneCycle()
_SECONDS_BETWEEN_CHECKPOINTS = 60.0
_WARM_UP = 2  # steps that load code and fill caches
_STEPS_BETWEEN_READINGS = 16  # of the loss, for which the CPU waits for a GPU
_MODEL, _OPTIMISER, _MARGINS, _LOSS = "model.", "optimiser.", "margins.", "loss"


@final
class MethodFailed(Exception):
    """A method refuses the shape, or does not train; the message says why."""


@contextmanager
def failing() -> Iterator[None]:
    """Inside, an error is a failure of the method."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        raise MethodFailed(error) from error


@final
@dataclass(frozen=True)
class Task:
    """The settings of a training, which determine its net."""

    method: str
    size: str
    steps: int
    lr: float  # at its peak
    batch: int
    seed: int


@final
class Training:
    """A net in training, with optimiser and loss, and how far it has come.

    The optimiser is Adam: the length of a step does not depend on how a method scales its
    gradients.
    """

    def __init__(self, net: nn.Module, task: Task, shape: tuple[int, ...]) -> None:
        self.net, self.task = net, task
        self.optimiser = torch.optim.Adam(net.parameters(), lr=task.lr)
        self.loss = LOSSES.get(task.method, LOSS)
        with failing():
            self.margins = Margins(net, shape) if self.loss.uses_bound else None
        self.loss_sum = torch.zeros((), device=next(net.parameters()).device)
        self.done = 0  # steps
        self.spent = Spent()

    def step(self, images: Tensor, labels: Tensor) -> None:
        """Take a step, and count it."""
        task, number = self.task, self.done
        factor = _SCHEDULE.factor(number, steps_per_epoch=task.steps, epochs=1)
        beta1 = _SCHEDULE.beta1(number, task.steps)
        for group in self.optimiser.param_groups:
            group["lr"], group["betas"] = task.lr * factor, (beta1, group["betas"][1])
        self.optimiser.zero_grad()
        with failing():
            with batched_if_quicker(self.net):
                logits = self.net(images)
                known = {} if self.margins is None else self.margins()
            loss = self.loss(logits, labels, progress=number / task.steps, **known)
            loss.backward()
            self.optimiser.step()
            update_(self.net, number + 1)
            if self.margins is not None:
                self.margins.update_()
        self.done += 1
        if self.done > task.steps - averaged(task.steps):
            self.loss_sum += loss.detach()
        due = self.done % _STEPS_BETWEEN_READINGS == 0 or self.done == task.steps
        if due and not loss.isfinite():
            raise MethodFailed(f"the loss is not finite after step {self.done}.")

    def save(self, file: Path) -> None:
        """Keep the state in a file."""
        tensors = {f"{_MODEL}{name}": value for name, value in self.net.state_dict().items()}
        tensors |= optimiser_tensors(self.optimiser, _OPTIMISER)
        followed = {} if self.margins is None else self.margins.state_dict()
        tensors |= {f"{_MARGINS}{name}": value for name, value in followed.items()}
        about = {
            "task": json.dumps(asdict(self.task)),
            "step": str(self.done),
            "spent": json.dumps(self.spent),
        }
        save_tensors(file, tensors | {_LOSS: self.loss_sum}, about)

    def load(self, file: Path) -> None:
        """Restore the state that `save` kept."""
        tensors, about = load_tensors(file)
        if about.get("task") != json.dumps(asdict(self.task)) or _LOSS not in tensors:
            raise ValueError(f"{file} is of another training: remove it, or give another folder.")
        load_state(self.net, tensors_under(tensors, _MODEL), file)
        state = optimiser_state(tensors_under(tensors, _OPTIMISER))
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": state, "param_groups": groups})
        if self.margins is not None:
            self.margins.load_state_dict(tensors_under(tensors, _MARGINS))
        self.loss_sum = tensors[_LOSS].to(self.loss_sum.device)
        self.done, self.spent = int(about["step"]), Spent(*json.loads(about["spent"]))


def train(
    net: nn.Module,
    split: Split,
    task: Task,
    clock: Clock,
    file: Path,
    tell: Callable[[int], None] = lambda step: None,
) -> Training:
    """Train a net in place, and keep its state in a file each minute and at the end.

    Ctrl-C finishes the step, keeps the state, and raises.
    """
    begin, saved = clock.read(), time.monotonic()
    training = Training(net, task, _shape(split))
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.is_file():
        training.load(file)
    with interrupt_flag() as interrupted:
        for images, labels in _batches(split, task, training.done):
            training.step(images, labels)
            tell(training.done)
            late = time.monotonic() - saved > _SECONDS_BETWEEN_CHECKPOINTS
            if late or interrupted.is_set() or training.done == task.steps:
                training.spent = training.spent.plus(clock.read().since(begin))
                training.save(file)
                begin, saved = clock.read(), time.monotonic()
            if interrupted.is_set():
                raise KeyboardInterrupt(
                    f"stopped after step {training.done} of {task.steps} of {task.method}; the "
                    "same command goes on from there."
                )
    return training


def timed(
    net: nn.Module, split: Split, task: Task, clock: Clock, *, seconds: float
) -> tuple[float, Spent]:
    """Seconds of the budget that a step takes, and the time spent to measure them.

    The first two steps do not count. At least three follow, and as many as fit into `seconds`.
    """
    start = begin = clock.read()
    training = Training(net, task, _shape(split))
    charged = 0.0
    for images, labels in _batches(split, task, 0):
        training.step(images, labels)
        if training.done == _WARM_UP:
            begin = clock.read()
        charged = clock.charge(clock.read().since(begin))
        if training.done >= _WARM_UP + 3 and charged >= seconds:
            break
    return charged / (training.done - _WARM_UP), clock.read().since(start)


def averaged(steps: int) -> int:
    """The number of last steps over which the loss is averaged."""
    return max(1, steps // 20)


def _shape(split: Split) -> tuple[int, ...]:
    return tuple(split.images.shape[1:])


def _batches(split: Split, task: Task, start: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches from a step on; each depends only on the seed and the number of the step."""
    of_run = Batches(split=split, batch_size=task.batch, seed=task.seed, augment=Augment())
    first, skipped = divmod(start, of_run.steps)
    epochs = (
        of_run.epoch(epoch, start=skipped if epoch == first else 0)
        for epoch in itertools.count(first)
    )
    return itertools.islice(itertools.chain.from_iterable(epochs), task.steps - start)
