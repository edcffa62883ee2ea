"""`experiments.kinds` and `experiments.aoc` time layers that compute the same sizes."""

import json
import sys

import pytest
import torch

from experiments import aoc, kinds
from experiments.speed._kinds import KINDS, fastest


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_plain_layers_have_outputs_of_the_same_size(kind):
    x = kind.images(8, 2)
    assert kind.plain(8)(x).shape == kind.ours(8)(x).shape
    assert sum(p.numel() for p in kind.plain(8).parameters()) > 8


def test_a_record_is_completed_and_shown(tmp_path, monkeypatch, capsys):
    path = tmp_path / "kinds.json"
    words = ["--quick", "--repeats", "1", "--threads", "1", "--record", str(path), "--kinds"]
    names = [KINDS[0].name, "9, 1-D"]
    assert kinds.EXPERIMENT.run([*words, names[0]]) == 0
    first = json.loads(path.read_text())["rows"]
    assert kinds.EXPERIMENT.run([*words, *names]) == 0
    rows = json.loads(path.read_text())["rows"]
    assert rows[0] == first[0]
    assert [row["kind"] for row in rows] == names
    for row in rows:
        assert row["train_ratio"] == pytest.approx(row["taut_train"] / row["plain_train"])
        assert row["frozen_ratio"] == pytest.approx(row["frozen_eval"] / row["plain_eval"])
    monkeypatch.setattr(kinds, "RECORD", path)
    lines = kinds.kinds_table().splitlines()
    assert len(lines) == 2 + len(rows)
    assert f"| {rows[1]['train_ratio']:.2f} |" in lines[3]
    capsys.readouterr()


def test_the_faster_format_counts():
    busy, idle = (lambda: torch.ones(1 << 20).sum()), (lambda: None)
    times = fastest({("a", "slow"): busy, ("a", "fast"): idle, ("b", "only"): busy}, 3, 1.0)
    assert max(times["a"]) < min(times["b"])


def test_a_layer_that_fails_is_named():
    def fails():
        raise ValueError("no such layer")

    with pytest.raises(RuntimeError, match="a: no such layer"):
        fastest({("a", "first"): fails}, 1, 1.0)


def test_without_orthogonium_a_sentence_says_how_to_install_it(monkeypatch, capsys):
    for name in ["orthogonium", *(m for m in sys.modules if m.startswith("orthogonium."))]:
        monkeypatch.setitem(sys.modules, name, None)
    assert aoc.EXPERIMENT.run(["--quick"]) == 2
    assert "pip install orthogonium" in capsys.readouterr().err


def test_both_libraries_are_timed_and_shown(tmp_path, monkeypatch, capsys):
    pytest.importorskip("orthogonium")
    path = tmp_path / "aoc.json"
    words = ["--quick", "--repeats", "1", "--threads", "1", "--record", str(path), "--kernels"]
    assert aoc.EXPERIMENT.run([*words, "3"]) == 0
    first = json.loads(path.read_text())["rows"]
    assert aoc.EXPERIMENT.run([*words, "2", "3"]) == 0
    rows = json.loads(path.read_text())["rows"]
    assert rows[0] == first[0]
    assert [row["case"] for row in rows] == [
        aoc.QUICK_CASES[0].name,
        aoc.QUICK_CASES[2].name,
    ]
    monkeypatch.setattr(aoc, "RECORD", path)
    assert len(aoc.aoc_table().splitlines()) == 4
    assert len(aoc.arguments_table().splitlines()) == 6
    capsys.readouterr()


@pytest.mark.parametrize("case", aoc.CASES, ids=lambda case: case.name)
def test_layers_of_both_libraries_have_outputs_of_the_same_size(case):
    pytest.importorskip("orthogonium")
    x = torch.rand(1, case.inputs, 8, 8)
    layer = aoc.theirs(case).eval()
    with torch.no_grad():
        assert layer(x).shape == aoc.ours(case)(x).shape
        assert torch.allclose(aoc.exported(layer)(x), layer(x), atol=1e-5)


def test_taut_takes_what_orthogonium_takes():
    pytest.importorskip("orthogonium")
    found = aoc.accepted(aoc.GRID[::13])
    assert sum(found["counts"].values()) == len(aoc.GRID[::13])
    assert found["counts"]["both"] > 60
    assert found["counts"]["orthogonium"] == 0
    assert not found["refused"]
