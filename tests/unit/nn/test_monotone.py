"""Monotone nets: the proved slopes hold under search, in exact numbers and in every file."""

import copy
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import proven
import taut
from taut.export import export, load
from taut.nn import Linear, MaxMin, Monotone, Times, UnitColumnLinear

DIRECTIONS = [1, 0, -1, 1, 1]


def net(features: int = 5, outputs: int = 1, first=UnitColumnLinear, **options) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        first(features, 12, **options), MaxMin(),
        Linear(12, 12, **options), MaxMin(),
        Linear(12, outputs, **options),
    )  # fmt: skip


def quotients(g: nn.Module, x: Tensor, feature: int, t: float) -> Tensor:
    """Difference quotients in one feature, `(batch, outputs)`."""
    g, moved = taut.freeze(g), x.clone()
    moved[:, feature] += t
    with torch.no_grad():
        return (g(moved) - g(x)) / t


def steepest(g: nn.Module, feature: int, features: int, sign: float) -> float:
    """The extreme slope in a feature that a gradient search finds over 64 starts."""
    torch.manual_seed(1)
    g = taut.freeze(g)
    x = torch.randn(64, features, dtype=torch.float64).requires_grad_()
    optimiser = torch.optim.Adam([x], lr=0.05)
    best = -math.inf
    for _ in range(40):
        step = torch.zeros_like(x)
        step[:, feature] = 0.3
        quotient = sign * (g(x + step) - g(x)).sum(1) / 0.3
        best = max(best, quotient.max().item())
        optimiser.zero_grad()
        (-quotient.sum()).backward()
        optimiser.step()
    return sign * best


@pytest.mark.parametrize("first", [Linear, UnitColumnLinear])
def test_no_search_finds_a_slope_outside_of_the_proved_interval(first):
    g = Monotone(net(first=first, dtype=torch.float64), DIRECTIONS, dtype=torch.float64)
    found = taut.slopes(g, (5,))
    assert found.nondecreasing == (0, 3, 4)
    assert found.nonincreasing == (2,)
    x = 3 * torch.randn(400, 5, dtype=torch.float64)
    for feature, sign in enumerate(DIRECTIONS):
        lower, upper = found.lower[feature].item(), found.upper[feature].item()
        assert upper - lower == pytest.approx(2, abs=1e-4)
        assert (lower + upper) / 2 == pytest.approx(sign, abs=1e-2)
        searched = [steepest(g, feature, 5, s) for s in (-1.0, 1.0)]
        seen = torch.cat([quotients(g, x, feature, t) for t in (1e-3, 1.0, 20.0)])
        assert lower - 1e-9 <= min(searched[0], seen.min().item())
        assert max(searched[1], seen.max().item()) <= upper + 1e-9
    # The search is one that finds something: the middle of the interval is left.
    assert steepest(g, 0, 5, -1.0) < 0.7


def test_a_constant_below_the_slopes_proves_nothing_and_is_not_monotone():
    f = nn.Sequential(*net(dtype=torch.float64), Times(3.0))
    for constant, expected in ((3.0, (0, 3, 4)), (0.5, ())):
        g = Monotone(f, DIRECTIONS, constant, dtype=torch.float64)
        assert taut.slopes(g, (5,)).nondecreasing == expected
    assert steepest(g, 0, 5, -1.0) < -0.05


def test_a_net_that_is_monotone_on_a_grid_of_all_differences():
    f = net(2, dtype=torch.float64)
    g = Monotone(f, [1, -1], dtype=torch.float64)
    line = torch.linspace(-2, 2, 81, dtype=torch.float64)
    with torch.no_grad():
        values = g(torch.cartesian_prod(line, line)).reshape(81, 81)
    assert (values.diff(dim=0) >= 0).all()
    assert (values.diff(dim=1) <= 0).all()
    assert values.diff(dim=0).max() <= taut.slopes(g, (2,)).upper[0] * 0.05 + 1e-12


