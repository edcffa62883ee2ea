"""Bounds of the rounding of a forward pass, against exact rationals in any order of summation."""

import math
import random
from fractions import Fraction

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from taut.certification import l2_distance_upper, prove
from taut.certification._arithmetic import norms_upper
from taut.nn import MaxMin
from taut.program import AbstractOp, Layer, Rounding, UnprovenError, compose, op, replay
from taut.program._compose import FORMATS, Format

# precision in bits, exponent of the smallest normal number, largest number
SMALL = {
    "float16": (11, -14, 65504.0),
    "bfloat16": (8, -126, 3.3e38),
    "float32": (24, -126, 3.4e38),
}


@pytest.fixture(autouse=True)
def _formats(monkeypatch):
    """The recursion knows any format; a low precision shows errors that double rounds away."""
    for name, (bits, lowest, largest) in SMALL.items():
        monkeypatch.setitem(FORMATS, name, Format(2.0**-bits, 2.0**lowest, largest))


def rounded(x: Fraction, name: str, flush: bool) -> Fraction:
    """To nearest even in the format, with gradual or with sudden underflow."""
    if x == 0:
        return x
    bits, lowest, _ = SMALL[name]
    exponent = x.numerator.bit_length() - x.denominator.bit_length()
    exponent -= abs(x) < Fraction(2) ** exponent
    quantum = Fraction(2) ** (max(exponent, lowest) - bits + 1)
    result = round(x / quantum) * quantum
    return Fraction(0) if flush and abs(result) < Fraction(2) ** lowest else result


def computed_sum(weights, x, bias, draw, name, flush):
    """Products and a bias, added in a random order: a random tree, or fused one by one."""
    if flush:
        weights, x = ([rounded(v, name, True) for v in vector] for vector in (weights, x))
    if draw.random() < 0.5:
        total = bias
        for w, v in draw.sample(list(zip(weights, x, strict=True)), len(x)):
            total = rounded(total + w * v, name, flush)
        return total
    terms = [rounded(w * v, name, flush) for w, v in zip(weights, x, strict=True)] + [bias]
    while len(terms) > 1:
        a = terms.pop(draw.randrange(len(terms)))
        b = terms.pop(draw.randrange(len(terms)))
        terms.append(rounded(a + b, name, flush))
    return terms[0]


def net_of(scale, bias, draw, name):
    """Linear, MaxMin, Linear with weights of the format; cancelling rows among them."""

    def number(size):
        return rounded(Fraction(draw.gauss(0, size)), name, False)

    first = [[number(scale) for _ in range(6)] for _ in range(4)]
    first[1] = [w * (-1) ** j for j, w in enumerate([first[0][0]] * 6)]
    second = [[number(scale) for _ in range(4)] for _ in range(3)]
    return (first, [number(bias) for _ in range(4)]), (second, [number(bias) for _ in range(3)])


def run(net, x, add):
    (first, b1), (second, b2) = net
    h = [add(row, x, b) for row, b in zip(first, b1, strict=True)]
    h = [*map(max, h[:2], h[2:]), *map(min, h[:2], h[2:])]
    return [add(row, h, b) for row, b in zip(second, b2, strict=True)]


def model_of(net):
    """The same net in torch, in float64: each number of the format is one."""
    model = nn.Sequential(nn.Linear(6, 4), MaxMin(), nn.Linear(4, 3)).double()
    with torch.no_grad():
        for layer, (weight, bias) in zip((model[0], model[2]), net, strict=True):
            layer.weight.copy_(torch.tensor([[float(w) for w in row] for row in weight]))
            layer.bias.copy_(torch.tensor([float(b) for b in bias]))
    return model


