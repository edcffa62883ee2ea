"""Measure what each method leaves of the gradient in deep nets, fresh and after some training.

    python -m benchmarks.attenuation --out records/attenuation.json
    python -m benchmarks.attenuation --draw   # the figures again, from the record

Every net is a stack of 3x3 convolutions of equal channels with MaxMin, and a dense layer; "plain"
is torch.nn as it comes. Images are those of the embedded set, folded without loss of length.
"""

import argparse
import itertools
import json
import math
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import taut
from benchmarks.environment import ROOT, environment
from taut.files import write_atomically
from taut.parametrizations import Orthogonal, methods, projected
from taut.report import Profile, five_numbers, inspect_model, save_attenuation

RECORD = ROOT / "records" / "attenuation.json"
FIGURES = ROOT / "docs" / "figures"
SIZE, PLAIN = 16, "plain"


def main() -> None:
    args = _arguments()
    if args.draw:
        draw(json.loads(RECORD.read_text())["rows"])
        return
    torch.set_num_threads(args.threads)
    settings = {name: getattr(args, name) for name in _SETTINGS}
    rows = []
    measured_with = environment()
    for seed, depth, method in itertools.product(args.seeds, args.depths, names()):
        start = time.monotonic()
        rows += measured(method, depth, seed, args)
        seconds = time.monotonic() - start
        print(f"{seed} {depth:3} {method:10} {seconds:6.1f} s", *_brief(rows[-2:]), flush=True)
        if args.out is not None:
            record = {"environment": measured_with, "settings": settings, "rows": rows}
            write_atomically(args.out, (json.dumps(record, indent=1) + "\n").encode())


def names() -> list[str]:
    """The methods that make kernels, and torch.nn."""
    return [*(name for name, cls in methods().items() if not cls.matrices_only), PLAIN]


def measured(method: str, depth: int, seed: int, args: argparse.Namespace) -> list[dict]:
    """A net as it is drawn, and the same net after training."""
    torch.manual_seed(seed)
    net = build(method, depth, args.channels)
    data = taut.data.load("fashion-mnist-subset")
    test = data.test
    images, labels = folded(test.float_images()[: args.images], args.channels), test.labels
    of = {"method": method, "depth": depth, "seed": seed}
    rows = [{**of, "steps": 0, **inspected(net, images)}]
    loss = train(net, data, seed, args)
    after = projected(net).eval()
    row = {**of, "steps": args.steps, **inspected(after, images)}
    with torch.no_grad(), taut.cached():
        right = after(images).argmax(1) == labels[: args.images]
    return [*rows, {**row, "loss": loss, "accuracy": float(100 * right.double().mean())}]


