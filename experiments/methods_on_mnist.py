"""The founding paper's Large with the layers of each method, trained alike on MNIST.

Example: python -m experiments.methods_on_mnist --data-dir ~/mnist --record records/on-mnist.json

Loss, optimiser and schedule are those of the recipe mnist-large-certified, and dense layers are
orthogonal, for all methods the same: no method is tuned. Layers that keep the number of channels
stand behind an orthogonal convolution where Large changes it. A record keeps what is finished, and
the next command adds to it.
"""

import argparse
import math
import time
from statistics import fmean
from typing import Any

import torch
from torch import nn

import taut
from experiments._record import RECORDS, Record, read
from experiments._runner import DATA_DIR, QUICK, Experiment, option, sentence, tracked
from experiments._show import markdown
from experiments._training import shares
from taut.parametrizations import projected, update_
from taut.recipes import RECIPES

_RECIPE = RECIPES["mnist-large-certified"]
RECORD = RECORDS / "on-mnist.json"
_SETTINGS = ("epochs", "batch_size", "lr", "seed", "eps")


def work(args: argparse.Namespace, record: Record) -> None:
    record.resume({name: vars(args)[name] for name in _SETTINGS})
    data = taut.data.load("mnist", args.data_dir)
    known = {row["name"] for row in record.content.get("rows", ())}
    chosen = [name for name in taut.models.layers() if not args.methods or name in args.methods]
    for name in tracked([name for name in chosen if name not in known], "nets"):
        try:
            row = measured(name, data, args)
        except ValueError as error:
            row = {"note": sentence(error)}
        record.add("rows", {"name": name, **row})


def large(name: str, input_shape: tuple[int, ...], classes: int) -> nn.Sequential:
    """Large, with the layers of a method."""
    channels, *size = input_shape
    make, layers = taut.models.layers()[name], []
    for outputs, kernel, stride in taut.models.Large.convolutions:
        layers += [make(channels, outputs, kernel, stride), taut.nn.MaxMin()]
        channels, size = outputs, [math.ceil(n / stride) for n in size]
    features = channels * math.prod(size)
    layers.append(nn.Flatten())
    for width in taut.models.Large.hidden:
        layers += [taut.nn.Linear(features, width), taut.nn.MaxMin()]
        features = width
    return nn.Sequential(*layers, taut.nn.Linear(features, classes))


def measured(name: str, data: taut.data.Dataset, args: argparse.Namespace) -> dict[str, Any]:
    """Clean and certified accuracy in percent, the bound, the last losses, CPU seconds a step."""
    torch.manual_seed(args.seed)
    net = large(name, data.input_shape, len(data.classes))
    losses, seconds = train(net, data, args)
    net, test = projected(net).eval(), data.test.take(50 if args.quick else len(data.test))
    certification = taut.certify(net, test.float_images(), test.labels, (args.eps,))
    return {
        **shares(certification),
        "bound": float(certification.bound),
        "loss": fmean(losses[-max(1, len(losses) // 20) :]),
        "CPU seconds a step": seconds / len(losses),
    }


def train(
    net: nn.Module, data: taut.data.Dataset, args: argparse.Namespace
) -> tuple[list[float], float]:
    """All losses, and the CPU time that the steps took in seconds."""
    optimiser = torch.optim.Adam(net.parameters(), lr=args.lr)
    steps = 3 if args.quick else args.epochs * math.ceil(len(data.train) / args.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, args.lr, total_steps=steps)
    losses, start = [], time.process_time()
    for epoch in range(args.epochs):
        for images, labels in taut.data.batches(
            data.train, args.batch_size, seed=args.seed, epoch=epoch
        ):
            if len(losses) == steps:
                break
            optimiser.zero_grad()
            loss = _RECIPE.loss(net(images), labels)
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(float(loss.detach()))
            update_(net, len(losses))
    return losses, time.process_time() - start


def mnist_table() -> str:
    """One line for each method, the most certified first; and why others have none."""
    record = read(RECORD)
    eps, rows = record["settings"]["eps"], record["rows"]
    trained = [row for row in rows if "clean" in row]
    trained.sort(key=lambda row: -row["certified"][eps])
    header = ("layers", "clean in %", f"certified at {eps} in %", "bound", "CPU seconds a step")
    cells = [
        (
            row["name"],
            f"{row['clean']:.2f}",
            f"{row['certified'][eps]:.2f}",
            f"{row['bound']:.4f}",
            f"{row['CPU seconds a step']:.2f}",
        )
        for row in trained
    ]
    notes = [f"- {row['name']}: {row['note']}\n" for row in rows if "note" in row]
    known = {row["name"] for row in rows}
    missing = [name for name in taut.models.layers() if name not in known]
    notes += [f"- not measured yet: {'; '.join(missing)}\n"] if missing else []
    return markdown(header, cells) + "".join(("\n", *notes) if notes else ())


TABLES = {"every-method-mnist": mnist_table}

EXPERIMENT = Experiment(
    "methods_on_mnist",
    __doc__,
    work,
    (
        option("--methods", (), "to train; left out: all", metavar="LAYER"),
        option("--epochs", 3, "of training"),
        option("--batch-size", 128, "images a step"),
        option("--lr", _RECIPE.lr, "of Adam, at its peak"),
        option("--seed", 0, "of initialisation and order"),
        option("--eps", "1.58", "radius of the certified accuracy"),
        DATA_DIR,
        QUICK,
    ),
)

if __name__ == "__main__":
    EXPERIMENT.main()
