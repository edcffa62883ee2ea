"""Attack trained runs by the founding paper's protocol and by AutoAttack, and write the record.

Example: python -m experiments.attacks RUN --eps 1.58 --limit autoattack=200 --record FILE

The columns of tables 3 and 9 of the paper: clean, certified, PGD and FGSM on the whole test set,
boundary and pointwise on 100 images; and beside them stronger attacks. Batches are kept in
attacks.json of each run: stopped, it goes on where it was.
"""

import argparse
import json
from itertools import chain
from pathlib import Path

import taut
from experiments._record import RECORDS, Record, read
from experiments._runner import Experiment, option, progress
from experiments._show import markdown, number
from experiments._training import say, shares
from taut.attacks import (
    ATTACKS,
    AbstractSmallestAttack,
    Attacked,
    AttackTrial,
    Target,
    methods,
    plan,
    run_trial,
    strongest,
)
from taut.certification import Certification
from taut.training import Run

METHODS = ("paper", "pgd", "ddn", "deepfool", "carlini-wagner", "autoattack")


def work(args: argparse.Namespace, record: Record) -> None:
    trials, eps = plan(args.method, args.limit), tuple(args.eps)
    record.begin(seed=0, eps=eps)
    for folder in args.run:
        record.add("runs", measured(Run.open(folder), trials, eps))


def measured(run: Run, trials: tuple[AttackTrial, ...], eps: tuple[str, ...]) -> dict:
    model, data = run.model(), run.dataset()
    images, labels = data.test.float_images(), data.test.labels
    certified = taut.certify(model, images, labels, eps)
    target = Target(model, images, certified)
    attacks = {trial.name: attacked(run, trial, target, eps) for trial in trials}
    counts = {len(attack) for by_eps in attacks.values() for attack in by_eps.values()}
    return {
        "recipe": json.loads(run.recipe.to_json()),
        "data": data.label,
        "weights_sha256": target.weights_sha256,
        "arithmetic": certified.arithmetic,
        "images": len(labels),
        **shares(certified),
        "attacks": [row(name, by_eps, certified) for name, by_eps in attacks.items()],
        "strongest": [combined(attacks, certified, n) for n in sorted(counts, reverse=True)],
    }


def attacked(
    run: Run, trial: AttackTrial, target: Target, eps: tuple[str, ...]
) -> dict[str, Attacked]:
    """What one attack came to by eps."""
    by_eps = {}
    for text in eps:
        say(f"{run.path.name}: {trial.name} at {text}")
        with progress(trial.name, trial.size(target.images)) as tell:
            by_eps[text] = run_trial(trial, target, text, run.path / ATTACKS, tell)
    return by_eps


def row(name: str, by_eps: dict[str, Attacked], certified: Certification) -> dict:
    """One attack beside what is certified of the same images, in percent."""
    first = next(iter(by_eps.values()))
    line = {
        "name": name,
        "method": first.method,
        "options": first.options,
        "images": len(first),
        **shares(certified, len(first)),
        "attacked": {eps: 100 * attack.survived(eps) for eps, attack in by_eps.items()},
        "float32_only": {eps: int(attack.float32_only.sum()) for eps, attack in by_eps.items()},
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


def combined(attacks: dict[str, dict[str, Attacked]], certified: Certification, count: int) -> dict:
    """The best of all attacks that were run on at least so many images."""
    long = {name: r for name, r in attacks.items() if all(len(a) >= count for a in r.values())}
    best = {}
    for eps in next(iter(long.values())):
        results = {name: by_eps[eps] for name, by_eps in long.items()}
        best[eps] = 100 * strongest(results, eps, first=count).accuracy
    return {"images": count, "of": list(long), **shares(certified, count), "attacked": best}


def attacks_table() -> str:
    """All attacks that taut exports."""
    header = ("name", "class", "searches", "sees", "what it does", "runs")
    rows = []
    for kind, cls in methods().items():
        nearest = issubclass(cls, AbstractSmallestAttack)
        searches = "nearest error" if nearest else "error within eps"
        summary = (cls.__doc__ or "").partition("\n")[0].rstrip(".")
        names = f"`{kind}`", f"`{cls.__name__}`"
        rows.append((*names, searches, cls.sees, summary, cls.library or "taut"))
    return markdown(header, rows)


def attacked_table() -> str:
    header = ("run", "attack", "images", "clean", "eps", "certified", "attacked")
    rows = []
    records = map(read, sorted(RECORDS.glob("attacks*.json")))
    for run in chain.from_iterable(record["runs"] for record in records):
        recipe = run["recipe"]
        name = f"`{recipe['name']}`, {recipe['epochs']} epochs, seed {recipe['seed']}"
        best = [{**line, "name": f"strongest of {len(line['of'])}"} for line in run["strongest"]]
        for line in (*run["attacks"], *best):
            for eps, share in line["attacked"].items():
                numbers = (f"{line['clean']:.2f}", eps, f"{line['certified'][eps]:.2f}")
                ratio = line.get("distance", {}).get("over radius, median")
                last = "" if ratio is None else number(ratio)
                rows.append(
                    (name, line["name"], str(line["images"]), *numbers, number(share), last)
                )
    return markdown((*header, "distance over radius"), rows)


EXPERIMENT = Experiment(
    "attacks",
    __doc__,
    work,
    (
        option("run", help="run folders", type=Path, nargs="+"),
        option("--method", METHODS, "as in `taut attack`"),
        option("--limit", (), "as in `taut attack`"),
        option("--eps", help="l2 radii", nargs="+", required=True),
    ),
)

if __name__ == "__main__":
    EXPERIMENT.main()
