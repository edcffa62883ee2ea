"""Every method as one 3x3 layer: cost over the fastest plain layer, memory, singular values.

Example: python -m experiments.methods --threads 2 --record records/methods.json

A plain layer pads with zeros; each layer takes its faster memory format, and all take turns in one
run. Memory is the peak of a training step, in a process of its own, over that of the plain layer.
Singular values are those of the Jacobian at a random image (of the operator, where the layer is
linear), of fresh parameters and after steps of Adam that fit random outputs; in float64, of the
weights that the float32 layer has. Layers of other libraries take part where they are installed. A
record keeps what is finished, and the next command adds to it. Let the machine be idle.
"""

import argparse
import copy
import functools
import importlib
import multiprocessing
import warnings
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import taut
from experiments._record import RECORDS, Record, read
from experiments._runner import QUICK, Experiment, option, sentence, tracked
from experiments._show import markdown
from experiments.speed._kinds import fastest, in_formats, training
from experiments.speed._memory import peak_growth
from experiments.speed._timing import median_ratio
from taut.parametrizations import methods, projected, update_

RECORD = RECORDS / "methods.json"
PLAIN = "plain"
_SIDES = {64: 16, 256: 8}  # of the images, by channels
_SPECTRUM = (16, (8, 8))  # channels and images of which the Jacobian is small
# Module and class of other libraries' layers, and what they add to (in, out, kernel).
_PEERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "orthogonium, AOC": ("orthogonium.layers.conv.AOC", "AdaptiveOrthoConv2d", {"padding": 1}),
    "orthogonium, SOC": (  # its kernel grows to 7 x 7, which padding="same" does not heed
        "orthogonium.layers.conv.adaptiveSOC",
        "AdaptiveSOCConv2d",
        {"padding": 3},
    ),
    "orthogonium, AOL": ("orthogonium.layers.conv.AOL", "AOLConv2D", {"padding": 1}),
    "deel-torchlip": ("deel.torchlip", "SpectralConv2d", {"padding": 1}),
}


def work(args: argparse.Namespace, record: Record) -> None:
    sizes = (8,) if args.quick else args.channels
    settings = ("batch", "repeats", "steps")
    record.resume({name: vars(args)[name] for name in settings})
    layers = contenders()
    chosen = [name for name in layers if not args.methods or name in args.methods]
    for channels in sizes:
        known = {row["name"] for row in record.content.get(f"cost {channels}", ())}
        for name in tracked([x for x in chosen if x not in known], f"{channels} channels"):
            record.add(f"cost {channels}", cost(name, channels, args))
    known = {row["name"] for row in record.content.get("spectra", ())}
    for name in tracked([x for x in chosen if x not in known], "singular values"):
        record.add("spectra", spectra(name, 4 if args.quick else args.steps))


def contenders() -> dict[str, Callable[..., nn.Module]]:
    """taut's layers, and other libraries' where they are installed."""
    return taut.models.layers() | {
        name: partial(_peer, name) for name in _PEERS if _installed(name)
    }


def _installed(name: str) -> bool:
    try:
        importlib.import_module(_PEERS[name][0])
    except ImportError:
        return False
    return True


def _peer(name: str, inputs: int, outputs: int, kernel: int, stride: int) -> nn.Module:
    module, cls, options = _PEERS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what peers warn of is theirs
        layer = vars(importlib.import_module(module))[cls]
        return layer(inputs, outputs, kernel, stride, **options)


def made(name: str, channels: int) -> nn.Module:
    """A layer of as many channels out as in; of torch for "plain"."""
    torch.manual_seed(0)
    if name == PLAIN:
        return nn.Conv2d(channels, channels, 3, padding=1)
    return contenders()[name](channels, channels, 3, 1)


def images(channels: int, batch: int) -> Tensor:
    side = _SIDES.get(channels, 8)
    return torch.rand(batch, channels, side, side, generator=torch.Generator().manual_seed(0))


def cost(name: str, channels: int, args: argparse.Namespace) -> dict[str, Any]:
    """A training step and its memory, over those of the plain layer."""
    x, row = images(channels, args.batch), {"name": name}
    try:
        runs = in_formats(PLAIN, made(PLAIN, channels), x, training)
        times = fastest(
            runs | in_formats(name, made(name, channels), x, training), args.repeats, args.seconds
        )
        peaks = [peak(each, channels, args.batch) for each in (name, PLAIN)]
    except Exception as error:  # a foreign layer may raise anything
        return row | {"note": sentence(error)}
    return row | {
        "step": median(times[name]),
        "step over plain": median_ratio(times[name], times[PLAIN]),
        "memory over plain": peaks[0] / peaks[1],
        "rounds": min(map(len, times.values())),
    }


