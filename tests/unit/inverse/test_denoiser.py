"""A denoiser is called as those of deepinv are, serves each noise level, and can be exported."""

import copy
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from torch import nn

import taut
from proven import assert_files_agree
from taut.inverse import Denoiser, FixedNoise, averagedness, conv_net


@pytest.fixture
def denoiser():
    torch.manual_seed(0)
    return Denoiser(conv_net(1, width=6, depth=3), sigma=0.25)


@pytest.mark.parametrize("size", [(4, 4), (7, 5), (3, 9)])
def test_one_noise_level_for_each_image(denoiser, size):
    x, levels = torch.rand(3, 1, *size), torch.tensor([0.05, 0.25, 0.4])
    together = denoiser(x, levels)
    for image, level, expected in zip(x, levels, together, strict=True):
        for one in (float(level), level, level[None]):
            torch.testing.assert_close(denoiser(image[None], one)[0], expected)
    torch.testing.assert_close(denoiser(x, np.float64(0.4))[2], together[2])


def test_values(denoiser):
    x = torch.rand(2, 1, 5, 5)
    mean = 0.5 * x + 0.5 * (1 - 2.0**-13) * denoiser.averaged.f(x)
    torch.testing.assert_close(denoiser(x, 0.25), mean)
    # Scaling an image and its noise scales the result.
    torch.testing.assert_close(denoiser(3 * x, 0.75), 3 * mean)


def test_copies(denoiser):
    x = torch.rand(2, 1, 5, 5)
    assert torch.equal(copy.deepcopy(denoiser)(x, 0.1), denoiser(x, 0.1))
    other = Denoiser(conv_net(1, width=6, depth=3), sigma=0.25)
    other.load_state_dict(denoiser.state_dict())
    assert torch.equal(other(x, 0.1), denoiser(x, 0.1))
    assert torch.equal(denoiser.eval()(x, 0.1), denoiser.train()(x, 0.1))


def test_frozen_and_exported(denoiser, tmp_path):
    fixed = FixedNoise(denoiser, 0.1)
    assert_files_agree(fixed, (1, 7, 6), tmp_path)
    frozen = taut.freeze(fixed)
    assert averagedness(frozen, (1, 7, 6)) == 0.5
    x = torch.rand(1, 1, 5, 8)
    with torch.no_grad():
        assert torch.equal(frozen(x), denoiser(x, 0.1))
        assert torch.equal(taut.freeze(denoiser)(x, 0.1), denoiser(x, 0.1))


def test_it_learns_to_denoise_and_stays_proved():
    torch.manual_seed(0)
    denoiser = Denoiser(conv_net(1, width=8, depth=3))
    images = taut.data.load("fashion-mnist-subset").train.float_images()[:64, :, 4:24, 4:24]
    optimiser = torch.optim.Adam(denoiser.parameters(), lr=5e-3)
    noise = 0.2 * torch.randn_like(images)
    losses = []
    for _ in range(25):
        optimiser.zero_grad()
        loss = (denoiser(images + noise, 0.2) - images).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * 0.2**2 < losses[0]
    assert averagedness(FixedNoise(denoiser, 0.2), (1, 20, 20)) == 0.5


def test_wrong_arguments(denoiser, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    fixed: Any = FixedNoise
    make: Any = Denoiser
    for level in (0, -0.1, float("inf"), "a"):
        with pytest.raises(ValueError, match="`sigma` must be a positive number; got"):
            denoiser(torch.zeros(1, 1, 4, 4), level)
        with pytest.raises(ValueError, match="`sigma` must be a positive number; got"):
            fixed(denoiser, level)
        with pytest.raises(ValueError, match="`sigma` must be a positive number; got"):
            make(nn.ReLU(), level)
    with pytest.raises(ValueError, match=r"`denoiser` must be a torch\.nn\.Module; got function"):
        fixed(lambda x, sigma: x, 0.1)
    with pytest.raises(ValueError, match=r"`f` must be a torch\.nn\.Module"):
        make(torch.relu)
    with pytest.raises(ValueError, match="`depth` must be an integer >= 2; got 1"):
        conv_net(1, depth=1)


def test_nets_of_any_method(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    for method in (taut.BCOP, taut.AOL, taut.RKO):
        width: Any = np.int64(5)
        net = conv_net(3, width=width, depth=2, parametrization=method, dtype=torch.float64)
        assert averagedness(FixedNoise(Denoiser(net), 0.1), (3, 5, 7)) == 0.5
