"""Runs survive crashes and full disks; damaged files are refused by name, never believed."""

import errno
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import taut
from experiments.survival import Fault, fail, make_data, measured, with_fault
from taut.cli import main
from taut.files import (
    load_tensors,
    remove_leftovers,
    save_tensors,
    write_atomically,
)
from taut.training import Recipe, Run, train
from taut.training._run import alone

ROOT = Path(__file__).resolve().parents[3]
TINY = Recipe(
    name="tiny",
    dataset="npz",
    input_shape=(1, 6, 6),
    classes=3,
    epochs=2,
    batch_size=15,
    eps=("1/10",),
)  # 4 steps


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    return train(TINY, tmp_path_factory.mktemp("runs") / "finished", data_dir=data)


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished run, to be damaged."""
    shutil.copytree(finished.path, tmp_path / "run")
    return Run.open(tmp_path / "run")


def bits(run: Run) -> list[dict[str, bytes]]:
    files = (load_file(run.path / name) for name in ("model.safetensors", "state.safetensors"))
    return [{name: t.numpy().tobytes() for name, t in file.items()} for file in files]


# Faults of the disk.

OPERATIONS = ("mkstemp", "write", "fsync", "chmod", "replace", "fsync")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("at", range(1, len(OPERATIONS) + 1))
def test_a_failing_operation_leaves_the_old_file_or_the_new(at, number, tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    old, new = {"x": torch.zeros(9)}, {"x": torch.ones(9)}
    save_tensors(path, old, {})
    for module, name in ((tempfile, "mkstemp"), (os, "fsync"), (os, "chmod"), (os, "replace"),
                         (os, "fdopen")):  # fmt: skip
        monkeypatch.setattr(module, name, getattr(module, name))  # put back after the test
    with_fault(Fault(at, fail(number)))
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        save_tensors(path, new, {})
    assert caught.value.filename == str(path)
    expected = new if at == len(OPERATIONS) else old  # after the rename it is there
    assert torch.equal(load_tensors(path)[0]["x"], expected["x"])
    assert os.listdir(tmp_path) == [path.name]


def test_kills_and_failures_are_survived(tmp_path):
    """A case of each kind; the command runs as many as one likes."""
    command = [sys.executable, "-m", "experiments.survival", "--cases", "1", "--seed", "1"]
    command += ["--record", str(tmp_path / "survival.json")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    faults = json.loads((tmp_path / "survival.json").read_text())["faults"]
    assert len(faults) == 6
    for kind, counts in faults.items():
        survived = counts.get("survived", 0) + counts.get("refused by name", 0)
        assert survived + counts.get("read as written", 0) == counts["cases"] > 0, (kind, done)


@pytest.mark.slow
def test_more_kills_and_failures_are_survived(tmp_path):
    for kind, counts in measured(tmp_path, 10, 5):
        assert counts["cases"] == sum(v for k, v in counts.items() if k != "cases"), kind


def test_a_crash_between_the_two_files_changes_no_result(finished, data, tmp_path, monkeypatch):
    from taut.training import _checkpoint as checkpoint

    def save(path, tensors, metadata):
        if metadata["step"] == "4" and path.name == "state.safetensors":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        save_tensors(path, tensors, metadata)

    monkeypatch.setattr(checkpoint, "save_tensors", save)
    with pytest.raises(OSError, match="No space left"):
        train(TINY, tmp_path / "run", data_dir=data)
    monkeypatch.undo()
    assert bits(train(TINY, tmp_path / "run")) == bits(finished)


def test_a_full_disk_is_one_sentence_that_names_the_file(tmp_path, data, monkeypatch, capsys):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "tiny.json").write_text(TINY.to_json())
    monkeypatch.setattr(os, "replace", full)
    options = ["--run", str(tmp_path / "run"), "--data-dir", str(data)]
    assert main(["train", str(tmp_path / "tiny.json"), *options]) == 1
    error = capsys.readouterr().err
    assert error == f"taut: No space left on device: {tmp_path}/run/run.json\n"


def test_a_folder_left_before_it_was_a_run_is_taken(data, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in (".lock", "run.json", ".recipe.json.ab12", ".run.json.cd34"):
        (folder / name).write_text("half")
    train(replace(TINY, epochs=1), folder, data_dir=data)
    assert not [name for name in os.listdir(folder) if name.count(".") > 2]
    assert sorted(os.listdir(folder))[0] == ".lock"


def test_leftovers_of_one_file_are_not_those_of_another(tmp_path):
    for name in (".a.x1", ".a.b.x2", ".ab.x3", "a", ".[a].x4"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path / "[a]")
    assert (tmp_path / ".a.x1").exists()
    assert not (tmp_path / ".[a].x4").exists()
    remove_leftovers(tmp_path / "a")
    assert {".ab.x3", "a"} == set(os.listdir(tmp_path))


# Damaged files.


def test_every_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors = {"x": torch.tensor([1.0, -2.0]), "n": torch.tensor(3)}
    save_tensors(path, tensors, {"step": "3"})
    whole, refused = path.read_bytes(), 0
    for place in range(len(whole)):
        for bit in range(8):
            content = bytearray(whole)
            content[place] ^= 1 << bit
            path.write_bytes(content)
            try:
                found, text = load_tensors(path)
            except ValueError as error:
                refused += str(path) in str(error)
                continue
            # Only the name of the checksum itself can change unnoticed: then it is text.
            assert text["step"] == "3"
            assert len(text) == 2
            assert found.keys() == tensors.keys()
            assert all(torch.equal(found[k], tensors[k]) for k in tensors)
    assert refused > 0.95 * 8 * len(whole)


def test_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"x": torch.ones(2)}, {"step": "3"})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=re.escape(f"{path} is damaged")):
            load_tensors(path)


@pytest.mark.parametrize("name", ["state.safetensors", "model.safetensors"])
def test_a_flipped_bit_of_a_weight_stops_the_run_by_name(name, run):
    path = run.path / name
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} is damaged") as caught:
        train(TINY, run.path) if name.startswith("state") else run.model()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(value, run):
    path = run.path / "state.safetensors"
    tensors, text = load_tensors(path)
    tensors["optimiser.0.exp_avg"].view(-1)[3] = value
    save_tensors(path, tensors, text)
    with pytest.raises(ValueError, match=r"state\.safetensors holds numbers .*exp_avg"):
        train(TINY, run.path)


def test_the_checkpoint_of_another_recipe_is_refused(run, data, tmp_path):
    other = train(replace(TINY, lr=0.3, epochs=1), tmp_path / "other", data_dir=data)
    for name in ("state.safetensors", "model.safetensors"):
        shutil.copy(other.path / name, run.path / name)
    with pytest.raises(ValueError, match=r"state\.safetensors belongs to another recipe"):
        train(TINY, run.path)
    with pytest.raises(ValueError, match=r"model\.safetensors belongs to another recipe"):
        run.model()


class Harmful:
    def __reduce__(self):
        return os.abort, ()


@pytest.mark.parametrize("name", ["state.safetensors", "model.safetensors"])
def test_a_pickle_is_refused_and_not_run(name, run):
    (run.path / name).write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        train(TINY, run.path) if name.startswith("state") else run.model()


def test_nothing_in_the_package_unpickles():
    """But for tensors, and CIFAR's original files, whose reader takes plain values and no code."""
    pattern = re.compile(
        r"torch\.load\((?!.*weights_only=True)|pickle\.loads?\(|Unpickler|allow_pickle=True|joblib|dill"
    )
    found = {
        file.relative_to(ROOT / "src/taut").as_posix()
        for file in (ROOT / "src/taut").rglob("*.py")
        if pattern.search(file.read_text())
    }
    assert found <= {"data/_inert_pickle.py"}


