"""`taut predict`, as a user runs it."""

import csv
import io
import json
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import taut
from taut.cli import main
from taut.data import Holdout
from taut.losses import MultiMargin
from taut.training import Recipe, Run, train

NET = """
import torch
import taut

def make():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), taut.nn.Linear(64, 4))

def sign():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), taut.nn.Linear(64, 1))

def dense():
    return torch.nn.Conv2d(1, 3, 3, padding=1)
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A run on three classes with names, pictures, and a model in a file with weights."""
    base = tmp_path_factory.mktemp("base")
    draw = np.random.default_rng(0)
    arrays = {"classes": np.array(["left", "middle", "right"])}
    for part, count in (("train", 48), ("test", 12)):
        images = draw.integers(0, 60, (count, 1, 8, 8))
        for i in range(count):
            images[i, :, 2 * (i % 3) : 2 * (i % 3) + 3] += 150
        arrays |= {f"x_{part}": images.astype(np.uint8), f"y_{part}": np.arange(count) % 3}
    np.savez(base / "data.npz", **arrays)
    shape = {"input_shape": (1, 8, 8), "classes": 3, "epochs": 2, "batch_size": 16}
    recipe = Recipe(name="tiny", dataset="npz", loss=MultiMargin(0.3), lr=1e-2, **shape)
    train(recipe, base / "run", data_dir=base / "data.npz")
    (base / "net.py").write_text(NET)
    for i, image in enumerate(arrays["x_test"][:3]):
        Image.fromarray(image[0]).save(base / f"{i}.png")
    np.savez(base / "images.npz", images=arrays["x_test"])
    np.save(base / "floats.npy", arrays["x_test"][:, 0].astype(np.float32) / 255)
    return base


def run(capsys, *arguments):
    code = main(["predict", *map(str, arguments)])
    output = capsys.readouterr()
    return code, output.out, output.err


def expected(base, count=12):
    images = torch.from_numpy(np.load(base / "images.npz")["images"][:count]).float() / 255
    return taut.predict(Run.open(base / "run").model(), images)


def test_pictures_of_a_run(base, capsys):
    code, out, err = run(capsys, base / "run", base / "0.png", base / "2.png", base / "1.png")
    found = expected(base, 3)
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines() if ".png" in line]
    assert [row[0] for row in rows] == [str(base / f"{i}.png") for i in (0, 2, 1)]
    names = ["left", "middle", "right"]
    assert [row[1] for row in rows] == [names[found.classes[i]] for i in (0, 2, 1)]
    for row, radius in zip(rows, found.radius[[0, 2, 1]].tolist(), strict=True):
        assert 0 <= Fraction(radius) - Fraction(row[3]) < Fraction(radius) / 10**5
    assert "holds for the float64 run" in out


