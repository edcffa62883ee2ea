import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import taut
from taut import parametrizations
from taut.data import Augment, Holdout, load
from taut.files import load_tensors, save_tensors
from taut.losses import MultiMargin, OffsetCrossEntropy
from taut.models import Large, Small
from taut.parametrizations import _svcm
from taut.recipes import RECIPES
from taut.training import (
    CHOICES,
    Cosine,
    Exponential,
    MultiStep,
    OneCycle,
    Recipe,
    Run,
    TrainingDiverged,
    TrainingInterrupted,
    train,
)
from thinning import one_in
from training_runs import outcome, stop_after

TINY = Recipe(
    name="tiny",
    dataset="npz",
    input_shape=(1, 6, 6),
    classes=3,
    lr=1e-2,
    epochs=3,
    batch_size=8,
    retract_every=3,
    augment=Augment(crop_padding=1, flip=True),
    eps=("1/10", "0.5"),
)  # 4 steps an epoch: 30 images in batches of 8


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    labels = np.arange(30) % 3
    images = rng.integers(0, 120, (30, 6, 6)) + 60 * labels[:, None, None]
    images = images.clip(0, 255).astype(np.uint8)
    np.savez(
        folder / "tiny.npz", x_train=images, y_train=labels, x_test=images[:9], y_test=labels[:9]
    )
    return folder


METHODS = {
    name: replace(TINY, parametrization=method)
    for name, method in parametrizations.methods().items()
    # ECO takes multiples of its kernel size.
    if name not in ("BCOP", "ECO") and not method.matrices_only
}


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
    return train(TINY, tmp_path_factory.mktemp("runs") / "finished", data_dir=data_dir)


def test_training_learns_and_records_each_epoch(finished):
    rows = finished.history()
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 4), (2, 8), (3, 12)]
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    for row in rows:
        assert row["clean_accuracy"] >= row["certified_accuracy_1/10"]
        assert row["certified_accuracy_1/10"] >= row["certified_accuracy_0.5"]
        assert 1 - 1e-3 < row["bound"] < 1 + 1e-3
    header = (finished.path / "metrics.csv").read_text().splitlines()[0]
    assert header == (
        "epoch,step,lr,train_loss,clean_accuracy,"
        "certified_accuracy_1/10,certified_accuracy_0.5,bound,seconds"
    )


def test_a_run_folder_says_all_that_is_needed(finished):
    run = Run.open(finished.path)
    assert run.recipe == TINY
    data = run.dataset()
    accuracy = (run.model()(data.test.float_images()).argmax(1) == data.test.labels).double().mean()
    assert accuracy.item() == run.history()[-1]["clean_accuracy"]
    assert not run.model().training
    names = {"recipe.json", "run.json", "model.safetensors", "state.safetensors", "metrics.csv"}
    assert set(os.listdir(run.path)) == names | {".lock"}


def test_loss_is_the_mean_over_the_images_of_the_epoch(data_dir, tmp_path):
    # One step an epoch, so that the loss of the first one is that of the initial weights.
    recipe = replace(TINY, epochs=1, batch_size=30, augment=None, seed=5)
    row = train(recipe, tmp_path / "run", data_dir=data_dir).history()[0]
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = recipe.build_model()
    split = load("npz", data_dir).train
    expected = recipe.loss(model(split.float_images()), split.labels)
    assert math.isclose(row["train_loss"], expected.item(), rel_tol=1e-6)


def test_the_caller_keeps_its_random_state_and_signal_handler(data_dir, tmp_path):
    torch.manual_seed(0)
    before, handler = torch.get_rng_state(), signal.getsignal(signal.SIGINT)
    train(replace(TINY, epochs=1), tmp_path / "run", data_dir=data_dir)
    assert torch.equal(torch.get_rng_state(), before)
    assert signal.getsignal(signal.SIGINT) is handler


def test_the_result_follows_the_seed(finished, data_dir, tmp_path):
    same = train(TINY, tmp_path / "same", data_dir=data_dir)
    other = train(replace(TINY, seed=1), tmp_path / "other", data_dir=data_dir)
    assert outcome(same) == outcome(finished)
    assert outcome(other) != outcome(finished)


