"""How many images a second batches give: from memory, and streamed from disk by worker processes.

    python -m benchmarks.data --out records/data.json

Writes JPEG files of noise to a temporary folder, and reads each way in turns; medians.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.environment import environment
from taut.data import AbstractSplit, Augment, Batches, load, stream
from taut.files import write_atomically


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        seconds = _measured(Path(folder), args)
    rows = [
        {"source": name, "images_per_second": round(args.images / statistics.median(times))}
        for name, times in seconds.items()
    ]
    record = {
        "environment": environment(),
        "seed": 0,
        "images": args.images,
        "size": args.size,
        "batch_size": 128,
        "rounds": args.rounds,
        "rows": rows,
    }
    for row in rows:
        print(f"{row['source']}: {row['images_per_second']:,} images a second")
    if args.out is not None:
        write_atomically(args.out, (json.dumps(record, indent=1) + "\n").encode())


def _measured(folder: Path, args: argparse.Namespace) -> dict[str, list[float]]:
    _write(folder, args.images, args.size)
    splits: dict[str, AbstractSplit] = {"memory": load("folder", folder).train}
    for workers in (0, 1, 2):
        splits[f"disk, {workers} workers"] = stream("folder", folder, workers=workers).train
    seconds: dict[str, list[float]] = {name: [] for name in splits}
    for epoch in range(args.rounds):
        for name, split in splits.items():
            drawn = Batches(split=split, batch_size=128, seed=0, augment=Augment())
            begin = time.perf_counter()
            seen = sum(len(labels) for _, labels in drawn.epoch(epoch))
            seconds[name].append(time.perf_counter() - begin)
            if seen != args.images:
                raise RuntimeError(f"{name} gave {seen} images of {args.images}")
    return seconds


def _write(folder: Path, count: int, size: int) -> None:
    random = np.random.default_rng(0)
    for part, images in (("train", count), ("test", 2)):
        for at in range(images):
            place = folder / part / "ab"[at % 2]
            place.mkdir(parents=True, exist_ok=True)
            # Smooth noise: of pure noise no JPEG would have so many bytes to decode.
            coarse = random.integers(0, 256, (size // 8, size // 8, 3)).astype(np.uint8)
            picture = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
            picture.save(place / f"{at}.jpg", quality=90)


if __name__ == "__main__":
    main()
