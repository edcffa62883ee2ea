"""Shards as WebDataset writes them: read in place, in the order of their samples."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from taut.data import Batches, Holdout, load, stream


def pixels(at):
    return np.random.default_rng(at).integers(0, 256, (6, 7, 3)).astype(np.uint8)


def encoded(at):
    file = io.BytesIO()
    Image.fromarray(pixels(at)).save(file, "PNG")
    return file.getvalue()


def written(path, samples):
    """A shard of samples: the key of each, and its files by ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, files in samples:
            for ending, content in files.items():
                entry = tarfile.TarInfo(f"{key}.{ending}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return path


def samples(numbers, label=lambda at: {"cls": str(at % 3).encode()}):
    return [(f"{at:04}", {"png": encoded(at)} | label(at)) for at in numbers]


@pytest.fixture
def shards(tmp_path):
    written(tmp_path / "set" / "train-000001.tar", samples(range(5, 9)))
    written(tmp_path / "set" / "train-000000.tar", samples(range(5)))
    written(tmp_path / "set" / "val-000000.tar", samples(range(20, 23)))
    return tmp_path / "set"


def everything(split):
    (part,) = split.fetch(torch.arange(len(split)), [slice(None)])
    return part


def test_samples_keep_the_order_of_their_shards(shards):
    for data in (load("webdataset", shards), stream("webdataset", shards, workers=0)):
        assert data.label == "set (tested on val)"
        assert data.classes == ("0", "1", "2")
        for split, numbers in ((data.train, range(9)), (data.test, range(20, 23))):
            found = everything(split)
            assert found.labels.tolist() == [at % 3 for at in numbers]
            expected = np.stack([pixels(at).transpose(2, 0, 1) for at in numbers])
            assert np.array_equal(found.images.numpy(), expected)


def test_batches_are_those_of_memory(shards):
    common = {"batch_size": 4, "seed": 1}
    held = Batches(split=load("webdataset", shards).train, **common)
    streamed = Batches(split=stream("webdataset", shards, workers=2).train, **common)
    for epoch in (0, 1):
        for (a, x), (b, y) in zip(held.epoch(epoch), streamed.epoch(epoch), strict=True):
            assert torch.equal(a, b)
            assert torch.equal(x, y)


def test_pictures_are_brought_to_a_shape(shards):
    data = stream("webdataset", shards, workers=0, shape=(1, 4, 4), draft=True)
    assert torch.equal(
        everything(data.train).images,
        load("webdataset", shards, shape=(1, 4, 4), draft=True).train.images,
    )


@pytest.mark.parametrize(
    "label",
    [
        lambda at: {"json": json.dumps({"label": at % 3, "text": "a"}).encode()},
        lambda at: {"json": b"[]", "cls": f"{at % 3}\n".encode()},
        lambda at: {"cls": str(at % 3).encode(), "json": b"{}"},
    ],
)
def test_labels_may_be_numbers_or_in_json(label, tmp_path):
    written(tmp_path / "test" / "a.tar", samples(range(3), label))
    written(tmp_path / "train" / "a.tar", samples(range(4), label))
    (tmp_path / "classes.txt").write_text("cat\ndog\n\neel \nfox\n")
    data = load("webdataset", tmp_path)
    assert data.train.labels.tolist() == [0, 1, 2, 0]
    assert data.classes == ("cat", "dog", "eel", "fox")


def test_images_are_held_out_of_shards_of_one_part(tmp_path):
    written(tmp_path / "train-0.tar", samples(range(9)))
    for source in (tmp_path, tmp_path / "train-0.tar"):
        data = stream("webdataset", source, workers=0, holdout=Holdout(0.3))
        assert (len(data.train), len(data.test)) == (6, 3)
    with pytest.raises(ValueError, match="must have parts train and test, or `holdout`"):
        load("webdataset", tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"png": encoded(0)}, r"0\.tar: k\.png: must have a file of its name ending in \.cls or"),
        ({"png": encoded(0), "cls": b"cat"}, r"k\.cls: must hold a class, a whole number"),
        ({"png": encoded(0), "cls": b"-1"}, r"k\.cls: must hold a class, a whole number"),
        ({"png": encoded(0), "json": b'{"label": "a"}'}, r"k\.json: must hold a class"),
        ({"png": encoded(0), "json": b"[" * 100_000}, r"k\.json: must hold a class"),
        ({"png": encoded(0), "jpg": encoded(1), "cls": b"0"}, "must be the only picture"),
        ({"heic": b"", "cls": b"0"}, "pictures must be JPEG, PNG"),
        ({"cls": b"0"}, r"train-0\.tar: must hold pictures"),
    ],
)
def test_samples_that_are_not_whole_are_named(files, message, tmp_path):
    written(tmp_path / "train-0.tar", [("k", files)])
    for read in (load, lambda *where: stream(*where, workers=0)):
        with pytest.raises(ValueError, match=message) as caught:
            read("webdataset", tmp_path)
        assert "\n" not in str(caught.value)


def test_damaged_shards_and_wrong_names_are_refused(shards, tmp_path):
    file = shards / "train-000000.tar"
    file.write_bytes(file.read_bytes()[:700])
    with pytest.raises(ValueError, match=r"train-000000\.tar: not a complete tar archive"):
        stream("webdataset", shards, workers=0)
    (shards / "classes.txt").write_text("cat\ncat\ndog")
    file.unlink()
    with pytest.raises(ValueError, match=r"classes\.txt: must hold at least 3 different names"):
        load("webdataset", shards)
    written(shards / "other-0.tar", samples(range(2)))
    with pytest.raises(ValueError, match=r"shards must be of train and of one of test, .*others"):
        load("webdataset", shards)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"A tar shard not found in .*train-000000\.tar"):
        load("webdataset", tmp_path / "empty")
