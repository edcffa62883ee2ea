"""Each recipe that ships takes its first steps on made files of its data set."""

import math
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from data_files import write_data
from taut.data import Augment
from taut.models import FC3, Large, LipConvNet, Small, configurations, kinds
from taut.recipes import CLAIMS, RECIPES
from taut.training import Recipe, TrainingDiverged, dry_run, train
from thinning import one_in


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a data set, made when it is first asked for."""
    folders = {}

    def folder(recipe):
        name = recipe.dataset
        if name not in folders:
            folders[name] = write_data(name, tmp_path_factory.mktemp(name), recipe.classes)
        return folders[name]

    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TAUT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@contextmanager
def watched_steps() -> Iterator[list]:
    """Parameters, copies of them, and their gradients before each step of any optimiser."""
    seen = []

    def watch(optimiser, args, kwargs):
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        grads = [None if p.grad is None else p.grad.clone() for p in parameters]
        seen.append((parameters, [p.detach().clone() for p in parameters], grads))

    handle = register_optimizer_step_pre_hook(watch)
    try:
        yield seen
    finally:
        handle.remove()


def narrowed(recipe: Recipe) -> Recipe:
    """The recipe with the small net of its kind, and the settings that both have."""
    if isinstance(recipe.model, Large):
        return replace(recipe, model=Small())
    small = configurations().get(f"{recipe.model.kind}-small")
    if small is None:
        return recipe
    sizes = {name for values in type(small).configurations.values() for name in values}
    kept = {f.name for f in fields(small)} - sizes
    settings = {name: vars(recipe.model)[name] for name in kept}
    return replace(recipe, model=replace(small, **settings))


NARROWED = [name for name, recipe in RECIPES.items() if narrowed(recipe) != recipe]
OURS = {"fc3", "small", "large", "wide", "deep"}  # of the founding paper, and two of ours
TRAINED = "cifar10-jpeg75"  # the data set of our own results, whose claims say what was measured
PUBLISHED = [
    name
    for name in NARROWED
    if RECIPES[name].model.kind not in OURS and RECIPES[name].dataset != TRAINED
]


def tried(recipe: Recipe, folder) -> None:
    """Two steps give finite losses and gradients of all parameters, and change some."""
    place = None if recipe.dataset == "fashion-mnist-subset" else folder(recipe)
    if recipe.validation:
        recipe = replace(recipe, validation=0.1)  # the made files hold 20 images
    with watched_steps() as seen:
        result = dry_run(recipe, data_dir=place, device="cpu")
    assert len(result.losses) == len(seen) == 2
    assert all(map(math.isfinite, (*result.losses, result.bound)))
    assert min(*result.seconds, result.bound_seconds, result.bound) > 0
    for parameters, _, grads in seen:
        assert sum(p.numel() for p in parameters) == result.parameters
        assert all(p.requires_grad and p.dtype == torch.float32 for p in parameters)
        assert all(grad is not None and bool(grad.isfinite().all()) for grad in grads)
    parameters, before, _ = seen[0]
    assert any(not p.equal(old) for p, old in zip(parameters, before, strict=True))


@pytest.mark.parametrize("name", one_in(2, RECIPES))
def test_two_steps_with_a_small_net_of_the_kind(name, made):
    recipe = replace(narrowed(RECIPES[name]), batch_size=4)
    if recipe.dataset == "folder":
        recipe = replace(recipe, classes=4)
    tried(recipe, made)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_size_takes_the_images_and_names_the_classes(name):
    recipe = RECIPES[name]
    model = recipe.model.build(
        recipe.input_shape, recipe.classes, parametrization=recipe.parametrization, device="meta"
    )
    with torch.no_grad():
        logits = model(torch.zeros(2, *recipe.input_shape, device="meta"))
    assert logits.shape == (2, recipe.classes)


# At their size, steps and proofs of these take many minutes or 20 GB of memory on a CPU.
CUT = {
    "aol": {"dense_depth": 2},
    "bronet": {"depth": 1, "dense_depth": 1, "width": 128},
    "cpl": {"depth": 1, "dense_depth": 1},
    "liresnet": {"depth": 1, "dense_depth": 1, "width": 128},
    "sll": {"depth": 1, "dense_depth": 1},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NARROWED)
def test_two_steps_at_the_published_size_or_with_fewer_layers(name, made):
    recipe = RECIPES[name]
    model = replace(recipe.model, **CUT.get(recipe.model.kind, {}))
    tried(replace(recipe, model=model, batch_size=2), made)


def test_the_small_nets_keep_what_is_no_size():
    small = narrowed(RECIPES["cifar10-lipconvnet-15"]).model
    assert small == LipConvNet(depth=5, width=4, unit_rows=True)
    assert {RECIPES[name].model.kind for name in PUBLISHED} == set(kinds()) - OURS


def test_a_claim_says_what_was_run():
    assert CLAIMS.keys() == RECIPES.keys()
    for name in PUBLISHED:
        assert "Never trained here" in CLAIMS[name]
        assert ("fewer" in CLAIMS[name]) == (RECIPES[name].model.kind in CUT)
        assert "arXiv:" in CLAIMS[name]


def test_the_first_steps_are_those_of_training(tmp_path):
    """The losses against those that training reports, whose first epoch has two steps."""
    recipe = replace(RECIPES["demo"], batch_size=1000, epochs=1, augment=Augment(2, flip=True))
    means = []
    run = train(recipe, tmp_path, device="cpu", on_progress=lambda p: means.append(p.loss))
    result = dry_run(recipe, device="cpu")
    first, second = result.losses
    assert means[0] == first
    assert means[1] == pytest.approx((first + second) / 2, rel=1e-12)
    assert result.bound == run.history()[-1]["bound"]
    assert (result.steps_per_epoch, result.images) == (2, (2000, 1000))


def test_steps_go_on_in_the_next_epoch():
    recipe = replace(RECIPES["demo"], batch_size=1500)
    result = dry_run(recipe, device="cpu", steps=3)
    assert result.steps_per_epoch == 2
    assert len(result.losses) == len(result.seconds) == 3
    assert max(result.losses) < 20  # means, also of the batch of 500 images


def test_there_are_no_more_steps_than_the_run_has():
    recipe = replace(RECIPES["demo"], batch_size=2000, epochs=1)
    assert len(dry_run(recipe, device="cpu").losses) == 1


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    torch.manual_seed(3)
    dry_run(RECIPES["demo"], device="cpu")
    drawn = torch.rand(2)
    torch.manual_seed(3)
    assert drawn.equal(torch.rand(2))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        ({}, {"steps": 0}, ValueError, "`steps` must be a positive integer; got 0"),
        ({"classes": 3}, {}, ValueError, "`classes` must be those of"),
        ({"lr": 1e300}, {}, TrainingDiverged, "finite after step 1. Try a smaller learning rate"),
        ({"weight_decay": 0.1, "model": FC3()}, {}, ValueError, "`weight_decay` must be 0"),
    ],
)
def test_what_is_wrong_is_said_by_a_dry_run(change, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        dry_run(replace(RECIPES["demo"], **change), device="cpu", **options)
