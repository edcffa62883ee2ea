"""Training in two processes is training in one: equal batches, one curve, one run folder."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import taut
from taut.cli.app import main
from taut.data import Augment, Batches, Share, Split, batches
from taut.losses import EMMA
from taut.parametrizations import methods
from taut.training import Launch, Recipe, Run, TrainingInterrupted, is_first_process, train
from taut.training._processes import Processes

TINY = Recipe(
    name="tiny",
    dataset="npz",
    input_shape=(1, 6, 6),
    classes=3,
    lr=1e-2,
    epochs=3,
    batch_size=29,  # batches of 29 images and of 1: uneven parts, and one without images
    retract_every=2,
    augment=Augment(crop_padding=1, flip=True),
    eps=("1/10", "0.5"),
)
# ECO takes images of which its kernel size divides the size.
METHODS = [n for n, cls in methods().items() if not cls.matrices_only and n != "ECO"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
WORKER = Path(__file__).with_name("ddp_worker.py")


def python(*arguments, cwd, **options):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    ours = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    environment = ours | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.Popen(command, cwd=cwd, env=environment, **options)


def finished(process):
    try:
        stdout, stderr = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, stderr
    return stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("ddp")
    rng = np.random.default_rng(0)
    labels = np.arange(30) % 3
    images = rng.integers(0, 120, (30, 6, 6)) + 60 * labels[:, None, None]
    images = images.clip(0, 255).astype(np.uint8)
    np.savez(path / "data.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    (path / "tiny.json").write_text(TINY.to_json())
    return path


@pytest.fixture(scope="module")
def alone(folder):
    """What one process comes to."""
    return train(TINY, folder / "alone", data_dir=folder / "data.npz")


@pytest.fixture(scope="module")
def said(folder):
    """What each of two processes says of the runs in ddp_worker.py."""

    def stop(progress):
        if progress.step == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(TrainingInterrupted):
        train(TINY, folder / "resumed-by-two", data_dir=folder / "data.npz", on_progress=stop)
    finished(python(*TORCHRUN, WORKER, folder, cwd=folder))
    return [json.loads((folder / f"said-{rank}.json").read_text()) for rank in (0, 1)]


def assert_same_curve(run, expected):
    rows = run.history()
    assert len(rows) == len(expected.history())
    for row, other in zip(rows, expected.history(), strict=True):
        assert math.isclose(row["train_loss"], other["train_loss"], rel_tol=1e-5)
        # Nine or thirty images, none of them at the edge: shares do not move by rounding.
        for name in row.keys() - {"train_loss", "seconds", "bound"}:
            assert row[name] == other[name]
        assert math.isclose(row["bound"], other["bound"], rel_tol=1e-5)
    weights, others = run.model().state_dict(), expected.model().state_dict()
    assert all(torch.allclose(weights[name], others[name], atol=1e-4) for name in weights)


def test_steps_on_the_manifold_are_those_of_one_process(folder, said):
    recipe = replace(TINY, optimizer="stiefel-adam")
    alone = train(recipe, folder / "stiefel-alone", data_dir=folder / "data.npz")
    assert_same_curve(Run.open(folder / "stiefel"), alone)


@pytest.mark.parametrize(
    ("name", "augment"),
    [("mixed", Augment(crop_padding=1, cutout=2, mixup=0.4)), ("shared rows", TINY.augment)],
)
def test_rows_bounds_and_partners_are_those_of_one_process(name, augment, folder, said):
    recipe = replace(TINY, loss=EMMA(), augment=augment)
    alone = train(recipe, folder / f"{name} alone", data_dir=folder / "data.npz")
    assert_same_curve(Run.open(folder / name), alone)


def test_norms_that_are_followed_are_those_of_one_process(folder, said):
    run = Run.open(folder / "followed")
    alone = train(run.recipe, folder / "followed-alone", data_dir=folder / "data.npz")
    assert_same_curve(run, alone)
    assert run.history()[-1]["bound"] > 1.01


def test_torchrun_trains_as_one_process(folder, alone):
    arguments = ["taut", "train", "tiny.json", "--data-dir", "data.npz", "--run", "torchrun"]
    stdout = finished(python(*TORCHRUN, "-m", "--", *arguments, cwd=folder))
    assert_same_curve(Run.open(folder / "torchrun"), alone)
    # Only the first process speaks, and only it leaves files.
    assert [line.split()[0] for line in stdout.splitlines()] == ["epoch"] * 3 + ["torchrun:"]
    assert set(os.listdir(folder / "torchrun")) == set(os.listdir(alone.path))


def test_ctrl_c_stops_all_processes_of_the_launcher_with_a_run_to_resume(folder):
    command = ["taut", "train", "tiny.json", "--data-dir", "data.npz", "--run", "stop"]
    command += ["--epochs", "100000", "--devices", "2"]
    process = python("-m", *command, cwd=folder, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not (folder / "stop" / "state.safetensors").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to each process
        _, stderr = process.communicate(timeout=120)  # ends when the last process closes its end
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    assert stderr.count("taut train --resume stop") == 1
    assert "Traceback" not in stderr
    run = Run.open(folder / "stop")
    assert run.history()[-1]["step"] == 2 * len(run.history())


def test_an_interrupt_of_any_process_stops_all_at_one_step(said):
    assert said[0]["interrupted"] == said[1]["interrupted"]
    name, message = said[0]["interrupted"]
    assert name == "TrainingInterrupted"
    assert message.startswith("Stopped after step 3 of 6; ")


def test_two_processes_resume_what_one_began(said, folder, alone):
    assert_same_curve(Run.open(folder / "resumed-by-two"), alone)


def test_weights_that_are_computed_once_over_processes_train_alike(said, folder, alone):
    assert_same_curve(Run.open(folder / "shared"), alone)


def test_a_loss_of_two_samples_sees_the_whole_batch(said, folder):
    """The parts of a batch have other sizes, and other shares of the classes."""
    run = Run.open(folder / "two-sample")
    alone = train(run.recipe, folder / "two-sample-alone", data_dir=folder / "data.npz")
    assert_same_curve(run, alone)


def test_one_process_resumes_what_two_began(said, folder, alone):
    # The run that two processes left at step 3, in the middle of an epoch.
    assert len(Run.open(folder / "stopped").history()) == 1
    assert_same_curve(train(TINY, folder / "stopped"), alone)


def test_weights_are_bitwise_equal_in_all_processes_for_every_method(said):
    assert set(said[0]["weights"]) == set(METHODS)
    assert said[0]["weights"] == said[1]["weights"]
    assert len(set(said[0]["weights"].values())) > len(METHODS) // 2


def test_weights_that_drift_apart_end_the_run(said):
    for one in said:
        assert one["drift"][0] == "RuntimeError"
        assert one["drift"][1].startswith("Weights differ from process to process")


def test_what_fails_in_the_first_process_ends_all(said):
    assert said[0]["full disk"][0] == "OSError"
    assert said[0]["other recipe"][0] == "ValueError"
    assert said[1]["full disk"][0] == said[1]["other recipe"][0] == "OtherProcessFailed"


def test_averages_clipping_and_accumulation_are_those_of_one_process(said, folder):
    run = Run.open(folder / "settings")
    assert (run.recipe.accumulate, run.recipe.ema) == (3, 0.9)
    assert_same_curve(run, train(run.recipe, folder / "settings-alone", data_dir=run.data_dir))


def test_bfloat16_in_two_processes_keeps_the_guarantee(said, folder):
    assert all(1 - 1e-5 < row["bound"] < 1 + 1e-5 for row in Run.open(folder / "bf16").history())


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 5), st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_shares_make_up_the_batch_that_one_process_sees(count, batch_size, world, epoch):
    images = torch.arange(count * 9, dtype=torch.int32).to(torch.uint8).view(count, 1, 3, 3)
    split = Split(images, torch.arange(count))
    varied = Augment(crop_padding=1)
    whole = list(batches(split, batch_size, seed=1, epoch=epoch, augment=varied))
    shares = [
        Batches(
            split=split, batch_size=batch_size, seed=1, augment=varied, share=Share(rank, world)
        )
        for rank in range(world)
    ]
    parts = list(zip(*(share.epoch(epoch) for share in shares), strict=True))
    assert len(parts) == len(whole) == shares[0].steps
    for step, ((pixels, labels), found) in enumerate(zip(whole, parts, strict=True)):
        assert torch.equal(torch.cat([x for x, _ in found]), pixels)
        assert torch.equal(torch.cat([y for _, y in found]), labels)
        sizes = [len(y) for _, y in found]
        assert sum(sizes) == shares[0].size(step)
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("method", METHODS)
def test_every_parameter_is_used(method):
    """A parameter without gradient would stop DDP at the second step."""
    model = replace(TINY, parametrization=methods()[method]).build_model()
    TINY.loss(model(torch.rand(4, 1, 6, 6)), torch.tensor([0, 1, 2, 0])).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_weights_are_orthogonal_under_bfloat16_as_it_trains(folder, alone, monkeypatch):
    seen, weight = [], taut.Orthogonal.weight

    def watched(owner):
        seen.append(weight(owner).detach())
        return weight(owner)

    monkeypatch.setattr(taut.Orthogonal, "weight", watched)
    recipe = replace(TINY, precision="bf16-mixed")
    run = train(recipe, folder / "bf16-alone", data_dir=folder / "data.npz", device="cpu")
    assert len(seen) >= 12  # two layers, six steps
    for found in seen:
        assert found.dtype == torch.float32
        norms = torch.linalg.svdvals(found.double())
        assert norms.max() < 1 + 1e-5
        assert norms.min() > 1 - 1e-5
    assert all(t.dtype == torch.float32 for t in run.model().state_dict().values())
    assert all(1 - 1e-5 < row["bound"] < 1 + 1e-5 for row in run.history())
    # The layers did run in bfloat16.
    losses = [[row["train_loss"] for row in r.history()] for r in (run, alone)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--devices", "0"], ["`--devices` must be at least 1; got 0"]),
        (["--nodes", "-1"], ["`--nodes` must be at least 1; got -1"]),
        (["--precision", "fp8"], ["precision"]),
        (["--optimizer", "lion"], ["stiefel-adam"]),
    ],
)
def test_wrong_launches_are_told(options, parts, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    try:
        code = main(["train", "tiny.json", "--data-dir", "data.npz", "--run", "never", *options])
    except SystemExit as left:
        code = left.code
    assert code == 2
    assert all(part in capsys.readouterr().err for part in parts)
    assert not (folder / "never").exists()


def test_torchrun_is_not_contradicted(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("WORLD_SIZE", "6")
    assert Launch().resolve() == Launch(2, 3).resolve() == Launch(2, 3)
    with pytest.raises(ValueError, match="those of torchrun, 2 and 3, or be left out; got 4 and 1"):
        Launch(4).resolve()


def test_shares_of_no_process_are_refused():
    with pytest.raises(ValueError, match="`rank` must be from 0 to 1; got 2"):
        Share(2, 2)


SLURM = {
    "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "16",
    "SLURM_NTASKS_PER_NODE": "8",
    "SLURM_NNODES": "2",
    "SLURM_NODELIST": "node[1-2]",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_JOB_ID": "7",
}


@pytest.fixture
def slurm(monkeypatch):
    """What `srun` tells the second process of the second machine; nothing is connected."""
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("lightning_fabric.Fabric.launch", lambda fabric: None)


@pytest.mark.parametrize("launch", [(8, 2), (1, 1)])
def test_slurm_says_which_process_this_is(launch, slurm):
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

    found = Processes(Launch(*launch), torch.device("cpu"), "32-true")
    strategy = found.fabric.strategy
    assert isinstance(strategy.cluster_environment, SLURMEnvironment)
    assert (found.share.rank, found.share.world) == (9, 16)
    assert (found.fabric.local_rank, found.fabric.node_rank) == (1, 1)
    assert not found.first
    assert not is_first_process()
    assert strategy.cluster_environment.main_address == "node1"
    assert strategy.cluster_environment.creates_processes_externally


@pytest.mark.parametrize("launch", [(1, 2), (8, 1), (4, 4)])
def test_numbers_that_contradict_slurm_are_refused(launch, slurm):
    with pytest.raises(ValueError, match="must be those of Slurm, 8 and 2, or be left out"):
        Launch(*launch).resolve()


def test_a_shell_within_a_slurm_job_is_a_process_of_its_own(slurm, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    assert Launch(2).resolve() == Launch(2)


def test_weights_are_not_shared_where_gradients_accumulate(folder):
    recipe = replace(TINY, accumulate=2)
    with pytest.raises(ValueError, match="`share_weights` must be False where a batch has several"):
        train(
            recipe,
            folder / "never",
            data_dir=folder / "data.npz",
            launch=Launch(share_weights=True),
        )