@pytest.mark.parametrize("flush", [False, True], ids=["gradual", "flushed"])
@pytest.mark.parametrize(
    ("scale", "bias"), [(0.5, 0.5), (0.5, 0.0), (0.01, 300.0), (1e-3, 1e-5), (3e-5, 0.0)]
)
@pytest.mark.parametrize("name", SMALL)
def test_error_of_a_net_in_any_order_of_summation(name, scale, bias, flush):
    draw = random.Random(f"{name} {scale} {bias} {flush}")
    for _ in range(3):
        net = net_of(scale, bias, draw, name)
        layers = prove(model_of(net), (6,)).layers
        a, b = compose(layers, "input", layers[-1].name, name).error
        for _ in range(3):
            x = [rounded(Fraction(draw.gauss(0, 1)), name, False) for _ in range(6)]
            exact = run(net, x, lambda w, v, c: sum(map(Fraction.__mul__, w, v), c))
            got = run(net, x, lambda w, v, c: computed_sum(w, v, c, draw, name, flush))
            allowed = Fraction(a) * norm_up(x) + Fraction(b)
            gaps = [g - e for g, e in zip(got, exact, strict=True)]
            assert all(abs(p - q) <= allowed for p in gaps for q in gaps)


def norm_up(x):
    square = sum(v * v for v in x)
    return Fraction(math.isqrt(math.ceil(square * 2**120)) + 1, 2**60)


def test_error_bound_is_nearly_reached():
    """One and then numbers of half an ulp, added to it one by one: each is lost."""
    n, bits = 9, SMALL["float16"][0]
    layer = Layer("y", "Linear", ("x",), (3.0,), "", absolutes=(3.0,), count=n + 2, entries=(n, 1))
    a, _ = compose([layer], "x", "y", "float16").error
    x = [Fraction(1), *[Fraction(1, 2**bits)] * (n - 1)]
    total = Fraction(0)
    for v in x:
        total = rounded(total + v, "float16", False)
    lost = sum(x) - total
    assert lost == Fraction(n - 1, 2**bits)
    assert lost <= a / math.sqrt(2) <= 5 * lost


@pytest.mark.parametrize("flush", [False, True])
@pytest.mark.parametrize("shift", [0.0, 5e6])
def test_float32_of_torch_stays_within_its_bound(flush, shift):
    """Convolutions, pools, batch norm, branches; biases of 5e6, as in nets that broke others."""
    torch.manual_seed(0)
    model = Branches().eval()
    with torch.no_grad():
        model.conv.bias.add_(shift)
        model.conv.weight[0, 0] = 1e-39  # subnormal
    certificate = prove(model, (2, 8, 8), arithmetic="float32")
    a, b = certificate.composed.error
    x = torch.randn(40, 2, 8, 8)
    exact = replay(certificate.program, x.double())
    try:
        torch.set_flush_denormal(flush)
        with torch.no_grad():
            whole, parts = model(x), torch.cat([model(part) for part in x.split(7)])
    finally:
        torch.set_flush_denormal(False)
    allowed = a * norms_upper(x) + b
    for logits in (whole, parts):
        gaps = logits.double() - exact
        assert ((gaps.amax(1) - gaps.amin(1)) <= allowed).all()
    assert (gaps.amax(1) - gaps.amin(1)).max() > 1e-6 * allowed.min()


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.pool = nn.AvgPool2d(2)
        self.top = nn.MaxPool2d(2)
        self.fc = nn.Linear(8 * 16, 5)
        self.register_buffer("scale", torch.rand(1, 4, 1, 1))

    def forward(self, x):
        h = F.leaky_relu(self.norm(self.conv(x)), 0.2)
        h = h + 0.5 * (h * self.scale)
        h = torch.cat([self.pool(h), torch.clamp(self.top(h), -0.3, 0.7)], 1)
        return self.fc(torch.flatten(h, 1))


FUNCTIONS = {
    "add": lambda x, c: x + c,
    "sub": lambda x, c: 0.1 - x,
    "add alpha": lambda x, c: torch.add(x, x.flip(-1), alpha=0.3),
    "mul": lambda x, c: x * c,
    "div": lambda x, c: x / 3.0,
    "mean": lambda x, c: x.mean(-1, keepdim=True),
    "sum": lambda x, c: x.sum(-1, keepdim=True),
    "clamp": lambda x, c: x.clamp(0.1, 0.7),
    "maximum": lambda x, c: torch.maximum(x, c),
    "cat": lambda x, c: torch.cat([x, x * 0.1], 1),
    "pad": lambda x, c: F.pad(x, (1, 2), value=0.1),
    "abs": lambda x, c: torch.abs(x),
    "softsign": lambda x, c: F.softsign(x),
    "leaky": lambda x, c: F.leaky_relu(x, 0.3),
    "relu6": lambda x, c: F.relu6(4 * x),
    "hardtanh": lambda x, c: F.hardtanh(x, -0.3, 0.1),
    "average": lambda x, c: F.avg_pool1d(x.unsqueeze(1), 3, 1, 1).flatten(1),
}


