"""Beside orthogonium's AOC: which arguments each library takes, and what a layer costs.

Example: python -m experiments.aoc --threads 2 --kernels 3 --record records/speed-aoc.json

AOC is timed with its default and with its fastest setting (Cholesky, which is not exact), on images
and batches of its CIFAR-10 nets; every layer of a case takes turns in one run. Evaluation is that
of exported layers: `taut.freeze`, and the weight in a plain layer as orthogonium advises.
A record keeps what is finished, and the next command adds to it. Needs orthogonium (`make bench`
installs it). Let the machine be idle.
"""

import argparse
import importlib
import itertools
import warnings
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import taut
from experiments._record import RECORDS, Record, brief, read
from experiments._runner import QUICK, Experiment, option, sentence, tracked
from experiments._show import markdown
from experiments.speed._kinds import evaluation, fastest, in_formats, training
from experiments.speed._timing import median_ratio

RECORD = RECORDS / "speed-aoc.json"
SETTINGS = {"aoc": "DEFAULT_ORTHO_PARAMS", "aoc, Cholesky": "CHOLESKY_ORTHO_PARAMS"}


class Arguments(NamedTuple):
    """Of a square layer in both libraries."""

    inputs: int
    outputs: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    transposed: bool = False
    zeros: bool = (
        False  # padding of taut's layer, too: orthogonium's transposed layers have no other
    )

    @property
    def padding(self) -> int | str:
        """With which the output is `stride` times smaller or larger, if that can be."""
        if self.stride == 1 and not self.transposed:
            return "same"
        return self._cut

    @property
    def _cut(self) -> int:
        return max(0, self.span - self.stride + 1) // 2

    @property
    def output_padding(self) -> int:
        """Of a transposed layer: what is missing of `stride` times the size of the input."""
        missing = self.stride - self.span + 2 * self._cut
        return max(0, min(missing, max(self.stride, self.dilation) - 1))

    @property
    def span(self) -> int:
        """Positions from the first tap to the last."""
        return self.dilation * (self.kernel - 1) + 1

    @property
    def options(self) -> dict[str, int]:
        return {"stride": self.stride, "dilation": self.dilation, "groups": self.groups}

    @property
    def edges(self) -> dict[str, int | str]:
        """How the padding is told to a layer."""
        more = {"output_padding": self.output_padding} if self.transposed else {}
        return {"padding": self.padding} | more

    @property
    def name(self) -> str:
        """As tables show it."""
        parts = [f"{self.inputs} to {self.outputs}", f"{self.kernel}x{self.kernel}"]
        parts += [f"{name} {value}" for name, value in self.options.items() if value > 1]
        return ", ".join(parts + ["transposed"] * self.transposed + ["zeros"] * self.zeros)


GRID = [
    Arguments(*channels, *sizes, transposed=transposed)
    for channels in ((16, 16), (8, 32), (32, 8))
    for sizes in itertools.product(range(1, 8), (1, 2, 3, 4), (1, 2, 3), (1, 2, 4))
    for transposed in (False, True)
]
CASES = tuple(
    itertools.starmap(
        Arguments,
        (
            *((c, c, 3) for c in (64, 128, 256)),
            *((128, 128, k) for k in (1, 2, 4, 5, 7)),
            *((256, 256, 3, 1, 1, g) for g in (2, 4, 16)),
            *((128, 256, k, 2) for k in (2, 3, 4)),
            (128, 128, 3, 1, 2),
            *((256, 128, k, 2, 1, 1, True, zeros) for k in (2, 3, 4) for zeros in (False, True)),
        ),
    )
)

QUICK_CASES = (Arguments(8, 8, 3), Arguments(8, 16, 4, 2), Arguments(8, 8, 2, 2, transposed=True))


def work(args: argparse.Namespace, record: Record) -> None:
    torch.manual_seed(0)
    theirs(Arguments(2, 2, 1))  # says how to install it before anything is measured
    batch, cases, grid = (2, QUICK_CASES, GRID[::50]) if args.quick else (args.batch, CASES, GRID)
    record.resume({"batch": batch, "repeats": args.repeats})
    if "arguments" not in record.content:
        record.keep(arguments=accepted(grid))
    print(brief(record.content["arguments"]["counts"]))
    known = {row["case"] for row in record.content.get("rows", ())}
    chosen = [case for case in cases if case.kernel in args.kernels and case.name not in known]
    for case in tracked(chosen):
        record.add("rows", measured(case, batch, args.repeats, args.seconds))


