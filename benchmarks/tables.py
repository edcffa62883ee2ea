"""Write the tables of README.md and docs/ from records/ and from the exported classes.

python -m benchmarks.tables
"""

import json
import re
from pathlib import Path

from benchmarks.attack_tables import ATTACK_TABLES
from benchmarks.attenuation import attenuation_table, jacobian_table
from benchmarks.certificate_tables import CERTIFICATE_TABLES
from benchmarks.command_line import COMMAND_TABLES
from benchmarks.environment import ROOT
from benchmarks.speed_tables import SPEED_TABLES
from benchmarks.wasserstein_tables import WASSERSTEIN_TABLES
from taut.parametrizations import methods


def main() -> None:
    for page in PAGES:
        page.write_text(updated(page))


def updated(page: Path) -> str:
    """The text of a page with its tables as they should be."""
    text = page.read_text()
    for name, table in PAGES[page].items():
        text = _with(text, name, table())
    return text


def _with(text: str, name: str, table: str) -> str:
    pattern = rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- end -->)"
    text, count = re.subn(pattern, lambda m: m[1] + table + m[2], text, count=1, flags=re.DOTALL)
    assert count, f"a page has lost its mark for {name}"
    return text


def results() -> str:
    rows = [
        "| recipe | data | epochs | seeds | clean | certified | arithmetic | record |",
        "|" + "---|" * 8,
    ]
    for path in sorted((ROOT / "records").glob("*.json")):
        record = json.loads(path.read_text())
        if "recipe" not in record:
            continue
        values, recipe = record["summary"], record["recipe"]
        certified = ", ".join(
            f"{spread(value)} at {name.removeprefix('certified at ')}"
            for name, value in values.items()
            if name.startswith("certified at")
        )
        cells = (
            f"`{recipe['name']}`",
            record["runs"][0]["data"],
            str(recipe["epochs"]),
            str(len(record["runs"])),
            spread(values["clean"]),
            certified,
            record["runs"][0].get("arithmetic", "real"),
            f"[{path.stem}](records/{path.name})",
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def retraction() -> str:
    rows = ["| retracted | clean | certified at 1.58 | record |", "|" + "---|" * 4]
    for path in sorted((ROOT / "records" / "retraction").glob("*.json"), reverse=True):
        record = json.loads(path.read_text())
        every, values = record["recipe"]["retract_every"], record["summary"]
        name = f"every {every} steps" if every else "never"
        cells = name, spread(values["clean"]), spread(values["certified at 1.58"])
        rows.append(f"| {' | '.join(cells)} | `records/retraction/{path.name}` |")
    return "\n".join(rows) + "\n"


def reproduced() -> str:
    parts = []
    for path in sorted((ROOT / "records" / "tables").glob("*.json")):
        record = json.loads(path.read_text())
        title = record["title"][0].lower() + record["title"][1:]
        about = f"`{record['table']}`, {title}; {_effort(record)}; `records/tables/{path.name}`:"
        rows = ["| system | data | measure | ours | published | difference |", "|" + "---|" * 6]
        for line in record["lines"]:
            ours = "quoted" if line["quoted"] else spread(line)
            gaps = (line["published"], line["difference"])
            values = ("–" if gap is None else f"{gap:.2f}" for gap in gaps)
            cells = line["system"], line["data"], line["measure"], ours, *values
            rows.append(f"| {' | '.join(cells)} |")
        parts.append("\n".join([about, "", *rows]) + "\n")
    return "\n".join(parts) or "None is recorded yet.\n"


def _effort(record: dict) -> str:
    setting = record["setting"]
    if isinstance(setting, dict):  # of critics, with all its numbers
        return f"setting `{setting['name']}`"
    epochs = {str(run["recipe"]["epochs"]) for run in record["runs"]}
    return f"setting `{setting}`, epochs: {', '.join(sorted(epochs))} (published nets: 200)"


def anomalies() -> str:
    record = json.loads((ROOT / "records" / "anomalies.json").read_text())
    rows = ["| what | when | norm | proved bound |", "|" + "---|" * 4]
    for row in (*record["layers"], *record["training"]):
        cells = row["what"], row["when"], f"{row['norm']:.4f}", f"{row['bound']:.4f}"
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def spread(value: dict) -> str:
    deviation = "" if value["std"] is None else f" ± {value['std']:.2f}"
    return f"{value['mean']:.2f}{deviation}"


def method_table() -> str:
    rows = ["| name | guarantee | reference |", "|---|---|---|"]
    for name, cls in methods().items():
        rows.append(f"| `taut.{name}` | {cls.guarantee} | {cls.reference} |")
    return "\n".join(rows) + "\n"


PAGES = {
    ROOT / "README.md": {"results": results, "methods": method_table},
    ROOT / "docs" / "attacks.md": ATTACK_TABLES,
    ROOT / "docs" / "attenuation.md": {
        "attenuation": attenuation_table,
        "jacobian": jacobian_table,
    },
    ROOT / "docs" / "command-line.md": COMMAND_TABLES,
    ROOT / "docs" / "reproduce.md": {"reproduced": reproduced},
    ROOT / "docs" / "methods.md": {"anomalies": anomalies},
    ROOT / "docs" / "certificates.md": CERTIFICATE_TABLES,
    ROOT / "docs" / "speed.md": SPEED_TABLES,
    ROOT / "docs" / "weights.md": {"retraction": retraction},
    ROOT / "docs" / "wasserstein.md": WASSERSTEIN_TABLES,
}


if __name__ == "__main__":
    main()
