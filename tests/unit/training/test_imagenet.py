"""The recipe for ImageNet, run on made pictures: in two processes, from folders and from shards."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from taut.recipes import RECIPES
from taut.training import Run

ROOT = Path(__file__).parents[3]
SMALL = ["--input-shape", "3,16,16", "--classes", "4", "--epochs", "2", "--batch-size", "20"]
SMALL += ["--warmup", "0.5", "--accumulate", "2", "--workers", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    script = ROOT / "scripts" / "make_tiny_imagenet.py"
    subprocess.run([sys.executable, str(script), str(folder)], check=True, timeout=120)
    return folder


def trained(folder, *options, processes):
    """Run `taut train imagenet-large` to its end; the run."""
    ours = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    launcher += ["-m", "--", "taut"] if processes > 1 else []
    command = [sys.executable, *(launcher if processes > 1 else ["-m", "taut"])]
    command += ["train", "imagenet-large", *SMALL, *options]
    done = subprocess.run(
        command, cwd=folder, env=ours | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Run.open(folder / options[options.index("--run") + 1])


FOLDER = ["--data-dir", "folder", "--run", "by-class"]
SHARDS = ["--dataset", "webdataset", "--data-dir", "shards", "--run", "sharded"]


@pytest.mark.slow
@pytest.mark.parametrize("options", [FOLDER, SHARDS])
def test_two_processes_train_it_from_folders_and_from_shards(made, options):
    run = trained(made, *options, processes=2)
    rows = run.history()
    assert [row["step"] for row in rows] == [3, 6]
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert all(0.5 < row["bound"] < 1 + 1e-5 for row in rows)
    assert rows[-1]["lr"] < rows[0]["lr"]
    model, recipe = run.model(), run.recipe
    assert (recipe.precision, recipe.ema, recipe.draft) == ("bf16-mixed", 0.999, True)
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["made", "--classes", "0"], "--classes must be from 1 to 16; got 0"),
        (["made", "--size", "1"], "--size must be at least 2; got 1"),
        ([__file__], "cannot write to"),
    ],
)
def test_made_pictures_refuse_wrong_arguments(wrong, message, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["make_tiny_imagenet.py", *wrong])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(ROOT / "scripts" / "make_tiny_imagenet.py"), run_name="__main__")
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_shipped_recipe_uses_what_a_large_run_needs():
    recipe = RECIPES["imagenet-large"]
    assert recipe.augment is not None
    assert recipe.augment.changes_pictures
    assert recipe.resize
    assert recipe.draft
    assert recipe.channels_last
    assert min(recipe.warmup, recipe.clip_norm, recipe.ema) > 0
    assert recipe.batch_size % 8 == 0