@pytest.mark.parametrize("step", [1, 4, 6, 11])
def test_resume_after_ctrl_c_is_bitwise_equal(finished, data_dir, tmp_path, step):
    with pytest.raises(TrainingInterrupted, match=r"continue with: taut train --resume .*run"):
        train(TINY, tmp_path / "run", data_dir=data_dir, on_progress=stop_after(step))
    assert len(Run.open(tmp_path / "run").history()) == step // 4
    # Neither the data nor any other setting is asked for again.
    assert outcome(train(TINY, tmp_path / "run")) == outcome(finished)


def test_steps_on_the_manifold_resume_bitwise(data_dir, tmp_path):
    recipe = replace(TINY, optimizer="stiefel-adam", retract_every=1)
    whole = train(recipe, tmp_path / "whole", data_dir=data_dir)
    with pytest.raises(TrainingInterrupted):
        train(recipe, tmp_path / "run", data_dir=data_dir, on_progress=stop_after(6))
    assert outcome(train(recipe, tmp_path / "run")) == outcome(whole)
    for name, raw in whole.model().named_parameters():
        if "raw" in name and raw.numel():
            assert float((torch.linalg.svdvals(raw.detach()) - 1).abs().max()) < 1e-6
    with pytest.raises(TrainingDiverged, match="weights are not finite"):
        train(replace(recipe, lr=1e300), tmp_path / "diverging", data_dir=data_dir)


@pytest.mark.parametrize("step", [4, 7])
def test_resume_after_kill_is_bitwise_equal(finished, data_dir, tmp_path, step):
    script = f"""
import os, signal, sys, torch
from taut.training import _loop as loop
from taut.training import read_recipe
from pathlib import Path
torch.set_num_threads({torch.get_num_threads()})
loop._SECONDS_BETWEEN_CHECKPOINTS = 0.0
def on_progress(progress):
    if progress.step == {step}:
        os.kill(os.getpid(), signal.SIGKILL)
folder = Path(sys.argv[1])
loop.train(read_recipe(folder / "tiny.json"), folder / "run", data_dir=sys.argv[2],
           on_progress=on_progress)
"""
    (tmp_path / "tiny.json").write_text(TINY.to_json())
    arguments = [sys.executable, "-c", script, str(tmp_path), str(data_dir)]
    killed = subprocess.run(arguments, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    saved = load_file(tmp_path / "run" / "state.safetensors")
    # The checkpoint after an epoch, or after the step before the one at which it died.
    assert saved["optimiser.0.step"].item() == (4 if step == 4 else 6)
    assert outcome(train(TINY, tmp_path / "run")) == outcome(finished)


@pytest.fixture
def often(monkeypatch):
    """Projections of SVCM every 4 steps of these short runs, and no more rounds than needed."""
    update = taut.SVCM.update_
    monkeypatch.setattr(taut.SVCM, "update_", lambda self, step: update(self, 25 * step))
    monkeypatch.setattr(_svcm, "_NUMERICAL_EPS", 0.05)


@pytest.mark.parametrize("method", one_in(3, METHODS))
def test_runs_of_every_method_resume_bitwise(method, data_dir, tmp_path, often):
    recipe = replace(METHODS[method], epochs=2, lr=0.05)
    never_stopped = train(recipe, tmp_path / "whole", data_dir=data_dir)
    with pytest.raises(TrainingInterrupted):
        train(recipe, tmp_path / "run", data_dir=data_dir, on_progress=stop_after(6))
    assert outcome(train(recipe, tmp_path / "run")) == outcome(never_stopped)


@pytest.mark.parametrize("method", one_in(3, METHODS))
def test_the_row_and_the_model_file_are_of_one_model(method, data_dir, tmp_path):
    """What is certified after the epoch is what others load."""
    run = train(replace(METHODS[method], epochs=1), tmp_path / "run", data_dir=data_dir)
    row, test = run.history()[0], run.dataset().test
    found = taut.certify(run.model(), test.float_images(), test.labels, TINY.eps, arithmetic="real")
    assert float(found.bound) == row["bound"]
    assert found.clean_accuracy == row["clean_accuracy"]
    assert found.certified_accuracy["0.5"] == row["certified_accuracy_0.5"]


def test_svcm_saves_a_projected_model_and_goes_on_with_the_other(data_dir, tmp_path):
    recipe = replace(METHODS["SVCM"], epochs=1, lr=0.1)  # 4 steps: no projection in training
    run = train(recipe, tmp_path / "run", data_dir=data_dir)
    training = recipe.build_model()
    state = load_file(run.path / "state.safetensors")
    training.load_state_dict(
        {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
    )
    bounds = [float(taut.lipschitz_bound(m, (1, 6, 6))) for m in (training, run.model())]
    assert bounds[0] > 1.5 > 1.2 > bounds[1] > 1
    expected = taut.projected(training).state_dict()
    assert all(torch.equal(expected[k], v) for k, v in run.model().state_dict().items())


def test_a_row_that_no_checkpoint_covers_is_dropped(finished, data_dir, tmp_path):
    with pytest.raises(TrainingInterrupted):
        train(TINY, tmp_path / "run", data_dir=data_dir, on_progress=stop_after(6))
    metrics = tmp_path / "run" / "metrics.csv"
    metrics.write_text(metrics.read_text() + "2,8,0.0,9.9,0.0,0.0,0.0,1.0,0.0\n")
    assert outcome(train(TINY, tmp_path / "run")) == outcome(finished)


def test_a_finished_run_is_left_alone(finished):
    before = {p.name: p.read_bytes() for p in finished.path.iterdir() if p.suffix != ".csv"}
    train(TINY, finished.path)
    assert before == {p.name: p.read_bytes() for p in finished.path.iterdir() if p.suffix != ".csv"}


def test_the_folder_of_another_recipe_is_refused_untouched(finished):
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in finished.path.iterdir()}
    with pytest.raises(ValueError, match=r"another recipe \(`lr` is 0.01 there, 0.5 now\)"):
        train(replace(TINY, lr=0.5), finished.path)
    after = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in finished.path.iterdir()}
    assert before == after


