"""Records name commands that anyone can run, and no place of the machine that wrote them."""

import importlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments import NAMES
from experiments._record import Record, command_line
from taut.cli.app import COMMANDS

RECORDS = sorted((Path(__file__).parents[3] / "records").rglob("*.json"))


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


def commands(value: object) -> Iterator[str]:
    if isinstance(value, list):
        for part in value:
            yield from commands(part)
    if isinstance(value, dict):
        yield from commands(list(value.values()))
        if "command" in value:
            yield value["command"]


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_commands_of_a_record_can_be_typed_today(path):
    found = list(commands(json.loads(path.read_text())))
    assert found
    for command in found:
        words = shlex.split(command)
        if words[0] == "taut":
            assert words[1] in COMMANDS
            continue
        module = re.fullmatch(r"experiments\.(\w+)", words[2])
        assert words[:2] == ["python", "-m"]
        assert module is not None
        assert module[1] in NAMES
        experiment = importlib.import_module(words[2]).EXPERIMENT
        assert experiment.name == module[1]
        experiment.parser().parse_args(words[3:])  # raises if an option is not known


def test_every_command_says_what_it_does_with_an_example(capsys):
    for name in NAMES:
        experiment = importlib.import_module(f"experiments.{name}").EXPERIMENT
        assert experiment.name == name
        with pytest.raises(SystemExit):
            experiment.parser().parse_args(["--help"])
        assert f"Example: python -m experiments.{name}" in capsys.readouterr().out
        assert experiment.run(["--no-such-option"]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_values_given_twice_and_numbers_below_zero_are_refused(capsys):
    # A seed that is given twice would count as two runs without deviation.
    for name, words, said in (
        ("classify", "demo --seeds 0 0", "`--seeds` must have different values; got 0 0."),
        ("referee", "--steps -3", "`--steps` must be a number >= 0; got -3."),
        ("compare", "--quick --minutes nan", "`--minutes` must be a number >= 0; got nan."),
        ("front", "--offsets 1 --temperatures 0.3 -1", "`--temperatures` must be a number >= 0"),
    ):
        experiment = importlib.import_module(f"experiments.{name}").EXPERIMENT
        assert experiment.run(words.split()) == 2
        assert said in capsys.readouterr().err


def test_command_is_recorded_without_places(tmp_path):
    words = ["--data-dir", "mnist", "--record", str(tmp_path / "x.json"), "--seeds", "0"]
    command = "python -m experiments.front --data-dir DIR --record DIR --seeds 0"
    assert command_line("front", words) == command
    assert Record(None, command).environment()["command"] == command


def test_a_record_is_written_after_each_row(tmp_path, capsys):
    record = Record(tmp_path / "new" / "x.json", "python -m experiments.data")
    record.begin(seed=3)
    for value in (0.5, 1 / 3):
        record.add("rows", {"name": "a", "value": value, "inner": [1, 2]})
        found = json.loads((tmp_path / "new" / "x.json").read_text())
        assert found == json.loads(json.dumps(record.content))
    assert found["seed"] == 3
    assert {"commit", "date", "processor", "torch", "numpy"} <= set(found["environment"])
    assert found["rows"][1] == {"name": "a", "value": 1 / 3, "inner": [1, 2]}
    assert capsys.readouterr().out.splitlines() == ["name a  value 0.5", "name a  value 0.3333"]