@functools.cache
def peak(name: str, channels: int, batch: int) -> int:
    """Bytes of a training step, in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_peak, (name, channels, batch, torch.get_num_threads()))


def _peak(name: str, channels: int, batch: int, threads: int) -> int:
    torch.set_num_threads(threads)
    layer, x = made(name, channels), images(channels, batch)
    training(nn.Conv2d(4, 4, 3), torch.rand(1, 4, 8, 8))()  # loads code that must not count
    return peak_growth(layer, training(layer, x))


def spectra(name: str, steps: int) -> dict[str, Any]:
    """Smallest and largest singular value, fresh and trained."""
    channels, side = _SPECTRUM
    layer, shape = made(name, channels), (channels, *side)
    row: dict[str, Any] = {"name": name}
    try:
        row |= {"fresh": extremes(layer, shape)}
        fit(layer, shape, steps)
        return row | {"trained": extremes(projected(layer), shape)}
    except Exception as error:  # a foreign layer may raise anything
        return row | {"note": sentence(error)}


def extremes(layer: nn.Module, shape: tuple[int, ...]) -> tuple[float, float]:
    """Of the Jacobian at an image."""
    layer = copy.deepcopy(layer).eval()
    if type(layer).__module__.startswith(("taut.", "torch.")):
        layer = taut.freeze(layer, input_shape=shape)
    layer = layer.double()
    x = torch.randn(1, *shape, dtype=torch.float64)
    if layer(x).shape != x.shape:
        raise ValueError(f"its outputs are of shape {tuple(layer(x).shape[1:])}, not {shape}")
    jacobian = torch.autograd.functional.jacobian(layer, x)
    values = torch.linalg.svdvals(jacobian.reshape(x.numel(), -1))  # pyright: ignore[reportAttributeAccessIssue]
    return float(values[-1]), float(values[0])


def fit(layer: nn.Module, shape: tuple[int, ...], steps: int) -> None:
    """Steps of Adam to random outputs of random images."""
    x, y = torch.randn(2, 16, *shape)
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.01)
    for step in range(steps):
        optimiser.zero_grad()
        (layer(x) - y).square().mean().backward()
        optimiser.step()
        update_(layer, step + 1)


def methods_table() -> str:
    """One line a layer."""
    record = read(RECORD)
    sizes = [key.split()[1] for key in record if key.startswith("cost ")]
    costs = {
        size: {row["name"]: row for row in record[f"cost {size}"] if "step" in row}
        for size in sizes
    }
    header = ["layer", "promise"]
    for size in sizes:
        header += [f"step over plain, {size} channels", f"memory over plain, {size}"]
    header += ["singular values, fresh", "after training"]
    rows, failed = [], []
    for row in record.get("spectra", ()):
        name, cells = row["name"], []
        if "note" in row:
            failed.append(f"- {name} failed: {row['note']}\n")
            continue
        for size in sizes:
            measured = costs[size].get(name, {})
            keys = ("step over plain", "memory over plain")
            cells += [f"{measured[key]:.2f}" if key in measured else "" for key in keys]
        values = [_interval(row[when]) if when in row else "" for when in ("fresh", "trained")]
        rows.append((name, _promise(name), *cells, *values))
    return markdown(tuple(header), rows) + "".join(("\n", *failed) if failed else ())


def _promise(name: str) -> str:
    if name in _PEERS:
        return ""
    method = methods().get(name)
    return "lipschitz" if method is None else method.guarantee


def _interval(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.4f} to {ends[1]:.6f}"


TABLES = {"every-method": methods_table}

EXPERIMENT = Experiment(
    "methods",
    __doc__,
    work,
    (
        option("--methods", (), "layers to measure; left out: all", metavar="LAYER"),
        option("--channels", (64, 256), "in and out"),
        option("--batch", 64, "images in a batch"),
        option("--repeats", 9, "rounds of turns"),
        option("--seconds", 4.0, "no new round of a layer after that, but three in any case"),
        option("--steps", 200, "of training, before singular values are computed again"),
        QUICK,
    ),
)

if __name__ == "__main__":
    EXPERIMENT.main()
