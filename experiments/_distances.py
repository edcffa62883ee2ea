"""Estimates of Wasserstein distances, as records hold them and tables show them."""

from pathlib import Path
from typing import Any

from experiments._record import RECORDS, read
from taut.data import Dataset, load
from taut.wasserstein import W1Estimate

SEED = 0
INTERVAL = "{interval[0]:.4g} to {interval[1]:.4g}"


def dataset(data_dir: Path | None, name: str) -> Dataset:
    if data_dir is None:
        raise ValueError("`--data-dir` must be the folder with mnist/ and fashion-mnist/.")
    return load(name, data_dir / name)


def summary(estimated: W1Estimate) -> dict[str, Any]:
    return {
        "points": estimated.sizes,
        "lower": estimated.lower,
        "upper": estimated.upper,
        "exact": estimated.empirical is not None,
        "interval": estimated.interval,
        "guarantee": estimated.guarantee,
        "chosen": estimated.chosen,
        "bound": float(estimated.bound),
        "candidates": estimated.candidates,
        "notes": estimated.notes,
    }


def recorded(part: str) -> list[dict[str, Any]]:
    return read(RECORDS / "wasserstein" / f"{part}.json").get("rows", [])
