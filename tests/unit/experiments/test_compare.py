"""`experiments.compare` gives every method the same time, and goes on where it stopped."""

import json
import signal
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from experiments import compare
from experiments._record import read
from experiments.compare import _budget, _command, _memory, _page, _training
from experiments.compare._clock import Clock, Spent
from experiments.compare._net import build
from experiments.compare._published import NAMES, PUBLISHED
from taut.data import Split
from taut.models import SimpleNet, layers

CPU = torch.device("cpu")


class StepClock:
    """Advances by the cost of a step with each step of an optimiser, and by nothing else."""

    device = CPU

    def __init__(self, cost):
        self.cost, self.now = cost, 0.0

    def advance(self, *_):
        self.now += self.cost

    def read(self):
        return Spent(self.now, 2 * self.now)

    def charge(self, spent):
        return spent.cpu


def small(method, size, shape, classes):
    """In place of nets of full depth."""
    layer = layers()[method]
    net = SimpleNet(width=4, depth=1, blocks=3, layer=layer.layer)
    return net.build(shape, classes, parametrization=layer.parametrization)


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Gives the row of a method; a step of a small net costs a part of a budget of 60 seconds."""
    monkeypatch.setattr(_budget, "build", small)
    monkeypatch.setattr(_budget, "peak_memory", lambda *_: 2**20)
    monkeypatch.setattr(_budget, "RATES", (1e-3, 1e-2))
    data = _command.noise_data(0)
    parts = {
        name: Split(split.images[..., :8, :8].contiguous(), split.labels)
        for name, split in (("train", data.train), ("test", data.test))
    }
    data = replace(data, **parts)

    def run(method, cost, folder="run"):
        clock: Any = StepClock(cost)
        comparison = _budget.Comparison(data, "XXS", 60.0, 16, 0, clock, tmp_path / folder)
        hook = register_optimizer_step_post_hook(clock.advance)
        try:
            return _budget.row_of(method, comparison)
        finally:
            hook.remove()

    return run


def test_every_method_gets_the_same_time(measured):
    quick, slow = measured("BCOP", 1.5), measured("PotentialResidual2d, SLL", 3.5)
    for row, cost in ((quick, 1.5), (slow, 3.5)):
        searched = sum(trial["steps"] for trial in row["rates"])
        assert 60 - cost < row["charged seconds"] <= 60
        assert row["charged seconds"] == row["CPU seconds"] == row["wall seconds"] / 2
        assert cost * searched == pytest.approx(2 * 60 * _budget.TRIAL, abs=2 * cost)
        assert row["seconds a step"] == cost
        assert row["epochs"] == row["steps"] * 16 / 80
        assert row["memory"] == 2**20
        best = max(row["rates"], key=lambda trial: (trial["certified"], trial["clean"]))
        assert row["lr"] == best["lr"]
        assert [trial["lr"] for trial in row["rates"]] == list(_budget.RATES)
    assert quick["steps"] > 2 * slow["steps"]
    assert quick["bound"] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("method", ["BCOP", "OSSN", "LiRes"])
def test_a_stopped_run_ends_as_if_it_had_not_stopped(method, measured, monkeypatch, tmp_path):
    whole = measured(method, 3.0, "whole")
    stops = iter((1, 2, 4))
    steps, next_stop = 0, next(stops)

    @contextmanager
    def interrupting(what, total):
        def tell(done):
            nonlocal steps, next_stop
            steps += 1
            if steps == next_stop:
                next_stop = next(stops, None)
                signal.raise_signal(signal.SIGINT)

        yield tell

    monkeypatch.setattr(_budget, "progress", interrupting)
    for _ in range(3):
        with pytest.raises(
            KeyboardInterrupt, match=rf"^stopped after step \d+ of \d+ of {method}; "
        ):
            measured(method, 3.0, "stopped")
    assert measured(method, 3.0, "stopped") == whole
    files = [tmp_path / folder / method / "run.safetensors" for folder in ("whole", "stopped")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_layer_without_a_norm_learns_to_keep_its_bound_small(measured, monkeypatch):
    assert _training.LOSSES.keys() == {"LiRes"}
    with_its_loss = measured("LiRes", 1.0, "own")["bound"]
    monkeypatch.setattr(_training, "LOSSES", {})
    assert with_its_loss < measured("LiRes", 1.0, "common")["bound"]


def test_a_killed_run_goes_on_from_its_last_checkpoint(measured, monkeypatch, tmp_path):
    class Killed(Exception):
        pass

    @contextmanager
    def killing(what, total):
        def tell(done):
            if "run" in what and done == 3:
                raise Killed

        yield tell

    whole = measured("BCOP", 3.0, "whole")
    monkeypatch.setattr(_training, "_SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    with monkeypatch.context() as patched:
        patched.setattr(_budget, "progress", killing)
        with pytest.raises(Killed):
            measured("BCOP", 3.0, "killed")
    seen = []

    @contextmanager
    def watching(what, total):
        yield seen.append

    monkeypatch.setattr(_budget, "progress", watching)
    assert measured("BCOP", 3.0, "killed") == whole
    assert seen[0] == 3  # the step that was not saved is taken again, and none before it


def test_a_method_that_fails_is_a_row_that_says_why(measured, monkeypatch):
    row = measured("BCOP", 20.0)
    assert row == {
        "name": "BCOP",
        "note": "a step takes 20 seconds, but all steps only have 3.75.",
    }

    def refused(*_):
        raise ValueError("`kernel_size` must\nbe even.")

    monkeypatch.setattr(_budget, "build", refused)
    assert measured("ECO", 1.0) == {"name": "ECO", "note": "`kernel_size` must be even."}


def test_a_rate_that_diverges_is_not_taken(measured, monkeypatch):
    monkeypatch.setattr(_budget, "RATES", (1e-3, float("inf")))
    row = measured("RKO", 3.0, "one")
    assert row["lr"] == 1e-3
    assert "note" in row["rates"][1]
    assert 56 < row["charged seconds"] <= 60

    def diverging(*_):
        raise _training.MethodFailed("the loss is not finite after step 3.")

    monkeypatch.setattr(_budget, "train", diverging)
    note = measured("RKO", 3.0, "none")["note"]
    assert note == "no rate trains: the loss is not finite after step 3."


def test_a_checkpoint_of_another_training_is_refused(measured, tmp_path):
    measured("BCOP", 3.0)
    plan = tmp_path / "run" / "BCOP" / "plan.json"
    content = json.loads(plan.read_text())
    del content["run"]
    content["step"]["spent"][0] += 10.0  # fewer steps are left
    plan.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"run\.safetensors is of another training: remove it"):
        measured("BCOP", 3.0)


def test_other_settings_do_not_go_on_with_an_unfinished_method(tmp_path, monkeypatch, capsys):
    def stopped(*_):
        raise KeyboardInterrupt("stopped.")

    monkeypatch.setattr(_command, "row_of", stopped)
    words = ["--quick", "--threads", "1", "--out", str(tmp_path)]
    assert compare.EXPERIMENT.run(words) == 130
    assert compare.EXPERIMENT.run([*words, "--seed", "1"]) == 2
    assert "holds results with seed 0, this run has 1" in capsys.readouterr().err
    # Its plans would be continued, with other settings in the record.
    (tmp_path / "record.json").rename(tmp_path / "another.json")
    assert compare.EXPERIMENT.run([*words, "--seed", "1"]) == 2
    assert "`--out` must be new, empty or hold a record.json" in capsys.readouterr().err


def test_seconds_of_the_process_count_on_a_cpu_and_of_the_wall_on_a_gpu():
    spent = Spent(cpu=6.0, wall=10.0)
    assert Clock(CPU, 2).charge(spent) == 3
    assert Clock(torch.device("cuda"), 2).charge(spent) == 10
    clock = Clock(CPU, 1)
    begin = clock.read()
    torch.rand(200, 200) @ torch.rand(200, 200)
    assert 0 < clock.read().since(begin).wall < 60
    assert spent.plus(spent).since(spent) == spent


def test_the_command_fills_a_record_and_a_page_and_then_does_nothing(tmp_path, capsys, monkeypatch):
    here = lambda task, shape, classes, device: _memory.growth(task, shape, classes, 1)  # noqa: E731
    monkeypatch.setattr(_budget, "peak_memory", here)
    for module in (_budget, _memory):
        monkeypatch.setattr(module, "build", small)
    record, out = tmp_path / "compare-quick.json", tmp_path / "out"
    words = ["--quick", "--minutes", "0.02", "--threads", "1", "--out", str(out)]
    words += ["--record", str(record)]
    assert compare.EXPERIMENT.run([*words, "--methods", "ShiftMix2d"]) == 0
    content = json.loads(record.read_text())
    (row,) = content["rows"]
    assert content["settings"]["minutes"] == pytest.approx(0.02)
    assert 0.3 < row["charged seconds"] < 8
    assert row["memory"] > 4 * row["parameters"]
    assert row["images"] == 20
    assert set(row["certified"]) == set(_budget.EPS)
    assert "| ShiftMix2d |" in (out / "compare.md").read_text()
    before = record.read_bytes(), (out / "record.json").read_bytes()
    capsys.readouterr()
    assert compare.EXPERIMENT.run([*words, "--methods", "ShiftMix2d"]) == 0
    assert capsys.readouterr().err.startswith("0 methods of 0.02 minutes each")
    assert before == (record.read_bytes(), (out / "record.json").read_bytes())
    for wrong, said in (
        (["--seed", "1"], "holds results with seed 0, this run has 1"),
        (["--methods", "BCOQ"], "`--methods` must be among AOL; BCOP; "),
        (["--methods", "bcop"], "got bcop. Did you mean BCOP?"),
        (["--minutes", "0"], "`--minutes` must be a positive number; got 0.0."),
        (["--minutes", "nan"], "`--minutes` must be a number >= 0; got nan."),
        (["--draw", str(tmp_path / "none.json")], "`--draw` must be records of this experiment"),
        (["--draw", str(out / "compare.md")], "compare.md is damaged and cannot be read (Expect"),
    ):
        assert compare.EXPERIMENT.run([*words, *wrong]) == 2
        assert said in capsys.readouterr().err


def made_record():
    row = {
        "bound": 1.0000321, "lr": 0.003, "steps": 1200, "epochs": 6.144, "seconds a step": 0.75,
        "wall seconds": 1500.0, "memory": 3 * 2**29, "parameters": 1570000,
    }  # fmt: skip
    certified = dict.fromkeys(_budget.EPS[1:], 20.0)
    rows = [
        {"name": "BCOP", "clean": 55.5, "certified": {"36/255": 41.25} | certified} | row,
        {"name": "PotentialResidual2d, CPL", "clean": 56.0, "certified": {"36/255": 43.5}} | row,
        {"name": "RKO", "clean": 10.0, "certified": {"36/255": 0.0} | certified} | row,
        {"name": "LOT", "note": "a step takes 100 seconds, and 90 are left for all."},
    ]
    rows[1]["certified"] |= certified
    settings = {
        "size": "XS", "data": "CIFAR-10 (JPEG q75)", "minutes": 20.0, "device": "cpu", "seed": 0,
        "budget": "CPU time over the threads", "loss": "cross-entropy",
    }  # fmt: skip
    machine = {
        "processor": "a processor", "threads": 2, "gpu": "none", "torch": "2.13", "commit": "a" * 40
    }  # fmt: skip
    return {"environment": machine, "settings": settings, "rows": rows}


def test_page_of_a_record(tmp_path, monkeypatch):
    text = _page.write_page(tmp_path, made_record()).read_text()
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert "20 minutes of CPU time over the threads; a processor, 2 threads; torch 2.13" in text
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    names = [line[0].removeprefix("| ") for line in lines]
    assert names[:8] == 2 * ["method", "PotentialResidual2d, CPL", "BCOP", "RKO"]
    assert lines[1][1:4] == ["56.00", "43.50", "20.00"]
    assert lines[1][-1] == "74.9, 62.5 |"
    assert lines[2][-1] == "71.7, 58.5 |"
    assert lines[6][1:] == ["0.003", "1200", "6.1", "0.75", "25.0", "1536", "1570 |"]
    assert "- LOT failed: a step takes 100 seconds, and 90 are left for all." in text
    assert ["| LOT", "75.5, 63.4", "76.6, 64.6", "72.0, 58.7", "– |"] in lines

    monkeypatch.setattr(_page, "RECORDS", tmp_path)
    monkeypatch.setattr(_page, "FIGURES", tmp_path / "figures")
    assert _page.recorded() == _page.NOTHING
    path = tmp_path / "compare-xs.json"
    path.write_text(json.dumps(made_record()))
    assert "](figures/compare-xs.png)" in _page.recorded()
    (tmp_path / "figures").mkdir()
    assert compare.EXPERIMENT.run(["--draw", str(path)]) == 0
    assert (tmp_path / "figures" / "compare-xs.png").read_bytes() == _page.draw(read(path))


def test_sizes_are_those_of_the_paper():
    for size, millions in (("XXS", 0.39), ("XS", 1.57), ("S", 6.28)):
        net = build("RKO", size, (3, 32, 32), 10)
        kernels = sum(p.numel() for p in net.parameters() if p.ndim > 1)
        assert kernels == pytest.approx(1e6 * millions, rel=0.01)


def test_published_methods_are_layers():
    assert set(NAMES) <= set(layers())
    assert set(NAMES.values()) == set(PUBLISHED)


@pytest.mark.slow
def test_memory_is_measured_in_a_process_that_may_die():
    task = _training.Task("BCOP", "XXS", 10, 1e-3, 8, 0)
    peak = _memory.peak_memory(task, (3, 32, 32), 10, CPU)
    assert 4 * 4 * 230_000 < peak < 2**28  # numbers, their gradients and both moments at least
    assert peak < _memory.peak_memory(replace(task, batch=64), (3, 32, 32), 10, CPU)
    with pytest.raises(_training.MethodFailed), _training.failing():
        _memory.peak_memory(replace(task, batch=10**9), (3, 32, 32), 10, CPU)


@pytest.mark.gpu
def test_the_command_on_a_gpu(tmp_path):
    words = ["--quick", "--device", "cuda", "--out", str(tmp_path), "--methods", "BCOP"]
    assert compare.EXPERIMENT.run(words) == 0
    (row,) = json.loads((tmp_path / "record.json").read_text())["rows"]
    assert row["charged seconds"] == row["wall seconds"]
    assert row["memory"] > 2**20
