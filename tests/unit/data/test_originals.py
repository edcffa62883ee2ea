"""The real data sets, where they lie beside the checkout."""

import gzip
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from taut.data import load
from taut.data._named import EMBEDDED_FILE as FILE

ROOT = Path(__file__).parents[3]
SHARED = ROOT.parent / "shared" / "data"

# Of the uncompressed idx files: their header and the bytes of the array.
SHA256 = {
    "mnist": (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    "fashion-mnist": (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}


def shared(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"{name} is not beside the checkout")
    return folder


def idx_sha256(array: np.ndarray) -> str:
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    header = bytes([0, 0, 8, array.ndim]) + sizes
    return hashlib.sha256(header + array.astype(np.uint8).tobytes()).hexdigest()


@pytest.mark.parametrize("name", sorted(SHA256))
def test_reader_gives_the_published_bytes(name):
    data = load(name, shared(name))
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    arrays = [
        array
        for split in (data.train, data.test)
        for array in (split.images[:, 0].numpy(), split.labels.numpy())
    ]
    assert tuple(map(idx_sha256, arrays)) == SHA256[name]


@pytest.mark.parametrize("name", sorted(SHA256))
def test_the_published_files_are_known_by_their_hashes(name, tmp_path):
    other = next(other for other in SHA256 if other != name)
    assert load(name, shared(name)).label == {"mnist": "MNIST"}.get(name, "Fashion-MNIST")
    with pytest.raises(ValueError, match=rf"is a file of .*; load it as {name}\."):
        load(other, shared(name))
    for file in shared(name).glob("*-ubyte.gz"):
        (tmp_path / file.name).symlink_to(file)
    labels = tmp_path / "t10k-labels-idx1-ubyte.gz"
    content = bytearray(gzip.decompress(labels.read_bytes()))
    content[8] = (content[8] + 1) % 10  # one label
    labels.unlink()
    labels.write_bytes(gzip.compress(content))
    assert load(name, tmp_path).label.endswith("MNIST (not the published files)")


def test_embedded_subset_is_the_first_of_each_class_of_the_original():
    original, subset = load("fashion-mnist", shared("fashion-mnist")), load("fashion-mnist-subset")
    for whole, part, count in (
        (original.train, subset.train, 200),
        (original.test, subset.test, 100),
    ):
        left, kept = [count] * 10, []
        for at, label in enumerate(whole.labels.tolist()):
            if left[label]:
                left[label] -= 1
                kept.append(at)
        assert part.labels.equal(whole.labels[kept])
        assert part.images.equal(whole.images[kept])


def test_script_writes_the_embedded_file_again_byte_by_byte(tmp_path):
    folder, target = shared("fashion-mnist"), tmp_path / FILE
    script = ROOT / "scripts" / "make_fashion_subset.py"
    command = [sys.executable, script, "--data-dir", folder, "--target", target]
    subprocess.run(command, env={"PYTHONPATH": str(ROOT / "src")}, check=True)
    assert target.read_bytes() == (ROOT / "src/taut/data/embedded" / FILE).read_bytes()


@pytest.mark.slow
def test_jpeg_version_of_cifar10_is_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("TAUT_CACHE", str(tmp_path))
    data = load("cifar10-jpeg75", shared("cifar10-jpeg75"))
    assert data.label == "CIFAR-10 (JPEG q75)"
    assert data.train.labels.bincount().tolist() == [5000] * 10
    assert data.test.labels.bincount().tolist() == [1000] * 10
    assert data.input_shape == (3, 32, 32)
