"""Devices without float64, such as MPS: nothing there is ever in it, and all is as exact."""

import copy

import pytest
import torch
from torch import nn

import taut
from fake_device import NAME, FakeDevice, fake_device
from taut.linalg import factors, rates
from taut.linalg.bases import basis_product, orthonormal_basis
from taut.linalg.single import single_cholesky_qr


@pytest.fixture(name="device")
def _device(monkeypatch):
    monkeypatch.setitem(rates.DOUBLE_RATES, NAME, "none")
    device = fake_device()
    monkeypatch.setattr(device, "allows_float64", False)
    return device


def net() -> nn.Sequential:
    return nn.Sequential(
        taut.nn.Conv2d(3, 4, 3),
        taut.nn.MaxMin(),
        taut.nn.Conv2d(4, 4, 2, stride=2, parametrization=taut.RKO),
        taut.nn.MaxMin(),
        taut.nn.Conv2d(4, 6, 3, stride=2, padding_mode="zeros"),
        nn.Flatten(),
        taut.nn.Linear(24, 5),
        taut.nn.HouseHolder(5),
        taut.nn.Linear(5, 3),
    )


def stirred(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return model


@pytest.mark.parametrize("batched", [False, True])
def test_training_step_equals_that_of_the_cpu(device: FakeDevice, batched):
    model, x = stirred(net()), torch.rand(2, 3, 8, 8)
    moved = device.module(copy.deepcopy(model))
    model(x).square().sum().backward()
    with device:
        there = device.tensor(x)
        if batched:
            with taut.batched(moved):
                moved(there).square().sum().backward()
        else:
            moved(there).square().sum().backward()
    for own, other in zip(model.parameters(), moved.parameters(), strict=True):
        assert own.grad is not None
        assert other.grad is not None
        assert torch.allclose(other.grad.held, own.grad, atol=2e-5)


@pytest.mark.parametrize("method", ["pgd", "fgsm", "ddn"])
def test_attacks(device: FakeDevice, method):
    model, x, labels = stirred(net()).eval(), torch.rand(5, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1])
    with device:
        given = device.module(copy.deepcopy(model)), device.tensor(x), device.tensor(labels)
        options = {} if method == "fgsm" else {"steps": 12}
        result = taut.attack(*given, eps=0.5, method=method, **options)
        found, success = result.adversarial.cpu(), result.success.cpu()
    assert result.distance.dtype == torch.float64
    assert bool(((found.double() - x.double()).flatten(1).norm(dim=1) <= 0.5).all())
    assert torch.equal(success, model(found).argmax(1) != labels)


def matrices(m: int, n: int) -> dict[str, torch.Tensor]:
    """All kinds of raw tensors."""
    raw = torch.randn(m, n)
    left, right = torch.linalg.qr(raw).Q, torch.linalg.qr(torch.randn(n, n)).Q
    return {
        "gaussian": raw,
        "large": raw * 1e6,
        "small": raw * 1e-6,
        "rows over 12 decades": raw * torch.logspace(-6, 6, m)[:, None],
        "rank-deficient": raw[:, torch.arange(n) // 2],
        "zero": torch.zeros(m, n),
        "ones": torch.ones(m, n),
        "positive": raw.abs() + 1,
        "condition 100": left * torch.logspace(0, -2, n) @ right,
        "condition 10000": left * torch.logspace(0, -4, n) @ right,
    }


@pytest.mark.parametrize("rate", ["slow", "none"])
@pytest.mark.parametrize("size", [(1, 1), (5, 3), (48, 48), (300, 60), (600, 256)])
def test_bases_in_float32_are_as_exact_as_those_in_float64(size, rate, monkeypatch):
    monkeypatch.setitem(rates.DOUBLE_RATES, "cpu", rate)
    for name, a in matrices(*size).items():
        raw = a.clone().requires_grad_()
        q = orthonormal_basis(raw)
        values = torch.linalg.svdvals(q.detach().double())
        assert values.min() >= 1 - 1e-5, name
        assert values.max() <= 1 + 3e-6, name
        (q * torch.randn_like(q)).sum().backward()
        assert raw.grad is not None
        assert raw.grad.isfinite().all(), name
        x = torch.randn(2, size[0])
        assert torch.allclose(basis_product(x, a), x @ q.detach(), atol=1e-4 * size[0] ** 0.5), name


@pytest.mark.parametrize("size", [(5, 3), (48, 48), (300, 60)])
def test_the_same_bases_and_gradients(size, monkeypatch):
    a, weights = torch.randn(2, *size), torch.randn(2, *size)
    expected = a.clone().double().requires_grad_()
    q = orthonormal_basis(expected)
    (q * weights).sum().backward()
    monkeypatch.setitem(rates.DOUBLE_RATES, "cpu", "none")
    raw = a.clone().requires_grad_()
    found = orthonormal_basis(raw)
    (found * weights).sum().backward()
    assert torch.allclose(found.double(), q, atol=2e-5)
    assert raw.grad is not None
    assert expected.grad is not None
    scale = expected.grad.abs().max()
    assert (raw.grad - expected.grad).abs().max() < 1e-4 * scale


def test_ill_conditioned_matrices_are_told_from_others():
    kinds = {name: bool(single_cholesky_qr(a)[2]) for name, a in matrices(48, 48).items()}
    bad = {"rows over 12 decades", "rank-deficient", "zero", "ones", "condition 10000"}
    assert {name for name, good in kinds.items() if not good} == bad
    for value in (torch.nan, torch.inf, -torch.inf):
        a = torch.randn(6, 4)
        a[3, 2] = value
        assert not bool(single_cholesky_qr(a)[2])


@pytest.mark.parametrize("rate", ["slow", "none"])
def test_parameters_that_are_not_finite_are_refused(rate, monkeypatch):
    monkeypatch.setitem(rates.DOUBLE_RATES, "cpu", rate)
    with pytest.raises(ValueError, match="must be finite"):
        factors.factor(torch.full((3, 2), torch.nan))


def test_rates_of_devices():
    assert rates.double_rate(torch.device("cpu")) == "fast"
    assert rates.wide_dtype(torch.device("mps")) == torch.float32
    assert rates.wide_dtype(torch.device("cpu")) == torch.float64


@pytest.mark.parametrize(
    ("capability", "rate"),
    [
        *(((n, 0), "fast") for n in (6, 7, 8, 9, 10)),
        *((version, "slow") for version in ((7, 5), (8, 6), (8, 9), (10, 3), (12, 0))),
    ],
)
def test_rates_of_gpus(capability, rate, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    rates._measured.cache_clear()
    assert rates.double_rate(torch.device("cuda", 0)) == rate
    rates._measured.cache_clear()
