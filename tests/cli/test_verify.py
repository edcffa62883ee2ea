"""`taut verify`: what it prints of certificates that hold, and of others."""

import json

import numpy as np
import pytest

import forgery
from taut._display import rounded_up
from taut.cli import main
from taut.training import Recipe, train


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return forgery.certified("branches", tmp_path_factory.mktemp("verify"))


def cli(capsys, *arguments):
    code = main(["verify", *map(str, arguments)])
    output = capsys.readouterr()
    return code, output.out, output.err


def test_what_is_proven_is_printed(saved, capsys):
    path, weights, points, *_ = saved
    bound = json.loads(path.read_text())["bound"]
    code, out, _ = cli(capsys, path, weights)
    assert code == 0
    assert f"Proven: Lipschitz bound {rounded_up(bound)} in l2 for inputs of 2x8x8." in out
    assert "holds for the float64 run of the weights" in out
    assert "not proven: give the images with --points" in out
    assert cli(capsys, path)[:2] == (0, out)  # the weights beside it
    code, out, _ = cli(capsys, path, weights, "--points", points)
    assert code == 0
    assert "By the stand-alone verifier: " in out
    assert "radii and answers of 4 images: clean accuracy 1.0, " in out


def test_what_does_not_hold_is_refused(saved, capsys, tmp_path):
    path, weights, points, x, _ = saved
    copy = tmp_path / "c.json"
    copy.write_bytes(path.read_bytes())
    forgery.rewritten(copy, lambda c: c.update(bound=c["bound"] / 2))
    for arguments in ((copy, weights), (copy, weights, "--points", points), (weights, path)):
        code, out, err = cli(capsys, *arguments)
        assert (code, out) == (1, "")
        assert err.startswith("taut: refused: ")
        assert str(arguments[0]) in err
        assert err.count("\n") == 1
    other = forgery.points_file(tmp_path, (x + 1).numpy())
    code, _, err = cli(capsys, path, weights, "--points", other)
    assert code == 1
    assert "image 0 is another" in err


NET = """
import torch

def make():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))

def double():
    return make().double()
"""


@pytest.mark.parametrize("make", ["make", "double"])
@pytest.mark.parametrize("names", [("images", "labels"), ("x_test", "y_test")])
def test_points_are_the_file_that_was_certified(names, make, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3)).astype(np.uint8)
    np.savez("t.npz", **dict(zip(names, (pixels, np.arange(5) % 3), strict=True)))
    given = f"certify --model net.py:{make} --input-shape 3,4,4 --data t.npz --output c.json"
    assert main(given.split()) == 0
    capsys.readouterr()
    code, out, err = cli(capsys, "c.json", "--points", "t.npz")
    assert (code, err) == (0, "")
    assert "radii and answers of 5 images" in out
    pixels[3, 0, 0, 0] ^= 1
    np.savez("t.npz", images=pixels)
    code, _, err = cli(capsys, "c.json", "--points", "t.npz")
    assert (code, err) == (1, "taut: refused: c.json: t.npz: image 3 is another: its hash\n")
    np.savez("t.npz", images=pixels[:4])
    code, _, err = cli(capsys, "c.json", "--points", "t.npz")
    assert code == 1
    assert "t.npz: its images must be 5 of [3, 4, 4]" in err


def test_points_are_those_of_a_run(capsys, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 1, 8, 8)).astype(np.uint8)
    parts = {f"x_{part}": pixels for part in ("train", "test")}
    np.savez(tmp_path / "d.npz", **parts, y_train=np.arange(6) % 2, y_test=np.arange(6) % 2)
    recipe = Recipe(name="a", dataset="npz", input_shape=(1, 8, 8), classes=2, epochs=1)
    train(recipe, tmp_path / "run", data_dir=tmp_path / "d.npz")
    assert main(["certify", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    saved = tmp_path / "run" / "certificate.json"
    code, out, _ = cli(capsys, saved, "--points", tmp_path / "run")
    assert code == 0
    assert "radii and answers of 6 images" in out


@pytest.mark.parametrize("missing", range(3))
def test_missing_files_are_wrong_use(missing, saved, capsys):
    arguments = [*saved[:2], "--points", saved[2]]
    arguments[missing + missing // 2] = "nowhere"
    code, _, err = cli(capsys, *arguments)
    assert (code, err) == (2, "taut: There is no file nowhere.\n")


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["verify", "--help"])
    assert caught.value.code == 0
    assert (
        "taut verify certificate.json certificate.safetensors --points points.npz"
        in capsys.readouterr().out
    )
