"""Images streamed from disk are those of memory: in every batch, in training, and resumed."""

import shutil
import signal
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from taut.cli.app import main
from taut.data import Augment, Batches, Holdout, Share, hub, load, stream
from taut.data.stream import Stream, StreamedDataset
from taut.models import ModelConfig
from taut.training import Launch, Recipe, Run, TrainingInterrupted, train

TINY = Recipe(
    name="tiny",
    dataset="folder",
    model=ModelConfig("small", input_shape=(3, 6, 6), classes=3),
    epochs=2,
    batch_size=7,
    augment=Augment(crop_padding=1),
    eps=("0.1",),
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """24 pictures to train on, not as many of each class, one of them grey; 9 to test on."""
    path = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for part, counts in (("train", (11, 8, 5)), ("test", (3, 3, 3))):
        for label, count in enumerate(counts):
            folder = path / part / "abc"[label]
            folder.mkdir(parents=True)
            for at in range(count):
                pixels = rng.integers(0, 256, (6, 6, 3)).astype(np.uint8)
                grey = (part, label, at) == ("train", 1, 4)
                Image.fromarray(pixels[:, :, 0] if grey else pixels).save(folder / f"{at:02}.png")
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TAUT_CACHE", str(tmp_path / "cache"))


def everything(split):
    (found,) = split.fetch(torch.arange(len(split)), [slice(None)])
    return found


def assert_equal(streamed, held):
    assert streamed.classes == held.classes
    assert streamed.input_shape == held.input_shape
    assert streamed.label == held.label
    for part in ("train", "test"):
        found, expected = everything(getattr(streamed, part)), getattr(held, part)
        assert torch.equal(found.images, expected.images)
        assert torch.equal(found.labels, expected.labels)


def test_a_streamed_folder_holds_the_images_of_a_loaded_one(photos):
    assert_equal(stream("folder", photos, workers=0), load("folder", photos))


def test_held_out_images_are_the_same_too(photos):
    holdout = Holdout(0.3, seed=2)
    streamed = stream("folder", photos / "train", workers=0, holdout=holdout)
    assert_equal(streamed, load("folder", photos / "train", holdout=holdout))


@pytest.mark.parametrize(("workers", "start", "share"), [(0, 0, (0, 1)), (2, 2, (1, 2))])
def test_streamed_batches_are_bitwise_those_of_memory(workers, start, share, photos):
    before = torch.get_rng_state()
    held, streamed = load("folder", photos), stream("folder", photos, workers=workers)
    common = {"batch_size": 5, "seed": 3, "augment": Augment(1), "share": Share(*share)}
    pairs = zip(
        Batches(split=held.train, **common).epoch(1, start=start),
        Batches(split=streamed.train, **common).epoch(1, start=start),
        strict=True,
    )
    for (images, labels), (found, its) in pairs:
        assert torch.equal(images, found)
        assert torch.equal(labels, its)
    assert torch.equal(torch.get_rng_state(), before)


def test_empty_parts_decode_nothing(photos):
    parts = [slice(0, 0), slice(0, 2), slice(3, 3)]
    split = stream("folder", photos, workers=0).train
    found = [len(part) for part in split.fetch(torch.arange(len(split)), parts)]
    assert found == [0, 2, 0]


def test_a_resumed_epoch_decodes_only_what_is_left():
    seen = []

    def pictures(at):
        seen.append(at)
        return np.zeros((1, 2, 2), np.uint8), str(at)

    split = Stream(pictures, torch.arange(10), torch.arange(10), (1, 2, 2), workers=0)
    drawn = Batches(split=split, batch_size=4, seed=0)
    assert [len(labels) for _, labels in drawn.epoch(0, start=2)] == [2]
    assert len(seen) == 2


def outcome(run):
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in run.history()]
    return rows, {k: v.numpy().tobytes() for k, v in run.model().state_dict().items()}


def test_a_streamed_run_is_bitwise_the_one_in_memory_and_resumes_in_an_epoch(photos, tmp_path):
    def stop(progress):
        if progress.step == 6:  # of 4 an epoch
            signal.raise_signal(signal.SIGINT)

    held = train(TINY, tmp_path / "held", data_dir=photos)
    folder, launch = tmp_path / "streamed", Launch(workers=1)
    with pytest.raises(TrainingInterrupted):
        train(TINY, folder, data_dir=photos, launch=launch, on_progress=stop)
    assert len(Run.open(folder).history()) == 1
    assert outcome(train(TINY, folder, launch=launch)) == outcome(held)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_wrong_with_an_image_is_told_by_name(workers, photos, tmp_path):
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        shutil.copytree(photos / part / "a", tmp_path / part / "a")
        (tmp_path / part / "b").mkdir()
        Image.new("RGB", (6, 6)).save(tmp_path / part / "b" / "0.png")
    (tmp_path / "train" / "b" / "0.png").write_bytes(b"no picture")
    data = stream("folder", tmp_path, workers=workers)
    with pytest.raises(ValueError, match=r"b/0\.png: not a whole JPEG or PNG image"):
        everything(data.train)
    Image.new("RGB", (5, 6)).save(tmp_path / "train" / "b" / "0.png")
    with pytest.raises(ValueError, match=r"b/0\.png: all images must have the shape .*\(3, 6, 5\)"):
        everything(data.train)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("mnist", {}, "`name` must be folder or hub:NAME"),
        ("folder", {"workers": -1}, "`workers` must be at least 0; got -1"),
        ("folder", {"holdout": Holdout(0.5)}, "`holdout` must be None"),
        ("folder", {"data_dir": None}, "`data_dir` must be a folder"),
    ],
)
def test_wrong_streams_are_refused(name, change, message, photos):
    settings = {"data_dir": photos, "workers": 0, "holdout": None} | change
    with pytest.raises(ValueError, match=message):
        stream(name, settings.pop("data_dir"), **settings)


def test_the_command_line_streams(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.json").write_text(replace(TINY, epochs=1).to_json())
    options = ["--data-dir", str(photos), "--run", "run", "--workers", "0"]
    assert main(["train", "tiny.json", *options]) == 0
    assert main(["train", "tiny.json", "--run", "other", "--workers", "-1"]) == 2
    assert "`workers` must be at least 0; got -1" in capsys.readouterr().err


class ClassLabel:
    names = ("cat", "dog")


class ImageColumn:
    pass


ImageColumn.__name__ = "Image"


class Rows(list):
    """As much of a data set of the library as is used: rows by number, columns by name."""

    features: ClassVar = {"image": ImageColumn(), "label": ClassLabel()}

    def __getitem__(self, key):
        if isinstance(key, str):
            return [row[key] for row in self]
        return super().__getitem__(key)


def test_hub_data_stream_what_they_load(monkeypatch):
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (13, 4, 4, 3)).astype(np.uint8)
    rows = [{"image": Image.fromarray(p), "label": i % 2} for i, p in enumerate(pixels)]
    parts = {"train": Rows(rows[:8]), "test": Rows(rows[8:])}
    monkeypatch.setattr(hub, "open_parts", lambda name, cache_dir: parts)
    streamed = stream("hub:x", None, workers=0)
    assert isinstance(streamed, StreamedDataset)
    assert_equal(streamed, load("hub:x"))
    del parts["test"]
    holdout = Holdout(0.25)
    assert_equal(stream("hub:x", None, workers=0, holdout=holdout), load("hub:x", holdout=holdout))
