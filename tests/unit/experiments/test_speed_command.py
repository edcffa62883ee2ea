"""`experiments.speed` as a user runs it; it writes records/speed.json."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.speed import EXPERIMENT, _page, _results
from experiments.speed._cases import parse_layer
from experiments.speed._contenders import select
from experiments.speed._page import added, aims
from experiments.speed._results import Results
from experiments.speed._rows import SpeedRow
from experiments.speed._spectra import Accuracy
from experiments.speed._timing import TimingSettings

ROOT = Path(__file__).resolve().parents[3]
TINY = ("--layers", "4x4x3@4b1", "6x4b2", "--methods", "taut", "--repeats", "1", "--threads", "1")


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = EXPERIMENT.run([*map(str, arguments)])
    output = capsys.readouterr()
    return code, output.out, output.err


def held(folder):
    return json.loads((folder / "record.json").read_text())["rows"]["own"]


def test_record_table_and_screen_agree(tmp_path, capsys):
    code, out, _ = run(capsys, *TINY, "--out", tmp_path / "new")
    record = json.loads((tmp_path / "new" / "record.json").read_text())
    table = (tmp_path / "new" / "table.md").read_text()
    assert code == 0
    assert [(x["case"], x["contender"]) for x in record["rows"]["own"]] == [
        ("4x4x3@4b1", "plain"),
        ("4x4x3@4b1", "taut"),
        ("6x4b2", "plain"),
        ("6x4b2", "taut"),
    ]
    assert record["environment"]["command"].startswith(
        "python -m experiments.speed --layers 4x4x3@4b1"
    )
    assert {"torch", "numpy", "orthogonium", "deel-torchlip"} <= set(record["environment"])
    for row in record["rows"]["own"]:
        ratio = f"{row['train_ratio']:.2f}"
        assert any(row["case"] in line and f"| {ratio} |" in line for line in table.splitlines())
        assert any(row["case"] in line and ratio in line for line in out.splitlines())
    assert sum("floor" in line for line in table.splitlines()) == 2


def test_finished_cases_are_not_measured_again(tmp_path, capsys, monkeypatch):
    run(capsys, *TINY, "--out", tmp_path)
    before = (tmp_path / "record.json").read_text()
    monkeypatch.setattr(_results, "measure", None)
    code, out, _ = run(capsys, *TINY, "--out", tmp_path)
    assert code == 0
    assert "6x4b2" in out
    assert (tmp_path / "record.json").read_text() == before


def test_interrupted_it_keeps_what_is_finished(tmp_path, capsys, monkeypatch):
    true, seen = _results.measure, []

    def stopped(case, *rest):
        seen.append(case.name)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return true(case, *rest)

    monkeypatch.setattr(_results, "measure", stopped)
    code, _, err = run(capsys, *TINY, "--out", tmp_path)
    assert code == 130
    assert "same command goes on" in err
    assert {row["case"] for row in held(tmp_path)} == {"4x4x3@4b1"}
    code, _, _ = run(capsys, *TINY, "--out", tmp_path)
    assert code == 0
    assert seen == ["4x4x3@4b1", "6x4b2", "6x4b2"]
    assert {row["case"] for row in held(tmp_path)} == {"4x4x3@4b1", "6x4b2"}


def test_another_contender_measures_its_case_anew(tmp_path, monkeypatch):
    """Times of different runs do not stand side by side."""
    case = parse_layer("4x4b1")
    results = Results(tmp_path, TimingSettings(repeats=1), "none")
    assert len(results.measured("own", case, select(["taut"]))) == 2
    monkeypatch.setattr(
        _results,
        "measure",
        lambda case, others, *rest: [SpeedRow(case.name, x.name, note="anew") for x in others],
    )
    results.measured("own", case, select(["taut", "RKO"]))
    assert [row["note"] for row in held(tmp_path)] == ["anew"] * 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--layers", "4by4"), "A layer is INxOUTxKERNEL"),
        (("--nets", "huge-mnist"), "A net is"),
        (("--methods", "magic"), "no method 'magic'"),
        (("--contender", "nowhere.py"), "no file nowhere.py"),
        (("--quick", "--repeats", "0"), "`repeats` must be at least 1"),
    ],
)
def test_wrong_use_is_one_sentence(arguments, words, tmp_path, capsys):
    code, _, err = run(capsys, *arguments, "--out", tmp_path)
    assert code == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1


def test_results_taken_otherwise_are_not_mixed(tmp_path, capsys):
    run(capsys, *TINY, "--out", tmp_path)
    code, _, err = run(capsys, *TINY[:-3], "2", "--threads", "1", "--out", tmp_path)
    assert code == 2
    assert "repeats 1, this run has 2" in err
    (tmp_path / "record.json").write_text("{")
    code, _, err = run(capsys, *TINY, "--out", tmp_path)
    assert code == 2
    assert "damaged" in err


def test_aims_are_the_worst_of_what_was_reached():
    def rows(case, plain, taut, peer):
        times = {"plain": plain, "taut": taut, "orthogonium": peer}
        return [SpeedRow(case, name, train=t, train_ratio=t / plain) for name, t in times.items()]

    other = rows("4x8x3@16b16", 1.0, 1.5, 6.0) + rows("8x4x3@16b16", 1.0, 0.8, 3.0)
    assert added(other, "orthogonium") == pytest.approx([0.1, -0.1])
    groups = {
        "steps": rows("large-mnistb128", 1.0, 9.0, 9.0) + rows("large-cifar10b128", 1.0, 1.2, 9.0),
        "equal": rows("4x4x3@16b16", 1.0, 0.9, 2.0),
        "stack": rows("stack-2x4@16b16", 2.0, 1.9, 9.0),
        "other": other,
    }
    found = [Accuracy("4x4b1", "taut", "gaussian", 2e-6, 1e-6)]
    reached = {x["what"]: x["reached"] for x in aims(groups, found, {"added": 0.2})}
    assert reached["training step of CIFAR-10 Large, over plain"] == pytest.approx(1.2)
    assert reached["other layers, time added, over orthogonium's"] == pytest.approx(0.1)
    assert reached["singular value farthest from 1"] == 2e-6
    assert "peak training memory, over plain" not in reached


def test_tables_show_what_the_record_holds(monkeypatch, tmp_path):
    row = {"case": "8x8x3@16b16", "contender": "taut", "floor": 0.001, "error": 1e-7, "above": 0.0}
    row |= {"train": 0.002, "train_ratio": 0.9, "eval_ratio": 1.0}
    row |= {"frozen_ratio": None, "memory_ratio": None}
    record = {"rows": {"equal": [row]}, "aims": [{"what": "x", "aim": 1.3, "reached": 1.25}]}
    file = tmp_path / "speed.json"
    file.write_text(json.dumps(record))
    monkeypatch.setattr(_page, "RECORD", file)
    assert "| 8x8x3@16b16 | taut | 2.0 | 1.0 | 0.90 | 1.00 | - | - | 1.0e-07 | +0.0e+00 |" in (
        _page.group_table("equal")
    )
    assert "| x | 1.3 | 1.25 |" in _page.aims_table()
    assert _page.group_table("other") == "Not in the record yet.\n"


@pytest.mark.slow
def test_the_record_is_written_and_has_every_table(tmp_path, monkeypatch):
    path = tmp_path / "speed.json"
    command = [sys.executable, "-m", "experiments.speed", "--quick", "--threads", "1"]
    command += ["--out", tmp_path / "out", "--record", path]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    monkeypatch.setattr(_page, "RECORD", path)
    for name, table in _page.TABLES.items():
        assert table().startswith("| "), name
