"""The pages of the zoo in a headless Chromium: sizes, times, and answers beside the certificates.

Example: python -m experiments.playground --data-dir data --record records/playground.json

Each page is compared with the certified run of the same images: the test set in DATA_DIR/NAME,
or the images of the zoo where it is not there. Needs Chromium on PATH.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments._browser import Browser, browser
from experiments._record import FIGURES, RECORDS, Record, read
from experiments._runner import DATA_DIR, Experiment, option, tracked
from experiments._show import markdown
from taut._zoo import manifest, zoo_file
from taut.certification import Certification, certify
from taut.cli import main as taut
from taut.data import load as load_data
from taut.export import load as load_model
from taut.playground import PlaygroundInputs, write_playground

RECORD = RECORDS / "playground.json"
_IDLE = "!attacks.jobs.length && !maps.jobs.length"
_ANSWERS = "pictures.map((x) => { const a = sides[0].net.certify(x); return [a.label, a.radius]; })"
_TIME = """(() => { const times = pictures.slice(0, 50).map((x) => {
  const begin = performance.now(); sides[0].net.certify(x); return performance.now() - begin; });
  return times.sort((a, b) => a - b)[Math.floor(times.length / 2)]; })()"""
_BROKEN = """pictures.slice(0, %d).filter((x) => {
  const { net } = sides[0], { label, radius } = net.certify(x);
  return finished(attack(net, x, label, radius * (1 - 1e-9))).label !== label; }).length"""


def work(args: argparse.Namespace, record: Record) -> None:
    record.begin(images=args.images, attacked=args.attacked)
    names = args.only or tuple(manifest())
    with browser() as tab, tempfile.TemporaryDirectory() as folder:
        for name in tracked(names, "models"):
            row = {"name": name, **page_of(tab, Path(folder, "play.html"), name)}
            images, labels = test_images(name, args.data_dir, args.images)
            row |= compared(tab, Path(folder, "all.html"), name, images, labels)
            row["attacked"] = min(args.attacked, len(images))
            row["broken"] = tab.run(_BROKEN % args.attacked)
            record.add("rows", row)
        if args.pictures:
            take_pictures(tab, Path(folder, "play.html"))


def page_of(tab: Browser, page: Path, name: str) -> dict[str, Any]:
    """Size of the page that the command writes, and how long it takes to show the first picture."""
    if taut(["play", f"zoo:{name}", "--out", str(page)]):
        raise RuntimeError(f"there is no page of {name}")
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        tab.open(page)
        seconds.append(time.perf_counter() - begin)
    return {
        "bytes": page.stat().st_size,
        "first_picture_ms": round(1000 * sorted(seconds)[1]),
        "image_ms": round(tab.run(_TIME), 2),
    }


def test_images(name: str, data_dir: Path | None, count: int) -> tuple[Tensor, Tensor]:
    """The first test images of a model's data set, or those of the zoo."""
    kind = json.loads(zoo_file(f"zoo:{name}", "recipe.json").read_text())["data"]["kind"]
    if data_dir is not None and (data_dir / kind).exists():
        test = load_data(kind, data_dir / kind).test.take(count)
        return test.float_images(), test.labels
    points = np.load(zoo_file(f"zoo:{name}", "points.npz"))["images"][:count]
    certificate = json.loads(zoo_file(f"zoo:{name}", "certificate.json").read_text())
    return torch.from_numpy(points), torch.tensor(certificate["labels"][:count])


def compared(tab: Browser, page: Path, name: str, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """Classes and radii of a page with these images beside those of the certified run."""
    certification = certify(load_model(zoo_file(f"zoo:{name}")).model, images, labels)
    tab.open(page_with(page, name, certification, images, labels))
    classes, radii = map(np.array, zip(*tab.run(_ANSWERS), strict=True))
    right = classes == labels.numpy()
    proven = certification.radius.numpy()[right]
    certified = proven > 0
    ratios = radii[right][certified] / proven[certified]
    return {
        "images": len(images),
        "equal_classes": int((classes == certification.predictions.numpy()).sum()),
        "least_ratio": float(ratios.min()),
        "radii_above": int((radii[right] > proven).sum()),
    }


def page_with(
    page: Path, name: str, certification: Certification, images: Tensor, labels: Tensor
) -> Path:
    inputs = PlaygroundInputs(
        title=name, dataset="", certificate=certification.certificate, images=images,
        labels=labels, classes=manifest()[name]["classes"], command="", versions={},
    )  # fmt: skip
    return write_playground(page, inputs)


def take_pictures(tab: Browser, page: Path) -> None:
    """The picture of docs/playground.md."""
    taut(["play", "zoo:mnist-small", "--out", str(page)])
    tab.open(page, width=1180, height=1400)
    tab.wait(_IDLE)
    tab.picture(FIGURES / "playground.png")
    tab.open(page, width=1180, height=1050)
    tab.wait(_IDLE)
    tab.run("document.querySelector('main > h2').scrollIntoView()")
    tab.picture(FIGURES / "playground-map.png")


def playground_table() -> str:
    """Sizes and times of the pages of the zoo, and how they compare with the certificates."""
    rows = [
        (
            f"`zoo:{row['name']}`", f"{row['bytes'] / 1e6:.2f} MB", f"{row['first_picture_ms']} ms",
            f"{row['image_ms']:.1f} ms", f"{row['equal_classes']:,} of {row['images']:,}",
            f"1 - {1 - row['least_ratio']:.0e}", str(row["radii_above"]),
            f"{row['broken']} of {row['attacked']}",
        )
        for row in read(RECORD)["rows"]
    ]  # fmt: skip
    heads = ("model", "file", "page ready", "one image", "equal classes",
             "least ratio of radii", "radii above", "attacks that succeed inside")  # fmt: skip
    return markdown(heads, rows)


EXPERIMENT = Experiment(
    "playground",
    __doc__,
    work,
    (
        DATA_DIR,
        option("--images", 1000, "of each test set, to be compared"),
        option("--attacked", 100, "images attacked inside the proved radius"),
        option("--only", (), "some models of the zoo"),
        option("--pictures", False, "write the pictures of docs/playground.md, too"),
    ),
    threads=1,
)

if __name__ == "__main__":
    EXPERIMENT.main()
