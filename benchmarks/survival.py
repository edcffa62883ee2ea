"""Kill trainings, fill their disk and damage their files, and count what they survive.

    python -m benchmarks.survival --out records/survival.json

A case is survived if the checkpoint that is left is whole and the run, resumed, ends with the same
bits as one that nothing happened to: model, optimiser, random state, and metrics but the time. Each
training is a process of its own.
"""

import argparse
import errno
import importlib
import json
import os
import random
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.environment import environment
from taut.data import Augment
from taut.files import load_tensors, write_atomically
from taut.models import ModelConfig
from taut.training import Recipe, Run, loop, train

RECIPE = Recipe(
    name="survival",
    dataset="npz",
    model=ModelConfig("small", input_shape=(1, 6, 6), classes=3),
    epochs=3,
    batch_size=8,
    retract_every=3,
    augment=Augment(crop_padding=1, flip=True),
    eps=("1/10",),
)  # 12 steps
FILES = ("state.safetensors", "model.safetensors")
ERRORS = {"full disk": errno.ENOSPC, "failing disk": errno.EIO, "read-only folder": errno.EROFS}


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
    """Something that happens at one operation of the disk, counted from 1, or from it on.

    Args:
        at: which operation.
        act: what happens.
        lasting: whether it happens at every later one, too.
    """

    at: int
    act: Callable[[], None]
    lasting: bool = False
    count: int = field(default=0, init=False)

    def passes(self) -> None:
        """Count an operation."""
        self.count += 1
        if self.count == self.at or (self.lasting and self.count > self.at):
            self.act()


def with_fault(fault: Fault) -> None:
    """Let the operations of `taut.files` count, from here to the end of this process."""
    for module, name in ((tempfile, "mkstemp"), (os, "fsync"), (os, "chmod"), (os, "replace")):
        setattr(module, name, _counted(getattr(module, name), fault))
    fdopen = os.fdopen

    def opened(handle: int, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        file = fdopen(handle, mode, *args, **kwargs)
        return _Torn(file, fault) if mode == "wb" else file

    os.fdopen = opened


def _counted(function: Callable[..., Any], fault: Fault) -> Callable[..., Any]:
    def counted(*args: Any, **kwargs: Any) -> Any:
        fault.passes()
        return function(*args, **kwargs)

    return counted


class _Torn:
    """A file of which half is written when the fault comes."""

    def __init__(self, file: Any, fault: Fault) -> None:
        self.file, self.fault = file, fault

    def __enter__(self) -> "_Torn":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, content: bytes) -> None:
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        self.fault.passes()
        self.file.write(content[len(content) // 2 :])

    def flush(self) -> None:
        self.file.flush()

    def fileno(self) -> int:
        return self.file.fileno()


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
class Bench:
    """A reference run, and a folder for the others."""

    root: Path
    data: Path
    expected: Any
    seconds: float
    operations: int

    def survives_kill(self, moment: float) -> bool:
        """The same for a kill so long after the start; sooner, where the run was faster."""
        folder = self.root / "case"
        while True:
            shutil.rmtree(folder, ignore_errors=True)
            if in_process(lambda: trained(folder, self.data), moment) == -signal.SIGKILL:
                return self.resumes()
            moment /= 2

    def survives(self, fault: Fault, code: int) -> bool:
        """Whether a run that ends with this code by a fault goes on to the same end."""
        folder = self.root / "case"
        shutil.rmtree(folder, ignore_errors=True)

        def work() -> None:
            with_fault(fault)
            trained(folder, self.data)

        return in_process(work) == code and self.resumes()

    def resumes(self) -> bool:
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


def prepared(root: Path) -> Bench:
    """The run that nothing happens to, its time, and how many operations of the disk it takes."""
    data, folder = make_data(root), root / "reference"
    count = root / "count"

    def work() -> None:
        fault = Fault(0, lambda: None)
        with_fault(fault)
        trained(folder, data)
        count.write_text(str(fault.count))

    start = time.monotonic()
    if in_process(work) != 0:
        raise RuntimeError("The reference run failed.")
    seconds = time.monotonic() - start
    return Bench(root, data, outcome(folder), seconds, int(count.read_text()))


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


def notices_damage(bench: Bench, rng: random.Random, cases: int) -> dict[str, int]:
    """How many damaged files are refused by name, and how many are read as they were written."""
    refused = same = 0
    folder = bench.root / "reference"
    for number, name in enumerate(FILES):
        original = load_tensors(folder / name)[0]
        target = bench.root / name
        for content in damaged(folder / name, rng, cases // 2 + (number < cases % 2)):
            target.write_bytes(content)
            try:
                found = load_tensors(target)[0]
            except ValueError as error:
                refused += str(target) in str(error)
                continue
            equal = found.keys() == original.keys() and all(
                torch.equal(found[key], original[key]) for key in original
            )
            same += equal
    return {"cases": cases, "refused by name": refused, "read as written": same}


def measure(root: Path, cases: int, seed: int) -> dict[str, Any]:
    """All kinds of faults, `cases` of each."""
    bench, rng = prepared(root), random.Random(seed)
    results: dict[str, Any] = {}

    def count(kind: str, survived: Iterable[bool]) -> None:
        done = list(survived)
        results[kind] = {"cases": len(done), "survived": sum(done)}
        print(kind, results[kind], flush=True)

    moments = [rng.random() * bench.seconds for _ in range(cases)]
    count("killed at a random moment", map(bench.survives_kill, moments))
    places = [rng.randint(1, bench.operations) for _ in range(cases)]
    kills = (Fault(place, kill) for place in places)
    count(
        "killed at a random operation of saving",
        (bench.survives(fault, -signal.SIGKILL) for fault in kills),
    )
    for name, number in ERRORS.items():
        lasting = name != "failing disk"
        kind = f"{name}, from a random operation on" if lasting else "one random operation fails"
        faults = (Fault(place, fail(number), lasting) for place in places)
        count(kind, (bench.survives(fault, 3) for fault in faults))
    results["one bit flipped, or cut off"] = notices_damage(bench, rng, 4 * cases)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.survival", description=__doc__)
    parser.add_argument("--cases", type=int, default=50, help="of each kind of fault")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="the record; left out: only print")
    args = parser.parse_args()
    torch.set_num_threads(1)  # a process with threads cannot be forked
    importlib.import_module("lightning_fabric")  # once, before the forks
    with tempfile.TemporaryDirectory() as root:
        results = measure(Path(root), args.cases, args.seed)
    record = {"environment": environment(), "seed": args.seed, "faults": results}
    print(json.dumps(results))
    if args.out is not None:
        write_atomically(args.out, (json.dumps(record, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
