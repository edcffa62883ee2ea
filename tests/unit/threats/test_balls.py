"""Balls of each norm: closed forms, attacks in the very ball, pixels, refusals."""

import functools
import itertools
import json
import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import nn

import taut
from taut import threats
from taut.certification import prove
from taut.threats import L0, L1, L2, Linf, Mask, WeightedL2
from taut.threats._cut import cut_of
from taut.threats._norms import NORMS
from thinning import one_in

SHAPE = (2, 5, 7)
MASK = (torch.rand(5, 7, generator=torch.Generator().manual_seed(3)) < 0.3).double()
WEIGHTS = 0.1 + torch.rand(SHAPE, generator=torch.Generator().manual_seed(4)).double()


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def net(kind="conv", dtype=torch.float64, classes=4):
    """Not linear, and of layers that are far from orthogonal."""
    torch.manual_seed(0)
    layers = {
        "conv": (
            nn.Conv2d(2, 6, 3, padding=1), taut.nn.MaxMin(), nn.Conv2d(6, 4, 3, stride=2),
            nn.ReLU(), nn.Flatten(), nn.Linear(24, classes),
        ),
        "dense": (nn.Flatten(), nn.Linear(70, 30), nn.ReLU(), nn.Linear(30, classes)),
        "taut": (
            taut.nn.Conv2d(2, 8, 3), taut.nn.MaxMin(), nn.Flatten(),
            taut.nn.Linear(280, 16), taut.nn.MaxMin(), taut.nn.UnitRowLinear(16, classes),
        ),
        "linear": (nn.Flatten(), nn.Linear(70, classes)),
    }[kind]  # fmt: skip
    return nn.Sequential(*layers).to(dtype).eval()


