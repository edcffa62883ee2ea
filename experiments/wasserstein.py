"""Measure taut.wasserstein on distances that are known, and on images.

Example: python -m experiments.wasserstein known --record records/wasserstein/known.json
         python -m experiments.wasserstein images --data-dir DIR

`known`: distances with a closed form. `many`: what more points bring in 3072 dimensions, where the
direction of a shift is hard to find. `coverage`: how often the interval leaves the truth out, over
repeats; 5 % are allowed, 2.5 % a side. `images`: 2,000 images of MNIST against as many of
Fashion-MNIST, and what penalised critics claim; DIR holds mnist/ and fashion-mnist/.
"""

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments._distances import INTERVAL, SEED, dataset, recorded, summary
from experiments._record import Record
from experiments._runner import DATA_DIR, Experiment, option, tracked
from experiments._show import markdown, table
from experiments.wgan import heuristics
from taut.wasserstein import Settings, W1Estimate, estimate

Rows = Iterator[dict[str, Any]]


def work(args: argparse.Namespace, record: Record) -> None:
    record.begin(seed=SEED)
    for row in PARTS[args.part](args.data_dir):
        record.add("rows", row)


def timed(p: Tensor, q: Tensor, settings: Settings) -> tuple[W1Estimate, dict[str, Any]]:
    """An estimate, and what a record holds of it."""
    start = time.monotonic()
    estimated = estimate(p, q, settings=settings)
    return estimated, summary(estimated) | {"seconds": round(time.monotonic() - start, 1)}


def known(data_dir: Path | None) -> Rows:
    settings = Settings(steps=200, checks=4, max_memory=1 << 30, seed=SEED)
    sizes = [(1, 1000), (2, 1000), (16, 1000), (784, 3000), (3072, 1000)]
    for d, count in tracked(sizes, "dimensions"):
        for name, (p, q, truth) in cases(d, count).items():
            yield {"case": name, "dimension": d, "truth": truth} | timed(p, q, settings)[1]


def cases(d: int, count: int) -> dict[str, tuple[Tensor, Tensor, float]]:
    random = torch.Generator().manual_seed(SEED)

    def normal() -> Tensor:
        return torch.randn(count, d, generator=random, dtype=torch.float64)

    def sphere() -> Tensor:
        return torch.nn.functional.normalize(normal())

    shift = 3 * torch.nn.functional.normalize(torch.randn(1, d, generator=random).double())
    x = normal()
    # The mean length of a standard normal vector.
    cone = math.sqrt(2) * math.exp(math.lgamma((d + 1) / 2) - math.lgamma(d / 2))
    return {
        "translated cloud": (x, x + shift, 3.0),
        "Gaussians of equal covariance": (normal(), normal() + shift, 3.0),
        "shells of radius 2 and 1": (2 * sphere(), sphere(), 1.0),
        "point to Gaussian (cone)": (torch.zeros_like(x), normal(), cone),
        "identical Gaussians": (normal(), normal(), 0.0),
    }


def many(data_dir: Path | None) -> Rows:
    count = 6000
    p, q, truth = cases(3072, count)["Gaussians of equal covariance"]
    name = f"Gaussians of equal covariance, {count:,} points"
    estimated = timed(p, q, Settings(steps=0, seed=SEED))[1]
    yield {"case": name, "dimension": 3072, "truth": truth} | estimated


def coverage(data_dir: Path | None) -> Rows:
    repeats, count = 200, 120
    for d, shift in ((1, 0.0), (1, 1.0), (2, 0.0), (16, 0.0)):
        intervals = []
        for repeat in tracked(range(repeats), f"dimension {d}"):
            random = torch.Generator().manual_seed(SEED + repeat)
            p, q = torch.randn(2, count, d, generator=random, dtype=torch.float64)
            q[:, 0] += shift
            settings = Settings(steps=0, seed=SEED + repeat)
            intervals.append(estimate(p, q, settings=settings).interval)
        yield {
            "case": "identical Gaussians" if shift == 0 else "Gaussians 1 apart",
            "dimension": d,
            "points": (count, count),
            "repeats": repeats,
            "above the truth": sum(low > shift for low, _ in intervals),
            "below the truth": sum(high < shift for _, high in intervals),
        }


def images(data_dir: Path | None) -> Rows:
    names = ("mnist", "fashion-mnist")
    mnist, fashion = (dataset(data_dir, n).train.take(2000).float_images() for n in names)
    estimated, row = timed(mnist, fashion, Settings(seed=SEED, domain=(0.0, 1.0)))
    yield {"case": "mnist, fashion-mnist", **row, "history": [vars(x) for x in estimated.history]}
    settings = Settings(steps=300, lr=1e-3, checks=1, batch_size=64, seed=SEED)
    critic = heuristics.unconstrained((1, 28, 28), width=16)
    for name, function in (("WGAN-GP", heuristics.penalised), ("clipping", heuristics.clipped)):
        claim = function(mnist, fashion, critic, settings=settings)
        bound = float(claim.bound)
        yield {"case": name, "claimed": claim.claimed, "bound": bound, "proved": claim.proved}


PARTS = {"known": known, "many": many, "coverage": coverage, "images": images}


def known_table() -> str:
    rows = []
    for row in (*recorded("known"), *recorded("many")):
        share = f"{100 * row['lower'] / row['truth']:.1f} %" if row["truth"] else "–"
        rows.append({**row, "share": share})
    columns = {
        "case": "{case}",
        "dimension": "{dimension}",
        "truth": "{truth:.4g}",
        "lower": "{lower:.4g}",
        "share": "{share}",
        "upper": "{upper:.4g}",
        "interval": INTERVAL,
        "critic": "{chosen}",
    }
    return table(rows, columns)


def coverage_table() -> str:
    columns = {name: f"{{{name}}}" for name in ("case", "dimension", "repeats")}
    sides = {"interval above the truth": "{above the truth}", "below it": "{below the truth}"}
    return table(recorded("coverage"), columns | sides)


def images_table() -> str:
    rows = []
    for row in recorded("images"):
        if "claimed" in row:
            numbers = (f"{row[name]:.4g}" for name in ("claimed", "bound", "proved"))
            rows.append((row["case"], *numbers))
        else:
            name = f"`estimate`, {row['chosen']}, {row['seconds']:.0f} s"
            forms = (INTERVAL, "{bound:.4g}", "{lower:.4g} (at most {upper:.4g})")
            rows.append((name, *(form.format_map(row) for form in forms)))
    return markdown(("critic", "claims", "proved bound", "proves"), rows)


TABLES = {"known": known_table, "coverage": coverage_table, "images": images_table}

EXPERIMENT = Experiment(
    "wasserstein",
    __doc__,
    work,
    (option("part", help="what to measure", choices=tuple(PARTS)), DATA_DIR),
    threads=1,
)

if __name__ == "__main__":
    EXPERIMENT.main()
