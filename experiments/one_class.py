"""Train one-class detectors on one class of images, and certify them against all others.

Example: python -m experiments.one_class mnist --data-dir DIR --record records/one-class.json
         python -m experiments.one_class choose --data-dir DIR --record records/one-class.json

`mnist`, `fashion-mnist`: each class in turn is normal; detectors see its training images alone, and
the whole test set measures. An unconstrained network gets the same outliers and the same CPU
seconds. Attacks are PGD on a part of the test set. A run goes on with the classes that the record
lacks. `choose`: the settings of the distances, tried on training images of Fashion-MNIST; those of
the network are the defaults. DIR holds mnist/ and fashion-mnist/.
"""

import argparse
import itertools
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import taut
from experiments._record import RECORDS, Record, read
from experiments._runner import DATA_DIR, Experiment, option, tracked
from experiments._show import COLOURS, GREY, INK, grid, markdown, panels
from taut.anomaly import Detector, Neighbours, Settings, certified_auroc, certify

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EPS = ("8/255", "36/255")
PUBLISHED = {
    "OCSDF, 1-Lipschitz network": ("95.5", "93.2", "78.4"),
    "Deep SVDD": ("94.8", "-", "-"),
}
SEED, STEPS = 0, 1200
_ATTACKED, _ATTACK_STEPS = 100, 20
_BLURS, _SHARES, _COUNTS = (0.7, 1.0, 1.5), (0.0, 0.25, 0.5, 0.75), (1, 3, 10)
_CHOICE_POINTS, _CHOICE_EACH = 2000, 200
"""Training images of a class that are points, and others of each class that measure."""


def work(args: argparse.Namespace, record: Record) -> None:
    record.resume({"seed": SEED, "steps": STEPS, "eps": list(EPS)})
    if args.part == "choose":
        record.keep(choice=[])
        for row in choices(args.data_dir):
            record.add("choice", row)
        return
    data = taut.data.load(args.part, args.data_dir)
    done = {row["class"] for row in record.content.get(args.part, ())}
    todo = [n for n in range(len(data.classes)) if data.classes[n] not in done]
    for label in tracked(todo[: args.classes], "classes"):
        record.add(args.part, {"class": data.classes[label]} | measured(data, label))


