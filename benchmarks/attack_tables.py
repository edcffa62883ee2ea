"""The table of docs/attacks.md, from records/attacks*.json."""

import json
from itertools import chain

from benchmarks.environment import ROOT

_HEAD = "| run | attack | images | clean | eps | certified | attacked | distance over radius |"


def attacked() -> str:
    records = sorted((ROOT / "records").glob("attacks*.json"))
    if not records:
        return "Not measured yet.\n"
    rows = [_HEAD, "|" + "---|" * (_HEAD.count("|") - 1)]
    for run in chain.from_iterable(json.loads(path.read_text())["runs"] for path in records):
        recipe = run["recipe"]
        name = f"`{recipe['name']}`, {recipe['epochs']} epochs, seed {recipe['seed']}"
        best = [{**line, "name": f"strongest of {len(line['of'])}"} for line in run["strongest"]]
        for line in (*run["attacks"], *best):
            for eps, share in line["attacked"].items():
                numbers = (f"{line['clean']:.2f}", eps, f"{line['certified'][eps]:.2f}")
                ratio = line.get("distance", {}).get("over radius, median")
                last = "" if ratio is None else f"{ratio:.2f}"
                cells = (name, line["name"], str(line["images"]), *numbers, f"{share:.2f}", last)
                rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


ATTACK_TABLES = {"attacked": attacked}
