"""What certificates cost and lose: tightness and time of norm bounds, accuracy, a rounding search.

Example: python -m experiments.certificates --run RUN --record records/certificates.json

Times are those of the processor on one thread: other programs on the machine do not count. Parts
named with --parts are measured anew; the record keeps the others, each with where it was made.
"""

import argparse
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import taut
from experiments._models import net
from experiments._record import RECORDS, ROOT, Record, brief, read
from experiments._rounding_search import NETS, rounding_search
from experiments._runner import QUICK, Experiment, option, tracked
from experiments._show import markdown, table
from experiments._training import shares
from taut.certification import ARITHMETICS, prove
from taut.linalg.bounds import conv_norm_bound, tight_norm_bound
from taut.linalg.convolution import ConvOperator
from taut.linalg.operator import NormBound
from taut.linalg.padding import Padding
from taut.linalg.spectrum import conv_singular_values
from taut.linalg.torus import torus_part
from taut.linalg.witness import norm_estimate
from taut.training import Run

Row = dict[str, Any]
Rows = Iterator[Row]
RECORD = RECORDS / "certificates.json"


def work(args: argparse.Namespace, record: Record) -> None:
    if args.record is not None:
        record.content = read(args.record)
    parts = [name for name in args.parts if name != "accuracy" or args.run]
    for name in tracked(parts, "parts"):
        rows = []
        for row in PARTS[name](args):
            print(brief(row), flush=True)
            rows.append(row)
        record.keep(**{name: {"environment": record.environment(), "rows": rows}})


def seconds(work: Callable[[], Any], repeats: int) -> tuple[Any, float]:
    """The result, and the least time of the processor."""
    result, times = None, []
    for _ in range(repeats):
        start = time.process_time()
        result = work()
        times.append(time.process_time() - start)
    return result, min(times)


def true_norm(op: ConvOperator) -> float:
    """By the singular values at every frequency; with zeros, Lanczos' method from below."""
    part = torus_part(op)
    return conv_singular_values(op)[0].item() if part is None else norm_estimate(part)


def bounded(
    name: str, op: ConvOperator, bound: Callable[[ConvOperator], NormBound], repeats: int
) -> Row:
    norm, taken = seconds(lambda: bound(op), repeats)
    excess = norm.value / true_norm(op) - 1
    return {"case": name, "excess": excess, "seconds": taken, "proof": norm.proof}


def orthogonal(args: argparse.Namespace) -> Rows:
    """BCOP kernels as float32 numbers, 3x3 on 32x32, circular."""
    for channels in (8, 16) if args.quick else (64, 128, 256):
        torch.manual_seed(0)
        layer = taut.nn.Conv2d(channels, channels, 3)
        op = ConvOperator(layer.weight, (32, 32), padding=Padding("circular", (1, 1), (1, 1)))
        yield bounded(f"BCOP {channels}", op, conv_norm_bound, 3)


def plain(args: argparse.Namespace) -> Rows:
    """Gaussian kernels of every option, 3x3 on 32x32."""
    for name, op in plain_operators(8 if args.quick else 64):
        if args.most is None or op.kernel.shape[0] <= args.most:
            torus = conv_norm_bound(op).value / true_norm(op) - 1
            yield bounded(name, op, tight_norm_bound, 1) | {"torus": torus}


