"""How many images a second batches give: from memory, and streamed from disk by worker processes.

Example: python -m experiments.data --record records/data.json

Writes JPEG files of noise to a temporary folder, and reads each way in turns; medians.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from experiments._record import Record
from experiments._runner import Experiment, option, tracked
from taut.data import AbstractSplit, Augment, Batches, load, stream

_BATCH = 128


def work(args: argparse.Namespace, record: Record) -> None:
    record.begin(seed=0, images=args.images, size=args.size, batch_size=_BATCH, rounds=args.rounds)
    with tempfile.TemporaryDirectory() as folder:
        seconds = measured(Path(folder), args)
    for name, times in seconds.items():
        rate = round(args.images / median(times))
        record.add("rows", {"source": name, "images_per_second": rate})


def measured(folder: Path, args: argparse.Namespace) -> dict[str, list[float]]:
    write_images(folder, args.images, args.size)
    splits: dict[str, AbstractSplit] = {"memory": load("folder", folder).train}
    for workers in (0, 1, 2):
        splits[f"disk, {workers} workers"] = stream("folder", folder, workers=workers).train
    seconds: dict[str, list[float]] = {name: [] for name in splits}
    for epoch in tracked(range(args.rounds), "rounds"):
        for name, split in splits.items():
            drawn = Batches(split=split, batch_size=_BATCH, seed=0, augment=Augment())
            begin = time.perf_counter()
            seen = sum(len(labels) for _, labels in drawn.epoch(epoch))
            seconds[name].append(time.perf_counter() - begin)
            if seen != args.images:
                raise RuntimeError(f"{name} gave {seen} images of {args.images}")
    return seconds


def write_images(folder: Path, count: int, size: int) -> None:
    random = np.random.default_rng(0)
    for part, images in (("train", count), ("test", 2)):
        for at in range(images):
            place = folder / part / "ab"[at % 2]
            place.mkdir(parents=True, exist_ok=True)
            # Smooth noise: of pure noise no JPEG would have so many bytes to decode.
            coarse = random.integers(0, 256, (size // 8, size // 8, 3)).astype(np.uint8)
            picture = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
            picture.save(place / f"{at}.jpg", quality=90)


EXPERIMENT = Experiment(
    "data",
    __doc__,
    work,
    (
        option("--images", 2000, "of the data set"),
        option("--size", 64, "pixels of a side"),
        option("--rounds", 5, "in which the ways take turns"),
    ),
    threads=1,
)

if __name__ == "__main__":
    EXPERIMENT.main()
