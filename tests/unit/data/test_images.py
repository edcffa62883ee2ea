"""Images by class in folders and archives, their cache, and the hub."""

import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image as Pictures

import taut
from taut.data import Holdout, load, stream
from taut.data._named import NAMED

CIFAR10 = tuple(NAMED["cifar10"].classes)


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("TAUT_CACHE", str(folder))
    return folder


def picture(value: int, size=(5, 4), mode: str = "RGB", kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Pictures.new(mode, size, value if mode in ("L", "P", "I;16") else (value,) * len(mode)).save(
        file, kind
    )
    return file.getvalue()


def float_picture() -> bytes:
    file = io.BytesIO()
    Pictures.fromarray(np.zeros((4, 5), np.float32)).save(file, "TIFF")
    return file.getvalue()


def pets(parts=("train", "test")) -> dict[str, bytes]:
    """Each class has three images a part; the red of each tells class and number."""
    return {
        "/".join(filter(None, (part, name, f"{at:04d}.png"))): picture(100 * label + 10 * at)
        for part in parts
        for label, name in enumerate(("cat", "dog"))
        for at in range(3)
    }


def write(place: Path, files: dict[str, bytes | None], form: str) -> Path:
    """Writes the files into a folder or an archive; None makes a folder."""
    if form == "folder":
        for name, data in files.items():
            path = place / "set" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir(exist_ok=True) if data is None else path.write_bytes(data)
        return place / "set"
    with tarfile.open(place / f"set.{form}", f"w:{form.partition('.')[2]}") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.type = tarfile.DIRTYPE if data is None else tarfile.REGTYPE
            entry.size = 0 if data is None else len(data)
            tar.addfile(entry, io.BytesIO(data or b""))
    return place / f"set.{form}"


FORMS = ["folder", "tar", "tar.gz", "tar.xz"]


@pytest.mark.parametrize("form", FORMS)
def test_images_by_class_read_back_and_the_classes_take_turns(form, tmp_path):
    where = write(tmp_path, dict(reversed(pets().items())), form)
    for path in (where, tmp_path) if form != "folder" else (where,):
        data = load("folder", path)
        assert data.classes == ("cat", "dog")
        assert data.input_shape == (3, 4, 5)
        assert data.label == where.name
        for split in (data.train, data.test):
            assert split.labels.tolist() == [0, 1] * 3
            assert split.images[:, 0, 0, 0].tolist() == [0, 100, 10, 110, 20, 120]


@pytest.mark.parametrize("prefix", ["", "./", "pets/", "./pets/v1/"])
def test_archives_may_have_folders_above_and_folder_entries(prefix, tmp_path):
    files = {prefix + name: data for name, data in pets().items()}
    folders = {str(Path(name).parent): None for name in files} | {prefix or ".": None}
    data = load("folder", write(tmp_path, {**folders, **files}, "tar.gz"))
    assert (len(data.train), len(data.test)) == (6, 6)


@pytest.mark.parametrize("form", FORMS)
def test_images_without_splits_need_a_holdout(form, tmp_path):
    where = write(tmp_path, pets(("",)), form)
    with pytest.raises(ValueError, match="or `holdout` must say"):
        load("folder", where)
    data = load("folder", where, holdout=Holdout(1 / 3, seed=5))
    assert (len(data.train), len(data.test)) == (4, 2)
    reds = torch.cat([data.train.images, data.test.images])[:, 0, 0, 0].sort().values
    assert reds.tolist() == [0, 10, 20, 100, 110, 120]


def test_holdout_is_refused_where_there_is_a_test_split(tmp_path):
    with pytest.raises(ValueError, match="`holdout` must be None"):
        load("folder", write(tmp_path, pets(), "tar"), holdout=Holdout(0.5))


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_channels_follow_the_pictures(mode, kind, tmp_path):
    name = f"0.{kind.lower()}"
    files = {f"{part}/a/{name}": picture(77, mode=mode, kind=kind) for part in ("train", "test")}
    data = load("folder", write(tmp_path, files, "folder"))
    assert data.input_shape == (1 if mode == "L" else 3, 4, 5)
    assert (data.train.images.int() - 77).abs().max() <= 1


def test_grey_pictures_among_coloured_ones_get_three_channels(tmp_path):
    data = load(
        "folder", write(tmp_path, pets() | {"train/dog/9.png": picture(9, mode="L")}, "tar")
    )
    assert data.train.images.shape == (7, 3, 4, 5)
    assert torch.equal(data.train.images[-1], torch.full((3, 4, 5), 9, dtype=torch.uint8))


def converted(mode: str) -> Pictures.Image:
    """A picture of red 9, green 99, blue 199 (or 77), transparent where its mode allows it."""
    if mode in ("L", "LA", "1"):
        return Pictures.new(mode, (5, 4), (77, 3) if mode == "LA" else 77 if mode == "L" else 1)
    image = Pictures.new("RGBA", (5, 4), (9, 99, 199, 3)).convert(mode.partition(" ")[0])
    if mode.startswith("P"):
        image.info["transparency"] = bytes([3]) if mode == "P bytes" else 0
    return image


@pytest.mark.parametrize("form", ["load", "stream"])
@pytest.mark.parametrize("mode", ["RGBA", "P", "P bytes", "L", "LA", "1"])
def test_one_picture_of_another_mode_loses_transparency_and_palette(mode, form, tmp_path):
    file = io.BytesIO()
    image = converted(mode)
    image.save(file, "PNG", **{k: image.info[k] for k in ("transparency",) if k in image.info})
    where = write(tmp_path, pets() | {"train/dog/9.png": file.getvalue()}, "folder")
    if form == "load":
        images = load("folder", where).train.images
    else:
        split = stream("folder", where, workers=0).train
        (whole,) = split.fetch(torch.arange(len(split)), [slice(None)])
        images = whole.images
    expected = {"L": (77,) * 3, "LA": (77,) * 3, "1": (255,) * 3}.get(mode, (9, 99, 199))
    assert images.shape == (7, 3, 4, 5)
    assert images[-1, :, 2, 2].tolist() == list(expected)


@pytest.mark.parametrize("ending", ["webp", "WEBP", "jpe", "jfif"])
def test_all_endings_of_the_formats_are_read(ending, tmp_path):
    kind = "WEBP" if ending.lower() == "webp" else "JPEG"
    files = {f"{part}/a/0.{ending}": picture(77, kind=kind) for part in ("train", "test")}
    data = load("folder", write(tmp_path, files, "tar.gz"))
    assert (data.test.images[0, 0].int() - 77).abs().max() <= 2


@pytest.mark.parametrize("ending", ["bmp", "DIB", "gif", "GIF", "tif", "TIFF", "ppm"])
@pytest.mark.parametrize("form", ["folder", "tar.gz"])
def test_pictures_without_loss_are_read_exactly(ending, form, tmp_path):
    kind = {"gif": "GIF", "ppm": "PPM", "bmp": "BMP", "dib": "DIB"}.get(ending.lower(), "TIFF")
    data = picture(77, mode="L", kind=kind)
    files = {f"{part}/a/0.{ending}": data for part in ("train", "test")}
    images = load("folder", write(tmp_path, files, form)).test.images
    assert torch.equal(images, torch.full_like(images, 77))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_of_16_bits_the_upper_8_are_read(kind, tmp_path):
    values = np.arange(20, dtype=np.uint16).reshape(4, 5) * 3277
    file = io.BytesIO()
    Pictures.fromarray(values).save(file, kind)
    files = {f"{part}/a/0.png": file.getvalue() for part in ("train", "test")}
    images = load("folder", write(tmp_path, files, "tar")).train.images
    assert images[0, 0].tolist() == (values // 256).tolist()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_pictures_are_turned_as_their_exif_says(kind, orientation, tmp_path):
    upright = np.zeros((16, 24), np.uint8)
    upright[:8, :8] = 255  # a white corner at the upper left
    # How the upright picture lies in the file, for each orientation of the standard.
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.T, 6: np.rot90(upright), 7: upright[::-1, ::-1].T, 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif, file = Pictures.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Pictures.fromarray(np.ascontiguousarray(stored)).convert("RGB").save(file, kind, exif=exif)
    name = f"0.{kind.lower()}"
    files = {f"{part}/a/{name}": file.getvalue() for part in ("train", "test")}
    data = load("folder", write(tmp_path, files, "folder"))
    assert data.input_shape == (3, 16, 24)
    assert (data.test.images[0].float().mean(0) - torch.tensor(upright)).abs().mean() < 3


def test_broken_exif_says_nothing(tmp_path):
    file = io.BytesIO()
    Pictures.new("RGB", (5, 4), (9, 9, 9)).save(file, "JPEG", exif=b"Exif\0\0XX*\0nonsense")
    files = {f"{part}/a/0.jpg": file.getvalue() for part in ("train", "test")}
    assert load("folder", write(tmp_path, files, "folder")).input_shape == (3, 4, 5)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG"])
def test_films_and_many_pages_are_refused_by_name(kind, tmp_path):
    frames, file = [Pictures.new("RGB", (5, 4), (at, 0, 0)) for at in (0, 90, 180)], io.BytesIO()
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    where = write(tmp_path, pets() | {"train/cat/7.png": file.getvalue()}, "folder")
    with pytest.raises(ValueError, match=r"7\.png: must be one picture; it holds 3"):
        load("folder", where)


@pytest.mark.parametrize("ending", ["tga", "HEIC", "avif"])
@pytest.mark.parametrize("form", ["folder", "tar"])
def test_pictures_of_other_formats_are_named_not_skipped(ending, form, tmp_path):
    where = write(tmp_path, pets() | {f"train/cat/7.{ending}": b"?"}, form)
    for read in (load, lambda *place: stream(*place, workers=0)):
        message = rf"train/cat/7\.{ending}: pictures must be JPEG, PNG, .* or PPM"
        with pytest.raises(ValueError, match=message):
            read("folder", where)


@pytest.mark.parametrize("name", ["val", "Valid", "validation", "VAL", "dev"])
@pytest.mark.parametrize("form", ["folder", "tar"])
def test_validation_images_are_tested_on_where_there_are_no_others(name, form, tmp_path):
    where = write(tmp_path, pets(("train", name)), form)
    data, same = load("folder", where), load("folder", write(tmp_path, pets(), "tar.gz"))
    assert data.label == f"{where.name} (tested on {name})"
    assert torch.equal(data.test.images, same.test.images)
    assert torch.equal(data.train.images, same.train.images)
    assert stream("folder", where, workers=0).label == data.label
    with pytest.raises(ValueError, match="`holdout` must be None"):
        load("folder", where, holdout=Holdout(0.5))


@pytest.mark.parametrize("form", ["folder", "tar"])
@pytest.mark.parametrize("names", [("Train", "TEST"), ("training", "testing"), ("TRAIN", "Test")])
def test_parts_have_the_names_that_people_give_them(names, form, tmp_path):
    where = write(tmp_path, pets(names), form)
    data, same = load("folder", where), load("folder", write(tmp_path, pets(), "tar.gz"))
    assert data.label == where.name
    assert torch.equal(data.test.images, same.test.images)
    assert stream("folder", where, workers=0).label == data.label


@pytest.mark.parametrize("form", ["folder", "tar"])
def test_validation_images_beside_test_images_are_left_out_and_the_label_says_so(form, tmp_path):
    files = pets() | {"val/cat/0.png": picture(200), "val/dog/0.png": picture(201)}
    where = write(tmp_path, files, form)
    data = load("folder", where)
    assert data.label == stream("folder", where, workers=0).label == f"{where.name} (without val)"
    assert (len(data.train), len(data.test)) == (6, 6)
    assert int(torch.cat([data.train.images, data.test.images]).max()) < 200


def test_folders_may_be_links_and_hidden_ones_are_left_alone(tmp_path):
    where = write(tmp_path, pets(), "folder")
    (where / "train" / "cat").rename(tmp_path / "cats")
    (where / "train" / "cat").symlink_to(tmp_path / "cats")
    (tmp_path / "cats" / "up").symlink_to(where)  # leads back up
    (where / "train" / ".thumbnails").mkdir()
    (where / "train" / ".thumbnails" / "0.png").write_bytes(b"?")
    data = load("folder", where)
    assert (len(data.train), data.classes) == (6, ("cat", "dog"))
    assert len(stream("folder", where, workers=0).train) == 6


def test_other_files_are_left_alone(tmp_path):
    other = {
        "README.md": b"x",
        "train/cat/Thumbs.db": b"x",
        "test/.DS_Store": b"x",
        "labels.csv": b"a",
        "train/cat/desktop.ini": b"x",
        "train/cat/._0000.png": b"x",
        "train/dog/notes.txt": b"x",
    }
    for form in FORMS:
        assert len(load("folder", write(tmp_path, pets() | other, form)).train) == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train/cat/7.png": picture(1, (6, 4))}, "train/cat/7.png: all images must have one size"),
        (
            {"train/cat/7.png": b"hello"},
            r"7.png: not a whole picture \(.*: its first bytes match none.$",
        ),
        ({"train/cat/7.png": b""}, "train/cat/7.png: not a whole picture"),
        ({"test/dog/7.png": picture(1)[:-30]}, "test/dog/7.png: not a whole picture"),
        ({"test/dog/7.png": picture(1, kind="ICO")}, "test/dog/7.png: not a whole picture"),
        ({"test/dog/7.tif": float_picture()}, "8 or 16 bits a channel; got mode F"),
        ({"train/eel/0.png": picture(1)}, "class eel has no image in test"),
        ({"test/eel/0.png": picture(1)}, "class eel has no image in train"),
        ({"train/eel": None, "test/eel": None}, "class eel has no image in test"),
        ({"0.png": picture(1)}, "0.png must lie in the folder of its class"),
        ({"val/eel/0.png": picture(1)}, "class eel has no image in test"),
        ({"day/cat/0.png": picture(1)}, "must lie in train and test; got them in day, test, train"),
        ({"Test/cat/0.png": picture(1)}, "in train and test; got them in Test, test, train"),
        ({"training/cat/0.png": picture(1)}, "must lie in train and test; got them in test, train"),
        ({"cat/0.png": picture(1)}, "must lie in train and test; got them in test, the top, train"),
    ],
)
@pytest.mark.parametrize("form", ["folder", "tar.gz"])
def test_what_is_wrong_in_a_folder_or_archive_is_named(
    form, change, message, tmp_path, cache_folder
):
    where = write(tmp_path, pets() | change, form)
    for _ in range(2):  # nothing of it may come from the cache the second time
        with pytest.raises(ValueError, match=message) as caught:
            load("folder", where)
        assert str(where) in str(caught.value)
    assert list(cache_folder.iterdir()) == []


