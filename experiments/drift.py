"""Measure taut.wasserstein.drift: false alarms, power beside MMD and energy tests, known distances.

Example: python -m experiments.drift alarms --record records/drift/alarms.json
         python -m experiments.drift power --record records/drift/power.json
         python -m experiments.drift funnels --record records/drift/funnels.json

`alarms`: the share of alarms over repeats without drift. `power`: that with drift, beside the tests
of hyppo with as many permutations on the same points; seconds are of the CPU. `funnels`: critics on
pairs whose distance and optimal critic are known by construction (Korotin et al., 2022), each
trained for the same CPU time. `closed`: critics without training on these pairs. Each part goes on
with what the record holds.
"""

import argparse
import math
import time
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import version
from itertools import product
from typing import Any

import torch
from torch import Tensor

import taut
from experiments._funnels import Funnels, contest, in_closed_form
from experiments._record import RECORDS, Record, read
from experiments._runner import Experiment, option
from experiments._show import COLOURS, grid, markdown, panels
from taut.wasserstein import DriftSettings, drift

FOLDER = RECORDS / "drift"
LEVEL, COUNT, DIMENSION, SEED = 0.05, 100, 10, 0
PERMUTATIONS, _BLOCK = 199, 50
CRITICS = {"taut, closed forms alone": 0, "taut": DriftSettings().steps}
PAIRS = [(d, n) for d in (2, 16, 128) for n in (4, 64)] + [(128, 16), (128, 256)]
# Gradient cosine and dual value over W1: justkolesov/Wasserstein1Benchmark@359d2b1, metrics/.
PUBLISHED = {
    (2, 4): (0.773, 0.845),
    (2, 64): (0.661, 0.355),
    (16, 4): (0.971, 0.964),
    (16, 64): (0.569, 0.785),
    (128, 4): (0.931, 0.923),
    (128, 16): (0.916, 0.799),
    (128, 64): (0.637, 0.641),
    (128, 256): (0.612, 0.562),
}
POINTS = 1500  # of either side, for critics in closed form
RATES = {"orthogonal": 1e-2, "WGAN-GP": 1e-3}

Draw = Callable[[int, torch.Generator], Tensor]


def normal(count: int, random: torch.Generator) -> Tensor:
    return torch.randn(count, DIMENSION, generator=random)


def heavy(count: int, random: torch.Generator) -> Tensor:
    """Student's t with 2 degrees of freedom: no variance."""
    squares = torch.randn(count, 2, generator=random).square().sum(1, keepdim=True)
    return torch.randn(count, DIMENSION, generator=random) / (squares / 2).sqrt()


def clothes(count: int, random: torch.Generator) -> Tensor:
    images = taut.data.load("fashion-mnist-subset").train.float_images()
    return images[torch.randperm(len(images), generator=random)[:count]]


SOURCES: dict[str, Draw] = {
    f"Gaussian, d = {DIMENSION}": normal,
    f"Student t_2, d = {DIMENSION}": heavy,
    "Fashion-MNIST": clothes,
}


def moved(x: Tensor, size: float) -> Tensor:
    return x + size * torch.eye(DIMENSION)[0]


def wider(x: Tensor, size: float) -> Tensor:
    return (1 + size) * x


def spoilt(x: Tensor, size: float) -> Tensor:
    """A share of the points in a small blob 6 away."""
    count = round(size * len(x))
    blob = 0.1 * x[:count] + 6 / math.sqrt(DIMENSION)
    return torch.cat([blob, x[count:]])


def blurred(x: Tensor, size: float) -> Tensor:
    """A share of a 3 x 3 mean filter."""
    return (1 - size) * x + size * torch.nn.functional.avg_pool2d(x, 3, 1, 1)


SHIFTS: dict[str, tuple[Draw, Callable[[Tensor, float], Tensor], tuple[float, ...]]] = {
    "mean of one feature": (normal, moved, (0.4, 0.7, 1.1)),
    "standard deviation": (normal, wider, (0.06, 0.12, 0.2)),
    "share of outliers": (normal, spoilt, (0.04, 0.08, 0.15)),
    "blur of images": (clothes, blurred, (0.3, 0.6, 1.0)),
}


