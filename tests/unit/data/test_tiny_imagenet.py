"""Tiny-ImageNet in the layout in which it is published."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from data_files import jpeg, tiny_imagenet_files, write_files
from taut.data import load, stream

FILES = tiny_imagenet_files(side=8)
LABELS = "val/val_annotations.txt"


def labelled(row):
    """The labels with one more line."""
    return {LABELS: FILES[LABELS] + row}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TAUT_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    write_files(folder / "tiny-imagenet-200", FILES)
    return folder


def decoded(folder, name):
    with Image.open(folder / "tiny-imagenet-200" / name) as image:
        return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())


def test_pictures_have_the_labels_of_their_folder_and_of_the_file_of_labels(published):
    data = load("tiny-imagenet", published)
    assert data.input_shape == (3, 8, 8)
    assert data.classes == tuple(f"n{at:08}" for at in range(200))
    assert (len(data.train), len(data.test)) == (200, 200)
    for label in (0, 7, 199):
        train = data.train.images[data.train.labels == label]
        test = data.test.images[data.test.labels == label]
        wnid = data.classes[label]
        assert train[0].equal(decoded(published, f"train/{wnid}/images/{wnid}_0.JPEG"))
        assert test[0].equal(decoded(published, f"val/images/val_{199 - label}.JPEG"))


def test_the_folder_itself_may_be_given_and_streamed(published):
    data = load("tiny-imagenet", published / "tiny-imagenet-200")
    streamed = stream("tiny-imagenet", published, workers=0)
    assert (streamed.label, streamed.classes) == (data.label, data.classes)
    for part in ("train", "test"):
        split = vars(streamed)[part]
        (fetched,) = split.fetch(torch.arange(200), [slice(0, 200)])
        assert fetched.images.equal(vars(data)[part].images)
        assert fetched.labels.equal(vars(data)[part].labels)


@pytest.mark.parametrize("below", ["", "images/"])
def test_validation_pictures_may_be_sorted_into_folders(published, below, tmp_path):
    files = {name: data for name, data in FILES.items() if not name.startswith("val/")}
    rows = FILES[LABELS].decode().splitlines()
    for name, wnid, *_ in (row.split("\t") for row in rows):
        files[f"val/{wnid}/{below}{name}"] = FILES[f"val/images/{name}"]
    write_files(tmp_path, files)
    data, known = load("tiny-imagenet", tmp_path), load("tiny-imagenet", published)
    assert data.test.images.equal(known.test.images)
    assert data.test.labels.equal(known.test.labels)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_labels_may_be_as_editors_save_them(end, published, tmp_path):
    rows = b"\xef\xbb\xbf" + FILES[LABELS].replace(b"\n", end) + end
    write_files(tmp_path, FILES | {LABELS: rows})
    known = load("tiny-imagenet", published).test
    assert load("tiny-imagenet", tmp_path).test.labels.equal(known.labels)


def test_the_label_says_that_pictures_are_missing(published, monkeypatch):
    """The published set has 500 pictures of each class to train on, and 50 to test on."""
    label = "Tiny-ImageNet (not the published files)"
    assert stream("tiny-imagenet", published, workers=0).label == label
    assert load("tiny-imagenet", published).label == label
    monkeypatch.setattr("taut.data._tiny_imagenet._PICTURES", {"train": 200, "test": 200})
    assert stream("tiny-imagenet", published, workers=0).label == "Tiny-ImageNet"


def test_changed_labels_are_seen_in_spite_of_the_cache(tmp_path):
    write_files(tmp_path, FILES)
    first = load("tiny-imagenet", tmp_path)
    labels = tmp_path / "val" / "val_annotations.txt"
    rows = [row.split("\t") for row in labels.read_text().splitlines()]
    turned = [[one[0], other[1]] for one, other in zip(rows, rows[1:] + rows[:1], strict=True)]
    labels.write_text("\n".join("\t".join(row) for row in turned))
    second = load("tiny-imagenet", tmp_path)
    assert second.test.images[:-1].equal(first.test.images[1:])
    assert second.train.images.equal(first.train.images)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({LABELS: None}, "val_0.JPEG: has no label in val_annotations.txt"),
        ({"val/images/new.JPEG": jpeg(8, 0)}, "new.JPEG: has no label in val_annotations.txt"),
        ({LABELS: b"val_0.JPEG n0\n"}, "line 1 must be a picture, a tab and"),
        (labelled(b"val_1.JPEG\tn00000000\n"), "line 201 gives val_1.JPEG a second class"),
        (labelled(b"\xff\tn00000000\n"), "val_annotations.txt: must be text"),
        ({"val/images/val_0.JPEG": None}, "class n00000199 has no image in test"),
        ({"train/n00000005/images/n00000005_0.JPEG": None}, "n00000005 has no image in train"),
        ({"val/images/val_0.JPEG": b"no picture"}, "val_0.JPEG"),
        ({"train/n9/images/a.JPEG": jpeg(8, 0)}, "class n9 has no image in test"),
    ],
)
def test_what_is_wrong_is_named(changes, message, tmp_path):
    files = {name: data for name, data in (FILES | changes).items() if data is not None}
    write_files(tmp_path, files)
    with pytest.raises(ValueError, match=re.escape(message)):
        load("tiny-imagenet", tmp_path)


def test_other_folders_are_not_taken_for_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train and val of Tiny-ImageNet not found.*zip"):
        load("tiny-imagenet", tmp_path)
    write_files(tmp_path, tiny_imagenet_files(classes=3, side=8))
    with pytest.raises(ValueError, match=r"must have the 200 classes .* got 3 in train and val"):
        load("tiny-imagenet", tmp_path)