@pytest.mark.parametrize("form", ["folder", "tar"])
def test_training_images_alone_need_a_holdout_and_test_images_alone_are_refused(form, tmp_path):
    where = write(tmp_path, pets(("train",)), form)
    with pytest.raises(ValueError, match="must have parts train and test, or `holdout`"):
        load("folder", where)
    data = load("folder", where, holdout=Holdout(1 / 3))
    assert (len(data.train), len(data.test)) == (4, 2)
    (tmp_path / "other").mkdir()
    where = write(tmp_path / "other", pets(("test",)), form)
    with pytest.raises(ValueError, match="must lie in train and test; got them in test"):
        load("folder", where, holdout=Holdout(1 / 3))


def test_a_zip_archive_is_to_be_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        for name, data in pets().items():
            archive.writestr(name, data)
    with pytest.raises(ValueError, match=r"pets\.zip: not a complete tar archive \(unpack a zip"):
        load("folder", tmp_path / "pets.zip")


@pytest.mark.parametrize("name", ["../cat/0.png", "/train/cat/0.png", "train/../../cat/0.png"])
def test_archive_paths_that_lead_out_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match=r"refused, its entry .* leads out"):
        load("folder", write(tmp_path, pets() | {name: picture(1)}, "tar.gz"))
    assert [path.name for path in tmp_path.iterdir()] == ["set.tar.gz"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_archive_links_are_refused(kind, tmp_path):
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        entry = tarfile.TarInfo("train/cat/0.png")
        entry.type, entry.linkname = kind, "/etc/hostname"
        tar.addfile(entry)
    with pytest.raises(ValueError, match=r"refused, its entry .* is not a file"):
        load("folder", tmp_path)


@pytest.mark.parametrize("form", ["tar.gz", "tar.xz"])
def test_a_damaged_byte_of_an_archive_is_noticed(form, tmp_path):
    path = write(tmp_path, pets(), form)
    whole = path.read_bytes()
    start = 40  # behind the gzip header, whose time and name of the file have no checksum
    for at in range(start, len(whole), (len(whole) - start) // 9):
        broken = bytearray(whole)
        broken[at] ^= 0x40
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=str(path)):
            load("folder", path)
    path.write_bytes(whole[:-40])
    with pytest.raises(ValueError, match=str(path)):
        load("folder", path)


def test_two_archives_or_none_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"A folder or tar archive.*not found in"):
        load("folder", tmp_path)
    write(tmp_path, pets(), "tar")
    write(tmp_path, pets(), "tar.gz")
    with pytest.raises(ValueError, match="must hold one archive"):
        load("folder", tmp_path)


