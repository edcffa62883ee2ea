"""Exponential and Householder: against slow computations, and raws of any size and rank."""

import pytest
import torch

import taut
from taut import Exponential, Householder

METHODS = [Exponential, Householder]
SIZES = [(4, 4), (3, 7), (7, 3), (1, 1), (1, 5), (33, 20)]
RAWS = ["gaussian", "large", "huge", "small", "decades", "deficient", "parallel", "zero"]


def filled(method, sizes, kind, dtype):
    module = method(*sizes, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for raw in module.parameters():
            raw.normal_(generator=generator)
            if kind in ("large", "huge", "small", "zero"):
                raw *= {"large": 1e6, "huge": 1e36, "small": 1e-6, "zero": 0.0}[kind]
            elif kind == "decades":
                raw *= torch.logspace(0, -12, len(raw), dtype=dtype)[:, None]
            elif kind == "deficient":
                raw[:, 0] = 0
            elif kind == "parallel":
                raw[:] = raw[:, :1] * (1 + 1e-4 * raw)
    return module


@pytest.mark.parametrize("kind", RAWS)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("method", METHODS)
def test_weights_are_orthogonal(method, sizes, kind):
    for dtype, error in ((torch.float64, 1e-9), (torch.float32, 3e-6)):
        module = filled(method, sizes, kind, dtype)
        weight = module.weight()
        s = torch.linalg.svdvals(weight.detach().double())
        assert (s - 1).abs().max() <= error
        (weight * torch.randn_like(weight)).sum().backward()
        assert all(raw.grad.isfinite().all() for raw in module.parameters())


def test_gradients_at_zero_are_finite_and_move_the_exponential():
    for method in METHODS:
        module = filled(method, (4, 4), "zero", torch.float32)
        assert torch.equal(module.weight(), torch.eye(4))
        target = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
        (module.weight() * target).sum().backward()
        (raw,) = module.parameters()
        expected = target - target.T if method is Exponential else torch.zeros(4, 4)
        torch.testing.assert_close(raw.grad, expected)


def test_exponential_is_the_sum_of_its_series():
    module = filled(Exponential, (5, 3), "small", torch.float64)
    with torch.no_grad():
        module.raw_matrix *= 3e5
        skew = module.raw_matrix - module.raw_matrix.T
    assert skew.abs().sum(1).max() < torch.pi * 5**0.5
    total, term = torch.eye(5, dtype=torch.float64), torch.eye(5, dtype=torch.float64)
    for j in range(1, 60):
        term = term @ skew / j
        total = total + term
    torch.testing.assert_close(module.weight().detach(), total[:3, :5], rtol=1e-12, atol=1e-12)


def test_every_rotation_is_within_the_bound_of_the_rows():
    """Of angles pi in the worst direction: the largest norm, spread over all entries."""
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(16, 16, generator=generator, dtype=torch.float64))
    block = torch.tensor([[0.0, -torch.pi], [torch.pi, 0.0]], dtype=torch.float64)
    skew = basis @ torch.block_diag(*[block] * 8) @ basis.T
    module = Exponential(16, 16, dtype=torch.float64)
    with torch.no_grad():
        module.raw_matrix.copy_(skew / 2)
    assert skew.abs().sum(1).max() > torch.pi
    expected = -torch.eye(16, dtype=torch.float64)  # half turns in all planes
    torch.testing.assert_close(module.weight().detach(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("sizes", "reflections"), [((5, 5), None), ((3, 6), 2), ((6, 3), 9)])
def test_householder_is_the_product_of_its_reflections(sizes, reflections):
    module = Householder(*sizes, reflections=reflections, dtype=torch.float64)
    side, total = max(sizes), torch.eye(max(sizes), dtype=torch.float64)
    for v in module.raw_vectors.detach().T:
        total = total @ (torch.eye(side, dtype=torch.float64) - 2 * torch.outer(v, v) / v.dot(v))
    expected = total[: sizes[1], : sizes[0]]
    torch.testing.assert_close(module.weight().detach(), expected, rtol=1e-12, atol=1e-12)
    assert f"reflections={reflections or 5}" in repr(module)


def test_zero_columns_are_no_reflections():
    module = Householder(4, 4, dtype=torch.float64)
    with torch.no_grad():
        module.raw_vectors[:, [0, 2]] = 0
    fewer = Householder(4, 4, reflections=2, dtype=torch.float64)
    with torch.no_grad():
        fewer.raw_vectors.copy_(module.raw_vectors[:, [1, 3]])
    torch.testing.assert_close(module.weight(), fewer.weight())


@pytest.mark.parametrize("count", [0, -1])
def test_wrong_numbers_of_reflections_are_refused(count):
    with pytest.raises(ValueError, match=f"`reflections` must be a positive integer; got {count}"):
        Householder(4, 4, reflections=count)


@pytest.mark.parametrize("method", METHODS)
def test_layers_train_freeze_and_are_bounded(method):
    torch.manual_seed(0)
    layer = taut.nn.Linear(6, 4, parametrization=method)
    optimiser = torch.optim.Adam(layer.parameters(), lr=1e-2)
    x, target = torch.randn(32, 6), torch.randn(32, 4)
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        loss = (layer(x) - target).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert 1 - 1e-5 <= float(taut.lipschitz_bound(layer, (6,))) <= 1 + 3e-6
    torch.testing.assert_close(taut.freeze(layer)(x), layer(x))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["gaussian", "huge", "parallel"])
def test_wide_weights_are_orthogonal_in_float32(method, kind):
    weight = filled(method, (512, 512), kind, torch.float32).weight().detach().double()
    s = torch.linalg.svdvals(weight)
    assert s.max() <= 1 + 3e-6
    assert s.min() >= 1 - 1e-5
