"""Warm-up, weight decay, clipping, averages and accumulation against a slow loop of formulas."""

import json
import math
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import taut
from taut.cli.app import main
from taut.data import Augment, MixedLabels, batches, load
from taut.losses import CertificateRegularised, HingeKRMulticlass, MultiMargin
from taut.training import Recipe, Run, TrainingInterrupted, train
from taut.training import _loop as loop
from taut.training._average import decaying
from training_runs import outcome, stop_after

TINY = Recipe(
    name="tiny",
    dataset="npz",
    input_shape=(3, 5, 6),
    classes=3,
    parametrization=taut.AOL,
    loss=MultiMargin(),
    lr=1e-2,
    epochs=2,
    batch_size=8,
    retract_every=3,
    augment=Augment(crop_padding=1),
    eps=("0.1",),
)  # 4 steps an epoch: 30 images in batches of 8, the last of 6
ALL = {"accumulate": 3, "warmup": 1.5, "weight_decay": 0.3, "clip_norm": 0.05, "ema": 0.9}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    labels = np.arange(30) % 3
    images = rng.integers(0, 120, (30, 3, 5, 6)) + 60 * labels[:, None, None, None]
    images = images.clip(0, 255).astype(np.uint8)
    np.savez(folder / "tiny.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    return folder


def slow_run(recipe, split):
    """The model that a recipe comes to: whole batches, one parameter after the other."""
    torch.manual_seed(recipe.seed)
    model, steps = recipe.build_model(), -(-len(split) // recipe.batch_size)
    averages = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimiser = torch.optim.Adam(model.parameters(), foreach=False, fused=False)
    for step in range(steps * recipe.epochs):
        drawn = batches(split, recipe.batch_size, seed=recipe.seed, epoch=step // steps,
                        augment=recipe.augment, start=step % steps)  # fmt: skip
        optimiser.zero_grad()
        images, labels = next(drawn)
        # Mixed labels as probabilities.
        targets = labels.probabilities(3) if isinstance(labels, MixedLabels) else labels
        recipe.loss(model(images), targets).backward()
        parameters = dict(model.named_parameters())
        norm = math.sqrt(sum(float(p.grad.double().square().sum()) for p in parameters.values()))
        lr = recipe.lr * recipe.schedule.factor(step, steps_per_epoch=steps, epochs=recipe.epochs)
        lr *= min(1.0, (step + 1) / (recipe.warmup * steps)) if recipe.warmup else 1.0
        optimiser.param_groups[0]["lr"] = lr
        optimiser.param_groups[0]["betas"] = (
            recipe.schedule.beta1(step, steps * recipe.epochs),
            0.999,
        )
        for p in parameters.values():
            if recipe.clip_norm and norm > recipe.clip_norm:
                p.grad *= recipe.clip_norm / norm
            if p.ndim > 1:
                p.data *= 1 - lr * recipe.weight_decay
        optimiser.step()
        taut.after_step(model, step + 1, retract_every=recipe.retract_every)
        decay = min(recipe.ema, (2 + step) / (11 + step))
        for name, p in parameters.items():
            averages[name] = decay * averages[name] + (1 - decay) * p.detach()
    if recipe.ema:
        model.load_state_dict(averages)
    return model


def distance(model, other):
    pairs = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


CHANGES = [*({name: value} for name, value in ALL.items()), ALL]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: ",".join(change))
def test_settings_do_what_a_slow_loop_does(change, data_dir, tmp_path):
    recipe, split = replace(TINY, **change), load("npz", data_dir).train
    found = train(recipe, tmp_path / "run", data_dir=data_dir).model()
    assert distance(found, slow_run(recipe, split)) < 1e-5
    # Each setting changes the result, but accumulation.
    assert (distance(found, slow_run(TINY, split)) > 1e-3) == (change.keys() != {"accumulate"})


def test_what_is_certified_and_saved_is_the_average(data_dir, tmp_path):
    recipe = replace(TINY, ema=0.9, epochs=1)
    run = train(recipe, tmp_path / "run", data_dir=data_dir)
    state, test = load_file(run.path / "state.safetensors"), run.dataset().test
    for name, value in run.model().state_dict().items():
        assert torch.equal(value, state[f"average.{name}"])
    assert any(not torch.equal(v, state[f"model.{k}"]) for k, v in run.model().state_dict().items())
    found = taut.certify(run.model(), test.float_images(), test.labels, TINY.eps, arithmetic="real")
    assert found.certified_accuracy["0.1"] == run.history()[0]["certified_accuracy_0.1"]
    assert 0.5 < float(found.bound) == run.history()[0]["bound"] < 1 + 1e-5


def test_averages_of_raw_tensors_give_orthogonal_weights(data_dir, tmp_path):
    recipe = replace(TINY, ema=0.9, parametrization=taut.BCOP)
    model = train(recipe, tmp_path / "run", data_dir=data_dir).model()
    weight = model.dense2.weight.detach().double()
    assert torch.allclose(torch.linalg.svdvals(weight), torch.ones(3).double(), atol=1e-5)


MIXED = Augment(crop_padding=1, cutout=2, mixup=0.5)
PICTURES = replace(MIXED, resized_crop=0.3, randaugment=2)


def test_images_are_cut_and_mixed_with_their_labels(data_dir, tmp_path):
    split = load("npz", data_dir).train
    for accumulate in (1, 3):
        recipe = replace(TINY, augment=MIXED, accumulate=accumulate)
        found = train(recipe, tmp_path / str(accumulate), data_dir=data_dir).model()
        assert distance(found, slow_run(recipe, split)) < 1e-5
        assert distance(found, slow_run(replace(recipe, augment=Augment(1)), split)) > 1e-3
    for loss in (HingeKRMulticlass(), CertificateRegularised(HingeKRMulticlass())):
        with pytest.raises(ValueError, match=r"mixup needs a loss of single images, .*; got "):
            replace(TINY, augment=MIXED, loss=loss)


EVERYTHING = replace(TINY, **ALL, channels_last=True, augment=PICTURES)


@pytest.fixture(scope="module")
def whole(data_dir, tmp_path_factory):
    return train(EVERYTHING, tmp_path_factory.mktemp("runs") / "whole", data_dir=data_dir)


@pytest.mark.parametrize("step", [3, 5])
def test_resume_after_ctrl_c_is_bitwise_equal(step, whole, data_dir, tmp_path):
    with pytest.raises(TrainingInterrupted):
        train(EVERYTHING, tmp_path / "run", data_dir=data_dir, on_progress=stop_after(step))
    assert outcome(train(EVERYTHING, tmp_path / "run")) == outcome(whole)


KILLED = """
import os, signal, sys
from pathlib import Path
from taut.training import _loop as loop
from taut.training import read_recipe
loop._SECONDS_BETWEEN_CHECKPOINTS = 0.0
def on_progress(progress):
    if progress.step == 6:
        os.kill(os.getpid(), signal.SIGKILL)
folder = Path(sys.argv[1])
loop.train(read_recipe(folder / "tiny.json"), folder / "run", data_dir=sys.argv[2],
           on_progress=on_progress)
"""


def script(text, *arguments, code=0):
    """Run a script, in as many threads as this process, to its expected end."""
    text = f"import torch\ntorch.set_num_threads({torch.get_num_threads()})\n{text}"
    command = [sys.executable, "-c", text, *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == code, done.stderr


def test_resume_after_kill_is_bitwise_equal(whole, data_dir, tmp_path):
    (tmp_path / "tiny.json").write_text(EVERYTHING.to_json())
    script(KILLED, tmp_path, data_dir, code=-signal.SIGKILL)
    assert int(load_file(tmp_path / "run" / "state.safetensors")["optimiser.0.step"]) == 5
    assert outcome(train(EVERYTHING, tmp_path / "run")) == outcome(whole)


def test_a_checkpoint_without_its_average_is_refused(data_dir, tmp_path):
    recipe = replace(TINY, ema=0.9)
    with pytest.raises(TrainingInterrupted):
        train(recipe, tmp_path / "run", data_dir=data_dir, on_progress=stop_after(3))
    path = tmp_path / "run" / "state.safetensors"
    tensors, metadata = taut.files.load_tensors(path)
    kept = {name: t for name, t in tensors.items() if not name.startswith("average.")}
    taut.files.save_tensors(path, kept, metadata)
    with pytest.raises(ValueError, match=r"state\.safetensors does not fit the model"):
        train(recipe, tmp_path / "run")


def test_weight_decay_acts_where_size_matters(data_dir, tmp_path):
    model = replace(TINY, parametrization=taut.AOL).build_model()
    assert all(p.ndim >= 2 for p in decaying(model))
    assert {id(p) for p in decaying(model)} == {id(p) for p in model.parameters() if p.ndim > 1}
    for method in (taut.BCOP, taut.RKO):  # read through their orthonormal bases alone
        recipe = replace(TINY, parametrization=method, weight_decay=0.1)
        assert decaying(recipe.build_model()) == []
        with pytest.raises(ValueError, match=r"`weight_decay` must be 0 for a model .*; got 0.1"):
            train(recipe, tmp_path / "run", data_dir=data_dir)
        assert not (tmp_path / "run").exists()


def test_activations_are_laid_out_as_the_recipe_says(data_dir, tmp_path, monkeypatch):
    seen, part = [], loop.Trainer._backward_part

    def watched(self, images, *others):
        seen.append(images.is_contiguous(memory_format=torch.channels_last))
        part(self, images, *others)

    monkeypatch.setattr(loop.Trainer, "_backward_part", watched)
    runs = []
    for last in (True, False):
        recipe = replace(TINY, channels_last=last, epochs=1, accumulate=2)
        runs.append(train(recipe, tmp_path / str(last), data_dir=data_dir).model())
        assert seen == [last] * 8
        seen.clear()
    assert distance(*runs) < 1e-5


COMPILED = """
import signal, sys, torch
from dataclasses import replace
from pathlib import Path
from taut.training import TrainingInterrupted, read_recipe, train

folder, data, backend = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
compile_, graphs = torch.compile, []
def record(graph, inputs):
    graphs.append(graph)
    return graph.forward
chosen = record if backend == "record" else backend
torch.compile = lambda model, **options: compile_(model, backend=chosen)
recipe = read_recipe(folder / "tiny.json")
train(recipe, folder / "whole", data_dir=data)
assert graphs or backend != "record"
train(replace(recipe, compile=False), folder / "eager", data_dir=data)
def stop(progress):
    if progress.step == 2:
        signal.raise_signal(signal.SIGINT)
try:
    train(recipe, folder / "stopped", data_dir=data, on_progress=stop)
    raise AssertionError("not stopped")
except TrainingInterrupted:
    train(recipe, folder / "stopped")
"""


@pytest.mark.parametrize(
    "backend", ["record", pytest.param("inductor", marks=pytest.mark.slow)]
)  # the jaxtyping checks of these tests cannot be compiled: in a process without them
def test_compiled_training_is_the_same_and_resumes(backend, data_dir, tmp_path):
    recipe = replace(TINY, compile=True, ema=0.9, parametrization=taut.RKO, epochs=1)
    (tmp_path / "tiny.json").write_text(recipe.to_json())
    script(COMPILED, tmp_path, data_dir, backend)
    whole, eager, stopped = (Run.open(tmp_path / n) for n in ("whole", "eager", "stopped"))
    assert distance(whole.model(), eager.model()) < 1e-4
    assert outcome(stopped) == outcome(whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accumulate": 0}, "`accumulate` must be a positive integer; got 0"),
        ({"accumulate": 9}, "`accumulate` must be at most 8, the batch size; got 9"),
        ({"warmup": -1.0}, "`warmup` must be from 0 to 2, the epochs; got -1.0"),
        ({"warmup": 2.5}, "`warmup` must be from 0 to 2, the epochs; got 2.5"),
        ({"weight_decay": -0.1}, "`weight_decay` must be a number >= 0; got -0.1"),
        ({"weight_decay": math.inf}, "`weight_decay` must be a number >= 0; got inf"),
        ({"clip_norm": -1.0}, "`clip_norm` must be a number >= 0; got -1.0"),
        ({"clip_norm": math.nan}, "`clip_norm` must be a number >= 0; got nan"),
        ({"ema": 1.0}, "`ema` must be from 0 to below 1; got 1.0"),
        ({"ema": "much"}, "`ema` must be a number; got 'much'"),
        ({"compile": 1}, "`compile` must be true or false; got 1"),
        ({"channels_last": "no"}, "`channels_last` must be true or false; got 'no'"),
        ({"data": {"kind": "folder", "draft": True}}, "`draft` needs `resize`"),
        ({"augment": {"resized_crop": 2.0}}, "`resized_crop` must be from 0 to 1; got 2.0"),
        ({"augment": {"randaugment": -1}}, "`randaugment` must be an integer >= 0; got -1"),
        ({"augment": {"magnitude": 31.0}}, "`magnitude` must be from 0 to 30; got 31.0"),
        (
            {"data": {"kind": "npz", "input_shape": [2, 5, 5]}, "augment": {"randaugment": 1}},
            "`augment` with a resized crop or RandAugment needs images of 1 or 3 channels; got 2",
        ),
    ],
)
def test_wrong_settings_are_refused_in_one_sentence(change, message):
    values = json.loads(TINY.to_json())
    with pytest.raises(ValueError, match=message) as caught:
        Recipe.from_json(json.dumps(values | change))
    assert "\n" not in str(caught.value)


def test_every_setting_is_an_option_with_a_word_of_help(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main(["train", "demo", "--help"])
    shown = capsys.readouterr().out
    for flag in ("accumulate", "warmup", "weight-decay", "clip-norm", "ema", "channels-last",
                 "compile", "draft", "precision", "augment"):  # fmt: skip
        assert f"--{flag}" in shown
    assert "moving average of the parameters" in " ".join(shown.split())


def test_the_command_line_sets_them(data_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.json").write_text(TINY.to_json())
    text = "flip,resized-crop=0.25,randaugment=2,magnitude=5"
    options = ["--accumulate", "2", "--warmup", "0.5", "--weight-decay", "0.1", "--ema", "0.9"]
    options += ["--clip-norm", "1", "--channels-last", "--epochs", "1", "--augment", text]
    assert main(["train", "tiny.json", "--data-dir", str(data_dir), "--run", "run", *options]) == 0
    augment = Augment(0, True, resized_crop=0.25, randaugment=2, magnitude=5.0)
    changed = {"accumulate": 2, "warmup": 0.5, "weight_decay": 0.1, "ema": 0.9, "clip_norm": 1.0}
    expected = replace(TINY, **changed, channels_last=True, epochs=1, augment=augment)
    assert Run.open("run").recipe == expected
    assert expected == Recipe.from_json(expected.to_json())