@pytest.mark.parametrize("file", ["images.npz", "floats.npy"])
def test_arrays_as_a_table_of_values(base, capsys, file):
    code, out, _ = run(capsys, base / "run", base / file, "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    found = expected(base)
    assert code == 0
    assert [float(row["radius"]) for row in rows] == found.radius.tolist()
    assert rows[3]["image"] == f"{base / file}[3]"
    assert {row["class"] for row in rows} <= {"left", "middle", "right"}


def test_json_has_the_radius_to_each_class(base, capsys):
    code, out, _ = run(capsys, base / "run", base / "images.npz", base / "1.png", "--json")
    content, found = json.loads(out), expected(base)
    assert code == 0
    assert content["classes"] == [*found.classes.tolist(), found.classes[1].item()]
    assert content["radii"][2] == [r if r < 9e9 else None for r in found.radii[2].tolist()]
    assert content["names"] == ["left", "middle", "right"]


def test_folder_of_pictures(base, capsys, tmp_path):
    for i in range(3):
        Image.open(base / f"{i}.png").convert("RGBA").save(tmp_path / f"{i}.png")
    _, out, _ = run(capsys, base / "run", tmp_path, "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [float(row["radius"]) for row in rows] == expected(base, 3).radius.tolist()


def test_exit_code_tells_if_a_radius_is_too_small(base, capsys):
    found = expected(base, 3)
    low, high = (f(found.radius).item() for f in (torch.min, torch.max))
    low *= 1 + 1e-9  # another run may sum in another order
    pictures = [base / f"{i}.png" for i in range(3)]
    arguments = (base / "run", *pictures, "--at-least")
    assert run(capsys, *arguments, low / 2)[0] == 0
    code, out, err = run(capsys, *arguments, low)
    assert (code, out.count(".png")) == (1, 3)
    assert err.startswith(f"taut: 1 of 3 images are not certified at {low}, the first is")
    assert "3 of 3" in run(capsys, *arguments, f"{int(high * 255) + 1}/255")[2]
    assert run(capsys, *arguments, "a lot")[0::2] == (
        2,
        "taut: `--at-least` must be a number >= 0 or a ratio such as 36/255; got 'a lot'.\n",
    )


@pytest.mark.parametrize("to", ["onnx", "safetensors"])
def test_exported_files(base, capsys, to):
    if to == "onnx":
        pytest.importorskip("onnx")
    assert main(["export", str(base / "run"), "--to", to]) == 0
    capsys.readouterr()
    code, out, _ = run(capsys, base / "run" / to / f"model.{to}", base / "images.npz", "--csv")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    radii = torch.tensor([float(row["radius"]) for row in rows], dtype=torch.float64)
    torch.testing.assert_close(radii, expected(base).radius, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".safetensors"])
def test_model_in_a_file_with_weights(base, capsys, suffix):
    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Flatten(), taut.nn.Linear(64, 4))
    weights = base / f"weights{suffix}"
    state = model.state_dict()
    save_file(state, weights) if suffix == ".safetensors" else torch.save(state, weights)
    given = ("--model", f"{base / 'net.py'}:make", "--weights", weights)
    code, out, _ = run(
        capsys, *given, "--input-shape", "1,8,8", "--csv", "--arithmetic", "float32",
        base / "images.npz",
    )  # fmt: skip
    images = torch.from_numpy(np.load(base / "images.npz")["images"]).float() / 255
    found = taut.predict(model, images, arithmetic="float32")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert [float(row["radius"]) for row in rows] == found.radius.tolist()
    assert [int(row["class"]) for row in rows] == found.classes.tolist()


def test_one_output(base, capsys):
    given = ("--model", f"{base / 'net.py'}:sign", "--input-shape", "1,8,8")
    code, out, _ = run(capsys, *given, "--csv", base / "images.npz")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert all(abs(float(r["margin"]) - float(r["radius"])) < 1e-5 for r in rows)


def test_model_that_answers_at_each_pixel(base, capsys):
    torch.manual_seed(2)
    model = torch.nn.Conv2d(1, 3, 3, padding=1)
    torch.save(model.state_dict(), base / "dense.pt")
    given = ("--model", f"{base / 'net.py'}:dense", "--weights", base / "dense.pt")
    given += ("--input-shape", "1,8,8", base / "images.npz")
    images = torch.from_numpy(np.load(base / "images.npz")["images"]).float() / 255
    found = taut.predict(model, images)
    eps = f"{found.radius.flatten(1).amin(1).max().item() * 0.9:.6f}"
    code, out, err = run(capsys, *given, "--at-least", eps)
    rows = [line.split() for line in out.splitlines() if ".npz[" in line]
    assert len(rows) == len(images)
    for classes, radius, row in zip(found.classes, found.radius, rows, strict=True):
        counts = [int((classes == label).sum()) for label in range(3)]
        share, above = max(counts) / 64, (radius > float(eps)).double().mean().item()
        assert int(row[1]) == counts.index(max(counts))
        assert [float(row[2]), float(row[6])] == pytest.approx([100 * share, 100 * above], abs=0.01)
        assert [float(row[4]), float(row[5])] == pytest.approx(
            [radius.min().item(), sorted(radius.flatten().tolist())[31]], rel=1e-4
        )
    failing = int((found.radius.flatten(1).amin(1) <= float(eps)).sum())
    assert 0 < failing < len(images)
    assert code == 1
    assert err.startswith(f"taut: {failing} of 12 images are not certified at all places at {eps}")
    content = json.loads(run(capsys, *given, "--json")[1])
    assert content["classes"] == found.classes.tolist()
    assert content["radius"] == found.radius.tolist()
    table = list(csv.DictReader(io.StringIO(run(capsys, *given, "--csv")[1])))
    assert [float(row["radius"]) for row in table] == found.radius.flatten().tolist()


