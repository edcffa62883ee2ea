"""Certified radii and accuracies: closed forms, attacks at the boundary, refusals."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from taut.certification import as_rational, certified_radius, certify, logit_margin
from taut.certification._inputs import check_images, check_labels
from taut.certification._radius import above
from taut.program import LipschitzBound, lipschitz_bound


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear_model(k=5, n=7, seed=0):
    model = nn.Linear(n, k).double()
    with torch.no_grad():
        model.weight.copy_(random(k, n, seed=seed))
        model.bias.copy_(random(k, seed=seed + 1))
    return model


def set_of(model, n=64, features=7):
    """Points with the model's own labels, so that every one is right."""
    x = random(n, features, seed=5)
    return x, model(x).argmax(1)


def test_radius_of_a_linear_model_is_the_distance_to_the_nearest_other_class():
    model = linear_model()
    x, y = set_of(model)
    radius = certify(model, x, y).radius
    z, w = model(x), model.weight
    for i in range(len(x)):
        others = [j for j in range(5) if j != y[i]]
        gaps = [((z[i, y[i]] - z[i, j]) / (w[y[i]] - w[j]).norm()).item() for j in others]
        assert radius[i].item() == pytest.approx(min(gaps), rel=1e-9)
        assert radius[i].item() <= min(gaps)


def test_attack_just_beyond_the_radius_flips_and_just_within_does_not():
    model = linear_model()
    x, y = set_of(model)
    radius = certify(model, x, y).radius
    z, w = model(x), model.weight
    for i in range(len(x)):
        distance = (z[i, y[i]] - z[i]) / (w[y[i]] - w).norm(dim=1)
        distance[y[i]] = math.inf
        direction = w[distance.argmin()] - w[y[i]]
        direction = direction / direction.norm()
        assert model(x[i] + 1.001 * radius[i] * direction).argmax() != y[i]
        assert model(x[i] + 0.999 * radius[i] * direction).argmax() == y[i]


def test_no_attack_flips_a_deep_model_within_the_radius():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    ).double()
    x = random(20, 1, 4, 4)
    y = model(x).argmax(1)
    result = certify(model, x, y)
    assert (result.radius > 0).all()
    for seed in range(5):
        delta = random(20, 1, 4, 4, seed=seed).requires_grad_()
        for _ in range(20):
            step = delta / delta.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
            moved = x + 0.9999 * result.radius.reshape(-1, 1, 1, 1) * step
            logits = model(moved)
            assert torch.equal(logits.argmax(1), y)
            (gradient,) = torch.autograd.grad(logit_margin_sum(logits, y), delta)
            delta = (delta - gradient / gradient.norm()).detach().requires_grad_()


def logit_margin_sum(logits, labels):
    others = logits.scatter(1, labels[:, None], -math.inf).amax(1)
    return (logits.gather(1, labels[:, None]).squeeze(1) - others).sum()


def test_margin_over_root_two_rounds_down():
    logits = random(200, 4).float()
    labels = logits.argmax(1)
    radius = certified_radius(logits, labels, 1.7)
    bound = Fraction(1.7)
    for row, label, r in zip(logits.tolist(), labels.tolist(), radius.tolist(), strict=True):
        gap = min(Fraction(row[label]) - Fraction(z) for j, z in enumerate(row) if j != label)
        assert 2 * (Fraction(r) * bound) ** 2 <= gap**2
        assert r == pytest.approx(float(gap) / (math.sqrt(2) * 1.7), rel=1e-14)


@pytest.mark.parametrize(
    ("row", "label"),
    [
        ([1.0, 1.0, 0.0], 0),
        ([1.0, 1.0, 0.0], 1),
        ([0.0, 1.0, 0.0], 0),
        ([math.nan, 0.0, 0.0], 1),
        ([0.0, math.nan, 0.0], 0),
        ([math.inf, 0.0, 0.0], 0),
        ([0.0, -math.inf, 0.0], 0),
    ],
)
def test_radius_is_zero_where_wrong_or_tied_or_not_finite(row, label):
    logits = torch.tensor([row])
    assert certified_radius(logits, torch.tensor([label]), 1.0).item() == 0.0
    assert certified_radius(logits, torch.tensor([label]), 0.0).item() == 0.0


