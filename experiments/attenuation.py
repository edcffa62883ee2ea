"""Measure what each method leaves of the gradient in deep nets, fresh and after some training.

Example: python -m experiments.attenuation --record records/attenuation.json
         python -m experiments.attenuation --draw   # the figures again, from the record

Every net is a stack of 3x3 layers of equal channels with MaxMin, and an orthogonal dense layer;
"plain" is torch.nn as it comes. Images are those of the embedded set, folded without loss of
length.
"""

import argparse
import itertools
import math
from collections.abc import Iterable
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import taut
from experiments._record import FIGURES, RECORDS, Record, read
from experiments._runner import SEEDS, Experiment, option, tracked
from experiments._show import markdown, save
from experiments._training import steps_of
from taut.diagnostics import GradientProfile, five_numbers, inspect
from taut.parametrizations import projected
from taut.plot import profiles as plot_profiles

SIZE, PLAIN = 16, "plain"
_SETTINGS = ("depths", "channels", "steps", "batch_size", "images", "lr", "seeds")


def work(args: argparse.Namespace, record: Record) -> None:
    if args.draw:
        draw()
        return
    record.begin(settings={name: vars(args)[name] for name in _SETTINGS})
    names = [*taut.models.layers(), PLAIN]
    for seed, depth, method in tracked(
        [(seed, depth, name) for seed in args.seeds for depth in args.depths for name in names]
    ):
        for row in measured(method, depth, seed, args):
            record.add("rows", row)


def measured(method: str, depth: int, seed: int, args: argparse.Namespace) -> list[dict]:
    """A net as it is drawn, and the same net after training."""
    torch.manual_seed(seed)
    net = build(method, depth, args.channels)
    data = taut.data.load("fashion-mnist-subset")
    test = data.test.take(args.images)
    images = folded(test.float_images(), args.channels)
    of = {"method": method, "depth": depth, "seed": seed}
    fresh = {**of, "steps": 0, **inspected(net, images)}
    loss = train(net, data, seed, args)
    after = projected(net).eval()
    with torch.no_grad(), taut.cached():
        right = after(images).argmax(1) == test.labels
    results = {"loss": loss, "accuracy": float(100 * right.double().mean())}
    return [fresh, {**of, "steps": args.steps, **inspected(after, images), **results}]


def build(method: str, depth: int, channels: int) -> nn.Sequential:
    def layer() -> nn.Module:
        if method == PLAIN:
            return nn.Conv2d(channels, channels, 3, padding=1, padding_mode="circular")
        return taut.models.layers()[method](channels, channels, 3, 1)

    layers = [part for _ in range(depth) for part in (layer(), taut.nn.MaxMin())]
    features = channels * SIZE**2
    if method == PLAIN:
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, 10))
    return nn.Sequential(*layers, nn.Flatten(), taut.nn.Linear(features, 10))


