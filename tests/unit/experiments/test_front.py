"""The front of clean against certified accuracy: which runs it counts, and what it draws."""

import json
import random
import shutil

import pytest

from experiments import _training, front
from experiments._record import Record
from taut.losses import OffsetCrossEntropy
from taut.training import Run, train


def test_the_front_is_what_no_other_point_passes():
    draw = random.Random(0)
    points = [(draw.randrange(9), draw.randrange(9)) for _ in range(40)]
    best = {p for p in points if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points)}
    assert front.upper_hull(points) == sorted(best)
    assert len(best) > 1


def test_a_record_holds_the_finished_runs_and_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(front, "RUNS", tmp_path / "runs")
    loss = OffsetCrossEntropy(offset=0.7, temperature=0.25)
    recipe = front.recipe("small", "fashion-mnist-subset", loss, 1, 0)
    folder = tmp_path / "runs" / "front-fashion-mnist-subset-small-o0.7-t0.25-e1-s0"
    train(recipe, folder)
    (folder / _training.ENVIRONMENT).write_text("{}")
    stopped = shutil.copytree(folder, folder.with_name(folder.name.replace("s0", "s1")))
    (stopped / "model.safetensors").unlink()

    front.fill(Record(tmp_path / "record.json", "none"), "small", "fashion-mnist-subset")
    record = json.loads((tmp_path / "record.json").read_text())
    ((run,),) = (point["runs"] for point in record["points"])
    last = Run.open(folder).history()[-1]
    assert run["arithmetic"] == "float64"
    assert run["clean"] == pytest.approx(100 * last["clean_accuracy"])
    assert run["certified"]["0.5"] == pytest.approx(100 * last["certified_accuracy_0.5"], abs=0.2)
    measured = folder / front.MEASURED
    said = json.loads(measured.read_text())
    for certified, clean in (({"0.5": 0.0}, said["clean"]), (said["certified"], -1.0)):
        measured.write_text(json.dumps(said | {"certified": certified, "clean": -1.0}))
        front.fill(Record(tmp_path / "again.json", "none"), "small", "fashion-mnist-subset")
        assert json.loads(measured.read_text())["clean"] == clean  # of other radii: done again

    for dataset, name in (("mnist", "MNIST"), ("fashion-mnist", "Fashion-MNIST")):
        record["dataset"], run["data"] = dataset, name
        front.draw(tmp_path / f"{dataset}.png", [record])
        assert (tmp_path / f"{dataset}.png").read_bytes().startswith(b"\x89PNG")
    published = {entry.name: entry[1:] for entry in front.published()}
    assert published["BCOP Large"] == (98.77, 56.66)
    assert published["RKO Large"] == (98.44, 55.18)
    assert published["CRM 4C3F (2023)"] == (96.27, 63.37)
    assert published["GloRo 4C3F (2021)"] == (None, 62.8)


def test_a_grid_with_one_side_and_a_command_without_work_are_refused(capsys):
    for words in ([], ["--offsets", "0.7"], ["--temperatures", "0.7", "--record", "none.json"]):
        assert front.EXPERIMENT.run(words) == 2
        assert "`--offsets`" in capsys.readouterr().err
