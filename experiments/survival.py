"""Kill trainings, fill their disk and damage their files, and count what they survive.

Example: python -m experiments.survival --record records/survival.json

A case is survived if the checkpoint that is left is whole and the run, resumed, ends with the same
bits as one that nothing happened to: model, optimiser, random state, and metrics but the time. Each
training is a process of its own.
"""

import argparse
import errno
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments._record import Record
from experiments._runner import Experiment, option
from taut.data import Augment
from taut.files import load_tensors
from taut.training import Recipe, Run, train
from taut.training import _loop as loop

RECIPE = Recipe(
    name="survival",
    dataset="npz",
    input_shape=(1, 6, 6),
    classes=3,
    epochs=3,
    batch_size=8,
    retract_every=3,
    augment=Augment(crop_padding=1, flip=True),
    eps=("1/10",),
)  # 12 steps
FILES = ("state.safetensors", "model.safetensors")
ERRORS = {"full disk": errno.ENOSPC, "failing disk": errno.EIO, "read-only folder": errno.EROFS}


def work(args: argparse.Namespace, record: Record) -> None:
    importlib.import_module("lightning_fabric")  # once, before the forks
    record.begin(seed=args.seed)
    faults = {}
    with tempfile.TemporaryDirectory() as root:
        for kind, counts in measured(Path(root), args.cases, args.seed):
            print(kind, counts, flush=True)
            faults[kind] = counts
            record.keep(faults=faults)


def make_data(folder: Path) -> Path:
    """A data set of 30 small images."""
    rng = np.random.default_rng(0)
    labels = np.arange(30) % 3
    images = (rng.integers(0, 120, (30, 6, 6)) + 60 * labels[:, None, None]).astype(np.uint8)
    arrays = {"x_train": images, "y_train": labels, "x_test": images[:9], "y_test": labels[:9]}
    np.savez(folder / "data.npz", **arrays)  # pyright: ignore[reportArgumentType]
    return folder / "data.npz"


def trained(folder: Path, data: Path) -> None:
    """Train with a checkpoint after every step."""
    loop._SECONDS_BETWEEN_CHECKPOINTS = 0.0
    train(RECIPE, folder, data_dir=data, device="cpu")


def outcome(folder: Path) -> Any:
    """All that must not depend on what happened."""
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in Run.open(folder).history()]
    files = [load_tensors(folder / name)[0] for name in FILES]
    return rows, [{name: t.numpy().tobytes() for name, t in file.items()} for file in files]


@dataclass
class Fault:
    """Something that happens at one operation of the disk, counted from 1, or from it on."""

    at: int  # which operation
    act: Callable[[], None]  # what happens
    lasting: bool = False  # whether it happens at every later one, too
    count: int = field(default=0, init=False)

    def passes(self) -> None:
        """Count an operation."""
        self.count += 1
        if self.count == self.at or (self.lasting and self.count > self.at):
            self.act()


