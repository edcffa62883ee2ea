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
from torch import Tensor

import taut
from experiments._distances import dataset
from experiments._models import plain_small
from experiments._record import RECORDS, Record, read
from experiments._runner import DATA_DIR, Experiment, option, tracked
from experiments._show import COLOURS, GREY, INK, grid, markdown, number, panels, table
from taut.anomaly import Detector, Neighbours, Settings, certified_auroc, certify
from taut.attacks import PGD

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EPS = ("8/255", "36/255")
PUBLISHED = {
    "OCSDF, 1-Lipschitz network": ("95.5", "93.2", "78.4"),
    "Deep SVDD": ("94.8", "-", "-"),
}
SEED, STEPS = 0, 400
Part = tuple[Tensor, Tensor]
Row = dict[str, Any]

PARTS = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST"}
_RADII = (0, 8, 36)
_ATTACKED, _ATTACK_STEPS = 50, 20
_BLURS, _SHARES, _COUNTS = (0.7, 1.0, 1.5), (0.0, 0.25, 0.5, 0.75), (1, 3, 10)
_CHOICE_POINTS, _CHOICE_EACH = 1000, 100
"""Training images of a class that are points, and others of each class that measure."""


def work(args: argparse.Namespace, record: Record) -> None:
    record.resume({"seed": SEED, "steps": STEPS, "eps": list(EPS)})
    if args.part == "choose":
        record.keep(choice=[])
        for row in choices(args.data_dir):
            record.add("choice", row)
        return
    data = dataset(args.data_dir, args.part)
    done = {row["class"] for row in record.content.get(args.part, ())}
    todo = [n for n in range(len(data.classes)) if data.classes[n] not in done]
    for label in tracked(todo[: args.classes], "classes"):
        record.add(args.part, {"class": data.classes[label]} | measured(data, label))


