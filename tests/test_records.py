"""Records name commands that anyone can run, and no place of the machine that wrote them."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

RECORDS = sorted((Path(__file__).parents[1] / "records").rglob("*.json"))


def texts(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from texts(part)
    elif isinstance(value, str):
        yield value


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_record_names_no_place_of_a_machine(path):
    for text in texts(json.loads(path.read_text())):
        words = text.split() if text.startswith("python ") else [text]
        assert not [word for word in words if Path(word).is_absolute()], text


def test_command_is_recorded_without_places(monkeypatch, tmp_path):
    from benchmarks.environment import environment

    words = ["front.py", "--data-dir", "mnist", "--out", str(tmp_path / "x.json"), "--seeds", "0"]
    monkeypatch.setattr(sys, "argv", words)
    command = "python -m benchmarks.front --data-dir DIR --out DIR --seeds 0"
    assert environment()["command"] == command
