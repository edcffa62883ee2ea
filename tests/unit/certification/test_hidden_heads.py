"""Classifiers that end in one hidden layer: radii by curvature, against attacks and searches."""

import json
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import taut
from taut.certification import certify, predict, prove
from taut.certification._curvature import curved_head
from taut.program import canonical, head_of, operation, trace

ACTIVATIONS = {
    "softplus": nn.Softplus(),
    "softplus beta": nn.Softplus(3.0),
    "tanh": nn.Tanh(),
    "sigmoid": nn.Sigmoid(),
    "log sigmoid": nn.LogSigmoid(),
    "silu": nn.SiLU(),
    "gelu": nn.GELU(),
}


def net(name, inputs=2, classes=3, scale=2.0):
    """1-Lipschitz features, a hidden layer that is not."""
    torch.manual_seed(0)
    model = nn.Sequential(
        taut.nn.Linear(inputs, 8),
        taut.nn.MaxMin(),
        nn.Linear(8, 12),
        ACTIVATIONS[name],
        nn.Linear(12, classes),
    )
    with torch.no_grad():
        model[2].weight.mul_(scale)
        model[4].weight.mul_(scale)
        model.double()[4].bias -= model(points(60, inputs)).mean(0)  # all classes win
    return model.eval().requires_grad_(False)


def points(n, inputs=2):
    return torch.randn(n, inputs, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_curvatures_are_those_of_a_fine_grid(name):
    """Every second derivative is inside, and both ends are attained."""
    (node,) = trace(ACTIVATIONS[name], (1,)).sites()
    low, high = operation(node).curvatures(node)
    x = torch.linspace(-14, 14, 280_001, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(ACTIVATIONS[name](x).sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), x)
    assert low <= float(bend.min())
    assert float(bend.max()) <= high
    assert math.isclose(low, float(bend.min()), rel_tol=1e-4, abs_tol=1e-5)
    assert math.isclose(high, float(bend.max()), rel_tol=1e-4, abs_tol=1e-5)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_curvature_bounds_every_hessian(name):
    model = net(name, 6)
    certificate = prove(model, (6,), arithmetic="real")
    head = certificate.curved
    assert head is not None
    assert 1 - 1e-6 < head.features < 1 + 1e-5
    tail, most = model[2:], torch.zeros(3, 3, dtype=torch.float64)
    for f in 3 * torch.randn(15, 8, dtype=torch.float64):
        for i, j in ((0, 1), (2, 0)):
            sign = F.one_hot(torch.tensor(i), 3) - F.one_hot(torch.tensor(j), 3)
            hessian = torch.autograd.functional.hessian(lambda f, v=sign: (tail(f) * v).sum(), f)
            most[i, j] = max(most[i, j], -torch.linalg.eigvalsh(hessian)[0])
    used = most > 0
    assert bool((head.curvature >= most)[used].all())
    assert bool((head.curvature[used] < 8 * most[used]).any())  # of its size


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_radii_are_sharper_and_below_the_true_distance(name):
    """The nearest point of another class, by a fine search over all directions and lengths."""
    model, x = net(name), points(60)
    labels = model(x).argmax(1)
    result = certify(model, x, labels, 0.01, arithmetic="real")
    margins = taut.certified_radius(model(x), labels, result.bound)
    assert bool((result.radius >= margins).all())
    assert bool((result.radius > 1.2 * margins).any())
    angles = torch.linspace(0, 2 * math.pi, 721, dtype=torch.float64)
    directions = torch.stack([angles.cos(), angles.sin()], 1)

    def kept(share):
        """Which points keep their class at a share of their radius, in all directions."""
        near = x[:, None] + share * result.radius[:, None, None] * directions
        answers = model(near.flatten(0, 1)).argmax(1).unflatten(0, near.shape[:2])
        return (answers == labels[:, None]).all(1)

    for share in (0.5, 0.9, 0.999, 1 - 1e-9):
        assert bool(kept(share).all())
    assert not bool(kept(3.0).all())  # radii are no trifles


@pytest.mark.parametrize("name", ["softplus", "tanh", "silu"])
def test_no_ascent_leaves_the_class_within_a_radius(name):
    model, x = net(name, 6, 5), points(80, 6)
    labels = model(x).argmax(1)
    radius = certify(model, x, labels, 0.01, arithmetic="real").radius[:, None]
    moved = x + 1e-3 * radius * F.normalize(points(80, 6).flip(0))
    for _ in range(150):
        moved.requires_grad_()
        z = model(moved)
        others = z.scatter(1, labels[:, None], -math.inf).amax(1)
        lead = others - z.gather(1, labels[:, None])[:, 0]
        (gradient,) = torch.autograd.grad(lead.sum(), moved)
        change = moved.detach() + 0.1 * radius * F.normalize(gradient) - x
        length = change.norm(dim=1, keepdim=True)
        moved = x + change * (radius * (1 - 1e-9) / length.clamp(min=1e-300)).clamp(max=1)
        assert bool((model(moved).argmax(1) == labels).all())


def test_the_radius_is_the_way_over_which_the_margin_falls():
    """Against an integral of the slope in small steps."""
    model, x = net("softplus", 6), points(20, 6)
    certificate = prove(model, (6,), arithmetic="real")
    head, z = certificate.curved, model(x)
    labels = z.argmax(1)
    found = certificate.curved_radii(z, labels, x)
    hidden = model[:3](x)
    for n in range(20):
        i = int(labels[n])
        for j in range(3):
            if i == j:
                assert found[n, j] == math.inf
                continue
            v = model[4].weight[i] - model[4].weight[j]
            slope = float((model[2].weight.T @ (torch.sigmoid(hidden[n]) * v)).norm())
            most, bend = float(certificate.bound.pairwise[i, j]), float(head.curvature[i, j])
            left, way, step = float(z[n, i] - z[n, j]), 0.0, 1e-4
            while left > 0:
                left -= step * min(slope + bend * way, most)
                way += step
            assert math.isclose(way, float(found[n, j]), rel_tol=1e-3, abs_tol=3e-4)


def test_predictions_wrong_answers_and_many_classes():
    model, x = net("softplus"), points(30)
    labels = model(x).argmax(1)
    wrong = certify(model, x, (labels + 1) % 3, 0.01, arithmetic="real")
    assert not bool(wrong.radius.any())
    found = predict(model, x, arithmetic="real")
    torch.testing.assert_close(
        found.radius, certify(model, x, labels, 0.01, arithmetic="real").radius
    )
    # Changes of single entries are bounded by the constants alone.
    masked = predict(model, x, arithmetic="real", mask=torch.ones(2))
    assert bool((masked.radius <= found.radius * (1 + 1e-6)).all())
    many = net("tanh", 4, 40)
    head = curved_head(trace(many, (4,)), {name: 1.0 for name in [*"0123"]})
    exact = curved_head(trace(net("tanh", 4, 5), (4,)), {name: 1.0 for name in [*"0123"]})
    assert head.curvature.shape == (40, 40)
    assert exact.curvature.diagonal().max() == 0
    x = points(20, 4)
    assert certify(many, x, many(x).argmax(1), 0.01, arithmetic="real").radius.min() > 0


def test_files_of_curved_radii_are_verified(tmp_path):
    model, x = net("softplus"), points(10)
    labels = model(x).argmax(1)
    result = certify(model, x, labels, 0.01, arithmetic="real")
    assert taut.verify(*result.save(tmp_path / "a.json")).bound == float(result.bound)
    found = predict(model, x, arithmetic="real")
    assert taut.verify(*found.save(tmp_path / "b.json")).bound == float(result.bound)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_radii_above_what_any_slope_allows_are_refused(name, tmp_path):
    model, x = net(name), points(10)
    result = certify(model, x, model(x).argmax(1), 0.01, arithmetic="real")
    found = predict(model, x, arithmetic="real")
    for proved, key in ((result, "radius"), (found, "radii")):
        certificate, weights = proved.save(tmp_path / f"{key}.json")
        taut.verify(certificate, weights)
        file = json.loads(certificate.read_text())
        rows = file[key] if key == "radii" else [file[key]]
        rows[0][:] = [None if value is None else 1e3 + value for value in rows[0]]
        certificate.write_text(canonical(file))
        with pytest.raises(ValueError, match="larger than its margin allows"):
            taut.verify(certificate, weights)


def test_other_last_layers_have_no_curvature():
    torch.manual_seed(0)
    for layer in (nn.ReLU(), taut.nn.MaxMin(), nn.GELU("tanh"), nn.Identity()):
        model = nn.Sequential(nn.Linear(4, 6), layer, nn.Linear(6, 3))
        assert prove(model, (4,), arithmetic="real").curved is None
    single = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))
    assert prove(single, (4,), arithmetic="real").curved is None
    assert head_of(trace(single, (4,))) is not None


