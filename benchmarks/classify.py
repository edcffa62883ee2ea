"""Train a recipe with several seeds, certify the nets, and write the record.

    python -m benchmarks.classify mnist-small --data-dir DIR --out records/mnist-small.json

Runs lie in runs/RECIPE-EPOCHS-rRETRACTION-sSEED; finished ones are not trained again, others are
resumed.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import torch

import taut
from benchmarks.environment import ROOT, environment
from taut.files import write_atomically
from taut.recipes import RECIPES
from taut.report import inspect_layers
from taut.training import Recipe, Run, train
from taut.training.run import prepare

ENVIRONMENT = "environment.json"


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    recipe = RECIPES[args.recipe]
    changes = {"epochs": args.epochs, "retract_every": args.retract_every}
    recipe = replace(recipe, **{name: x for name, x in changes.items() if x is not None})
    runs = [trained(replace(recipe, seed=seed), args.data_dir) for seed in args.seeds]
    if args.out is None:
        return
    results = [measured(run) for run in runs]
    record = {
        "environment": environment(),
        "recipe": json.loads(recipe.to_json()),
        "runs": results,
        "summary": summary(results),
    }
    write_atomically(args.out, (json.dumps(record, indent=1) + "\n").encode())
    print(json.dumps(record["summary"], indent=1))


def trained(recipe: Recipe, data_dir: Path | None) -> Run:
    folder = (
        ROOT / "runs" / (f"{recipe.name}-{recipe.epochs}-r{recipe.retract_every}-s{recipe.seed}")
    )
    run = prepare(recipe, folder, data_dir)
    if not (folder / ENVIRONMENT).exists():
        write_atomically(folder / ENVIRONMENT, json.dumps(environment()).encode())
    train(recipe, folder, data_dir=data_dir)
    print(folder, run.history()[-1], flush=True)
    return run


def measured(run: Run) -> dict:
    model, data = run.model(), run.dataset()
    images, labels = data.test.float_images(), data.test.labels
    result = taut.certify(model, images, labels, run.recipe.eps)
    layers = inspect_layers(model, images[:1], labels[:1])
    return {
        "seed": run.recipe.seed,
        "data": data.label,
        "clean": 100 * result.clean_accuracy,
        "certified": {eps: 100 * share for eps, share in result.certified_accuracy.items()},
        "arithmetic": result.arithmetic,
        "bound": float(result.bound),
        "training_seconds": run.history()[-1]["seconds"],
        "trained": json.loads((run.path / ENVIRONMENT).read_text()),
        "singular_values": {
            layer.name: {"min": float(layer.spectrum.min()), "max": float(layer.spectrum.max())}
            for layer in layers
            if layer.spectrum is not None
        },
    }


def summary(results: list[dict]) -> dict:
    columns = {"clean": [r["clean"] for r in results]}
    for eps in results[0]["certified"]:
        columns[f"certified at {eps}"] = [r["certified"][eps] for r in results]
    columns["training seconds"] = [r["training_seconds"] for r in results]
    return {
        name: {"mean": mean(values), "std": stdev(values) if len(values) > 1 else None}
        for name, values in columns.items()
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.classify", description=__doc__)
    parser.add_argument("recipe", choices=sorted(RECIPES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--retract-every", type=int)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="the record; left out: only train")
    return parser.parse_args()


if __name__ == "__main__":
    main()
