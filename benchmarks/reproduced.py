"""Do a table of the founding paper again, as `taut reproduce` does, and write the record.

    python -m benchmarks.reproduced table1 --only mnist small --data-dir DIR \
        --record records/tables/table1-mnist-small.json

Runs are shared with `taut reproduce --out` of the same folder; what is finished is not done again.
"""

import argparse
import json
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.classify import ENVIRONMENT
from benchmarks.environment import ROOT, environment
from taut.cli.reproduce import complete, complete_table4
from taut.files import write_atomically
from taut.reproduce import (
    CRITIC_SETTINGS,
    SETTINGS,
    TABLE4,
    TABLES,
    Comparison,
    CriticPlan,
    Line,
    Plan,
    Trial,
    check,
    compare,
    critic_page,
    fits,
    make_critic_plan,
    make_plan,
    markdown,
    measured,
    page_of,
)
from taut.training import Run
from taut.training.run import prepare


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    if args.table == TABLE4:
        _table4(args)
        return
    setting = SETTINGS[args.setting]
    changes = {"seeds": tuple(args.seeds or setting.seeds), "attacked": args.attacked}
    plan = make_plan(
        TABLES[args.table],
        replace(setting, **{name: value for name, value in changes.items() if value}),
        args.out or ROOT / "runs" / f"reproduce-{args.setting}",
        only=args.only,
        epochs=args.epochs,
        data_dir=args.data_dir,
    )
    comparison = done(plan)
    print(markdown(page_of(comparison)))
    _write(args.record, record(comparison))


def _table4(args: argparse.Namespace) -> None:
    if args.epochs is not None or args.attacked is not None:
        raise SystemExit("table4 has neither --epochs nor --attacked")
    setting = CRITIC_SETTINGS[args.setting]
    plan = make_critic_plan(
        replace(
            setting,
            seeds=tuple(args.seeds or setting.seeds),
            steps=setting.steps if args.steps is None else args.steps,
        ),
        args.out or ROOT / "runs" / f"reproduce-{args.setting}",
        only=args.only,
        data_dir=args.data_dir,
    )
    complete_table4(plan, "auto")
    print(markdown(critic_page(plan)))
    _write(args.record, critic_record(plan))


def _write(path: Path | None, found: dict[str, Any]) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
        write_atomically(path, text.encode())


def done(plan: Plan) -> Comparison:
    """Train and measure what is missing; each run folder says where it was trained."""
    for trial in check(plan):
        run = prepare(trial.recipe, trial.folder, trial.data_dir)
        if not (run.path / ENVIRONMENT).exists() and not run.history():
            write_atomically(run.path / ENVIRONMENT, json.dumps(environment()).encode())
        print(trial.folder.name, flush=True)
        complete(trial, "auto")
    return compare(plan)


def record(comparison: Comparison) -> dict[str, Any]:
    plan = comparison.plan
    return {
        "environment": environment(),
        "table": plan.table.name,
        "title": plan.table.title,
        "setting": plan.setting.name,
        "lines": [_line(line) for line in comparison.lines],
        "runs": [
            {
                "recipe": json.loads(trial.recipe.to_json()),
                "trained": _trained(trial),
                "measured": measured(Run.open(trial.folder)),
            }
            for trial in plan.trials
        ],
    }


def critic_record(plan: CriticPlan) -> dict[str, Any]:
    """Table 4: the lines of the page, and every training that they rest on."""
    page = critic_page(plan)
    rows = product(plan.pairs, plan.critics)
    return {
        "environment": environment(),
        "table": page.name,
        "title": page.title,
        "setting": asdict(plan.setting),
        "lines": [_line(line) for line in page.lines],
        "trainings": [
            {"pair": pair, "critic": critic, **asdict(fit)}
            for pair, critic in rows
            for fit in fits(plan, pair, critic)
        ],
    }


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


def _trained(trial: Trial) -> dict[str, Any] | None:
    """Where a run was trained; None if `taut reproduce` did it, which does not say."""
    path = trial.folder / ENVIRONMENT
    return json.loads(path.read_text()) if path.is_file() else None


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reproduced",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("table", choices=(*TABLES, TABLE4))
    parser.add_argument("--setting", choices=SETTINGS, default="short")
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--steps", type=int, help="of a critic of table4")
    parser.add_argument("--attacked", type=int)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, help="the folder of the runs, as of `taut reproduce`")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--record", type=Path, help="left out: only train and measure")
    return parser.parse_args()


if __name__ == "__main__":
    main()
