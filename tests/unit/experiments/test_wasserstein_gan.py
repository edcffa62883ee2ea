"""Penalties, clipping and adversarial training: what they claim, what is proved, what resumes."""

import io
import json
import math
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import nn

from experiments.wgan import heuristics
from experiments.wgan.training import WGAN, WGANRun, grid, train_wgan
from taut.wasserstein import Settings

QUICK = Settings(steps=30, checks=1, batch_size=16, lr=3e-2)
TINY = WGAN(shape=(1, 8, 8), steps=4, batch_size=4, every=2, width=2, critic_width=2, latent=3)


@pytest.fixture
def samples():
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    return x, x + torch.tensor([3.0, 0.0])


@pytest.fixture
def images():
    return torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_penalty_is_the_squared_lack_of_slope_1():
    f = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    x, y = torch.randn(2, 5, 2, dtype=torch.float64)
    places = torch.rand(5, dtype=torch.float64)
    h, lacks = 1e-6, []
    for a, b, t in zip(x, y, places, strict=True):
        z = a + t * (b - a)
        steps = h * torch.eye(2, dtype=torch.float64)
        slope = [(f(z + s) - f(z - s)).item() / (2 * h) for s in steps]
        lacks.append((math.hypot(*slope) - 1) ** 2)
    found = heuristics.gradient_penalty(f, x, y, places)
    assert found.item() == pytest.approx(sum(lacks) / 5, rel=1e-6)
    found.backward()
    assert float(f[0].weight.grad.abs().max()) > 0


def test_claims_are_not_distances_and_their_proved_part_is(samples):
    penalised = heuristics.penalised(*samples, settings=QUICK)
    steep = heuristics.penalised(*samples, settings=QUICK, penalty=1e-9)
    clipped = heuristics.clipped(*samples, settings=QUICK)
    assert steep.claimed > 2 * 3.0  # far beyond the distance
    assert clipped.claimed < 0.1 * 3.0
    for claim in (penalised, steep, clipped):
        assert claim.proved <= 3.0 + 1e-6
        assert claim.proved == pytest.approx(max(claim.claimed, 0) / float(claim.bound))
        assert "not a distance" in str(claim)
    assert max(p.abs().max() for p in clipped.critic.parameters()) <= 0.01
    assert penalised.claimed < steep.claimed


def test_callers_critic_and_random_state_stay(samples):
    critic = nn.Linear(2, 1)
    before, state = critic.weight.clone(), torch.get_rng_state()
    first = heuristics.penalised(*samples, critic, settings=QUICK)
    second = heuristics.penalised(*samples, critic, settings=QUICK)
    assert first.claimed == second.claimed
    assert torch.equal(before, critic.weight)
    assert torch.equal(state, torch.get_rng_state())


def test_bad_options_of_heuristics_are_refused(samples):
    with pytest.raises(ValueError, match="`penalty` must be a positive number; got 0"):
        heuristics.penalised(*samples, penalty=0.0)
    with pytest.raises(ValueError, match="`limit` must be a positive number; got -1"):
        heuristics.clipped(*samples, limit=-1.0)
    with pytest.raises(ValueError, match="`p` and `q` must have points of one shape"):
        heuristics.clipped(samples[0], torch.zeros(8, 3), settings=QUICK)


@pytest.mark.parametrize("critic", ["BCOP", "WGAN-GP"])
def test_stopped_training_goes_on_bitwise(critic, images, tmp_path):
    config = replace(TINY, critic=critic)
    whole = train_wgan(config, images, tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop(step, row):
        raise Stop

    with pytest.raises(Stop):
        train_wgan(config, images, tmp_path / "cut", on_progress=stop)
    cut = train_wgan(config, images, tmp_path / "cut")
    assert [row["step"] for row in cut.history()] == [2, 4]
    assert whole.history() == cut.history()
    for name in ("generator.safetensors", "state.safetensors", "samples/000004.png"):
        assert (whole.path / name).read_bytes() == (cut.path / name).read_bytes()
    assert torch.equal(whole.sample(3, seed=1), WGANRun.open(cut.path).sample(3, seed=1))
    assert not torch.equal(whole.sample(3, seed=1), whole.sample(3, seed=2))


def test_orthogonal_critic_proves_what_it_claims(images, tmp_path):
    row = train_wgan(TINY, images, tmp_path / "a").history()[-1]
    assert row["bound"] == pytest.approx(1, abs=1e-6)
    assert row["proved"] == pytest.approx(row["claimed"], rel=1e-5)
    row = train_wgan(replace(TINY, critic="WGAN-GP"), images, tmp_path / "b").history()[-1]
    assert row["proved"] == pytest.approx(row["claimed"] / row["bound"])


def test_generator_moves_towards_the_images(tmp_path):
    white = torch.ones(16, 1, 8, 8)
    config = replace(TINY, steps=40, every=20, lr=2e-2, critic_steps=1, critic_lr=1e-2)
    start = train_wgan(replace(config, steps=1), white, tmp_path / "start").sample(32).mean()
    end = train_wgan(config, white, tmp_path / "end").sample(32).mean()
    assert start < 0.7 < end


def test_grid_puts_images_where_they_belong():
    images = torch.zeros(10, 3, 4, 5)
    images[9, 0] = 1
    picture = Image.open(io.BytesIO(grid(images)))
    assert picture.size == (8 * 6 - 1, 2 * 5 - 1)
    assert picture.getpixel((6, 5)) == (255, 0, 0)
    assert picture.getpixel((0, 0)) == (0, 0, 0)
    assert picture.getpixel((5, 0)) == (255, 255, 255)


def test_bad_runs_are_refused(images, tmp_path):
    with pytest.raises(ValueError, match=r"`images` must be of shape \(n, 1, 8, 8\), n >= 1; got"):
        train_wgan(TINY, images[..., :7], tmp_path / "x")
    with pytest.raises(ValueError, match=r"`critic` must be one of AOL, .*WGAN-GP; got 'none'"):
        replace(TINY, critic="none")
    with pytest.raises(ValueError, match="`steps` must be at least 1; got 0"):
        replace(TINY, steps=0)
    run = train_wgan(replace(TINY, steps=1), images, tmp_path / "run")
    with pytest.raises(ValueError, match="holds a training of other settings"):
        train_wgan(TINY, images, run.path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    with pytest.raises(ValueError, match="is neither empty nor the folder of a generator"):
        train_wgan(TINY, images, tmp_path / "full")
    text = json.loads((run.path / "wgan.json").read_text())
    (run.path / "wgan.json").write_text(json.dumps(text | {"width": 3}))
    with pytest.raises(ValueError, match="does not fit"):
        WGANRun.open(run.path).sample(1)
    (run.path / "wgan.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        WGANRun.open(run.path)
