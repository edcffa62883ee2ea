"""What is wrong with a command line is one sentence, in the words that were typed."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from taut.cli import main
from taut.recipes import RECIPES
from taut.training._run import prepare

NET = """
from torch import nn
def make(): return nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
"""
MODEL = "--model net.py:make --input-shape 1,2,2"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "net.onx").write_text("x")
    (tmp_path / "w.txt").write_text("x")
    (tmp_path / "mine.jsn").write_text("{}")
    (tmp_path / "points.cvs").write_text("1\n")
    images = np.zeros((4, 2, 2), np.uint8)
    np.savez(tmp_path / "t.npz", x_test=images, y_test=np.array([0, 1, 0, 1]))
    np.savez(tmp_path / "far.npz", x_test=images, y_test=np.array([0, 1, 0, 10**10]))
    np.savez(tmp_path / "alone.npz", x_test=images)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "pets" / name / "0.png")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("certfy", "there is no command 'certfy'; .* Did you mean certify\\?"),
        ("train mnst-small", "There is no recipe 'mnst-small'; .* Did you mean mnist-small\\?"),
        ("train mine.jsn", "There is no recipe 'mine.jsn'; .* must end in .json."),
        ("train demo --dataset mnits", "`--dataset` must be one of .* Did you mean mnist\\?"),
        ("train demo --loss emma --loss.eps 0", "`--loss.eps` must be a positive number or a text"),
        (
            "train demo --schedule multi-step --schedule.drops x",
            "`--schedule.drops` must be a number; got 'x'.",
        ),
        ("train demo --seed 9223372036854775808", "`--seed` must be below 2\\^63; got 9223"),
        ("train demo --loss krr", "`--loss` must be one of .* Did you mean kr\\?"),
        ("train demo --model Smal", "`--model` must be one of .* Did you mean small\\?"),
        ("train demo --parametrization BKOP", "`--parametrization` must .* Did you mean BCOP\\?"),
        (
            "train demo --workers 2 --run r",
            "taut: fashion-mnist-subset is not kept as single",
        ),
        ("train demo --loss.eps-train -1", "`taut train demo` has no option --loss.eps-train."),
        (
            "train demo --loss hinge-kr --loss.alhpa 3",
            "has no option --loss.alhpa. .* --loss.al",
        ),
        (
            "attack runs --method fgsm --steps 5",
            "must be left out: .*; got `--steps`.",
        ),
        ("train demo --epohs 3", "`taut train demo` has no option --epohs. Did you mean --epochs?"),
        (
            "train demo --dataset folder --data-dir pets --run r",
            "pets: must have parts train and test, or `--holdout` must say which share",
        ),
        ("train demo --dataset folder --holdout 2", "`--holdout` must be between 0 and 1; got 2.0"),
        ("certify net.onx", "net.onx must end in .onnx, .pt2, .safetensors. Did you mean .onnx\\?"),
        (f"certify {MODEL} --data none.npz", "none.npz not found; give an npz file"),
        (f"certify {MODEL} --data far.npz", "`labels` must be in 0..1; got 0..10000000000"),
        (f"certify {MODEL} --data alone.npz", "alone.npz: must hold test images and their labels"),
        (
            f"certify {MODEL} --weights w.txt",
            "`--weights` must end in .safetensors, .pt, .pth; got",
        ),
        (f"certify {MODEL} --weights no.pt", "There is no file no.pt."),
        (f"certify {MODEL} --eps 0.1", "`--eps` needs `--data`, an npz file with test images."),
        (
            f"certify {MODEL} --output no/c.json",
            "`--output` must be a file in a folder",
        ),
        (f"inspect {MODEL} --output no/c.png", "`--output` must be a file in a folder"),
        ("attack runs --method pdg", "`--method` must be one of .* Did you mean pgd\\?"),
        ("attack runs --method pgd --limit pdg=5", "`--limit` must name a .* Did you mean pgd\\?"),
        ("export runs --to onx", "`--to` must be one of torch, onnx, safetensors; .* onnx\\?"),
        ("wasserstein mnits pets", "mnits must be a folder .* Did you mean mnist\\?"),
        ("wasserstein points.cvs pets", "points.cvs must end in .npz, .*. Did you mean .csv\\?"),
    ],
)
def test_wrong_use_is_one_sentence_in_the_words_of_the_user(line, sentence, capsys):
    assert main(line.split()) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert output.err.startswith("taut: ")
    assert re.search(sentence, output.err), output.err


def weights(dtype: torch.dtype, value: float = 1 / 3) -> dict[str, torch.Tensor]:
    return {
        "1.weight": torch.full((2, 4), value, dtype=dtype),
        "1.bias": torch.zeros(2, dtype=dtype),
    }


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_weights_are_used_in_the_precision_of_their_file(name, folder, capsys, tmp_path):
    state = weights(torch.float64)
    (save_file if name.endswith("s") else torch.save)(state, tmp_path / name)
    assert main(f"certify {MODEL} --weights {name} --output c.json".split()) == 0
    written = load_file(tmp_path / "c.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {torch.float64}
    assert any(torch.equal(tensor, state["1.weight"]) for tensor in written.values())
    assert main(f"inspect {MODEL} --weights {name}".split()) == 0
    assert "error" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("dtype", "value"), [(torch.float16, 1 / 3), (torch.float64, 0.5), (torch.int64, 3)]
)
def test_weights_that_a_model_holds_exactly_leave_it_as_it_is(dtype, value, tmp_path, capsys):
    save_file(weights(dtype, value), tmp_path / "w.safetensors")
    assert main(f"certify {MODEL} --weights w.safetensors --output c.json".split()) == 0
    written = load_file(tmp_path / "c.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {torch.float32}


def test_weights_that_no_one_precision_holds_are_refused(tmp_path, capsys):
    mixed = weights(torch.float64) | {"1.bias": torch.zeros(2)}
    save_file(mixed, tmp_path / "w.safetensors")
    assert main(f"certify {MODEL} --weights w.safetensors".split()) == 2
    assert "would round 1.weight, torch.float64, to torch.float32" in capsys.readouterr().err
    save_file(weights(torch.int64, 2**60 + 1), tmp_path / "w.safetensors")
    assert main(f"certify {MODEL} --weights w.safetensors".split()) == 2
    assert "would round 1.weight, torch.int64, to torch.float32" in capsys.readouterr().err


def test_a_run_does_not_round_weights_of_another_precision(tmp_path, capsys):
    run = prepare(RECIPES["demo"], tmp_path / "run", None)
    state = RECIPES["demo"].build_model().state_dict()
    save_file({name: t.double() / 3 for name, t in state.items()}, run.path / "model.safetensors")
    assert main(["certify", "run"]) == 2
    assert "model.safetensors does not fit the model: it would round" in capsys.readouterr().err
