"""Models by name: their files are those of the manifest, and every claim is proved again."""

import json
import shutil

import pytest
import torch

import taut
from experiments.zoo import EXPERIMENT, ZOO, read_manifest, sha256
from taut import _zoo
from taut.certification import prove

NAME = "mnist-small"


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A zoo of one model, which can be spoilt."""
    shutil.copytree(ZOO / NAME, tmp_path / NAME)
    said = {NAME: read_manifest(ZOO)[NAME]}
    (tmp_path / "manifest.json").write_text(json.dumps(said))
    monkeypatch.setattr(_zoo, "_CHECKOUT", tmp_path)
    return tmp_path


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("name", read_manifest(ZOO))
def test_every_model_has_its_files_and_gives_what_its_card_says(name):
    said = read_manifest(ZOO)[name]
    files = {file.name: sha256(file) for file in (ZOO / name).iterdir()}
    assert files == said["files"]
    assert sum(file.stat().st_size for file in (ZOO / name).iterdir()) < 2**21
    model = taut.load(f"zoo:{name}")
    shape = tuple(said["input_shape"])
    assert model(torch.zeros(2, *shape)).shape == (2, len(said["classes"]))
    assert float(prove(model, shape).bound) == pytest.approx(said["bound"], abs=1e-9)
    assert said["bound"] <= 1


def test_certificates_and_radii_are_proved_from_the_files_alone(copy, capsys):
    assert EXPERIMENT.run(["--zoo", str(copy)]) == 0
    assert "radii and answers of 50 images" in capsys.readouterr().out


@pytest.mark.parametrize("file", ["model.safetensors", "certificate.json", "points.npz"])
@pytest.mark.parametrize("hashed", [False, True])
def test_one_flipped_bit_is_found_even_by_who_trusts_the_manifest(copy, file, hashed, capsys):
    flip(copy / NAME / file)
    if hashed:
        said = read_manifest(copy)
        said[NAME]["files"][file] = sha256(copy / NAME / file)
        (copy / "manifest.json").write_text(json.dumps(said))
    assert EXPERIMENT.run(["--zoo", str(copy)]) != 0
    assert file.split(".")[0] in capsys.readouterr().err


def test_models_of_another_hash_are_not_loaded(copy):
    flip(copy / NAME / "model.safetensors")
    with pytest.raises(ValueError, match="is not the file of the zoo"):
        taut.load(f"zoo:{NAME}")


def test_unknown_names_and_missing_files_are_named(copy, monkeypatch, tmp_path):
    with pytest.raises(ValueError, match=r"got zoo:mnist-smal\. Did you mean"):
        taut.load("zoo:mnist-smal")
    monkeypatch.setenv("TAUT_ZOO", str(tmp_path / "elsewhere"))
    with pytest.raises(FileNotFoundError, match="set TAUT_ZOO"):
        taut.load(f"zoo:{NAME}")


def test_files_of_a_mirror_are_fetched_once(copy, monkeypatch, tmp_path):
    asked = []

    def fetch(address, target, wanted, progress):
        asked.append((address, wanted))
        shutil.copy(copy / NAME / "model.safetensors", target)

    monkeypatch.setenv("TAUT_ZOO", "https://example.org/zoo/")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    for _ in range(2):
        assert isinstance(taut.load(f"zoo:{NAME}"), torch.nn.Module)
    hashes = read_manifest(copy)[NAME]["files"]
    address = f"https://example.org/zoo/{NAME}/model.safetensors"
    assert asked == [(address, hashes["model.safetensors"])]


def test_commands_take_models_by_name(copy, capsys, tmp_path):
    from taut.cli import main

    assert main(["certify", f"zoo:{NAME}"]) == 0
    assert "Lipschitz bound" in capsys.readouterr().out
    image = tmp_path / "digit.npy"
    import numpy as np

    np.save(image, np.load(copy / NAME / "points.npz")["images"][0])
    assert main(["predict", f"zoo:{NAME}", str(image), "--csv"]) == 0
    assert ",7," in capsys.readouterr().out
