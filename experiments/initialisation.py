"""Compare how BCOP may be initialised, by what a deep net learns in the same number of steps.

Example: python -m experiments.initialisation --data-dir ~/data --record records/initialisation.json

The net has `--depth` 3x3 convolutions, two of them with stride 2, with MaxMin, and a dense layer.
Seeds, images and their order are the same for both initialisations.
"""

import argparse
from functools import partial
from statistics import fmean

import torch
from torch import nn

import taut
from experiments._record import RECORDS, Record, read
from experiments._runner import DATA_DIR, SEEDS, Experiment, option, tracked
from experiments._show import markdown
from experiments._training import steps_of

INITIALISATIONS = ("uniform", "identity")
_SETTINGS = ("depth", "channels", "steps", "batch_size", "images", "lr", "seeds", "eps")


def work(args: argparse.Namespace, record: Record) -> None:
    record.begin(settings={name: vars(args)[name] for name in _SETTINGS})
    data = taut.data.load("cifar10-jpeg75", args.data_dir)
    runs = [(seed, init) for seed in args.seeds for init in INITIALISATIONS]
    for seed, init in tracked(runs):
        record.add("rows", {"init": init, "seed": seed, **measured(init, data, seed, args)})


def measured(init: str, data: taut.data.Dataset, seed: int, args: argparse.Namespace) -> dict:
    """Loss, clean and certified accuracy in percent after training."""
    torch.manual_seed(seed)
    net = build(args.depth, args.channels, init)
    loss = taut.losses.OffsetCrossEntropy(offset=0.7, temperature=0.25)
    optimiser = torch.optim.Adam(net.parameters(), lr=args.lr)
    losses: list[float] = []
    for images, labels in steps_of(data.train, args.batch_size, args.steps, seed=seed):
        optimiser.zero_grad()
        value = loss(net(images), labels)
        value.backward()
        optimiser.step()
        taut.after_step(net, len(losses) + 1)
        losses.append(float(value.detach()))
    test = data.test.take(args.images)
    certification = taut.certify(net.eval(), test.float_images(), test.labels, (args.eps,))
    return {
        "loss": fmean(losses[-max(1, args.steps // 10) :]),
        "clean": 100 * certification.clean_accuracy,
        "certified": 100 * certification.certified_accuracy[args.eps],
    }


def build(depth: int, channels: int, init: str) -> nn.Sequential:
    method, inputs, size, layers = partial(taut.BCOP, init=init), 3, 32, []
    for i in range(depth):
        stride = 2 if i in (depth // 3, 2 * depth // 3) else 1
        layers += [taut.nn.Conv2d(inputs, channels, 3, stride, parametrization=method)]
        layers += [taut.nn.MaxMin()]
        inputs, size = channels, size // stride
    return nn.Sequential(*layers, nn.Flatten(), taut.nn.Linear(channels * size**2, 10))


def initialisation_table() -> str:
    """Means over the seeds, and the largest distance from them."""
    record = read(RECORDS / "initialisation.json")
    rows = []
    for init in INITIALISATIONS:
        seeds = [row for row in record["rows"] if row["init"] == init]
        cells = []
        for name in ("loss", "clean", "certified"):
            values = [row[name] for row in seeds]
            spread = max(abs(value - fmean(values)) for value in values)
            cells.append(f"{fmean(values):.2f} ± {spread:.2f}")
        rows.append((init, *cells))
    header = ("init", "loss", "clean in %", f"certified at {record['settings']['eps']} in %")
    return markdown(header, rows)


EXPERIMENT = Experiment(
    "initialisation",
    __doc__,
    work,
    (
        option("--depth", 8, "number of convolutions"),
        option("--channels", 32, "of every convolution"),
        option("--steps", 600, "of training"),
        option("--batch-size", 64, "images a step"),
        option("--images", 2000, "test images"),
        option("--lr", 2e-3, "of Adam"),
        option("--eps", "36/255", "radius of the certified accuracy"),
        DATA_DIR,
        SEEDS,
    ),
)

if __name__ == "__main__":
    EXPERIMENT.main()
