"""Predictions without labels: closed forms, targets, masks, places, one output, refusals."""

import json
import math

import jaxtyping
import numpy as np
import pytest
import torch
from torch import nn

import taut
from taut.certification import certify, prove, verifier, verify

ARITHMETICS = ("float64", "float32", "real")


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(classes=4, features=6, dtype=torch.float64):
    model = nn.Linear(features, classes)
    with torch.no_grad():
        model.weight.copy_(draw(classes, features))
        model.bias.copy_(draw(classes, seed=1))
    return model.to(dtype)


def net(outputs=3, dtype=torch.float64):
    """Not linear: attacks have to search."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), taut.nn.MaxMin(), nn.Flatten(), nn.Linear(64, outputs)
    ).to(dtype)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_radii_of_a_linear_model_are_distances_to_hyperplanes(arithmetic):
    dtype = torch.float32 if arithmetic == "float32" else torch.float64
    model, x = linear(dtype=dtype), draw(30, 6, seed=2).to(dtype)
    found = taut.predict(model, x, arithmetic=arithmetic)
    z, w = model(x).double(), model.weight.double()
    room = 1e-4 if arithmetic == "float32" else 1e-9
    assert torch.equal(found.classes, z.argmax(1))
    assert (found.margin - (z.sort(1).values[:, -1] - z.sort(1).values[:, -2])).abs().max() < 1e-5
    for i, c in enumerate(found.classes.tolist()):
        assert found.radii[i, c] == math.inf
        for j in set(range(4)) - {c}:
            distance = ((z[i, c] - z[i, j]) / (w[c] - w[j]).norm()).item()
            assert distance - room <= found.radii[i, j].item() <= distance
    assert torch.equal(found.radius, found.radii.amin(1))
    assert (found.bound.value, found.arithmetic) == (
        prove(model, (6,), arithmetic=arithmetic).bound.value,
        arithmetic,
    )


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_radius_is_that_of_a_certification_with_these_labels(arithmetic):
    model, x = net(dtype=torch.float32), draw(300, 1, 4, 4).float()
    done = []
    found = taut.predict(model, x, arithmetic=arithmetic, on_progress=done.append)
    certified = certify(model, x, found.classes, arithmetic=arithmetic)
    assert torch.equal(found.radius, certified.radius)
    assert torch.equal(found.margin, certified.margin)
    assert (found.radius > 0).all()
    assert done == [256, 300]


def steepest(model, x, radius, classes, target, weights, seed):
    """A change within the radius, searched by gradient steps towards a target class."""
    shape = (-1, *[1] * (x.dim() - 1))
    z = weights * draw(*x.shape, seed=seed)
    for _ in range(25):
        length = (z / weights.clamp_min(1e-30)).flatten(1).norm(dim=1).reshape(shape)
        z = (0.9999 * radius.reshape(shape) * z / length).requires_grad_()
        logits = model(x + z)
        gap = logits.gather(1, target[:, None]) - logits.gather(1, classes[:, None])
        yield logits
        (slope,) = torch.autograd.grad(gap.sum(), z)
        z = z.detach() + weights**2 * slope  # steepest in the norm of z / w


@pytest.mark.parametrize("kind", ["plain", "mask", "weights", "both"])
def test_no_attack_reaches_another_class_within_its_radius(kind):
    model, x = net(4), draw(20, 1, 4, 4, seed=3)
    mask = (draw(4, 4, seed=4) > 0).double() if kind in ("mask", "both") else None
    weights = draw(1, 4, 4, seed=5).abs() + 0.1 if kind in ("weights", "both") else None
    found = taut.predict(model, x, mask=mask, weights=weights)
    full = torch.ones(1, 4, 4).double()
    for factors in (mask, weights):
        full = full if factors is None else full * factors
    for shift in (1, 2, 3):
        target = (found.classes + shift) % 4
        radius = found.radii.gather(1, target[:, None]).squeeze(1)
        assert (radius > 0).all()
        for seed in range(3):
            for logits in steepest(model, x, radius, found.classes, target, full, seed):
                ahead = logits.gather(1, found.classes[:, None]) > logits.gather(1, target[:, None])
                assert ahead.all()


def test_weighted_radius_of_a_linear_model_is_sound_and_at_least_that_of_the_largest_weight():
    model, x = linear(), draw(30, 6, seed=2)
    plain = taut.predict(model, x)
    w = torch.tensor([2.0, 0.5, 0.0, 1.0, 0.0, 0.25], dtype=torch.float64)
    found = taut.predict(model, x, weights=w)
    assert torch.equal(found.classes, plain.classes)
    z = model(x)
    for i, c in enumerate(found.classes.tolist()):
        for j in set(range(4)) - {c}:
            # x + D z meets the plane first at gap / |D (w_c - w_j)|.
            slope = (w * (model.weight[c] - model.weight[j])).norm()
            assert found.radii[i, j] <= (z[i, c] - z[i, j]) / slope
            assert found.radii[i, j] >= plain.radii[i, j] / 2 * (1 - 1e-9)


def test_equal_weights_scale_the_radius():
    model, x = net(), draw(20, 1, 4, 4)
    plain = taut.predict(model, x).radius
    for factor in (0.25, 3.0):
        found = taut.predict(model, x, weights=torch.full((1, 1, 1), factor).double()).radius
        torch.testing.assert_close(found, plain / factor, rtol=1e-8, atol=0)
    whole = taut.predict(model, x, mask=torch.ones(1, 4, 4)).radius
    torch.testing.assert_close(whole, plain, rtol=1e-8, atol=0)


def test_mask_bounds_what_is_left_and_not_what_is_fixed():
    """max(|a|, b): at b > |a| nothing flips by a little; with a alone, its own slope counts."""

    class Gate(nn.Module):
        def forward(self, x):
            a, b = x[:, :1], x[:, 1:]
            return torch.cat([torch.maximum(a, b), 0 * a], 1)

    x = torch.tensor([[0.0, 1.0], [2.0, 1.0]], dtype=torch.float64)
    found = taut.predict(Gate(), x, mask=torch.tensor([1, 0]))
    # The second: a falls from 2, but b holds the maximum at 1: it never flips. Sound is enough.
    assert (found.radius > 0).all()
    moved = x.clone()
    moved[:, 0] -= found.radius * (1 - 1e-9)
    assert torch.equal(taut.predict(Gate(), moved).classes, found.classes)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_weights_in_each_arithmetic(arithmetic):
    model, x = net(dtype=torch.float32), draw(10, 1, 4, 4).float()
    weights = torch.rand(4, 4, generator=torch.Generator().manual_seed(0)) + 0.5
    found = taut.predict(model, x, arithmetic=arithmetic, weights=weights)
    real = taut.predict(model, x, arithmetic="real", weights=weights)
    plain = taut.predict(model, x, arithmetic=arithmetic)
    assert (found.radius <= real.radius * (1 + 1e-6)).all()
    assert (found.radius >= plain.radius / 1.5 * (1 - 1e-3)).all()


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_places_are_as_one_model_for_each(arithmetic):
    """Against a loop: at each pixel the radius is margin / (sqrt(2) L)."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 3, 1))
    x = draw(4, 2, 5, 6).float()
    found = taut.predict(model, x, arithmetic=arithmetic, eps=(0.01, 0.1))
    assert found.classes.shape == found.radius.shape == found.margin.shape == (4, 5, 6)
    assert found.radii.shape == (4, 3, 5, 6)
    z, constant = model(x).double(), math.sqrt(2) * found.bound.value
    for i, h, w in ((i, h, w) for i in range(4) for h in range(5) for w in range(6)):
        order = z[i, :, h, w].sort(descending=True)
        assert found.classes[i, h, w] == order.indices[0]
        gap = (order.values[0] - order.values[1]).item()
        assert found.radius[i, h, w] <= gap / constant + 1e-5
        assert found.radius[i, h, w] >= gap / constant - 1e-3
    for eps, held in found.certified.items():
        assert torch.equal(held, found.radius > eps)
    assert len(found.to_csv().splitlines()) == 1 + 4 * 5 * 6
    assert found.to_csv().startswith("image,axis0,axis1,class,margin,radius\n")