def work(args: argparse.Namespace, record: Record) -> None:
    settings = {"seed": SEED, "level": LEVEL, "points": COUNT, "permutations": PERMUTATIONS}
    record.resume(settings | {"hyppo": version("hyppo")})
    parts = {"alarms": alarms, "power": power, "funnels": funnels, "closed": closed}
    if args.part not in parts:
        raise ValueError(f"`part` must be one of {', '.join(parts)}; got {args.part!r}.")
    done = record.content.get(args.part, [])
    for name, row in parts[args.part](args):
        if time.process_time() > args.limit:
            break
        if not any(all(old.get(k) == v for k, v in name.items()) for old in done):
            record.add(args.part, name | row())


def ours(steps: int) -> Callable[[Tensor, Tensor, int], float]:
    def test(x: Tensor, y: Tensor, seed: int) -> float:
        settings = DriftSettings(steps=steps, permutations=PERMUTATIONS, seed=seed)
        return drift(x, y, settings=settings).p_value

    return test


def peer(name: str) -> Callable[[Tensor, Tensor, int], float]:
    kind = getattr(import_module("hyppo.ksample"), name)

    def test(x: Tensor, y: Tensor, seed: int) -> float:
        sides = (side.flatten(1).double().numpy() for side in (x, y))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = kind().test(*sides, reps=PERMUTATIONS, auto=False, random_state=seed)
        return float(found[1])

    return test


def share(
    test: Callable[[Tensor, Tensor, int], float],
    pair: Callable[[int], tuple[Tensor, Tensor]],
    seeds: range,
) -> dict[str, Any]:
    """Alarms over repeats, and the mean CPU time of one."""
    test(*pair(0), 0)  # warm
    seconds, alarms = 0.0, 0
    for seed in seeds:
        x, y = pair(seed)
        start = time.process_time()
        alarms += test(x, y, seed) <= LEVEL
        seconds += time.process_time() - start
    return {"repeats": len(seeds), "alarms": alarms, "seconds": seconds / len(seeds)}


def binomial(alarms: int, repeats: int) -> tuple[float, float]:
    """The interval of Clopper and Pearson for a probability, at 95 %."""
    beta = import_module("scipy.stats").beta
    low = beta.ppf(0.025, alarms, repeats - alarms + 1) if alarms else 0.0
    high = beta.ppf(0.975, alarms + 1, repeats - alarms) if alarms < repeats else 1.0
    return float(low), float(high)


Row = tuple[dict[str, Any], Callable[[], dict[str, Any]]]


def alarms(args: argparse.Namespace) -> Iterator[Row]:
    starts = range(0, args.repeats, _BLOCK)
    for (test, steps), (name, draw), first in product(CRITICS.items(), SOURCES.items(), starts):

        def pair(seed: int, draw: Draw = draw) -> tuple[Tensor, Tensor]:
            points = draw(2 * COUNT, taut.data.generator("drift", seed))
            return points[:COUNT], points[COUNT:]

        seeds = range(first, min(first + _BLOCK, args.repeats))
        key = {"data": name, "test": test, "first": first}
        yield key, lambda steps=steps, pair=pair, seeds=seeds: share(ours(steps), pair, seeds)


def power(args: argparse.Namespace) -> Iterator[Row]:
    tests = {
        **{name: ours(steps) for name, steps in CRITICS.items()},
        "MMD": peer("MMD"),
        "energy": peer("Energy"),
    }
    for shift, (draw, change, sizes) in SHIFTS.items():
        for size in sizes:

            def pair(seed: int, draw=draw, change=change, size=size) -> tuple[Tensor, Tensor]:
                points = draw(2 * COUNT, taut.data.generator("drift", seed))
                return points[:COUNT], change(points[COUNT:], size)

            for name, test in tests.items():
                key = {"shift": shift, "size": size, "test": name}
                yield key, lambda test=test, pair=pair: share(test, pair, range(args.repeats))


def funnels(args: argparse.Namespace) -> Iterator[Row]:
    for dimension, count in PAIRS:
        pair = Funnels.drawn(dimension, count, SEED)
        for method, rate in RATES.items():

            def row(pair=pair, method=method, rate=rate) -> dict[str, Any]:
                found = contest(pair, method, rate, args.budget, SEED)
                return {"truth": pair.distance(SEED + 9), "rate": rate} | found

            yield {"dimension": dimension, "funnels": count, "method": method}, row


