"""The recipe for ImageNet, run on made pictures: in two processes, from folders and from shards."""

import os
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


def test_two_processes_train_it_from_folders_and_from_shards(made):
    folder = ["--data-dir", "folder", "--run", "by-class"]
    shards = ["--dataset", "webdataset", "--data-dir", "shards", "--run", "sharded"]
    for options in (folder, shards):
        run = trained(made, *options, processes=2)
        rows = run.history()
        assert [row["step"] for row in rows] == [3, 6]
        assert rows[-1]["train_loss"] < rows[0]["train_loss"]
        assert all(0.5 < row["bound"] < 1 + 1e-5 for row in rows)
        assert rows[-1]["lr"] < rows[0]["lr"]
        model, recipe = run.model(), run.recipe
        assert (recipe.precision, recipe.ema, recipe.draft) == ("bf16-mixed", 0.999, True)
        assert all(p.dtype == torch.float32 for p in model.parameters())


def test_the_shipped_recipe_uses_what_a_large_run_needs():
    recipe = RECIPES["imagenet-large"]
    assert recipe.augment is not None
    assert recipe.augment.changes_pictures
    assert recipe.resize
    assert recipe.draft
    assert recipe.channels_last
    assert min(recipe.warmup, recipe.clip_norm, recipe.ema) > 0
    assert recipe.batch_size % 8 == 0
