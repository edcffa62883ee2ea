"""Attack trained runs by the founding paper's protocol and by AutoAttack, and write the record.

    python -m benchmarks.attacks RUN --eps 1.58 --limit autoattack=200 --out records/attacks.json

The columns of tables 3 and 9 of the paper: clean, certified, PGD and FGSM on the whole test set,
boundary and pointwise on 100 images; and beside them stronger attacks. Batches are kept in
attacks.json of each run: stopped, it goes on where it was.
"""

import argparse
import json
import time
from importlib.metadata import version
from pathlib import Path

import torch

import taut
from benchmarks.environment import environment
from taut.attacks import (
    ATTACKS,
    Attacked,
    Target,
    Trial,
    plan,
    run_trial,
    strongest,
)
from taut.certification import Certification, above
from taut.files import write_atomically
from taut.training import Run

METHODS = ("paper", "pgd", "ddn", "deepfool", "carlini-wagner", "autoattack")


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    trials = plan(args.method, args.limit)
    runs = [measured(Run.open(folder), trials, tuple(args.eps)) for folder in args.run]
    libraries = {name: version(name) for name in ("foolbox", "torchattacks")}
    record = {"environment": environment() | libraries, "seed": 0, "eps": args.eps, "runs": runs}
    if args.out is not None:
        write_atomically(args.out, (json.dumps(record, indent=1) + "\n").encode())


def measured(run: Run, trials: tuple[Trial, ...], eps: tuple[str, ...]) -> dict:
    model, data = run.model(), run.dataset()
    images, labels = data.test.float_images(), data.test.labels
    certified = taut.certify(model, images, labels, eps)
    target = Target(model, images, certified)
    found = {t.name: attacked(run, t, target, eps) for t in trials}
    rows = [row(name, results, certified, eps) for name, results in found.items()]
    counts = sorted({len(a) for results in found.values() for a in results.values()}, reverse=True)
    return {
        "recipe": json.loads(run.recipe.to_json()),
        "data": data.label,
        "weights_sha256": target.weights_sha256,
        "arithmetic": certified.arithmetic,
        "images": len(labels),
        **shares(certified, eps, len(labels)),
        "attacks": rows,
        "strongest": [combined(found, certified, eps, count) for count in counts],
    }


def attacked(run: Run, trial: Trial, target: Target, eps: tuple[str, ...]) -> dict[str, Attacked]:
    """What one attack came to by eps."""
    start = time.monotonic()
    found = {text: run_trial(trial, target, text, run.path / ATTACKS) for text in eps}
    print(f"{run.path.name} {trial.name}: {time.monotonic() - start:.0f} s", flush=True)
    return found


def row(
    name: str, results: dict[str, Attacked], certified: Certification, eps: tuple[str, ...]
) -> dict:
    """One attack beside what is certified of the same images, in percent."""
    first = results[eps[0]]
    line = {
        "name": name,
        "method": first.method,
        "options": first.options,
        "images": len(first),
        **shares(certified, eps, len(first)),
        "attacked": {text: 100 * results[text].survived(text) for text in eps},
        "float32_only": {text: int(results[text].float32_only.sum()) for text in eps},
    }
    radius = certified.radius[: len(first)]
    inside = (first.success & (radius > 0)) if first.eps is None else first.success[:0]
    if inside.any():
        ratio = first.distance[inside] / radius[: len(inside)][inside]
        line["distance"] = {
            "median": first.distance[inside].median().item(),
            "over radius, median": ratio.median().item(),
            "over radius, smallest": ratio.min().item(),
        }
    return line


def combined(
    found: dict[str, dict[str, Attacked]],
    certified: Certification,
    eps: tuple[str, ...],
    count: int,
) -> dict:
    """The best of all attacks that were run on at least so many images."""
    chosen = {name: r for name, r in found.items() if len(r[eps[0]]) >= count}
    attacked = {}
    for text in eps:
        results = {name: by_eps[text] for name, by_eps in chosen.items()}
        attacked[text] = 100 * strongest(results, text, first=count).accuracy
    return {
        "images": count,
        "of": list(chosen),
        **shares(certified, eps, count),
        "attacked": attacked,
    }


def shares(certified: Certification, eps: tuple[str, ...], count: int) -> dict:
    right = (certified.predictions == certified.labels)[:count].double()
    radius = certified.radius[:count]
    return {
        "clean": 100 * right.mean().item(),
        "certified": {text: 100 * above(radius, text).double().mean().item() for text in eps},
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attacks", description=__doc__)
    parser.add_argument("run", type=Path, nargs="+", help="run folders")
    parser.add_argument("--method", nargs="+", default=METHODS, help="as in `taut attack`")
    parser.add_argument("--limit", nargs="+", default=(), help="as in `taut attack`")
    parser.add_argument("--eps", nargs="+", required=True, help="l2 radii")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="the record; left out: only run")
    return parser.parse_args()


if __name__ == "__main__":
    main()
