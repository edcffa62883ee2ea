"""`experiments.speed` as a user runs it; it writes records/speed.json."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from experiments.speed import EXPERIMENT, _command, _page, _results
from experiments.speed._cases import parse_layer
from experiments.speed._contenders import select
from experiments.speed._page import targets
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


def test_groups_are_added_to_what_there_is(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        _results,
        "measure",
        lambda case, others, *rest: [SpeedRow(case.name, x.name, train_ratio=1.0) for x in others],
    )
    monkeypatch.setattr(_command, "import_seconds", lambda repeats: {"added": 0.1})
    monkeypatch.setattr(Results, "accuracy", lambda self, *kind: Accuracy(*kind, 1e-7, 1e-7))
    words = ("--quick", "--out", tmp_path / "out", "--record", tmp_path / "speed.json")
    assert run(capsys, *words)[0] == 0
    whole = json.loads((tmp_path / "speed.json").read_text())
    assert set(whole["rows"]) == {"steps", "equal", "stack", "other"}
    assert run(capsys, *words, "--groups", "compiled")[0] == 0
    more = json.loads((tmp_path / "speed.json").read_text())
    assert set(more["rows"]) == {*whole["rows"], "compiled"}
    for part in ("environment", "targets"):
        assert more[part] == whole[part]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--layers", "4by4"), "A layer is INxOUTxKERNEL"),
        (("--nets", "huge-mnist"), "A net is"),
        (("--methods", "magic"), "no method 'magic'"),
        (("--contender", "nowhere.py"), "no file nowhere.py"),
        (("--quick", "--repeats", "0"), "`--repeats` must be at least 1"),
        (("--dtype", "tf32", "--device", "cpu"), "`--dtype` must be float32 or bfloat16 on a CPU"),
    ],
)
def test_wrong_use_is_one_sentence(arguments, words, tmp_path, capsys):
    code, _, err = run(capsys, *arguments, "--out", tmp_path)
    assert code == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("dtype", ["float32", "tf32", "bfloat16"])
def test_a_gpu_that_is_not_there_is_one_sentence(dtype, tmp_path, capsys):
    code, _, err = run(capsys, "--device", "cuda", "--dtype", dtype, "--out", tmp_path)
    assert code == 2
    assert err == (
        "experiments.speed: `--device` must be auto or cpu where torch finds no GPU; got cuda.\n"
    )


def test_precision_is_that_of_before_when_all_is_measured(tmp_path, capsys):
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    code, _, _ = run(capsys, *TINY, "--dtype", "bfloat16", "--device", "cpu", "--out", tmp_path)
    assert code == 0
    after = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    assert after == before
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["settings"]["dtype"] == "bfloat16"
    assert record["precision"] == {"products": "high", "TF32 in cuDNN": True}


def test_results_taken_otherwise_are_not_mixed(tmp_path, capsys):
    run(capsys, *TINY, "--out", tmp_path)
    code, _, err = run(capsys, *TINY[:-3], "2", "--threads", "1", "--out", tmp_path)
    assert code == 2
    assert "repeats 1, this run has 2" in err
    (tmp_path / "record.json").write_text("{")
    code, _, err = run(capsys, *TINY, "--out", tmp_path)
    assert code == 2
    assert "damaged" in err


def test_targets_are_reached_by_taut_alone():
    def rows(case, ratio, **more):
        ours = SpeedRow(case, "taut", train_ratio=ratio, **more)
        return [SpeedRow(case, "plain", train_ratio=1.0), ours, SpeedRow(case, "peer", above=9.0)]

    groups = {
        "steps": rows("large-mnistb128", 9.0) + rows("large-cifar10b128", 1.2, frozen_ratio=1.05),
        "equal": rows("64x64x3@32b64", 1.3, error=1e-7),
        "stack": rows("stack-12x256@16b16", 0.9, memory_ratio=0.8),
    }
    found = [Accuracy("4x4b1", "taut", "gaussian", 2e-6, 1e-6)]
    found += [Accuracy("4x4b1", "peer", "gaussian", 1.0, 1.0)]
    listed = targets(groups, found, {"added": 0.2})
    reached = {x["what"]: x["reached"] for x in listed}
    assert reached == {
        "training step, CIFAR-10 Large, batch 128": 1.2,
        "evaluation, CIFAR-10 Large, frozen": 1.05,
        "3x3 layer, 64 channels": 1.3,
        "training step, 12 layers of 256 channels": 0.9,
        "peak memory of training these nets": 0.8,
        "singular value farthest from 1": 2e-6,
        "largest singular value less 1": 1e-6,
        "import taut after torch, seconds": 0.2,
    }
    assert listed[2]["target"] == 1.1
    inexact = targets(groups, found, {"added": 0.2}, exact=False)
    assert "singular value farthest from 1" not in {x["what"] for x in inexact}


def test_on_a_gpu_waits_are_the_target():
    row = SpeedRow("large-cifar10b128", "taut", train_ratio=3.0, launches=100, syncs=2)
    listed = targets({"steps": [row]}, [], {"added": 0.2})
    reached = {x["what"]: x["reached"] for x in listed}
    assert reached["waits for the GPU in a training step"] == 2
    assert "training step, CIFAR-10 Large, batch 128" not in reached


def row_of(case, contender, **numbers):
    return asdict(SpeedRow(case, contender, **numbers))


def test_tables_show_what_the_record_holds(monkeypatch, tmp_path):
    setting = {"train_setting": "zeros, channels last"}
    layer = "8x8x3@16b16"
    rows = [
        row_of(layer, "plain", train=0.001, train_ratio=1.0, **setting),
        row_of(layer, "plain-circular", train=0.0015, train_ratio=1.5),
        row_of(layer, "taut", train=0.002, train_ratio=2.0, frozen_ratio=1.25, error=1e-7),
    ]
    net = [row_of("large-mnistb128", "taut", train=0.1, train_ratio=1.1, memory_ratio=0.9)]
    done = [
        {"what": what, "target": 1.1, "reached": 1.25}
        for what in ("x", "training step, CIFAR-10 Large, batch 128")
    ]
    record = {"rows": {"equal": rows, "steps": net}, "targets": done}
    record |= {"environment": {"threads": 2}}
    file = tmp_path / "speed.json"
    file.write_text(json.dumps(record))
    monkeypatch.setattr(_page, "RECORD", file)
    lines = _page.layers_table("equal").splitlines()
    assert lines[0].count("|") == lines[-1].count("|")
    assert lines[-1] == (
        "| 8x8x3@16b16 | 1.0 | zeros, channels last | 2.0 | - | 2.00 | - | 1.25 | 1.50 | 1.0e-07 |"
    )
    assert "| MNIST Large | taut |  | 100.0 | 1.10 | - | - | 0.90 | - |" in (
        _page.nets_table("steps", "stack")
    )
    assert "| x | 1.1 | 1.25 |" in _page.targets_table()
    assert _page.layers_table("other") == "Not in the record yet.\n"
    assert _page.gpu_table() == "Not in the record yet.\n"
    gpu = {"settings": {"dtype": "bfloat16"}, "rows": {"steps": [net[0] | {"launches": 70}]}}
    (tmp_path / "speed-cuda-bfloat16.json").write_text(json.dumps(gpu))
    lines = _page.gpu_table().splitlines()
    assert lines[0] == "In bfloat16:"
    assert lines[2].count("|") == lines[-1].count("|")
    assert lines[-1] == "| large-mnistb128 | taut | - | 100.00 | 1.10 | - | - | 0.90 | 70 | - |"


def test_a_record_of_another_baseline_is_not_shown(monkeypatch, tmp_path):
    """Records that name no setting compare with circular padding."""
    row = row_of("large-mnistb128", "taut", train=0.1, train_ratio=1.1)
    row.pop("train_setting")
    file = tmp_path / "speed.json"
    file.write_text(json.dumps({"rows": {"steps": [row]}}))
    monkeypatch.setattr(_page, "RECORD", file)
    assert _page.nets_table("steps") == "Not in the record yet.\n"


@pytest.mark.slow
def test_the_record_is_written_and_has_every_table(tmp_path, monkeypatch):
    path = tmp_path / "speed.json"
    command = [sys.executable, "-m", "experiments.speed", "--quick", "--threads", "1"]
    command += ["--out", tmp_path / "out", "--record", path]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    monkeypatch.setattr(_page, "RECORD", path)
    for name, table in _page.TABLES.items():
        if name not in ("compiled", "gpu"):
            assert table().startswith("| "), name
