"""Trace the front of clean against certified accuracy over the offset cross-entropy's settings.

    python -m benchmarks.front --architecture small --dataset mnist --epochs 10 \
        --offsets 0.7 1.5 2.2 3 --temperatures 0.25 0.35 0.5 --seeds 0 --data-dir DIR --threads 1
    python -m benchmarks.front --architecture small --dataset mnist --out FILE
    python -m benchmarks.front --figure docs/figures/front.png

The first trains the whole grid, each run in a folder of its own, runs/front-*: finished ones are
left as they are, a stopped one is resumed. The second certifies whatever is finished of that
architecture and data set, once a run, and writes the record (records/front-mnist-small.json, say).
The third draws all records/front-*.json.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import cycle, product
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch

import taut
from benchmarks.classify import ENVIRONMENT, summary
from benchmarks.environment import ROOT, environment
from taut.files import write_atomically
from taut.models import ModelConfig
from taut.models.config import Architecture
from taut.reproduce import TABLES
from taut.training import OffsetCrossEntropyLoss, Recipe, Run, TrainingDiverged, train
from taut.training.recipe import Precision
from taut.training.run import finished, prepare

DATASETS = ("mnist", "fashion-mnist")
EPS = ("0.3", "0.5", "1", "1.58")
MEASURED = "measured.json"
SETTINGS = ("epochs", "batch_size", "lr", "retract_every", "offset", "temperature")
CHANGES = ("batch_size", "lr", "retract_every", "precision")
RECORDS = ROOT / "records"
RIGHT, LEFT, ABOVE = (6, 5, "left"), (-8, -4, "right"), (-4, 8, "right")
PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.75}
# Colours, and where labels stand: neighbouring fronts have theirs on different sides.
LOOKS = {
    "small": (("#3b5fa0", RIGHT), ("#1d3157", LEFT)),
    "large": (("#2f9e7d", RIGHT), ("#0b6e52", LEFT), ("#06382b", RIGHT)),
    "wide": (("#b0541e", ABOVE), ("#6b2f0c", RIGHT)),
}


class Published(NamedTuple):
    """What was reached on MNIST at 1.58 in l2, in percent; clean is None if it is not given."""

    name: str
    clean: float | None
    certified: float


def published() -> list[Published]:
    """The paper's systems by tables 1 and 2, and the best published ones we know of."""
    tables = TABLES["table1"], TABLES["table2"]
    rows = {(row.dataset, row.system): row for table in tables for row in table.rows}
    names = ("BCOP Small", "BCOP Large", "RKO Large", "FC-3")
    found = [(name, rows["mnist", name].published) for name in names]
    return [
        *(Published(name, clean.mean, certified.mean) for name, (clean, certified) in found),
        Published("CRM 4C3F (o4lc/CRM-LipLT)", 96.27, 63.37),
        Published("GloRo 4C3F (klasleino/gloro), clean accuracy not given", None, 62.8),
    ]


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    for seed, offset, temperature in product(args.seeds, args.offsets, args.temperatures):
        loss = OffsetCrossEntropyLoss(offset, temperature)
        plan = recipe(args.architecture, args.dataset, loss, args.epochs, seed)
        changes = {name: getattr(args, name) for name in CHANGES}
        _train(replace(plan, **changes), args.data_dir)
    if args.out is not None:
        write_record(args.out, args.architecture, args.dataset)
    if args.figure is not None:
        args.figure.parent.mkdir(parents=True, exist_ok=True)
        draw(args.figure, [json.loads(p.read_text()) for p in sorted(RECORDS.glob("front-*.json"))])


def recipe(
    architecture: Architecture, dataset: str, loss: OffsetCrossEntropyLoss, epochs: int, seed: int
) -> Recipe:
    return Recipe(
        name=f"front-{dataset}-{architecture}-o{loss.offset:g}-t{loss.temperature:g}",
        dataset=dataset,
        model=ModelConfig(architecture),
        loss=loss,
        epochs=epochs,
        seed=seed,
        eps=EPS,
    )


def _train(recipe: Recipe, data_dir: Path | None) -> None:
    settings = f"e{recipe.epochs}-b{recipe.batch_size}-lr{recipe.lr:g}-r{recipe.retract_every}"
    folder = ROOT / "runs" / f"{recipe.name}-{settings}-s{recipe.seed}"
    run = prepare(recipe, folder, data_dir)
    if not (folder / ENVIRONMENT).exists():
        write_atomically(folder / ENVIRONMENT, json.dumps(environment()).encode())
    try:
        if not finished(run):
            train(recipe, folder, data_dir=data_dir)
    except TrainingDiverged as error:
        print(error, flush=True)
        return
    print(folder.name, run.history()[-1], flush=True)


def write_record(path: Path, architecture: str, dataset: str) -> None:
    """Certify what is finished of one architecture and data set, and write it."""
    groups: dict[tuple[float, ...], list[dict]] = defaultdict(list)
    for run in _finished_runs(architecture, dataset):
        settings = vars(run.recipe) | vars(run.recipe.loss)
        groups[tuple(settings[name] for name in SETTINGS)].append(_measured(run))
    if not groups:
        raise SystemExit(f"No finished run of {architecture} on {dataset} in {ROOT / 'runs'}.")
    points = [
        dict(zip(SETTINGS, key, strict=True)) | {"summary": summary(runs), "runs": runs}
        for key, runs in sorted(groups.items())
    ]
    about = {"environment": environment(), "architecture": architecture, "dataset": dataset}
    write_atomically(path, (json.dumps(about | {"points": points}, indent=1) + "\n").encode())
    for point in points:
        print(*(point[key] for key in SETTINGS), point["summary"])


