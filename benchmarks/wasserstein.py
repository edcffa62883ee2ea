"""Measure taut.wasserstein on distances that are known, on images, and as a generator learns.

python -m benchmarks.wasserstein known --out records/wasserstein/known.json
python -m benchmarks.wasserstein many --out records/wasserstein/many.json
python -m benchmarks.wasserstein coverage --out records/wasserstein/coverage.json
python -m benchmarks.wasserstein images --data-dir DIR --out records/wasserstein/images.json
python -m benchmarks.wasserstein wgan --data-dir DIR --out records/wasserstein/wgan.json \
    --figure docs/figures/wgan.png

DIR holds mnist/ and fashion-mnist/ with the original files. Table 4: `benchmarks.reproduced`.
"""

import argparse
import io
import json
import math
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.environment import environment
from taut.data import Split, load
from taut.files import write_atomically
from taut.wasserstein import (
    WGAN,
    Settings,
    W1Estimate,
    WGANRun,
    estimate,
    heuristics,
    train_wgan,
)
from taut.wasserstein.wgan import GRIDS, Row

SEED = 0
GENERATOR = WGAN(shape=(1, 28, 28), width=16, steps=2000, every=50, seed=SEED)
MEASURED_AT = (50, 100, 200, 400, 800, 1400, 2000)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wasserstein", description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--data-dir", type=Path, help="the folder with mnist/ and fashion-mnist/")
    parser.add_argument("--out", type=Path, help="the record; left out: only print")
    parser.add_argument("--figure", type=Path, help="of the part wgan; left out: none")
    given = parser.parse_args()
    torch.set_num_threads(1)
    record = {"environment": environment(), "seed": SEED, "rows": []}
    parts = PARTS | {"wgan": partial(wgan, figure=given.figure)}
    for row in parts[given.part](given.data_dir):
        print(json.dumps(row), flush=True)
        record["rows"].append(row)
        if given.out is not None:
            given.out.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
            write_atomically(given.out, text.encode())


def known(data_dir: Path | None) -> Iterator[dict[str, Any]]:
    """Distances with a closed form."""
    settings = Settings(steps=200, checks=4, max_memory=1 << 30, seed=SEED)
    for d, count in ((1, 1000), (2, 1000), (16, 1000), (784, 3000), (3072, 1000)):
        for name, (p, q, truth) in cases(d, count).items():
            start = time.monotonic()
            found = estimate(p, q, settings=settings)
            yield {
                "case": name,
                "dimension": d,
                "truth": truth,
                **summary(found),
                "seconds": round(time.monotonic() - start, 1),
            }


def cases(d: int, count: int) -> dict[str, tuple[Tensor, Tensor, float]]:
    random = torch.Generator().manual_seed(SEED)

    def normal() -> Tensor:
        return torch.randn(count, d, generator=random, dtype=torch.float64)

    def sphere() -> Tensor:
        return torch.nn.functional.normalize(normal())

    shift = 3 * torch.nn.functional.normalize(torch.randn(1, d, generator=random).double())
    x = normal()
    # The mean length of a standard normal vector.
    cone = math.sqrt(2) * math.exp(math.lgamma((d + 1) / 2) - math.lgamma(d / 2))
    return {
        "translated cloud": (x, x + shift, 3.0),
        "Gaussians of equal covariance": (normal(), normal() + shift, 3.0),
        "shells of radius 2 and 1": (2 * sphere(), sphere(), 1.0),
        "point to Gaussian (cone)": (torch.zeros_like(x), normal(), cone),
        "identical Gaussians": (normal(), normal(), 0.0),
    }


def many(data_dir: Path | None) -> Iterator[dict[str, Any]]:
    """What more points bring in 3072 dimensions, where the direction of a shift is hard to find."""
    for count in (6000,):
        p, q, truth = cases(3072, count)["Gaussians of equal covariance"]
        start = time.monotonic()
        found = estimate(p, q, settings=Settings(steps=0, seed=SEED))
        seconds = round(time.monotonic() - start, 1)
        name = f"Gaussians of equal covariance, {count:,} points"
        row = {"case": name, "dimension": 3072, "truth": truth, **summary(found)}
        yield {**row, "seconds": seconds}


def coverage(data_dir: Path | None) -> Iterator[dict[str, Any]]:
    """How often the interval leaves the truth out, over repeats; 5 % are allowed, 2.5 % a side."""
    repeats, count = 200, 120
    for d, shift in ((1, 0.0), (1, 1.0), (2, 0.0), (16, 0.0)):
        intervals = []
        for repeat in range(repeats):
            random = torch.Generator().manual_seed(SEED + repeat)
            p, q = torch.randn(2, count, d, generator=random, dtype=torch.float64)
            q[:, 0] += shift
            found = estimate(p, q, settings=Settings(steps=0, seed=SEED + repeat))
            intervals.append(found.interval)
        yield {
            "case": "identical Gaussians" if shift == 0 else "Gaussians 1 apart",
            "dimension": d,
            "points": (count, count),
            "repeats": repeats,
            "above the truth": sum(low > shift for low, _ in intervals),
            "below the truth": sum(high < shift for _, high in intervals),
        }