@pytest.mark.parametrize("form", FORMS)
def test_a_second_reading_comes_from_the_cache_until_a_file_changes(form, tmp_path, cache_folder):
    where = write(tmp_path, pets(), form)
    counts: list[int] = []
    first = load("folder", where, on_progress=counts.append)
    assert counts == list(range(1, 13))
    assert len(list(cache_folder.iterdir())) == 1
    second = load("folder", where, on_progress=counts.append)
    assert len(counts) == 12  # nothing was decoded
    assert first.classes == second.classes
    assert torch.equal(first.train.images, second.train.images)
    assert torch.equal(first.test.labels, second.test.labels)
    where = write(tmp_path, pets() | {"test/cat/5.png": picture(1)}, form)
    assert len(load("folder", where).test) == 7
    touched = where if where.is_file() else where / "test/cat/5.png"
    os.utime(touched, (1, 1))
    load("folder", where, on_progress=counts.append)
    assert len(counts) == 12 + 13


def test_a_damaged_or_unwritable_cache_costs_time_only(tmp_path, cache_folder, monkeypatch):
    where = write(tmp_path, pets(), "tar")
    first = load("folder", where)
    (cached,) = cache_folder.iterdir()
    for damage in (b"", b"hello", cached.read_bytes()[:-100]):
        cached.write_bytes(damage)
        assert torch.equal(load("folder", where).train.images, first.train.images)
    (tmp_path / "file").touch()
    monkeypatch.setenv("TAUT_CACHE", str(tmp_path / "file" / "below"))
    assert torch.equal(load("folder", where).train.images, first.train.images)


