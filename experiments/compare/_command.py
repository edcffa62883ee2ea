"""Train every method in one macro-architecture for the same time, and certify the nets.

Example: python -m experiments.compare --data-dir DIR --threads 2 --record records/compare-xs.json
         python -m experiments.compare --draw records/compare-xs.json

The net is that of "1-Lipschitz Layers Compared" (Prach et al., CVPR 2024): only the layers differ
from method to method. All have the same budget: on a CPU the CPU time of the process over its
threads, so that other work on the machine takes little from a method; on a GPU wall time. A quarter
of it is for the learning rate: each of four rates trains for a sixteenth, on 95 % of the training
images. The one with the largest certified accuracy at 36/255 on the other images trains a fresh net
on all images for the rest of the budget. The number of steps follows from the time of a step.
Certification is not charged.

What is finished is not repeated. After Ctrl-C the same command continues, also within a method. The
folder holds the record, a page with figure and tables, and a folder for each method.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

import taut
from experiments._record import RUNS, Record, read
from experiments._runner import DATA_DIR, DEVICE, QUICK, Experiment, option
from experiments._training import say
from experiments.compare._budget import HELD_OUT, RATES, TRIAL, Comparison, row_of
from experiments.compare._clock import Clock
from experiments.compare._net import WIDTHS
from experiments.compare._page import draw, figure_of, write_page
from experiments.compare._training import LOSS, LOSSES
from taut._arguments import positive
from taut.data import Dataset, Split
from taut.files import write_atomically
from taut.kinds import did_you_mean
from taut.models import layers
from taut.training import choose_device


def work(args: argparse.Namespace, record: Record) -> None:
    for path in args.draw:
        write_atomically(figure_of(path), draw(_finished(path)))
        say(f"wrote {figure_of(path)}")
    if args.draw:
        return
    comparison = comparison_of(args)
    out = comparison.out
    kept = Record(out / "record.json", record.command)
    if out.is_dir() and any(out.iterdir()) and not (out / "record.json").is_file():
        raise ValueError(f"`out` must be new, empty or hold a record.json; {out} is none of these.")
    kept.resume(_settings(comparison))
    kept.keep()  # before the first method, which other settings could otherwise continue
    known = {row["name"] for row in kept.content.get("rows", ())}
    left = [name for name in _chosen(args.methods) if name not in known]
    say(f"{len(left)} methods of {comparison.seconds / 60:g} minutes each, in {out}")
    for place, name in enumerate(left, 1):
        say(f"{name}: method {place} of {len(left)}")
        kept.add("rows", row_of(name, comparison))
        record.keep(**kept.content)
        write_page(out, kept.content)
    record.keep(**kept.content)
    say(f"See {write_page(out, kept.content)}")


def _finished(path: Path) -> dict[str, Any]:
    content = read(path)
    if "rows" not in content:
        raise ValueError(f"`draw` must be records of this experiment; got {path}.")
    return content


def _chosen(methods: list[str]) -> list[str]:
    known = layers()
    for name in methods:
        if name not in known:
            hint = did_you_mean(name, known)
            raise ValueError(f"`methods` must be among {'; '.join(known)}; got {name}.{hint}")
    return [name for name in known if not methods or name in methods]


def comparison_of(args: argparse.Namespace) -> Comparison:
    """The comparison that the options describe, with its data."""
    positive("minutes", args.minutes)
    clock = Clock(choose_device(args.device), torch.get_num_threads())
    size, seconds, batch = args.size, 60 * args.minutes, 256
    name = f"compare-{size}-{args.minutes:g}-{clock.device.type}-s{args.seed}"
    if args.quick:
        size, seconds, batch, name = "XXS", min(seconds, 6.0), 8, "compare-quick"
    data = noise_data(args.seed) if args.quick else taut.data.load(args.dataset, args.data_dir)
    out = args.out or RUNS / name
    return Comparison(data.to(clock.device), size, seconds, batch, args.seed, clock, out)


def noise_data(seed: int) -> Dataset:
    """Images of ten classes: noise around the colour of the class."""
    random = taut.data.generator("compare", seed)
    colours, labels = torch.rand(10, 3, 1, 1, generator=random), torch.arange(100) % 10
    images = (colours[labels] + 0.2 * torch.rand(100, 3, 32, 32, generator=random)) / 1.2
    train, test = (
        Split((255 * images[part]).byte(), labels[part]) for part in (slice(80), slice(80, 100))
    )
    return Dataset("made", "made images", tuple("0123456789"), train=train, test=test)


def _settings(comparison: Comparison) -> dict[str, Any]:
    """As the record holds them; a run can only be continued with the same ones."""
    return {
        "data": comparison.data.label,
        "size": comparison.size,
        "minutes": comparison.seconds / 60,
        "budget": "wall time" if comparison.clock.on_gpu else "CPU time over the threads",
        "device": comparison.clock.device.type,
        "seed": comparison.seed,
        "batch": comparison.batch,
        "loss": f"offset cross-entropy, offset {LOSS.offset:.4f}, temperature {LOSS.temperature:g}"
        + "".join(f"; {method}: {loss}" for method, loss in LOSSES.items()),
        "optimiser": "Adam, one cycle",
        "augmentation": "crop with 4 pixels of padding, flip",
        "rates": list(RATES),
        "share of a rate": TRIAL,
        "held out": HELD_OUT,
    }


EXPERIMENT = Experiment(
    "compare",
    __doc__,
    work,
    (
        option("--methods", (), "those to train; left out: all", metavar="LAYER"),
        option("--size", "XS", "of the net", choices=tuple(WIDTHS)),
        option("--minutes", 20.0, "of the budget of a method"),
        option("--seed", 0, "of initialisation, order and held-out images"),
        option("--dataset", "cifar10-jpeg75", "as of taut.data.load"),
        DATA_DIR,
        DEVICE,
        option("--out", help="the folder for all; left out: one in runs/", type=Path),
        option("--draw", (), "only draw the figures of these records", type=Path),
        QUICK,
    ),
)
