"""Draw the picture of README.md: the report of a run, and its playground beside it.

Example: python -m experiments.pictures --figure docs/figures/readme.png

Chromium or Chrome must be on the path; it opens no window. The run is that of
`taut demo`, made in a temporary folder; `--run` takes a finished one.
"""

import argparse
import io
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from experiments._browser import Browser, browser
from experiments._record import Record
from experiments._runner import Experiment, option
from taut.files import write_atomically

SIZE = (1000, 1250)  # of a page, in pixels of the browser
WIDTH, GAP = 780, 24  # of a page in the picture, and between two
IDLE = "typeof attacks === 'undefined' || (!attacks.jobs.length && !maps.jobs.length)"
LARGEST = 300_000  # bytes


def work(args: argparse.Namespace, record: Record) -> None:
    with tempfile.TemporaryDirectory() as folder, browser() as window:
        pages = pages_of(args.run, Path(folder))
        shots = [shot(window, page, Path(folder, f"{page.stem}.png")) for page in pages]
    write_atomically(args.figure, encoded(side_by_side(shots)))
    print(f"Wrote {args.figure}: {', '.join(page.stem for page in pages)}.")


def pages_of(run: Path | None, folder: Path) -> list[Path]:
    """The report of a run and its playground, made where they are missing."""
    if run is None:
        run = folder / "demo"
        taut("demo", "--run", str(run))
    pages = [run / "report.html", run / "play.html"]
    for page, command in zip(pages, ("report", "play"), strict=True):
        if not page.is_file():
            taut(command, str(run))
    return pages


def taut(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "taut", *words], check=True, stdout=subprocess.DEVNULL)


def shot(window: Browser, page: Path, path: Path) -> Image.Image:
    """The first screen of a page."""
    width, height = SIZE
    window.open(page, width=width, height=height)
    window.wait(IDLE)
    window.picture(path)
    with Image.open(path) as image:
        return image.convert("RGB").resize((WIDTH, WIDTH * height // width))


def side_by_side(shots: Sequence[Image.Image]) -> Image.Image:
    """The pages in a row, with lines around them."""
    height = max(image.height for image in shots)
    picture = Image.new("RGB", (len(shots) * (WIDTH + GAP) - GAP, height), "white")
    for number, image in enumerate(shots):
        left = number * (WIDTH + GAP)
        picture.paste("#bbb", (left, 0, left + WIDTH, image.height))
        picture.paste(image.crop((1, 1, WIDTH - 1, image.height - 1)), (left + 1, 1))
    return picture


def encoded(picture: Image.Image) -> bytes:
    """A PNG with as many colours as its size allows.

    >>> len(encoded(Image.new("RGB", (20, 20)))) < 200
    True
    """
    for colours in (256, 128, 64, 32):
        buffer = io.BytesIO()
        picture.quantize(colours).save(buffer, "PNG", optimize=True)
        if buffer.tell() < LARGEST:
            return buffer.getvalue()
    raise ValueError(f"the picture takes {buffer.tell()} bytes; at most {LARGEST} are allowed.")


EXPERIMENT = Experiment(
    "pictures",
    __doc__,
    work,
    [
        option("--figure", help="the PNG to write", type=Path, required=True),
        option(
            "--run", help="the folder of a finished run; left out: made by `taut demo`", type=Path
        ),
    ],
    records=False,
)

if __name__ == "__main__":
    EXPERIMENT.main()
