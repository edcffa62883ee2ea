"""Losses of certified margins in training: what they are given, against a slow loop."""

import math
from dataclasses import dataclass, replace

import jaxtyping
import numpy as np
import pytest
import torch
from torch import nn

import taut
from taut.data import batches, load
from taut.files import load_tensors, save_tensors
from taut.losses import EMMA, CertificateRegularised, CertifiedTRADES, Margins, kinds
from taut.models import AbstractModel
from taut.program import verifiable_bound
from taut.training import CHOICES, Recipe, TrainingInterrupted, train
from training_runs import outcome, stop_after

LOSSES = (
    EMMA(eps="36/255", ramp=0.5),
    CertificateRegularised(weight=0.3),
    CertifiedTRADES(eps=0.2),
)


@dataclass(frozen=True)
class UnitRows(AbstractModel):
    """A net whose layers change their constant, behind them rows of norm 1."""

    def build(self, input_shape, classes, *, parametrization=taut.AOL, **options):  # pyright: ignore[reportIncompatibleMethodOverride]
        size = input_shape[0] * input_shape[1] * input_shape[2]
        return nn.Sequential(
            nn.Flatten(),
            taut.nn.Linear(size, 8, parametrization=parametrization),
            taut.nn.MaxMin(),
            taut.nn.UnitRowLinear(8, classes),
        )