def jpeg75(size=(32, 32), classes=CIFAR10) -> dict[str, bytes]:
    return {
        f"{part}/{name}/{at:04d}.jpg": picture(20 * label + at, size, kind="JPEG")
        for part in ("train", "test")
        for label, name in enumerate(classes)
        for at in range(2)
    }


@pytest.mark.parametrize("form", FORMS)
def test_jpeg_version_of_cifar10_is_labelled_as_such(form, tmp_path):
    where = write(tmp_path, jpeg75(), form)
    data = load("cifar10-jpeg75", where)
    assert data.label == "CIFAR-10 (JPEG q75)"
    assert data.classes == CIFAR10
    assert data.train.labels.tolist() == [*range(10)] * 2
    assert (data.test.images[13, 0, 0, 0].int() - 61).abs() <= 1


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (jpeg75((31, 32)), "must be of shape"),
        (jpeg75(classes=CIFAR10[:9]), "ten classes"),
        (pets(("",)), "must have train/ and test/"),
    ],
)
def test_other_images_are_not_taken_for_cifar10(files, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load("cifar10-jpeg75", write(tmp_path, files, "tar"))


class Image:
    """Named as the feature of the library is."""


class ClassLabel:
    def __init__(self, *names: str):
        self.names = list(names)


class Rows(list):
    """Stands in for a part of a data set of the library."""

    def __init__(self, rows, features):
        super().__init__(rows)
        self.features = features

    def __getitem__(self, key):
        return [row[key] for row in self] if isinstance(key, str) else super().__getitem__(key)


def hub_part(n: int, mode: str = "L", label: str = "label", **more) -> Rows:
    rows = [{"image": Pictures.new(mode, (5, 4), at), label: at % 2} for at in range(n)]
    return Rows(rows, {"image": Image(), label: ClassLabel("no", "yes"), **more})


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the library: what it returns, and what it was asked."""
    library = SimpleNamespace(parts={}, asked=[])

    def load_dataset(name, cache_dir):
        library.asked.append((name, cache_dir))
        return library.parts

    module = ModuleType("datasets")
    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    return library


@pytest.mark.parametrize("test", ["test", "validation"])
def test_hub_images_and_labels_arrive(hub, test, tmp_path):
    hub.parts = {"train": hub_part(6), test: hub_part(3), "extra": None}
    counts: list[int] = []
    data = load("hub:user/pets", tmp_path, on_progress=counts.append)
    assert hub.asked == [("user/pets", str(tmp_path))]
    assert data.name == "hub:user/pets"
    assert data.classes == ("no", "yes")
    assert data.input_shape == (1, 4, 5)
    assert data.train.images[:, 0, 0, 0].tolist() == list(range(6))
    assert data.test.labels.tolist() == [0, 1, 0]
    assert counts == list(range(1, 10))
    assert data.label == ("user/pets" if test == "test" else "user/pets (tested on validation)")


def test_hub_data_without_a_test_split_takes_a_holdout(hub):
    hub.parts = {"train": hub_part(10, label="kind")}
    with pytest.raises(ValueError, match="or `holdout` must say"):
        load("hub:pets")
    data = load("hub:pets", holdout=Holdout(0.2))
    assert (len(data.train), len(data.test)) == (8, 2)
    assert hub.asked[0] == ("pets", None)
    hub.parts["test"] = hub_part(2, label="kind")
    with pytest.raises(ValueError, match="`holdout` must be None"):
        load("hub:pets", holdout=Holdout(0.2))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Rows([], {"text": None, "label": ClassLabel()}), "one column of images"),
        (hub_part(2, label="a", b=ClassLabel()), r"class labels; got .*\['a', 'b'\]"),
        (hub_part(0), "train: has no image"),
        (Rows([{"image": Pictures.new("F", (5, 4)), "label": 0}], hub_part(0).features), "mode F"),
        (
            Rows([{"image": Pictures.new("L", (5, 4)), "label": -1}], hub_part(0).features),
            "labels must be from 0 to 1; got -1",
        ),
    ],
)
def test_hub_data_of_another_kind_is_refused_by_name(hub, part, message):
    hub.parts = {"train": part, "test": hub_part(1)}
    with pytest.raises(ValueError, match=message) as caught:
        load("hub:pets")
    assert "hub:pets" in str(caught.value)


def test_hub_without_its_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'taut\[hub\]'"):
        load("hub:mnist")


def test_real_library_reads_a_local_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pytest.importorskip("datasets")
    where = write(tmp_path, pets(), "folder")
    data = load(f"hub:{where}", tmp_path / "cache")
    assert data.classes == ("cat", "dog")
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.test.images[:, 0, 0, 0].tolist() == [0, 10, 20, 100, 110, 120]


def test_image_library_is_loaded_only_to_decode():
    code = "import sys, taut.data; print(*{'PIL', 'datasets', 'matplotlib'} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(Path(taut.__file__).parents[1])}
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


def test_without_pillow_pictures_name_the_extra_and_the_rest_is_read(tmp_path, monkeypatch):
    where = write(tmp_path, pets(), "folder")
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert len(load("fashion-mnist-subset").train) == 2000
    for read in (load, lambda *place: stream(*place, workers=1, shape=(1, 4, 4))):
        with pytest.raises(
            ModuleNotFoundError, match=r"needs Pillow: pip install 'taut\[cli\]'\.$"
        ):
            read("folder", where)
