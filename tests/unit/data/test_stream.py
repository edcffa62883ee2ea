"""Images streamed from disk are those of memory: in every batch, in training, and resumed."""

import gzip
import itertools
import shutil
import signal
import sys
import tarfile
from dataclasses import replace
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from taut.cli.app import main
from taut.data import Augment, Batches, Holdout, Share, Stream, StreamedDataset, load, stream
from taut.data import _stream as stream_module
from taut.training import Launch, Recipe, Run, TrainingInterrupted, train

TINY = Recipe(
    name="tiny",
    dataset="folder",
    input_shape=(3, 6, 6),
    classes=3,
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
    with pytest.raises(ValueError, match=r"b/0\.png: not a whole picture \(JPEG, PNG"):
        everything(data.train)
    Image.new("RGB", (5, 6)).save(tmp_path / "train" / "b" / "0.png")
    with pytest.raises(ValueError, match=r"b/0\.png: all images must have the shape .*\(3, 6, 5\)"):
        everything(data.train)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("mnist", {}, "mnist is not kept as single images"),
        ("folder", {"workers": -1}, "`workers` must be at least 0; got -1"),
        ("folder", {"holdout": Holdout(0.5)}, "`holdout` must be None"),
        ("folder", {"data_dir": None}, "`data_dir` must be a folder or tar archive"),
        ("folder", {"shape": (2, 4, 4)}, "`shape` must be 1 or 3 channels"),
    ],
)
def test_wrong_streams_are_refused(name, change, message, photos):
    settings = {"data_dir": photos, "workers": 0} | change
    with pytest.raises(ValueError, match=message):
        stream(name, settings.pop("data_dir"), **settings)


def test_the_command_line_streams(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.json").write_text(replace(TINY, epochs=1).to_json())
    options = ["--data-dir", str(photos), "--run", "run", "--workers", "0"]
    assert main(["train", "tiny.json", *options]) == 0
    assert main(["train", "tiny.json", "--run", "other", "--workers", "-1"]) == 2
    assert "`--workers` must be at least 0; got -1" in capsys.readouterr().err


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
    library = SimpleNamespace(load_dataset=lambda name, cache_dir: parts)
    monkeypatch.setitem(sys.modules, "datasets", library)
    streamed = stream("hub:x", None, workers=0)
    assert isinstance(streamed, StreamedDataset)
    assert_equal(streamed, load("hub:x"))
    del parts["test"]
    holdout = Holdout(0.25)
    assert_equal(stream("hub:x", None, workers=0, holdout=holdout), load("hub:x", holdout=holdout))


def test_pinned_memory_is_asked_for_on_the_way_to_a_gpu(monkeypatch):
    """By a loader and tensors that only note what they are asked."""
    asked = []

    class Loader:
        def __init__(self, dataset, *, sampler, pin_memory, **options):
            self.sampler = sampler
            asked.append(pin_memory)

        def __iter__(self):
            return iter([torch.zeros(2, 1, 2, 2, dtype=torch.uint8)])

    moved = []
    monkeypatch.setattr(stream_module, "DataLoader", Loader)
    monkeypatch.setattr(
        torch.Tensor, "to", lambda x, place, **options: moved.append((place, options)) or x
    )
    held = stream_module.FilePictures([], None)
    split = Stream(held, torch.arange(2), torch.arange(2), (1, 2, 2), workers=0)
    for place, pinned in (("cpu", False), ("cuda:1", True)):
        list(replace(split, target=torch.device(place)).fetch(torch.arange(2), [slice(0, 2)]))
        assert asked[-1] is pinned
        assert moved[-2:] == [(torch.device(place), {"non_blocking": True})] * 2


def tarred(source, target, parts=lambda file: file.parts):
    """Some files of a folder as an archive, in an order of its own."""
    with tarfile.open(target, "w") as tar:
        for file in sorted(source.rglob("*.png"), reverse=True):
            tar.add(file, "/".join(parts(file.relative_to(source))))
    return target


def test_archives_stream_what_their_folder_holds(photos, tmp_path):
    whole = tarred(photos, tmp_path / f"{photos.name}.tar")
    expected = load("folder", photos)
    found = stream("folder", whole, workers=0)
    for part in ("train", "test"):
        assert torch.equal(everything(getattr(found, part)).images, getattr(expected, part).images)
    shards = tmp_path / photos.name
    for part in ("train", "test"):  # one archive a class, images without a folder
        (shards / part).mkdir(parents=True)
        for label in "abc":
            tarred(photos / part / label, shards / part / f"{label}.tar")
    assert_equal(stream("folder", shards, workers=2), expected)
    (shards / "train" / "a.tar").unlink()  # several archives of several classes, and a folder
    shutil.copytree(photos / "train" / "a", shards / "train" / "a")
    (shards / "train" / "b.tar").unlink()
    (shards / "train" / "c.tar").unlink()
    for shard in range(2):
        chosen = tmp_path / f"shard{shard}"
        for at, file in enumerate(sorted((photos / "train").glob("[bc]/*.png"))):
            if at % 2 == shard:
                (chosen / file.parent.name).mkdir(parents=True, exist_ok=True)
                shutil.copy(file, chosen / file.parent.name)
        tarred(chosen, shards / "train" / f"part{shard}.tar")
    assert_equal(stream("folder", shards, workers=0), expected)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:1700]), "not a complete tar archive"),
        (lambda p: p.write_bytes(gzip.compress(p.read_bytes())), "without compression"),
        (lambda p: p.write_bytes(b"no archive" * 100), "not a complete tar archive"),
    ],
)
def test_archives_that_are_not_whole_are_refused_by_name(damage, message, photos, tmp_path):
    path = tarred(photos, tmp_path / "photos.tar")
    damage(path)
    with pytest.raises(ValueError, match=rf"photos\.tar: .*{message}"):
        stream("folder", path, workers=0)