def test_run_that_resizes_predicts_its_own_pictures(capsys, tmp_path):
    draw = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(2):
            pixels = draw.integers(0, 256, (11 + i, 9, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / name / f"{i}.png")
    shape = {"input_shape": (3, 8, 8), "classes": 2, "epochs": 1, "batch_size": 2}
    recipe = Recipe(name="tiny", dataset="folder", holdout=Holdout(0.5), resize=True, **shape)
    train(recipe, tmp_path / "run", data_dir=tmp_path / "pets")
    code, out, err = run(capsys, tmp_path / "run", tmp_path / "pets", "--json")
    assert (code, err) == (0, "")
    content = json.loads(out)
    data = Run.open(tmp_path / "run").dataset()
    images = torch.cat([data.train.float_images(), data.test.float_images()])
    radii = taut.predict(Run.open(tmp_path / "run").model(), images).radius
    assert sorted(content["radius"]) == pytest.approx(sorted(radii.tolist()), rel=1e-9)
    for command in (["certify"], ["attack", "--method", "fgsm"]):
        assert main([*command, "--eps", "0.1", "--", str(tmp_path / "run")]) == 0


def test_pictures_are_turned_before_their_size_is_looked_at(base, capsys, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 9)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    given = ("--model", f"{base / 'net.py'}:dense", "--input-shape")
    assert run(capsys, *given, "1,9,8", tmp_path / "turned.png")[0] == 0
    code, _, err = run(capsys, *given, "1,8,9", tmp_path / "turned.png")
    assert code == 2
    assert "must be 9 x 8 pixels (width x height); got 8 x 9." in err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "Give a run folder"),
        (("{run}",), "Give the images to predict after"),
        (("{run}", "no.png"), "There is no file no.png."),
        (("no-run", "{zero}"), "There is no run folder or file no-run."),
        (("{run}", "{zero}", "--csv", "--json"), "give `--csv` or `--json`, not both"),
        (("{run}", "{zero}", "--data", "{npz}"), "`--data` is for test images with labels"),
        (("{run}", "{zero}", "--weights", "w.pt"), "A run folder has its own model"),
        (("{run}", "{large}"), "must be 8 x 8 pixels (width x height); got 9 x 8."),
        (("{run}", "{svg}"), "not a whole picture (JPEG"),
        (("{run}", "{wide}"), "must hold images of shape (n, 1, 8, 8); got (2, 1, 8, 9)."),
        (("{run}", "{bright}"), "floats must lie in [0, 1]; got 0 to 2."),
        (("{run}", "{many}"), "must hold one array, or `images`, or `x`; got a, b."),
        (("{run}", "{objects}"), "not an npy file of a plain array"),
        (("--model", "{net}:make", "{zero}"), "`--model` needs `--input-shape`"),
        (("--model", "{net}:make", "--input-shape", "64", "{zero}"), "takes inputs of (64,)"),
        (
            ("--model", "{net}:make", "--input-shape", "1,8,8", "--data-dir", "x", "{zero}"),
            "leave it",
        ),
        (
            ("--model", "{net}:dense", "--input-shape", "1,8,8", "{run}", "{zero}"),
            "Give {run} or `--model`, not both.",
        ),
    ],
)
def test_wrong_use_is_one_sentence(base, capsys, arguments, sentence):
    files = {"run": base / "run", "zero": base / "0.png", "npz": base / "images.npz"}
    files |= {name: base / f"{name}.npy" for name in ("wide", "bright", "objects")}
    files |= {"large": base / "large.png", "svg": base / "a.svg", "many": base / "many.npz"}
    files["net"] = base / "net.py"
    Image.new("L", (9, 8)).save(files["large"])
    files["svg"].write_text("<svg/>")
    np.save(files["wide"], np.zeros((2, 1, 8, 9), dtype=np.uint8))
    np.save(files["bright"], np.stack([np.zeros((1, 8, 8)), np.full((1, 8, 8), 2.0)]))
    np.save(files["objects"], np.array([None]), allow_pickle=True)
    np.savez(files["many"], a=np.zeros(2), b=np.zeros(2))
    code, out, err = run(capsys, *(word.format(**files) for word in arguments))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert sentence.replace("{run}", str(files["run"])) in err
