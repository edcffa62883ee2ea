"""Trace the front of clean against certified accuracy over the offset cross-entropy's settings.

Example: python -m experiments.front --architecture small --dataset mnist --epochs 10 \\
             --offsets 0.7 1.5 2.2 3 --temperatures 0.25 0.35 0.5 --seeds 0 --data-dir DIR
         python -m experiments.front --architecture small --dataset mnist --record FILE
         python -m experiments.front --figure docs/figures/front.png

The first trains the whole grid, each run in a folder of its own, runs/front-*: finished ones are
left as they are, a stopped one is resumed. The second certifies whatever is finished of that
architecture and data set, once a run, and writes the record (records/front-mnist-small.json, say).
The third draws all records/front-*.json.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import cycle, product
from pathlib import Path
from typing import Any, NamedTuple, get_args

from experiments._record import RECORDS, RUNS, Record, brief, read, write_json
from experiments._runner import DATA_DIR, Experiment, option, tracked
from experiments._show import GREY, grid, panels, save
from experiments._training import certified, say, summary, trained
from experiments.reproduce._published import TABLES
from experiments.results import published as published_nets
from taut.losses import OffsetCrossEntropy
from taut.models import kinds
from taut.training import Precision, Recipe, Run, TrainingDiverged

DATASETS = ("mnist", "fashion-mnist")
EPS = ("0.3", "0.5", "1", "1.58", "2")
MEASURED = "measured.json"
SETTINGS = ("epochs", "batch_size", "lr", "retract_every", "offset", "temperature")
CHANGES = ("batch_size", "lr", "retract_every", "precision")
RIGHT, LEFT, ABOVE = (6, 5, "left"), (-8, -4, "right"), (-4, 8, "right")
_BOX = {"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.75}
_LABEL = {"textcoords": "offset points", "fontsize": 9, "bbox": _BOX}
# Colours, and where labels stand: neighbouring fronts have theirs on different sides.
LOOKS = {
    "small": (("#3b5fa0", RIGHT), ("#1d3157", LEFT)),
    "large": (("#2f9e7d", RIGHT), ("#0b6e52", LEFT), ("#06382b", RIGHT)),
    "wide": (("#b0541e", ABOVE), ("#6b2f0c", RIGHT)),
}


class PublishedPoint(NamedTuple):
    """What was reached on MNIST at 1.58 in l2, in percent; clean is None if it is not given."""

    name: str
    clean: float | None
    certified: float


def published() -> list[PublishedPoint]:
    """The paper's systems by tables 1 and 2, and the best published ones we know of."""
    tables = TABLES["table1"], TABLES["table2"]
    rows = {(row.dataset, row.system): row.published for t in tables for row in t.rows}
    points = []
    for name in ("BCOP Small", "BCOP Large", "RKO Large", "FC-3"):
        clean, proved = rows["mnist", name]
        points.append(PublishedPoint(name, clean.mean, proved.mean))
    for net in published_nets("mnist"):
        if "4C3F" in net.name:
            clean = float(net.clean) if net.clean else None
            points.append(PublishedPoint(net.name, clean, net.at("1.58")))
    return points


def work(args: argparse.Namespace, record: Record) -> None:
    if bool(args.offsets) != bool(args.temperatures):
        raise ValueError("`offsets` needs `temperatures`, and the other way round.")
    if not (args.offsets or args.record or args.figure):
        raise ValueError("Give `offsets` and `temperatures` to train, `record` or `figure`.")
    changes = {name: vars(args)[name] for name in CHANGES}
    for seed, offset, temperature in product(args.seeds, args.offsets, args.temperatures):
        loss = OffsetCrossEntropy(offset, temperature)
        plan = replace(recipe(args.architecture, args.dataset, loss, args.epochs, seed), **changes)
        _train(plan, record, args.data_dir)
    if args.record is not None:
        fill(record, args.architecture, args.dataset)
    if args.figure is not None:
        draw(args.figure, [read(path) for path in sorted(RECORDS.glob("front-*.json"))])


def recipe(
    architecture: str, dataset: str, loss: OffsetCrossEntropy, epochs: int, seed: int
) -> Recipe:
    return Recipe(
        name=f"front-{dataset}-{architecture}-o{loss.offset:g}-t{loss.temperature:g}",
        dataset=dataset,
        validation=0.0,
        model=kinds()[architecture](),
        loss=loss,
        epochs=epochs,
        seed=seed,
        eps=EPS,
    )


def _train(recipe: Recipe, record: Record, data_dir: Path | None) -> None:
    settings = f"e{recipe.epochs}-b{recipe.batch_size}-lr{recipe.lr:g}-r{recipe.retract_every}"
    folder = RUNS / f"{recipe.name}-{settings}-s{recipe.seed}"
    say(f"training {folder}")
    try:
        run = trained(recipe, folder, record, data_dir=data_dir)
    except TrainingDiverged as error:
        print(error, flush=True)
        return
    print(brief({"run": folder.name, **run.history()[-1]}), flush=True)