def test_a_class_without_images_is_refused_as_in_memory(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos" / "train" / "d").mkdir()
    (tmp_path / "photos" / "train" / ".git").mkdir()
    for read in (load, lambda *where: stream(*where, workers=0)):
        with pytest.raises(ValueError, match="class d has no image in t"):
            read("folder", tmp_path / "photos")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Pictures of all sizes, half of them grey."""
    path = tmp_path_factory.mktemp("mixed")
    rng = np.random.default_rng(3)
    for at in range(12):
        file = path / ("train" if at < 8 else "test") / "ab"[at % 2] / f"{at}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        rows, columns = rng.integers(5, 20, 2)
        pixels = rng.integers(0, 256, (rows, columns, 3)).astype(np.uint8)
        Image.fromarray(pixels if at % 4 < 2 else pixels[:, :, 0]).save(file)
    return path


@pytest.mark.parametrize("shape", [(3, 6, 6), (1, 8, 5)])
def test_images_are_brought_to_a_shape_alike_on_disk_and_in_memory(shape, mixed):
    held = load("folder", mixed, shape=shape)
    assert held.input_shape == shape
    assert_equal(stream("folder", mixed, workers=0, shape=shape), held)
    with pytest.raises(ValueError, match="all images must have"):
        load("folder", mixed)


def test_scaling_keeps_the_middle_and_the_proportions(tmp_path):
    """A wide picture whose left and right thirds are black, and its middle white."""
    pixels = np.zeros((10, 30), np.uint8)
    pixels[:, 10:20] = 255
    for part, label in itertools.product(("train", "test"), "ab"):
        (tmp_path / part / label).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / part / label / "0.png")
    found = load("folder", tmp_path, shape=(1, 5, 5)).train.images
    assert (found[:, :, :, 1:4] == 255).all()
    found = load("folder", tmp_path, shape=(1, 10, 30)).train.images
    assert torch.equal(found[0, 0], torch.from_numpy(pixels))


def test_data_of_one_shape_are_not_brought_to_another():
    with pytest.raises(ValueError, match="`shape` must be None for fashion-mnist-subset"):
        load("fashion-mnist-subset", shape=(1, 14, 14))


def test_streamed_runs_are_certified_batch_by_batch(mixed, tmp_path, monkeypatch, capsys):
    """The certificate is that of the run in memory, and no more than a batch is decoded at once."""
    recipe = replace(TINY, classes=2, epochs=1, batch_size=4, resize=True)
    held = train(recipe, tmp_path / "held", data_dir=mixed)
    streamed = train(recipe, tmp_path / "streamed", data_dir=mixed, launch=Launch(workers=0))
    assert (held.data().test.labels == streamed.data().test.labels).all()
    assert isinstance(Run.open(streamed.path).data(), StreamedDataset)
    monkeypatch.setattr("taut.training._opened._BATCH", 3)
    sizes, decode = [], stream_module._Decoded.__getitem__
    monkeypatch.setattr(
        stream_module._Decoded,
        "__getitem__",
        lambda self, batch: sizes.append(len(batch)) or decode(self, batch),
    )
    for run in (held, streamed):
        assert main(["certify", str(run.path)]) == 0
    assert sizes == [3, 1]
    first, second = ((run.path / "certificate.json").read_bytes() for run in (held, streamed))
    assert first == second
    assert main(["attack", str(streamed.path), "--limit", "2"]) == 0
    assert sizes[2:] == [2]
    (streamed.path / "run.json").write_text('{"data_dir": null, "workers": "two"}')
    assert main(["certify", str(streamed.path)]) == 2
    assert "run.json is damaged" in capsys.readouterr().err