class Pixel(nn.Module):
    """The logits of one pixel."""

    def __init__(self, model, h, w):
        super().__init__()
        self.model, self.h, self.w = model, h, w

    def forward(self, x):
        return self.model(x)[:, :, self.h, self.w]


def test_no_attack_on_any_pixel_succeeds_within_its_radius():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 3, 1)).double()
    x = draw(1, 1, 4, 4)
    found = taut.predict(model, x)
    ones = torch.ones(1, 4, 4).double()
    for h, w in ((h, w) for h in range(4) for w in range(4)):
        pixel = Pixel(model, h, w)
        c, radius = found.classes[:, h, w], found.radius[:, h, w]
        for target in ((c + 1) % 3, (c + 2) % 3):
            for logits in steepest(pixel, x, radius, c, target, ones, 0):
                assert torch.equal(logits.argmax(1), c)


class Squeezed(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).squeeze(1)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("wrap", [nn.Sequential, Squeezed])
def test_one_output_has_the_class_of_its_sign_and_the_radius_of_its_size(arithmetic, wrap):
    model, x = wrap(linear(1, dtype=torch.float32)), draw(40, 6, seed=2).float()
    found = taut.predict(model, x, arithmetic=arithmetic)
    f = model(x).double().flatten()
    assert torch.equal(found.classes, (f > 0).long())
    assert set(found.classes.tolist()) == {0, 1}
    torch.testing.assert_close(found.margin, f.abs(), atol=1e-5, rtol=0)
    distance = f.abs() / next(model.parameters()).double().norm()
    assert (found.radius <= distance * (1 + 1e-6)).all()
    assert (found.radius >= distance - 1e-4).all()


