"""LiRes: its formula, its start, and what is proven of it."""

import pytest
import torch

import taut
from taut import LiRes


def test_kernel_is_the_identity_and_a_free_kernel():
    module = LiRes(4, 4, (3, 3), depth=9, groups=2, dtype=torch.float64)
    with torch.no_grad():
        module.raw_gain.normal_()
    weight = module.weight()
    for o in range(4):
        for i in range(2):
            for t in range(9):
                place = (o, i, t // 3, t % 3)
                delta = float(o % 2 == i and t == 4)
                free = module.raw_gain[o] * module.raw_kernel[place] / 3
                assert weight[place].item() == pytest.approx((delta + free).item(), rel=1e-15)


def test_layer_is_the_input_plus_a_convolution():
    layer = taut.nn.Conv2d(3, 3, 3, bias=False, padding_mode="zeros", parametrization=LiRes)
    x = torch.randn(2, 3, 5, 6)
    module = layer.parametrization
    expected = x + torch.nn.functional.conv2d(x, module.raw_kernel, padding=1)
    torch.testing.assert_close(layer(x), expected)


def test_start_is_normal_of_deviation_one_over_the_fan_in():
    torch.manual_seed(0)
    raw = LiRes(64, 64, (3, 3)).raw_kernel
    assert raw.std().item() == pytest.approx(1 / (9 * 64), rel=0.02)
    assert abs(raw.mean().item()) < 1e-4


@pytest.mark.parametrize(("sizes", "stride"), [((3, 5, (3,)), (2,)), ((4, 2, ()), ())])
def test_other_sizes_copy_as_many_channels_as_there_are(sizes, stride):
    module = LiRes(*sizes, stride=stride)
    with torch.no_grad():
        module.raw_gain.zero_()
    weight = module.weight()
    centre = weight[..., 1] if sizes[2] else weight
    assert torch.equal(centre, torch.eye(sizes[1], sizes[0]))
    assert weight.sum() == min(sizes[:2])


def test_bound_is_proven_from_the_kernel():
    layer = taut.nn.Conv2d(2, 2, 3, parametrization=LiRes, dtype=torch.float64)
    with torch.no_grad():
        layer.parametrization.raw_kernel.normal_()
    norm = taut.singular_values(layer, (2, 5, 5))[0].item()
    assert norm > 2
    assert norm * (1 - 1e-12) <= float(taut.lipschitz_bound(layer, (2, 5, 5))) <= norm * (1 + 1e-9)


def test_weights_can_be_assigned():
    layer = taut.nn.Conv2d(2, 3, 3, parametrization=LiRes)
    weight = torch.randn(3, 2, 3, 3)
    layer.weight = weight
    torch.testing.assert_close(layer.weight, weight)


def test_depth_is_checked_and_shown():
    assert "depth=5" in repr(LiRes(2, 2, depth=5))
    with pytest.raises(ValueError, match="`depth` must be a positive integer; got 0"):
        LiRes(2, 2, depth=0)
