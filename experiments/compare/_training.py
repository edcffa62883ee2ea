"""Train a net for a number of steps, from its last checkpoint on."""

import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
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
from taut.losses import OffsetCrossEntropy
from taut.parametrizations import batched_if_quicker, update_
from taut.training import OneCycle
from taut.training._interruption import interrupt_flag

LOSS = OffsetCrossEntropy(offset=2 * math.sqrt(2) * 36 / 255, temperature=0.25)
_SCHEDULE = OneCycle()
_SECONDS_BETWEEN_CHECKPOINTS = 60.0
_WARM_UP = 2  # steps that load code and fill caches
_STEPS_BETWEEN_READINGS = 16  # of the loss, for which the CPU waits for a GPU
_MODEL, _OPTIMISER, _LOSS = "model.", "optimiser.", "loss"


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
@dataclass
class Position:
    """How far a training has come."""

    loss: Tensor  # sum over the steps of the last twentieth so far
    step: int = 0
    spent: Spent = field(default_factory=Spent)


def start_on(device: torch.device) -> Position:
    """Before the first step."""
    return Position(torch.zeros((), device=device))


def train(
    net: nn.Module,
    split: Split,
    task: Task,
    clock: Clock,
    file: Path,
    tell: Callable[[int], None] = lambda step: None,
) -> Position:
    """Train a net in place, and keep its state in a file each minute and at the end.

    Ctrl-C finishes the step, keeps the state, and raises.
    """
    optimiser = optimiser_of(net, task)
    position = _loaded(net, optimiser, task, clock.device, file)
    with interrupt_flag() as interrupted:
        begin, saved = clock.read(), time.monotonic()
        for images, labels in _batches(split, task, position.step):
            step(net, optimiser, task, position, images, labels)
            tell(position.step)
            late = time.monotonic() - saved > _SECONDS_BETWEEN_CHECKPOINTS
            if late or interrupted.is_set() or position.step == task.steps:
                position.spent = position.spent.plus(clock.read().since(begin))
                _save(net, optimiser, task, position, file)
                begin, saved = clock.read(), time.monotonic()
            if interrupted.is_set():
                raise KeyboardInterrupt(
                    f"stopped after step {position.step} of {task.steps} of {task.method}; the "
                    "same command goes on from there."
                )
    return position


def timed(
    net: nn.Module, split: Split, task: Task, clock: Clock, *, seconds: float
) -> tuple[float, Spent]:
    """Seconds of the budget that a step takes, and the time spent to measure them.

    The first two steps do not count. At least three follow, and as many as fit into `seconds`.
    """
    optimiser, position = optimiser_of(net, task), start_on(clock.device)
    start = begin = clock.read()
    charged = 0.0
    for images, labels in _batches(split, task, 0):
        step(net, optimiser, task, position, images, labels)
        if position.step == _WARM_UP:
            begin = clock.read()
        charged = clock.charge(clock.read().since(begin))
        if position.step >= _WARM_UP + 3 and charged >= seconds:
            break
    return charged / (position.step - _WARM_UP), clock.read().since(start)


def averaged(steps: int) -> int:
    """The number of last steps over which the loss is averaged."""
    return max(1, steps // 20)


def optimiser_of(net: nn.Module, task: Task) -> torch.optim.Optimizer:
    """Adam: the length of a step does not depend on how a method scales its gradients."""
    return torch.optim.Adam(net.parameters(), lr=task.lr)


def step(
    net: nn.Module,
    optimiser: torch.optim.Optimizer,
    task: Task,
    position: Position,
    images: Tensor,
    labels: Tensor,
) -> None:
    """Take a step, and count it."""
    factor = _SCHEDULE.factor(position.step, steps_per_epoch=task.steps, epochs=1)
    beta1 = _SCHEDULE.beta1(position.step, task.steps)
    for group in optimiser.param_groups:
        group["lr"], group["betas"] = task.lr * factor, (beta1, group["betas"][1])
    optimiser.zero_grad()
    with failing():
        with batched_if_quicker(net):
            logits = net(images)
        loss = LOSS(logits, labels)
        loss.backward()
        optimiser.step()
        update_(net, position.step + 1)
    position.step += 1
    if position.step > task.steps - averaged(task.steps):
        position.loss += loss.detach()
    last = position.step == task.steps
    if (last or position.step % _STEPS_BETWEEN_READINGS == 0) and not loss.isfinite():
        raise MethodFailed(f"the loss is not finite after step {position.step}.")


def _batches(split: Split, task: Task, start: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches from a step on; each depends only on the seed and the number of the step."""
    of_run = Batches(split=split, batch_size=task.batch, seed=task.seed, augment=Augment())
    first, skipped = divmod(start, of_run.steps)
    epochs = (
        of_run.epoch(epoch, start=skipped if epoch == first else 0)
        for epoch in itertools.count(first)
    )
    return itertools.islice(itertools.chain.from_iterable(epochs), task.steps - start)


def _save(
    net: nn.Module,
    optimiser: torch.optim.Optimizer,
    task: Task,
    position: Position,
    file: Path,
) -> None:
    tensors = {f"{_MODEL}{name}": value for name, value in net.state_dict().items()}
    tensors |= optimiser_tensors(optimiser, _OPTIMISER)
    about = {
        "task": json.dumps(asdict(task)),
        "step": str(position.step),
        "spent": json.dumps(position.spent),
    }
    save_tensors(file, tensors | {_LOSS: position.loss}, about)


def _loaded(
    net: nn.Module,
    optimiser: torch.optim.Optimizer,
    task: Task,
    device: torch.device,
    file: Path,
) -> Position:
    """Restores net and optimiser from the file, if there is one."""
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        return start_on(device)
    tensors, about = load_tensors(file)
    if about.get("task") != json.dumps(asdict(task)):
        raise ValueError(f"{file} is of another training: remove it, or give another folder.")
    load_state(net, tensors_under(tensors, _MODEL), file)
    state = optimiser_state(tensors_under(tensors, _OPTIMISER))
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})
    spent = Spent(*json.loads(about["spent"]))
    return Position(tensors[_LOSS].to(device), int(about["step"]), spent)
