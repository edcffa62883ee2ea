"""The commands that read a run folder, as a user runs them."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from taut.cli import main
from taut.models import ModelConfig
from taut.training import MultiMarginLoss, Recipe, train

TINY = Recipe(
    name="tiny",
    dataset="npz",
    model=ModelConfig("small", input_shape=(1, 8, 8), classes=3),
    loss=MultiMarginLoss(eps_train=0.3),
    lr=1e-2,
    epochs=2,
    batch_size=16,
    eps=("1/10", "0.5"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run on blobs of three kinds."""
    base = tmp_path_factory.mktemp("run")
    draw = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 96), ("test", 24)):
        labels = np.arange(count) % 3
        images = draw.integers(0, 60, (count, 1, 8, 8))
        for i, label in enumerate(labels):
            images[i, :, 2 * label : 2 * label + 3] += 150
        arrays |= {f"x_{part}": images.astype(np.uint8), f"y_{part}": labels}
    np.savez(base / "data.npz", **arrays)
    train(TINY, base / "run", data_dir=base / "data.npz")
    return base / "run"


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    return code, output.out, output.err


def test_certify_prints_and_keeps_the_certificate(folder, capsys):
    code, out, _ = run(capsys, "certify", folder)
    stored = json.loads((folder / "certificate.json").read_text())
    assert code == 0
    for eps in TINY.eps:
        assert f"{100 * stored['certified_accuracy'][eps]:.2f} %" in out
    assert "Conv2d" in out
    assert "Lipschitz bound in l2: 1.0" in out


def test_attack_stays_above_the_certificate(folder, capsys):
    for method in ("pgd", "fgsm"):
        code, out, _ = run(
            capsys, "attack", folder, "--method", method, "--limit", 12, "--eps", "1/10"
        )
        assert code == 0
        row = next(line for line in out.splitlines() if line.startswith("1/10"))
        clean, certified, attacked = (float(cell) for cell in row.split()[1::2])
        assert certified <= attacked <= clean


def test_broken_certificate_fails_and_names_the_image(folder, capsys, monkeypatch):
    from taut.cli import attack as module

    def boast(model, images, labels, eps):
        found = true(model, images, labels, eps=eps)
        found.radius.fill_(100.0)
        return found

    true = module.certify
    monkeypatch.setattr(module, "certify", boast)
    code, _, err = run(capsys, "attack", folder, "--eps", "5", "--steps", 20)
    assert code == 1
    assert "A certificate is broken: test image 0" in err


def test_inspect_shows_every_layer(folder, capsys):
    code, out, _ = run(capsys, "inspect", folder)
    assert code == 0
    for name in ("conv1", "maxmin1", "dense2", "█"):
        assert name in out
    assert (folder / "inspection.png").stat().st_size > 1000


def test_tables_fit_a_terminal_of_80_columns(folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")
    for command in ("certify", "inspect"):
        code, out, _ = run(capsys, command, folder)
        assert code == 0
        assert "…" not in out
        plain = re.sub(r"\x1b\[[0-9;]*m", "", out).split("Wrote")[0]
        assert max(map(len, plain.splitlines())) <= 80


@pytest.mark.parametrize("command", ["certify", "attack", "inspect"])
def test_a_gpu_that_is_not_there_is_one_sentence(command, folder, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, _, err = run(capsys, command, folder, "--device", "cuda")
    assert code == 2
    assert "no GPU" in err
    assert err.count("\n") == 1


def test_unfinished_runs_say_so(folder, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    rows = (copy / "metrics.csv").read_text().splitlines(keepends=True)
    (copy / "metrics.csv").write_text("".join(rows[:2]))
    assert "after 1 of 2 epochs" in run(capsys, "certify", copy)[1]
    run(capsys, "report", copy, "--limit", 3)
    assert "2, 1 of them done" in (copy / "report.html").read_text(encoding="utf-8")
    assert "epochs" not in run(capsys, "certify", folder)[1]


def test_report_is_written(folder, capsys):
    code, out, _ = run(capsys, "report", folder, "--limit", 10)
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert code == 0
    assert str(folder / "report.html") in out
    assert "tiny" in text
    assert "kind multi-margin" in text
    assert "--data-dir DATA_DIR" in text
    assert str(folder.parent / "data.npz") not in text


def test_demo_goes_on_with_a_finished_run(folder, capsys, monkeypatch):
    from taut.cli import demo as module

    monkeypatch.setitem(module.RECIPES, "demo", TINY)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    code, out, _ = run(capsys, "demo", "--run", folder, "--limit", 24)
    assert code == 0
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    for words in ("clean", "certified", "attacked", "1/10", "0.5", str(folder / "report.html")):
        assert words in out


def test_demo_of_no_image_trains_nothing(tmp_path, capsys):
    code, out, err = run(capsys, "demo", "--run", tmp_path / "demo", "--limit", 0)
    assert (code, out) == (2, "")
    assert "`limit`" in err
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("command", ["certify", "attack", "inspect", "report"])
def test_no_run_is_one_sentence(command, tmp_path, capsys):
    code, out, err = run(capsys, command, tmp_path / "nowhere")
    assert (code, out) == (2, "")
    assert "no run folder" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("attack", "--eps", "0"), "`eps`"),
        (("certify", "--eps", "wide"), "`eps` .*'wide'"),
        (("attack", "--eps", "1e400"), "`eps` .*'1e400'"),
        (("attack", "--eps", "1e-400"), "`eps` .*'1e-400'"),
        (("attack", "--limit", "0"), "`limit`"),
        (("report", "--limit", "-3"), "`limit`"),
        (("attack", "--steps", "0"), "`steps`"),
        (("attack", "--method", "fgsm", "--steps", "3"), "among none; got steps"),
    ],
)
def test_wrong_values_are_one_sentence(arguments, words, folder, capsys):
    command, *options = arguments
    code, _, err = run(capsys, command, folder, *options)
    assert code == 2
    assert err.count("\n") == 1
    assert re.search(words, err)


def test_model_without_a_number_is_refused(folder, tmp_path, capsys):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    tensors = load_file(copy / "model.safetensors")
    save_file(
        {k: torch.full_like(v, torch.nan) for k, v in tensors.items()}, copy / "model.safetensors"
    )
    code, _, err = run(capsys, "attack", copy)
    assert code in (1, 2)
    assert "Traceback" not in err


def test_module_runs_as_a_program(folder):
    command = [sys.executable, "-m", "taut", "certify", str(folder), "--eps", "0.2"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "70"}
    )
    assert done.returncode == 0, done.stderr
    assert "0.2" in done.stdout
    wrong = subprocess.run(
        [*command[:3], "attack", str(folder), "--method", "magic"], capture_output=True, text=True
    )
    assert wrong.returncode == 2
    assert "Traceback" not in wrong.stderr