def plain_operators(width: int) -> list[tuple[str, ConvOperator]]:
    def make(mode: str, *, outputs=width, inputs=width, stride=1, dilation=1, groups=1):
        generator = torch.Generator().manual_seed(0)
        shape = (outputs, inputs // groups, 3, 3)
        kernel = torch.randn(shape, generator=generator) / math.sqrt(9 * inputs / groups)
        padding = Padding(mode, (dilation,) * 2, (dilation,) * 2)
        return ConvOperator(kernel, (32, 32), (stride,) * 2, (dilation,) * 2, groups, padding)

    cases = []
    for mode in ("circular", "zeros"):
        for wide in (width, 2 * width, 4 * width):
            cases.append((f"{wide}, {mode}", make(mode, outputs=wide, inputs=wide)))
        for name, value in {"stride": 2, "dilation": 2, "groups": 4}.items():
            op = make(mode, **{name: value}, outputs=2 * width if name == "stride" else width)
            cases.append((f"{op.kernel.shape[0]}, {mode}, {name} {value}", op))
    return cases


def whole(args: argparse.Namespace) -> Rows:
    """The certificate of a net, without images."""
    cases = (("small", (1, 28, 28)), ("large", (1, 28, 28)), ("large", (3, 32, 32)))
    for architecture, shape in cases[:1] if args.quick else cases:
        torch.manual_seed(0)
        model = net(architecture, shape).eval()
        for kind, each in (("parametrised", model), ("frozen", taut.freeze(model))):
            _, taken = seconds(lambda each=each, shape=shape: prove(each, shape), 3)
            yield {"net": architecture, "shape": shape, "kind": kind, "seconds": taken}


def accuracy(args: argparse.Namespace) -> Rows:
    """Certified accuracy of trained nets in each arithmetic."""
    for run in map(Run.open, args.run):
        model, data = run.model(), run.dataset()
        images, labels = data.test.float_images()[: args.limit], data.test.labels[: args.limit]
        of = {"net": run.recipe.name, "data": data.label, "images": len(labels)}
        for arithmetic in ARITHMETICS:
            certified = taut.certify(model, images, labels, run.recipe.eps, arithmetic=arithmetic)
            median = certified.radius.median().item()
            yield {**of, "arithmetic": arithmetic, **shares(certified), "median radius": median}


def rounding(args: argparse.Namespace) -> Rows:
    """Inputs within a radius whose answer rounding changes: sound radii, and naive ones."""
    points, tries = (6, 3) if args.quick else (60, 40)
    for name in NETS:
        kinds = rounding_search(name, "float64", points, tries, torch.float64)
        yield {"net": name, **{kind: asdict(counts) for kind, counts in kinds.items()}}


def narrow(args: argparse.Namespace) -> Rows:
    """Median radius of random inputs of narrow nets in each arithmetic."""
    for name, (make, shape) in NETS.items():
        model, generator = make(), torch.Generator().manual_seed(0)
        x = torch.rand(200, *shape, generator=generator)
        with torch.no_grad():
            labels = model(x).argmax(1)
        certified = {a: taut.certify(model, x, labels, arithmetic=a) for a in ARITHMETICS}
        yield {"net": name, **{a: each.radius.median().item() for a, each in certified.items()}}


def cases(args: argparse.Namespace) -> Rows:
    """Random cases that hypothesis draws in the tests of bounds and certificates."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        drawn = sum(map(int, re.findall(r"max_examples=(\d+)", path.read_text())))
        if drawn and re.search("bound|certif|round", path.stem):
            yield {"file": path.name, "cases": drawn}


PARTS: dict[str, Callable[[argparse.Namespace], Rows]] = {
    "orthogonal": orthogonal,
    "plain": plain,
    "whole": whole,
    "accuracy": accuracy,
    "rounding": rounding,
    "narrow": narrow,
    "cases": cases,
}


def recorded(*parts: str) -> list[Row]:
    content = read(RECORD)
    return [row for part in parts for row in content.get(part, {}).get("rows", ())]


def bounds_table() -> str:
    rows = [{"torus": row["excess"], **row} for row in recorded("orthogonal", "plain")]
    columns = {
        "kernel": "{case}",
        "bound over true norm - 1": "{excess:.1e}",
        "in certificates": "{torus:.1e}",
        "seconds": "{seconds:.3g}",
        "proof": "{proof}",
    }
    return table(rows, columns)


def whole_table() -> str:
    columns = {"net": "{net}", "image": "{image}", "weights": "{kind}", "seconds": "{seconds:.2f}"}
    rows = recorded("whole")
    return table([{"image": "x".join(map(str, row["shape"])), **row} for row in rows], columns)


def accuracy_table() -> str:
    rows = []
    for row in recorded("accuracy"):
        proved = (f"{share:.2f} at {eps}" for eps, share in row["certified"].items())
        rows.append({**row, "certified": ", ".join(proved)})
    columns = {
        "net": "`{net}`",
        "test images": "{images:,}",
        "arithmetic": "{arithmetic}",
        "certified, %": "{certified}",
        "median radius": "{median radius:.4g}",
    }
    return table(rows, columns)


def rounding_table() -> str:
    # Two columns of one name: the heads of a mapping could not be the same.
    header = ("net", "within sound radius", "flips", "within margin over slope", "flips")
    counts = [(kind, name) for kind in ("sound", "naive") for name in ("inside", "flips")]
    rows = recorded("rounding")
    return markdown(header, ([row["net"], *(f"{row[a][b]:,}" for a, b in counts)] for row in rows))


def narrow_table() -> str:
    names = ("real", "float64", "float32")
    return table(recorded("narrow"), {"net": "{net}"} | {n: f"{{{n}:.6f}}" for n in names})


def machine_table() -> str:
    rows = [{"part": name, **part["environment"]} for name, part in read(RECORD).items()]
    names = ("part", "processor", "torch", "date")
    return table(rows, {name: f"{{{name}}}" for name in names} | {"command": "`{command}`"})


TABLES = {
    "bounds": bounds_table,
    "whole": whole_table,
    "accuracy": accuracy_table,
    "rounding": rounding_table,
    "narrow": narrow_table,
    "machine": machine_table,
}

EXPERIMENT = Experiment(
    "certificates",
    __doc__,
    work,
    (
        option("--run", help="a trained net", type=Path, action="append", default=[]),
        option("--parts", tuple(PARTS), "what to measure", choices=tuple(PARTS)),
        option("--most", help="plain kernels up to so many outputs", type=int),
        option("--limit", help="certify the first so many test images", type=int),
        QUICK,
    ),
    threads=1,
)

if __name__ == "__main__":
    EXPERIMENT.main()