class Function(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.function = name
        self.register_buffer("c", torch.rand(1, 9))

    def forward(self, x):
        return FUNCTIONS[self.function](x, self.c)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_stay_within_their_bound(name):
    torch.manual_seed(0)
    model = Function(name)
    certificate = prove(model, (9,), arithmetic="float32")
    a, b = certificate.composed.error
    for scale in (1.0, 1e-3, 1e4):
        x = scale * torch.randn(200, 9)
        gaps = model(x).double() - replay(certificate.program, x.double())
        assert (gaps.norm(dim=1) <= (a * norms_upper(x) + b) / math.sqrt(2)).all()
    if name not in ("abs", "maximum", "relu6"):
        assert a + b > 0


@pytest.mark.parametrize(
    "kind", [nn.ReLU(), nn.MaxPool1d(3), nn.Flatten(), nn.ReflectionPad1d(2), MaxMin()], ids=str
)
def test_selections_make_no_error(kind):
    x = torch.randn(5, 3, 6)
    certificate = prove(kind, (3, 6), arithmetic="float32")
    assert certificate.composed.error == (0.0, 0.0)
    assert torch.equal(kind(x).double(), kind(x.double()))


def test_convolutions_of_all_kinds_stay_within_their_bound():
    for options in (
        {"stride": 2, "padding": 1},
        {"padding": 1, "padding_mode": "circular", "dilation": 2},
        {"groups": 2, "padding": (0, 2)},
        {"padding": 2, "padding_mode": "reflect"},
    ):
        torch.manual_seed(0)
        model = nn.Conv2d(4, 6, 3, **options)
        a, b = prove(model, (4, 9, 9), arithmetic="float32").composed.error
        x = torch.randn(50, 4, 9, 9)
        gaps = model(x).double() - copy_in_double(model)(x.double())
        errors = gaps.flatten(1).norm(dim=1)
        assert (errors <= (a * norms_upper(x) + b) / math.sqrt(2)).all()


def copy_in_double(model):
    import copy

    return copy.deepcopy(model).double()


def test_bound_grows_with_every_part_of_a_row():
    plain = {"absolutes": (2.0,), "count": 5, "constant": 1.0, "entries": (4, 4)}

    def composed(**change):
        layer = Layer("y", "Linear", ("x",), change.pop("gains", (1.0,)), "", **(plain | change))
        return compose(
            [layer, Layer("z", "ReLU", ("y",), (1.0,), "", absolutes=(1.0,))], "x", "z", "float32"
        )

    base = composed()
    for change in ({"absolutes": (2.1,)}, {"count": 6}, {"constant": 1.1}):
        error = composed(**change).error
        assert error >= base.error
        assert error != base.error
    assert composed(gains=(1.1,)).lipschitz > base.lipschitz
    assert composed(absolutes=(3.0,)).norm_limit < base.norm_limit


def test_overflow_is_refused_and_bounds_the_norm():
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.fill_(1e30)
        model.bias.zero_()
    limit = prove(model, (2,), arithmetic="float32").composed.norm_limit
    assert limit < 1e8
    certificate = prove(model, (2,), arithmetic="float32")
    x = torch.tensor([[1e9, 0.0]])
    assert certificate.radius(torch.tensor([[1.0, 0.0]]), torch.tensor([0]), x).item() == 0.0
    with torch.no_grad():
        model.bias.fill_(3e38)
    with pytest.raises(UnprovenError, match="may overflow"):
        prove(model, (2,), arithmetic="float32")


@pytest.mark.parametrize("name", ["mean", "sum", "average", "add", "sub", "mul", "div"])
def test_nothing_overflows_up_to_the_norm_limit(name):
    torch.manual_seed(0)
    model = Function(name)
    limit = prove(model, (9,), arithmetic="float32").composed.norm_limit
    for x in (torch.full((1, 9), limit / 3), torch.eye(9) * limit):
        assert norms_upper(x).max() <= 1.001 * limit
        assert model(x).isfinite().all()


def test_too_many_terms_for_the_precision_are_refused():
    layer = Layer("y", "Linear", ("x",), (1.0,), "", absolutes=(1.0,), count=2000, entries=(4, 4))
    with pytest.raises(UnprovenError, match="too many terms"):
        compose([layer], "x", "y", "float16")


def test_a_layer_of_ones_own_needs_gains_and_rounding():
    class Halve(nn.Module):
        def forward(self, x):
            return x.mul(0.5)

    @op(Halve)
    class HalveOp(AbstractOp):
        proof = "factor"

        def gains(self, site):
            return (0.5,)

    with pytest.raises(UnprovenError, match=r"Halve has no proven rounding error.*`rounding`"):
        prove(Halve(), (3,))
    assert prove(Halve(), (3,), arithmetic="real").bound.value < 0.5 + 1e-9
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HalveOp, "rounding", lambda self, site: Rounding(1, 0.5))
        assert prove(Halve(), (3,)).composed.error[0] > 0