def build(method: str, depth: int, channels: int) -> nn.Sequential:
    features = channels * SIZE**2
    if method == PLAIN:
        layers = [
            layer
            for _ in range(depth)
            for layer in (
                nn.Conv2d(channels, channels, 3, padding=1, padding_mode="circular"),
                taut.nn.MaxMin(),
            )
        ]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, 10))
    kernels = methods()[method]
    # On a matrix the orthogonal ones are an orthonormalisation.
    dense = Orthogonal if kernels.guarantee == "orthogonal" else kernels
    layers = [
        layer
        for _ in range(depth)
        for layer in (
            taut.nn.Conv2d(channels, channels, 3, parametrization=kernels),
            taut.nn.MaxMin(),
        )
    ]
    head = taut.nn.Linear(features, 10, parametrization=dense)
    return nn.Sequential(*layers, nn.Flatten(), head)


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
    epoch = 0
    while len(losses) < args.steps:
        for images, labels in taut.data.batches(
            data.train, args.batch_size, seed=seed, epoch=epoch
        ):
            optimiser.zero_grad()
            value = loss(net(folded(images, args.channels)), labels)
            value.backward()
            optimiser.step()
            losses.append(float(value.detach()))
            taut.update_(net, len(losses))
            if len(losses) == args.steps:
                break
        epoch += 1
    last = losses[-max(1, args.steps // 4) :]
    return sum(last) / len(last)


def inspected(net: nn.Module, images: Tensor) -> dict:
    """Gradient norms at the layers with weights, image first; spectrum of the Jacobian; bound."""
    found = inspect_model(net, images[:32])
    weighted = [x.gradient for x in found.layers if x.type in ("Conv2d", "Linear")]
    assert found.jacobian is not None
    return {
        "gradient": [x.random for x in weighted],
        "margin": [x.margin for x in weighted],
        "ratio": weighted[0].random / weighted[-1].random,
        "margin_ratio": weighted[0].margin / weighted[-1].margin,
        "jacobian": five_numbers(found.jacobian),
        "bound": float(taut.lipschitz_bound(net.eval(), tuple(images.shape[1:]))),
    }


def draw(rows: list[dict]) -> None:
    for steps in sorted({row["steps"] for row in rows}):
        columns: dict[str, dict[str, Profile]] = {}
        for net, seeds in nets(rows).items():
            if net.steps == steps:
                gradient = map(typical, zip(*(row["gradient"] for row in seeds), strict=True))
                named = columns.setdefault(f"{net.depth} convolutions", {})
                named[net.method] = Profile([*gradient, 1.0], jacobian(seeds))
        name = f"attenuation-{steps}-steps.png" if steps else "attenuation.png"
        FIGURES.mkdir(exist_ok=True)
        print(save_attenuation(FIGURES / name, columns))


class Net(NamedTuple):
    """What a net is, but for its seed."""

    method: str
    depth: int
    steps: int


def nets(rows: list[dict]) -> dict[Net, list[dict]]:
    """The rows of each net, one a seed."""
    found: dict[Net, list[dict]] = {}
    for row in rows:
        found.setdefault(Net(row["method"], row["depth"], row["steps"]), []).append(row)
    return found


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
    found = nets(json.loads(RECORD.read_text())["rows"])
    depths = sorted({net.depth for net in found})
    steps = sorted({net.steps for net in found})
    when = ["fresh" if not n else f"after {n} steps" for n in steps]
    heads = [f"{depth} layers, {text}" for text in when for depth in depths]
    lines = [f"| method | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for method in dict.fromkeys(net.method for net in found):
        chosen = [found[Net(method, depth, n)] for n in steps for depth in depths]
        cells = [number(typical(row["ratio"] for row in seeds)) for seeds in chosen]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", _farthest(found)]) + "\n"


def _farthest(found: dict[Net, list[dict]]) -> str:
    """How far the ratios of BCOP are from 1 at most."""
    ratios = [row["ratio"] for net, rows in found.items() if net.method == "BCOP" for row in rows]
    worst = max(abs(ratio - 1) for ratio in ratios)
    return (
        f"Geometric means; seeds: {max(map(len, found.values()))}. The ratio of BCOP is within "
        f"{worst:.1e} of 1 at every depth and seed, fresh and trained."
    )


def jacobian_table() -> str:
    """The deepest nets: Jacobian, proved bound, and what training came to."""
    found = nets(json.loads(RECORD.read_text())["rows"])
    deepest = max(net.depth for net in found)
    heads = "method", "steps", "smallest", "median", "largest", "proved bound", "accuracy in %"
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for net, seeds in found.items():
        if net.depth != deepest:
            continue
        least, _, middle, _, most = map(number, jacobian(seeds))
        bound = number(max(row["bound"] for row in seeds))
        right = [row["accuracy"] for row in seeds if "accuracy" in row]
        accuracy = f"{fmean(right):.1f}" if right else ""
        cells = net.method, str(net.steps), least, middle, most, bound, accuracy
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def number(value: float) -> str:
    return f"{value:.4f}" if 1e-3 <= value < 1e4 else f"{value:.1e}"


def _brief(rows: list[dict]) -> list[str]:
    return [f"{row['ratio']:.3g} bound {row['bound']:.3g}" for row in rows]


_SETTINGS = ("depths", "channels", "steps", "batch_size", "images", "lr", "seeds")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attenuation", description=__doc__)
    parser.add_argument("--depths", type=int, nargs="+", default=[3, 10, 30])
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--steps", type=int, default=100, help="of training")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--images", type=int, default=256, help="test images for the accuracy")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="the record; left out: only print")
    parser.add_argument("--draw", action="store_true", help="only draw the figures of the record")
    return parser.parse_args()


if __name__ == "__main__":
    main()
