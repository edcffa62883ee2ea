"""Last layers: constants of pairs through whatever follows the matrix, against dense operators."""

import json
import math

import jaxtyping
import pytest
import torch
from torch import nn

import forgery
import taut
from taut.certification import certify, verifier
from taut.program import head_of, trace


class Scaled(nn.Module):
    """A matrix, and behind it all factors of outputs that there are."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.ReLU())
        self.last, self.norm = taut.nn.UnitRowLinear(6, 4), nn.BatchNorm1d(4)
        self.register_buffer("scale", torch.tensor(3.0))
        self.register_buffer("each", torch.tensor([0.5, 2.0, -0.7, 1.0]))
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        z = self.last(self.body(x)) * self.scale / 0.3 + self.each
        return self.norm(-z * self.each).reshape(-1, 4, 1).squeeze(-1)

    def rows(self):
        factors = -self.scale / 0.3 * self.each.double()
        factors = factors / (self.norm.running_var.double() + self.norm.eps).sqrt()
        return self.last.weight.double() * factors[:, None]


class Convolved(nn.Module):
    """A convolution whose image is one place, with zeros at the border, and a temperature."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU())
        self.last = nn.Conv2d(5, 4, (3, 2), stride=2, padding=(1, 0))
        self.last.weight.data += torch.randn(1, 5, 3, 2)  # what all rows have parts no classes

    def forward(self, x):
        return (self.last(self.body(x)) / 0.25).flatten(1)

    def rows(self):
        return self.last.weight.double().flatten(1) / 0.25


MODELS = {"scaled": Scaled, "convolved": Convolved}
SHAPE = (3, 2, 2)


def made(name):
    torch.manual_seed(0)
    return MODELS[name]().eval().requires_grad_(False)


def answered(model, folder, arithmetic="float64"):
    x = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(1)) - 0.3
    labels = model(x).argmax(1)
    result = certify(model, x, labels, 0.001, arithmetic=arithmetic)
    return result, *result.save(folder / "certificate.json"), forgery.points_file(folder, x)


@pytest.mark.parametrize("name", MODELS)
def test_rows_are_those_of_the_affine_map_behind_the_features(name):
    model = made(name)
    head = head_of(trace(model, SHAPE))
    assert head is not None
    torch.testing.assert_close(head.rows, model.rows(), rtol=1e-12, atol=0)
    features = float(taut.lipschitz_bound(model.body, SHAPE))
    for bound in (taut.lipschitz_bound(model, SHAPE), taut.certification.prove(model, SHAPE).bound):
        expected = torch.cdist(model.rows(), model.rows()) * features
        most = torch.minimum(expected, torch.tensor(math.sqrt(2) * float(bound)))
        assert bool((bound.pairwise >= most.fill_diagonal_(0.0) * (1 - 1e-12)).all())
        torch.testing.assert_close(bound.pairwise, most, rtol=1e-6, atol=1e-9)
        # Sharper than all outputs as one map.
        assert float(bound.pairwise.sum()) < 0.95 * 12 * math.sqrt(2) * float(bound)


@pytest.mark.parametrize("name", MODELS)
def test_no_pair_of_inputs_moves_logits_faster(name):
    """Pairs of near points and ascent of the quotient: none above its constant."""
    model = made(name).double()
    constants = taut.certification.prove(model, SHAPE).bound.pairwise
    torch.manual_seed(2)
    x = torch.randn(400, *SHAPE, dtype=torch.float64)
    direction = torch.randn_like(x)
    for i, j in ((0, 1), (2, 0), (3, 1)):
        for _ in range(15):  # power iteration of the Jacobian of z_i - z_j
            x.requires_grad_()
            z = model(x)
            (direction,) = torch.autograd.grad((z[:, i] - z[:, j]).sum(), x)
            x = x.detach()
            size = direction.flatten(1).norm(dim=1)[:, None, None, None]
            step = 1e-4 * direction / size.clamp(min=1e-30)
            moved = model(x + step) - model(x)
            quotient = (moved[:, i] - moved[:, j]).abs() / 1e-4
            assert float(quotient.max()) <= float(constants[i, j]) * (1 + 1e-6)
            x = x + 0.3 * step / 1e-4
    assert float(quotient.max()) > 0.3 * float(constants[3, 1])