def with_fault(fault: Fault) -> None:
    """Let the operations of `taut.files` count, from here to the end of this process."""

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def after_counting(*args: Any, **kwargs: Any) -> Any:
            fault.passes()
            return function(*args, **kwargs)

        return after_counting

    for module, name in ((tempfile, "mkstemp"), (os, "fsync"), (os, "chmod"), (os, "replace")):
        setattr(module, name, counted(vars(module)[name]))
    fdopen = os.fdopen

    def opened(handle: int, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        file = fdopen(handle, mode, *args, **kwargs)
        return _TornFile(file, fault) if mode == "wb" else file

    os.fdopen = opened


class _TornFile:
    """A file of which half is written when the fault comes."""

    def __init__(self, file: Any, fault: Fault) -> None:
        self.file, self.fault = file, fault
        self.flush, self.fileno = file.flush, file.fileno

    def __enter__(self) -> "_TornFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, content: bytes) -> None:
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        self.fault.passes()
        self.file.write(content[len(content) // 2 :])


def kill() -> None:
    """End this process as a power cut does."""
    os.kill(os.getpid(), signal.SIGKILL)


def fail(number: int) -> Callable[[], None]:
    """What raises this error of the operating system."""

    def act() -> None:
        raise OSError(number, os.strerror(number))

    return act


def in_process(work: Callable[[], None], patience: float | None = None) -> int:
    """Do it in a process of its own, killed after so many seconds; its exit code."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except OSError as error:
            code = 3 if error.filename else 4  # 4: the file is not named
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    if patience is not None:
        time.sleep(patience)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@dataclass
class UndisturbedRun:
    """A run that nothing happened to, and a folder beside it for the others."""

    root: Path
    data: Path
    expected: Any
    seconds: float
    operations: int

    @classmethod
    def made(cls, root: Path) -> "UndisturbedRun":
        """With its time, and how many operations of the disk it takes."""
        data, folder, count = make_data(root), root / "reference", root / "count"

        def work() -> None:
            fault = Fault(0, lambda: None)
            with_fault(fault)
            trained(folder, data)
            count.write_text(str(fault.count))

        start = time.monotonic()
        if in_process(work) != 0:
            raise RuntimeError("The reference run failed.")
        seconds = time.monotonic() - start
        return cls(root, data, outcome(folder), seconds, int(count.read_text()))

    def survives_kill(self, moment: float) -> bool:
        """Whether a run killed so long after its start goes on; sooner, where it was faster."""
        while self._run(lambda: None, moment) != -signal.SIGKILL:
            moment /= 2
        return self._resumes()

    def survives(self, fault: Fault, code: int) -> bool:
        """Whether a run that ends with this code by a fault goes on to the same end."""
        return self._run(lambda: with_fault(fault)) == code and self._resumes()

    def _run(self, prepare: Callable[[], None], patience: float | None = None) -> int:
        shutil.rmtree(self.root / "case", ignore_errors=True)

        def work() -> None:
            prepare()
            trained(self.root / "case", self.data)

        return in_process(work, patience)

    def _resumes(self) -> bool:
        """Whether what is left is whole, and the run goes on to the end of the reference."""
        folder = self.root / "case"
        try:
            for name in FILES:
                if (folder / name).exists():
                    load_tensors(folder / name)
        except ValueError:
            return False
        if in_process(lambda: trained(folder, self.data)) != 0:
            return False
        leftovers = [p for p in folder.iterdir() if p.name.startswith(".") and p.name != ".lock"]
        return outcome(folder) == self.expected and not leftovers


def damaged(path: Path, rng: random.Random, cases: int) -> Iterator[bytes]:
    """The file with one bit flipped, or cut off."""
    whole = path.read_bytes()
    for case in range(cases):
        if case % 4 == 3:
            yield whole[: rng.randrange(len(whole))]
            continue
        content = bytearray(whole)
        content[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        yield bytes(content)


def notices_damage(root: Path, rng: random.Random, cases: int) -> dict[str, int]:
    """How many damaged files are refused by name, and how many are read as they were written."""
    refused = same = 0
    for number, name in enumerate(FILES):
        path, target = root / "reference" / name, root / name
        original = load_tensors(path)[0]
        for content in damaged(path, rng, cases // 2 + (number < cases % 2)):
            target.write_bytes(content)
            try:
                tensors = load_tensors(target)[0]
            except ValueError as error:
                refused += str(target) in str(error)
                continue
            same += tensors.keys() == original.keys() and all(
                torch.equal(tensors[key], original[key]) for key in original
            )
    return {"cases": cases, "refused by name": refused, "read as written": same}


def measured(root: Path, cases: int, seed: int) -> Iterator[tuple[str, dict[str, int]]]:
    """All kinds of faults, `cases` of each."""
    run, rng = UndisturbedRun.made(root), random.Random(seed)
    moments = [rng.random() * run.seconds for _ in range(cases)]
    places = [rng.randint(1, run.operations) for _ in range(cases)]

    def counted(kind: str, one: Callable[[Any], bool], each: list) -> tuple[str, dict[str, int]]:
        survived = 0
        for done, case in enumerate(each):
            if sys.stderr.isatty():  # by hand: the thread of a progress bar must not be forked
                print(f"\r{kind}: {done} of {cases}", end="", file=sys.stderr, flush=True)
            survived += one(case)
        return kind, {"cases": cases, "survived": survived}

    yield counted("killed at a random moment", run.survives_kill, moments)
    yield counted(
        "killed at a random operation of saving",
        lambda place: run.survives(Fault(place, kill), -signal.SIGKILL),
        places,
    )
    for name, number in ERRORS.items():
        lasting = name != "failing disk"
        yield counted(
            f"{name}, from a random operation on" if lasting else "one random operation fails",
            lambda place, n=number, on=lasting: run.survives(Fault(place, fail(n), on), 3),
            places,
        )
    yield "one bit flipped, or cut off", notices_damage(root, rng, 4 * cases)


EXPERIMENT = Experiment(
    "survival",
    __doc__,
    work,
    (option("--cases", 50, "of each kind of fault"), option("--seed", 0, "of the faults")),
    threads=1,  # a process with threads cannot be forked
)

if __name__ == "__main__":
    EXPERIMENT.main()
