"""`taut play`, as a user runs it."""

import json
import re

import numpy as np
import pytest
import torch
from torch import nn

import taut
from taut.cli import main

NET = """
import torch, taut
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential({layers})
"""
DENSE = "nn.Flatten(), taut.nn.Linear(16, 3)"


def content(page) -> dict:
    """What the page computes with."""
    found = re.search(r'id="content">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = main(["play", *map(str, arguments)])
    output = capsys.readouterr()
    return code, output.out, output.err


@pytest.fixture
def points(tmp_path):
    """A file with nine images of three classes."""
    images = np.random.default_rng(0).random((9, 1, 4, 4)).astype(np.float32)
    np.savez(tmp_path / "test.npz", x_test=images, y_test=np.arange(9) // 3)
    return tmp_path / "test.npz"


@pytest.fixture
def net(tmp_path, points):
    """The options of a model in a file."""
    (tmp_path / "net.py").write_text(NET.format(layers=DENSE))
    return ("--model", f"{tmp_path}/net.py:make", "--input-shape", "1,4,4", "--data", points)


@pytest.mark.parametrize("name", ["mnist-small", "fashion-mnist-small"])
def test_a_model_of_the_zoo_has_a_plain_net_beside_it_and_fits_in_3_mb(name, tmp_path, capsys):
    page = tmp_path / "page.html"
    code, out, _ = run(capsys, f"zoo:{name}", "--out", page)
    assert code == 0
    assert f"Wrote {page} (1." in out
    assert page.stat().st_size <= 3e6
    found = content(page)
    assert len(found["nets"]) == 2
    assert found["nets"][1]["bound"] > 10 * found["nets"][0]["bound"]
    assert len(found["labels"]) == 30
    assert len(set(found["labels"])) >= 9
    assert found["labels"] == sorted(found["labels"])


@pytest.mark.parametrize(
    "name", ["mnist-sequence", "mnist-wide", "mnist-zero-eight-critic", "cifar10-jpeg75-small"]
)
def test_every_model_of_the_zoo_has_a_page_of_at_most_3_mb(name, tmp_path, capsys):
    assert run(capsys, f"zoo:{name}", "--out", tmp_path / "page.html")[0] == 0
    assert (tmp_path / "page.html").stat().st_size <= 3e6


def test_images_are_of_all_classes_in_turn(net, tmp_path, capsys):
    assert run(capsys, *net, "--images", 4, "--out", tmp_path / "page.html")[0] == 0
    found = content(tmp_path / "page.html")
    assert found["labels"] == [0, 0, 1, 2]
    assert len(found["nets"]) == 1


def test_an_exported_file_and_one_beside_it(tmp_path, points, capsys):
    model = nn.Sequential(nn.Flatten(), taut.nn.Linear(16, 3))
    for name in ("one", "two"):
        taut.export.export(model, tmp_path / f"{name}.safetensors", (1, 4, 4))
    files = [tmp_path / "one.safetensors", "--beside", tmp_path / "two.safetensors"]
    code, _, error = run(capsys, *files, "--data", points, "--out", tmp_path / "page.html")
    assert (code, error) == (0, "")
    assert len(content(tmp_path / "page.html")["nets"]) == 2
    code, _, error = run(capsys, tmp_path / "one.safetensors")
    assert code == 2
    assert "needs `--data`, an npz file with test images" in error


def test_equal_inputs_give_equal_pages(net, tmp_path, capsys):
    pages = [tmp_path / "one.html", tmp_path / "two.html"]
    for page in pages:
        run(capsys, *net, "--out", page)
    assert pages[0].read_bytes() == pages[1].read_bytes()


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        (
            "nn.Flatten(), nn.Linear(16, 4), taut.nn.HouseHolder(4)",
            r"HouseHolder.* is an operation",
        ),
        ("taut.nn.Conv2d(1, 3, 3)", r"one answer for an image; .* shape \(3, 4, 4\)"),
    ],
)
def test_what_the_page_cannot_is_refused_in_a_sentence(
    layers, sentence, net, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET.format(layers=layers))
    code, _, error = run(capsys, *net)
    assert code == 2
    assert re.search(sentence, error)
    assert error.count("\n") == 1
    assert not (tmp_path / "play.html").exists()


def test_inputs_that_are_no_pictures_are_refused(tmp_path, capsys):
    (tmp_path / "net.py").write_text(NET.format(layers="taut.nn.Linear(5, 3)"))
    x = torch.rand(4, 5).numpy()
    np.savez(tmp_path / "test.npz", x_test=x, y_test=np.arange(4) % 3)
    options = ("--input-shape", "5", "--data", tmp_path / "test.npz")
    code, _, error = run(capsys, "--model", f"{tmp_path}/net.py:make", *options)
    assert code == 2
    assert (
        "shows pictures, of 1 or 3 channels, height and width; the net takes inputs of (5,)"
        in error
    )


def test_options_that_do_not_fit(net, tmp_path, capsys):
    _, _, error = run(capsys, *net, "--beside", "zoo:mnist-small", "--out", tmp_path / "page.html")
    assert "`--beside` must be a net that takes inputs of (1, 4, 4); got zoo:mnist-small" in error
    assert "`--images` must be at least 1; got 0" in run(capsys, *net, "--images", 0)[2]
    assert "`--out` must be a file" in run(capsys, *net, "--out", tmp_path)[2]
    assert "has its own images" in run(capsys, "zoo:mnist-small", "--data-dir", tmp_path)[2]
    assert "Did you mean zoo:mnist-small" in run(capsys, "zoo:mnist-smal")[2]