def images(data_dir: Path | None) -> Iterator[dict[str, Any]]:
    """MNIST against Fashion-MNIST, 2,000 images each, and what penalised critics claim of it."""
    mnist, fashion = (pictures(data_dir, name, 2000) for name in ("mnist", "fashion-mnist"))
    start = time.monotonic()
    found = estimate(mnist, fashion, settings=Settings(seed=SEED, domain=(0.0, 1.0)))
    seconds = round(time.monotonic() - start, 1)
    history = [vars(row) for row in found.history]
    yield {"case": "mnist, fashion-mnist", **summary(found), "seconds": seconds, "history": history}
    settings = Settings(steps=300, lr=1e-3, checks=1, batch_size=64, seed=SEED)
    critic = heuristics.unconstrained((1, 28, 28), width=16)
    for name, function in (("WGAN-GP", heuristics.penalised), ("clipping", heuristics.clipped)):
        claim = function(mnist, fashion, critic, settings=settings)
        bound = float(claim.bound)
        yield {"case": name, "claimed": claim.claimed, "bound": bound, "proved": claim.proved}


def wgan(data_dir: Path | None, figure: Path | None = None) -> Iterator[dict[str, Any]]:
    """A generator against an orthogonal critic, with its distance to the test images as it learns.

    The last row is of test images against other test images: no generator comes closer.
    """
    real = pictures(data_dir, "fashion-mnist", 60_000)
    test = split(data_dir, "fashion-mnist", "test").float_images()
    settings = Settings(steps=100, checks=2, batch_size=128, seed=SEED)
    rows: list[dict[str, Any]] = []
    grids: dict[int, bytes] = {}
    with tempfile.TemporaryDirectory() as folder:

        def measure(step: int, history: Row) -> None:
            if step not in MEASURED_AT:
                return
            found = estimate(test[:2000], WGANRun.open(folder).sample(2000), settings=settings)
            rows.append({"case": "fashion-mnist, BCOP", "steps": step, **summary(found)})
            print(json.dumps(rows[-1]), flush=True)
            grids[step] = Path(folder, GRIDS, f"{step:06}.png").read_bytes()

        train_wgan(GENERATOR, real, folder, on_progress=measure)
    yield from rows
    found = estimate(test[:2000], test[2000:4000], settings=settings)
    rows.append({"case": "test images against others", "steps": None, **summary(found)})
    yield rows[-1]
    if figure is not None:
        write_atomically(figure, drawn(rows, grids))


def drawn(rows: list[dict[str, Any]], grids: dict[int, bytes]) -> bytes:
    """The interval over the steps, and samples at two of them, as a PNG."""
    from matplotlib.figure import Figure
    from PIL import Image

    *learning, floor = rows
    steps = [row["steps"] for row in learning]
    figure = Figure(figsize=(10.5, 3.6), layout="constrained", dpi=110)
    axes = figure.subplots(1, 3)
    low, high = zip(*(row["interval"] for row in learning), strict=True)
    axes[0].fill_between(steps, low, high, color="#0b6e63", alpha=0.2, label="95 % interval")
    for side in ("lower", "upper"):
        values = [row[side] for row in learning]
        axes[0].plot(steps, values, marker="o", markersize=3, color="#0b6e63")
    label = "upper side, real against real"
    axes[0].axhline(floor["upper"], color="#b4470f", linestyle="--", linewidth=1, label=label)
    axes[0].set(xscale="log", xlabel="steps of the generator", ylabel="W1 to test images")
    axes[0].legend(frameon=False, fontsize=8)
    for place, step in zip(axes[1:], (MEASURED_AT[1], MEASURED_AT[-1]), strict=True):
        place.imshow(Image.open(io.BytesIO(grids[step])), cmap="gray")
        place.set_title(f"after {step:,} steps", fontsize=10)
        place.axis("off")
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def pictures(data_dir: Path | None, name: str, count: int) -> Tensor:
    return split(data_dir, name, "train").take(count).float_images()


def split(data_dir: Path | None, name: str, part: str) -> Split:
    if data_dir is None:
        raise SystemExit("--data-dir must be the folder with mnist/ and fashion-mnist/")
    data = load(name, data_dir / name)
    return data.train if part == "train" else data.test


def summary(found: W1Estimate) -> dict[str, Any]:
    return {
        "points": found.sizes,
        "lower": found.lower,
        "upper": found.upper,
        "exact": found.empirical is not None,
        "interval": found.interval,
        "guarantee": found.guarantee,
        "chosen": found.chosen,
        "bound": float(found.bound),
        "candidates": found.candidates,
        "notes": found.notes,
    }


PARTS = {"known": known, "many": many, "coverage": coverage, "images": images, "wgan": wgan}


if __name__ == "__main__":
    main()