def fill(record: Record, architecture: str, dataset: str) -> None:
    """Certify what is finished of one architecture and data set, and write it."""
    runs = list(_finished_runs(architecture, dataset))
    if not runs:
        raise ValueError(f"There must be a finished run of {architecture} on {dataset} in {RUNS}.")
    groups: dict[tuple[float, ...], list[dict]] = defaultdict(list)
    for run in tracked(runs, "runs"):
        settings = vars(run.recipe) | vars(run.recipe.loss)
        groups[tuple(settings[name] for name in SETTINGS)].append(_measured(run, record))
    record.begin(architecture=architecture, dataset=dataset)
    for key, results in sorted(groups.items()):
        settings = dict(zip(SETTINGS, key, strict=True))
        record.add("points", settings | {"summary": summary(results), "runs": results})


def _finished_runs(architecture: str, dataset: str) -> Iterator[Run]:
    for folder in sorted(RUNS.glob(f"front-{dataset}-{architecture}-o*")):
        run = Run.open(folder)
        if run.finished():
            yield run


def _measured(run: Run, record: Record) -> dict[str, Any]:
    """What is certified of a run, kept in its folder."""
    path = run.path / MEASURED
    if set(read(path).get("certified", ())) != set(EPS):
        how = {"recipe": json.loads(run.recipe.to_json()), "certified_with": record.environment()}
        write_json(path, certified(run, EPS) | how)
    return read(path)


def upper_hull(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other one reaches or passes in both coordinates, by the first.

    >>> upper_hull([(1, 3), (2, 2), (1, 1), (2, 1)])
    [(1, 3), (2, 2)]
    """
    front: list[tuple[float, float]] = []
    for point in sorted(set(points), reverse=True):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    return front[::-1]


def draw(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Clean against certified accuracy: MNIST at 1.58, Fashion-MNIST at 0.5."""
    chosen = {
        (dataset, eps): [record for record in records if record["dataset"] == dataset]
        for dataset, eps in (("mnist", "1.58"), ("fashion-mnist", "0.5"))
    }
    chosen = {key: fronts for key, fronts in chosen.items() if fronts}
    if not chosen:
        raise ValueError(f"There must be a record front-*.json in {RECORDS}.")
    figure, every = panels(len(chosen), 1, (8, 6.2 * len(chosen)))
    for axes, ((dataset, eps), fronts) in zip(every, chosen.items(), strict=True):
        if dataset == "mnist":
            _draw_published(axes)
        for record in fronts:
            _draw_record(axes, record, eps)
        grid(axes, fronts[0]["points"][0]["runs"][0]["data"])
        axes.set(xlabel="clean accuracy, %", ylabel=f"certified accuracy at {eps} in l2, %")
        axes.margins(x=0.14, y=0.08)
        axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(0, -0.12))
    save(figure, path)


def _draw_record(axes: Any, record: Mapping[str, Any], eps: str) -> None:
    """A front for each number of epochs, longer trainings darker; faint points lie below it."""
    epochs = sorted({point["epochs"] for point in record["points"]})
    for each, (colour, side) in zip(epochs, cycle(LOOKS[record["architecture"]]), strict=False):
        values = {}
        for point in record["points"]:
            if point["epochs"] == each:
                clean, proved = (point["summary"][n] for n in ("clean", f"certified at {eps}"))
                label = f"{point['offset']:g}, {point['temperature']:g}"
                values[clean["mean"], proved["mean"]] = label
        axes.scatter(*zip(*values, strict=True), s=14, alpha=0.45, color=colour)
        front = upper_hull(values)
        name = f"taut {record['architecture'].capitalize()}, {each} epochs (offset, temperature)"
        axes.plot(*zip(*front, strict=True), marker="o", markersize=5, label=name, color=colour)
        *place, align = side
        for point in front:
            axes.annotate(values[point], point, place, ha=align, color=colour, **_LABEL)


def _draw_published(axes: Any) -> None:
    points = [(entry.clean, entry.certified) for entry in published() if entry.clean is not None]
    for name, clean, proved in published():
        if clean is None:
            axes.axhline(proved, color=GREY, linewidth=1, linestyle=":")
            left = axes.get_yaxis_transform()
            label = f"{name}, clean accuracy not given"
            axes.annotate(label, (0.01, proved), (0, -12), xycoords=left, color=GREY, **_LABEL)
            continue
        axes.plot([clean], [proved], color=GREY, marker="D", markersize=5)
        crowded = any(0 < clean - x < 0.5 and abs(proved - y) < 1 for x, y in points)
        place, align = ((7, 0), "left") if crowded else ((-7, 0), "right")
        axes.annotate(name, (clean, proved), place, ha=align, va="center", color=GREY, **_LABEL)


EXPERIMENT = Experiment(
    "front",
    __doc__,
    work,
    (
        option("--architecture", "small", choices=tuple(LOOKS)),
        option("--dataset", "mnist", choices=DATASETS),
        option("--epochs", 10, "of each run"),
        option("--batch-size", Recipe.batch_size, "images a step"),
        option("--lr", Recipe.lr, "peak learning rate"),
        option("--retract-every", Recipe.retract_every, "steps; 0: never"),
        option("--precision", Recipe.precision, choices=get_args(Precision)),
        option("--offsets", (), "to train with", type=float),
        option("--temperatures", (), "to train with", type=float),
        option("--seeds", (0,), "one run each"),
        DATA_DIR,
        option("--figure", help="draw records/front-*.json into this PNG", type=Path),
    ),
)

if __name__ == "__main__":
    EXPERIMENT.main()
