"""Optimisers of recipes: against slow loops, with bounds that hold, resumed bitwise."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import taut
from taut.data import batches, load
from taut.training import Constant, Recipe, Run, TrainingInterrupted, train
from taut.training._optimisers import OPTIMISERS
from taut.training._recipe import OptimizerName
from training_runs import outcome, stop_after

TINY = Recipe(
    name="tiny",
    dataset="npz",
    input_shape=(1, 5, 6),
    classes=3,
    lr=1e-2,
    epochs=2,
    batch_size=8,
    retract_every=3,
    eps=("0.1",),
)  # 4 steps an epoch
SETTINGS = {
    "adam": {},
    "sgd": {"lr": 0.2},
    "stiefel-adam": {},
    "stiefel-sgd": {"lr": 0.2},
    "schedule-free": {"schedule": Constant(), "warmup": 0.5, "lr": 3e-2},
}


def recipe_of(name, **changes):
    if name == "schedule-free":
        pytest.importorskip("schedulefree")
    return replace(TINY, optimizer=name, **SETTINGS[name], **changes)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rng, labels = np.random.default_rng(0), np.arange(30) % 3
    images = rng.integers(0, 60, (30, 1, 5, 6))
    images[np.arange(30), 0, labels] += 180  # the row of the class is bright
    images = images.astype(np.uint8)
    np.savez(folder / "tiny.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    return folder


def test_every_optimiser_has_a_row_here():
    assert SETTINGS.keys() == OPTIMISERS.keys() == {*get_args(OptimizerName)}


METHODS = [taut.BCOP, *(pytest.param(m, marks=pytest.mark.slow) for m in (taut.AOL, taut.SVCM))]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
@pytest.mark.parametrize("name", SETTINGS)
def test_bounds_hold_and_runs_resume_bitwise(name, method, data_dir, tmp_path):
    recipe = recipe_of(name, parametrization=method, clip_norm=1.0)
    assert Recipe.from_json(recipe.to_json()) == recipe
    whole = train(recipe, tmp_path / "whole", data_dir=data_dir)
    if method.guarantee != "none":
        assert all(row["bound"] <= 1 + 3e-6 for row in whole.history())
        assert float(taut.lipschitz_bound(whole.model(), (1, 5, 6))) <= 1 + 3e-6
    first, *_, last = (row["train_loss"] for row in whole.history())
    assert last < first
    with pytest.raises(TrainingInterrupted):
        train(recipe, tmp_path / "run", data_dir=data_dir, on_progress=stop_after(3))
    assert outcome(train(recipe, tmp_path / "run")) == outcome(whole)


@pytest.mark.parametrize("name", ["adam", "sgd", "stiefel-adam", "stiefel-sgd"])
def test_averages_of_every_optimiser_are_orthogonal(name, data_dir, tmp_path):
    """Raw tensors are averaged, and bases taken of the average."""
    run = train(recipe_of(name, ema=0.8), tmp_path / "run", data_dir=data_dir)
    state, model = load_file(run.path / "state.safetensors"), run.model()
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[f"average.{key}"])
    others = [state[f"model.{key}"] for key in model.state_dict()]
    assert distance(model, dict(zip(model.state_dict(), others, strict=True))) > 1e-4
    for layer in (model.dense1, model.dense2):
        sigma = torch.linalg.svdvals(layer.weight.detach().double())
        assert torch.allclose(sigma, torch.ones_like(sigma), atol=1e-5)
    assert run.history()[-1]["bound"] <= 1 + 3e-6


def distance(model, tensors):
    return max(float((p - tensors[name]).abs().max()) for name, p in model.state_dict().items())


def slow_sgd(recipe, split, steps=4):
    """SGD with momentum by its formulas; the cycle is that of torch."""
    torch.manual_seed(recipe.seed)
    model = recipe.build_model()
    velocity = {name: 0.0 for name, _ in model.named_parameters()}
    dummy = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0, momentum=0.9)
    cycle = torch.optim.lr_scheduler.OneCycleLR(dummy, recipe.lr, steps * recipe.epochs)
    for step in range(steps * recipe.epochs):
        drawn = batches(split, 8, seed=0, epoch=step // steps, start=step % steps)
        images, labels = next(drawn)
        model.zero_grad()
        recipe.loss(model(images), labels).backward()
        (group,) = dummy.param_groups
        for name, p in model.named_parameters():
            decay = recipe.weight_decay if p.ndim > 1 else 0.0
            velocity[name] = group["momentum"] * velocity[name] + p.grad + decay * p.detach()
            p.data -= group["lr"] * velocity[name]
        taut.after_step(model, step + 1, retract_every=recipe.retract_every)
        dummy.step()
        cycle.step() if step < steps * recipe.epochs - 1 else None
    return model.state_dict()


@pytest.mark.parametrize(
    ("method", "decay"), [(taut.AOL, 0.0), (taut.AOL, 0.3), (taut.BCOP, 0.0)], ids=str
)
def test_sgd_with_one_cycle_is_the_formulas(method, decay, data_dir, tmp_path):
    recipe = recipe_of("sgd", parametrization=method, weight_decay=decay)
    found = train(recipe, tmp_path / "run", data_dir=data_dir).model()
    assert distance(found, slow_sgd(recipe, load("npz", data_dir).train)) < 1e-5


def slow_schedule_free(recipe, split, steps=4):
    """Algorithm 1 of the paper: gradients at y, steps of z, and their average x."""
    torch.manual_seed(recipe.seed)
    model, beta1, beta2 = recipe.build_model(), 0.9, 0.999
    z = {name: p.detach().double().clone() for name, p in model.named_parameters()}
    x = {name: value.clone() for name, value in z.items()}
    second = {name: torch.zeros_like(value) for name, value in z.items()}
    total = 0.0
    for step in range(steps * recipe.epochs):
        for name, p in model.named_parameters():
            p.data.copy_((1 - beta1) * z[name] + beta1 * x[name])
        drawn = batches(split, 8, seed=0, epoch=step // steps, start=step % steps)
        images, labels = next(drawn)
        model.zero_grad()
        recipe.loss(model(images), labels).backward()
        lr = recipe.lr * min(1.0, (step + 1) / (recipe.warmup * steps))
        total += lr**2
        for name, p in model.named_parameters():
            second[name] = beta2 * second[name] + (1 - beta2) * p.grad.double() ** 2
            slope = p.grad / ((second[name] / (1 - beta2 ** (step + 1))).sqrt() + 1e-8)
            z[name] = z[name] - lr * slope
            x[name] = x[name] + lr**2 / total * (z[name] - x[name])
    return x


@pytest.mark.parametrize("method", [taut.AOL, taut.BCOP], ids=str)
def test_schedule_free_evaluates_its_average(method, data_dir, tmp_path):
    recipe = recipe_of("schedule-free", parametrization=method)
    run = train(recipe, tmp_path / "run", data_dir=data_dir)
    expected = slow_schedule_free(recipe, load("npz", data_dir).train)
    assert distance(run.model(), expected) < 1e-4
    state = load_file(run.path / "state.safetensors")
    assert distance(run.model(), {k[6:]: v for k, v in state.items() if k[:6] == "model."}) > 1e-4
    test = run.dataset().test
    found = taut.certify(run.model(), test.float_images(), test.labels, ("0.1",), arithmetic="real")
    assert found.certified_accuracy["0.1"] == run.history()[-1]["certified_accuracy_0.1"]


def test_a_checkpoint_of_other_settings_is_refused(data_dir, tmp_path):
    recipe = recipe_of("schedule-free")
    with pytest.raises(TrainingInterrupted):
        train(recipe, tmp_path / "run", data_dir=data_dir, on_progress=stop_after(3))
    path = tmp_path / "run" / "state.safetensors"
    tensors, metadata = taut.files.load_tensors(path)
    for groups in ([], [{"k": 3}], json.loads(metadata["groups"]) * 2):
        taut.files.save_tensors(path, tensors, metadata | {"groups": json.dumps(groups)})
        with pytest.raises(ValueError, match=r"state\.safetensors does not fit the model"):
            train(recipe, tmp_path / "run")


def test_what_an_optimiser_cannot_do_is_refused():
    with pytest.raises(
        ValueError, match="schedule-free needs the schedule constant; got one-cycle"
    ):
        replace(TINY, optimizer="schedule-free")
    with pytest.raises(ValueError, match="`ema` must be 0 with the optimizer schedule-free"):
        replace(TINY, optimizer="schedule-free", schedule=Constant(), ema=0.9)


def test_schedulefree_is_imported_only_where_it_is_used(data_dir, tmp_path, monkeypatch):
    code = "import sys, taut.training; assert 'schedulefree' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    monkeypatch.setitem(sys.modules, "schedulefree", None)
    recipe = replace(TINY, optimizer="schedule-free", schedule=Constant())
    with pytest.raises(ImportError, match=r"needs schedulefree: pip install 'taut\[optim\]'"):
        train(recipe, tmp_path / "run", data_dir=data_dir)
    assert not (tmp_path / "run").exists() or Run.open(tmp_path / "run").history() == []


def test_the_learning_rate_is_constant_behind_its_warm_up(data_dir, tmp_path):
    recipe = replace(TINY, schedule=Constant(), warmup=1.5)
    run = train(recipe, tmp_path / "run", data_dir=data_dir)
    rates = [row["lr"] for row in run.history()]
    assert math.isclose(rates[0], 1e-2 * 4 / 6)
    assert rates[1] == 1e-2
