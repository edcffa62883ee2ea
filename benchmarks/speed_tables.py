"""The tables of docs/speed.md, from records/speed.json."""

import json
from collections.abc import Callable, Sequence

from benchmarks.environment import ROOT

RECORD = ROOT / "records" / "speed.json"
_MISSING = "Not in the record yet.\n"


def aims() -> str:
    rows = [
        (aim["what"], f"{aim['aim']:.3g}", f"{aim['reached']:.3g}")
        for aim in _record().get("aims", ())
    ]
    return markdown(("what", "aim, at most", "reached"), rows)


def step_times() -> str:
    header = ("net", "contender", "step, ms", "over plain", "farthest from 1")
    rows = []
    for net, found in _record()["steps"].items():
        for name, seconds in found.items():
            if name in ("ratio", "error"):
                continue
            ours = name == "taut"
            ratio = found["ratio"] if ours else seconds / found["plain"]
            error = f"{found['error']:.1e}" if ours else "-"
            rows.append((net, name, f"{1e3 * seconds:.1f}", f"{ratio:.2f}", error))
    return markdown(header, rows)


def group(name: str) -> Callable[[], str]:
    """The table of one group of rows."""
    header = (
        *("case", "contender", "train, ms", "floor, ms", "over plain", "eval over plain"),
        *("frozen over plain", "memory over plain", "farthest from 1", "above 1"),
    )

    def table() -> str:
        rows = [
            (
                row["case"],
                row["contender"],
                _number(row["train"], 1e3, ".1f"),
                _number(row["floor"], 1e3, ".1f"),
                *(_number(row[f"{x}_ratio"]) for x in ("train", "eval", "frozen", "memory")),
                _number(row["error"], 1, ".1e"),
                _number(row["above"], 1, "+.1e"),
            )
            for row in _record().get("rows", {}).get(name, ())
            if row["train"] is not None
        ]
        return markdown(header, rows)

    return table


def ways() -> str:
    rows = [
        (
            "x".join(map(str, x["shape"])),
            f"{x['condition']:g}",
            x["way"],
            _number(x.get("seconds"), 1e3),
            x["failed"] if "failed" in x else f"{x['error']:.1e}",
        )
        for x in _ways().get("bases", ())
    ]
    return markdown(("matrix", "condition", "way", "ms", "farthest from 1"), rows)


def dense() -> str:
    rows = [
        ("x".join(map(str, x["shape"])), x["way"], _number(x["seconds"], 1e3), _number(x["ratio"]))
        for x in _ways().get("dense", ())
    ]
    return markdown(("layer", "way", "ms", "over plain"), rows)


def _ways() -> dict:
    path = ROOT / "records" / "orthonormalisation.json"
    return json.loads(path.read_text()) if path.exists() else {}


def accuracy() -> str:
    rows = [
        (x["case"], x["contender"], x["raws"], f"{x['error']:.1e}", f"{x['above']:+.1e}")
        for x in _record().get("accuracy", ())
    ]
    return markdown(("case", "contender", "raw tensors", "farthest from 1", "above 1"), rows)


def machine() -> str:
    found = _record()["environment"]
    names = ("processor", "threads", "gpu", "torch", "orthogonium", "deel-torchlip", "date")
    rows = [(name, str(found[name])) for name in names if name in found]
    return markdown(("", ""), [*rows, ("command", f"`{found['command']}`")])


def _record() -> dict:
    return json.loads(RECORD.read_text())


def _number(value: float | None, scale: float = 1, form: str = ".2f") -> str:
    return "-" if value is None else f"{scale * value:{form}}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return _MISSING
    lines = [f"| {' | '.join(cells)} |" for cells in (header, *rows)]
    return "\n".join((lines[0], "|" + "---|" * len(header), *lines[1:])) + "\n"


SPEED_TABLES = {
    "aims": aims,
    "steps": step_times,
    "nets": group("steps"),
    "equal": group("equal"),
    "stack": group("stack"),
    "other": group("other"),
    "ways": ways,
    "dense": dense,
    "accuracy": accuracy,
    "machine": machine,
}
