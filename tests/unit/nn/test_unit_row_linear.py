"""Unit rows: pairs of classes are certified by the differences of rows, and by nothing sharper."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import taut
from exported_nets import in_onnxruntime
from taut.certification import verifier
from taut.export import export

RAWS = ["gaussian", "huge", "tiny", "12 decades", "rank-deficient", "zero"]


def raw_of(kind: str, rows: int, columns: int) -> Tensor:
    raw = torch.randn(rows, columns, dtype=torch.float64)
    if kind == "12 decades":
        raw *= torch.logspace(0, -12, rows, dtype=torch.float64)[:, None]
    if kind == "rank-deficient":
        raw[1], raw[2, 1:] = raw[0], 0
    return raw * {"huge": 1e36, "tiny": 1e-36, "zero": 0.0}.get(kind, 1.0)


def net(bias: bool = True, **options) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        taut.nn.Conv2d(1, 8, 2, 2, **options), taut.nn.MaxMin(), nn.Flatten(),
        taut.nn.UnitRowLinear(32, 5, bias, **options),
    ).eval()  # fmt: skip


@pytest.mark.parametrize(("dtype", "above"), [(torch.float64, 1e-15), (torch.float32, 3e-7)])
@pytest.mark.parametrize("kind", RAWS)
def test_rows_have_norm_1_and_finite_gradients(kind, dtype, above):
    layer, raw = taut.nn.UnitRowLinear(6, 4, dtype=dtype), raw_of(kind, 4, 6).to(dtype)
    with torch.no_grad():
        layer.parametrization.raw_rows.copy_(raw)
    weight = layer.weight
    assert (weight.double().norm(dim=1) - 1).abs().max() <= above
    if kind != "zero":
        expected = nn.functional.normalize(raw.double(), dim=1, eps=0)
        torch.testing.assert_close(weight.double(), expected, rtol=0, atol=4 * above)
    (weight * torch.randn_like(weight)).sum().backward()
    assert layer.parametrization.raw_rows.grad.isfinite().all()


def test_gradients_are_those_of_finite_differences():
    layer = taut.nn.UnitRowLinear(3, 4, dtype=torch.float64)

    def weight(raw: Tensor) -> Tensor:
        return torch.func.functional_call(Rows(layer), {"of.raw_rows": raw}, ())

    raw = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(weight, (raw,))
    assert torch.equal(weight(raw), weight(8 * raw))


class Rows(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.of = layer.parametrization

    def forward(self) -> Tensor:
        return self.of.weight()


def test_it_is_used_as_a_layer_of_torch(monkeypatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)  # as users run it
    layer = taut.nn.UnitRowLinear(np.int64(6), np.int32(4), dtype=torch.float64)
    twin = copy.deepcopy(layer)
    layer.reset_parameters()
    assert not torch.allclose(layer.weight, twin.weight)
    twin.load_state_dict(layer.state_dict())
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    expected = x @ layer.weight.T + layer.bias
    for each in (layer, twin, taut.freeze(layer)):
        torch.testing.assert_close(each(x), expected)
        torch.testing.assert_close(each(x[0, 0]), expected[0, 0])
    assert type(taut.freeze(layer)) is nn.Linear
    assert list(layer.state_dict()) == ["bias", "parametrization.raw_rows"]
    assert taut.nn.UnitRowLinear(6, 4, bias=False).bias is None
    with pytest.raises(ValueError, match="`out_features` must be a positive integer; got 0"):
        taut.nn.UnitRowLinear(6, 0)


def test_unit_rows_may_be_assigned_and_no_others():
    layer = taut.nn.UnitRowLinear(6, 4)
    rows = nn.functional.normalize(torch.randn(4, 6), dim=1)
    layer.weight = rows
    torch.testing.assert_close(layer.weight, rows)
    with pytest.raises(ValueError, match=r"`weight` must be one that .* can have"):
        layer.weight = 2 * rows
    torch.testing.assert_close(layer.weight, rows)


# Radii


def nearest_change(layer: nn.Module, x: Tensor, directions: int = 20_000) -> float:
    """How far the point must move until another class wins, by going in all directions of a plane.

    Along d the difference of two logits is a straight line: it vanishes where it says so.
    """
    angles = torch.linspace(0, 2 * math.pi, directions, dtype=torch.float64)
    ways = torch.stack((angles.cos(), angles.sin()), 1)
    here, step = layer(x), layer(x + ways) - layer(x)  # (k,), (directions, k)
    top = int(here.argmax())
    gaps, slopes = here[top] - here, step - step[:, top, None]
    times = torch.where(slopes > 0, gaps / slopes, math.inf)
    times[:, top] = math.inf
    return times.min().item()


def test_radii_of_a_linear_model_are_where_its_answer_changes():
    torch.manual_seed(1)
    layer = taut.nn.UnitRowLinear(2, 5, dtype=torch.float64)
    x = torch.randn(20, 2, dtype=torch.float64)
    with torch.no_grad():
        logits = layer(x)
        nearest = [nearest_change(layer, point) for point in x.unbind()]
    labels = logits.argmax(1)
    nearest = torch.tensor(nearest, dtype=torch.float64)
    bound = taut.lipschitz_bound(layer, (2,))
    radii = {
        "certify": taut.certify(layer, x, labels).radius,
        "predict": taut.predict(layer, x).radius,
        "bound": taut.certified_radius(logits, labels, bound),
        "head": taut.certified_radius(logits, labels, 1.0, head=layer.weight),
    }
    for name, radius in radii.items():
        assert (radius <= nearest).all(), name
        torch.testing.assert_close(radius, nearest.to(radius), rtol=1e-6, atol=0)


def test_a_margin_over_the_root_of_2_is_no_radius_of_unit_rows():
    """What would hold if the logits were 1-Lipschitz as a map; each of them is."""
    layer = taut.nn.UnitRowLinear(2, 2, bias=False, dtype=torch.float64)
    layer.weight = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    x, label = torch.tensor([[0.5, 0.0]], dtype=torch.float64), torch.tensor([0])
    logits = layer(x).detach()
    trap = (logits[0, 0] - logits[0, 1]) / math.sqrt(2)
    moved = x - torch.tensor([[0.9 * trap, 0.0]])
    assert layer(moved).argmax() == 1  # nearer than the trap says
    assert taut.certify(layer, x, label).radius.item() == pytest.approx(0.5)
    assert float(taut.lipschitz_bound(layer, (2,))) == pytest.approx(math.sqrt(2))


def test_rows_that_agree_make_a_steep_map_and_large_radii():
    """The norm is near the root of 4; differences are a tenth of the rows."""
    rows = torch.eye(1, 8, dtype=torch.float64).repeat(4, 1)
    rows[:, 1:5] += 0.1 * torch.eye(4, dtype=torch.float64)
    layer = taut.nn.UnitRowLinear(8, 4, bias=False, dtype=torch.float64)
    layer.weight = nn.functional.normalize(rows, dim=1)
    x = torch.eye(8, dtype=torch.float64)[1:5]
    bound = taut.lipschitz_bound(layer, (8,))
    assert float(bound) > 1.98
    plain = taut.certified_radius(layer(x), torch.arange(4), float(bound))
    pairs = taut.certified_radius(layer(x), torch.arange(4), bound)
    torch.testing.assert_close(pairs, torch.full_like(pairs, 0.5**0.5))
    assert (plain < 0.1 * pairs).all()


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (torch.eye(3, 4), r"`head` must be a matrix of 2 rows, one per class; got \(3, 4\)"),
        (torch.ones(2), r"`head` must be a matrix of 2 rows, one per class; got \(2,\)"),
        (np.eye(2), "`head` must be a torch.Tensor; got numpy.ndarray"),
    ],
)
def test_other_heads_are_refused(head, message, monkeypatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)  # as users run it
    logits, labels = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
    with pytest.raises(ValueError, match=message):
        taut.certified_radius(logits, labels, 1.0, head=head)
    with pytest.raises(ValueError, match="`bound` must be a number >= 0; got nan"):
        taut.certified_radius(logits, labels, math.nan, head=torch.eye(2))


@pytest.mark.parametrize("arithmetic", ["float64", "float32"])
@pytest.mark.parametrize("bias", [True, False])
def test_nets_are_certified_verified_and_exported(arithmetic, bias, tmp_path):
    model, x = net(bias), torch.rand(12, 1, 4, 4)
    labels = model(x).argmax(1)
    frozen = taut.freeze(model)
    with torch.no_grad():
        assert torch.equal(frozen(x), model(x))
    path = tmp_path / "model.onnx"
    exported = export(frozen, path, (1, 4, 4))
    torch.testing.assert_close(in_onnxruntime(path, x), model(x).detach(), rtol=1e-5, atol=1e-6)
    radii = []
    for each in (model, frozen, exported.model):
        result = taut.certify(each, x, labels, arithmetic=arithmetic)
        paths = result.save(tmp_path / "certificate.json")
        np.savez(tmp_path / "points.npz", images=x.numpy())
        assert "answers of 12 images" in verifier.verify(*paths, tmp_path / "points.npz")
        radii.append(result.radius)
    torch.testing.assert_close(radii[1], radii[0])
    torch.testing.assert_close(radii[2], radii[0], rtol=1e-5, atol=1e-7)
    # Features of constant 1: the sharpest radius that the rows allow, but for rounding.
    w, z = frozen[-1].weight.double(), model(x).detach().double()
    lengths = torch.cdist(w, w)[labels]
    margins = z.gather(1, labels[:, None]) - z
    closed = torch.where(lengths > 0, margins / lengths, math.inf).amin(1)
    slack = {"float64": 1e-5, "float32": 1e-2}[arithmetic]
    assert (radii[0] <= closed * (1 + 1e-6)).all()
    assert (radii[0] >= closed - slack).all()


def test_no_attack_succeeds_within_the_radius():
    model, x = net(dtype=torch.float64), torch.rand(16, 1, 4, 4, dtype=torch.float64)
    found = taut.predict(model, x)
    for i, radius in enumerate(found.radius.tolist()):
        point, label = x[i : i + 1], model(x[i : i + 1]).argmax(1)
        attack = taut.attack(model, point, label, radius, method="pgd")
        assert not attack.success.any()


def test_it_replaces_the_last_layer_of_an_architecture():
    model = taut.models.Small().build((1, 8, 8), 4)
    model[-1] = taut.nn.UnitRowLinear(model[-1].in_features, 4)
    x, labels = torch.rand(8, 1, 8, 8), torch.arange(8) % 4
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(3):
        optimiser.zero_grad()
        taut.losses.MultiMargin()(model(x), labels).backward()
        optimiser.step()
    bound = taut.lipschitz_bound(model.eval(), (1, 8, 8))
    lengths = torch.cdist(model[-1].weight, model[-1].weight).double()
    torch.testing.assert_close(bound.pairwise, lengths.detach(), rtol=1e-4, atol=1e-4)