class Skip(nn.Module):
    """The input is read beside the first layer."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 2, 3, padding=1), nn.Linear(70, 4)

    def forward(self, x):
        return self.head((x + self.conv(x).relu()).flatten(1))


BALLS = [
    L2(), Mask(MASK), Mask(MASK.bool()), WeightedL2(WEIGHTS), WeightedL2(WEIGHTS[0]),
    Linf(), Linf(MASK), L1(), L1(MASK),
]  # fmt: skip
NETS = ["conv", "dense", "taut", "linear", "skip"]


@functools.cache
def built(kind, dtype=torch.float64):
    torch.manual_seed(0)
    return Skip().to(dtype).eval() if kind == "skip" else net(kind, dtype)


def furthest(threat, slope):
    """The change of size 1 in the ball that goes furthest along a slope."""
    w = threat.factors(SHAPE)
    steep = (w * slope.double()).flatten(1)
    if threat.norm == "linf":
        z = steep.sign()
    elif threat.norm == "l1":
        z = torch.zeros_like(steep)
        top = steep.abs().argmax(1, keepdim=True)
        z.scatter_(1, top, steep.gather(1, top).sign())
    else:
        z = steep / steep.norm(dim=1, keepdim=True).clamp(min=1e-30)
    return w * z.reshape(slope.shape)


def attacked(model, x, labels, targets, sizes, threat, steps=12):
    """Changed images on the way of a Frank-Wolfe search towards a target."""
    change = torch.zeros_like(x)
    sizes = 0.99999 * sizes.reshape(-1, 1, 1, 1)
    for step in range(steps):
        point = (x + change).requires_grad_()
        logits = model(point)
        gap = logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None])
        (slope,) = torch.autograd.grad(gap.sum(), point)
        share = 1.0 if step == 0 else 2 / (step + 2)
        change = (1 - share) * change + share * (sizes * furthest(threat, slope)).to(x.dtype)
        yield x + change


@pytest.mark.parametrize(
    ("threat", "kind", "dtype"),
    one_in(7, itertools.product(BALLS, NETS, (torch.float64, torch.float32))),
)
def test_no_attack_in_the_ball_reaches_a_target_within_its_radius(threat, kind, dtype):
    model, x = built(kind, dtype), draw(5, *SHAPE, seed=2).to(dtype)
    labels = model(x).argmax(1)
    arithmetic = "float32" if dtype == torch.float32 else "float64"
    found = threats.certify(model, x, labels, threat, arithmetic=arithmetic)
    positive = found.radius > 0
    assert positive.all() or (dtype == torch.float32 and positive.any())
    x, labels, radii = x.repeat(3, 1, 1, 1), labels.repeat(3), found.radii.repeat(3, 1)
    targets = (labels + torch.arange(1, 4).repeat_interleave(5)) % 4
    sizes = radii.gather(1, targets[:, None]).squeeze(1)
    for changed in attacked(model, x, labels, targets, sizes, threat):
        z = found.certificate.logits(changed)
        assert (z.gather(1, labels[:, None]) > z.gather(1, targets[:, None])).all()


@pytest.mark.parametrize("threat", BALLS, ids=lambda t: t.kind)
def test_radii_of_a_linear_model_are_exact(threat):
    model, x = built("linear"), draw(20, *SHAPE, seed=2)
    labels = torch.arange(20) % 4
    found = threats.certify(model, x, labels, threat)
    z, w = model(x), model[1].weight.reshape(4, *SHAPE)
    for i, j in itertools.product(range(20), range(4)):
        y = labels[i].item()
        slope = threat.factors(SHAPE) * (w[y] - w[j])
        dual = slope.abs().max() if threat.norm == "l1" else slope.abs().sum()
        dual = slope.norm() if threat.norm == "l2" else dual
        if j == y:
            assert found.radii[i, j] == math.inf
        elif z[i, y] <= z[i, j]:
            assert found.radii[i, j] == 0
        else:
            exact = ((z[i, y] - z[i, j]) / dual).item()
            assert exact * (1 - 1e-6) <= found.radii[i, j].item() <= exact
    assert torch.equal(found.radius, found.radii.amin(1))
    assert (found.radius[model(x).argmax(1) != labels] == 0).all()


@pytest.mark.parametrize("scale", [1.0, 1e6, 1e-6])
@pytest.mark.parametrize("threat", [L2(), WeightedL2(WEIGHTS[0, 0, :6]), Linf(), L1()])
def test_radii_are_never_above_the_exact_ones(threat, scale):
    """Logits, differences of rows and their norms in fractions."""
    torch.manual_seed(2)
    model, x = nn.Linear(6, 3), scale * draw(9, 6).float()
    found = threats.certify(model, x, torch.arange(9) % 3, threat)
    weight = [[Fraction(v) for v in row] for row in model.weight.tolist()]
    bias, sizes = model.bias.tolist(), map(Fraction, threat.factors((6,)).tolist())
    sizes = list(sizes)
    for i, j in itertools.product(range(9), range(3)):
        y, image = i % 3, [Fraction(v) for v in x[i].tolist()]
        rows = [a - b for a, b in zip(weight[y], weight[j], strict=True)]
        gap = sum(a * b for a, b in zip(rows, image, strict=True))
        gap += Fraction(bias[y]) - Fraction(bias[j])
        steps = [abs(a) * w for a, w in zip(rows, sizes, strict=True)]
        if y != j and gap > 0:
            radius = Fraction(found.radii[i, j].item())
            dual = {"l1": max(steps), "linf": sum(steps)}.get(threat.norm)
            if dual is None:
                assert radius**2 * sum(s * s for s in steps) <= gap**2
                assert radius**2 * sum(s * s for s in steps) >= gap**2 * Fraction(999, 1000)
            else:
                assert gap * Fraction(999, 1000) <= radius * dual <= gap


@pytest.mark.parametrize(
    ("arithmetic", "kind"), one_in(2, itertools.product(("float64", "float32", "real"), NETS))
)
def test_l2_is_at_least_what_certify_says(arithmetic, kind):
    model, x = built(kind, torch.float32), draw(9, *SHAPE, seed=2).float()
    labels = torch.arange(9) % 4
    plain = taut.certify(model, x, labels, arithmetic=arithmetic)
    found = threats.certify(model, x, labels, L2(), arithmetic=arithmetic)
    assert (found.radius >= plain.radius).all()
    assert torch.equal(found.margin, plain.margin)
    assert found.clean_accuracy == plain.clean_accuracy
    masked = threats.certify(model, x, labels, Mask(MASK), arithmetic=arithmetic)
    assert (masked.radius >= found.radius).all()
    sparse = threats.certify(model, x, labels, L1(), arithmetic=arithmetic)
    assert (sparse.radius >= found.radius).all()
    box = threats.certify(model, x, labels, Linf(), arithmetic=arithmetic)
    assert (box.radius >= found.radius / math.sqrt(70) * (1 - 1e-12)).all()


def test_first_layer_counts_with_its_norm_on_the_mask():
    """One of two halves of the pixels is stretched by 10, the other by 1."""
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.diag(torch.tensor([10.0, 10.0, 1.0, 1.0])))
        model[2].weight.copy_(torch.tensor([[1.0, 0, 1, 0], [0, 1.0, 0, 1]]))
    x, labels = torch.tensor([[2.0, 1.0, 2.0, 1.0]]), torch.tensor([0])
    radii = [
        threats.certify(model, x, labels, Mask(torch.tensor(mask))).radius.item()
        for mask in ([1, 0, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1])
    ]
    assert radii[1] / radii[0] == pytest.approx(10, rel=1e-6)
    assert radii[2] == pytest.approx(radii[0], rel=1e-6)


def test_cut_is_behind_the_last_affine_value_that_all_reads_the_input_through():
    cut = cut_of(prove(built("conv"), SHAPE))
    assert (cut.first.output, len(cut.first.nodes)) == ("0", 1)
    assert not cut_of(prove(built("skip"), SHAPE)).first.nodes
    assert cut_of(prove(built("linear"), SHAPE)).affine
    value = cut.value(draw(3, *SHAPE))
    assert torch.allclose(value, built("conv")[0](draw(3, *SHAPE)).flatten(1))


@pytest.mark.parametrize("kind", ["conv", "dense", "taut"])
def test_rest_of_a_cut_bounds_its_differences(kind):
    model = built(kind)
    cut = cut_of(prove(model, SHAPE))
    x = draw(200, *SHAPE, seed=5)
    y = x + 1e-3 * draw(200, *SHAPE, seed=6)
    moved = (cut.value(x) - cut.value(y)).norm(dim=1)
    change = model(x) - model(y)
    assert (change.norm(dim=1) <= cut.rest.value * moved * (1 + 1e-9)).all()
    for i, j in itertools.combinations(range(4), 2):
        pair = (change[:, i] - change[:, j]).abs()
        assert (pair <= cut.rest.pairwise[i, j] * moved * (1 + 1e-9)).all()
        assert cut.rest.pairwise[i, j] <= math.sqrt(2) * cut.rest.value * (1 + 1e-9)


def test_nothing_may_change():
    model, x = built("conv"), draw(6, *SHAPE, seed=2)
    labels = torch.arange(6) % 4
    found = threats.certify(model, x, labels, Mask(torch.zeros(5, 7)), eps=1e300)
    right = model(x).argmax(1) == labels
    assert torch.equal(found.radius == math.inf, right)
    assert (found.radius[~right] == 0).all()
    assert found.certified_accuracy == {1e300: found.clean_accuracy}
    json.loads(found.to_json())


@pytest.mark.parametrize("threat", [*BALLS, L0(-9.0, 9.0)], ids=lambda t: t.kind)
def test_ties_have_radius_0(threat):
    model = nn.Sequential(nn.Flatten(), nn.Linear(70, 3)).double()
    with torch.no_grad():
        model[1].weight[1] = model[1].weight[0]
        model[1].bias.copy_(torch.tensor([9.0, 9.0, 0.0]))
    found = threats.certify(model, draw(2, *SHAPE), torch.tensor([0, 1]), threat)
    assert found.radius.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("threat", BALLS, ids=lambda t: t.kind)
def test_one_output_is_a_decision(threat):
    model = nn.Sequential(nn.Flatten(), nn.Linear(70, 1)).double()
    x, w = draw(8, *SHAPE), model[1].weight.reshape(SHAPE)
    f = model(x)[:, 0]
    found = threats.certify(model, x, (f > 0).long() * 2 - 1, threat)
    slope = threat.factors(SHAPE) * w
    dual = {"l1": slope.abs().max(), "l2": slope.norm(), "linf": slope.abs().sum()}[threat.norm]
    assert torch.allclose(found.radius, (f.abs() / dual).detach(), rtol=1e-6)


def test_scaled_images_and_weights_scale_radii():
    model, x = built("conv"), draw(6, *SHAPE, seed=2)
    labels = model(x).argmax(1)
    once = threats.certify(model, x, labels, WeightedL2(WEIGHTS)).radius
    for factor in (1e6, 1e-6):
        found = threats.certify(model, x, labels, WeightedL2(factor * WEIGHTS)).radius
        assert torch.allclose(found * factor, once, rtol=1e-6)


def test_pixels_may_change_to_anything_while_their_number_is_certified():
    model, x = net("conv"), torch.rand(12, *SHAPE, generator=torch.Generator().manual_seed(1))
    x = x.double()
    labels = model(x).argmax(1)
    with torch.no_grad():
        model[-1].bias += 3.0 * nn.functional.one_hot(labels[0], 4)  # wide margins
    labels = model(x).argmax(1)
    found = threats.certify(model, x, labels, L0(), eps=(1, 2))
    plain = threats.certify(model, x, labels, L2())
    assert (found.radius.floor() >= 1).any()
    for i in range(len(x)):
        count = int(found.radius[i].floor())
        squares = torch.maximum(x[i], 1 - x[i]).square().sum(0).flatten().sort(descending=True)
        assert squares.values[:count].sum() <= plain.radius[i].square()
        assert squares.values[: count + 1].sum() > plain.radius[i].square() * (1 - 1e-9)
        for seed in range(50):  # the pixels that move furthest, and others, to the ends
            picks = squares.indices if not seed else torch.randperm(35)
            changed = x[i].clone().flatten(1)
            chosen = picks[:count]
            changed[:, chosen] = (changed[:, chosen] < 0.5).double()
            assert model(changed.reshape(1, *SHAPE)).argmax() == labels[i]
    shares = [(found.radius > n).double().mean().item() for n in (1, 2)]
    assert list(found.certified_accuracy.values()) == pytest.approx(shares)


def test_as_many_pixels_as_there_are_make_an_infinite_radius():
    model = nn.Linear(3, 2).double()
    with torch.no_grad():
        model.bias.copy_(torch.tensor([1e3, 0.0]))
    found = threats.certify(model, torch.rand(2, 3).double(), torch.zeros(2).long(), L0())
    assert found.radius.tolist() == [math.inf] * 2
    assert json.loads(found.to_json())["radius"] == [None] * 2


@pytest.mark.parametrize(
    ("threat", "words"),
    [
        (Mask(torch.ones(3, 3)), r"`mask` must have the shape of one image, \(2, 5, 7\)"),
        (Mask(2 * MASK), "`mask` must hold 0 and 1 alone; got 2"),
        (Linf(torch.ones(4)), "`mask` must have the shape"),
        (WeightedL2(0 * WEIGHTS), "`weights` must be positive; got 0"),
        (WeightedL2(-WEIGHTS), "`weights` must hold finite numbers >= 0"),
        (WeightedL2(torch.tensor(math.nan)), "`weights` must hold finite numbers"),
        (L0(0.0, 0.5), "`images` must be within low=0.0 and high=0.5"),
    ],
)
def test_settings_that_do_not_fit_are_refused(threat, words):
    with pytest.raises(ValueError, match=words):
        threats.certify(built("conv"), draw(2, *SHAPE), torch.zeros(2).long(), threat)


def test_wrong_arguments_are_refused():
    model, x, labels = built("conv"), draw(2, *SHAPE), torch.zeros(2).long()
    with pytest.raises(ValueError, match="`top_k` must be below the number of classes, 4; got 4"):
        threats.certify(model, x, labels, L2(), top_k=4)
    with pytest.raises(ValueError, match="`top_k` must be a positive integer"):
        threats.certify(model, x, labels, L2(), top_k=0)
    with pytest.raises(ValueError, match="`labels` must be in"):
        threats.certify(model, x, labels + 7, L2())
    with pytest.raises(ValueError, match=r"`images` must be torch\.float64 like the model"):
        threats.certify(model, x.float(), labels, L2())
    with pytest.raises(ValueError, match="`low` must be a number below `high`"):
        L0(1.0, 1.0)
    with pytest.raises(ValueError, match="one answer an image"):
        threats.certify(nn.Conv2d(2, 3, 1).double(), x, labels, L2())


def test_results_say_what_they_are():
    model, x = built("conv"), draw(300, *SHAPE)
    labels = model(x).argmax(1)
    done = []
    found = threats.certify(model, x, labels, Linf(), eps="1/255", on_progress=done.append)
    assert done == [256, 300]
    text = str(found)
    for words in ("300 images against linf", "at 1/255", "norm equivalence with l2", "median"):
        assert words in text
        assert words in found._repr_html_()
    content = json.loads(found.to_json())
    assert content["threat"] == {"kind": "linf", "mask": None}
    assert content["radius"] == found.radius.tolist()
    again = threats.certify(model, x, labels, replace(Linf(), mask=torch.ones(5, 7)), eps="1/255")
    assert torch.equal(again.radius, found.radius)
    assert (found.arithmetic, float(found.bound)) == ("float64", found.certificate.bound.value)


def test_every_kind_is_exported_once():
    kinds = threats.kinds()
    assert {"l0", "l1", "l2", "linf", "mask", "weighted-l2"} <= set(kinds)
    assert all(name == cls.kind and cls.unit for name, cls in kinds.items())


def test_a_matrix_of_many_columns_needs_no_products_of_all():
    # All products of its columns would take 320 GB.
    gain = NORMS["linf"].gain(torch.ones(2, 200_000, dtype=torch.float64))
    exact = 200_000 * math.sqrt(2)
    assert exact <= gain <= exact * (1 + 1e-9)
