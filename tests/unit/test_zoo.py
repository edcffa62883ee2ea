"""Models of the zoo: their files are those of the manifest, and every claim is proved again."""

import json
import re
import shutil

import numpy as np
import pytest
import torch

import taut
from experiments._record import read
from experiments.zoo import EXPERIMENT, ZOO, sha256
from taut import _zoo
from taut.certification import prove
from taut.certification.verifier import verify
from taut.cli import main

NAME = "mnist-small"
NET = """
import taut
from torch import nn

def net():
    return nn.Sequential(nn.Flatten(), taut.nn.Linear(20, 2))
"""


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """A copy with one model, for tests to damage."""
    shutil.copytree(ZOO / NAME, tmp_path / NAME)
    said = {NAME: read(ZOO / "manifest.json")[NAME]}
    (tmp_path / "manifest.json").write_text(json.dumps(said))
    monkeypatch.setattr(_zoo, "_CHECKOUT", tmp_path)
    return tmp_path


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("name", read(ZOO / "manifest.json"))
def test_every_model_has_its_files_and_gives_what_its_card_says(name):
    said = read(ZOO / "manifest.json")[name]
    files = {file.name: sha256(file) for file in (ZOO / name).iterdir()}
    assert files == said["files"]
    assert all(file.stat().st_size < 2**21 for file in (ZOO / name).iterdir())
    model = taut.load(f"zoo:{name}")
    shape = tuple(said["input_shape"])
    assert model(torch.zeros(2, *shape)).shape == (2, len(said["classes"]))
    assert float(prove(model, shape).bound) == pytest.approx(said["bound"], abs=1e-9)
    assert said["bound"] <= 1 or name == "cifar10-jpeg75-liresnet-hour"  # whose layers promise none
    (printed,) = re.findall(r"constant in l2: ([\d.]+)", (ZOO / name / "card.md").read_text())
    assert said["bound"] <= float(printed) < said["bound"] + 1e-9


def test_certificates_and_radii_are_proved_from_the_files_alone(zoo, capsys):
    assert EXPERIMENT.run(["--zoo", str(zoo)]) == 0
    assert "radii and answers of 50 images" in capsys.readouterr().out


@pytest.mark.parametrize("file", ["model.safetensors", "certificate.json", "points.npz"])
@pytest.mark.parametrize("hashed", [False, True])
def test_one_flipped_bit_is_found_even_if_the_manifest_has_its_hash(zoo, file, hashed, capsys):
    flip(zoo / NAME / file)
    if hashed:
        said = read(zoo / "manifest.json")
        said[NAME]["files"][file] = sha256(zoo / NAME / file)
        (zoo / "manifest.json").write_text(json.dumps(said))
    assert EXPERIMENT.run(["--zoo", str(zoo)]) != 0
    assert file.split(".")[0] in capsys.readouterr().err


def test_radii_are_listed_by_their_size():
    folder = ZOO / "cifar10-jpeg75-small"
    files = (folder / name for name in ("certificate.json", "model.safetensors", "points.npz"))
    assert re.findall(r" at (\d+)/255", verify(*files)) == ["36", "72", "108"]


@pytest.mark.parametrize("key", ["bound", "clean", "data", "epochs", "files"])
def test_an_entry_of_the_manifest_that_was_changed_is_found(zoo, key, capsys):
    said = read(zoo / "manifest.json")
    values = {"bound": said[NAME]["bound"] - 1e-7, "clean": 99.9, "data": "MNISU", "epochs": 21}
    said[NAME][key] = values.get(key)
    (zoo / "manifest.json").write_text(json.dumps(said))
    assert EXPERIMENT.run(["--zoo", str(zoo)]) == 1
    error = capsys.readouterr().err
    assert re.search(r"card\.md does not say what the|manifest\.json is damaged at mnist", error)


def test_files_without_a_hash_and_hashes_without_a_file_are_found(zoo, capsys):
    (zoo / NAME / "model.py").rename(zoo / NAME / "net.py")
    assert EXPERIMENT.run(["--zoo", str(zoo)]) == 1
    assert "and the manifest differ in model.py, net.py." in capsys.readouterr().err


def test_a_bound_below_the_proof_is_found_below_the_digits_of_the_card(zoo, capsys):
    said = read(zoo / "manifest.json")
    said[NAME]["bound"] -= 1e-11
    (zoo / "manifest.json").write_text(json.dumps(said))
    assert EXPERIMENT.run(["--zoo", str(zoo)]) == 1
    assert "manifest.json claims the bound 0.99999991221" in capsys.readouterr().err


def test_a_folder_without_models_is_refused(zoo, capsys):
    for content in ("{}", "[]", "{"):
        (zoo / "manifest.json").write_text(content)
        assert EXPERIMENT.run(["--zoo", str(zoo)]) == 2
        assert "manifest.json" in capsys.readouterr().err
    assert EXPERIMENT.run(["--zoo", str(zoo / "none")]) == 2


def test_models_of_another_hash_are_not_loaded(zoo):
    flip(zoo / NAME / "model.safetensors")
    with pytest.raises(ValueError, match="is not the file of the zoo"):
        taut.load(f"zoo:{NAME}")


