"""The tables of docs/certificates.md, from records/certificates.json."""

import json
from collections.abc import Callable
from typing import Any

from benchmarks.environment import ROOT
from benchmarks.speed_tables import markdown

RECORD = ROOT / "records" / "certificates.json"
Row = dict[str, Any]


def bounds() -> str:
    rows = [
        (x["case"], f"{x['excess']:.1e}", _loose(x), f"{x['seconds']:.3g}", x["proof"])
        for x in (*_rows("orthogonal"), *_rows("plain"))
    ]
    header = ("kernel", "bound over true norm - 1", "in certificates", "seconds", "proof")
    return markdown(header, rows)


def _loose(x: Row) -> str:
    return f"{x.get('torus', x['excess']):.1e}"


def whole() -> str:
    rows = [
        (x["net"], "x".join(map(str, x["shape"])), x["kind"], f"{x['seconds']:.2f}")
        for x in _rows("whole")
    ]
    return markdown(("net", "image", "weights", "seconds"), rows)


def accuracy() -> str:
    rows = []
    for x in _rows("accuracy"):
        shares = ", ".join(f"{share:.2f} at {eps}" for eps, share in x["certified"].items())
        radius = f"{x['median radius']:.4g}"
        rows.append((f"`{x['net']}`", f"{x['images']:,}", x["arithmetic"], shares, radius))
    return markdown(("net", "test images", "arithmetic", "certified, %", "median radius"), rows)


def rounding() -> str:
    rows = []
    for x in _rows("rounding"):
        counts = [f"{x[kind][name]:,}" for kind in ("sound", "naive") for name in _COUNTS]
        rows.append((x["net"], *counts))
    header = ("net", "within sound radius", "flips", "within margin over slope", "flips")
    return markdown(header, rows)


_COUNTS = ("inside", "flips")


def narrow() -> str:
    names = ("real", "float64", "float32")
    rows = [(x["net"], *(f"{x[name]:.6f}" for name in names)) for x in _rows("narrow")]
    return markdown(("net", *names), rows)


def machine() -> str:
    rows = []
    for name, part in _record().items():
        e = part["environment"]
        rows.append((name, e["processor"], e["torch"], e["date"], f"`{e['command']}`"))
    return markdown(("part", "processor", "torch", "date", "command"), rows)


def _rows(part: str) -> list[Row]:
    return _record().get(part, {}).get("rows", [])


def _record() -> dict[str, Any]:
    return json.loads(RECORD.read_text()) if RECORD.exists() else {}


CERTIFICATE_TABLES: dict[str, Callable[[], str]] = {
    "bounds": bounds,
    "whole": whole,
    "accuracy": accuracy,
    "rounding": rounding,
    "narrow": narrow,
    "machine": machine,
}
