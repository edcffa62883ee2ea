"""The experiment on inverse problems: what a row holds, and that nets are trained once."""

import pytest
import torch

import taut
from experiments import inverse
from experiments.inverse import Sizes, curve, kept, measured, picture, pixels, psnr

SIZES = Sizes(0.2, denoised=4, chosen_on=1, images=2, iterations=4, followed=1, more=8, power=3)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # in forward mode
@pytest.mark.parametrize("name", inverse.NETS)
def test_a_net_is_trained_once_and_measured(name, tmp_path, monkeypatch):
    monkeypatch.setattr(inverse, "WIDTH", 4)
    monkeypatch.setattr(inverse, "DEPTH", 2)
    images = taut.data.load("fashion-mnist-subset")
    net, steps = kept(tmp_path / "net.pt", name, images, SIZES.seconds)
    again, same = kept(tmp_path / "net.pt", name, images, seconds=1e9)
    assert steps == same > 0
    x = images.test.float_images(slice(2))
    torch.testing.assert_close(net(x, 0.1), again(x, 0.1), rtol=0, atol=0)
    row = measured(net.eval(), images, SIZES)
    assert row["averaged"] == (0.5 if name == "taut" else None)
    assert row["constant found"] > 0
    if name == "taut":
        assert row["constant found"] <= 1 + 1e-6
    for task in inverse.TASKS:
        for how in inverse.SOLVERS:
            part = row[f"{task}, {how}"]
            assert part["sigma"] in inverse.CHOICES
            assert len(part["curve"]) == SIZES.more
            if name == "taut":
                assert part["residuals that grew"] == 0


def test_pictures_in_a_record():
    for shape in ((1, 28, 28), (3, 32, 32)):
        image = torch.rand(shape)
        shown = picture(pixels(image))
        assert shown.shape == (*shape[1:], 3)
        torch.testing.assert_close(shown / 255, image.expand(3, -1, -1).permute(1, 2, 0),
                                   rtol=0, atol=0.51 / 255)  # fmt: skip


def test_psnr_and_curves():
    clean = torch.full((2, 1, 4, 4), 0.5)
    assert psnr(clean + 0.1, clean) == pytest.approx(20, abs=1e-4)
    assert psnr(clean + torch.inf, clean) == pytest.approx(6.0206, abs=1e-3)  # clipped to 1
    points = curve(torch.arange(1.0, 1001.0))
    assert points[0] == (1, 1.0)
    assert points[-1] == (1000, 1000.0)
    assert all(k == pytest.approx(value) for k, value in points)
