"""Train a recipe with several seeds, certify the nets, and write the record.

Example: python -m experiments.classify mnist-small --data-dir DIR --record records/mnist-small.json

Runs lie in runs/RECIPE-EPOCHS-rRETRACTION-sSEED; finished ones are not trained again, others are
resumed.
"""

import argparse
import json
from dataclasses import replace

from experiments._record import RECORDS, RUNS, Record, read
from experiments._runner import DATA_DIR, SEEDS, Experiment, option
from experiments._show import markdown, spread
from experiments._training import certified, say, summary, trained
from taut.diagnostics import spectra
from taut.recipes import RECIPES
from taut.training import Run


def work(args: argparse.Namespace, record: Record) -> None:
    given = {"epochs": args.epochs, "retract_every": args.retract_every}
    changes = {name: value for name, value in given.items() if value is not None}
    recipe = replace(RECIPES[args.recipe], **changes)
    runs = []
    for seed in args.seeds:
        folder = RUNS / f"{recipe.name}-{recipe.epochs}-r{recipe.retract_every}-s{seed}"
        say(f"training {folder}")
        runs.append(trained(replace(recipe, seed=seed), folder, record, data_dir=args.data_dir))
    if args.record is None:
        return
    record.begin(recipe=json.loads(recipe.to_json()))
    for run in runs:
        record.add("runs", certified(run, run.recipe.eps) | {"singular_values": extremes(run)})
    record.keep(summary=summary(record.content["runs"]))


def extremes(run: Run) -> dict[str, dict[str, float]]:
    """The extreme singular values of each layer."""
    layers = spectra(run.model(), run.recipe.input_shape)
    return {
        name: {"min": float(values.min()), "max": float(values.max())}
        for name, values in layers.items()
    }


def retraction() -> str:
    rows = []
    for path in sorted((RECORDS / "retraction").glob("*.json"), reverse=True):
        content = read(path)
        every, values = content["recipe"]["retract_every"], content["summary"]
        name = f"every {every} steps" if every else "never"
        numbers = spread(values["clean"]), spread(values["certified at 1.58"])
        rows.append((name, *numbers, f"`records/retraction/{path.name}`"))
    return markdown(("retracted", "clean", "certified at 1.58", "record"), rows)


EXPERIMENT = Experiment(
    "classify",
    __doc__,
    work,
    (
        option("recipe", choices=sorted(RECIPES)),
        SEEDS,
        option("--epochs", help="instead of the recipe's", type=int),
        option("--retract-every", help="steps; instead of the recipe's", type=int),
        DATA_DIR,
    ),
)

if __name__ == "__main__":
    EXPERIMENT.main()
