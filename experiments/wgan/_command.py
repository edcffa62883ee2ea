"""Train a generator against an orthogonal critic, with its distance to test images as it learns.

Example: python -m experiments.wgan --data-dir DIR --figure docs/figures/wgan.png

DIR holds fashion-mnist/ with the original files. The last row is of test images against other test
images: no generator comes closer.
"""

import argparse
import io
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments._distances import INTERVAL, SEED, dataset, recorded, summary
from experiments._record import Record
from experiments._runner import DATA_DIR, Experiment, option, progress
from experiments._show import COLOURS, panels, save, table
from experiments.wgan.training import GRIDS, WGAN, WGANRun, train_wgan
from taut.wasserstein import Settings, estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GENERATOR = WGAN(shape=(1, 28, 28), width=16, steps=2000, every=50, seed=SEED)
MEASURED_AT = (50, 100, 200, 400, 800, 1400, 2000)
_SETTINGS = Settings(steps=100, checks=2, batch_size=128, seed=SEED)


def work(args: argparse.Namespace, record: Record) -> None:
    data = dataset(args.data_dir, "fashion-mnist")
    test = data.test.float_images()
    grids: dict[int, bytes] = {}
    record.begin(seed=SEED)
    with tempfile.TemporaryDirectory() as folder, progress("generator", GENERATOR.steps) as tell:

        def measure(step: int, history: object) -> None:
            tell(step)
            if step in MEASURED_AT:
                samples = WGANRun.open(folder).sample(2000)
                estimated = summary(estimate(test[:2000], samples, settings=_SETTINGS))
                record.add("rows", {"case": "fashion-mnist, BCOP", "steps": step, **estimated})
                grids[step] = Path(folder, GRIDS, f"{step:06}.png").read_bytes()

        train_wgan(GENERATOR, data.train.float_images(), folder, on_progress=measure)
    floor = summary(estimate(test[:2000], test[2000:4000], settings=_SETTINGS))
    record.add("rows", {"case": "test images against others", "steps": None, **floor})
    if args.figure is not None:
        save(drawn(record.content["rows"], grids), args.figure)


def drawn(rows: list[dict[str, Any]], grids: dict[int, bytes]) -> "Figure":
    """The interval over the steps, and samples at two of them."""
    from PIL import Image

    *learning, floor = rows
    steps = [row["steps"] for row in learning]
    figure, (axes, *places) = panels(1, 3, (10.5, 3.6))
    low, high = zip(*(row["interval"] for row in learning), strict=True)
    axes.fill_between(steps, low, high, color=COLOURS[0], alpha=0.2, label="95 % interval")
    for side in ("lower", "upper"):
        values = [row[side] for row in learning]
        axes.plot(steps, values, marker="o", markersize=3, color=COLOURS[0])
    label = "upper side, real against real"
    axes.axhline(floor["upper"], color=COLOURS[1], linestyle="--", linewidth=1, label=label)
    axes.set(xscale="log", xlabel="steps of the generator", ylabel="W1 to test images")
    axes.legend(frameon=False, fontsize=8)
    for place, step in zip(places, (MEASURED_AT[1], MEASURED_AT[-1]), strict=True):
        place.imshow(Image.open(io.BytesIO(grids[step])), cmap="gray")
        place.set_title(f"after {step:,} steps", fontsize=10)
        place.axis("off")
    return figure


def learning_table() -> str:
    columns = {
        "steps of the generator": "{name}",
        "95 % interval": INTERVAL,
        "lower": "{lower:.4g}",
        "upper": "{upper:.4g}",
    }
    return table(
        ({"name": row["steps"] or row["case"], **row} for row in recorded("wgan")), columns
    )


EXPERIMENT = Experiment(
    "wgan",
    __doc__,
    work,
    (DATA_DIR, option("--figure", help="the PNG to write; left out: none", type=Path)),
    threads=1,
)