def folded(images: Tensor, channels: int) -> Tensor:
    """28x28 images with a black border, 2x2 pixels as channels, black channels: the same length."""
    side = 2 * SIZE - images.shape[-1]
    images = F.pixel_unshuffle(F.pad(images, [side // 2] * 4), 2)
    return F.pad(images, (0, 0, 0, 0, 0, channels - images.shape[1]))


def train(net: nn.Module, data: taut.data.Dataset, seed: int, args: argparse.Namespace) -> float:
    """Some steps of Adam; the mean loss of the last quarter."""
    loss = taut.losses.OffsetCrossEntropy(offset=0.7, temperature=0.25)
    optimiser = torch.optim.Adam(net.parameters(), lr=args.lr)
    net.train()
    losses: list[float] = []
    for images, labels in steps_of(data.train, args.batch_size, args.steps, seed=seed):
        optimiser.zero_grad()
        value = loss(net(folded(images, args.channels)), labels)
        value.backward()
        optimiser.step()
        losses.append(float(value.detach()))
        taut.update_(net, len(losses))
    return fmean(losses[-max(1, args.steps // 4) :])


def inspected(net: nn.Module, images: Tensor) -> dict:
    """Gradient norms at the layers with weights, image first; spectrum of the Jacobian; bound."""
    inspection = inspect(net, images[:32])
    weighted = [x for x in inspection.layers if x.type not in ("MaxMin", "Flatten")]
    assert inspection.jacobian is not None
    return {
        "gradient": [x.random for x in weighted],
        "margin": [x.margin for x in weighted],
        "ratio": weighted[0].random / weighted[-1].random,
        "margin_ratio": weighted[0].margin / weighted[-1].margin,
        "jacobian": five_numbers(inspection.jacobian),
        "bound": float(taut.lipschitz_bound(net.eval(), tuple(images.shape[1:]))),
    }


class NetKey(NamedTuple):
    """What a net is, but for its seed."""

    method: str
    depth: int
    steps: int


def nets() -> dict[NetKey, list[dict]]:
    """The rows of each net of the record, one a seed."""
    rows: dict[NetKey, list[dict]] = {}
    for row in read(RECORDS / "attenuation.json")["rows"]:
        key = NetKey(*(row[name] for name in NetKey._fields))
        rows.setdefault(key, []).append(row)
    return rows


def draw() -> None:
    for steps in sorted({net.steps for net in nets()}):
        columns: dict[str, dict[str, GradientProfile]] = {}
        for net, seeds in nets().items():
            if net.steps == steps:
                gradient = map(typical, zip(*map(main_path, seeds), strict=True))
                named = columns.setdefault(f"{net.depth} convolutions", {})
                named[net.method] = GradientProfile([*gradient, 1.0], jacobian(seeds))
        name = f"attenuation-{steps}-steps.png" if steps else "attenuation.png"
        save(plot_profiles(with_common_curves(columns)), FIGURES / name)


def main_path(row: dict) -> list[float]:
    """The gradient norms where the whole signal passes; residual layers have one inside, too."""
    gradient, depth = row["gradient"], row["depth"]
    return [*gradient[: -1 : (len(gradient) - 1) // depth], gradient[-1]]


def with_common_curves(
    columns: dict[str, dict[str, GradientProfile]],
) -> dict[str, dict[str, GradientProfile]]:
    """Methods whose curves agree to a few percent in every column, as the first and a number."""
    alike: dict[tuple, list[str]] = {}
    for method in next(iter(columns.values())):
        profiles = [named[method].gradient for named in columns.values()]
        curve = [round(10 * math.log10(max(x, 1e-20))) for line in profiles for x in line]
        alike.setdefault(tuple(curve), []).append(method)
    named = {methods[0]: methods for methods in alike.values()}
    texts = {
        first: first + (f" and {len(methods) - 1} more" if methods[1:] else "")
        for first, methods in named.items()
    }
    return {
        title: {texts[first]: profiles[first] for first in named}
        for title, profiles in columns.items()
    }


def typical(values: Iterable[float]) -> float:
    """Geometric mean: seeds differ by factors."""
    values = list(values)
    return math.exp(fmean(map(math.log, values))) if min(values) > 0 else 0.0


def jacobian(seeds: list[dict]) -> list[float]:
    """Ends over all seeds; quartiles and median of a typical one."""
    least, low, middle, high, most = zip(*(row["jacobian"] for row in seeds), strict=True)
    return [min(least), typical(low), typical(middle), typical(high), max(most)]


def attenuation_table() -> str:
    """Ratio of the gradient norms at the first and the last layer, fresh and after training."""
    every = nets()
    depths = sorted({net.depth for net in every})
    columns = list(itertools.product(sorted({net.steps for net in every}), depths))
    when = (f"after {steps} steps" if steps else "fresh" for steps, _ in columns)
    heads = [f"{depth} layers, {text}" for (_, depth), text in zip(columns, when, strict=True)]
    rows = []
    for method in dict.fromkeys(net.method for net in every):
        chosen = [every[NetKey(method, depth, steps)] for steps, depth in columns]
        ratios = [typical(row["ratio"] for row in seeds) for seeds in chosen]
        rows.append((method, *map(shown, ratios)))
    ours = [row["ratio"] for net, seeds in every.items() if net.method == "BCOP" for row in seeds]
    return markdown(("method", *heads), rows) + (
        f"\nGeometric means; seeds: {max(map(len, every.values()))}. The ratio of BCOP is within "
        f"{max(abs(ratio - 1) for ratio in ours):.1e} of 1 at every depth and seed, fresh and "
        "trained.\n"
    )


def jacobian_table() -> str:
    """The deepest nets: Jacobian, proved bound, and what training came to."""
    deepest = max(net.depth for net in nets())
    header = ("method", "steps", "smallest", "median", "largest", "proved bound", "accuracy in %")
    rows = []
    for net, seeds in nets().items():
        if net.depth == deepest:
            least, _, middle, _, most = map(shown, jacobian(seeds))
            bound = shown(max(row["bound"] for row in seeds))
            right = [row["accuracy"] for row in seeds if "accuracy" in row]
            accuracy = f"{fmean(right):.1f}" if right else ""
            rows.append((net.method, str(net.steps), least, middle, most, bound, accuracy))
    return markdown(header, rows)


def shown(value: float) -> str:
    return f"{value:.4f}" if 1e-3 <= value < 1e4 else f"{value:.1e}"


EXPERIMENT = Experiment(
    "attenuation",
    __doc__,
    work,
    (
        option("--depths", (3, 10, 30), "numbers of convolutions"),
        option("--channels", 16, "of every convolution"),
        option("--steps", 100, "of training"),
        option("--batch-size", 16, "images a step"),
        option("--images", 256, "test images for the accuracy"),
        option("--lr", 2e-3, "of Adam"),
        SEEDS,
        option("--draw", False, "only draw the figures of the record"),
    ),
)

if __name__ == "__main__":
    EXPERIMENT.main()
