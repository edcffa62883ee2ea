"""`taut wasserstein`."""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tyro

from taut.cli.report import versions
from taut.cli.shared import OptionalFolder, progress
from taut.report import DistanceInputs, write_distance_report
from taut.training import Device, choose_device
from taut.wasserstein import FEWEST, Settings, estimate, read_source

First = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="P")]
Second = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="Q")]


def wasserstein(
    p: First,
    q: Second,
    *,
    data_dir: OptionalFolder = None,
    samples: int = 2000,
    steps: int = 1000,
    seed: int = 0,
    out: Path = Path("distance.html"),
    device: Device = "auto",
) -> None:
    """Bound the Wasserstein-1 distance of two samples from both sides, and write an HTML page.

    P and Q are folders of images, files (npz, npy, csv, parquet; one point a row) or data sets.

    Example: taut wasserstein mnist fashion-mnist --data-dir data

    Example: taut wasserstein yesterday.csv today.csv

    Args:
        p: the sample that the critic scores high.
        q: the sample that the critic scores low.
        data_dir: the folder with a data set's files, or with one folder for each data set.
        samples: maximal number of points of each sample.
        steps: training steps of the critic.
        seed: seed for the choice of points, the weights and the order of batches.
        out: file of the page.
        device: auto uses a GPU if there is one.
    """
    if samples < FEWEST:  # refused before the work, as all that would fail after it
        raise ValueError(f"`samples` must be at least {FEWEST}; got {samples}.")
    if out.is_dir() or not out.parent.is_dir():
        raise ValueError(f"`out` must be a file in a folder that exists; got {out}.")
    first = read_source(p, data_dir=data_dir, count=samples, seed=seed)
    second = read_source(q, data_dir=data_dir, count=samples, seed=seed + 1)
    first.check_columns(second, ("p", "q"))
    pixels = first.pixels and second.pixels
    settings = Settings(steps=steps, seed=seed, domain=(0.0, 1.0) if pixels else None)
    points, chosen = (first.points, second.points), choose_device(device)
    with progress("critic", max(steps, 1)) as bar:
        result = estimate(
            *points, settings=settings, device=chosen, on_progress=lambda row: bar(row.step)
        )
    print(result)
    words = ["taut", "wasserstein", p, q, "--samples", str(samples), "--steps", str(steps)]
    words += ["--seed", str(seed), *(() if data_dir is None else ("--data-dir", "DATA_DIR"))]
    inputs = DistanceInputs(
        names=(p, q),
        points=points,
        estimate=result,
        settings=asdict(settings),
        command=shlex.join(words),
        versions=versions(),
    )
    print(f"Wrote {write_distance_report(out, inputs)}")
