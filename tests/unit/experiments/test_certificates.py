"""The measurements of certificates: what they write, and the tables made of it."""

import json

import pytest
import torch

from experiments import certificates
from oracles import dense_operator


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    path, threads = tmp_path_factory.mktemp("record") / "c.json", torch.get_num_threads()
    arguments = ["--quick", "--most", "8", "--record", str(path)]
    for parts in (["rounding"], ["orthogonal", "narrow", "cases", "accuracy"]):
        assert certificates.EXPERIMENT.run([*arguments, "--parts", *parts]) == 0
    torch.set_num_threads(threads)
    return path


def test_parts_are_kept_side_by_side(record):
    found = json.loads(record.read_text())
    assert list(found) == ["rounding", "orthogonal", "narrow", "cases"]
    assert all("commit" in part["environment"] for part in found.values())
    assert all(0 <= row["excess"] < 3e-6 for row in found["orthogonal"]["rows"])
    assert [row["sound"]["flips"] for row in found["rounding"]["rows"]] == [0, 0, 0]
    assert sum(row["naive"]["flips"] for row in found["rounding"]["rows"]) > 0
    assert sum(row["cases"] for row in found["cases"]["rows"]) >= 2000
    for row in found["narrow"]["rows"]:
        assert 0 < row["float32"] < row["real"]


def test_tables_have_a_row_for_each_measurement(record, monkeypatch):
    monkeypatch.setattr(certificates, "RECORD", record)
    lines = {name: table().count("\n") for name, table in certificates.TABLES.items()}
    assert lines["bounds"] == 2 + 2
    assert lines["rounding"] == lines["narrow"] == 2 + 3
    assert lines["machine"] == 2 + 4
    assert certificates.accuracy_table() == "Not in the record yet.\n"


def test_true_norms_are_those_of_dense_operators():
    for name, op in certificates.plain_operators(4):
        small = type(op)(
            op.kernel, (5, 6), op.stride, op.dilation, op.groups, op.padding
        )  # 32 x 32 would be too large for an oracle
        dense = dense_operator(small, (small.in_channels, 5, 6))
        norm = torch.linalg.matrix_norm(dense, 2).item()
        assert certificates.true_norm(small) == pytest.approx(norm, rel=1e-8), name