def test_norms_are_never_below_the_exact_ones():
    torch.manual_seed(0)
    for scale in (1.0, 1e-30, 1e-44, 1e30, 3e38 / 9):
        x = (scale * torch.randn(30, 7)).float()
        y = (x + scale * torch.rand(30, 1) * torch.randn(30, 7)).float()
        for upper, rows in ((norms_upper(x), x.double()), (l2_distance_upper(x, y), None)):
            for i in range(30):
                exact = (
                    [Fraction(v) for v in rows[i].tolist()]
                    if rows is not None
                    else [
                        Fraction(p) - Fraction(q)
                        for p, q in zip(x[i].tolist(), y[i].tolist(), strict=True)
                    ]
                )
                square = sum(v * v for v in exact)
                assert Fraction(upper[i].item()) ** 2 >= square
                assert Fraction(upper[i].item()) ** 2 <= square * (
                    1 + Fraction(1, 10**12)
                ) + Fraction(1, 10**300)


def test_float32_understates_distances_and_the_helper_does_not():
    torch.manual_seed(0)
    x = torch.rand(300, 3072)
    y = x + 1e-3 * torch.randn_like(x)
    short = (x - y).norm(dim=1).double()
    exact = [
        sum((Fraction(p) - Fraction(q)) ** 2 for p, q in zip(a, b, strict=True))
        for a, b in zip(x[:20].tolist(), y[:20].tolist(), strict=True)
    ]
    assert any(Fraction(s) ** 2 < e for s, e in zip(short.tolist(), exact, strict=False))
    upper = l2_distance_upper(x, y)
    assert all(Fraction(u) ** 2 >= e for u, e in zip(upper.tolist(), exact, strict=False))
    with pytest.raises(ValueError, match="same shape"):
        l2_distance_upper(x, y[:1])


def test_batch_norm_alone_stays_within_its_bound():
    """Far means and small variances: the difference cancels."""
    torch.manual_seed(0)
    model = nn.BatchNorm1d(6).eval()
    with torch.no_grad():
        model.running_mean.normal_(0, 100)
        model.running_var.uniform_(1e-4, 4)
        model.weight.normal_()
        model.bias.normal_()
    certificate = prove(model, (6,), arithmetic="float32")
    a, b = certificate.composed.error
    x = model.running_mean + torch.randn(500, 6)
    gaps = (model(x).double() - replay(certificate.program, x.double())).norm(dim=1)
    allowed = (a * norms_upper(x) + b) / math.sqrt(2)
    assert (gaps <= allowed).all()
    assert gaps.max() > 1e-3 * allowed.min()


def test_weights_that_are_flushed_to_zero_are_counted():
    """Their share of the output is lost, however large the input is."""
    weight = 2.0**-20  # subnormal in float16
    layer = Layer("y", "Linear", ("x",), (2 * weight,), "", ("sum"), (2 * weight,), 6, 0.0, (4, 1))
    a, b = compose([layer], "x", "y", "float16").error
    x = [Fraction(30000)] * 4
    exact = sum(Fraction(weight) * v for v in x)
    got = computed_sum([Fraction(weight)] * 4, x, Fraction(0), random.Random(0), "float16", True)
    assert got == 0
    assert exact <= (Fraction(a) * norm_up(x) + Fraction(b)) / Fraction(math.sqrt(2))
