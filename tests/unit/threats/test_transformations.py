"""Shifts, brightness and contrast: grids of parameters, closed forms, refusals."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import taut
from taut import threats
from taut.certification import prove
from taut.threats import Brightness, Contrast, Rotation, Translation
from taut.threats._cut import cut_of

SHAPE = (2, 5, 6)


def draw(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def net(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), taut.nn.MaxMin(), nn.Flatten(), nn.Linear(180, 4)
    ).to(dtype)


def shifted(x, t):
    """Bilinear interpolation by torch, with zeros outside."""
    h, w = x.shape[-2:]
    theta = torch.eye(2, 3, dtype=x.dtype).repeat(len(x), 1, 1)
    # The pixel at p is read at p - t; grids go from -1 to 1 over size - 1 pixels.
    theta[:, 0, 2], theta[:, 1, 2] = -2 * t[:, 1] / (w - 1), -2 * t[:, 0] / (h - 1)
    grid = F.affine_grid(theta, list(x.shape), align_corners=True)
    return F.grid_sample(x, grid, align_corners=True)


def rotated(x, degrees):
    """Bilinear interpolation by torch, with zeros outside."""
    h, w = x.shape[-2:]
    turn, ratio = degrees * math.pi / 180, (h - 1) / (w - 1)
    theta = torch.zeros(len(x), 2, 3, dtype=x.dtype)
    theta[:, 0, 0], theta[:, 0, 1] = turn.cos(), turn.sin() * ratio
    theta[:, 1, 0], theta[:, 1, 1] = -turn.sin() / ratio, turn.cos()
    grid = F.affine_grid(theta, list(x.shape), align_corners=True)
    return F.grid_sample(x, grid, align_corners=True)


def changed(threat, x, t):
    """The changed images by another route."""
    if threat.kind == "rotation":
        return rotated(x, t[:, 0])
    if threat.kind == "translation":
        return shifted(x, t)
    t = t[:, 0].reshape(-1, 1, 1, 1)
    y = x + t if threat.kind == "brightness" else (1 + t) * x - t * threat.centre
    return y.clamp(0, 1) if threat.clip else y


THREATS = [
    Translation(limit=1.3, cells=800), Rotation(limit=9.0, cells=400),
    Brightness(limit=1.0), Brightness(limit=0.7, clip=True),
    Contrast(limit=0.9), Contrast(centre=0.0, limit=2.0), Contrast(limit=1.5, clip=True),
]  # fmt: skip


@pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.kind)
def test_changed_images_are_those_of_torch(threat):
    x = draw(40, *SHAPE)
    t = (2 * draw(40, threat.axes, seed=1) - 1) * threat.limit
    assert torch.allclose(threat.transformed(x, t), changed(threat, x, t), atol=1e-12)
    norms = threat.largest_norm(x.flatten(1).norm(dim=1), x[0].numel())
    assert (threat.transformed(x, t).flatten(1).norm(dim=1) <= norms * (1 + 1e-12)).all()
    narrow = threat.transformed(x.float(), t).double() - threat.transformed(x, t)
    assert narrow.flatten(1).norm(dim=1).max() <= threat.roundings(SHAPE) * 2.0**-24 * norms.min()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.kind)
def test_no_change_within_the_radius_is_answered_otherwise_and_one_soon_after_is(threat, dtype):
    model, x = net(dtype), draw(5, *SHAPE, seed=2).to(dtype)
    labels = model(x).argmax(1)
    found = threats.certify(model, x, labels, threat)
    assert (found.radius > 0).all()
    assert found.radii is None
    steps = torch.linspace(-1, 1, 41 if threat.axes == 2 else 801, dtype=torch.float64)
    grid = torch.tensor(list(itertools.product(steps.tolist(), repeat=threat.axes)))
    grid = grid.double() * threat.limit
    sizes = grid.abs().amax(1)
    closest = []
    for i in range(len(x)):
        moved = changed(threat, x[i : i + 1].expand(len(grid), *SHAPE), grid.to(dtype))
        answers = found.certificate.logits(moved.to(dtype)).argmax(1)
        wrong = sizes[answers != labels[i]]
        assert (wrong >= found.radius[i] * (1 - 1e-6)).all()
        least = wrong.min().item() if len(wrong) else threat.limit
        closest.append(found.radius[i].item() / least)
    # Tight, up to the smallest cells and the steps of the grid; less so where cells are coarse.
    loose = threat.kind in ("translation", "rotation") or threat.clip
    assert np.median(closest) > (0.6 if loose else 0.9)
    assert min(closest) < 1 or (found.radius == threat.limit).all()


def test_radius_of_brightness_is_exact_for_a_linear_model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(60, 3)).double()
    x = draw(30, *SHAPE)
    z = model(x)
    labels = z.argmax(1)
    found = threats.certify(model, x, labels, Brightness(limit=8.0, cells=500))
    sums = model[1].weight.sum(1)
    for i, y in enumerate(labels.tolist()):
        others = [j for j in range(3) if j != y]
        exact = min(((z[i, y] - z[i, j]) / (sums[y] - sums[j]).abs()).item() for j in others)
        assert found.radius[i].item() <= min(exact, 8.0)
        assert found.radius[i].item() >= min(exact, 8.0) - 8 / 1024 - 0.01 * exact


def test_radius_is_far_above_that_of_the_l2_ball():
    model, x = net(), draw(20, *SHAPE, seed=2)
    labels = model(x).argmax(1)
    plain = taut.certify(model, x, labels).radius
    found = threats.certify(model, x, labels, Brightness(limit=2.0)).radius
    assert (found + 2 / 1024 >= (plain / math.sqrt(60)).clamp(max=2.0)).all()
    assert found.mean() > 2 * plain.mean() / math.sqrt(60)


@pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.kind)
def test_spread_is_the_largest_distance_in_a_cell(threat):
    model, x = net(), draw(5, *SHAPE, seed=3)
    cut = cut_of(prove(model, SHAPE))
    low = torch.full((5, threat.axes), 0.25).double()
    high = torch.full((5, threat.axes), 0.5).double()
    bound = threat.spread(cut, x, low, high, (low + high) / 2)
    middle = cut.value(threat.transformed(x, (low + high) / 2))
    largest = torch.zeros(5).double()
    for shares in itertools.product(np.linspace(0, 1, 9), repeat=threat.axes):
        t = low + torch.tensor(shares) * (high - low)
        moved = (cut.value(threat.transformed(x, t)) - middle).flatten(1).norm(dim=1)
        assert (moved <= bound * (1 + 1e-12)).all()
        largest = torch.maximum(largest, moved)
    if threat.kind != "rotation" and not getattr(threat, "clip", False):
        assert torch.allclose(largest, bound, rtol=1e-9)


def test_fewer_cells_are_a_smaller_radius_and_more_classes_a_larger_one():
    model, x = net(), draw(12, *SHAPE, seed=2)
    labels = model(x).argmax(1)
    radii = [
        threats.certify(model, x, labels, Translation(cells=cells)).radius for cells in (1, 9, 100)
    ]
    assert (radii[0] == 0).all()
    assert (radii[1] <= radii[2]).all()
    more = threats.certify(model, x, labels, Translation(cells=100), top_k=2).radius
    assert (more >= radii[2]).all()
    assert more.mean() > radii[2].mean()


@pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.kind)
def test_wrong_images_have_radius_0_and_black_ones_move_nowhere(threat):
    model = net()
    x = torch.cat([torch.zeros(1, *SHAPE).double(), draw(1, *SHAPE)])
    right, threat = model(x).argmax(1), replace(threat, cells=64)
    found = threats.certify(model, x, (right + 1) % 4, threat)
    assert found.radius.tolist() == [0.0, 0.0]
    found = threats.certify(model, x, right, threat, eps=0.1)
    if threat.kind in ("translation", "rotation") or getattr(threat, "centre", 1.0) == 0.0:
        assert found.radius[0] == threat.limit
    assert found.certified_accuracy[0.1] == (found.radius > 0.1).double().mean()


def test_arithmetics_agree_but_for_rounding():
    model, x = net(torch.float32), draw(3, *SHAPE, seed=2).float()
    labels = model(x).argmax(1)
    radii = [
        threats.certify(model, x, labels, Translation(cells=60), arithmetic=name).radius
        for name in ("float64", "real", "float32")
    ]
    assert torch.allclose(radii[0], radii[1], atol=1 / 8)
    assert (radii[2] <= radii[1]).all()


@pytest.mark.parametrize("shape", [(7,), (3, 9), (4, 3, 3, 5)])
def test_images_of_other_shapes(shape):
    size = math.prod(shape)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(size, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    x = draw(3, *shape)
    labels = model(x).argmax(1)
    for threat in (Brightness(), Contrast()):
        assert (threats.certify(model, x, labels, threat).radius > 0).all()
    if len(shape) > 1:
        for threat in (Translation(cells=50), Rotation(cells=50)):
            assert (threats.certify(model, x, labels, threat).radius > 0).all()
    else:
        for threat in (Translation(), Rotation()):
            with pytest.raises(ValueError, match=r"`images` must be \(n, ..., h, w\) for a"):
                threats.certify(model, x, labels, threat)


def test_settings_out_of_range_are_refused():
    for wrong in ({"limit": 0.0}, {"limit": math.inf}, {"cells": 0}):
        for threat in (Brightness, Contrast, Rotation, Translation):
            with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` must be"):
                threat(**wrong)
    with pytest.raises(ValueError, match="`centre` must be a finite number"):
        Contrast(centre=math.nan)
    with pytest.raises(ValueError, match="`eps` must be below `limit` of the threat, 2; got 2"):
        threats.certify(net(), draw(1, *SHAPE), torch.tensor([0]), Translation(), eps=(1, 2))
