"""`taut inspect`: a run, runs side by side, any torch model."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import taut
from taut.cli import main
from taut.diagnostics import inspect
from taut.losses import MultiMargin
from taut.training import Recipe, Run, train

RECIPE = Recipe(
    name="tiny",
    dataset="npz",
    input_shape=(1, 8, 8),
    classes=3,
    parametrization=taut.RKO,
    loss=MultiMargin(eps_train=0.3),
    lr=0.1,
    epochs=1,
    batch_size=16,
    retract_every=0,
    seed=3,
    eps=("0.1",),
)
NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.inner = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 1)
        self.head = nn.Linear(128, 4)

    def forward(self, x):
        x = self.conv(x).relu()
        return self.head((x + self.inner(x.tanh())).flatten(1))
"""


def _kept(model, base):
    save_file(model.state_dict(), base / "start.safetensors")
    return model


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Two runs of one recipe but for its method, and the weights that the first started from."""
    base = tmp_path_factory.mktemp("runs")
    draw = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 96), ("test", 12)):
        arrays[f"x_{part}"] = draw.integers(0, 256, (count, 1, 8, 8)).astype(np.uint8)
        arrays[f"y_{part}"] = np.arange(count) % 3
    np.savez(base / "data.npz", **arrays)
    with pytest.MonkeyPatch.context() as patch:
        build = Recipe.build_model
        patch.setattr(Recipe, "build_model", lambda recipe: _kept(build(recipe), base))
        train(RECIPE, base / "rko", data_dir=base / "data.npz")
    other = replace(RECIPE, parametrization=taut.BCOP)
    train(other, base / "bcop", data_dir=base / "data.npz")
    (base / "net.py").write_text(NET)
    return base


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = main(["inspect", *map(str, arguments)])
    output = capsys.readouterr()
    return code, output.out, output.err


def test_initial_weights_are_those_that_training_started_from(base):
    draw = torch.get_rng_state()
    opened = Run.open(base / "rko")
    start, found = load_file(base / "start.safetensors"), opened.initial_model().state_dict()
    assert start.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in start.items())
    assert not any(torch.equal(v, found[k]) for k, v in opened.model().state_dict().items())
    assert torch.equal(torch.get_rng_state(), draw)


def test_a_run_is_shown_before_and_after(base, capsys):
    code, out, _ = run(capsys, base / "rko", "--limit", 5)
    assert code == 0
    opened = Run.open(base / "rko")
    test = opened.dataset().test
    images, labels = test.float_images()[:5], test.labels[:5]
    rows = [line.split() for line in out.splitlines()]
    now = next(row for row in rows if row[:1] == ["conv2"])
    then = rows[rows.index(now) + 1]
    for row, model in ((now, opened.model()), (["", *then], opened.initial_model())):
        layer = inspect(model, images, labels).layers[2]
        assert row[2] == f"{layer.spectrum.min():.6f}"
        assert row[3] == f"{layer.spectrum.max():.6f}"
    assert then[0] == "before"
    gradient = inspect(opened.model(), images, labels).layers[2]
    assert now[-2:] == [f"{gradient.margin:.4f}", f"{gradient.random:.4f}"]
    assert "5 test images" in out
    assert "Jacobian, 3 singular values per image" in out
    assert (base / "rko" / "inspection.png").stat().st_size > 1000


def test_runs_are_set_side_by_side(base, tmp_path, capsys):
    runs = base / "rko", base / "bcop", base / "rko"
    code, out, _ = run(capsys, *runs, "--limit", 5, "--output", tmp_path / "a.png")
    assert code == 0
    rows = {line.split("  ")[0]: line.split() for line in out.splitlines()}
    assert {"rko", "bcop", "rko (2)"} <= rows.keys()
    assert rows["rko"][1:] == rows["rko (2)"][2:]
    assert float(rows["bcop"][-1]) <= 1.0001
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    assert run(capsys, *runs, "--limit", 5)[0] == 0
    assert (base / "rko" / "attenuation.png").stat().st_size > 1000


@pytest.mark.parametrize("data", [True, False])
def test_any_model_in_a_file(data, base, tmp_path, capsys):
    options = ["--data", base / "data.npz"] if data else []
    options += ["--output", tmp_path / "a.png"] if data else []
    code, out, _ = run(
        capsys,
        "--model",
        f"{base / 'net.py'}:Net",
        "--input-shape",
        "1,8,8",
        "--limit",
        4,
        *options,
    )
    assert code == 0
    assert ("4 test images" if data else "4 images of noise") in out
    assert re.search(r"^inner \* ", out, flags=re.MULTILINE)
    assert "* in a branch" in out
    assert (tmp_path / "a.png").exists() == data


def test_weights_of_a_file_are_loaded(base, tmp_path, capsys):
    torch.manual_seed(1)
    weights = {
        "conv.weight": torch.zeros(2, 1, 3, 3),
        "conv.bias": torch.zeros(2),
        "inner.weight": torch.zeros(2, 2, 1, 1),
        "inner.bias": torch.zeros(2),
        "head.weight": torch.rand(4, 128),
        "head.bias": torch.zeros(4),
    }
    save_file(weights, tmp_path / "w.safetensors")
    source = ("--model", f"{base / 'net.py'}:Net", "--input-shape", "1,8,8")
    code, out, _ = run(capsys, *source, "--weights", tmp_path / "w.safetensors")
    assert code == 0
    assert next(line for line in out.splitlines() if line.startswith("conv")).endswith(
        "0.0000  0.0000"
    )


def test_tables_fit_a_terminal_of_80_columns(base, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")
    for runs in ([base / "rko"], [base / "rko", base / "bcop"]):
        code, out, _ = run(capsys, *runs)
        plain = re.sub(r"\x1b\[[0-9;]*m", "", out).split("Wrote")[0]
        assert code == 0
        assert "…" not in out
        assert max(map(len, plain.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Give a run folder, or a model"),
        (("RUN", "--model", "net.py:Net"), "Give .* or `--model`, not both"),
        (("RUN", "--input-shape", "1,8,8"), "leave out the options of files"),
        (("RUN", "--limit", "0"), "`--limit` must be at least 1"),
        (("RUN", "nowhere"), "There is no run folder nowhere"),
        (("--model", "BASE/net.py:Net"), "`--model` needs `--input-shape`"),
        (("--model", "nowhere.py:Net", "--input-shape", "1,8,8"), "no file nowhere.py"),
        (
            ("--model", "BASE/net.py:Net", "--input-shape", "3,8,8"),
            "`--input-shape` must fit the model; with 3,8,8",
        ),
        (
            ("--model", "BASE/net.py:Net", "--input-shape", "1,9,9", "--data", "BASE/data.npz"),
            "`--input-shape` must be that of the images.*they are 1,8,8",
        ),
    ],
)
def test_wrong_use_is_one_sentence(arguments, words, base, capsys):
    names = {"RUN": str(base / "rko")}
    code, _, err = run(capsys, *(names.get(x, x).replace("BASE", str(base)) for x in arguments))
    assert code == 2
    assert err.count("\n") == 1
    assert re.search(words, err)