def test_a_folder_of_other_files_is_refused(data_dir, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="neither a run folder nor empty"):
        train(TINY, tmp_path, data_dir=data_dir)
    assert os.listdir(tmp_path) == ["thesis.txt"]


@pytest.mark.parametrize("name", ["state.safetensors", "recipe.json", "run.json", "metrics.csv"])
def test_a_damaged_file_is_named(data_dir, tmp_path, name):
    with pytest.raises(TrainingInterrupted):
        train(TINY, tmp_path / "run", data_dir=data_dir, on_progress=stop_after(5))
    path = tmp_path / "run" / name
    path.write_bytes(path.read_bytes()[:-20])
    if name == "metrics.csv":
        path.write_text("epoch\n?\n")
    with pytest.raises(ValueError, match=rf"run/{name} .*") as caught:
        train(TINY, tmp_path / "run")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["[]", '{"data_dir": 5}', "\xff"])
def test_a_damaged_origin_is_named(finished, tmp_path, content):
    shutil.copytree(finished.path, tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        Run.open(tmp_path / "run")


@pytest.mark.parametrize(
    "damage",
    [
        lambda name, tensor: tensor[..., :1].contiguous() if "exp_avg" in name else tensor,
        lambda name, tensor: None if name.startswith("optimiser.0") else tensor,
        lambda name, tensor: None if name.startswith("optimiser") else tensor,
        lambda name, tensor: torch.ones(3) if name == "loss_sum" else tensor,
        lambda name, tensor: tensor.float() if name.startswith("random") else tensor,
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(data_dir, tmp_path, damage):
    with pytest.raises(TrainingInterrupted):
        train(TINY, tmp_path / "run", data_dir=data_dir, on_progress=stop_after(5))
    path = tmp_path / "run" / "state.safetensors"
    tensors, metadata = load_tensors(path)
    damaged = {name: damage(name, tensor) for name, tensor in tensors.items()}
    save_tensors(path, {name: t for name, t in damaged.items() if t is not None}, metadata)
    with pytest.raises(ValueError, match="does not fit the model of this run"):
        train(TINY, tmp_path / "run")


def test_a_damaged_or_foreign_model_is_named(finished, data_dir, tmp_path):
    run = train(replace(TINY, epochs=1), tmp_path / "run", data_dir=data_dir)
    path = run.path / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        run.model()
    path.unlink()
    with pytest.raises(FileNotFoundError, match="has no trained model yet"):
        run.model()
    recipe = replace(TINY, classes=4).to_json()
    path.write_bytes(whole)
    (run.path / "recipe.json").write_text(recipe)
    with pytest.raises(ValueError, match=r"model\.safetensors belongs to another recipe"):
        Run.open(run.path).model()
    save_tensors(path, load_tensors(path)[0], {})  # as others write it, without a recipe
    with pytest.raises(ValueError, match=r"model\.safetensors does not fit the model"):
        Run.open(run.path).model()


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(data_dir, tmp_path, monkeypatch):
    run_dir = tmp_path / "run"
    kept = {}

    def exploding(loss, inputs):
        return inputs.logits.sum() * (math.nan if kept else 1.0)

    def on_progress(progress):
        if progress.step == 4:
            kept.update({p.name: p.read_bytes() for p in run_dir.iterdir()})

    monkeypatch.setattr(MultiMargin, "value", exploding)
    with pytest.raises(TrainingDiverged, match=r"not finite after step 5.*smaller learning rate"):
        train(TINY, run_dir, data_dir=data_dir, on_progress=on_progress)
    assert kept == {p.name: p.read_bytes() for p in run_dir.iterdir()}


def test_weights_that_are_not_finite_stop_it_too(data_dir, tmp_path):
    with pytest.raises(TrainingDiverged, match=r"weights are not finite after step \d"):
        train(replace(TINY, lr=1e300), tmp_path / "run", data_dir=data_dir)
    assert not (tmp_path / "run" / "state.safetensors").exists()


def test_data_that_do_not_fit_the_model_are_refused_before_a_folder_is_made(data_dir, tmp_path):
    recipe = replace(TINY, classes=10)
    with pytest.raises(
        ValueError, match=r"`classes` must be those of npz, .* and 3; got .* and 10"
    ):
        train(recipe, tmp_path / "run", data_dir=data_dir)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("recipe", [*RECIPES.values(), TINY], ids=lambda recipe: recipe.name)
def test_recipes_survive_json(recipe):
    assert Recipe.from_json(recipe.to_json()) == recipe


# What version 0.1 wrote.
OLD = {
    "name": "tiny",
    "dataset": "npz",
    "model": {
        "architecture": "small",
        "input_shape": [1, 6, 6],
        "classes": 3,
        "parametrization": "BCOP",
    },
    "loss": {"kind": "multi-margin", "eps_train": 1.5},
    "lr": 1e-2,
    "schedule": "one-cycle",
    "epochs": 3,
    "batch_size": 8,
    "retract_every": 3,
    "precision": "32-true",
    "augment": {"crop_padding": 1, "flip": True},
    "holdout": None,
    "resize": False,
    "seed": 0,
    "eps": ["1/10", "0.5"],
}


def test_recipes_of_version_0_1_are_read():
    assert Recipe.from_json(json.dumps(OLD)) == TINY
    changes = {"schedule": "exponential", "holdout": {"fraction": 0.25, "seed": 1}, "resize": True}
    model = {"architecture": "large", "parametrization": "RKO"}
    expected = replace(
        TINY,
        model=Large(),
        parametrization=taut.RKO,
        input_shape=(1, 28, 28),
        classes=10,
        schedule=Exponential(),
        holdout=Holdout(0.25, seed=1),
        resize=True,
    )
    assert Recipe.from_json(json.dumps(OLD | changes | {"model": model})) == expected
    assert Recipe.from_json('{"name": "a", "dataset": "mnist"}').model == Small()


def test_runs_of_version_0_1_are_resumed(finished, data_dir, tmp_path):
    with pytest.raises(TrainingInterrupted):
        train(TINY, tmp_path / "run", data_dir=data_dir, on_progress=stop_after(6))
    (tmp_path / "run" / "recipe.json").write_text(json.dumps(OLD))
    for name in ("model.safetensors", "state.safetensors"):
        tensors, metadata = load_tensors(tmp_path / "run" / name)
        save_tensors(tmp_path / "run" / name, tensors, metadata | {"recipe": json.dumps(OLD)})
    Run.open(tmp_path / "run").model()
    assert outcome(train(TINY, tmp_path / "run")) == outcome(finished)


def test_every_recipe_file_is_listed_under_its_name_and_states_its_claim():
    import taut.recipes

    files = list(Path(taut.recipes.__file__).parent.glob("*.json"))
    assert {file.stem for file in files} == set(RECIPES)
    for file in files:
        assert RECIPES[file.stem].name == file.stem
        assert len(json.loads(file.read_text(encoding="utf-8"))["claim"]) > 60


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "`epochs` must be a positive integer; got 0"),
        ({"lr": -1.0}, "`lr` must be a positive number"),
        ({"seed": -1}, "`seed` must be an integer >= 0"),
        ({"retract_every": -1}, "`retract_every` must be an integer >= 0; got -1"),
        ({"optimizer": "lion"}, "optimizer.*lion"),
        ({"eps": ["much"]}, "`eps` must be a positive number as text.*got 'much'"),
        ({"eps": ["-1"]}, "`eps` must be a positive"),
        ({"eps": ["1/0"]}, "`eps` must be a positive"),
        ({"epohs": 3}, "`epohs` is no setting of Recipe; it has .*epochs"),
        ({"loss": {"kind": "mse"}}, "`loss` must be one of .*multi-margin.*got 'mse'"),
        ({"loss": {"kind": "multi-margin", "eps_train": -1.0}}, "`eps_train` must be"),
        ({"model": {"kind": "small", "depth": 3}}, "`depth` is no setting of Small; it has none"),
        ({"model": 5}, "`model` must be a JSON object; got 5"),
        ({"data": {"kind": "npz", "input_shape": 5}}, "`input_shape` must be a JSON list; got 5"),
        ({"loss": 5}, "`loss` must be a JSON object; got 5"),
        ({"loss": {"kind": []}}, "`loss` must have a `kind`, a text; got"),
        ({"augment": 5}, "`augment` must be a JSON object; got 5"),
        ({"eps": 5}, "`eps` must be a JSON list; got 5"),
    ],
)
def test_wrong_recipes_are_refused_by_name(change, message):
    values = json.loads(TINY.to_json()) | change
    with pytest.raises(ValueError, match=message):
        Recipe.from_json(json.dumps(values))