def closed(args: argparse.Namespace) -> Iterator[Row]:
    for dimension, count in PAIRS:
        pair = Funnels.drawn(dimension, count, SEED)
        key = {"dimension": dimension, "funnels": count}
        yield key, lambda pair=pair: in_closed_form(pair, POINTS, SEED)


def recorded(part: str) -> list[dict[str, Any]]:
    return read(FOLDER / f"{part}.json").get(part, [])


def alarms_table() -> str:
    rows, cells = recorded("alarms"), []
    for data, test in product(SOURCES, CRITICS):
        blocks = [row for row in rows if (row["data"], row["test"]) == (data, test)]
        repeats, count = (sum(row[k] for row in blocks) for k in ("repeats", "alarms"))
        if repeats:
            rate = f"{100 * count / repeats:.1f} %"
            ends = " to ".join(f"{100 * end:.1f}" for end in binomial(count, repeats))
            seconds = sum(row["seconds"] for row in blocks) / len(blocks)
            cells.append((data, test, f"{repeats}", rate, f"{ends} %", f"{seconds:.2f} s"))
    names = ("data", "test", "repeats", "false alarms", "95 % interval", "CPU time")
    return markdown(names, cells)


def power_table() -> str:
    rows = recorded("power")
    tests = list(dict.fromkeys(row["test"] for row in rows))
    cells = []
    for shift, (_, _, sizes) in SHIFTS.items():
        for size in sizes:
            found = {r["test"]: r for r in rows if (r["shift"], r["size"]) == (shift, size)}
            shares = [
                f"{100 * found[t]['alarms'] / found[t]['repeats']:.0f} %" if t in found else "-"
                for t in tests
            ]
            cells.append((shift, f"{size:g}", *shares))
    seconds = [[r["seconds"] for r in rows if r["test"] == test] for test in tests]
    cells.append(("CPU time of a test", "", *(f"{sum(s) / len(s):.2f} s" for s in seconds)))
    return markdown(("shift", "size", *tests), cells if rows else ())


def funnels_table() -> str:
    cells = []
    for dimension, count in sorted(PAIRS):
        here = {"dimension": dimension, "funnels": count}
        rows = [r for r in recorded("funnels") + recorded("closed") if r.items() >= here.items()]
        by_method = {row.get("method", "closed"): row for row in rows}
        if set(by_method) < {*RATES, "closed"}:
            continue
        net, plain, closed_form = (by_method[name] for name in (*RATES, "closed"))
        truth = net["truth"]
        shares = (net["lower"], closed_form["lower"], plain["lower"], plain["value"])
        cosines = (row["cosine"] for row in (net, closed_form, plain))
        numbers = (*(value / truth for value in shares), *cosines, *PUBLISHED[dimension, count])
        cells.append((f"{dimension}", f"{count}", *(f"{number:.3f}" for number in numbers)))
    names = ("proves: net", "closed form", "WGAN-GP", "WGAN-GP claims")
    cosine = ("cosine: net", "closed form", "WGAN-GP", "published: sort-out", "WGAN-GP")
    return markdown(("dimension", "funnels", *names, *cosine), cells)


def power_figure() -> Any:
    """Share of alarms over the size of each shift."""
    rows = recorded("power")
    figure, axes = panels(1, 4, (11, 2.8), sharey=True)
    for place, shift in zip(axes, SHIFTS, strict=True):
        for colour, test in zip(COLOURS, dict.fromkeys(row["test"] for row in rows), strict=False):
            curve = [r for r in rows if (r["shift"], r["test"]) == (shift, test)]
            shares = [r["alarms"] / r["repeats"] for r in curve]
            place.plot([r["size"] for r in curve], shares, "o-", color=colour, ms=3, label=test)
        place.axhline(LEVEL, color="#b9b2a6", linewidth=0.8, linestyle="--")
        grid(place, shift)
    axes[0].set_ylabel("share of alarms")
    axes[0].legend(frameon=False, fontsize=7)
    return figure


TABLES = {"alarms": alarms_table, "power": power_table, "funnels": funnels_table}

EXPERIMENT = Experiment(
    "drift",
    __doc__,
    work,
    [
        option("part", help="alarms, power, funnels or closed"),
        option("--repeats", 500, "of a test"),
        option("--budget", 60.0, "CPU seconds of training a critic"),
        option("--limit", math.inf, "CPU seconds after which to stop; the same command goes on"),
    ],
    threads=1,
)

if __name__ == "__main__":
    EXPERIMENT.main()
