"""`taut demo`."""

import time
from pathlib import Path

from taut.cli.certify import save_certificate
from taut.cli.progress import show_training
from taut.cli.report import fail_if_refuted, make_report
from taut.cli.shared import check_limit, open_run, percent, show_table
from taut.recipes import RECIPES
from taut.training import train

_MEANING = """
certified: proved correct against every change of the image of l2 length eps
attacked:  still correct after the attacks we ran; never below certified
"""


def demo(*, run: Path = Path("runs/demo"), limit: int = 1000) -> None:
    """Train on embedded images, certify, attack and write a report: about a minute.

    Run again it goes on where it stopped; a finished run is not trained again.

    Example: taut demo

    Args:
        run: the run folder.
        limit: attack the first so many test images.
    """
    start = time.monotonic()
    check_limit(limit)
    recipe = RECIPES["demo"]
    with show_training(recipe.epochs) as on_progress:
        train(recipe, run, device="cpu", on_progress=on_progress)
    opened = open_run(run, "cpu")
    _, certified = save_certificate(opened)
    page, found = make_report(opened, limit)
    rows = [
        (eps, percent(found.clean_accuracy), percent(found.certified(eps)), percent(attacked))
        for eps, attacked in found.attacked.items()
    ]
    names = ("eps (l2)", "clean", "certified", "attacked")
    show_table(opened.title(len(found.labels)), names, rows)
    fail_if_refuted(found)
    print(f"{_MEANING}arithmetic {certified.arithmetic}: {certified.certificate.meaning}\n")
    print(f"The report is {page} ({time.monotonic() - start:.0f} seconds in all).")
