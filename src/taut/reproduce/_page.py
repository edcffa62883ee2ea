"""A comparison of classifiers in words."""

from taut.reproduce._comparison import Comparison
from taut.reproduce._plan import Plan
from taut.reproduce._protocol import DATASETS
from taut.reproduce._render import Page


def page_of(comparison: Comparison) -> Page:
    """What is known of a plan, as a page.

    Args:
        comparison: of a plan.

    Example:
        >>> from pathlib import Path
        >>> from taut.reproduce import SETTINGS, TABLES, compare, make_plan
        >>> plan = make_plan(TABLES["table8"], SETTINGS["paper"], Path("out"), only=["mnist"])
        >>> print(page_of(compare(plan)).heading)
        table8: Clean and certified accuracy at the smaller radius
        paper: the paper's protocol, for a GPU; 200 epochs; seeds 0, 1, 2, 3, 4
    """
    plan = comparison.plan
    return Page(
        name=plan.table.name,
        title=plan.table.title,
        setting=_setting(plan),
        lines=comparison.lines,
        notes=tuple(_notes(comparison)),
        out=plan.out,
        columns=len(plan.table.columns),
        axis="accuracy, %",
    )


def _setting(plan: Plan) -> str:
    epochs = dict.fromkeys(
        f"{trial.recipe.epochs} epochs ({trial.recipe.model.architecture})" for trial in plan.trials
    )
    counts = {trial.recipe.epochs for trial in plan.trials}
    spoken = ", ".join(epochs) if len(counts) > 1 else _count(counts.pop(), "epoch")
    seeds = ", ".join(map(str, plan.setting.seeds))
    return f"{plan.setting.name}: {plan.setting.summary}; {spoken}; seeds {seeds}"


def _notes(comparison: Comparison) -> list[str]:
    lines, plan = comparison.lines, comparison.plan
    found = [
        "Percent of the test set. Ours: mean ± standard deviation over seeds; certified for the "
        "float64 program.",
    ]
    published = dict.fromkeys(p.row.source for p in plan.rows if p.row.published)
    if published:
        found.append(
            f"Published: {'; '.join(published)}; its nets: 200 epochs, 5 seeds. Difference: "
            "ours less the published mean."
        )
    for dataset in dict.fromkeys(p.dataset for p in plan.rows if not p.row.published):
        protocol = DATASETS[DATASETS[dataset].stands_for or dataset]
        found.append(
            f"{DATASETS[dataset].label}: an extension, by the protocol of {protocol.label}."
        )
    if published and _fewer_images(plan):
        found.append(
            "Where it says first so many, ours is of those test images; the published value of all."
        )
    if any(line.quoted for line in lines):
        found.append("Quoted only: systems of other authors, which taut does not do again.")
    if any(not line.comparable for line in lines):
        found.append("† Published for CIFAR-10 itself, another data set: no difference is given.")
    if comparison.runs < len(plan.trials):
        found.append(f"So far {comparison.runs} of {_count(len(plan.trials), 'run')}.")
    return found


def _fewer_images(plan: Plan) -> bool:
    columns = plan.table.columns
    pairs = [pair for p in plan.rows for pair in zip(p.measures, columns, strict=True)]
    return any(measure.images != column.first for measure, column in pairs)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
