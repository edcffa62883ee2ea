"""The examples run, are short, and show what they say."""

import runpy
from pathlib import Path

import pytest
import torch

import taut
from exported_nets import in_onnxruntime

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PATHS = sorted(EXAMPLES.glob("*.py"))
pytestmark = pytest.mark.defaults


def run(name, *arguments):
    return runpy.run_path(str(EXAMPLES / name))["main"](arguments)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_example_is_short_and_says_how_to_run_it(path):
    lines = path.read_text().splitlines()
    assert len(lines) < 60
    assert any(line.startswith(f"python examples/{path.name}") for line in lines[:5])
    assert f"test_{path.stem}" in globals(), "each example has its test here"


def test_certify_classifier(capsys):
    result = run("certify_classifier.py", "--epochs", "1", "--images", "100")
    shares = list(result.certified_accuracy.values())
    assert len(result.radius) == 100
    assert result.clean_accuracy > 0.1  # chance
    assert shares == sorted(shares, reverse=True)
    assert "proved to stay correct" in capsys.readouterr().out


def test_wasserstein_critic(capsys):
    found = run("wasserstein_critic.py", "--images", "30", "--steps", "20")
    assert 0 < found.lower <= found.empirical <= found.upper * (1 + 1e-12)
    assert float(found.bound) < 1.001
    assert "Lipschitz constant" in capsys.readouterr().out


def test_convert_cnn(capsys):
    bounds = run("convert_cnn.py", "--epochs", "1")
    assert bounds["converted"] < 1.001 < bounds["plain"]
    assert "Conv2d -> taut.nn.Conv2d" in capsys.readouterr().out


def test_classify_audio(capsys):
    result = run("classify_audio.py", "--steps", "12")
    certified = result.certified_accuracy
    assert result.clean_accuracy > 0.5  # chance is 1 / 4
    assert certified[2.5] > 0.3
    assert float(result.bound) < 1 + 1e-5
    printed = capsys.readouterr().out
    assert [f"isometry='{kept}'" in printed for kept in ("columns", "rows", "both")] == [True] * 3
    assert "certified" in printed


def test_classify_voxels(capsys):
    result = run("classify_voxels.py", "--steps", "20")
    assert result.clean_accuracy > 0.5  # chance is 1 / 3
    assert result.certified_accuracy[1.0] > 0.3
    assert float(result.bound) < 1 + 1e-5
    assert "groups=4" in capsys.readouterr().out


def test_autoencoder(capsys, tmp_path):
    file = tmp_path / "unet.onnx"
    model = run("autoencoder.py", "--epochs", "1", "--export", str(file))
    *_, found = capsys.readouterr().out.split()
    bound = float(taut.lipschitz_bound(model, (1, 28, 28)))
    assert 0.9 < float(found) <= bound < 1 + 1e-5

    images = taut.data.load("fashion-mnist-subset").test.float_images()[:20]
    noisy = images + 0.4 * torch.randn_like(images)
    outputs = in_onnxruntime(file, noisy)
    torch.testing.assert_close(outputs, model(noisy).detach(), rtol=0, atol=1e-5)
    assert (outputs - images).norm() < 0.6 * (noisy - images).norm()
    # Noise is a change of the image, too.
    moved = (outputs - in_onnxruntime(file, images)).flatten(1).norm(dim=1)
    assert (moved <= bound * (noisy - images).flatten(1).norm(dim=1)).all()
