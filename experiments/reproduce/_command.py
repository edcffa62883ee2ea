"""Train, certify and attack the nets of a table, and print ours beside the published values.

TABLE is table1, table2, table3, table4, table7, table8 or table9 of arXiv:1911.00937. What is
finished is not done again; after Ctrl-C the same command goes on. Writes TABLE.md and TABLE.png
into the folder of the setting, and the runs under it. Tables of classifiers share their runs.

Example: python -m experiments.reproduce table1 --only mnist small --data-dir DATA
"""

import argparse
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from experiments._record import RECORDS, Record, read
from experiments._runner import DEVICE, Experiment, option, show_table
from experiments._show import markdown, number, spread
from experiments.reproduce._critics import BOUND, CLAIMED, LOWER, CriticPlan, make_critic_plan
from experiments.reproduce._page import HEADS, ComparisonPage, Line, by_dataset, cells, write
from experiments.reproduce._pairs import CRITIC_SETTINGS
from experiments.reproduce._pairs import NAME as TABLE4
from experiments.reproduce._plan import TablePlan, make_plan
from experiments.reproduce._protocol import SETTINGS
from experiments.reproduce._published import TABLES


def work(args: argparse.Namespace, record: Record) -> None:
    plan = plan_of(args)
    try:
        plan.complete(args.device, record)
    except KeyboardInterrupt:
        conclude(plan.page(), written=plan.done() > 0)
        raise KeyboardInterrupt("Stopped; the same command goes on from there.") from None
    page = plan.page()
    conclude(page, written=True)
    lines = [_line(line) for line in page.lines]
    record.begin(table=page.name, title=page.title, lines=lines, **plan.recorded())
    record.keep()


def plan_of(args: argparse.Namespace) -> TablePlan | CriticPlan:
    if args.table not in (*TABLES, TABLE4):
        names = ", ".join(sorted([*TABLES, TABLE4]))
        raise ValueError(f"`table` must be one of {names}; got {args.table!r}.")
    for name in ("epochs", "attacked") if args.table == TABLE4 else ("steps",):
        if vars(args)[name] is not None:
            raise ValueError(f"`{name}` has no meaning for {args.table}; got {vars(args)[name]}.")
    if args.attacked is not None and args.attacked < 1:
        raise ValueError(f"`attacked` must be at least 1; got {args.attacked}.")
    out = args.out or Path("runs", f"reproduce-{args.setting}")
    numbers = {"seeds": tuple(args.seeds) or None, "steps": args.steps, "attacked": args.attacked}
    given = {name: value for name, value in numbers.items() if value is not None}
    options: dict[str, Any] = {"only": args.only, "data_dir": args.data_dir}
    if args.table == TABLE4:
        return make_critic_plan(replace(CRITIC_SETTINGS[args.setting], **given), out, **options)
    setting = replace(SETTINGS[args.setting], **given)
    return make_plan(TABLES[args.table], setting, out, epochs=args.epochs, **options)


def conclude(page: ComparisonPage, *, written: bool) -> None:
    """Print the table as far as it goes, and write it where it is not written yet."""
    print(page.heading)
    for dataset, lines in by_dataset(page.lines).items():
        show_table(f"\n{dataset}", HEADS, [cells(line) for line in lines])
    print("\n" + "\n".join(page.notes))
    if written:
        print("\nSee " + " and ".join(map(str, write(page))))


def _line(line: Line) -> dict[str, Any]:
    return {
        "system": line.system,
        "data": line.dataset,
        "measure": line.measure.label,
        "quoted": line.quoted,
        "ours": line.ours,
        "mean": line.mean,
        "std": line.std,
        "published": None if line.published is None else line.published.mean,
        "difference": line.difference,
    }


def recorded_tables() -> str:
    """All tables that are recorded, for docs/reproduce.md."""
    header = ("system", "data", "measure", "ours", "published", "difference")
    parts = []
    for path in sorted((RECORDS / "tables").glob("*.json")):
        record = read(path)
        title = record["title"][0].lower() + record["title"][1:]
        rows = []
        for line in record["lines"]:
            ours = "quoted" if line["quoted"] else spread(line)
            gaps = (line["published"], line["difference"])
            values = ("–" if gap is None else number(gap) for gap in gaps)
            rows.append((line["system"], line["data"], line["measure"], ours, *values))
        about = f"`{record['table']}`, {title}; {_effort(record)}; `records/tables/{path.name}`:"
        parts.append(f"{about}\n\n{markdown(header, rows)}")
    return "\n".join(parts)


def _effort(record: dict[str, Any]) -> str:
    setting = record["setting"]
    if isinstance(setting, dict):  # of critics, with all its numbers
        return f"setting `{setting['name']}`"
    epochs = {str(run["recipe"]["epochs"]) for run in record["runs"]}
    return f"setting `{setting}`, epochs: {', '.join(sorted(epochs))} (published nets: 200)"


def critics_table() -> str:
    """A row a pair and activation, a column a method, for docs/wasserstein.md."""
    header = ("pair", "activation", "OSSN", "RKO", "BCOP", "WGAN-GP claims", "its proved bound")
    values: dict[tuple[str, str, str], str] = {}
    for path in sorted((RECORDS / "tables").glob("table4*.json")):
        for line in read(path)["lines"]:
            value = f"{line['mean']:.3f} ± {line['std']:.3f}"
            values[line["data"], line["system"], line["measure"]] = value
    rows = []
    for pair, kind in product(dict.fromkeys(pair for pair, _, _ in values), ("MaxMin", "ReLU")):
        critics = (f"{method}, {kind}" for method in ("OSSN", "RKO", "BCOP"))
        lower = (values[pair, critic, LOWER.label] for critic in critics)
        penalised = (values[pair, "WGAN-GP", measure.label] for measure in (CLAIMED, BOUND))
        rows.append((pair, kind, *lower, *penalised))
    return markdown(header, rows)


EXPERIMENT = Experiment(
    "reproduce",
    __doc__,
    work,
    (
        option("table", help="which", metavar="TABLE"),
        option(
            "--setting",
            "short",
            "short is what two CPU cores can do, with a falling learning rate; paper is the "
            "published protocol, for a GPU; quick is next to nothing on embedded images, to see it "
            "work",
            choices=tuple(SETTINGS),
        ),
        option(
            "--only",
            (),
            "data sets, architectures and methods to keep, such as: mnist small BCOP RKO. The data "
            "sets fashion-mnist and cifar10-jpeg75, which are not the paper's, are done if named. "
            "For table4: data sets, mnist-fashion-mnist, methods and activations",
        ),
        option("--seeds", (), "one run each; left out: the setting's", type=int),
        option("--epochs", help="of a classifier, instead of the setting's", type=int),
        option("--steps", help="of a critic of table4, instead of the setting's", type=int),
        option("--attacked", help="attack the first so many test images", type=int),
        option(
            "--data-dir",
            help="a folder with one folder a data set, called by its name; or that of the only one",
            type=Path,
        ),
        option("--out", help="the folder for all; left out: runs/reproduce-SETTING", type=Path),
        DEVICE,
    ),
)
