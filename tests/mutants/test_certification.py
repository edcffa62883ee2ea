"""Mutants of what composes rows into a certificate, and of radii: some check fails at each."""

import math
from dataclasses import replace
from fractions import Fraction as Q

import numpy as np
import pytest
import torch
from torch import nn

import forgery
import unit.certification.test_certify as reals
import unit.certification.test_certify_program as programs
from mutation import mutate, name_of, survives
from taut.certification import _certificate, _changes, _predict, _radius, prove, verifier
from taut.program import LipschitzBound, Rounding, UnprovenError, _compose, _head, compose
from taut.program._compose import FORMATS, Composed, Format, Layer

C, G, L, P, R = _certificate, _changes, _compose, _predict, _radius
H = _head
TO_CLASSES = "executed_radii_to_classes"

ROWS = [
    Layer("a", "Linear", ("x",), (1.3,), "", "sum", (2.1,), 5, 0.7, (6, 4)),
    Layer("b", "Linear", ("a",), (2.6,), "", "sum", (0.4,), 3, 0.2, (4, 9)),
    Layer("c", "cat", ("a", "b"), (1.1, 0.9), "", "root", (1.2, 1.5), 2, 0.0, (13, 13)),
    Layer("d", "add", ("c", "a"), (1.0, 0.5), "", "sum", (1.0, 0.7), 1, 0.3, (17, 13)),
    Layer("e", "ReLU", ("d",), (1.0,), "", "sum", (1.0,), 0, 0.0, (13, 13)),
    Layer("f", "Linear", ("e",), (1.7,), "", "sum", (1.9,), 4, 0.5, (13, 3)),
]
CHAIN = [ROWS[0], ROWS[1], replace(ROWS[4], inputs=("b",)), ROWS[5]]
COARSE = Format(2.0**-8, 2.0**-6, 2.0**20)
"""So few bits that no term of the error hides behind another."""


def root(q):
    """Of a rational, less than 2^-200 of it too small."""
    if q == 0:
        return q
    shift = 200 + abs(q.denominator.bit_length() - q.numerator.bit_length())
    return Q(math.isqrt(int(q * 4**shift)), 2**shift)


def exact(rows, f):
    """Lipschitz constant, error of one value and norm limit, after each row."""
    states, limit = {"x": (Q(1), (Q(1), Q(0)), (Q(0), Q(0)))}, Q(f.largest) / 4
    for row in rows:
        total = sum if row.combine == "sum" else lambda t: root(sum(v * v for v in t))
        gamma = row.count * Q(f.u) / (1 - row.count * Q(f.u))
        read, written = (root(Q(n)) for n in row.entries)
        constant, lost = Q(row.constant), 10 * row.count * Q(f.smallest) * written
        terms, base, slope = [], constant, Q(0)
        for gain, modulus, name in zip(row.gains, row.absolutes, row.inputs, strict=True):
            g, a, (bound, r, d) = Q(gain), Q(modulus), states[name]
            k = gamma * a + (Q(f.smallest) * read * written if row.count else 0)
            lost += a * Q(f.smallest) * read if row.count else 0
            slope, base = slope + max(g, a) * (r[0] + d[0]), base + max(g, a) * (r[1] + d[1])
            terms.append(
                (g * bound, g * r[0], g * r[1], *((g + k) * d[i] + k * r[i] for i in (0, 1)))
            )
        limit = min(limit, (Q(f.largest) / 4 - base - lost) / slope)
        bound, r0, r1, d0, d1 = map(total, map(list, zip(*terms, strict=True)))
        states[row.name] = bound, (r0, r1 + constant), (d0, d1 + gamma * constant + lost)
        yield bound, states[row.name][2], limit


def just_above(value, true):
    assert true <= Q(value) <= true * (1 + Q(1, 10**10))


def check_rows():
    alone = [[replace(row, inputs=("x",) * len(row.inputs))] for row in ROWS]
    for f in (COARSE, FORMATS["float32"], FORMATS["float64"]):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(FORMATS, "this", f)
            for rows in (*alone, *(ROWS[:i] for i in range(1, 7))):
                *_, (bound, error, limit) = exact(rows, f)
                found = compose(rows, "x", rows[-1].name, "this")
                just_above(found.lipschitz, bound)
                for value, true in zip(found.error, error, strict=True):
                    just_above(Q(value) ** 2, 2 * true**2)
                assert limit * (1 - Q(1, 10**10)) <= Q(found.norm_limit) <= limit
    for i in range(2, 7):
        before = [v for v, *_ in exact(ROWS, COARSE)]
        constants = compose(ROWS[:i], "x", ROWS[i - 1].name, "float64").constants
        for name in ROWS[i - 1].inputs:
            just_above(constants[name], before["abcdef".index(name)])


