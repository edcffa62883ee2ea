"""What convolutions of every kind cost beside the fastest plain ones: groups, strides, axes.

Example: python -m experiments.kinds --threads 2 --channels 256 --record records/speed-kinds.json

A plain layer pads with zeros, a layer of taut circularly; each takes its faster memory format. All
take turns in one run: a time is the median over rounds, a ratio the median of those within a round.
A record keeps what is finished, and the next command adds to it. Let the machine be idle.
"""

import argparse
import itertools
from statistics import median

import torch

import taut
from experiments._record import RECORDS, Record, read
from experiments._runner import QUICK, Experiment, option, tracked
from experiments._show import markdown
from experiments.speed._kinds import KINDS, LayerKind, evaluation, fastest, in_formats, training
from experiments.speed._timing import median_ratio

RECORD = RECORDS / "speed-kinds.json"


def work(args: argparse.Namespace, record: Record) -> None:
    torch.manual_seed(0)
    channels, batch = ((8,), 2) if args.quick else (args.channels, args.batch)
    chosen = [kind for kind in KINDS if not args.kinds or kind.name in args.kinds]
    record.resume({"batch": batch, "repeats": args.repeats})
    known = {(row["kind"], row["channels"]) for row in record.content.get("rows", ())}
    layers = list(itertools.product(channels, chosen))
    for c, kind in tracked([x for x in layers if (x[1].name, x[0]) not in known], "layers"):
        record.add("rows", measured(kind, c, batch, args.repeats, args.seconds))


def measured(kind: LayerKind, channels: int, batch: int, repeats: int, seconds: float) -> dict:
    """A training step and an evaluation of the frozen layer, both beside the plain layer."""
    x, plain, ours = kind.images(channels, batch), kind.plain(channels), kind.ours(channels)
    runs = in_formats("plain", plain, x, training) | in_formats("taut", ours, x, training)
    steps = fastest(runs, repeats, seconds)
    frozen = taut.freeze(ours)
    with torch.no_grad():
        runs = in_formats("plain", plain, x, evaluation)
        runs |= in_formats("frozen", frozen, x, evaluation)
        forwards = fastest(runs, repeats, seconds / 3)
    return {
        "kind": kind.name,
        "channels": channels,
        "plain_train": median(steps["plain"]),
        "taut_train": median(steps["taut"]),
        "train_ratio": median_ratio(steps["taut"], steps["plain"]),
        "plain_eval": median(forwards["plain"]),
        "frozen_eval": median(forwards["frozen"]),
        "frozen_ratio": median_ratio(forwards["frozen"], forwards["plain"]),
        "rounds": min(map(len, (*steps.values(), *forwards.values()))),
    }


def kinds_table() -> str:
    """Training and frozen evaluation over plain, a line for each kind and number of channels."""
    header = (
        *("layer", "channels", "plain step, ms", "taut step, ms", "step over plain"),
        *("plain evaluation, ms", "frozen, ms", "frozen over plain"),
    )
    rows = []
    for row in read(RECORD).get("rows", ()):
        times = [f"{1e3 * row[name]:.1f}" for name in ("plain_train", "taut_train")]
        evaluations = [f"{1e3 * row[name]:.1f}" for name in ("plain_eval", "frozen_eval")]
        first = row["kind"], str(row["channels"])
        ratios = [f"{row[name]:.2f}" for name in ("train_ratio", "frozen_ratio")]
        rows.append((*first, *times, ratios[0], *evaluations, ratios[1]))
    return markdown(header, rows)


EXPERIMENT = Experiment(
    "kinds",
    __doc__,
    work,
    (
        option(
            "--kinds",
            (),
            "layers to measure; left out: all",
            choices=[kind.name for kind in KINDS],
            metavar="KIND",
        ),
        option("--channels", (64, 128, 256), "in and out"),
        option("--batch", 64, "images in a batch"),
        option("--repeats", 15, "rounds of turns"),
        option("--seconds", 6.0, "no new round of a layer's steps after that, but three in any"),
        QUICK,
    ),
)

if __name__ == "__main__":
    EXPERIMENT.main()
