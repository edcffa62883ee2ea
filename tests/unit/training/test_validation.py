"""Images held out of training: which they are, what they are for, and the test at the end."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import taut
from taut.data import Dataset, Split
from taut.recipes import RECIPES
from taut.training import Recipe, Run, TrainingInterrupted, train
from taut.training._validation import divide
from training_runs import outcome, stop_after

TINY = Recipe(
    name="tiny",
    dataset="npz",
    input_shape=(1, 4, 4),
    classes=2,
    validation=0.25,
    epochs=2,
    batch_size=8,
    seed=3,
    eps=("0.1", "1/2"),
)  # 3 steps an epoch: 24 of 32 images in batches of 8


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(44) % 2
    images = (rng.integers(0, 120, (44, 4, 4)) + 90 * labels[:, None, None]).astype(np.uint8)
    return {
        "x_train": images[:32],
        "y_train": labels[:32],
        "x_test": images[32:],
        "y_test": labels[32:],
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "set.npz"
    np.savez(path, **arrays())
    return path


@pytest.fixture(scope="module")
def run(place, tmp_path_factory):
    return train(TINY, tmp_path_factory.mktemp("runs") / "run", data_dir=place, device="cpu")


def pool(n=40):
    images = torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, 1, 2, 2)
    split = Split(images.contiguous(), torch.arange(n) % 2)
    return Dataset(
        "x", "X", ("a", "b"), train=split, test=Split(split.images[:3], torch.ones(3).long())
    )


@pytest.mark.parametrize("share", [0.1, 0.25, 0.9])
def test_training_and_validation_images_are_a_partition_by_seed(share):
    recipe = replace(TINY, validation=share)
    data, held_out = divide(pool(), recipe)
    kept = set(data.train.images[:, 0, 0, 0].tolist())
    apart = set(held_out.images[:, 0, 0, 0].tolist())
    assert (kept | apart, kept & apart) == (set(range(40)), set())
    assert len(apart) == len(held_out) == round(40 * share)
    assert held_out.labels.tolist() == [int(i) % 2 for i in held_out.images[:, 0, 0, 0]]
    assert len(data.test) == 3
    again = divide(pool(), recipe)[1].images
    assert torch.equal(again, held_out.images)
    other = divide(pool(), replace(recipe, seed=4))[1].images
    assert not torch.equal(other, held_out.images)


def test_without_validation_epochs_are_judged_on_the_test_images():
    data = pool()
    assert divide(data, replace(TINY, validation=0.0)) == (data, data.test)
    with pytest.raises(ValueError, match=r"leave images on both sides of 40; got 0\.001"):
        divide(data, replace(TINY, validation=0.001))


def real(model, split, eps):
    """Accuracies as an epoch records them, from `taut.certify`."""
    found = taut.certify(model, split.float_images(), split.labels, eps, arithmetic="real")
    certified = {f"certified_accuracy_{e}": share for e, share in found.certified_accuracy.items()}
    return {"clean_accuracy": found.clean_accuracy, **certified}


def test_epochs_are_judged_on_validation_and_the_end_on_test_images(run):
    data = run.dataset()
    _, held_out = divide(data, run.recipe)
    last, test = run.history()[-1], run.test_accuracy()
    for row, split in ((last, held_out), (test, data.test)):
        for name, share in real(run.model(), split, run.recipe.eps).items():
            assert row[name] == pytest.approx(share, abs=1e-12), name
    assert test["step"] == last["step"] == 6
    assert json.loads((run.path / "recipe.json").read_text())["data"]["validation"] == 0.25


def test_images_held_out_are_never_trained_on(run, place, tmp_path):
    changed = arrays()
    labels = torch.as_tensor(changed["y_train"])
    split = Split(torch.as_tensor(changed["x_train"])[:, None], labels)
    indices = Split(torch.arange(32, dtype=torch.uint8)[:, None, None, None], labels)
    data = Dataset("x", "X", ("a", "b"), train=split, test=split)
    _, held_out = divide(replace(data, train=indices, test=indices), run.recipe)
    at = held_out.images.flatten().long().numpy()
    changed["x_train"][at] = 0
    np.savez(tmp_path / "other.npz", **changed)
    other = train(TINY, tmp_path / "run", data_dir=tmp_path / "other.npz", device="cpu")
    for name, weight in run.model().state_dict().items():
        assert torch.equal(weight, other.model().state_dict()[name])
    assert other.test_accuracy() == run.test_accuracy()


def test_test_images_are_judged_once_at_the_end(run, place, tmp_path):
    with pytest.raises(TrainingInterrupted):
        train(TINY, tmp_path / "r", data_dir=place, device="cpu", on_progress=stop_after(4))
    stopped = Run.open(tmp_path / "r")
    assert len(stopped.history()) == 1
    assert stopped.test_accuracy() is None
    assert not (stopped.path / "test.json").exists()
    resumed = train(TINY, stopped.path, device="cpu")
    assert outcome(resumed) == outcome(run)
    assert resumed.test_accuracy() == run.test_accuracy()
    (stopped.path / "test.json").unlink()  # as a process killed just before it leaves the folder
    assert train(TINY, stopped.path, device="cpu").test_accuracy() == run.test_accuracy()
    (stopped.path / "test.json").write_text("{")
    with pytest.raises(ValueError, match=r"test\.json is damaged"):
        stopped.test_accuracy()


def test_published_data_sets_have_validation_by_default():
    assert Recipe(name="a", dataset="mnist").validation == 0.1
    assert Recipe(name="a", dataset="npz").validation == 0.0
    assert Recipe.from_json('{"name": "a", "data": "mnist"}').validation == 0.1
    for share in (-0.1, 1.0):
        with pytest.raises(ValueError, match="`validation` must be from 0 to below 1"):
            Recipe(name="a", dataset="mnist", validation=share)


def test_published_recipes_say_whether_they_hold_images_out():
    from importlib.resources import files

    for name in RECIPES:
        text = (files("taut.recipes") / f"{name}.json").read_text()
        assert "validation" in json.loads(text)["data"], name
    assert RECIPES["demo"].validation == RECIPES["cifar10-large-paper"].validation == 0.0


def test_runs_from_before_validation_load_and_resume(place, tmp_path):
    recipe = replace(TINY, dataset="npz", validation=0.0)
    with pytest.raises(TrainingInterrupted):
        train(recipe, tmp_path / "r", data_dir=place, device="cpu", on_progress=stop_after(4))
    whole = train(recipe, tmp_path / "whole", data_dir=place, device="cpu")
    values = json.loads(recipe.to_json())
    del values["data"]["validation"]
    old = json.dumps(values | {"data": values["data"] | {"kind": "mnist"}})
    assert Recipe.from_json(old).validation == 0.0, "though mnist has validation by default"
    (tmp_path / "r" / "recipe.json").write_text(json.dumps(values))
    resumed = train(Run.open(tmp_path / "r").recipe, tmp_path / "r", device="cpu")
    assert outcome(resumed) == outcome(whole)
    assert resumed.test_accuracy() == resumed.history()[-1]