@pytest.mark.parametrize("total", [4, 10, 37])
def test_one_cycle_is_that_of_torch(total):
    optimiser = torch.optim.Adam([torch.zeros(1)], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1.0, total_steps=total)
    for step in range(total):
        factor = OneCycle().factor(step, steps_per_epoch=total, epochs=1)
        beta1 = OneCycle().beta1(step, total)
        assert math.isclose(factor, optimiser.param_groups[0]["lr"], rel_tol=1e-9)
        assert math.isclose(beta1, optimiser.param_groups[0]["betas"][0], rel_tol=1e-9)
        optimiser.step()
        if step < total - 1:
            schedule.step()


def test_cosine_is_that_of_torch():
    optimiser = torch.optim.Adam([torch.zeros(1)], lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 12)
    for step in range(12):
        factor = Cosine().factor(step, steps_per_epoch=4, epochs=3)
        assert math.isclose(factor, optimiser.param_groups[0]["lr"], rel_tol=1e-9)
        optimiser.step()
        schedule.step()


@pytest.mark.parametrize("drops", [(0.5, 0.75), (0.3,), ()])
def test_multi_step_is_that_of_torch(drops):
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    milestones = [round(drop * 20) for drop in drops]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, milestones, gamma=0.2)
    for step in range(20):
        factor = MultiStep(drops, decay=0.2).factor(step, steps_per_epoch=4, epochs=5)
        assert math.isclose(factor, optimiser.param_groups[0]["lr"], rel_tol=1e-9)
        optimiser.step()
        schedule.step()