@pytest.mark.parametrize("wrap", [nn.Sequential, Squeezed])
@pytest.mark.parametrize("arithmetic", ["float64", "float32"])
def test_one_output_is_certified_with_either_convention_of_labels(wrap, arithmetic, tmp_path):
    model, x = wrap(net(1, torch.float32)), draw(20, 1, 4, 4).float()
    found = taut.predict(model, x, arithmetic=arithmetic)
    labels = found.classes.clone()
    labels[0] = 1 - labels[0]
    result = certify(model, x, labels, 0.01, arithmetic=arithmetic)
    signs = certify(model, x, 2 * labels - 1, 0.01, arithmetic=arithmetic)
    assert torch.equal(result.radius, signs.radius)
    assert torch.equal(result.labels, signs.labels)
    assert (result.clean_accuracy, result.radius[0].item()) == (0.95, 0.0)
    assert torch.equal(result.radius[1:], found.radius[1:])
    assert not result.refuted(x, x + 1e-4).any()
    path, weights = result.save(tmp_path / "c.json")
    assert verify(path, weights).bound == result.bound.value
    points = tmp_path / "points.npz"
    np.savez(points, images=x.numpy())
    assert "answers of 20 images" in verifier.verify(path, weights, points)
    content = json.loads(path.read_text())
    for key, at in (("radius", 3), ("margin", 3), ("predictions", 3)):
        forged = json.loads(path.read_text())
        forged[key][at] = 1 - forged[key][at] if key == "predictions" else 1.3 * forged[key][at]
        path.write_text(taut.program.canonical(forged))
        with pytest.raises(verifier.Refused):
            verifier.verify(path, weights, points)
        if key == "radius":
            with pytest.raises(ValueError, match="radius is larger"):
                verify(path, weights)
        path.write_text(taut.program.canonical(content))


@pytest.mark.parametrize("wrap", [nn.Sequential, Squeezed])
@pytest.mark.parametrize("method", ["pgd", "fgsm", "ddn"])
def test_attacks_on_one_output_reach_beyond_its_radius_and_never_within(wrap, method):
    model, x = wrap(net(1)), draw(20, 1, 4, 4).sigmoid()
    found = taut.predict(model, x)
    search = {"pgd": {"eps": (0.05, 0.5, 4.0)}, "fgsm": {"eps": (0.5, 4.0)}}.get(method)
    for labels in (found.classes, 2 * found.classes - 1):
        if search is None:
            result = taut.attacks.smallest_attack(model, x, labels, method)
        else:
            result = taut.attack(model, x, labels, method=method, **search)
        assert result.success.any()
        assert (result.distance[result.success] > found.radius[result.success]).all()
        certified = certify(model, x, labels)
        assert not certified.refuted(x, result.adversarial).any()
        f = model(result.adversarial).flatten()
        assert torch.equal(result.success, (f > 0).long() != found.classes)


def test_labels_of_one_output_are_of_one_convention():
    with pytest.raises(ValueError, match="0 and 1, or -1 and"):
        certify(linear(1), draw(3, 6), torch.tensor([0, -1, 1]))
    with pytest.raises(ValueError, match=r"0\.\.1"):
        certify(linear(1), draw(3, 6), torch.tensor([0, 2, 1]))