def theirs(case: Arguments, setting: str = SETTINGS["aoc"]) -> nn.Module:
    """The layer of orthogonium; raises what it raises where it has none."""
    try:
        layers = importlib.import_module("orthogonium.layers.conv.AOC")
        settings = importlib.import_module("orthogonium.reparametrizers")
    except ImportError as error:
        raise ImportError(f"not installed: pip install orthogonium ({error})") from error
    cls = "AdaptiveOrthoConvTranspose2d" if case.transposed else "AdaptiveOrthoConv2d"
    options = case.options | case.edges | {"ortho_params": vars(settings)[setting]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return vars(layers)[cls](case.inputs, case.outputs, case.kernel, **options)


def ours(case: Arguments) -> nn.Module:
    """The layer of taut, circular or with zeros; raises ValueError where it has none."""
    cls = taut.nn.ConvTranspose2d if case.transposed else taut.nn.Conv2d
    options: dict[str, Any] = case.options
    options |= {"padding_mode": "zeros"} | case.edges if case.zeros else {}
    return cls(case.inputs, case.outputs, case.kernel, **options)


def exported(layer: nn.Module) -> nn.Module:
    """The weight of a layer of orthogonium in the plain layer that it derives from."""
    plain = nn.ConvTranspose2d if isinstance(layer, nn.ConvTranspose2d) else nn.Conv2d
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation")
    options: dict[str, Any] = {name: getattr(layer, name) for name in (*names, "groups")}
    if isinstance(layer, nn.ConvTranspose2d):
        options["output_padding"] = layer.output_padding
    twin = plain(**options, padding_mode=layer.padding_mode)
    assert layer.bias is not None
    assert twin.bias is not None
    with torch.no_grad():
        twin.weight.copy_(layer.eval().weight)
        twin.bias.copy_(layer.bias)
    return twin


def accepted(grid: list[Arguments]) -> dict[str, Any]:
    """How many arguments each library takes, and what only orthogonium takes, with taut's reason.

    Taken is what makes a layer with a weight.
    """
    counts = {"both": 0, "taut": 0, "orthogonium": 0, "neither": 0}
    refused = []
    for case in tracked(grid, "arguments"):
        takes, reason = [], ""
        for name, make in (("taut", ours), ("orthogonium", theirs)):
            try:
                with torch.no_grad():
                    assert make(case).weight is not None
                takes.append(name)
            except Exception as error:  # a foreign layer may raise anything
                reason = reason if name == "orthogonium" else sentence(error)
        counts["both" if len(takes) == 2 else takes[0] if takes else "neither"] += 1
        if takes == ["orthogonium"]:
            refused.append({"case": case.name, "because": reason})
    return {"counts": counts, "refused": refused}


def measured(case: Arguments, batch: int, repeats: int, seconds: float) -> dict:
    """A training step and an evaluation of each layer, side by side."""
    size = 32 * 64 // max(64, case.inputs, case.outputs)  # as its nets have it: 128 at 16, ...
    x = torch.rand(batch, case.inputs, size, size)
    layers = {name: theirs(case, setting) for name, setting in SETTINGS.items()}
    layers = {"taut": ours(case)} | layers
    steps = _best(layers, x, training, repeats, seconds)
    frozen = {
        name: taut.freeze(layer) if name == "taut" else exported(layer)
        for name, layer in layers.items()
    }
    with torch.no_grad():
        forwards = _best(frozen, x, evaluation, repeats, seconds / 3)
    row: dict[str, Any] = {"case": case.name, "size": size}
    for part, times in (("train", steps), ("eval", forwards)):
        row |= {f"{part} {name}": median(taken) for name, taken in times.items()}
        row |= {
            f"{part} over {name}": median_ratio(times["taut"], times[name]) for name in SETTINGS
        }
    return row | {"rounds": min(map(len, (*steps.values(), *forwards.values())))}


def _best(
    layers: dict[str, nn.Module], x: Tensor, run: Any, repeats: int, seconds: float
) -> dict[str, list[float]]:
    """The times of each layer in its faster memory format."""
    runs: dict[tuple[str, str], Any] = {}
    for name, layer in layers.items():
        runs |= in_formats(name, layer, x, run)
    return fastest(runs, repeats, seconds)


def aoc_table() -> str:
    """Times of both libraries, a line a case."""
    columns = ("taut", *SETTINGS)
    header = ["layer"]
    for part in ("step", "evaluation"):
        header += [*(f"{part}, {name}, ms" for name in columns), f"{part}, taut over the faster"]
    rows = []
    for row in read(RECORD).get("rows", ()):
        cells = [row["case"]]
        for part in ("train", "eval"):
            cells += [f"{1e3 * row[f'{part} {name}']:.1f}" for name in columns]
            cells.append(f"{max(row[f'{part} over {name}'] for name in SETTINGS):.2f}")
        rows.append(cells)
    return markdown(header, rows)


def arguments_table() -> str:
    """How many combinations of arguments each library takes."""
    counts = read(RECORD).get("arguments", {}).get("counts", {})
    words = ("both", "taut", "orthogonium", "neither")
    names = ("taken by both", "by taut alone", "by orthogonium alone", "by neither")
    rows = [(name, str(counts[word])) for name, word in zip(names, words, strict=True) if counts]
    return markdown(("arguments", "combinations"), rows)


EXPERIMENT = Experiment(
    "aoc",
    __doc__,
    work,
    (
        option("--kernels", tuple(range(1, 8)), "kernel sizes of the layers to time"),
        option("--batch", 256, "images in a batch"),
        option("--repeats", 9, "rounds of turns"),
        option("--seconds", 9.0, "no new round of a layer's steps after that, but three in any"),
        QUICK,
    ),
)

if __name__ == "__main__":
    EXPERIMENT.main()