def test_unknown_names_and_missing_files_are_named(zoo, monkeypatch, tmp_path):
    with pytest.raises(ValueError, match=rf"got zoo:mnist-smal\. Did you mean zoo:{NAME}\?"):
        taut.load("zoo:mnist-smal")
    with pytest.raises(FileNotFoundError, match=rf"zoo:NAME\. Did you mean zoo:{NAME}\?"):
        taut.load(NAME)
    monkeypatch.setenv("TAUT_ZOO", str(tmp_path / "elsewhere"))
    with pytest.raises(FileNotFoundError, match="set TAUT_ZOO"):
        taut.load(f"zoo:{NAME}")


def test_files_of_a_mirror_are_fetched_once(zoo, monkeypatch, tmp_path):
    asked = []

    def fetch(address, target, wanted, progress):
        asked.append((address, wanted))
        shutil.copy(zoo / NAME / "model.safetensors", target)

    monkeypatch.setenv("TAUT_ZOO", "https://example.org/zoo/")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    for _ in range(2):
        assert isinstance(taut.load(f"zoo:{NAME}"), torch.nn.Module)
    hashes = read(zoo / "manifest.json")[NAME]["files"]
    address = f"https://example.org/zoo/{NAME}/model.safetensors"
    assert asked == [(address, hashes["model.safetensors"])]


def test_a_critic_is_added_with_the_file_of_its_net_and_the_distance_it_proves(zoo, tmp_path):
    labels = np.arange(160) % 2
    noise = np.random.default_rng(0).integers(0, 100, (160, 1, 4, 5), dtype=np.uint8)
    shades = noise + 100 * labels[:, None, None, None].astype(np.uint8)
    file, recipe, run = (tmp_path / name for name in ("shades.npz", "mine.json", "run"))
    np.savez(file, x_train=shades, y_train=labels, x_test=shades, y_test=labels)
    (tmp_path / "net.py").write_text(NET)
    net = ["--model", f"{tmp_path / 'net.py'}:net", "--loss", "hinge-kr", "--epochs", "9"]
    assert main(["train", "--init", str(recipe), "--data-dir", str(file), *net]) == 0
    assert main(["train", str(recipe), "--data-dir", str(file), "--run", str(run)]) == 0
    assert EXPERIMENT.run(["--add", str(run), "--name", "shades", "--zoo", str(zoo)]) == 0
    said, folder = read(zoo / "manifest.json")["shades"], zoo / "shades"
    assert (folder / "net.py").read_text() == NET
    logits = taut.load(folder / "model.safetensors")(torch.tensor(shades) / 255)
    scores = (logits[:, 1] - logits[:, 0]).detach().numpy() * 0.5**0.5
    apart = (scores[labels == 1].mean() - scores[labels == 0].mean()) / said["bound"]
    assert said["distance"] == pytest.approx(apart, rel=1e-4)
    (printed,) = re.findall(r"at least (-?[\d.]+) apart", (folder / "card.md").read_text())
    assert said["distance"] - 1e-3 < float(printed) <= said["distance"]


def test_a_net_whose_file_would_be_written_over_is_refused(zoo, tmp_path, capsys):
    images, labels = np.zeros((4, 1, 4, 5), np.uint8), np.array([0, 1, 0, 1])
    file, net, run = tmp_path / "flat.npz", tmp_path / "model.py", str(tmp_path / "run")
    np.savez(file, x_train=images, y_train=labels, x_test=images, y_test=labels)
    net.write_text(NET)
    command = ["train", "demo", "--classes", "2", "--input-shape", "1,4,5", "--dataset", "npz"]
    command += ["--data-dir", str(file), "--model", f"{net}:net", "--epochs", "1", "--run", run]
    assert main(command) == 0
    assert EXPERIMENT.run(["--add", run, "--name", "own", "--zoo", str(zoo)]) != 0
    assert "must not be model.py" in capsys.readouterr().err
    assert not (zoo / "own").exists()


@pytest.mark.parametrize(
    ("error", "kind", "sentence"),
    [
        (OSError("refused"), FileNotFoundError, "cannot be fetched: refused."),
        (RuntimeError("invalid hash"), ValueError, "is not the file of the zoo: invalid hash."),
    ],
)
def test_a_mirror_that_fails_is_named(error, kind, sentence, monkeypatch, tmp_path):
    def fail(*_, **__):
        raise error

    monkeypatch.setenv("TAUT_ZOO", "https://example.org/zoo")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    address = f"https://example.org/zoo/{NAME}/model.safetensors"
    with pytest.raises(kind, match=f"^{address} {sentence}"):
        taut.load(f"zoo:{NAME}")


def test_commands_take_models_by_name(zoo, capsys, tmp_path):
    assert main(["certify", f"zoo:{NAME}"]) == 0
    assert "Lipschitz bound" in capsys.readouterr().out
    image = tmp_path / "digit.npy"
    np.save(image, np.load(zoo / NAME / "points.npz")["images"][0])
    assert main(["predict", f"zoo:{NAME}", str(image), "--csv"]) == 0
    assert ",7," in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["certify", NAME], f"no run folder or file {NAME}. Did you mean zoo:{NAME}?"),
        (["attack", f"zoo:{NAME}"], f"zoo:{NAME} is a model of the zoo, which `taut certify` and"),
    ],
)
def test_commands_say_which_of_them_take_models_by_name(
    words, sentence, capsys, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