def test_ties_and_overflow_have_no_radius():
    model = nn.Linear(2, 3).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
        model.bias.zero_()
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1e308, 0.0]], dtype=torch.float64)
    found = taut.predict(model, x)
    assert found.radius[0].item() == 0.0  # tied
    assert found.radius[1].item() == pytest.approx(math.sqrt(0.5))
    assert found.radii[2].amin().item() == 0.0  # beyond the norm at which a sum may overflow
    assert taut.predict(linear(1), torch.zeros(1, 6).double()).radii[0].amax().item() == math.inf


def test_texts():
    found = taut.predict(linear(), draw(5, 6), eps=["1/10", 0.2])
    assert len(str(found).splitlines()) == 3
    assert found._repr_html_().startswith("<pre>Predictions for 5 images")
    content = json.loads(found.to_json(images=list("abcde"), names=list("wxyz")))
    assert content["classes"] == found.classes.tolist()
    assert content["radii"][0][content["classes"][0]] is None
    assert content["certified"]["1/10"] == (found.radius > 0.1).tolist()
    assert content["images"] == list("abcde")
    lines = found.to_csv(images=list("abcde"), names=list("wxyz")).splitlines()
    assert lines[1].split(",")[:2] == ["a", "wxyz"[found.classes[0]]]
    assert float(lines[1].split(",")[3]) == found.radius[0].item()


def test_table_is_written(tmp_path):
    found = taut.predict(linear(), draw(5, 6))
    assert found.to_csv(tmp_path / "a.csv") == (tmp_path / "a.csv").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(0, 6).double()}, "at least one"),
        ({"images": torch.zeros(2, 6)}, r"float64.*got torch\.float32"),
        ({"images": torch.full((2, 6), math.nan).double()}, "image 0 holds NaN"),
        ({"eps": "a lot"}, "eps"),
        ({"arithmetic": "float16"}, "arithmetic"),
        ({"arithmetic": "float32"}, "float32"),
        ({"mask": torch.ones(5)}, r"`mask` must have the shape of one image, \(6,\)"),
        ({"mask": torch.full((6,), 0.5)}, "`mask` must hold 0 and 1 alone; got 0.5"),
        ({"mask": torch.zeros(6)}, "at least one entry"),
        ({"weights": torch.tensor([1.0, -1.0, 1, 1, 1, 1])}, "`weights` must hold finite numbers"),
        ({"weights": torch.full((6,), math.inf)}, "`weights` must hold finite numbers"),
        ({"model": nn.Sequential(nn.Linear(6, 5), nn.Softmax(1)).double()}, "Softmax"),
    ],
)
def test_wrong_arguments_are_one_sentence(change, message):
    given = {"model": linear(), "images": torch.zeros(2, 6).double()} | change
    with pytest.raises(ValueError, match=message) as caught:
        taut.predict(given.pop("model"), given.pop("images"), **given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [np.zeros((2, 6)), np.array([None, 1]), [0, 1], None])
def test_what_is_no_tensor_is_refused_by_its_type(value, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    model, x, y = linear(), torch.rand(2, 6).double(), torch.tensor([0, 1])
    kind = "numpy.ndarray" if isinstance(value, np.ndarray) else type(value).__name__
    calls = {
        "images": [
            lambda: taut.predict(model, value),
            lambda: certify(model, value, y),
            lambda: taut.attack(model, value, y, 0.1),
        ],
        "labels": [
            lambda: certify(model, x, value),
            lambda: taut.attack(model, x, value, 0.1),
            lambda: taut.certified_radius(x, value, 1.0),
        ],
        "logits": [lambda: taut.certified_radius(value, y, 1.0)],
        "x": [lambda: taut.l2_distance_upper(value, x)],
    }
    for name, of_name in calls.items():
        for call in of_name:
            with pytest.raises(ValueError, match=f"`{name}` must be a torch.Tensor; got {kind}"):
                call()


@pytest.mark.parametrize("function", [certify, taut.attack])
def test_images_in_half_precision_and_no_eps_are_one_sentence(function, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    model, x, y = linear(), torch.rand(2, 6), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"`images` must be torch.float64.*got torch.float16"):
        function(model, x.half(), y, eps=0.1)
    with pytest.raises(ValueError, match=r"`eps` must be .*got eps=None"):
        function(model, x.double(), y, eps=None)
    results = [function(model, x.double(), y, eps=e) for e in (0.25, "1/4", [0.25], ("1/4",))]
    if function is certify:
        shares = [list(result.certified_accuracy.values()) for result in results]
    else:
        shares = [list(result.attacked_accuracy.values()) for result in results]
    assert all(share == shares[0] for share in shares)
