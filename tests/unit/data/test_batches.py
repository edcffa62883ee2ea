"""Splits, batches, augmentation and the embedded subset."""

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from taut.data import Augment, Dataset, Holdout, Split, batches, load, names
from taut.data._batching import crop, flip


def random_split(n: int, shape: tuple[int, int, int] = (3, 6, 5), seed: int = 0) -> Split:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (n, *shape), generator=generator).to(torch.uint8)
    return Split(images, torch.arange(n))


def slow_crop(image: np.ndarray, row: int, column: int, padding: int) -> np.ndarray:
    channels, height, width = image.shape
    out = np.zeros_like(image)
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                y, x = i + row - padding, j + column - padding
                if 0 <= y < height and 0 <= x < width:
                    out[c, i, j] = image[c, y, x]
    return out


@given(
    shape=st.tuples(*[st.integers(1, 6)] * 4),
    padding=st.integers(0, 5),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_crop_and_flip_equal_a_loop_over_pixels(shape, padding, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, shape, generator=generator).to(torch.uint8)
    offsets = torch.randint(2 * padding + 1, (shape[0], 2), generator=generator)
    which = torch.randint(2, (shape[0],), generator=generator).bool()
    cut = crop(images, offsets, padding=padding).numpy()
    turned = flip(images, which).numpy()
    for at, image in enumerate(images.numpy()):
        row, column = offsets[at].tolist()
        np.testing.assert_array_equal(cut[at], slow_crop(image, row, column, padding))
        expected = np.stack([[r[::-1] for r in c] for c in image]) if which[at] else image
        np.testing.assert_array_equal(turned[at], expected)


@pytest.mark.parametrize("augment", [Augment(1, True), Augment(2, False), Augment(0, True)])
def test_augmented_images_are_some_crop_and_flip_of_their_original(augment):
    split = random_split(40, (2, 4, 3))
    padding = augment.crop_padding
    seen = set()
    for images, labels in batches(split, 16, seed=3, epoch=1, augment=augment):
        for image, label in zip(images, labels.tolist(), strict=True):
            original = split.images[label].numpy()
            candidates = {
                (row, column, turn): slow_crop(original[..., ::-turn], row, column, padding)
                for row in range(2 * padding + 1)
                for column in range(2 * padding + 1)
                for turn in ((1, -1) if augment.flip else (-1,))
            }
            pixels = (image * 255).round().to(torch.uint8).numpy()
            matches = [key for key, value in candidates.items() if np.array_equal(value, pixels)]
            assert matches
            seen.add(matches[0])
    assert len(seen) > min(len(candidates), 10) / 2  # the draws vary over the batch


def test_every_offset_and_both_flips_are_equally_likely():
    split = Split(torch.ones(9000, 1, 3, 3, dtype=torch.uint8) * 51, torch.zeros(9000).long())
    split.images[:, 0, 1, 0] = 255  # one mark tells offset and flip
    images = torch.cat(
        [x for x, _ in batches(split, 1000, seed=0, epoch=0, augment=Augment(1, True))]
    )
    flat = (images * 5).round().long().flatten(1).tolist()
    counts = torch.tensor([flat.count(list(key)) for key in {tuple(row) for row in flat}])
    # 3 rows x 3 columns x 2 turns; each has 500 expected, standard deviation 22.
    assert len(counts) == 18
    assert (counts - 500).abs().max() < 110


def test_without_augmentation_each_image_comes_once_exactly():
    split = random_split(37)
    pairs = list(batches(split, 8, seed=1, epoch=0))
    assert [len(labels) for _, labels in pairs] == [8, 8, 8, 8, 5]
    labels = torch.cat([labels for _, labels in pairs])
    images = torch.cat([images for images, _ in pairs])
    assert sorted(labels.tolist()) == list(range(37))
    assert images.dtype == torch.float32
    assert torch.equal(images, (split.images[labels].double() / 255).float())


@given(start=st.integers(0, 8), seed=st.integers(0, 2**40), epoch=st.integers(0, 300))
@settings(max_examples=25, deadline=None)
def test_resumed_epoch_equals_the_rest_of_an_uninterrupted_one(start, seed, epoch):
    split = random_split(30)
    torch.manual_seed(seed % 7)  # the global generator has no part in it
    options = {"seed": seed, "epoch": epoch, "augment": Augment(2)}
    whole = list(batches(split, 4, **options))
    torch.rand(5)
    rest = list(batches(split, 4, **options, start=start))
    assert len(rest) == len(whole) - start
    for (x, y), (x_rest, y_rest) in zip(whole[start:], rest, strict=True):
        assert torch.equal(x, x_rest)
        assert torch.equal(y, y_rest)


def test_seed_and_epoch_change_order_and_augmentation_without_collisions():
    split = random_split(50)
    orders, draws = set(), set()
    for seed in range(4):
        for epoch in range(4):
            options = {"seed": seed, "epoch": epoch, "augment": Augment()}
            pairs = list(batches(split, 50, **options))
            orders.add(tuple(pairs[0][1].tolist()))
            draws.add(pairs[0][0][pairs[0][1].argsort()].numpy().tobytes())
    assert len(orders) == len(draws) == 16


def test_batches_leave_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(batches(random_split(20), 4, seed=0, epoch=0, augment=Augment()))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("options", "name"),
    [({"batch_size": 0}, "batch_size"), ({"start": -1}, "start"), ({"start": 4}, "start")],
)
def test_wrong_arguments_of_batches_raise_at_the_call(options, name):
    options = {"batch_size": 4, "seed": 0, "epoch": 0} | options
    with pytest.raises(ValueError, match=name):
        batches(random_split(10), **options)