def _finished_runs(architecture: str, dataset: str) -> Iterator[Run]:
    for folder in sorted((ROOT / "runs").glob(f"front-{dataset}-{architecture}-o*")):
        run = Run.open(folder)
        if finished(run):
            yield run


def _measured(run: Run) -> dict[str, Any]:
    """Clean and certified accuracy of the float64 program, kept in the run folder."""
    path = run.path / MEASURED
    if path.is_file():
        return json.loads(path.read_text())
    data = run.dataset()
    found = taut.certify(run.model(), data.test.float_images(), data.test.labels, EPS)
    result = {
        "seed": run.recipe.seed,
        "data": data.label,
        "clean": 100 * found.clean_accuracy,
        "certified": {eps: 100 * share for eps, share in found.certified_accuracy.items()},
        "arithmetic": found.arithmetic,
        "bound": float(found.bound),
        "training_seconds": run.history()[-1]["seconds"],
        "recipe": json.loads(run.recipe.to_json()),
        "trained": json.loads((run.path / ENVIRONMENT).read_text()),
        "certified_with": environment(),
    }
    write_atomically(path, (json.dumps(result, indent=1) + "\n").encode())
    return result


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


def draw(path: Path, records: Sequence[dict]) -> None:
    """Clean against certified accuracy: MNIST at 1.58, Fashion-MNIST at 0.5."""
    from matplotlib.figure import Figure

    panels = [
        (dataset, eps, [record for record in records if record["dataset"] == dataset])
        for dataset, eps in (("mnist", "1.58"), ("fashion-mnist", "0.5"))
    ]
    panels = [panel for panel in panels if panel[2]]
    if not panels:
        raise SystemExit(f"No record front-*.json in {RECORDS}.")
    figure = Figure(figsize=(6.5 * len(panels), 6), layout="constrained", dpi=170)
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (dataset, eps, found) in zip(all_axes, panels, strict=True):
        if dataset == "mnist":
            _draw_published(axes)
        for record in found:
            _draw_record(axes, record, eps)
        axes.set_title(found[0]["points"][0]["runs"][0]["data"], loc="left", fontweight="bold")
        axes.set_xlabel("clean accuracy, %")
        axes.set_ylabel(f"certified accuracy at {eps} in l2, %")
        axes.grid(True, color="#e4e0d8", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.14, y=0.08)
        axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(0, -0.12))
    figure.savefig(path)
    print("Wrote", path)


def _draw_record(axes: Any, record: dict, eps: str) -> None:
    """A front for each number of epochs, longer trainings darker."""
    epochs = sorted({point["epochs"] for point in record["points"]})
    looks = cycle(LOOKS[record["architecture"]])
    for each, (colour, side) in zip(epochs, looks, strict=False):
        _draw_sweep(axes, record, each, eps, {"color": colour}, side)


def _draw_sweep(
    axes: Any, record: dict, epochs: int, eps: str, colour: dict, side: tuple[int, int, str]
) -> None:
    values = {
        (
            point["summary"]["clean"]["mean"],
            point["summary"][f"certified at {eps}"]["mean"],
        ): f"{point['offset']:g}, {point['temperature']:g}"
        for point in record["points"]
        if point["epochs"] == epochs
    }
    axes.scatter(*zip(*values, strict=True), s=14, alpha=0.45, **colour)
    front = upper_hull(values)
    name = f"taut {record['architecture'].capitalize()}, {epochs} epochs (offset, temperature)"
    axes.plot(*zip(*front, strict=True), marker="o", markersize=5, label=name, **colour)
    *offset, align = side
    style = {"textcoords": "offset points", "fontsize": 9, "bbox": PAPER, "ha": align, **colour}
    for point in front:
        axes.annotate(values[point], point, offset, **style)


def _draw_published(axes: Any) -> None:
    style = {"color": "#5f5a52", "fontsize": 9, "bbox": PAPER}
    points = [(entry.clean, entry.certified) for entry in published() if entry.clean is not None]
    for name, clean, certified in published():
        if clean is None:
            axes.axhline(certified, color=style["color"], linewidth=1, linestyle=":")
            below = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points"}
            axes.annotate(name, (0.01, certified), (0, -12), **below, **style)
            continue
        axes.plot([clean], [certified], color=style["color"], marker="D", markersize=5)
        crowded = any(0 < clean - x < 0.5 and abs(certified - y) < 1 for x, y in points)
        side = ((7, 0), "left") if crowded else ((-7, 0), "right")
        beside = {"textcoords": "offset points", "ha": side[1], "va": "center"}
        axes.annotate(name, (clean, certified), side[0], **beside, **style)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.front",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--architecture", choices=tuple(LOOKS), default="small")
    parser.add_argument("--dataset", choices=DATASETS, default="mnist")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=Recipe.batch_size)
    parser.add_argument("--lr", type=float, default=Recipe.lr, help="peak learning rate")
    parser.add_argument("--retract-every", type=int, default=Recipe.retract_every)
    parser.add_argument("--precision", choices=get_args(Precision), default=Recipe.precision)
    parser.add_argument("--offsets", type=float, nargs="+", default=[])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--data-dir", type=Path, help="the folder with the data set's files")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="write the record of what is finished")
    parser.add_argument("--figure", type=Path, help="draw records/front-*.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