def measured(data: taut.data.Dataset, label: int) -> dict[str, Any]:
    """All detectors of one class on the test set."""
    train = data.train.float_images()[data.train.labels == label]
    test, is_normal = data.test.float_images(), data.test.labels == label
    inliers, outliers = test[is_normal], test[~is_normal]
    part = inliers[:_ATTACKED], outliers[:: len(outliers) // _ATTACKED][:_ATTACKED]
    settings = Settings(steps=STEPS, seed=SEED)
    network, seconds = timed(lambda: taut.anomaly.fit(train, settings=settings))
    near, near_seconds = timed(lambda: taut.anomaly.neighbours(train))
    nearest = Detector(Neighbours.of(train.flatten(1), count=1, share=0.0))
    plain, plain_seconds = timed(lambda: trained_plain(train, seconds))
    ours = {
        "both": (Detector(network, near), seconds + near_seconds),
        "network": (network, seconds),
        "distances": (near, near_seconds),
        "nearest image": (nn.Sequential(nn.Flatten(), nearest), 0.0),
    }
    rows = {name: proven(*each, inliers, outliers, part) for name, each in ours.items()}
    with torch.no_grad():
        scores = plain(inliers).flatten(), plain(outliers).flatten()
    unproven = {"clean": taut.anomaly.auroc(*scores), "certified": dict.fromkeys(EPS, 0.0)}
    rows["plain network"] = unproven | attacked(plain, part) | {"CPU seconds": plain_seconds}
    return rows


Part = tuple[Tensor, Tensor]


def proven(
    detector: nn.Module, seconds: float, inliers: Tensor, outliers: Tensor, part: Part
) -> dict[str, Any]:
    """Certified on all of the test set, attacked on a part of it, where both are compared."""
    found = certify(detector, inliers, outliers, EPS)
    row = {"clean": found.auroc, "certified": found.certified_auroc, "CPU seconds": seconds}
    bound = {"bound": float(found.bound)}
    return row | bound | attacked(detector, part) | {"part": certify_part(detector, part)}


def certify_part(detector: nn.Module, part: Part) -> dict[str, Any]:
    found = certify(detector, *part, EPS)
    return {"clean": found.auroc, "certified": found.certified_auroc}


def attacked(detector: nn.Module, part: Part) -> dict[str, dict[str, float]]:
    attack = taut.attacks.PGD(steps=_ATTACK_STEPS)
    return {"attacked": {e: taut.anomaly.attacked_auroc(detector, *part, e, attack) for e in EPS}}


def timed(make: Callable[[], Detector]) -> tuple[Detector, float]:
    """A detector, and the CPU seconds that it took."""
    start = time.process_time()
    return make(), round(time.process_time() - start, 1)


def trained_plain(images: Tensor, seconds: float) -> Detector:
    """An unconstrained network of the same shape, on the same outliers, for as long.

    Without a Lipschitz bound the Kantorovich-Rubinstein term is unbounded: its weight is small.
    """

    def fitted(steps: int) -> Detector:
        torch.manual_seed(SEED)
        model = nn.Sequential(
            nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(),
            nn.Flatten(), nn.Linear(32 * 49, 128), nn.ReLU(), nn.Linear(128, 1),
        )  # fmt: skip
        settings = Settings(steps=steps, seed=SEED, alpha=1e4, margin=1.0)
        return taut.anomaly.fit(images, model, settings=settings)

    _, trial = timed(lambda: fitted(50))
    return fitted(max(50, round(50 * seconds / max(trial, 0.1))))


def choices(data_dir: Path | None) -> Iterator[dict[str, Any]]:
    """Mean AUROC of each setting of the distances over the classes of Fashion-MNIST."""
    data = taut.data.load("fashion-mnist", data_dir)
    places = [(data.train.labels == n).nonzero().flatten() for n in range(10)]
    images = data.train.float_images(torch.cat([each[-_CHOICE_EACH:] for each in places]))
    labels = torch.arange(10).repeat_interleave(_CHOICE_EACH)
    for blur in tracked(_BLURS, "blurs"):
        rows: dict[tuple[float, int], list[list[float]]] = {}
        for n in range(10):
            points = data.train.float_images(places[n][:_CHOICE_POINTS])
            for setting, scores in settings_tried(points, images, blur):
                inliers, outliers = scores[labels == n], scores[labels != n]
                shares = [certified_auroc(inliers, outliers, eps) for eps in (0, *EPS)]
                rows.setdefault(setting, []).append(shares)
        for (share, count), shares in rows.items():
            means = map(fmean, zip(*shares, strict=True))
            yield {"blur": blur, "share": share, "count": count} | dict(
                zip(("clean", *EPS), means, strict=True)
            )


def settings_tried(
    points: Tensor, images: Tensor, blur: float
) -> Iterator[tuple[tuple[float, int], Tensor]]:
    """Scores of images by each share and count."""
    first, near = taut.anomaly.neighbours(points, blur=blur, share=1.0).scores[0]
    with torch.no_grad():
        features = first(images)
        for share, count in itertools.product(_SHARES, _COUNTS):
            score = Neighbours(near.points, share * near.corrections, count)
            yield (share, count), score(features).flatten()


ROWS = {
    "both": "taut: network and distances",
    "network": "taut: network",
    "distances": "taut: distances to neighbours",
    "nearest image": "distance to the nearest image",
    "plain network": "unconstrained network",
}


def mean_over_classes(rows: list[dict[str, Any]], name: str) -> dict[str, float]:
    """Means of a detector, in percent."""
    each = [row[name] for row in rows]
    means = {"clean": 100 * fmean(row["clean"] for row in each)}
    for eps in EPS:
        means[eps] = 100 * fmean(row["certified"][eps] for row in each)
        means[f"attacked {eps}"] = 100 * fmean(row["attacked"][eps] for row in each)
    return means | {"seconds": fmean(row["CPU seconds"] for row in each)}


def means_table(part: str) -> str:
    rows = read(RECORDS / "one-class.json").get(part, [])
    lines = []
    for name, words in ROWS.items() if rows else ():
        found = mean_over_classes(rows, name)
        certified = [f"{found[eps]:.1f}" if found[eps] else "0" for eps in EPS]
        attacked = f"{found[f'attacked {EPS[1]}']:.1f}"
        lines.append((words, f"{found['clean']:.1f}", *certified, attacked))
    if part == "mnist":
        lines += [(name, *numbers, "-") for name, numbers in PUBLISHED.items()]
    header = ("detector", "clean", *(f"certified at {e}" for e in EPS), f"attacked at {EPS[1]}")
    return markdown(header, lines)


def classes_table(part: str) -> str:
    rows = read(RECORDS / "one-class.json").get(part, [])
    names = [name for name in ROWS if name != "nearest image"]
    lines = [
        (
            row["class"],
            *(
                " / ".join(
                    f"{100 * value:.1f}"
                    for value in (row[name]["clean"], *row[name]["certified"].values())
                    if value
                )
                for name in names
            ),
        )
        for row in rows
    ]
    return markdown(("normal class", *(ROWS[name] for name in names)), lines)


def choice_table() -> str:
    rows = read(RECORDS / "one-class.json").get("choice", [])
    best = sorted(rows, key=lambda row: -fmean(row[key] for key in ("clean", *EPS)))[:5]
    shown = [
        (
            f"{r['blur']}",
            f"{r['share']}",
            f"{r['count']}",
            *tuple(f"{100 * r[key]:.2f}" for key in ("clean", *EPS)),
        )
        for r in best
    ]
    return markdown(("blur", "share", "count", "clean", *EPS), shown)


TABLES: dict[str, Callable[[], str]] = {
    "one-class-mnist": partial(means_table, "mnist"),
    "one-class-fashion": partial(means_table, "fashion-mnist"),
    "one-class-digits": partial(classes_table, "mnist"),
    "one-class-choice": choice_table,
}


def one_class() -> "Figure":
    """AUROC of each digit: clean, attacked and certified."""
    record = read(RECORDS / "one-class.json")
    figure, sides = panels(1, 2, (9, 3.4), sharey=True)
    for axes, part in zip(sides, ("mnist", "fashion-mnist"), strict=True):
        rows = record.get(part, [])
        for index, name in enumerate(ROWS if rows else ()):
            found = mean_over_classes(rows, name)
            values = [found[key] for key in ("clean", *EPS)]
            colour = GREY if name == "plain network" else COLOURS[index]
            if name == "plain network":
                values[1:] = [found[f"attacked {eps}"] for eps in EPS]
            style = "--" if name == "plain network" else "-"
            axes.plot((0, 8, 36), values, style, marker="o", color=colour, label=ROWS[name])
        axes.set_xlabel("l2 radius, in 255ths")
        axes.set_ylim(60, 100)
        grid(axes, {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST"}[part])
    published = [float(PUBLISHED["OCSDF, 1-Lipschitz network"][i]) for i in range(3)]
    sides[0].plot((0, 8, 36), published, ":", marker="s", color=INK, label="OCSDF (published)")
    sides[0].set_ylabel("mean AUROC, %")
    sides[0].legend(frameon=False, fontsize=7.5)
    return figure


EXPERIMENT = Experiment(
    "one_class",
    __doc__,
    work,
    (
        option("part", choices=("mnist", "fashion-mnist", "choose")),
        option("--classes", 10, "to measure at most in this run"),
        DATA_DIR,
    ),
    threads=1,
)

if __name__ == "__main__":
    EXPERIMENT.main()