def check_refusals_of_rows():
    row = ROWS[0]
    with pytest.raises(UnprovenError, match="too many terms"):
        compose([replace(row, count=2**23 + 1)], "x", "a", "float32")
    with pytest.raises(UnprovenError, match="may overflow"):
        compose([replace(row, constant=1e38)], "x", "a", "float32")
    with pytest.raises(UnprovenError, match="may overflow"):
        compose([replace(row, gains=(1e38,))], "x", "a", "float32")
    with pytest.raises(UnprovenError, match="not finite"):
        compose([replace(row, gains=(math.inf,))], "x", "a", "real")
    assert compose([], "x", "x", "float32").norm_limit < 1e38


def check_widened():
    room = 1 + Q(1, 2**41)
    layer = Layer("a", "Linear", ("x",), (2.5,), "")
    row = layer.rounded(Rounding(7, 3.5, 4.5)).widened()
    for wide, value in ((row.gains[0], 2.5), (row.absolutes[0], 3.5), (row.constant, 4.5)):
        assert value * room <= Q(wide) <= value * (1 + Q(1, 2**39))
    assert row.count == 7
    assert layer.rounded(Rounding(1, 0.5)).absolutes == layer.rounded(None).absolutes == (2.5,)
    assert _compose.widened(1.0) == 1.0
    assert _compose.widened(1.5) > 1.5


def check_formats():
    for name, f in FORMATS.items():
        info = np.finfo(name)
        assert (f.u, f.smallest, f.largest) == (info.eps / 2, info.smallest_normal, info.max)
        assert verifier.FORMATS[name] == (Q(f.u), Q(f.smallest), Q(f.largest))


# Radii, against exact numbers where much cancels.


def check_radii():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(4000, 3, generator=generator, dtype=torch.float64)  # differences are rounded
    slopes = torch.rand(3, 3, generator=generator, dtype=torch.float64) + 0.5
    slopes = slopes + slopes.T
    labels = z.argmax(1)
    radius = _radius.certified_radius(z, labels, LipschitzBound(9.0, (), slopes))
    assert (radius > 0).all()
    for row, y, r in zip(z.tolist(), labels.tolist(), radius.tolist(), strict=True):
        ratios = [(Q(row[y]) - Q(row[j])) / Q(slopes[y, j].item()) for j in range(3) if j != y]
        assert min(ratios) * (1 - Q(1, 10**9)) < Q(r) < min(ratios)


def check_executed_radii():
    """Margins from just below to far above what the error leaves."""
    generator = torch.Generator().manual_seed(0)
    n = 600
    size, more = torch.rand(2, n, generator=generator, dtype=torch.float64)
    for a, b, pair in ((0.3, 0.7, 1.1), (1e-9, 0.7, 1.1), (0.3, 1e-9, 0.37), (1.3, 1e-9, 0.7)):
        z = torch.rand(n, 2, generator=generator, dtype=torch.float64) * 1e-3
        lead = 4 * (a * size + b) + 10 ** (-18 * more) * torch.where(more > 0.1, 1, -1)
        z[:, 0] = z[:, 1] + lead
        slopes = torch.full((2, 2), pair, dtype=torch.float64)
        composed = Composed(9.0, error=(a, b), norm_limit=1e9)
        bound = LipschitzBound(9.0, (), slopes)
        first = torch.zeros(n).long()
        assert torch.equal(
            _radius.executed_radius(z, first, size, bound, composed),
            _radius.executed_radii_to_classes(z, first, size, bound, composed)[:, 1],
        )
        for s in (1.0, 2.7):
            given = z, first, size, bound, composed, s
            radius = _radius.executed_radii_to_classes(*given).amin(1)
            lines = zip(z.tolist(), size.tolist(), radius.tolist(), strict=True)
            for (top, other), t, r in lines:
                room, slope = Q(top) - Q(other) - 4 * (Q(a) * Q(t) + Q(b)), Q(pair) + Q(a) * Q(s)
                assert r == 0 or slope * Q(r) < room
                assert slope * Q(r) > room * (1 - Q(1, 10**9)) - Q(1, 10**14)


