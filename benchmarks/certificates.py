"""What certificates cost and lose: tightness and time of norm bounds, accuracy, a rounding search.

    python -m benchmarks.certificates --run RUN --out records/certificates.json

Times are those of the processor on one thread: other programs on the machine do not count. Parts
named with --parts are measured anew; the record keeps the others, each with where it was made.
"""

import argparse
import json
import math
import re
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import taut
from benchmarks.environment import ROOT, environment
from benchmarks.rounding_search import NETS, rounding_search
from taut.certification import ARITHMETICS, prove
from taut.files import write_atomically
from taut.linalg.bounds import NormBound, conv_norm_bound, tight_norm_bound
from taut.linalg.operators import ConvOperator, Padding
from taut.linalg.spectrum import conv_singular_values
from taut.linalg.torus import torus_part
from taut.linalg.witness import norm_estimate
from taut.models import ModelConfig, build
from taut.training import Run

Rows = list[dict[str, Any]]


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


def row(name: str, op: ConvOperator, bound: Callable[[ConvOperator], NormBound], repeats: int):
    found, taken = seconds(lambda: bound(op), repeats)
    excess = found.value / true_norm(op) - 1
    print(f"{name}: {excess:.2e}, {taken:.3g} s, {found.proof}", flush=True)
    return {"case": name, "excess": excess, "seconds": taken, "proof": found.proof}


def orthogonal(args: argparse.Namespace) -> Rows:
    """BCOP kernels as float32 numbers, 3x3 on 32x32, circular."""
    rows = []
    for channels in (8, 16) if args.quick else (64, 128, 256):
        torch.manual_seed(0)
        layer = taut.nn.Conv2d(channels, channels, 3)
        op = ConvOperator(layer.weight, (32, 32), padding=Padding("circular", (1, 1), (1, 1)))
        rows.append(row(f"BCOP {channels}", op, conv_norm_bound, 3))
    return rows


def plain(args: argparse.Namespace) -> Rows:
    """Gaussian kernels of every option, 3x3 on 32x32."""
    rows = []
    for name, op in plain_operators(8 if args.quick else 64):
        if args.most is None or op.kernel.shape[0] <= args.most:
            rows.append(row(name, op, tight_norm_bound, 1))
            rows[-1]["torus"] = conv_norm_bound(op).value / true_norm(op) - 1
    return rows


def plain_operators(width: int) -> list[tuple[str, ConvOperator]]:
    def make(mode: str, *, outputs=width, inputs=width, stride=1, dilation=1, groups=1):
        generator = torch.Generator().manual_seed(0)
        shape = (outputs, inputs // groups, 3, 3)
        kernel = torch.randn(shape, generator=generator) / math.sqrt(9 * inputs / groups)
        padding = Padding(mode, (dilation,) * 2, (dilation,) * 2)
        sizes = (32, 32), (stride,) * 2, (dilation,) * 2
        return ConvOperator(kernel, *sizes, groups, padding)

    cases = []
    for mode in ("circular", "zeros"):
        for factor in (1, 2, 4):
            wide = factor * width
            cases.append((f"{wide}, {mode}", make(mode, outputs=wide, inputs=wide)))
        options = {"stride": 2, "dilation": 2, "groups": 4}
        for name, value in options.items():
            op = make(mode, **{name: value}, outputs=2 * width if name == "stride" else width)
            cases.append((f"{op.kernel.shape[0]}, {mode}, {name} {value}", op))
    return cases


def whole(args: argparse.Namespace) -> Rows:
    """The certificate of a net, without images."""
    configs = (
        ModelConfig("small"),
        ModelConfig("large"),
        ModelConfig("large", input_shape=(3, 32, 32)),
    )
    rows = []
    for config in configs[:1] if args.quick else configs:
        torch.manual_seed(0)
        model, shape = build(config).eval(), config.input_shape
        for kind, net in (("parametrised", model), ("frozen", taut.freeze(model))):
            _, taken = seconds(lambda net=net, shape=shape: prove(net, shape), 3)
            print(f"{config.architecture}, {shape}, {kind}: {taken:.3g} s", flush=True)
            net_row = {"net": config.architecture, "shape": shape, "kind": kind}
            rows.append(net_row | {"seconds": taken})
    return rows


def accuracy(args: argparse.Namespace) -> Rows:
    """Certified accuracy of trained nets in each arithmetic."""
    rows = []
    for folder in args.run:
        run = Run.open(folder)
        model, data = run.model(torch.device("cpu")), run.dataset()
        images, labels = data.test.float_images()[: args.limit], data.test.labels[: args.limit]
        for arithmetic in ARITHMETICS:
            found = taut.certify(model, images, labels, run.recipe.eps, arithmetic=arithmetic)
            shares = {eps: 100 * share for eps, share in found.certified_accuracy.items()}
            print(run.recipe.name, arithmetic, shares, flush=True)
            rows.append(
                {
                    "net": run.recipe.name,
                    "data": data.label,
                    "images": len(labels),
                    "arithmetic": arithmetic,
                    "clean": 100 * found.clean_accuracy,
                    "certified": shares,
                    "median radius": found.radius.median().item(),
                }
            )
    return rows


def rounding(args: argparse.Namespace) -> Rows:
    """Inputs within a radius whose answer rounding changes: sound radii, and naive ones."""
    points, tries = (6, 3) if args.quick else (60, 40)
    rows = []
    for name in NETS:
        found = rounding_search(name, "float64", points, tries, torch.float64)
        rows.append({"net": name, **{kind: asdict(f) for kind, f in found.items()}})
        print(rows[-1], flush=True)
    return rows


def narrow(args: argparse.Namespace) -> Rows:
    """Median radius of random inputs of narrow nets in each arithmetic."""
    rows = []
    for name, (make, shape) in NETS.items():
        model, generator = make(), torch.Generator().manual_seed(0)
        x = torch.rand(200, *shape, generator=generator)
        with torch.no_grad():
            labels = model(x).argmax(1)
        medians = {
            arithmetic: taut.certify(model, x, labels, arithmetic=arithmetic).radius.median().item()
            for arithmetic in ARITHMETICS
        }
        rows.append({"net": name, **medians})
        print(rows[-1], flush=True)
    return rows


def cases(args: argparse.Namespace) -> Rows:
    """Random cases that hypothesis draws in the tests of bounds and certificates."""
    rows = []
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        drawn = sum(map(int, re.findall(r"max_examples=(\d+)", path.read_text())))
        if drawn and re.search("bound|certif|round", path.stem):
            rows.append({"file": path.name, "cases": drawn})
    return rows


PARTS = {
    "orthogonal": orthogonal,
    "plain": plain,
    "whole": whole,
    "accuracy": accuracy,
    "rounding": rounding,
    "narrow": narrow,
    "cases": cases,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.certificates")
    parser.add_argument("--run", type=Path, action="append", default=[], help="a trained net")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--most", type=int, help="plain kernels up to so many outputs")
    parser.add_argument("--limit", type=int, help="certify the first so many test images")
    parser.add_argument("--quick", action="store_true", help="small layers, to try it out")
    parser.add_argument("--out", type=Path, help="the record; left out: only print")
    args = parser.parse_args()
    torch.set_num_threads(1)
    known = json.loads(args.out.read_text()) if args.out and args.out.exists() else {}
    for name in args.parts:
        if name == "accuracy" and not args.run:
            continue
        known[name] = {"environment": environment(), "rows": PARTS[name](args)}
        if args.out is not None:
            write_atomically(args.out, (json.dumps(known, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
