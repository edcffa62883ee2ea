"""Read the files that torch's exporters write of many small nets, and compare the bounds.

Example: python -m experiments.read_files --record records/files/read.json

Each net is written by both exporters to ONNX and by torch.export, read back from the file alone,
and bounded. The bound of the file is that of the module, or smaller where the exporter folded a
batch norm into the layer before it.
"""

import argparse
import tempfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import taut
from experiments._file_nets import EXPORTERS, NETS, made, quiet
from experiments._record import Record
from experiments._runner import Experiment, show_table, tracked
from taut.export import load

ROUNDED = 1e-7  # of a bound, relative: norms that exporters fold are rounded to float32
LIBRARIES = ("onnx", "onnxscript", "onnxruntime")


def work(args: argparse.Namespace, record: Record) -> None:
    record.begin(seed=0, versions={name: version(name) for name in LIBRARIES})
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(tracked(list(NETS), "nets")):
            rows += [row_of(name, by, Path(folder, str(number), by[-8:])) for by in EXPORTERS]
    counts = {by: Counter(row["outcome"] for row in rows if row["by"] == by) for by in EXPORTERS}
    outcomes = ("equal", "smaller", "larger", "refused", "not written")
    table = [(by, *(str(count[outcome]) for outcome in outcomes)) for by, count in counts.items()]
    show_table(f"{len(NETS)} nets", ("written by", *outcomes), table)
    for row in rows:
        if row["outcome"] not in ("equal", "smaller"):
            print(row["net"], row["by"], row["outcome"], row["reason"], sep="; ")
    record.keep(counts={by: dict(count) for by, count in counts.items()}, rows=rows)


def row_of(name: str, by: str, folder: Path) -> dict[str, Any]:
    """One net in one file: what became of it."""
    folder.mkdir(parents=True)
    model, shape = made(name)
    bound = float(taut.lipschitz_bound(model, shape))
    row: dict[str, Any] = {"net": name, "by": by, "bound of the module": bound}
    try:
        with quiet():
            path = EXPORTERS[by](model, shape, folder / "net")
    except Exception as error:  # an exporter may raise anything
        return row | {"outcome": "not written", "reason": type(error).__name__}
    try:
        exported = load(path)
        found = float(taut.lipschitz_bound(*exported))
    except ValueError as error:
        reason = str(error).partition("cannot be read as a model: ")[2]
        return row | {"outcome": "refused", "reason": reason}
    x = torch.randn(16, *shape, generator=torch.Generator().manual_seed(0))
    difference = (exported.model(x) - model(x)).abs().max() / model(x).abs().max()
    outcome = "smaller" if found < bound * (1 - ROUNDED) else "larger"
    outcome = "equal" if abs(found / bound - 1) <= ROUNDED else outcome
    row |= {"bound of the file": found, "difference of outputs": difference.item()}
    return row | {"outcome": outcome, "reason": ""}


EXPERIMENT = Experiment("read_files", __doc__, work, threads=1)

if __name__ == "__main__":
    EXPERIMENT.main()
