"""Measure taut.wasserstein on distances that are known, on images, and critics side by side.

python -m benchmarks.wasserstein known --out records/wasserstein/known.json
python -m benchmarks.wasserstein images --data-dir DIR --out records/wasserstein/images.json
python -m benchmarks.wasserstein table4 --data-dir DIR --out records/wasserstein/table4.json
python -m benchmarks.wasserstein wgan --data-dir DIR --out records/wasserstein/wgan.json

DIR holds mnist/ and fashion-mnist/ with the original files.
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.environment import environment
from taut.data import load
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
from taut.wasserstein.comparison import compare, paper_critics

SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wasserstein", description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--data-dir", type=Path, help="the folder with mnist/ and fashion-mnist/")
    parser.add_argument("--out", type=Path, help="the record; left out: only print")
    given = parser.parse_args()
    torch.set_num_threads(1)
    record = {"environment": environment(), "seed": SEED, "rows": []}
    for row in PARTS[given.part](given.data_dir):
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


def table4(data_dir: Path | None) -> Iterator[dict[str, Any]]:
    """The paper's critics on two pairs; Adam and a cosine, and a narrower critic."""
    settings = Settings(steps=150, batch_size=64, checks=3, seed=SEED)
    mnist, fashion = (pictures(data_dir, name, 1500) for name in ("mnist", "fashion-mnist"))
    with tempfile.TemporaryDirectory() as folder:
        made = generated(fashion, "WGAN-GP", folder, steps=200).sample(1500)
    pairs = {
        "mnist, fashion-mnist": (mnist, fashion),
        "fashion-mnist, WGAN-GP": (fashion, made),
    }
    for name, (p, q) in pairs.items():
        for critic, maker in paper_critics((1, 28, 28), width=8).items():
            rates = (1e-1, 1e-2, 1e-3)
            (row,) = compare(p, q, {critic: maker}, rates=rates, seeds=3, settings=settings)
            yield {"case": name, **vars(row), "mean": row.mean, "std": row.std}


def wgan(data_dir: Path | None) -> Iterator[dict[str, Any]]:
    """A generator against an orthogonal critic, with the interval as it learns."""
    fashion = pictures(data_dir, "fashion-mnist", 6000)
    settings = Settings(steps=100, checks=2, batch_size=128, seed=SEED)
    with tempfile.TemporaryDirectory() as folder:
        for steps in (1, 100, 400):
            run = generated(fashion[:5000], "BCOP", f"{folder}/{steps}", steps=steps)
            found = estimate(fashion[5000:], run.sample(1000), settings=settings)
            yield {"case": "fashion-mnist, BCOP", "steps": steps, **summary(found)}


def generated(real: Tensor, critic: str, folder: str, *, steps: int) -> WGANRun:
    config = WGAN(
        shape=(1, 28, 28), critic=critic, steps=steps, every=steps, critic_width=8, width=16,
        lr=1e-3, seed=SEED,
    )  # fmt: skip
    return train_wgan(config, real, folder)


def pictures(data_dir: Path | None, name: str, count: int) -> Tensor:
    if data_dir is None:
        raise SystemExit("--data-dir must be the folder with mnist/ and fashion-mnist/")
    return load(name, data_dir / name).train.take(count).float_images()


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


PARTS = {"known": known, "images": images, "table4": table4, "wgan": wgan}


if __name__ == "__main__":
    main()
