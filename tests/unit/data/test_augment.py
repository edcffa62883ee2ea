"""Changes of single pictures: what is drawn, what it does, and that it depends on nothing else."""

import math
import subprocess
import sys
from dataclasses import replace

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image
from PIL.ImageFile import ImageFile

from taut.data import Augment, Batches, Share, Split, Variation, load, stream
from taut.data._augment import augmented_array, resized
from taut.data._randaugment import OPERATIONS

CROP = Augment(crop_padding=0, flip=False, resized_crop=0.2)
NAMES = ["same", "shear x", "shear y", "shift x", "shift y", "rotate", "brightness", "colour",
         "contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize"]  # fmt: skip
OF = dict(zip(NAMES, OPERATIONS, strict=True))


def noise(seed=0, shape=(12, 10, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def boxes(augment, size, target, count=400, epoch=0):
    varied = Variation(augment, seed=0, epoch=epoch)
    return [varied.box(index, size, target) for index in range(count)]


@pytest.mark.parametrize(
    ("size", "target"), [((500, 375), (224, 224)), ((64, 64), (64, 64)), ((40, 90), (30, 20))]
)
def test_parts_have_the_areas_and_proportions_that_are_asked_for(size, target):
    areas, ratios = [], []
    for left, upper, right, lower in boxes(CROP, size, target):
        assert 0 <= left < right <= 1 + 1e-12
        assert 0 <= upper < lower <= 1 + 1e-12
        width, height = (right - left) * size[0], (lower - upper) * size[1]
        areas.append(width * height / (size[0] * size[1]))
        ratios.append(width / height / (target[0] / target[1]))
    # The largest middle, taken where no try fits, may be smaller or larger than the share.
    assert 0.2 - 1e-9 <= min(areas) < 0.25
    assert max(areas) <= 1
    assert 3 / 4 - 1e-9 <= min(ratios) < 0.77
    assert 4 / 3 + 1e-9 >= max(ratios) > 1.3
    if size[0] * target[1] == size[1] * target[0]:  # else large parts fit one way only
        assert abs(np.median(np.log(ratios))) < 0.05


def test_places_are_spread_over_the_picture():
    found = np.array(boxes(replace(CROP, resized_crop=0.01), (50, 50), (8, 8), 2000))
    middles = (found[:, :2] + found[:, 2:]) / 2
    assert np.allclose(middles.mean(0), 0.5, atol=0.02)
    assert middles.min() < 0.15
    assert middles.max() > 0.85


def test_pictures_in_which_no_part_fits_give_their_middle():
    whole = replace(CROP, resized_crop=1.0)  # of a wide picture, never with such proportions
    for left, upper, right, lower in boxes(whole, (300, 100), (20, 20), 20):
        assert (upper, lower) == (0, 1)
        assert left == pytest.approx(1 / 3)
        assert right == pytest.approx(2 / 3)


def test_a_part_is_what_pillow_cuts_out_and_scales():
    image = Image.fromarray(noise(0, (48, 40, 3)))
    part = image.crop((2, 3, 38, 43)).resize((18, 15), Image.Resampling.BICUBIC)
    found = resized(image, (18, 15), (2 / 40, 3 / 48, 38 / 40, 43 / 48))
    difference = np.abs(np.asarray(found).astype(int) - np.asarray(part))
    assert difference[3:-3, 3:-3].max() <= 1  # at the border the crop alone has no neighbours
    assert np.array_equal(
        np.asarray(resized(image, (40, 48), (0.0, 0.0, 1.0, 1.0))), np.asarray(image)
    )


# Each operation as a formula of pixels, at a strength.
@pytest.mark.parametrize("strength", [-1.0, -0.3, 0.4, 1.0])
def test_operations_of_points(strength):
    pixels = noise(1)
    image = Image.fromarray(pixels)
    grey = np.asarray(image.convert("L")).astype(float)
    bits, threshold = 8 - round(4 * abs(strength)), round(255 * (1 - abs(strength)))
    factor, numbers = 1 + 0.9 * strength, pixels.astype(float)
    low, high = numbers.min((0, 1)), numbers.max((0, 1))
    expected = {
        "same": numbers,
        "brightness": numbers * factor,
        "colour": grey[..., None] + (numbers - grey[..., None]) * factor,
        "contrast": int(grey.mean() + 0.5) * (1 - factor) + numbers * factor,
        "posterize": pixels >> (8 - bits) << (8 - bits),
        "solarize": np.where(pixels < threshold, pixels, 255 - pixels),
        "autocontrast": (numbers - low) * 255 / (high - low),
    }
    for name, values in expected.items():
        found = np.asarray(OF[name](image, strength)).astype(float)
        assert np.abs(found - np.clip(values, 0, 255)).max() <= 1, name


def test_equalising_flattens_the_histogram_and_keeps_the_order():
    pixels = (noise(2, (40, 40)) // 8 + 100).astype(np.uint8)
    found = np.asarray(OF["equalize"](Image.fromarray(pixels), 0.5))
    order = np.argsort(pixels.ravel(), kind="stable")
    assert (np.diff(found.ravel()[order].astype(int)) >= 0).all()
    assert found.min() < 10
    assert found.max() > 245


def test_sharpness_moves_away_from_the_smoothed_picture():
    image = Image.fromarray(noise(3))
    steps = [np.asarray(OF["sharpness"](image, s)).astype(float).std() for s in (-1.0, 0.0, 1.0)]
    assert steps[0] < steps[1] < steps[2]
    assert np.array_equal(np.asarray(OF["sharpness"](image, 0.0)), np.asarray(image))


def at(pixels, x, y):
    """Bilinear interpolation at the centres of pixels, black outside."""
    height, width = pixels.shape
    if not (0 <= x < width and 0 <= y < height):
        return 0.0
    x, y = x - 0.5, y - 0.5
    left, upper = math.floor(x), math.floor(y)
    value = 0.0
    for column, row in ((left, upper), (left + 1, upper), (left, upper + 1), (left + 1, upper + 1)):
        share = (1 - abs(x - column)) * (1 - abs(y - row))
        value += share * pixels[min(max(row, 0), height - 1), min(max(column, 0), width - 1)]
    return value


@pytest.mark.parametrize("strength", [-0.8, 0.5])
@pytest.mark.parametrize("name", ["shear x", "shear y", "shift x", "shift y", "rotate"])
def test_operations_that_move_pixels(name, strength):
    height, width = 9, 12
    pixels = noise(4, (height, width))
    angle = math.radians(30 * strength)
    cos, sin = math.cos(angle), math.sin(angle)
    matrix, shift = {
        "shear x": ([[1, 0.3 * strength], [0, 1]], (0, 0)),
        "shear y": ([[1, 0], [0.3 * strength, 1]], (0, 0)),
        "shift x": (np.eye(2), (round(150 / 331 * strength * width), 0)),
        "shift y": (np.eye(2), (0, round(150 / 331 * strength * height))),
        "rotate": ([[cos, -sin], [sin, cos]], (0, 0)),  # counterclockwise, y pointing down
    }[name]
    middle = np.array([width / 2, height / 2])
    expected = np.empty((height, width))
    for row, column in np.ndindex(height, width):
        x, y = np.array(matrix) @ (np.array([column + 0.5, row + 0.5]) - middle) + middle + shift
        expected[row, column] = at(pixels, x, y)
    found = np.asarray(OF[name](Image.fromarray(pixels), strength)).astype(float)
    assert np.abs(found - expected).max() <= 1.5


def test_all_operations_are_drawn_in_both_directions():
    drawn = []
    varied = Variation(Augment(randaugment=3, magnitude=6.0), seed=1, epoch=2)
    watched = [lambda image, strength, name=name: drawn.append((name, strength)) or image
               for name in NAMES]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("taut.data._augment.OPERATIONS", watched)
        for index in range(300):
            varied.randaugmented(index, Image.new("L", (2, 2)))
    assert len(drawn) == 900
    assert {strength for _, strength in drawn} == {0.2, -0.2}
    counts = [sum(name == one for one, _ in drawn) for name in NAMES]
    assert min(counts) > 900 / 14 / 2
    assert max(counts) < 900 / 14 * 2


FULL = Augment(crop_padding=1, flip=True, resized_crop=0.3, randaugment=2)


def split(count=20, channels=3):
    images = torch.from_numpy(noise(5, (count, channels, 6, 7)))
    return Split(images, torch.arange(count))


def test_changes_depend_on_seed_epoch_and_image_alone():
    whole = Batches(split=split(), batch_size=8, seed=0, augment=FULL)
    parts = {0: [], 1: []}
    for epoch in (0, 1):
        for images, labels in whole.epoch(epoch):
            parts[epoch].append((images, labels))
    again = list(whole.epoch(1, start=2))
    assert torch.equal(again[0][0], parts[1][2][0])
    shared = Batches(split=split(), batch_size=8, seed=0, augment=FULL, share=Share(1, 3))
    for (images, _), (found, _) in zip(parts[0], shared.epoch(0), strict=True):
        assert torch.equal(found, images[Share(1, 3).of(0, len(images))])
    only = replace(FULL, crop_padding=0, flip=False)
    one = next(iter(Batches(split=split(), batch_size=20, seed=0, augment=only).epoch(0)))
    two = next(iter(Batches(split=split(), batch_size=20, seed=0, augment=only).epoch(1)))
    other = next(iter(Batches(split=split(), batch_size=20, seed=3, augment=only).epoch(0)))
    for at, (images, labels) in enumerate((one, two, other)):
        images = images[labels.argsort()]
        kept = torch.from_numpy(np.stack([
            augmented_array(image.numpy(), index, Variation(only, *((0, 0), (0, 1), (3, 0))[at]))
            for index, image in enumerate(split().images)
        ]))  # fmt: skip
        assert torch.equal((images * 255).round().to(torch.uint8), kept)
    assert not torch.equal(one[0][one[1].argsort()], two[0][two[1].argsort()])


@pytest.mark.parametrize("channels", [1, 3])
def test_changed_images_keep_their_shape(channels):
    for images, labels in Batches(
        split=split(5, channels), batch_size=2, seed=0, augment=FULL
    ).epoch(0):
        assert images.shape == (len(labels), channels, 6, 7)
        assert images.dtype == torch.float32


def test_images_that_are_no_pictures_are_refused():
    drawn = Batches(split=split(4, 2), batch_size=2, seed=0, augment=FULL)
    with pytest.raises(ValueError, match="must have 1 or 3 channels; got 2"):
        list(drawn.epoch(0))


SIZES = [(96, 64), (40, 80), (130, 131), (64, 96), (33, 200), (24, 24)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Smooth JPEG pictures of several sizes, two of them turned by their EXIF."""
    path = tmp_path_factory.mktemp("photos")
    for at, size in enumerate(SIZES):
        for part in ("train", "test"):
            file = path / part / "ab"[at % 2] / f"{at}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(noise(at, (5, 4, 3))).resize(size, Image.Resampling.BICUBIC)
            exif = Image.Exif()
            if at in (0, 4):
                exif[0x0112] = 6
            image.save(file, quality=95, exif=exif)
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TAUT_CACHE", str(tmp_path / "cache"))


def fetched(dataset, variation=None):
    (part,) = dataset.train.fetch(torch.arange(6), [slice(None)], variation=variation)
    return part.images.int()


def test_streamed_and_held_pictures_change_alike_where_they_have_one_size(tmp_path):
    for at in range(8):
        file = tmp_path / "data" / ("train" if at < 6 else "test") / "ab"[at % 2] / f"{at}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(at, (6, 7, 3))).save(file)
    held = Batches(split=load("folder", tmp_path / "data").train, batch_size=4, seed=0,
                   augment=FULL)  # fmt: skip
    for workers in (0, 2):
        data = stream("folder", tmp_path / "data", workers=workers)
        streamed = replace(held, split=data.train)
        for epoch in (0, 1):
            for (a, _), (b, _) in zip(held.epoch(epoch), streamed.epoch(epoch), strict=True):
                assert torch.equal(a, b)


def test_streamed_crops_are_made_of_the_whole_picture(photos):
    """With half the area of a picture left out, what is seen has more detail than its middle."""
    shape, varied = (3, 16, 16), Variation(CROP, 0, 0)
    found = fetched(stream("folder", photos, workers=0, shape=shape), varied)
    held = load("folder", photos, shape=shape).train
    order = [file for _, file in sorted((int(f.stem), f) for f in photos.glob("train/*/*.jpg"))]
    for index in range(6):
        with Image.open(order[index]) as opened:
            image = opened.transpose(Image.Transpose.ROTATE_270) if index in (0, 4) else opened
            box = varied.box(index, image.size, (16, 16))
            expected = resized(image.convert("RGB"), (16, 16), box)
        assert np.array_equal(found[index].numpy(), np.asarray(expected).transpose(2, 0, 1))
    assert not torch.equal(found, fetched(type("Held", (), {"train": held}), varied))


@pytest.mark.parametrize("variation", [None, Variation(CROP, 0, 0)])
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 8, 6)])
def test_drafts_show_the_same_and_decode_less(shape, variation, photos, monkeypatch):
    sizes, decode = [], ImageFile.load

    def watched(image):
        sizes.append(image.size)
        return decode(image)

    monkeypatch.setattr(ImageFile, "load", watched)
    whole = fetched(stream("folder", photos, workers=0, shape=shape), variation)
    full, sizes[:] = sum(w * h for w, h in set(sizes)), []
    draft = fetched(stream("folder", photos, workers=0, shape=shape, draft=True), variation)
    assert sum(w * h for w, h in set(sizes)) < full / 2
    # A smooth picture is nearly the same; a wrong part, or one that is turned, is not.
    near, far = ((one - draft).abs().float().mean() for one in (whole, whole.roll(1, 0)))
    assert 5 * near < far
    if variation is None:
        data = load("folder", photos, shape=shape, draft=True)
        assert torch.equal(data.train.images.int(), draft)
        assert not torch.equal(load("folder", photos, shape=shape).train.images.int(), draft)


def test_a_draft_covers_what_is_needed(photos, monkeypatch):
    """Each picture is decoded at the smallest of its sizes that is not below the shape."""
    seen = []

    def watched(image, size, box):
        seen.append(image.size)
        return resized(image, size, box)

    data = stream("folder", photos, workers=0, shape=(3, 16, 16), draft=True)
    monkeypatch.setattr("taut.data._pixels.resized", watched)
    fetched(data)
    for size, found in zip(SIZES, seen, strict=True):
        factor = next(f for f in (8, 4, 2, 1) if min(size) // 16 >= f)
        assert sorted(found) == sorted(-(-side // factor) for side in size)


def test_drafts_need_a_shape(photos):
    with pytest.raises(ValueError, match="`draft` needs `shape`"):
        load("folder", photos, draft=True)
    with pytest.raises(ValueError, match="`draft` needs `shape`"):
        stream("folder", photos, workers=0, draft=True)


def test_worker_processes_live_from_epoch_to_epoch(photos):
    data = stream("folder", photos, workers=2, shape=(3, 8, 8))
    drawn = Batches(split=data.train, batch_size=2, seed=0, augment=CROP)
    before = None
    for epoch in range(3):
        steps = drawn.epoch(epoch, start=epoch)
        next(steps)  # and the rest is left: the workers must not mix it into the next epoch
        if epoch == 1:
            # Asked for in the middle of an epoch, as a process without images does.
            (spare,) = data.train.fetch(torch.zeros(1, dtype=torch.int64), [slice(1)])
            assert len(spare) == 1
        workers = data.train.loaders.kept._iterator._workers
        found = [worker.pid for worker in workers]
        assert before in (None, found)
        before = found
        expected = replace(drawn, split=stream("folder", photos, workers=0, shape=(3, 8, 8)).train)
        for a, b in zip(list(drawn.epoch(epoch)), expected.epoch(epoch), strict=True):
            assert torch.equal(a[0], b[0])
    data.close()
    assert all(not worker.is_alive() for worker in workers)
    assert len(next(drawn.epoch(3))[1]) == 2  # by new ones


def test_workers_end_with_a_program_that_still_holds_them(photos):
    script = """
import sys, torch
from pathlib import Path
from taut.data import stream
data = stream("folder", Path(sys.argv[1]), workers=1, shape=(3, 8, 8))
held = data.train.fetch(torch.arange(6), [slice(0, 2), slice(2, 4)])
print(len(next(held)))
"""
    command = [sys.executable, "-c", script, str(photos)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "2\n", "")


def test_settings_of_batches_that_are_no_numbers_are_refused_in_one_sentence(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    split = Split(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.arange(3))
    for name, values in (
        ("batch_size", (0, 1.5, "2", None, True)), ("seed", ("x", 0.5, -1)),
        ("start", (1.5, -1, 3, "x")), ("augment", (True, "flip")),
    ):  # fmt: skip
        for value in values:
            settings = {"batch_size": 2, "seed": 0, name: value}
            start = settings.pop("start", 0)
            with pytest.raises(ValueError, match=rf"^`{name}` must be "):
                list(Batches(split=split, **settings).epoch(0, start=start))
