"""What taut costs beside plain layers, orthogonium, deel-torchlip and the paper's own algorithm.

    python -m benchmarks.speed --out records/speed.json

Writes every row that docs/speed.md shows, and each aim with what was reached. Let the machine be
idle. With --quick: smaller cases that only try the command out.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from benchmarks.accuracy import ACCURACY, QUICK_ACCURACY, Accuracy, accuracy
from benchmarks.aims import aims, import_seconds
from benchmarks.environment import ROOT, environment
from taut.benchmark import (
    Rates,
    Row,
    Settings,
    cells,
    floor,
    measure,
    measured_rates,
    parse_case,
    select,
)
from taut.files import write_atomically

CASES = {"MNIST Large": "large-mnistb128", "CIFAR-10 Large": "large-cifar10b128"}
PAPER = ROOT / "benchmarks" / "paper_bcop.py"
_OTHERS = ("taut", "orthogonium")

# By group: cases, and who takes part beside plain layers and, if True, the paper's algorithm.
Groups = dict[str, tuple[Sequence[str], Sequence[str], bool]]
GROUPS: Groups = {
    "steps": (tuple(CASES.values()), (*_OTHERS, "deel-torchlip"), True),
    "equal": (
        (
            *("128x128x3@16b32", "256x256x3@16b16", "512x512x3@8b64", "1024x1024x3@8b64"),
            *("128x128x3@32b32", "256x256x3@16b64"),
        ),
        _OTHERS,
        False,
    ),
    "stack": (("stack-12x256@16b16",), _OTHERS, False),
    "other": (
        (
            *("128x256x3@16b16", "256x128x3@16b16", "256x512x3@8b16", "128x256x4s2@16b16"),
            *("256x512x4s2@16b4", "128x128x3@4b4", "256x256x3@4b4", "512x512x3@4b4"),
            *("512x512b128", "4096x512b128"),
        ),
        _OTHERS,
        True,
    ),
}
_GPU: Groups = {"deep": (("stack-30x256@16b64",), _OTHERS, False)}
QUICK_GROUPS: Groups = {
    "steps": (("small-mnistb8", "small-cifar10b8"), _OTHERS, True),
    "equal": (("8x8x3@8b2", "16x16x3@8b2"), ("taut",), False),
    "stack": (("stack-2x8@8b2",), ("taut",), False),
    "other": (("8x16x3@8b2", "32x16b8"), _OTHERS, True),
}


def main() -> None:
    args = _arguments()
    settings = Settings(args.device, args.dtype, args.repeats, 20.0, args.threads)
    settings = replace(settings, repeats=3, seconds=2.0) if args.quick else settings
    torch.set_num_threads(args.threads)
    record = recorded(settings, quick=args.quick, only=args.groups)
    for aim in record["aims"]:
        print(f"{aim['what']}: {aim['reached']:.3g} (aim: at most {aim['aim']:g})")
    if args.out is not None:
        write_atomically(args.out, (json.dumps(record, indent=1) + "\n").encode())


def recorded(settings: Settings, *, quick: bool, only: Sequence[str] = ()) -> dict:
    """The whole record; progress is printed case by case."""
    rates = measured_rates(settings)
    groups = QUICK_GROUPS if quick else GROUPS
    groups = groups | _GPU if settings.place.type == "cuda" and not quick else groups
    chosen = {name: group for name, group in groups.items() if not only or name in only}
    rows = {name: _group(*group, settings, rates) for name, group in chosen.items()}
    if only:
        whole = {name: [asdict(row) for row in group] for name, group in rows.items()}
        return {
            "environment": environment(),
            "settings": asdict(settings),
            "rows": whole,
            "aims": [],
        }
    found = _accuracies(QUICK_ACCURACY if quick else ACCURACY, settings)
    imports = import_seconds(1 if quick else 5)
    return {
        "environment": environment(),
        "settings": asdict(settings),
        "rates": rates._asdict(),
        "steps": steps(rows["steps"]),
        "rows": {
            name: [asdict(row) | {"floor": _floor(row, rates)} for row in group]
            for name, group in rows.items()
        },
        "accuracy": [asdict(row) for row in found],
        "import": imports,
        "aims": aims(rows, found, imports, gpu=settings.place.type == "cuda"),
    }


def steps(rows: Sequence[Row]) -> dict[str, dict[str, float | None]]:
    """A training step of the paper's Large: seconds, the ratio of taut to plain, its error."""
    found = {}
    for case in dict.fromkeys(row.case for row in rows):
        mine = {row.contender: row for row in rows if row.case == case}
        title = next((title for title, name in CASES.items() if name == case), case)
        times = {name: row.train for name, row in mine.items() if row.train is not None}
        found[title] = times | {"ratio": mine["taut"].train_ratio, "error": mine["taut"].error}
    return found


def _group(
    names: Sequence[str],
    contenders: Sequence[str],
    paper: bool,
    settings: Settings,
    rates: Rates,
) -> list[Row]:
    files = (PAPER,) if paper else ()
    rows: list[Row] = []
    for name in names:
        torch.manual_seed(0)
        rows += measure(parse_case(name), select(contenders, files), settings, files)
        for cell in cells([row for row in rows if row.case == name], rates):
            print("  ".join(cell), flush=True)
    return rows


def _accuracies(wanted: Sequence[tuple[str, str, str]], settings: Settings) -> list[Accuracy]:
    found = []
    for case, contender, raws in wanted:
        found.append(accuracy(case, contender, raws, settings))
        print(*asdict(found[-1]).values(), sep="  ", flush=True)
    return found


def _floor(row: Row, rates: Rates) -> float | None:
    """Seconds that any exact method takes for the case, beside each measured time."""
    return None if row.train is None else floor(parse_case(row.case)).seconds(rates)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--groups", nargs="+", choices=tuple(GROUPS), default=())
    parser.add_argument("--quick", action="store_true", help="smaller cases, to try it out")
    parser.add_argument("--out", type=Path, help="the record; left out: only print")
    return parser.parse_args()


if __name__ == "__main__":
    main()
