"""One method within its budget: time a step, find the best rate, then train."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
from torch import nn

import taut
from experiments._record import read, write_json
from experiments._runner import progress, sentence
from experiments._training import say, shares
from experiments.compare._clock import Clock, Spent
from experiments.compare._memory import peak_memory
from experiments.compare._net import build
from experiments.compare._training import MethodFailed, Task, averaged, failing, timed, train
from taut.data import Dataset, Split
from taut.parametrizations import projected

EPS = ("36/255", "72/255", "108/255", "1")
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
TRIAL = 1 / 16  # of the budget, for each rate
HELD_OUT = 0.05  # of the training images, to judge rates by
_PROBE = 1 / 200  # of the budget, to measure a step


@final
@dataclass(frozen=True)
class Comparison:
    """The settings that all methods share."""

    data: Dataset
    size: str
    seconds: float  # of the budget
    batch: int
    seed: int
    clock: Clock
    out: Path  # the folder


def row_of(method: str, comparison: Comparison) -> dict[str, Any]:
    """The row of a method in the record; if it failed, the reason."""
    try:
        return {"name": method, **_Budget(method, comparison).spend()}
    except MethodFailed as error:
        return {"name": method, "note": sentence(error)}


@final
class _Budget:
    """The budget of a method. What is finished is in `plan.json`, and is not repeated."""

    def __init__(self, method: str, comparison: Comparison) -> None:
        self.method, self.common = method, comparison
        self.clock, self.data = comparison.clock, comparison.data
        self.folder = comparison.out / re.sub(r"\W+", "-", method)
        self.finished = read(self.folder / "plan.json")

    def spend(self) -> dict[str, Any]:
        """Spend a quarter on the search for a rate, and the rest on the run with the best."""
        memory = self._once("memory", self._memory)
        probe = self._once("step", self._probe)
        steps = self._steps(self.common.seconds * TRIAL, probe["seconds"])
        trials = [self._once(f"rate {lr:g}", partial(self._trial, lr, steps)) for lr in RATES]
        trained = [trial for trial in trials if "note" not in trial]
        if not trained:
            raise MethodFailed(f"no rate trains: {trials[0]['note']}")
        best = max(trained, key=lambda trial: (trial["certified"], trial["clean"]))
        left = self.common.seconds - sum(map(self._charge, (probe, *trials)))
        per_step = sum(map(self._charge, trained)) / (steps * len(trained))
        run = self._once("run", partial(self._run, best["lr"], self._steps(left, per_step)))
        spent = [Spent(*part["spent"]) for part in (probe, *trials, run)]
        return {
            **run,
            "seconds a step": self._charge(run) / run["steps"],
            "epochs": run["steps"] * self.common.batch / len(self.data.train),
            "charged seconds": sum(map(self.clock.charge, spent)),
            "CPU seconds": sum(each.cpu for each in spent),
            "wall seconds": sum(each.wall for each in spent),
            "memory": memory["bytes"],
            "rates": trials,
        }

    def _once(self, part: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of a part of the work, from `plan.json` if it is finished."""
        if part not in self.finished:
            say(f"{self.method}: {part}")
            self.finished[part] = work()
            write_json(self.folder / "plan.json", self.finished)
        return self.finished[part]

    def _charge(self, part: dict[str, Any]) -> float:
        return self.clock.charge(Spent(*part["spent"]))

    def _steps(self, seconds: float, per_step: float) -> int:
        steps = int(seconds / per_step)
        if steps < 1:
            raise MethodFailed(
                f"a step takes {per_step:.3g} seconds, but all steps only have {seconds:.3g}."
            )
        return steps

    def _task(self, lr: float, steps: int) -> Task:
        common = self.common
        return Task(self.method, common.size, steps, lr, common.batch, common.seed)

    def _net(self) -> nn.Module:
        torch.manual_seed(self.common.seed)
        with failing():
            net = build(
                self.method, self.common.size, self.data.input_shape, len(self.data.classes)
            )
        return net.to(self.clock.device)

    def _memory(self) -> dict[str, Any]:
        task, shape = self._task(RATES[0], 100), self.data.input_shape
        with failing():
            peak = peak_memory(task, shape, len(self.data.classes), self.clock.device)
        return {"bytes": peak}

    def _probe(self) -> dict[str, Any]:
        task, seconds = self._task(RATES[0], 10**6), self.common.seconds * _PROBE
        step, spent = timed(self._net(), self.data.train, task, self.clock, seconds=seconds)
        return {"seconds": step, "spent": list(spent)}

    def _trial(self, lr: float, steps: int) -> dict[str, Any]:
        """The accuracy of a rate, on images that it was not trained with."""
        fit, held = taut.data.Holdout(HELD_OUT, self.common.seed).split(self.data.train)
        begin = self.clock.read()
        try:
            net, trained = self._train(lr, steps, fit, f"rate-{lr:g}")
            found = self._certified(net, held, EPS[:1], "real")
        except MethodFailed as error:
            spent = self.clock.read().since(begin)
            return {"lr": lr, "note": sentence(error), "spent": list(spent)}
        certified = found["certified"][EPS[0]]
        return {"lr": lr, "clean": found["clean"], "certified": certified} | trained

    def _run(self, lr: float, steps: int) -> dict[str, Any]:
        net, trained = self._train(lr, steps, self.data.train, "run")
        numbers = sum(parameter.numel() for parameter in net.parameters())
        found = self._certified(net, self.data.test, EPS, "float64")
        return {"lr": lr, **found, "parameters": numbers} | trained

    def _train(
        self, lr: float, steps: int, split: Split, name: str
    ) -> tuple[nn.Module, dict[str, Any]]:
        net, file = self._net(), self.folder / f"{name}.safetensors"
        with progress(f"{self.method}, {name}", steps) as tell:
            training = train(net, split, self._task(lr, steps), self.clock, file, tell)
        loss = float(training.loss_sum) / averaged(steps)
        return net, {"steps": steps, "loss": loss, "spent": list(training.spent)}

    def _certified(
        self, net: nn.Module, split: Split, eps: tuple[str, ...], arithmetic: str
    ) -> dict[str, Any]:
        begin = self.clock.read()
        with failing():
            finished = projected(net).eval()
            images = split.float_images()
            found = taut.certify(finished, images, split.labels, eps, arithmetic=arithmetic)
        return {
            **shares(found),
            "bound": float(found.bound),
            "arithmetic": found.arithmetic,
            "images": len(split),
            "certification seconds": self.clock.charge(self.clock.read().since(begin)),
        }
