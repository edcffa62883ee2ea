"""The measurement of conformal sets: attacks stay within eps, turns are about the middle."""

import torch

import taut
from experiments.conformal import climbed, random_splits, rotated


def test_climbs_stay_within_eps_and_the_box_and_raise_the_score():
    torch.manual_seed(0)
    images, direction = torch.rand(130, 1, 4, 4), torch.randn(1, 4, 4)

    def score(x, part):
        assert len(x) == len(images[part])
        return (x * direction).sum((1, 2, 3))

    moved = climbed(score, images, 0.3)
    assert (taut.l2_distance_upper(moved, images) <= 0.3 + 1e-6).all()
    assert ((moved >= 0) & (moved <= 1)).all()
    gained = ((moved - images) * direction).sum((1, 2, 3))
    assert gained.mean() > 0.8 * 0.3 * direction.norm()  # the box takes some


def test_turns_of_right_angles_move_pixels():
    images = torch.rand(3, 1, 5, 5)
    for quarter in range(4):
        turned = rotated(images, torch.full((3, 1), 90.0 * quarter))
        torch.testing.assert_close(turned, images.rot90(quarter, (2, 3)), atol=1e-5, rtol=0)


def test_splits_are_of_all_points_and_differ():
    first, second = (next(splits) for splits in [random_splits(1500)] for _ in range(2))
    for calibration, test in (first, second):
        assert len(calibration) == 1000
        assert sorted([*calibration.tolist(), *test.tolist()]) == list(range(1500))
    assert not torch.equal(first[0], second[0])