def test_constant_logits_are_certified_everywhere_but_stay_finite():
    radius = certified_radius(torch.tensor([[1.0, 0.0]]), torch.tensor([0]), 0.0)
    assert radius.isfinite().all()
    assert radius.item() > 1e300
    assert certified_radius(torch.tensor([[1.0, 0.0]]), torch.tensor([0]), math.inf).item() == 0


def test_unit_rows_do_not_make_a_map_one_lipschitz():
    """Two opposite unit rows: the margin moves at rate 2, faster than sqrt(2)."""
    model = nn.Linear(2, 2, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    x = torch.tensor([[0.5, 0.0]], dtype=torch.float64)
    result = certify(model, x, torch.tensor([0]))
    assert result.radius.item() == pytest.approx(0.5, rel=1e-9)
    assert result.radius.item() < 0.5 + 1e-12


def test_pairwise_rows_never_lose_to_root_two():
    model = linear_model()
    x, y = set_of(model)
    bound = lipschitz_bound(model, (7,))
    plain = LipschitzBound(bound.value, bound.layers)
    rows, root = certified_radius(model(x), y, bound), certified_radius(model(x), y, plain)
    assert (rows >= root).all()
    assert torch.equal(root, certified_radius(model(x), y, float(bound)))


@pytest.mark.parametrize("eps", [0.5, "1/2", "0.5", Fraction(1, 2)])
def test_inequality_is_strict_and_keys_are_kept(eps):
    exact = torch.tensor([0.5, math.nextafter(0.5, 1), math.nextafter(0.5, 0)], dtype=torch.float64)
    assert above(exact, eps).tolist() == [False, True, False]
    model = linear_model()
    x, y = set_of(model)
    assert list(certify(model, x, y, eps=(eps,)).certified_accuracy) == [eps]


def test_eps_is_compared_as_an_exact_ratio():
    for eps in ("36/255", "72/255", "0.1", "1/3", "2/3", "1.58"):
        nearest = float(Fraction(eps))
        around = [math.nextafter(nearest, 0), nearest, math.nextafter(nearest, 9)]
        want = [Fraction(r) > Fraction(eps) for r in around]
        assert above(torch.tensor(around, dtype=torch.float64), eps).tolist() == want
    radius = torch.ones(3, dtype=torch.float64)
    assert above(radius, "1" + "0" * 400).tolist() == [False] * 3


def test_accuracies_count_points():
    model = linear_model()
    x, y = set_of(model, n=600)
    y[:60] = (y[:60] + 1) % 5
    result = certify(model, x, y, eps=(0.0, 0.1, "0.3"))
    assert result.clean_accuracy == 0.9
    assert result.certified_accuracy[0.0] == 0.9
    for eps in (0.1, "0.3"):
        share = (result.radius > float(eps)).double().mean().item()
        assert result.certified_accuracy[eps] == pytest.approx(share)
    assert torch.equal(result.margin > 0, result.predictions == y)
    torch.testing.assert_close(result.margin, logit_margin(model(x), y))


def test_batches_do_not_matter_and_the_model_is_left_alone():
    model = nn.Sequential(linear_model(), nn.BatchNorm1d(5).double(), nn.Dropout()).eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x, y = set_of(model, n=300)
    whole = certify(model, x, y).radius
    parts = torch.cat(
        [certify(model, a, b).radius for a, b in zip(x.split(7), y.split(7), strict=True)]
    )
    torch.testing.assert_close(whole, parts, rtol=1e-12, atol=0)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not model.training
    assert not whole.requires_grad


def test_training_mode_is_refused_only_where_it_matters():
    model = nn.Sequential(linear_model(), nn.BatchNorm1d(5).double()).train()
    x, y = set_of(model[0])
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        certify(model, x, y)
    assert model.training
    certify(model[0].train(), x, y)


def test_json_is_canonical():
    model = linear_model()
    x, y = set_of(model)
    text = certify(model, x, y, eps=(0.1, "36/255", Fraction(1, 3))).to_json()
    assert text == certify(model, x, y, eps=(0.1, "36/255", Fraction(1, 3))).to_json()
    content = json.loads(text)
    assert set(content["certified_accuracy"]) == {"0.1", "36/255", "1/3"}
    assert content["radius"] == certify(model, x, y).radius.tolist()
    assert content["layers"][0]["type"] == "Linear"


def test_plot_is_the_certified_accuracy():
    model = linear_model()
    x, y = set_of(model)
    result = certify(model, x, y, eps=(0.1,))
    line = result.plot().lines[0]
    edges, shares = line.get_xdata(), line.get_ydata()
    at = sum(edge <= 0.1 for edge in edges) - 1
    assert shares[at] == pytest.approx(result.certified_accuracy[0.1])
    assert shares[0] == result.clean_accuracy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(0, 7).double(), "labels": torch.zeros(0).long()}, "at least one"),
        ({"images": torch.full((3, 7), math.nan).double()}, "image 0 holds NaN"),
        ({"images": torch.zeros(3, 7, dtype=torch.uint8)}, "uint8"),
        ({"images": torch.zeros(3, 7)}, r"float64.*got torch\.float32"),
        ({"labels": torch.tensor([0, 1, 9])}, r"0\.\.4"),
        ({"labels": torch.tensor([0, 1, -1])}, r"0\.\.4"),
        ({"labels": torch.tensor([0, 1])}, "one per image"),
        ({"labels": torch.tensor([0.0, 1.0, 2.0])}, "int64"),
        ({"eps": (-0.1,)}, "eps"),
        ({"eps": ("a lot",)}, "eps"),
        ({"eps": (math.nan,)}, "eps"),
        ({"eps": ("1/0",)}, "eps"),
        ({"input_shape": (8,)}, r"\(n, 8\)"),
        ({"model": nn.Sequential(nn.Linear(7, 5), nn.Softmax(1)).double()}, "Softmax"),
        ({"model": nn.Linear(7, 1).double()}, r"0\.\.1"),
        (
            {"model": nn.Conv1d(1, 2, 1).double(), "images": torch.ones(3, 1, 7).double()},
            "one answer",
        ),
        ({"images": torch.zeros(3, 7).half()}, r"float64.*got torch\.float16"),
    ],
)
def test_wrong_arguments_are_one_sentence(change, message):
    arguments = {
        "model": linear_model(),
        "images": torch.zeros(3, 7, dtype=torch.float64),
        "labels": torch.tensor([0, 1, 2]),
    } | change
    with pytest.raises(ValueError, match=message) as caught:
        certify(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [np.zeros((3, 7)), np.array([None, 1, 2]), [0, 1, 2]])
def test_what_is_no_tensor_is_refused_by_its_type(value):
    kind = "list" if isinstance(value, list) else r"numpy\.ndarray"
    with pytest.raises(ValueError, match=f"`images` must be a torch.Tensor; got {kind}"):
        check_images(value, (7,), torch.zeros(1))
    with pytest.raises(ValueError, match=f"`labels` must be a torch.Tensor; got {kind}"):
        check_labels(value, 3)


@pytest.mark.parametrize("bound", [math.nan, -1.0])
def test_bounds_that_cannot_be_are_refused(bound):
    with pytest.raises(ValueError, match="bound"):
        certified_radius(torch.eye(2), torch.tensor([0, 1]), bound)


@pytest.mark.parametrize("eps", ["1e999999999", "1e-999999999", "1/0", "nan", "-1", "x", ""])
def test_wrong_eps_is_refused_at_once(eps):
    with pytest.raises(ValueError, match="`eps` must be a number"):
        as_rational(eps)
