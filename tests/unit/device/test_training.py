"""Training on a device that is neither a CPU nor of NVIDIA, and has no float64."""

import numpy as np
import pytest
import torch

from fake_device import NAME, fake_device
from taut.linalg import rates
from taut.training import Recipe, choose_device, train
from taut.training import _devices as devices
from taut.training import _loop as loop
from taut.training._evaluation import Evaluation

RECIPE = Recipe(
    name="tiny",
    dataset="npz",
    input_shape=(1, 6, 6),
    classes=3,
    lr=1e-2,
    epochs=2,
    batch_size=8,
    retract_every=3,
    eps=("1/10",),
)


@pytest.fixture(name="data_dir")
def _data_dir(tmp_path):
    rng, labels = np.random.default_rng(0), np.arange(30) % 3
    images = (rng.integers(0, 120, (30, 6, 6)) + 60 * labels[:, None, None]).astype(np.uint8)
    np.savez(
        tmp_path / "tiny.npz", x_train=images, y_train=labels, x_test=images[:9], y_test=labels[:9]
    )
    return tmp_path


def test_it_trains_as_on_the_cpu_and_resumes(data_dir, monkeypatch):
    # Certificates refuse tensors of a class of their own, as those of the fake device are.
    monkeypatch.setattr(loop, "evaluate", lambda *_: Evaluation(0.5, {"1/10": 0.0}, 1.0))
    expected = train(RECIPE, data_dir / "cpu", data_dir=data_dir, device="cpu").history()
    monkeypatch.setitem(rates.DOUBLE_RATES, NAME, "none")
    monkeypatch.setattr(loop, "choose_device", lambda _: torch.device(NAME, 0))
    device = fake_device()
    monkeypatch.setattr(device, "allows_float64", False)
    with device:
        found = train(RECIPE, data_dir / "there", data_dir=data_dir).history()
        assert train(RECIPE, data_dir / "there", data_dir=data_dir).history() == found
    for row, own in zip(found, expected, strict=True):
        assert abs(row["train_loss"] - own["train_loss"]) < 1e-4


@pytest.mark.parametrize("kind", ["cuda", "mps", "xpu"])
def test_devices_that_torch_finds_are_chosen(kind, monkeypatch):
    for name in ("cuda", "mps", "xpu"):
        monkeypatch.setattr(getattr(torch, name), "is_available", lambda own=name: own == kind)
    assert choose_device("auto").type == choose_device(kind).type == kind
    other = "mps" if kind == "cuda" else "cuda"
    with pytest.raises(ValueError, match=f"must be auto or {kind} or cpu where .* got {other}"):
        choose_device(other)
    assert devices.steps_between_readings(torch.device(kind)) > 1
