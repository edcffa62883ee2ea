"""The examples run, are short, and show what they say."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PATHS = sorted(EXAMPLES.glob("*.py"))


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