def test_a_last_convolution_that_shifts_its_taps_has_no_curvature():
    """The second unit is saturated, and no tap of its number reads it."""
    inner, last = nn.Linear(3, 3), nn.Conv1d(1, 2, 3, 3, padding=1)
    with torch.no_grad():
        inner.weight.copy_(torch.diag(torch.tensor([1.0, 0.0, 1.0])))
        inner.bias.copy_(torch.tensor([0.0, 20.0, 0.0]))
        last.weight.copy_(torch.tensor([[[0.0, 1.0, 0.0]], [[0.0, -1.0, 0.0]]]))
        last.bias.zero_()
    model = nn.Sequential(inner, nn.Tanh(), nn.Unflatten(1, (1, 3)), last, nn.Flatten())
    model = model.double().eval().requires_grad_(False)
    x = torch.tensor([[0.5, 0.0, 0.0]], dtype=torch.float64)
    result = certify(model, x, model(x).argmax(1), 0.01, arithmetic="real")
    assert result.radius < 0.5  # at 0 the classes are even


@pytest.mark.parametrize("geometry", [(2, 3, 0), (3, 3, 1), (3, 1, 0), (5, 1, 1)])
def test_a_last_convolution_is_certified(geometry):
    torch.manual_seed(0)
    layers = nn.Unflatten(1, (4, 3)), nn.Conv1d(4, 3, *geometry), nn.Flatten()
    model = nn.Sequential(*net("tanh")[:4], *layers).double().eval().requires_grad_(False)
    x = points(40)
    labels = model(x).argmax(1)
    result = certify(model, x, labels, 0.01, arithmetic="real")
    curved = prove(model, (2,), arithmetic="real").curved is not None
    assert curved == (geometry == (3, 1, 0))
    angles = torch.linspace(0, 2 * math.pi, 361, dtype=torch.float64)
    near = x[:, None] + result.radius[:, None, None] * torch.stack([angles.cos(), angles.sin()], 1)
    answers = model(near.flatten(0, 1)).argmax(1).unflatten(0, near.shape[:2])
    assert bool((answers == labels[:, None]).all())