# Two processes.

HOLDER = """
import fcntl, os, sys, time
handle = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(handle, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_process_is_told_and_a_killed_one_holds_nothing(run):
    before = {p.name: p.read_bytes() for p in run.path.iterdir()}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run.path / ".lock")], stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="Another process trains in") as caught:
            train(TINY, run.path)
        assert str(run.path) in str(caught.value)
        assert before == {p.name: p.read_bytes() for p in run.path.iterdir()}
        holder.send_signal(signal.SIGKILL)
    assert bits(train(TINY, run.path)) == bits(run)


def test_a_lock_ends_with_its_block(tmp_path):
    with pytest.raises(KeyError), alone(tmp_path):
        raise KeyError
    with alone(tmp_path), pytest.raises(ValueError, match="Another process"), alone(tmp_path):
        pass
    with alone(tmp_path):
        assert os.listdir(tmp_path) == [".lock"]


def test_reading_a_run_needs_no_lock(run):
    with alone(run.path):
        assert run.model() is not None
        assert float(taut.lipschitz_bound(run.model(), (1, 6, 6))) < 1.001


def test_equal_content_gives_equal_bytes(tmp_path):
    tensors = {name: torch.ones(3) for name in "cab"}
    for number in range(8):
        text = {"step": "3", "seconds": "ü", "other": "x"}
        save_tensors(tmp_path / str(number), tensors, text)
        assert load_tensors(tmp_path / str(number))[1] == text
        assert (load_file(tmp_path / str(number))["a"] == 1).all()  # by the library itself
    assert len({file.read_bytes() for file in tmp_path.iterdir()}) == 1


def test_atomic_files_are_readable_by_all(tmp_path):
    write_atomically(tmp_path / "a", b"x")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644