def check_norm_limit():
    programs.test_radius_stays_within_the_norm_limit()
    norms = torch.rand(500, dtype=torch.float64)
    logits = torch.tensor([[1e6, 0.0]]).double().repeat(500, 1)
    bound, composed = LipschitzBound(1.0), Composed(1.0, norm_limit=1.7)
    for s in (1.0, 2.7):
        given = logits, torch.zeros(500).long(), norms, bound, composed, s
        radius = _radius.executed_radii_to_classes(*given).amin(1)
        for r, t in zip(radius.tolist(), norms.tolist(), strict=True):
            assert Q(s) * Q(r) + Q(t) <= Q(1.7)


def check_zero_radii():
    for row in ([1.0, 1.0], [0.0, 1.0], [math.nan, 0.0], [math.inf, 0.0], [0.0, -math.inf]):
        logits, label = torch.tensor([[*row, -1.0]]), torch.tensor([0])
        assert _radius.certified_radius(logits, label, 1.0).item() == 0.0
        composed = Composed(1.0, norm_limit=1e9)
        found = _radius.executed_radius(
            logits, label, torch.ones(1).double(), LipschitzBound(1.0), composed
        )
        assert found.item() == 0.0
    for labels in ([-1], [3]):
        with pytest.raises(ValueError, match="labels"):
            _radius.certified_radius(torch.eye(3)[:1], torch.tensor(labels), 1.0)
    for bound in (math.nan, -1.0):
        reals.test_bounds_that_cannot_be_are_refused(bound)
    pairs = LipschitzBound(1.0, (), torch.ones(5, 5).double())
    with pytest.raises(ValueError, match="3 classes"):
        _radius.certified_radius(torch.eye(3)[:1], torch.tensor([0]), pairs)


def check_margins():
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0], [-1.0, -3.0, -2.0]])
    found = _radius.logit_margin(logits, torch.tensor([0, 2, 0]))
    assert found.tolist() == [1.0, -4.0, 1.0]


def check_eps():
    reals.test_eps_is_compared_as_an_exact_ratio()
    reals.test_inequality_is_strict_and_keys_are_kept("1/2")
    for eps in ("1/0", "nan", "-1", "x"):
        reals.test_wrong_eps_is_refused_at_once(eps)


# Whole certificates.


def check_float32():
    """Both parts of a float32 certificate are those of float32."""
    model = forgery.orthogonal().eval()
    single, double = (prove(model, (2, 8, 8), arithmetic=a) for a in ("float32", "float64"))
    assert single.composed.error[0] > 1e8 * double.composed.error[0]
    assert double.logits(torch.rand(1, 2, 8, 8)).dtype == torch.float64
    assert single.logits(torch.rand(1, 2, 8, 8)).dtype == torch.float32
    for dtype in (torch.float64, torch.bfloat16):
        programs.test_float32_needs_float32_weights(dtype)
    z, x = torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0]]), torch.ones(1, 2, 8, 8)
    radii = [single.radius(z, torch.tensor([0]), s * x).item() for s in (0.0, 1.0, 10.0)]
    assert radii == sorted(radii, reverse=True)
    assert len(set(radii)) == 3


EXACTLY = "donot_use_mm_for_euclid_dist"


