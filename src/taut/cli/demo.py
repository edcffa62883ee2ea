"""`taut demo`."""

import time
from pathlib import Path

from taut.cli.progress import show_training
from taut.cli.report import fail_if_refuted, make_report
from taut.cli.shared import percent, show_table
from taut.recipes import RECIPES
from taut.training import OpenedRun, check_limit, train

_MEANING = """
certified: proved correct for every change of the image of l2 length eps
attacked:  still correct after our attacks; never below certified
"""


def demo(*, run: Path = Path("runs/demo"), limit: int = 1000) -> None:
    """Train on embedded images, certify, attack and write a report, in about one minute.

    The same command continues a stopped run; a finished run is not trained again.

    Example: taut demo

    Args:
        run: the run folder.
        limit: number of test images to attack, the first ones.
    """
    start = time.monotonic()
    check_limit(limit)
    recipe = RECIPES["demo"]
    with show_training(recipe.epochs) as on_progress:
        train(recipe, run, device="cpu", on_progress=on_progress)
    opened = OpenedRun.open(run, device="cpu")
    certification = opened.certify(opened.radii())
    certification.save(run / "certificate.json")
    page, robustness = make_report(opened, limit)
    rows = [
        (eps, *map(percent, (robustness.clean_accuracy, robustness.certified(eps), attacked)))
        for eps, attacked in robustness.attacked.items()
    ]
    names = ("eps (l2)", "clean", "certified", "attacked")
    show_table(opened.title(len(robustness.labels)), names, rows)
    fail_if_refuted(robustness)
    meaning = certification.certificate.meaning
    print(f"{_MEANING}arithmetic {certification.arithmetic}: {meaning}\n")
    print(f"The report is {page} ({time.monotonic() - start:.0f} seconds in all).")