def measured(data: taut.data.Dataset, label: int) -> Row:
    """All detectors of one class on the test set."""
    train = data.train.float_images()[data.train.labels == label]
    test, is_normal = data.test.float_images(), data.test.labels == label
    inliers, outliers = test[is_normal], test[~is_normal]
    part = inliers[:_ATTACKED], outliers[:: len(outliers) // _ATTACKED][:_ATTACKED]
    settings = Settings(steps=STEPS, seed=SEED)
    network, seconds = timed(lambda: taut.anomaly.fit(train, settings=settings))
    near, near_seconds = timed(lambda: taut.anomaly.neighbours(train))
    plain, plain_seconds = timed(lambda: trained_plain(train, seconds))
    both = Detector(network, near)
    return {
        "both": certified(both, inliers, outliers, part, seconds + near_seconds),
        "network": certified(network, inliers, outliers, part, seconds),
        "distances": by_scores(near, inliers, outliers) | {"CPU seconds": near_seconds},
        "nearest image": by_scores(nearest_image(train), inliers, outliers),
        "plain network": unproven(plain, inliers, outliers, part, plain_seconds),
    }


def certified(
    detector: Detector, inliers: Tensor, outliers: Tensor, part: Part, seconds: float
) -> Row:
    """Certified on all of the test set; on a part of it certified and attacked, to compare."""
    found, again = certify(detector, inliers, outliers, EPS), certify(detector, *part, EPS)
    return {
        "clean": found.auroc,
        "certified": found.certified_auroc,
        "bound": float(found.bound),
        "part": {"clean": again.auroc, "certified": again.certified_auroc},
        "attacked": attacked(detector, part),
        "CPU seconds": seconds,
    }


def by_scores(score: Callable[[Tensor], Tensor], inliers: Tensor, outliers: Tensor) -> Row:
    """Of a 1-Lipschitz score in real numbers: what its program rounds is not counted."""
    with torch.no_grad():
        high, low = (
            torch.cat([score(x).flatten() for x in side.split(500)]) for side in (inliers, outliers)
        )
    shares = {eps: certified_auroc(high, low, eps) for eps in EPS}
    return {"clean": taut.anomaly.auroc(high, low), "certified": shares}


def nearest_image(train: Tensor) -> Callable[[Tensor], Tensor]:
    """Minus the distance to the nearest training image."""
    points = train.flatten(1)
    return lambda x: -torch.cdist(x.flatten(1), points).amin(1)


def unproven(
    detector: Detector, inliers: Tensor, outliers: Tensor, part: Part, seconds: float
) -> Row:
    """What a network without a bound reaches, clean and attacked."""
    with torch.no_grad():
        clean = taut.anomaly.auroc(detector(inliers).flatten(), detector(outliers).flatten())
    return {"clean": clean, "attacked": attacked(detector, part), "CPU seconds": seconds}


def attacked(detector: Detector, part: Part) -> dict[str, float]:
    attack = PGD(steps=_ATTACK_STEPS)
    return {eps: taut.anomaly.attacked_auroc(detector, *part, eps, attack) for eps in EPS}


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
        settings = Settings(steps=steps, seed=SEED, alpha=1e4, margin=1.0)
        return taut.anomaly.fit(images, plain_small(1, 128), settings=settings)

    _, trial = timed(lambda: fitted(50))
    return fitted(max(50, round(50 * seconds / max(trial, 0.1))))


def choices(data_dir: Path | None) -> Iterator[Row]:
    """Mean AUROC of each setting of the distances over the classes of Fashion-MNIST."""
    data = dataset(data_dir, "fashion-mnist")
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
    first, near = taut.anomaly.neighbours(points, blur=blur, share=1.0).scores[0].children()
    assert isinstance(near, Neighbours)
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


def means(part: str, name: str) -> dict[str, float]:
    """Means of a detector over the classes, in percent."""
    rows = [row[name] for row in read(RECORDS / "one-class.json")[part]]
    found = {"clean": 100 * fmean(row["clean"] for row in rows)}
    for kind in ("certified", "attacked"):
        for eps in EPS if kind in rows[0] else ():
            found[f"{kind} at {eps}"] = 100 * fmean(row[kind][eps] for row in rows)
    if "part" in rows[0]:
        found["of the same"] = 100 * fmean(row["part"]["certified"][EPS[1]] for row in rows)
    if "CPU seconds" in rows[0]:
        found["CPU seconds"] = fmean(row["CPU seconds"] for row in rows)
    return found


def means_table(part: str) -> str:
    certified = [f"certified at {eps}" for eps in EPS]
    columns = ("clean", *certified, f"attacked at {EPS[1]}", "CPU seconds")
    lines: list[tuple[str, ...]] = []
    if part in read(RECORDS / "one-class.json"):
        for name, words in ROWS.items():
            found = means(part, name)
            cells = {key: number(found.get(key), form=".1f") for key in columns}
            if "of the same" in found:
                cells[columns[-2]] += f" (certified {found['of the same']:.1f})"
            lines.append((words, *cells.values()))
    if part == "mnist":
        lines += [(name, *numbers, "-", "-") for name, numbers in PUBLISHED.items()]
    return markdown(("detector", *columns), lines)


def classes_table(part: str) -> str:
    names = ("both", "network", "distances")
    lines = [
        (row["class"], *(" / ".join(map(percent, shares(row[name]))) for name in names))
        for row in read(RECORDS / "one-class.json").get(part, [])
    ]
    return markdown(("normal class", *(ROWS[name] for name in names)), lines)


def shares(row: Row) -> tuple[float, ...]:
    """Clean AUROC, and the certified ones."""
    return row["clean"], *row["certified"].values()


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def choice_table() -> str:
    rows = read(RECORDS / "one-class.json").get("choice", [])
    best = sorted(rows, key=lambda row: -fmean(row[key] for key in ("clean", *EPS)))[:5]
    shown = [row | {key: f"{100 * row[key]:.2f}" for key in ("clean", *EPS)} for row in best]
    return table(shown, {key: f"{{{key}}}" for key in ("blur", "share", "count", "clean", *EPS)})


TABLES: dict[str, Callable[[], str]] = {
    "one-class-mnist": partial(means_table, "mnist"),
    "one-class-digits": partial(classes_table, "mnist"),
    "one-class-fashion-mnist": partial(means_table, "fashion-mnist"),
    "one-class-choice": choice_table,
}


def one_class() -> "Figure":
    """The mean AUROC of each detector over the radius."""
    measured_parts = [part for part in PARTS if part in read(RECORDS / "one-class.json")]
    figure, sides = panels(1, len(measured_parts), (5 * len(measured_parts), 3.8), sharey=True)
    for axes, part in zip(sides, measured_parts, strict=True):
        for index, (name, words) in enumerate(ROWS.items()):
            found, is_plain = means(part, name), name == "plain network"
            kind = "attacked" if is_plain else "certified"
            values = [found["clean"], *(found[f"{kind} at {eps}"] for eps in EPS)]
            colour, style = (GREY, "--") if is_plain else (COLOURS[index], "-")
            axes.plot(_RADII, values, style, marker="o", color=colour, label=f"{words}, {kind}")
        axes.set(xlabel="l2 radius, in 255ths", ylim=(70, 100))
        grid(axes, PARTS[part])
    name, numbers = next(iter(PUBLISHED.items()))
    values = list(map(float, numbers))
    sides[0].plot(_RADII, values, ":", marker="s", color=INK, label=f"{name}, published")
    sides[0].set_ylabel("mean AUROC, %")
    sides[0].legend(frameon=False, fontsize=7)
    return figure


EXPERIMENT = Experiment(
    "one_class",
    __doc__,
    work,
    (
        option("part", choices=(*PARTS, "choose")),
        option("--classes", 10, "to measure at most in this run"),
        DATA_DIR,
    ),
    threads=1,
)

if __name__ == "__main__":
    EXPERIMENT.main()