@pytest.mark.parametrize("wrong", [{"drops": (0.5, 1.0)}, {"drops": (0.0,)}, {"decay": 0.0}])
def test_multi_step_refuses_what_is_no_share(wrong):
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` must be"):
        MultiStep(**wrong)


def test_exponential_decays_once_an_epoch_as_in_the_paper():
    factors = [Exponential().factor(step, steps_per_epoch=3, epochs=200) for step in range(7)]
    assert factors == [1, 1, 1, 0.96235, 0.96235, 0.96235, 0.96235**2]


@pytest.mark.parametrize("schedule", [cls() for cls in CHOICES["schedule"].known.values()])
@pytest.mark.parametrize("total", [1, 2, 3])
def test_schedules_of_very_short_runs_stay_in_range(schedule, total):
    for step in range(total):
        factor = schedule.factor(step, steps_per_epoch=1, epochs=total)
        assert 0 < factor <= 1


def test_the_learning_rate_used_is_the_one_written_down(finished):
    with open(finished.path / "metrics.csv") as file:
        lrs = [float(row["lr"]) for row in csv.DictReader(file)]
    expected = [1e-2 * OneCycle().factor(step, steps_per_epoch=4, epochs=3) for step in (3, 7, 11)]
    assert lrs == expected


def test_offset_cross_entropy_trains_too(data_dir, tmp_path):
    recipe = replace(TINY, loss=OffsetCrossEntropy(offset=0.5, temperature=0.5))
    rows = train(recipe, tmp_path / "run", data_dir=data_dir).history()
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]


def test_images_by_class_without_a_test_split_hold_some_out(tmp_path):
    for label in ("cat", "dog", "eel"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(4):
            pixels = np.random.default_rng(number).integers(0, 255, (6, 6), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / label / f"{number}.png")
    recipe = replace(TINY, dataset="folder", epochs=1, holdout=Holdout(0.25, seed=1))
    run = train(recipe, tmp_path / "run", data_dir=tmp_path / "data")
    data = Run.open(run.path).dataset()
    assert (len(data.train), len(data.test)) == (9, 3)
    with pytest.raises(ValueError, match="holdout"):
        train(replace(recipe, holdout=None), tmp_path / "other", data_dir=tmp_path / "data")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("every", [0, 4])
def test_retraction_leaves_raw_tensors_orthonormal(every, data_dir, tmp_path):
    recipe = replace(TINY, retract_every=every)  # 12 steps: the last one retracts
    model = train(recipe, tmp_path / "run", data_dir=data_dir).model()
    raws = [p.detach() for name, p in model.named_parameters() if "raw" in name]
    farthest = max(float((torch.linalg.svdvals(p) - 1).abs().max()) for p in raws if p.numel())
    assert (farthest < 1e-5) == (every > 0)


def test_a_refused_model_leaves_no_run(tmp_path):
    """The next run of the same name would be refused as one of another recipe."""
    recipe = Recipe(name="tried", dataset="fashion-mnist-subset", epochs=1, batch_size=1000)
    folder = tmp_path / "run"
    before = torch.random.get_rng_state()
    for method in (taut.Exponential, taut.ECO):  # of no convolution; of no 7x7 image
        with pytest.raises(ValueError, match=r"`parametrization` must be|`kernel_size` must div"):
            train(replace(recipe, parametrization=method), folder)
        assert not folder.exists()
    assert torch.equal(torch.random.get_rng_state(), before)
    train(recipe, folder)
    with pytest.raises(ValueError, match="`parametrization` is BCOP there, AOL now"):
        train(replace(recipe, parametrization=taut.AOL), folder)