@pytest.mark.parametrize("arithmetic", ["float64", "float32"])
@pytest.mark.parametrize("name", MODELS)
def test_both_verifiers_prove_the_constants_of_pairs(name, arithmetic, tmp_path):
    result, path, weights, points = answered(made(name), tmp_path, arithmetic)
    assert float(result.radius.min()) > 0
    assert taut.verify(path, weights).bound == float(result.bound)
    assert "clean accuracy 1.0" in verifier.verify(path, weights, points)


@pytest.mark.parametrize("name", MODELS)
def test_forged_constants_are_refused(name, tmp_path):
    _, path, weights, _ = answered(made(name), tmp_path)
    honest = json.loads(path.read_text())
    for i, j, factor in ((0, 1, 1 - 1e-9), (3, 2, 0.5), (1, 3, -1.0)):
        forged = json.loads(json.dumps(honest))
        forged["pairwise"][i][j] *= factor
        path.write_text(json.dumps(forged))
        with pytest.raises(verifier.Refused):
            verifier.verify(path, weights)
        with pytest.raises(ValueError, match=r"classes|canonical|proven"):
            taut.verify(path, weights)


@pytest.mark.parametrize("name", MODELS)
def test_no_attack_changes_a_prediction_within_its_radius(name):
    model = made(name).double()
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(20, *SHAPE, generator=generator, dtype=torch.float64) - 0.3
    labels = model(x).argmax(1)
    radius = certify(model, x, labels, 0.001).radius
    start, side = x, radius[:, None, None, None]
    for step in range(200):
        moved = x.requires_grad_()
        z = model(moved)
        others = z.scatter(1, labels[:, None], -math.inf).amax(1)
        (gradient,) = torch.autograd.grad(
            (others - z.gather(1, labels[:, None])[:, 0]).sum(), moved
        )
        size = gradient.flatten(1).norm(dim=1)[:, None, None, None].clamp(min=1e-30)
        change = moved.detach() + 0.2 * side * gradient / size - start
        norm = change.flatten(1).norm(dim=1)[:, None, None, None].clamp(min=1e-30)
        x = start + change * (side * (1 - 1e-12) / norm).clamp(max=1)
        assert bool((model(x).argmax(1) == labels).all()), step
    # The attack would succeed a little further out for some: radii are no trifles.
    far = start + (x - start) * 4
    assert bool((model(far).argmax(1) != labels).any())


def test_what_is_no_matrix_has_no_constants_of_pairs():
    torch.manual_seed(0)
    linear = nn.Linear(6, 4)
    for last in (nn.Tanh(), nn.Softmax(1), nn.Unflatten(1, (2, 2))):
        bound = taut.lipschitz_bound(nn.Sequential(linear, last), (6,))
        assert bound.pairwise is None
    circular = nn.Conv2d(3, 4, 3, stride=2, padding=1, padding_mode="circular")
    bound = taut.lipschitz_bound(nn.Sequential(circular, nn.Flatten()), (3, 2, 2))
    assert bound.pairwise is None


def test_a_head_or_logits_that_are_no_numbers_have_no_radius(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    logits, labels = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
    for wrong in (torch.eye(2) + 0j, torch.eye(2).long(), torch.zeros(2, 0), torch.eye(3)):
        with pytest.raises(
            ValueError, match=r"`head` must be (of a floating-point dtype|a matrix)"
        ):
            taut.certified_radius(logits, labels, 1.0, head=wrong)
    for wrong in (logits + 0j, logits.long(), logits.bool()):
        with pytest.raises(ValueError, match="`logits` must be of a floating-point dtype"):
            taut.certified_radius(wrong, labels, 1.0)
    with pytest.raises(ValueError, match="`bound` must be a number >= 0"):
        taut.certified_radius(logits, labels, 10**400)
