"""Squares cut out and images mixed: against loops, alike for any number of processes."""

import numpy as np
import pytest
import torch

from taut.data import Augment, Batches, MixedLabels, Share, Split, batches
from taut.data._mixing import cut_out


def split_of(n, shape=(2, 5, 4)):
    generator = torch.Generator().manual_seed(0)
    images = 1 + torch.randint(255, (n, *shape), generator=generator)
    return Split(images.to(torch.uint8), torch.arange(n) % 7)


@pytest.mark.parametrize("side", [1, 2, 3, 9])
def test_cutout_equals_a_loop_over_pixels(side):
    images = split_of(30).images
    generator = torch.Generator().manual_seed(1)
    centres = torch.stack([torch.randint(n, (30,), generator=generator) for n in (5, 4)], 1)
    found = cut_out(images, centres, side=side)
    for image, centre, changed in zip(images, centres.tolist(), found, strict=True):
        expected = image.clone()
        for i in range(5):
            for j in range(4):
                at = (i - centre[0] + side // 2, j - centre[1] + side // 2)
                if all(0 <= place < side for place in at):
                    expected[:, i, j] = 0
        assert torch.equal(changed, expected)


def test_every_centre_is_equally_likely():
    split = Split(torch.full((6000, 1, 3, 2), 9, dtype=torch.uint8), torch.zeros(6000).long())
    drawn = batches(split, 500, seed=0, epoch=0, augment=Augment(0, False, cutout=1))
    holes = torch.cat([(images == 0).flatten(1) for images, _ in drawn])
    assert bool((holes.sum(1) == 1).all())
    assert holes.sum(0).min() > 850
    assert holes.sum(0).max() < 1150


EVERYTHING = Augment(crop_padding=1, flip=True, cutout=2, mixup=0.4)


def test_mixed_images_are_those_of_the_batch_with_their_labels():
    """The same draws without mixup give the images that are mixed."""
    split = split_of(23)
    plain = Augment(crop_padding=1, flip=True, cutout=2)
    mixtures = list(batches(split, 8, seed=3, epoch=1, augment=EVERYTHING))
    originals = list(batches(split, 8, seed=3, epoch=1, augment=plain))
    shares = []
    for (images, labels), (first, known) in zip(mixtures, originals, strict=True):
        assert isinstance(labels, MixedLabels)
        assert torch.equal(labels.first, known)
        assert 0 <= float(images.min()) <= float(images.max()) <= 1
        used = set()
        for at, (image, share) in enumerate(zip(images, labels.share, strict=True)):
            near = [
                other for other in range(len(known))
                if torch.allclose(image, share * first[at] + (1 - share) * first[other], atol=1e-6)
                and labels.second[at] == known[other]
            ]  # fmt: skip
            assert near
            used.update(near if share < 0.999 else ())
        assert len(used) > len(known) // 2
        shares.append(labels.share)
    every = torch.cat(shares)
    assert len(every) == 23
    assert float(every.std()) > 0


def test_shares_follow_their_beta_distribution():
    split = Split(torch.zeros(4000, 1, 1, 1, dtype=torch.uint8), torch.zeros(4000).long())
    for alpha in (0.2, 1.0, 4.0):
        drawn = batches(split, 1000, seed=0, epoch=0, augment=Augment(0, False, mixup=alpha))
        shares = torch.cat([labels.share for _, labels in drawn]).numpy()
        assert abs(shares.mean() - 0.5) < 0.03
        assert abs(shares.var() / (1 / (4 * (2 * alpha + 1))) - 1) < 0.1


def test_labels_as_probabilities():
    labels = MixedLabels(torch.tensor([0, 2]), torch.tensor([1, 2]), torch.tensor([0.3, 0.6]))
    expected = torch.tensor([[0.3, 0.7, 0.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(labels.probabilities(3), expected)
    assert len(labels[1:]) == 1


@pytest.mark.parametrize("world", [2, 3])
def test_processes_see_together_what_one_sees(world):
    split = split_of(25)
    alone = Batches(split=split, batch_size=8, seed=5, augment=EVERYTHING)
    parts = [
        Batches(split=split, batch_size=8, seed=5, augment=EVERYTHING, share=Share(rank, world))
        for rank in range(world)
    ]
    for start in (0, 2):
        drawn = zip(*(part.epoch(4, start=start) for part in parts), strict=True)
        for (images, labels), shared in zip(alone.epoch(4, start=start), drawn, strict=True):
            assert torch.equal(torch.cat([x for x, _ in shared]), images)
            for name in ("first", "second", "share"):
                together = torch.cat([getattr(one, name) for _, one in shared])
                assert torch.equal(together, getattr(labels, name))


def test_what_is_left_out_changes_no_other_draw():
    split = split_of(20)
    plain = list(batches(split, 8, seed=1, epoch=0, augment=Augment(1, True)))
    other = list(batches(split, 8, seed=1, epoch=0, augment=Augment(1, True, cutout=1)))
    for (images, labels), (cut, same) in zip(plain, other, strict=True):
        assert torch.equal(labels, same)
        assert bool(((cut == images) | (cut == 0)).all())
        assert int((cut != images).flatten(1).any(1).sum()) > 0


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="`cutout` must be an integer >= 0; got -1"):
        Augment(cutout=-1)
    for wrong in (-0.1, np.inf, np.nan):
        with pytest.raises(ValueError, match="`mixup` must be a number >= 0"):
            Augment(mixup=wrong)