@pytest.mark.parametrize(
    ("images", "labels", "name"),
    [
        (torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.zeros(3).long(), "labels"),
        (torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.zeros(2), "labels"),
        (torch.zeros(2, 3, 3, dtype=torch.uint8), torch.zeros(2).long(), "images"),
        (torch.zeros(2, 1, 3, 3), torch.zeros(2).long(), "images"),
    ],
)
def test_splits_refuse_tensors_that_do_not_fit(images, labels, name, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    with pytest.raises(ValueError, match=name):
        Split(images, labels)


def test_float_images_take_slices_and_indices():
    split = random_split(9)
    exact = (split.images.double() / 255).float()
    assert torch.equal(split.float_images(), exact)
    assert torch.equal(split.float_images(slice(2, 5)), exact[2:5])
    assert torch.equal(split.float_images(torch.tensor([4, 0])), exact[[4, 0]])
    assert len(split.take(4)) == 4
    assert len(split.take(400)) == 9
    with pytest.raises(ValueError, match="`n`"):
        split.take(0)


def test_data_sets_refuse_splits_that_do_not_fit():
    split = random_split(3)
    classes = ("a", "b", "c")
    assert Dataset("d", "D", classes, split, split).input_shape == (3, 6, 5)
    with pytest.raises(ValueError, match="labels from 0 to 1; got 0 to 2"):
        Dataset("d", "D", classes[:2], split, split)
    with pytest.raises(ValueError, match="images of one shape"):
        Dataset("d", "D", classes, split, random_split(3, (3, 6, 6)))
    with pytest.raises(ValueError, match="at least one image"):
        Dataset("d", "D", classes, split, random_split(0))


@given(n=st.integers(2, 60), percent=st.integers(1, 99), seed=st.integers(0, 99))
@settings(deadline=None)
def test_holdout_partitions_the_pool(n, percent, seed):
    pool, holdout = random_split(n), Holdout(percent / 100, seed)
    if not 0 < round(n * holdout.fraction) < n:
        with pytest.raises(ValueError, match="fraction"):
            holdout.split(pool)
        return
    train, test = holdout.split(pool)
    assert len(test) == round(n * holdout.fraction)
    assert sorted(train.labels.tolist() + test.labels.tolist()) == list(range(n))
    assert torch.equal(train.images, pool.images[train.labels])
    assert torch.equal(holdout.split(pool)[1].labels, test.labels)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, float("nan")])
def test_holdout_refuses_fractions_that_leave_nothing(fraction):
    with pytest.raises(ValueError, match="fraction"):
        Holdout(fraction)


def test_embedded_subset_is_balanced_and_needs_no_files():
    data = load("fashion-mnist-subset")
    assert data.input_shape == (1, 28, 28)
    assert data.train.labels.bincount().tolist() == [200] * 10
    assert data.test.labels.bincount().tolist() == [100] * 10
    assert "subset" in data.label
    first = data.test.take(100).labels.bincount(minlength=10)
    assert first.min() > 0  # the classes are mixed, so that the first few are a sample
    with pytest.raises(ValueError, match="data_dir"):
        load("fashion-mnist-subset", "somewhere")


def test_unknown_names_list_the_known_ones():
    for wrong in ("mnits", "hub:", ""):
        with pytest.raises(ValueError, match="must be one of fashion-mnist-subset, mnist"):
            load(wrong)
    assert len(set(names())) == len(names())


@pytest.mark.parametrize(
    "name", [n for n in names() if n not in ("fashion-mnist-subset", "hub:NAME")]
)
def test_every_name_says_what_is_missing(name, tmp_path):
    with pytest.raises(ValueError, match="`data_dir` must be"):
        load(name)
    for place in (tmp_path, tmp_path / "absent"):
        with pytest.raises(FileNotFoundError) as caught:
            load(name, place)
        assert "not found" in str(caught.value)
        assert str(place) in str(caught.value)
    if name not in ("folder", "webdataset"):
        with pytest.raises(ValueError, match="holdout"):
            load(name, tmp_path, holdout=Holdout(0.5))


@pytest.mark.gpu
def test_batches_on_a_gpu_equal_those_on_the_cpu():
    split = random_split(100, (3, 8, 8))
    here = batches(split, 32, seed=0, epoch=0, augment=Augment())
    there = batches(split.to("cuda"), 32, seed=0, epoch=0, augment=Augment())
    for (x, y), (x_gpu, y_gpu) in zip(here, there, strict=True):
        assert x_gpu.is_cuda
        assert torch.equal(x, x_gpu.cpu())
        assert torch.equal(y, y_gpu.cpu())