def check_pairs():
    """Two dense layers: the constants hold for the product of the matrices."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)).double()
    with torch.no_grad():
        model[0].weight.mul_(10)
    pairwise = prove(model, (5,)).bound.pairwise
    first, last = model[0].weight.detach(), model[1].weight.detach()
    for i in range(3):
        for j in range(3):
            norm = (last[i] - last[j]).norm() * torch.linalg.matrix_norm(first, 2)
            assert pairwise[i, j] >= norm * (1 - 1e-15)
    alone = prove(model[1:], (4,)).bound.pairwise
    assert (alone >= torch.cdist(last, last, compute_mode=EXACTLY) * (1 + 2.0**-41)).all()


def check_changes():
    """Pixels that are their own logits: another one wins at margin / (sqrt(2) w)."""
    x = torch.rand(50, 3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    top = x.sort(1).values
    reach = (top[:, -1] - top[:, -2]) / math.sqrt(2)
    pixels = nn.Conv2d(3, 3, 1, bias=False).double()
    with torch.no_grad():
        pixels.weight.copy_(torch.eye(3)[..., None, None])
    for weights in ([3.0, 3.0, 3.0], [3.0, 3.0, 2.9], [2.9, 3.0, 3.0]):
        weights = torch.tensor(weights).reshape(3, 1, 1)
        for factor in (1.0, 1 / 3):
            found = _predict.predict(pixels, x, weights=weights.double() * factor).radius
            assert (found <= reach / (3 * factor) * (1 + 1e-12)).all()
            assert (found >= reach / (3 * factor) * (1 - 1e-5)).all()
    odd = torch.tensor([0.7], dtype=torch.float64)  # which float32 rounds down
    assert _predict._factors(None, odd, (1,), torch.zeros(1)).double() > odd
    masked = _predict._factors(torch.tensor([1, 0]), None, (2,), torch.zeros(1))
    assert masked[0] == 1
    assert 0 < masked[1] < 1e-6


def check_pairs_of_changes():
    """Two logits of a matrix, where the weights change the pair that is nearest."""
    head = nn.Linear(3, 3, bias=False).double()
    with torch.no_grad():
        head.weight.copy_(torch.eye(3))
    x = torch.tensor([[3.0, 2.0, 1.0]], dtype=torch.float64)
    found = _predict.predict(head, x, weights=torch.full((3,), 2.0)).radii[0]
    assert found[1].item() == pytest.approx(1 / (2 * math.sqrt(2)), rel=1e-6)
    assert found[2].item() == pytest.approx(2 / (2 * math.sqrt(2)), rel=1e-6)


def check_one_output():
    head = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        head.weight.fill_(2.0)
    x = torch.tensor([[0.5], [-0.25]], dtype=torch.float64)
    found = _predict.predict(head, x)
    assert found.classes.tolist() == [1, 0]
    assert found.radius.tolist() == pytest.approx([0.5, 0.25], rel=1e-9)
    assert (found.radius <= x.abs().flatten()).all()


MUTANTS = {
    check_rows: [
        (L, "_Recursion.add", 'layer.combine == "sum"', "True"),
        (L, "_Recursion.add", 'layer.combine == "sum"', "False"),
        (L, "_Recursion.add", "up_product(g, s.lipschitz)", "s.lipschitz"),
        (L, "_Recursion.add", "up_product(g, s.r[i])", "s.r[i]"),
        (L, "_Recursion.add", "up_sum(norms[1], layer.constant)", "norms[1]"),
        (L, "_Recursion.add", "(norms[0], up_sum", "(norms[1], up_sum"),
        (L, "_Recursion.add", "self.format is not None", "False"),
        (L, "_Recursion._error", "up_root(float(n))", "float(n)"),
        (L, "_Recursion._error", "up_root(float(n))", "1.0"),
        (L, "_Recursion._error", "gamma(layer.count, f.u)", "layer.count * f.u"),
        (L, "_Recursion._error", "up_product(relative, a)", "relative"),
        (L, "_Recursion._error", ", up_product(f.smallest, read, written)", ""),
        (L, "_Recursion._error", "up_sum(lost, up_product(a, f.smallest, read))", "lost"),
        (L, "_Recursion._error", "kept = up_sum(g, k)", "kept = g"),
        (L, "_Recursion._error", ", up_product(k, s.r[0])", ""),
        (L, "_Recursion._error", ", up_product(k, s.r[1])", ""),
        (L, "_Recursion._error", "up_product(kept, s.d[0]), ", ""),
        (L, "_Recursion._error", "up_product(kept, s.d[1]), ", ""),
        (L, "_Recursion._error", "10.0 * layer.count", "5.0 * layer.count"),
        (L, "_Recursion._error", "up_product(relative, layer.constant), ", ""),
        (L, "_Recursion._error", ", layer.constant), lost)", ", layer.constant))"),
        (L, "_Recursion._error", 'layer.combine == "sum"', "True"),
        (L, "_Recursion._error", 'layer.combine == "sum"', "False"),
        (L, "_Recursion._limit", "max(g, a)", "g"),
        (L, "_Recursion._limit", "max(g, a)", "a"),
        (L, "_Recursion._limit", "up_sum(s.r[0], s.d[0])", "s.r[0]"),
        (L, "_Recursion._limit", "up_sum(s.r[0], s.d[0])", "s.d[0]"),
        (L, "_Recursion._limit", "up_sum(s.r[1], s.d[1])", "s.r[1]"),
        (L, "_Recursion._limit", "up_sum(s.r[1], s.d[1])", "s.d[1]"),
        (L, "_Recursion._limit", "else f.largest / 4", "else f.largest"),
        (L, "_Recursion._limit", "up_sum(layer.constant, lost)", "lost"),
        (L, "_Recursion._limit", "up_sum(layer.constant, lost)", "layer.constant"),
        (L, "_Recursion._limit", "min(self.norm_limit, ", "max(0.0, "),
        (L, "compose", "up_product(UP_SQRT2, last.d[0])", "last.d[0]"),
        (L, "compose", "up_product(UP_SQRT2, last.d[1])", "last.d[1]"),
        (L, "compose", "recursion.states[output]", "next(iter(recursion.states.values()))"),
    ],
    check_refusals_of_rows: [
        (L, "_Recursion._error", "not relative <= 1", "False"),
        (L, "_Recursion._limit", "room > 0", "True"),
        (L, "_Recursion._limit", "<= f.largest / 4", "<= f.largest"),
        (L, "compose", "all(map(math.isfinite, (last.lipschitz, *error, *last.r)))", "True"),
        (L, "compose", "math.inf if format_ is None", "math.inf if True"),
    ],
    check_widened: [
        (
            L,
            "Layer.widened",
            "tuple(widened(gain, self.rows) for gain in self.gains)",
            "self.gains",
        ),
        (L, "Layer.widened", "tuple(map(widened, self.absolutes))", "self.absolutes"),
        (L, "Layer.widened", "widened(self.constant)", "self.constant"),
        (L, "Layer.rounded", "max(rounding.absolute, gain)", "rounding.absolute"),
        (L, "Layer.rounded", "count=rounding.count", "count=1"),
        (L, "widened", "1 + room", "1.0"),
        (L, "widened", "min(wide, 1.0)", "wide"),
        (L, "widened", "value <= 1.0", "value <= 2.0"),
    ],
    check_radii: [
        (
            R,
            "radii_to_classes",
            "next_down(z.gather(1, labels[:, None]) - z)",
            "(z.gather(1, labels[:, None]) - z)",
        ),
        (R, "radii_to_classes", "next_down(gaps / ", "(gaps / "),
        (R, "certified_radius", "amin(1)", "nan_to_num(0, 0, 0).amax(1)"),
        (R, "_constants", "[labels]", "[labels * 0]"),
        (R, "_constants", "bound.pairwise is not None", "False"),
        (R, "next_down", "-math.inf", "math.inf"),
        (R, "_kept", ".scatter(1, labels[:, None], math.inf)", ""),
    ],
    check_executed_radii: [
        (R, "margin_error", "_CONFIRM * ", ""),
        (R, "margin_error", "next_up(next_up(a * norms) + b)", "next_up(next_up(a * norms))"),
        (R, "margin_error", "next_up(a * norms) + b", "next_up(0 * norms) + b"),
        (R, TO_CLASSES, "z.shape[1]) + slope)", "z.shape[1]))"),
        (R, TO_CLASSES, "up_product(composed.error[0], stretch)", "composed.error[0]"),
        (R, TO_CLASSES, " - error)", ")"),
        (R, "next_up", "math.inf", "-math.inf"),
    ],
    check_changes: [
        (G, "bound_changes", "composed.lipschitz", "certificate.bound.value"),
        (G, "bound_changes", "composed.lipschitz", "0.9 * composed.lipschitz"),
        (G, "least_shape", "torch.equal(first.expand_as(weights), weights)", "True"),
        (
            P,
            "_factors",
            "torch.where(rounded.double() < factors, next_up(rounded), rounded)",
            "rounded",
        ),
        (P, "_factors", ".clamp_min(float(most) * _LEAST)", ""),
    ],
    check_pairs_of_changes: [
        (
            G,
            "bound_changes",
            "pairwise_of(program, composed.constants)",
            "certificate.bound.pairwise",
        ),
        (
            G,
            "bound_changes",
            "composed.constants)",
            "{k: 0.9 * v for k, v in composed.constants.items()})",
        ),
    ],
    check_one_output: [
        (R, "class_bound", "bound.value], [bound.value", "0.9 * bound.value], [0.9 * bound.value"),
        (R, "class_bound", "((), (1,))", "((),)"),
        (R, "class_logits", "[torch.zeros_like(z), z]", "[z, torch.zeros_like(z)]"),
    ],
    check_norm_limit: [
        (
            R,
            TO_CLASSES,
            "torch.minimum(next_down(gaps / slopes), _beside(limit, z))",
            "gaps / slopes",
        ),
        (R, TO_CLASSES, "composed.norm_limit - norms", "composed.norm_limit + 0 * norms"),
        (R, TO_CLASSES, " / stretch)", ")"),
    ],
    check_zero_radii: [
        (R, "_kept", "finite & ", ""),
        (R, "_kept", " & (radii > 0)", ""),
        (R, "_check", "0 <= int", "-1 <= int"),
        (R, "_check", "< logits.shape[1]:", "<= logits.shape[1]:"),
        (R, "constant_of", "not value >= 0", "False"),
        (R, "_constants", "bound.pairwise.shape != (classes, classes)", "False"),
    ],
    reals.test_margin_over_root_two_rounds_down: [
        (R, "_constants", "up_product(UP_SQRT2, value)", "value"),
        (R, "_constants", "UP_SQRT2", "1.414"),
    ],
    check_margins: [
        (R, "logit_margin", "amax(1)", "amin(1)"),
        (R, "logit_margin", "-math.inf", "0.0"),
    ],
    check_eps: [
        (R, "as_rational", "value < 0", "value < -1"),
        (R, "above", "down(as_rational(eps))", "float(as_rational(eps))"),
        (R, "above", "radius > ", "radius >= "),
    ],
    check_float32: [
        (C, "prove", "check_arithmetic(", "(lambda *_: None)("),
        (C, "Certificate.radius", 'self.arithmetic == "real"', "True"),
        (C, "Certificate.radius", "norms_upper(images", "norms_upper(0 * images"),
        (
            C,
            "Certificate.outputs",
            "_PRECISIONS.get(self.arithmetic, inputs.dtype)",
            "torch.float32",
        ),
        (
            C,
            "Certificate.outputs",
            "_PRECISIONS.get(self.arithmetic, inputs.dtype)",
            "torch.float64",
        ),
        (C, "prove", "composition_of(program, arithmetic,", 'composition_of(program, "float64",'),
    ],
    check_pairs: [
        (H, "pairs_of", "constants[head.source]", "1.0"),
        (C, "pairwise_of", " * (1 + 2.0**-40)", ""),
    ],
}
"""By the check that fails."""

EQUIVALENT = [
    # A positive number rounded down is at least 0; a radius of 0 is one of 0.
    (R, "_kept", "radii > 0", "radii >= 0"),
    # The sum after it is rounded up by at least what the product may lack.
    (R, "margin_error", "next_up(a * norms) + b", "a * norms + b"),
    # Of the roundings of a radius the others are more than the one left out.
    (R, TO_CLASSES, "next_down(gaps / slopes)", "(gaps / slopes)"),
    (
        R,
        TO_CLASSES,
        "next_down(composed.norm_limit - norms) / stretch",
        "(composed.norm_limit - norms) / stretch",
    ),
]
SOUND = [check_zero_radii, check_executed_radii, check_pairs]


def changed(patch, module, name, old, new):
    """Mutate a function, also where this file and the tests have it."""
    original = vars(module).get(name)
    mutate(patch, module, name, old, new)
    for users in (globals(), vars(reals), vars(programs)):
        if original is not None and users.get(name) is original:
            patch.setitem(users, name, vars(module)[name])


def test_checks_hold_without_mutants():
    check_formats()
    for check in MUTANTS:
        check()


@pytest.mark.parametrize(
    ("check", "mutant"), [(c, m) for c, mutants in MUTANTS.items() for m in mutants], ids=name_of
)
def test_mutant_is_killed(check, mutant):
    with pytest.MonkeyPatch.context() as patch:
        changed(patch, *mutant)
        assert not survives([check])


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_another_format_is_noticed(name):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FORMATS, name, COARSE)
        assert not survives([check_formats])


@pytest.mark.parametrize("mutant", EQUIVALENT, ids=name_of)
def test_equivalent_mutant_is_sound(mutant):
    with pytest.MonkeyPatch.context() as patch:
        changed(patch, *mutant)
        assert survives(SOUND)
