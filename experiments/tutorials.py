"""Run the code of the tutorials, and keep the pictures that it draws.

Example: python -m experiments.tutorials --figures docs/figures
"""

import argparse
import contextlib
import os
import re
import shutil
import tempfile
import time
from pathlib import Path

from experiments._record import ROOT, Record
from experiments._runner import Experiment, option

_BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def work(args: argparse.Namespace, _: Record) -> None:
    docs = ROOT / "docs"
    for page in (docs / "adding-a-method.md", *sorted(docs.glob("tutorial-*.md"))):
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            _run(page, Path(folder))
            for picture in Path(folder).glob("*.png"):
                shutil.copy(picture, args.figures / picture.name)
        print(f"{page.name}: {time.perf_counter() - start:.1f} s")


def _run(page: Path, folder: Path) -> None:
    """All blocks of a page in one namespace, as its reader runs them."""
    namespace: dict[str, object] = {"__name__": "docs"}
    before = Path.cwd()
    os.chdir(folder)
    try:
        with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
            for block in _BLOCK.findall(page.read_text(encoding="utf-8")):
                exec(compile(block, page.name, "exec"), namespace)
    finally:
        os.chdir(before)


EXPERIMENT = Experiment(
    "tutorials",
    __doc__,
    work,
    (option("--figures", ROOT / "docs/figures", "the folder to draw into", type=Path),),
    records=False,
)

if __name__ == "__main__":
    EXPERIMENT.main()