class Rational:
    """A frozen net of matrices and MaxMin behind `Monotone`, in exact rationals."""

    def __init__(self, g: Monotone) -> None:
        self.layers = [
            ([[Fraction(v) for v in row] for row in m.weight.tolist()],
             [Fraction(v) for v in m.bias.tolist()])
            for m in taut.freeze(g).model if isinstance(m, nn.Linear)
        ]  # fmt: skip
        self.coefficients = [Fraction(v) for v in g.coefficients[0].tolist()]

    def __call__(self, x: tuple[Fraction, ...]) -> Fraction:
        y = list(x)
        for place, (weight, bias) in enumerate(self.layers):
            y = [sum(w * v for w, v in zip(row, y, strict=True)) + b
                 for row, b in zip(weight, bias, strict=True)]  # fmt: skip
            if place < len(self.layers) - 1:
                pairs = list(zip(y[: len(y) // 2], y[len(y) // 2 :], strict=True))
                y = [max(pair) for pair in pairs] + [min(pair) for pair in pairs]
        return y[0] + sum(c * v for c, v in zip(self.coefficients, x, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exact_differences_lie_in_the_interval(dtype):
    torch.manual_seed(0)
    f = nn.Sequential(UnitColumnLinear(2, 4), MaxMin(), Linear(4, 4), MaxMin(), Linear(4, 1))
    g = Monotone(f, [1, 0], 1.0).to(dtype)
    exact, found = Rational(g), taut.slopes(g, (2,))
    assert found.nondecreasing == (0,)
    steps = [Fraction(n, 3) for n in range(-6, 7)]
    values = {point: exact(point) for point in itertools.product(steps, steps)}
    for feature in (0, 1):
        lower, upper = Fraction(found.lower[feature].item()), Fraction(found.upper[feature].item())
        for point, value in values.items():
            after = list(point)
            after[feature] += Fraction(1, 3)
            change = (values.get(tuple(after)) or exact(tuple(after))) - value
            assert lower / 3 <= change <= upper / 3


@pytest.mark.parametrize("arithmetic", ["float32", "float64"])
def test_computed_outputs_fall_by_rounding_alone(arithmetic):
    dtype = getattr(torch, arithmetic)
    g = Monotone(net(), DIRECTIONS).to(dtype)
    found = taut.slopes(g, (5,), arithmetic=arithmetic)
    assert found.nondecreasing == (0, 3, 4)
    torch.manual_seed(2)
    x = 10 * torch.randn(4000, 5, dtype=dtype)
    falls = []
    for t in (0.0, 1e-7, 1e-5, 1e-3):
        moved = x.clone()
        moved[:, 0] += t
        with torch.no_grad():
            fall = (g(x) - g(moved)).double()[:, 0]
        assert (fall <= found.rounding(x) + found.rounding(moved)).all()
        falls.append(fall.max().item())
    if arithmetic == "float32":
        assert max(falls) > 0  # it does fall: monotone in real numbers, and up to rounding
    assert found.rounding(x).max() < (1e-3 if arithmetic == "float32" else 1e-11)
    assert (taut.slopes(g, (5,)).rounding(x) == 0).all()
    if arithmetic == "float32":  # where sums overflow nothing is proved
        assert found.rounding(torch.full((1, 5), 1e38, dtype=dtype)).item() == math.inf


def test_slopes_of_linear_models_are_their_coefficients(monkeypatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)  # as users run it
    layer = nn.Linear(4, 3).double()
    found = taut.slopes(layer, (4,))
    torch.testing.assert_close(found.lower, layer.weight.detach(), rtol=0, atol=1e-14)
    assert (found.lower <= layer.weight).all()
    assert (layer.weight <= found.upper).all()
    chosen = taut.slopes(layer, (4,), features=(np.int64(1),))
    assert torch.equal(chosen.upper[:, 1], found.upper[:, 1])
    assert (chosen.upper[:, 0] == math.inf).all()


@pytest.mark.parametrize("scale", [1.0, 1e6, 1e-6])
def test_slopes_bound_the_columns_of_jacobians(scale):
    torch.manual_seed(3)
    f = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
    with torch.no_grad():
        f[0].weight *= scale * torch.logspace(0, -12, 8)[:, None]
        f[0].weight[:, 3] = 0
    f = f.double()
    found = taut.slopes(f, (4,))
    for x in torch.randn(50, 4, dtype=torch.float64) / scale:
        jacobian = torch.autograd.functional.jacobian(f, x)
        assert (jacobian <= found.upper * (1 + 1e-12)).all()
        assert (jacobian >= found.lower * (1 + 1e-12)).all()
    assert found.nondecreasing == found.nonincreasing == ()  # of all outputs; column 3 is tiny
    assert found.upper[:, 3].max() < 1e-12 * scale
    norms = torch.linalg.multi_dot([f[4].weight, f[2].weight, f[0].weight]).norm(dim=0)
    assert (found.upper[0] >= 0.1 * norms * (1 - 1e-9)).all()


class Wild(nn.Module):
    """Sums written by hand, with factors, a normalisation, and the input itself."""

    def __init__(self) -> None:
        super().__init__()
        self.f = net(dtype=torch.float64)
        self.register_buffer("std", torch.tensor([0.5, 1, 2, 4, 8], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        z = (x - 1.0) / self.std
        return 2 * (z[:, :1] - self.f(z) + 3.0) - z[:, 4:5]


def test_sums_written_by_hand_are_followed():
    found = taut.slopes(Wild(), (5,))
    widths = 2 / torch.tensor([0.5, 1, 2, 4, 8], dtype=torch.float64)
    middle = torch.tensor([4.0, 0, 0, 0, -0.125], dtype=torch.float64)
    torch.testing.assert_close(found.lower, middle - widths, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.upper, middle + widths, rtol=1e-5, atol=1e-5)
    g = Wild()
    x = torch.randn(200, 5, dtype=torch.float64)
    for feature in range(5):
        seen = quotients(g, x, feature, 0.1)
        assert found.lower[feature] - 1e-9 <= seen.min()
        assert seen.max() <= found.upper[feature] + 1e-9


def test_several_outputs_share_the_directions():
    g = Monotone(net(outputs=3, dtype=torch.float64), DIRECTIONS, dtype=torch.float64)
    found = taut.slopes(g, (5,))
    assert found.lower.shape == (3, 5)
    assert found.nondecreasing == (0, 3, 4)
    x = torch.randn(500, 5, dtype=torch.float64)
    assert (quotients(g, x, 0, 0.5) >= 0).all()
    assert (quotients(g, x, 2, 0.5) <= 0).all()


def test_each_feature_may_have_a_constant_of_its_own():
    scales = [4.0, 1.0, 0.25, 1.0, 2.0]
    f = net(dtype=torch.float64)
    g = Monotone(f, DIRECTIONS, scales, dtype=torch.float64)
    torch.testing.assert_close(
        g.coefficients[0] / (1 + 2.0**-10),
        torch.tensor([4.0, 0.0, -0.25, 1.0, 2.0], dtype=torch.float64),
    )
    assert taut.slopes(g, (5,)).nondecreasing == (0, 3, 4)
    assert taut.slopes(g, (5,)).nonincreasing == ()  # 0.25 is not enough


def test_any_net_becomes_monotone_with_its_own_slopes():
    torch.manual_seed(0)
    f = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1)).double()
    g = Monotone(f, [1, -1, 1], taut.slopes(f, (3,)).upper, dtype=torch.float64)
    found = taut.slopes(g, (3,))
    assert (found.nondecreasing, found.nonincreasing) == ((0, 2), (1,))
    for feature, sign in enumerate((1, -1, 1)):
        lower, upper = found.lower[feature].item(), found.upper[feature].item()
        assert lower <= steepest(g, feature, 3, -sign) <= upper
        assert sign * steepest(g, feature, 3, -sign) > 0


def test_flat_in_all_features_is_possible_with_unit_columns_alone():
    """A slope of -1 in each feature at once has norm root n, which no 1-Lipschitz net has."""
    f = nn.Sequential(UnitColumnLinear(3, 2), nn.Linear(2, 1, bias=False)).double()
    f[0].weight = torch.tensor([[1.0, 1, 1], [0, 0, 0]], dtype=torch.float64)
    with torch.no_grad():
        f[1].weight.copy_(torch.tensor([[-1.0, 0.0]]))
    g = Monotone(f, [1, 1, 1], dtype=torch.float64)
    x = torch.randn(5, 3, dtype=torch.float64)
    assert quotients(g, x, 1, 1.0).abs().max() < 2e-3
    assert float(taut.lipschitz_bound(f, (3,))) == pytest.approx(3**0.5)
    assert taut.slopes(f, (3,)).lower == pytest.approx(torch.full((3,), -1.0).double())


def test_training_keeps_it_monotone():
    torch.manual_seed(0)
    g = Monotone(net(), DIRECTIONS)
    x = torch.randn(256, 5)
    y = x.sum(1, keepdim=True).sin()
    first = nn.functional.mse_loss(g(x), y).item()
    optimiser = torch.optim.Adam(g.parameters(), lr=1e-2)
    for _ in range(100):
        optimiser.zero_grad()
        loss = nn.functional.mse_loss(g(x), y)
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.8 * first
    found = taut.slopes(g, (5,))
    assert (found.nondecreasing, found.nonincreasing) == ((0, 3, 4), (2,))


def test_the_bound_of_the_sum_is_the_sum_of_the_bounds():
    f = net(first=Linear, dtype=torch.float64)
    g = Monotone(f, DIRECTIONS, dtype=torch.float64)
    bound = float(taut.lipschitz_bound(g, (5,)))
    assert bound == pytest.approx(1 + 2 * (1 + 2.0**-10), rel=1e-6)
    assert (proven.jacobians(g, (5,)) <= bound).all()


def test_it_is_frozen_certified_and_exported(tmp_path):
    g = Monotone(net(outputs=2), DIRECTIONS)
    proven.assert_certified(g, (5,), tmp_path)
    proven.assert_files_agree(g, (5,), tmp_path)
    for path in ("model.onnx", "model.pt2", "model.safetensors"):
        export(taut.freeze(g), tmp_path / path, (5,))
        found = taut.slopes(load(tmp_path / path)[0], (5,))
        assert (found.nondecreasing, found.nonincreasing) == ((0, 3, 4), (2,)), path


def test_it_is_used_as_a_module_of_torch(monkeypatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)  # as users run it
    g = Monotone(net(), np.array([1, 0, -1, 1, 1]), np.float32(2.0))
    assert next(iter(g.state_dict())) == "coefficients"
    other = copy.deepcopy(g)
    with torch.no_grad():
        other.coefficients.zero_()
    other.load_state_dict(g.state_dict())
    x = torch.randn(3, 5)
    assert torch.equal(other(x), g(x))
    assert repr(g).startswith("Monotone(\n  directions=[1, 0, -1, 1, 1]")
    single = Monotone(nn.Linear(5, 1), DIRECTIONS)
    torch.testing.assert_close(single(x[0]), single(x)[0])
    assert single.double()(x.double()).dtype == torch.float64


@pytest.mark.parametrize(("dtype", "above"), [(torch.float64, 1e-15), (torch.float32, 3e-7)])
@pytest.mark.parametrize("kind", ["gaussian", "huge", "tiny", "12 decades", "zero"])
def test_columns_have_norm_1_and_finite_gradients(kind, dtype, above):
    layer = UnitColumnLinear(4, 6, dtype=dtype)
    factor = {"huge": 1e36, "tiny": 1e-36, "zero": 0.0}.get(kind, 1.0)
    with torch.no_grad():
        raw = layer.parametrization.raw_columns.normal_().mul_(factor)
        if kind == "12 decades":
            raw *= torch.logspace(0, -12, 4, dtype=dtype)
    weight = layer.weight
    assert (weight.double().norm(dim=0) - 1).abs().max() <= above
    (weight * torch.randn_like(weight)).sum().backward()
    assert layer.parametrization.raw_columns.grad.isfinite().all()
    assert type(taut.freeze(layer)) is nn.Linear
    found = taut.slopes(layer, (4,))
    assert (found.lower <= weight).all()
    layer.weight = weight.detach()
    torch.testing.assert_close(layer.weight, weight)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((nn.Linear, [1]), "`model` must be a torch.nn.Module; got type"),
        ((nn.Linear(1, 1), [2]), r"`directions` must be 1, 0 or -1 for each feature; got \[2\]"),
        ((nn.Linear(1, 1), []), "`directions` must be"),
        ((nn.Linear(1, 1), 3), "`directions` must be"),
        ((nn.Linear(1, 1), [1], 0.0), "`constant` must be a positive number or 1 of them; got 0.0"),
        ((nn.Linear(1, 1), [1], [1.0, 2.0]), "`constant` must be a positive number or 1 of them"),
        ((nn.Linear(1, 1), [1], math.inf), "`constant` must be a positive number"),
        ((nn.Linear(1, 1), [1], None), "`constant` must be a positive number"),
        ((nn.Linear(1, 1), [1], torch.tensor(-1.0)), "`constant` must be a positive number"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message, monkeypatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)  # as users run it
    with pytest.raises(ValueError, match=message):
        Monotone(*arguments)


def test_wrong_sizes_and_unproven_models_are_refused():
    with pytest.raises(ValueError, match=r"`input` must have 2 features, one a direction; got"):
        Monotone(nn.Linear(3, 1), [1, 1])(torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"`input` must have 2 features, one a direction; got"):
        Monotone(nn.Linear(2, 1), [1, 1])(torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"`model` must map \(batch, features\) to"):
        Monotone(nn.Flatten(0), [1, 1])(torch.zeros(1, 2))
    with pytest.raises(taut.program.UnprovenError):
        taut.slopes(Monotone(nn.Sequential(nn.Linear(2, 2), Cube()), [1, 1]), (2,))
    with pytest.raises(ValueError, match="`features` must be below 2; got 2"):
        taut.slopes(nn.Linear(2, 1), (2,), features=(2,))
    found = taut.slopes(nn.Linear(2, 1), (2,), arithmetic="float32")
    for shape in ((1, 3), (2,)):
        with pytest.raises(ValueError, match=r"`inputs` must be \(n, 2\); got"):
            found.rounding(torch.zeros(shape))
    coefficients = Monotone(nn.Linear(2, 1), [1, 1], torch.tensor(2.0)).coefficients
    assert (coefficients > 2).all()


class Cube(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x * x