RECIPE = Recipe(
    name="margins",
    dataset="npz",
    input_shape=(1, 4, 4),
    classes=3,
    model=UnitRows(),
    parametrization=taut.AOL,
    loss=LOSSES[0],
    lr=1e-1,
    epochs=5,
    batch_size=10,
    eps=("0.1",),
)  # 3 steps an epoch


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rng, labels = np.random.default_rng(0), np.arange(30) % 3
    images = rng.integers(0, 60, (30, 1, 4, 4))
    images[np.arange(30), 0, labels] += 180  # the row of the class is bright
    images = images.astype(np.uint8)
    np.savez(folder / "tiny.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    return folder


@pytest.fixture(autouse=True)
def _own_model(monkeypatch):
    """A recipe stores models by kind or file; the class of this file counts as known."""
    monkeypatch.setitem(CHOICES["model"].known, "unit-rows", UnitRows)
    monkeypatch.setattr(UnitRows, "kind", "unit-rows", raising=False)


class Divided(nn.Sequential):
    """Logits with a temperature."""

    def forward(self, input):
        return super().forward(input) / 0.25


def slow_run(recipe, split):
    """The model that a recipe comes to: the bound is that of the layers before the last."""
    torch.manual_seed(recipe.seed)
    model, steps = recipe.build_model(), -(-len(split) // recipe.batch_size)
    optimiser, bound = torch.optim.Adam(model.parameters()), 0.0
    for step in range(steps * recipe.epochs):
        if step % steps == 0:
            bound = float(taut.lipschitz_bound(model[:-1], recipe.input_shape))
        drawn = batches(split, recipe.batch_size, seed=recipe.seed, epoch=step // steps)
        images, labels = list(drawn)[step % steps]
        lr = recipe.lr * recipe.schedule.factor(step, steps_per_epoch=steps, epochs=recipe.epochs)
        beta1 = recipe.schedule.beta1(step, steps * recipe.epochs)
        optimiser.param_groups[0] |= {"lr": lr, "betas": (beta1, 0.999)}
        optimiser.zero_grad()
        progress = step / (steps * recipe.epochs)
        options = {"bound": bound, "head": model[-1].weight, "progress": progress}
        recipe.loss(model(images), labels, **options).backward()
        optimiser.step()
        taut.after_step(model, step + 1, retract_every=recipe.retract_every)
    return model


def distance(model, other):
    pairs = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.kind)
def test_training_gives_rows_and_bound(loss, data_dir, tmp_path):
    recipe = replace(RECIPE, loss=loss)
    run = train(recipe, tmp_path / "run", data_dir=data_dir)
    model, split = run.model(), run.dataset().test
    assert distance(model, slow_run(recipe, load("npz", data_dir).train)) < 1e-5
    last = run.history()[-1]
    assert last["clean_accuracy"] > 0.9
    # Certified by pairs: as the losses aim at.
    found = taut.certify(model, split.float_images(), split.labels, ("0.1",), arithmetic="real")
    assert found.certified_accuracy["0.1"] == last["certified_accuracy_0.1"] > 0.3


def test_all_losses_that_use_a_bound_say_so():
    used = {kind for kind, cls in kinds().items() if cls.uses_bound}
    assert used == {loss.kind for loss in LOSSES}


@pytest.mark.parametrize("step", [2, 5])
def test_runs_resume_bitwise(step, data_dir, tmp_path):
    """In the middle of an epoch, with the bound that the epoch began with."""
    whole = train(RECIPE, tmp_path / "whole", data_dir=data_dir)
    with pytest.raises(TrainingInterrupted):
        train(RECIPE, tmp_path / "run", data_dir=data_dir, on_progress=stop_after(step))
    assert outcome(train(RECIPE, tmp_path / "run")) == outcome(whole)


@dataclass(frozen=True)
class Moving(AbstractModel):
    """Buffers move in training: of a power iteration, and of a batch norm behind the last layer."""

    def build(self, input_shape, classes, **options):
        return nn.Sequential(
            nn.Flatten(),
            nn.utils.parametrizations.spectral_norm(nn.Linear(math.prod(input_shape), 8)),
            taut.nn.MaxMin(),
            nn.Linear(8, classes),
            nn.BatchNorm1d(classes),
        )


def test_runs_resume_bitwise_where_buffers_move(data_dir, tmp_path, monkeypatch):
    monkeypatch.setitem(CHOICES["model"].known, "moving", Moving)
    monkeypatch.setattr(Moving, "kind", "moving", raising=False)
    recipe = replace(RECIPE, model=Moving())
    whole = train(recipe, tmp_path / "whole", data_dir=data_dir)
    with pytest.raises(TrainingInterrupted):
        train(recipe, tmp_path / "run", data_dir=data_dir, on_progress=stop_after(5))
    assert outcome(train(recipe, tmp_path / "run")) == outcome(whole)


def test_the_model_is_left_as_it_is():
    model = Moving().build((4,), 3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    margins = Margins(model, (4,))
    margins()
    margins.update_()
    assert margins.layers == ("1",)
    assert all(module.training for module in model.modules())
    assert all(t.equal(before[name]) for name, t in model.state_dict().items())


def test_checkpoints_of_version_0_1_go_on(data_dir, tmp_path):
    """They have the bound as metadata."""
    whole = train(RECIPE, tmp_path / "whole", data_dir=data_dir)
    with pytest.raises(TrainingInterrupted):
        train(RECIPE, tmp_path / "run", data_dir=data_dir, on_progress=stop_after(5))
    path = tmp_path / "run" / "state.safetensors"
    tensors, metadata = load_tensors(path)
    bound = tensors.pop("margins.bound")
    save_tensors(path, tensors, metadata | {"bound": repr(float(bound))})
    assert outcome(train(RECIPE, tmp_path / "run")) == outcome(whole)


def test_the_last_layer_is_found_where_it_applies_its_weight():
    linear = nn.Linear(4, 3)
    scaled = nn.Sequential(taut.nn.Linear(4, 4), taut.nn.MaxMin(), nn.Sequential(linear))
    margins = Margins(scaled, (4,))
    assert margins.head == "2.0"
    assert margins.rows() is linear.weight
    assert 1 - 1e-6 < margins.bound < 1 + 1e-5
    # A temperature, and a convolution to one place.
    conv = nn.Conv2d(2, 3, 2)
    for last, shape in (((nn.Flatten(), linear), (4,)), ((conv, nn.Flatten()), (2, 2, 2))):
        model = Divided(*last)
        margins = Margins(model, shape)
        (matrix,) = (p for p in model.parameters() if p.ndim > 1)
        rows = margins.rows()
        torch.testing.assert_close(rows, matrix.flatten(1) / 0.25)
        (gradient,) = torch.autograd.grad(rows.sum(), matrix)
        torch.testing.assert_close(gradient, torch.full_like(matrix, 4.0))
        assert margins.bound == 1
    # A layer whose product is changed behind it, and none at all.
    for model in (nn.Sequential(linear, nn.Tanh()), nn.Sequential(nn.Tanh())):
        margins = Margins(model, (4,))
        assert margins.head is None
        assert 1 <= margins.bound / float(verifiable_bound(model, (4,))) < 1 + 1e-9
        assert margins.rows() is None


def test_what_is_no_model_is_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    with pytest.raises(TypeError, match=r"`model` must be a torch\.nn\.Module; got str"):
        Margins("net.pt", (3, 8, 8))
