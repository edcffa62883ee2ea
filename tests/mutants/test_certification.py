"""Mutants of the certifier: every one that is not equivalent makes a named check fail."""

import cmath
import json
import math
from dataclasses import replace
from fractions import Fraction as Q
from hashlib import sha256

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from taut.certification._layers import FORMATS, Composed, Format, Layer, compose
from torch import nn

import taut
import unit.certification.test_certificate as files
import unit.certification.test_certify as reals
import unit.certification.test_certify_program as programs
from mutants.test_linalg import mutate, survives
from taut.certification import _certificate, _layers, _radius, certify, prove, verifier
from taut.certification._certificate import canonical
from taut.program import LipschitzBound, Rounding, UnprovenError, _rounding, rounding_of

# Rows of a program, against the recursion in exact numbers.

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
        read = max(before["abcdef".index(name)] for name in ROWS[i - 1].inputs)
        just_above(compose(ROWS[:i], "x", ROWS[i - 1].name, "float64").features, read)


def check_rows_of_the_verifier():
    keys = ("gains", "count", "constant", "absolutes", "entries")
    rows = [{key: getattr(row, key) for key in keys} for row in CHAIN]
    for i in range(1, 5):
        f = COARSE
        before, slope, d, limit = verifier.compose(rows[:i], Q(f.u), Q(f.smallest), Q(f.largest))
        results = list(exact(CHAIN[:i], f))
        just_above(slope, results[-1][0])
        just_above(before, results[-2][0] if i > 1 else Q(1))
        for value, true in zip(d, results[-1][1], strict=True):
            just_above(value, true)
        assert results[-1][2] * (1 - Q(1, 10**10)) <= limit <= results[-1][2]
    small = rows[0] | {"gains": (0.5,), "absolutes": (0.5,)}
    assert verifier.compose([small], Q(f.u), Q(f.smallest), Q(f.largest))[3] == Q(f.largest) / 4
    for key, wrong in (("count", -1), ("count", 1.0), ("constant", -1.0), ("gains", (-1.0,))):
        with pytest.raises(ValueError, match="below 0"):
            verifier.compose([rows[0] | {key: wrong}], Q(f.u), Q(f.smallest), Q(f.largest))


def check_refusals_of_rows():
    row = ROWS[0]
    with pytest.raises(UnprovenError, match="too many terms"):
        compose([replace(row, count=2**23 + 1)], "x", "a", "float32")
    with pytest.raises(UnprovenError, match="may overflow"):
        compose([replace(row, constant=1e38)], "x", "a", "float32")
    with pytest.raises(UnprovenError, match="not finite"):
        compose([replace(row, gains=(math.inf,))], "x", "a", "real")
    assert compose([], "x", "x", "float32").norm_limit < 1e38


def check_widened():
    room = 1 + Q(1, 2**41)
    layer = Layer("a", "Linear", ("x",), (2.5,), "")
    row = layer.rounded(Rounding(7, 3.5, 4.5))
    for wide, value in ((row.gains[0], 2.5), (row.absolutes[0], 3.5), (row.constant, 4.5)):
        assert value * room <= Q(wide) <= value * (1 + Q(1, 2**39))
    assert row.count == 7
    assert layer.rounded(Rounding(1, 0.5)).absolutes[0] >= layer.rounded(None).gains[0]
    assert layer.rounded(None).gains[0] >= Q(5, 2) * room
    assert _layers.widened(1.0) == 1.0
    assert _layers.widened(1.5) > 1.5


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
        radius = _radius.executed_radius(z, torch.zeros(n).long(), size, bound, composed)
        lines = zip(z.tolist(), size.tolist(), radius.tolist(), strict=True)
        for (top, other), t, r in lines:
            room = Q(top) - Q(other) - 4 * (Q(a) * Q(t) + Q(b))
            assert r == 0 or (Q(pair) + Q(a)) * Q(r) < room
            assert (Q(pair) + Q(a)) * Q(r) > room * (1 - Q(1, 10**9)) - Q(1, 10**14)


def check_norm_limit():
    programs.test_radius_stays_within_the_norm_limit()
    norms = torch.rand(500, dtype=torch.float64)
    logits = torch.tensor([[1e6, 0.0]]).double().repeat(500, 1)
    bound, composed = LipschitzBound(1.0), Composed(1.0, norm_limit=1.7)
    radius = _radius.executed_radius(logits, torch.zeros(500).long(), norms, bound, composed)
    for r, t in zip(radius.tolist(), norms.tolist(), strict=True):
        assert Q(r) + Q(t) <= Q(1.7)


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

SAVED = {}


def circular():
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2, padding=1, padding_mode="circular"),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(48, 4),
    )


@pytest.fixture(scope="module", autouse=True)
def _saved(tmp_path_factory):
    """Honest certificates, written before anything is mutated."""
    folder = tmp_path_factory.mktemp("mutants")
    makers = {"plain": files.plain, "orthogonal": files.orthogonal, "circular": circular}
    for name, make in makers.items():
        model = make()
        x = torch.rand(4, 2, 8, 8, generator=torch.Generator().manual_seed(1))
        result = certify(model, x, model(x).argmax(1), eps=())
        SAVED[name] = (*result.save(folder / f"{name}.json"), x, model)
    SAVED["folder"] = folder
    yield
    SAVED.clear()


def written(content):
    path = SAVED["folder"] / "changed.json"
    path.write_text(canonical(content))
    return path


def check_honest():
    for name in ("plain", "orthogonal", "circular"):
        path, weights, x, _ = SAVED[name]
        assert "4 images" in verifier.verify(path, weights, x.numpy())


def check_fresh():
    """What is proven now, the verifier accepts, and finds as it was."""
    for name in ("plain", "circular"):
        _, _, x, model = SAVED[name]
        result = certify(model, x, model(x).argmax(1), eps=())
        path, weights = result.save(SAVED["folder"] / "fresh.json")
        verifier.verify(path, weights, x.numpy())
        old = json.loads(SAVED[name][0].read_text())
        assert result.certificate.to_json() in path.read_text() or result.content() == old
        assert taut.verify(path, model).bound == old["bound"]


def check_float32():
    """Both parts of a float32 certificate are those of float32."""
    model = files.orthogonal()
    single, double = (prove(model, (2, 8, 8), arithmetic=a) for a in ("float32", "float64"))
    assert single.composed.error[0] > 1e8 * double.composed.error[0]
    assert double.logits(model, torch.rand(1, 2, 8, 8)).dtype == torch.float64
    assert single.logits(model, torch.rand(1, 2, 8, 8)).dtype == torch.float32
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
    alone = _certificate.pairwise_of({"weight": "w"}, {"w": last}, 1.0)
    assert (alone >= torch.cdist(last, last, compute_mode=EXACTLY) * (1 + 2.0**-41)).all()


def forgery(case, change=None, saved="plain", points=True):
    """A check that the verifier refuses a change; a forger's header of the weights fits."""

    def check():
        path, weights, x, _ = SAVED[saved]
        content = json.loads(path.read_text())
        (change or files.TAMPERED.get(case) or files.POINTS[case])(content)
        forged = SAVED["folder"] / "forged.safetensors"
        save_file(load_file(weights), forged, {"graph_sha256": content["graph_sha256"]})
        with pytest.raises((ValueError, KeyError, TypeError, IndexError)):
            verifier.verify(written(content), forged, x.numpy() if points else ())

    check.__name__ = f"refuses: {case}"
    return check


def check_weight_files():
    path, weights, _, _ = SAVED["plain"]
    raw, content = weights.read_bytes(), json.loads(path.read_text())
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    last = max((n for n in header if n != "__metadata__"), key=lambda n: header[n]["data_offsets"])
    begin, end = header[last]["data_offsets"]

    def refuse(changed, data):
        text = json.dumps(changed).encode()
        other = SAVED["folder"] / "other.safetensors"
        other.write_bytes(len(text).to_bytes(8, "little") + text + data)
        with pytest.raises(ValueError, match=r"offsets|bytes|weights|graph"):
            verifier.read_weights(other, content)

    entry = header[last] | {"data_offsets": [begin + 4, end + 4]}
    refuse(header | {last: entry}, raw[start:])
    refuse(header, raw[start:] + b"0")
    refuse(header, raw[start:-1] + bytes([raw[-1] ^ 1]))
    refuse(header | {"__metadata__": {"graph_sha256": "0" * 64}}, raw[start:])
    read = verifier.read_weights(weights, content)
    for name, tensor in load_file(weights).items():
        assert np.array_equal(read[name], tensor.double().numpy())


def check_points():
    """A margin of 2 at (3, 1, 0), of which errors are taken off; the net is the identity."""
    x = np.array([3.0, 1.0, 0.0])
    own, (a, b), two, norm = (Q(1, 100), Q(1, 50)), (0.02, 0.03), math.sqrt(2), math.sqrt(10)
    room = 2 - two * (0.01 * norm + 0.02) - (a * norm + b)
    plain = {
        "error": [a, b], "images_sha256": [sha256(x.tobytes()).hexdigest()], "labels": [0],
        "input": {"shape": [3]}, "bound": 1.0, "pairwise": None, "norm_limit": 100.0,
    }  # fmt: skip
    pairs = [[0.0, 2.0, 1.0], [2.0, 0.0, 3.0], [1.0, 3.0, 0.0]]
    for slope, pairwise in ((two, None), (2.0, pairs)):
        most = room / (slope + a)
        file = plain | {"pairwise": pairwise, "radius": [most * (1 - 1e-9)]}
        verifier.check_points(file, [], {}, x[None], own)
        verifier.check_points(plain | {"radius": [0.0], "norm_limit": 1.0}, [], {}, x[None], own)
        for wrong in (
            {"radius": [most * (1 + 1e-9)]},
            {"norm_limit": norm + most * 0.99},
            {"labels": [1]},
            {"images_sha256": ["0" * 64]},
            {"input": {"shape": [1, 3]}},
            {"radius": [0.1, 0.1]},
        ):
            with pytest.raises(ValueError, match=r"proven|others|zip"):
                verifier.check_points(file | wrong, [], {}, x[None], own)


# Norms, as the verifier proves them.


def proves(kernel, torus, bound, moduli=1e300):
    try:
        return bool(verifier.prove_norms(np.asarray(kernel, float), torus, bound, moduli))
    except ValueError:
        return False


def check_norms_against_dense():
    for op, plain_op in list(files.operators())[::3]:
        size = op.shape[1]
        dense = op(torch.eye(size).double().reshape(size, -1, *op.input_size)).reshape(size, -1)
        norm, moduli = (torch.linalg.matrix_norm(m, 2).item() for m in (dense, dense.abs()))
        kernel, torus = verifier.on_torus(plain_op, op.kernel.numpy(), op.output_size)
        assert not proves(kernel, torus, norm * (1 - 1e-9))
        assert not proves(kernel, torus, 1e100, moduli * (1 - 1e-9)) or moduli == 0
        loose = abs(op.kernel).sum().item()
        top = math.sqrt(max(np.linalg.eigvalsh(g).max() for g in verifier.grams(kernel, torus)))
        assert proves(kernel, torus, max(top, norm) * (1 + 1e-7), 2 * loose)
        assert top >= norm * (1 - 1e-12)
        assert top <= norm * (1 + 1e-9) or plain_op["padding"] == "zeros"


def check_frequencies():
    """Peaks at frequency 0, at pi and in between, on even and odd tori; all scales."""
    for taps, norm in (([1, 1], 2), ([1, -1], 2), ([1, 0, -1], 2), ([3, 4], 7)):
        kernel = np.array(taps, float).reshape(1, 1, -1, 1)
        for scale in (1.0, 1e-200, 1e200):
            assert proves(scale * kernel, [8, 1], scale * norm * (1 + 1e-7))
            assert not proves(scale * kernel, [8, 1], scale * norm * (1 - 1e-9))
            assert not proves(scale * kernel.swapaxes(2, 3), [1, 8], scale * norm * (1 - 1e-9))


def check_coarse_grids():
    """A defect that peaks half way between the points of a grid of 4."""
    turn, small = math.pi / 4, 0.01
    kernel = np.zeros((2, 2, 2, 1))
    kernel[:, :, 0, 0] = math.sqrt(1 - small**2) * np.eye(2)
    cos, sin = math.cos(turn), math.sin(turn)
    kernel[:, :, 1, 0] = small * np.array([[cos, -sin], [sin, cos]])
    square = 1 + 2 * small * math.sqrt(1 - small**2)
    assert not proves(kernel, [400, 1], math.sqrt(1 + 0.9 * (square - 1)))
    assert proves(kernel, [400, 1], math.sqrt(1 + 1.2 * (square - 1)))
    files.test_verifier_sees_peaks_between_the_points_of_its_grid()


def check_lost_digits():
    """Terms that a sum in float64 loses to the 1 before them."""
    taps = np.array([1.0, *[2.0**-54] * 6]).reshape(1, 1, 7, 1)
    assert not proves(taps, [7, 1], 2.0, 1 + 2.0**-52)
    for entries in np.random.default_rng(0).uniform(0.5, 1, (200, 2)):
        square = sum(Q(v) ** 2 for v in entries)
        below = math.nextafter(math.sqrt(square), 0)
        below = below if Q(math.nextafter(below, 1)) ** 2 > square else math.nextafter(below, 1)
        assert Q(below) ** 2 < square
        assert not proves(entries.reshape(1, 2, 1, 1), [1, 1], below)


def check_witnesses():
    """Whatever factor is found, no bound below the norm passes."""
    kernel = files.plain()[5].weight.detach().double().numpy()[:, :, None, None]
    norm = np.linalg.norm(kernel[:, :, 0, 0], 2)
    assert proves(kernel, [1, 1], norm * (1 + 1e-7))
    cholesky = np.linalg.cholesky
    for wrong in (
        lambda m: np.zeros_like(m),
        lambda m: cholesky(np.eye(m.shape[1]) * np.abs(m).max() + 0 * m),
        lambda m: np.full_like(m, np.nan),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(np.linalg, "cholesky", wrong)
            assert not proves(kernel, [1, 1], norm * (1 - 1e-3))


def check_torus():
    files.test_verifier_refuses_a_torus_without_points()
    files.test_verifier_knows_that_a_torus_of_the_input_is_too_small_for_zero_padding()
    plain = {
        "input_size": [4, 4], "stride": [1, 1], "dilation": [1, 1], "groups": 1,
        "padding": "circular", "left": [1, 1], "right": [1, 1], "extend": [0, 0],
    }  # fmt: skip
    kernel = np.ones((2, 2, 3, 3))
    assert verifier.on_torus(plain, kernel, [4, 4])[1] == [4, 4]
    for change, out in (
        ({"groups": 2}, [4, 4]),
        ({"dilation": [2, 2]}, [4, 4]),
        ({"padding": "reflect"}, [4, 4]),
        ({"stride": [3, 3]}, [2, 2]),
        ({"left": [2, 2]}, [5, 5]),
        ({"left": [2, 1]}, [5, 4]),
        ({"left": [1, 2]}, [4, 5]),
    ):
        with pytest.raises(ValueError, match="not known"):
            verifier.on_torus(plain | change, kernel, out)
    zeros = plain | {"padding": "zeros", "stride": [2, 2]}
    assert verifier.on_torus(zeros, kernel, [2, 2])[1] == [3, 3]
    zeros = plain | {"padding": "zeros", "extend": [1, 1]}
    assert verifier.on_torus(zeros, kernel, [5, 5])[1] == [6, 6]


def check_numbers():
    for n, u in ((1, Q(1, 8)), (3, Q(1, 8)), (5, Q(1, 2**53))):
        assert verifier.gamma(n, u) == 1 / (1 - n * u) - 1
    assert verifier.gamma(3, Q(1, 2)) > 10**300
    for n in (1, 2, 3, 4, 10**6, 10**6 + 1):
        assert n <= verifier.root(n) ** 2 <= n * (1 + Q(1, 10**50))
    for n in (1, 3, 8, 100):
        for j in range(n):
            assert abs(verifier.twiddle(j, n) - cmath.exp(2j * cmath.pi * j / n)) < 2.0**-49


def check_layers_run():
    files.test_verifier_runs_the_same_net(
        {name: SAVED[name] for name in ("plain", "orthogonal", "circular")}
    )
    x, w = torch.rand(1, 1, 4, 4).double(), torch.rand(1, 1, 2, 3).double()
    operator = {
        "input_size": [4, 4], "stride": [2, 1], "padding": "zeros", "left": [0, 1],
        "right": [0, 0], "extend": [1, 2],
    }  # fmt: skip
    node = {"op": "affine", "operator": operator, "weight": "w", "bias": None}
    expected = nn.functional.conv2d(nn.functional.pad(x, (1, 2, 0, 1)), w, stride=(2, 1))
    found = verifier.run(node, x.numpy(), {"w": w.numpy(), None: np.zeros(1)})
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-14)
    pad = {"op": "call_module", "type": "PadToMultiple2d", "args": {"multiple": [3, 4]}}
    expected = taut.nn.PadToMultiple2d((3, 4))(x)
    np.testing.assert_array_equal(verifier.run(pad, x.numpy(), {}), expected.numpy())


def check_biases_of_the_verifier():
    """None is no bias; any name is one; and a bias makes no outputs of its own."""
    operator = {key: [] for key in ("input_size", "extend", "left", "right", "stride", "dilation")}
    node = {
        "name": "fc", "op": "affine", "weight": "w", "bias": "", "shape": [[2]],
        "operator": operator | {"padding": "zeros", "groups": 1},
    }  # fmt: skip
    row = {"gains": [3.0], "absolutes": [3.0], "count": 8, "constant": 0.0}
    weights = {"w": np.eye(2, 6), "": np.ones(2), None: np.zeros(1)}
    verifier.check_layer(node | {"bias": None}, dict(row), weights, (1, 6), (1, 2))
    with pytest.raises(ValueError, match="rounding"):
        verifier.check_layer(node, dict(row), weights, (1, 6), (1, 2))
    weights["w"] = np.ones((1, 6))
    with pytest.raises(ValueError, match="sizes"):
        verifier.check_layer(node, row | {"constant": 3.0}, weights, (1, 6), (1, 2))


# Rules of rounding.


def check_biases():
    """A bias is added at every position, and on every slice of the input."""
    conv, dense = nn.Conv2d(2, 3, 3), nn.Linear(4, 3)
    rounding = rounding_of(conv, (2, 8, 8)).rounding(entries=128)
    assert rounding.count == 2 * 9 + 2
    assert 0 <= rounding.constant - 6 * conv.bias.double().norm().item() < 1e-12
    rounding = rounding_of(dense, (5, 4)).rounding(entries=20)
    assert 0 <= rounding.constant - math.sqrt(5) * dense.bias.double().norm().item() < 1e-12
    moduli = torch.linalg.matrix_norm(dense.weight.detach().double().abs(), 2).item()
    assert rounding.absolute >= moduli


def check_norms_of_biases():
    generator = torch.Generator().manual_seed(0)
    for scale in (1.0, 1e-200, 1e200, 5e-324):
        for n in (1, 2, 7, 100):
            values = scale * torch.rand(n, generator=generator, dtype=torch.float64)
            square = sum(Q(v) ** 2 for v in values.tolist())
            found = Q(_rounding.norm_bound(values)) ** 2
            assert square <= found <= square * (1 + Q(1, 10**9)) + Q(1, 10**640)
    assert _rounding.norm_bound(torch.zeros(3)) == 0.0
    for wrong in (math.nan, math.inf):
        with pytest.raises(UnprovenError):
            _rounding.norm_bound(torch.tensor([1.0, wrong]))


SCALARS = (nn.LeakyReLU(3.1), nn.LeakyReLU(0.1), nn.Softsign(), nn.PReLU(), nn.Hardtanh(-0.3, 0.1),
           nn.Hardtanh(0.6, 0.7), nn.ConstantPad1d((1, 0), 0.1), nn.ReLU())  # fmt: skip


def check_scalars():
    """One number at a time, in float32 against float64."""
    torch.manual_seed(0)
    x = torch.cat([torch.randn(4000, 1, 1), 1e-3 * torch.randn(4000, 1, 1), torch.zeros(1, 1, 1)])
    for module in SCALARS:
        if isinstance(module, nn.PReLU):
            nn.init.constant_(module.weight, 3.1)
        rounding = rounding_of(module, (1, 1))
        with torch.no_grad():
            own = module(x).double()
            true = module.double()(x.double())
            module.float()
        allowed = (
            rounding.count
            * 2.0**-24
            * 1.0001
            * (rounding.absolute * x.double().abs() + rounding.constant)
        )
        assert ((own - true).abs().amax(2, keepdim=True) <= allowed).all(), module
        for shape in ((1, 1), (3, 4)):
            value = module.double()(torch.zeros(1, *shape).double()).norm()
            module.float()
            assert value <= rounding_of(module, shape).constant * (1 + 1e-12), module


def check_averages():
    """The sum before the division counts for overflow; digits are lost one by one."""
    pool = nn.AvgPool2d(5)
    rounding = rounding_of(pool, (1, 5, 5))
    x = torch.full((1, 1, 5, 5), 2.0**-24)
    x[0, 0, 0, 0] = 1.0
    lost = abs(pool(x).item() - x.double().mean().item())
    window = rounding.absolute / 5  # the norm of the sum is 5, of one window
    assert window >= 1
    assert lost <= rounding.count * 2.0**-24 * x.double().mean().item() * 1.0001


def check_batch_norms():
    torch.manual_seed(0)
    model = nn.BatchNorm1d(50).double().eval()
    with torch.no_grad():
        model.running_mean.normal_(0, 100)
        model.running_var.uniform_(1e-4, 4)
        model.weight.normal_()
        model.weight[:5] = 0
        model.bias.normal_()
    for single in range(50):
        one = nn.BatchNorm1d(1).double().eval()
        for name, tensor in model.state_dict().items():
            if tensor.dim():
                one.state_dict()[name].copy_(tensor[single : single + 1])
        rounding = rounding_of(one, (1, 9))
        tensors = (one.running_mean, one.running_var, one.weight, one.bias)
        mean, variance, weight, bias = (Q(t.item()) for t in tensors)
        square = Q(rounding.absolute) ** 2 * (variance + Q(one.eps))
        assert square >= max(1, weight**2)
        assert rounding.absolute >= 1
        factor = max(1.0, abs(float(weight)) / math.sqrt(variance + Q(one.eps)))
        assert rounding.constant >= 3 * (abs(float(mean)) * factor + abs(float(bias))) * (1 - 1e-12)
    assert rounding_of(model, (50,)).count >= 9  # 6 for the root, and x - mean, a product, a sum


# The mutants.


def unplugged(content):
    """The output is a node before the last; hashes fit."""
    content["graph"]["output"] = content["graph"]["nodes"][-2]["name"]


def jumped(content):
    """An activation that reads the input of the layer before it; hashes fit."""
    nodes = content["graph"]["nodes"]
    nodes[4]["inputs"] = content["layers"][3]["inputs"] = nodes[2]["inputs"]


def said_worst(key):
    """A row that leaves a number of its rounding out, in a file that claims little."""

    def change(content):
        del content["layers"][0][key]
        content.update(error=[1.0, 1.0], norm_limit=1.0)

    return change


def boasted(content):
    content["certified_accuracy"] = {"1": 1.0}


def nothing(content):
    content.update(certified_accuracy={"-1": 1.0}, radius=[0.0] * len(content["radius"]))


def ended(content):
    """An activation at the end that names a matrix; hashes fit."""
    nodes, rows = content["graph"]["nodes"], content["layers"]
    end = {"name": "end", "inputs": [nodes[-1]["name"]]}
    nodes.append({**nodes[2], **end, "shape": nodes[-1]["shape"], "weight": nodes[-1]["weight"]})
    rows.append({**rows[1], **end, "entries": [5, 5]})
    content["graph"]["output"] = "end"
    content.update(radius=[0.0] * len(content["radius"]), certified_accuracy={})
    content["error"] = [2 * error for error in content["error"]]
    content["pairwise"] = [[2 * pair for pair in pairs] for pairs in content["pairwise"]]


NO_POINTS = ("pairwise of fewer classes", "input size, rehashed")
FORGED = {
    "output": forgery("output", files.rehashed(unplugged)),
    "jump": forgery("jump", files.rehashed(jumped)),
    "norm limit below 0": forgery(
        "norm limit below 0", files.set_to("norm_limit", -1.0), points=False
    ),
    "images of real numbers": forgery(
        "images of real numbers", files.set_to("arithmetic", "real"), "orthogonal"
    ),
    "no last row": forgery("no last row", lambda c: c["layers"].pop(), "orthogonal", points=False),
    "share": forgery("share", boasted, "orthogonal"),
    "share below 0": forgery("share below 0", nothing, "orthogonal"),
    "pairs of an activation": forgery("pairs of an activation", files.rehashed(ended)),
    **{
        f"no {key}": forgery(f"no {key}", said_worst(key), points=False)
        for key in ("absolutes", "constant", "count")
    },
    **{case: forgery(case) for case in (*files.TAMPERED, *files.POINTS)},
    **{case: forgery(case, points=False) for case in NO_POINTS},
}

L, R, C, V, B = _layers, _radius, _certificate, verifier, _rounding
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
        (L, "_Recursion._limit", "f.largest / 4", "f.largest"),
        (L, "_Recursion._limit", "up_sum(layer.constant, lost)", "lost"),
        (L, "_Recursion._limit", "up_sum(layer.constant, lost)", "layer.constant"),
        (L, "_Recursion._limit", "min(self.norm_limit, ", "max(0.0, "),
        (L, "compose", "up_product(UP_SQRT2, last.d[0])", "last.d[0]"),
        (L, "compose", "up_product(UP_SQRT2, last.d[1])", "last.d[1]"),
        (L, "compose", "recursion.states[output]", "next(iter(recursion.states.values()))"),
        (L, "compose", "max((recursion", "min((recursion"),
    ],
    check_refusals_of_rows: [
        (L, "_Recursion._error", "not relative <= 1", "False"),
        (L, "_Recursion._limit", "room > 0", "True"),
        (L, "compose", "all(map(math.isfinite, (last.lipschitz, *error, *last.r)))", "True"),
        (L, "compose", "math.inf if format_ is None", "math.inf if True"),
    ],
    check_widened: [
        (L, "Layer.rounded", "tuple(map(widened, self.gains))", "self.gains"),
        (L, "Layer.rounded", "max(absolute, gain)", "absolute"),
        (L, "Layer.rounded", "widened(rounding.absolute)", "rounding.absolute"),
        (L, "Layer.rounded", "widened(rounding.constant)", "rounding.constant"),
        (L, "Layer.rounded", "count=rounding.count", "count=1"),
        (L, "widened", "1 + 2.0**-40", "1.0"),
        (L, "widened", "min(wide, 1.0)", "wide"),
        (L, "widened", "value <= 1.0", "value <= 2.0"),
    ],
    check_radii: [
        (
            R,
            "certified_radius",
            "_down(z.gather(1, labels[:, None]) - z)",
            "(z.gather(1, labels[:, None]) - z)",
        ),
        (R, "certified_radius", "_down(gaps / ", "(gaps / "),
        (R, "certified_radius", "amin(1)", "nan_to_num(0, 0).amax(1)"),
        (R, "_constants", "[labels]", "[labels * 0]"),
        (R, "_constants", "bound.pairwise is not None", "False"),
        (R, "_down", "-math.inf", "math.inf"),
    ],
    check_executed_radii: [
        (R, "executed_radius", "_CONFIRM * ", ""),
        (R, "executed_radius", "_up(_up(a * norms) + b)", "_up(_up(a * norms))"),
        (R, "executed_radius", "_up(a * norms) + b", "_up(0 * norms) + b"),
        (R, "executed_radius", "z.shape[1]) + a)", "z.shape[1]))"),
        (R, "executed_radius", " - error[:, None]", ""),
        (R, "_up", "math.inf", "-math.inf"),
    ],
    check_norm_limit: [
        (R, "executed_radius", "torch.minimum(radii, _down(composed.norm_limit - norms))", "radii"),
        (
            R,
            "executed_radius",
            "_down(composed.norm_limit - norms)",
            "(composed.norm_limit - norms)",
        ),
        (R, "executed_radius", "composed.norm_limit - norms", "composed.norm_limit + 0 * norms"),
    ],
    check_zero_radii: [
        (R, "certified_radius", "z.isfinite().all(1) & ", ""),
        (R, "certified_radius", " & (radii > 0)", ""),
        (R, "executed_radius", "z.isfinite().all(1) & ", ""),
        (R, "executed_radius", " & (radii > 0)", ""),
        (R, "_check", "0 <= int", "-1 <= int"),
        (R, "_check", "< logits.shape[1]:", "<= logits.shape[1]:"),
        (R, "_constants", "not value >= 0", "False"),
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
        (R, "above", "Fraction(nearest) <= exact", "True"),
        (R, "above", "Fraction(nearest) <= exact", "Fraction(nearest) < exact"),
        (R, "above", "radius > floor", "radius >= floor"),
        (R, "above", "torch.zeros_like", "torch.ones_like"),
    ],
    check_float32: [
        (C, "prove", "check_arithmetic(arithmetic, program.tensors, device)", "pass"),
        (C, "prove", "program.output, arithmetic)", 'program.output, "float64")'),
        (C, "Certificate.radius", 'self.arithmetic == "real"', "True"),
        (
            C,
            "Certificate.radius",
            'norms_upper(images.to("cpu"))',
            'norms_upper(0 * images.to("cpu"))',
        ),
        (C, "Certificate.logits", 'self.arithmetic == "float64"', "False"),
        (C, "Certificate.logits", 'self.arithmetic == "float64"', "True"),
    ],
    check_pairs: [
        (C, "prove", "composed.features", "1.0"),
        (C, "pairwise_of", " * (1 + 2.0**-40)", ""),
    ],
    check_fresh: [
        (C, "prove", "LipschitzBound(composed.lipschitz", "LipschitzBound(bound.value * 0.999"),
        (C, "Certificate.content", "list(self.composed.error)", "[0.0, 0.0]"),
        (C, "Certificate.content", "self.composed.norm_limit", "1e308"),
        (C, "weights_sha256", "sorted(tensors)", "sorted(tensors, reverse=True)"),
        (C, "weights_sha256", "content.update(raw_bytes(tensors[name]))", "pass"),
        (C, "weights_sha256", "canonical(describe(tensors)).encode()", "b''"),
        (C, "graph_sha256", "canonical(graph)", "canonical(graph['input'])"),
        (C, "canonical", "sort_keys=True, ", ""),
        (C, "describe", "list(t.shape)", "[t.numel()]"),
        (C, "raw_bytes", "contiguous()", "contiguous().flip(0)"),
        (B, "Affine.rounding", "kernel[0].numel()", "kernel.shape[1]"),
        (B, "Affine.rounding", "fan_in + 2", "fan_in"),
        (B, "Affine.rounding", "abs_norm_bound(self.op)", "0.0"),
    ],
    check_biases: [
        (B, "Affine.rounding", "max(1, entries // inputs) * outputs", "outputs"),
        (B, "Affine.rounding", "up_root(float(copies))", "float(copies)"),
        (B, "Affine.rounding", ", up_root(float(copies))", ""),
        (B, "Affine.rounding", "self.bias is not None", "False"),
    ],
    check_norms_of_biases: [
        (B, "norm_bound", "not math.isfinite(largest)", "False"),
        (B, "norm_bound", "largest == 0.0", "False"),
        (B, "norm_bound", "wide / largest", "wide"),
        (B, "norm_bound", "up_sum(1.0, gamma(len(wide) + 4, U64), 2.0**-60)", "1 - 2.0**-50"),
        (B, "norm_bound", "up_root(up_product(square, factor))", "up_product(square, factor)"),
    ],
    check_scalars: [
        (B, "_constant_pad", "m.value == 0", "True"),
        (B, "_constant_pad", "Rounding(1, ", "Rounding(0, "),
        (B, "_constant_pad", "up_root(float(outputs))", "1.0"),
        (B, "_leaky", "Rounding(2, ", "Rounding(1, "),
        (B, "_leaky", "max(1.0, abs(m.negative_slope))", "1.0"),
        (B, "_prelu", "Rounding(1, ", "Rounding(0, "),
        (B, "_prelu", "max(1.0, m.weight.detach().double().abs().max().item())", "1.0"),
        (B, "_softsign", "Rounding(2, ", "Rounding(1, "),
        (B, "_hardtanh", "Rounding(1, ", "Rounding(0, "),
        (B, "_hardtanh", "up_root(float(math.prod(shape)))", "1.0"),
    ],
    check_averages: [
        (B, "_average", "math.prod(op.kernel.shape[1:]) + 2", "1"),
        (B, "_average", "abs_norm_bound(op), divisor", "abs_norm_bound(op)"),
    ],
    check_batch_norms: [
        (
            B,
            "_batch_norm",
            "torch.maximum(inverse, (inverse * weight).abs())",
            "(inverse * weight).abs()",
        ),
        (B, "_batch_norm", "torch.maximum(inverse, (inverse * weight).abs())", "inverse"),
        (B, "_batch_norm", "clamp_min(1.0)", "clamp_min(0.0)"),
        (B, "_batch_norm", " * _FOLDED\n", "\n"),
        (B, "_batch_norm", "mean.abs() * factor", "mean.abs()"),
        (B, "_batch_norm", "0.0 if bias is None else bias.abs()", "0.0"),
        (B, "_batch_norm", "up_root(float(math.prod(shape[1:])))", "1.0"),
        (B, "_batch_norm", "Rounding(16, ", "Rounding(1, "),
    ],
    check_numbers: [
        (V, "gamma", "n * u / (1 - n * u)", "n * u"),
        (V, "gamma", " if 2 * n * u <= 1 else Q(10**400)", ""),
        (V, "root", " + 1, ONE", ", ONE"),
        (V, "twiddle", "2 * PI", "PI"),
        (V, "twiddle", "while term", "while abs(term) > 10**47"),
        (V, "twiddle", "parts[1] - parts[3]", "parts[1] + parts[3]"),
    ],
    check_frequencies: [
        (V, "grams", "grid[0] // 2 + 1", "grid[0] // 2"),
        (V, "grams", "grid[0] // 2 + 1", "1"),
        (V, "grams", "symbol.conj().swapaxes(1, 2)", "symbol.swapaxes(1, 2)"),
        (V, "prove_norms", "2.0 ** math.frexp(np.abs(kernel).max())[1]", "1.0"),
        (V, "prove_norms", "worst = max(", "worst = min("),
        (V, "prove_norms", "proven or all", "True or all"),
        (V, "prove_norms", "proven or all", "proven and all"),
        (V, "prove_norms", "Q(d[0, 0]) + worst", "worst"),
        (V, "prove_norms", "(Q(bound) / Q(scale)) ** 2", "(Q(bound) / Q(scale))"),
        (V, "below", "return False", "return True"),
    ],
    check_norms_against_dense: [
        (V, "prove_norms", "np.abs(kernel).sum((2, 3))", "kernel.sum((2, 3))"),
        (V, "prove_norms", "moduli <= (", "True or moduli <= ("),
        (V, "on_torus", "np.moveaxis(k, 2, -1)", "k"),
        (V, "on_torus", "[1] * (2 - len(torus)) + torus", "torus"),
        (V, "on_torus", "[1] * (2 - len(torus)) + torus", "torus + [1] * (2 - len(torus))"),
        (V, "on_torus", "k[..., i::s]", "k[..., i:]"),
        (V, "on_torus", "for i in range(s)], 1)", "for i in range(1)], 1)"),
        (V, "below", "low.conj().swapaxes(1, 2)", "low"),
    ],
    check_coarse_grids: [
        (V, "prove_norms", ' * Q("1.1715729") ** (max(grid) > 1)', ""),
        (V, "prove_norms", "8 * k - 7 * (k == 1)", "2 * k"),
    ],
    check_lost_digits: [
        (V, "prove_norms", " * (1 + gamma(count))", ""),
        (V, "prove_norms", "e = 4 * gamma(2 * count + 64) * ", "e = 0 * "),
    ],
    check_witnesses: [
        (V, "below", " + Q(rest) * (1 + gamma(4 * n * n))", ""),
        (V, "below", "axis=(1, 2)).max()", "axis=(1, 2)).max() * 0"),
    ],
    check_torus: [
        (V, "on_torus", "zeros * max(sides)", "0"),
        (V, "on_torus", "-(-(n + e + zeros * max(sides)) // max(s, 1))", "(n + e + 1) // s"),
        (V, "on_torus", 'op["groups"] == 1', "True"),
        (V, "on_torus", "gap == 1", "True"),
        (V, "on_torus", 'op["padding"] == "circular"', "True"),
        (V, "on_torus", "once and s > 0", "once"),
        (V, "on_torus", "n + e == s * torus[-1]", "True"),
        (V, "on_torus", "count <= torus[-1]", "True"),
        (V, "on_torus", "n + e + zeros", "n + zeros"),
    ],
    check_layers_run: [
        (V, "run", 'op["extend"]', "(0, 0)"),
        (V, "run", '"wrap" if op["padding"] == "circular" else "constant"', '"constant"'),
        (V, "run", '"wrap" if op["padding"] == "circular" else "constant"', '"wrap"'),
        (V, "run", "+ bias.reshape(", "+ 0 * bias.reshape("),
        (V, "run", "[1, *range(2 + d, 2 + 2 * d)]", "[1, *range(1 + 2 * d, 1 + d, -1)]"),
    ],
    check_rows_of_the_verifier: [
        (V, "compose", "gamma(n, u) * a + eta * read * wrote", "gamma(n, u) * a"),
        (V, "compose", "gamma(n, u) * a + eta * read * wrote", "eta * read * wrote"),
        (V, "compose", "a * eta * read + 10 * n", "10 * n"),
        (V, "compose", "10 * n * eta * wrote", "0"),
        (V, "compose", "max(g, a), c + lost", "g, c + lost"),
        (V, "compose", "c + lost + max", "c + max"),
        (V, "compose", "c + lost + max", "lost + max"),
        (V, "compose", "(r[1] + d[1])", "r[1]"),
        (V, "compose", "(r[0] + d[0])", "r[0]"),
        (V, "compose", "largest / 4 - base", "largest - base"),
        (V, "compose", "min(limit, (", "max(0, ("),
        (V, "compose", "(g + k) * e", "g * e"),
        (V, "compose", " + k * s for", " for"),
        (V, "compose", "g * r[1] + c]", "g * r[1]]"),
        (V, "compose", " + gamma(n, u) * c + lost", " + lost"),
        (V, "compose", "gamma(n, u) * c + lost", "gamma(n, u) * c"),
        (V, "compose", "[g * r[0], ", "[r[0], "),
        (V, "compose", "before, r, d[1] = r[0], [", "before, r, d[1] = before, ["),
        (V, "compose", "type(n) is int and ", ""),
        (V, "compose", "min(n, c, a, g) >= 0", "True"),
    ],
    check_points: [
        (V, "check_points", "two * (own[0] * norm + own[1])", "0"),
        (V, "check_points", "own[0] * norm + own[1]", "own[1]"),
        (V, "check_points", " - (a * norm + b)", ""),
        (V, "check_points", "a * norm + b", "b"),
        (V, "check_points", "a * norm + b", "a * norm"),
        (V, "check_points", "(Q(slope) + a) * r", "Q(slope) * r"),
        (V, "check_points", '[two * Q(file["bound"])]', '[Q(file["bound"])]'),
        (V, "check_points", 'file["pairwise"][label] if', 'file["pairwise"][-1] if'),
        (V, "check_points", "if j != label", "if True"),
        (V, "check_points", "norm + r <= limit and ", ""),
        (V, "check_points", "norm + r <= ", "norm <= "),
        (V, "check_points", "hexdigest() == name", "hexdigest()"),
        (V, "check_points", '[*x.shape] == file["input"]["shape"]', "True"),
        (V, "check_points", "safe or r == 0", "safe"),
        (V, "check_points", "strict=True)\n    for x", "strict=False)\n    for x"),
    ],
    check_biases_of_the_verifier: [
        (V, "check_layer", " and after[1] == len(w)", ""),
        (V, "check_layer", 'weights[node["bias"]]', 'weights[node["bias"] or None]'),
    ],
    check_weight_files: [
        (
            V,
            "read_weights",
            'entry.pop("data_offsets") == [end, end + length]',
            'entry.pop("data_offsets")',
        ),
        (V, "read_weights", "end == len(data)", "True"),
        (V, "read_weights", "[found.hexdigest(), header] == ", "[1, header] == [1, 0] or "),
        (V, "read_weights", "[found.hexdigest(), header]", '[file["weights_sha256"], header]'),
        (V, "read_weights", '== graph, "the', ', "the'),
    ],
}
for _case, _mutants in {
    "graph hash": [
        (
            V,
            "read_weights",
            'found == file["graph_sha256"] == graph',
            'file["graph_sha256"]',
        )
    ],
    "gain of a convolution": [
        (V, "require", "not condition", "False"),
        (V, "check_layer", "proven = not w.any() or", "proven = True or"),
    ],
    "gain of an activation": [(V, "check_layer", 'row["gains"][0] >= 1', "True")],
    "moduli": [(V, "check_layer", 'row["absolutes"][0]', "1e300")],
    "count": [
        (V, "check_layer", ">= math.prod(w.shape[1:]) + 2", ">= 0"),
        (V, "check_layer", "math.prod(w.shape[1:]) + 2", "w.shape[0]"),
    ],
    "bias norm": [
        (V, "check_layer", 'Q(row["constant"]) ** 2 >= square', "True"),
        (V, "check_layer", "Q(sizes[1], len(bias))", "1"),
    ],
    "sizes": [(V, "check_layer", '[*row.setdefault("entries", sizes)] == sizes', "True")],
    "shape, rehashed": [(V, "check_layer", 'node["shape"] == [[*after[1:]]]', "True")],
    "input size, rehashed": [
        (V, "check_layer", 'node["operator"]["input_size"] == [*before[2:]]', "True"),
    ],
    "padding of a matrix, rehashed": [(V, "on_torus", "require(known", "require(True")],
    "an adjoint, rehashed": [
        (
            V,
            "verify",
            '.get(node["op"])',
            '["call_module" if node["op"] == "adjoint" else "affine"]',
        ),
    ],
    "pairs of an activation": [(V, "verify", 'nodes[-1]["op"] == "affine" and', "")],
    "Lipschitz bound": [(V, "verify", 'Q(file["bound"]) >= slope', "True")],
    "error": [
        (V, "verify", "Q(e) >= root(2) * p", "Q(e) >= p"),
        (V, "verify", "all(Q(e) >= root(2) * p for e, p in pairs)", "True"),
    ],
    "norm limit": [(V, "verify", "<= limit", "")],
    "norm limit below 0": [(V, "verify", '0 < Q(file["norm_limit"])', 'Q(file["norm_limit"])')],
    "pairwise": [
        (V, "verify", "proven = all(Q(p) >= Q(t)", "proven = True or all(Q(p) >= Q(t)"),
        (V, "verify", "before * (1 + gamma", "Q(1, 2) * (1 + gamma"),
    ],
    "pairwise of fewer classes": [
        (
            V,
            "verify",
            'zip(file["pairwise"] or (), w, strict=True)',
            'zip(file["pairwise"] or (), w)',
        ),
    ],
    "format": [
        (V, "verify", 'file["format"], file["version"]', '"taut-certificate", 1'),
    ],
    "no last row": [(V, "verify", "zip(nodes, rows, strict=True)", "zip(nodes, rows)")],
    "output": [
        (V, "verify", 'graph["output"], first', 'nodes[-1]["name"], first'),
    ],
    "jump": [(V, "verify", ' and node["inputs"] == [name]', "")],
    "images of real numbers": [(V, "verify", 'mode != "real" or not len(images)', "True")],
    "radius": [(V, "verify", "if len(images):", "if False:")],
    "share": [(V, "verify", "said <= share", "True")],
    "share below 0": [(V, "verify", "Q(r) > Q(eps) >= 0", "Q(r) > Q(eps)")],
}.items():
    MUTANTS[FORGED[_case]] = _mutants

VALUES = {
    check_formats: [
        (FORMATS, "float32", Format(2.0**-25, 2.0**-126, FORMATS["float32"].largest)),
        (FORMATS, "float64", Format(2.0**-53, 2.0**-1074, FORMATS["float64"].largest)),
        (verifier.FORMATS, "float32", (Q(1, 2**24), Q(1, 2**149), verifier.FORMATS["float32"][2])),
    ],
    check_layers_run: [
        (verifier.EXACT, "MaxMin", lambda x: x),
        (verifier.EXACT, "ReLU", lambda x, inplace: x),
        (verifier.EXACT, "PadToMultiple2d", lambda x, multiple: x),
    ],
    FORGED["no count"]: [(verifier.WORST, "count", 20)],
    FORGED["no constant"]: [(verifier.WORST, "constant", 10.0)],
    FORGED["no absolutes"]: [(verifier.WORST, "absolutes", [10.0])],
    check_executed_radii: [(vars(_radius), "_CONFIRM", 2.0)],
}
"""Tables and constants with another value."""

EQUIVALENT = [
    # A positive number rounded down is at least 0; a radius of 0 is one of 0.
    (R, "certified_radius", "radii > 0", "radii >= 0"),
    (R, "executed_radius", "radii > 0", "radii >= 0"),
    # The sum after it is rounded up by at least what the product may lack.
    (R, "executed_radius", "_up(a * norms) + b", "a * norms + b"),
    # Of the roundings of a radius the others are more than the one left out.
    (R, "executed_radius", "_up(_up(a * norms) + b)", "(_up(a * norms) + b)"),
    (
        R,
        "executed_radius",
        "_down(_down(z.gather(1, labels[:, None]) - z) - ",
        "_down((z.gather(1, labels[:, None]) - z) - ",
    ),
    (R, "executed_radius", "_down(gaps / slopes)", "(gaps / slopes)"),
    # The product of matrices is symmetric on this machine; the larger of two bounds is one.
    (C, "pairwise_of", "torch.maximum(constants, constants.T)", "constants"),
    # A matrix has the singular values of its transpose.
    (
        V,
        "prove_norms",
        "kernel if len(kernel) <= kernel.shape[1] else kernel.swapaxes(0, 1)",
        "kernel",
    ),
    # Iterations only make v, which may be any positive vector.
    (V, "prove_norms", "range(60)", "range(50)"),
    # Any top will do: what the factor leaves is added to it.
    (V, "prove_norms", " - 2 * float(e)", ""),
    # The room below the square is more than the rounding of the factor's product.
    (V, "below", " + wrong <=", " <="),
    # A root that is too large is one that is not too small.
    (V, "root", "n * ONE**2 - 1", "n * ONE**2"),
    # What is not in the table cannot be looked up.
    (V, "verify", 'node["type"] in EXACT}', "True}"),
    # NaN and Inf are no fractions, which every number becomes.
    (V, "read_weights", "np.isfinite(values).all()", "True"),
    # The operator's norm times the divisor is at least that of a sum of inputs, each once.
    (B, "_average", ", divisor, _FOLDED", ", divisor"),
]
SOUND = [check_honest, check_zero_radii, check_executed_radii, check_pairs, check_lost_digits,
         check_witnesses, check_averages]  # fmt: skip


def changed(patch, module, name, old, new):
    """Mutate a function; the table of rules for rounding gets it too."""
    original = vars(module).get(name)
    mutate(patch, module, name, old, new)
    for users in (globals(), vars(reals), vars(programs), vars(files)):
        if original is not None and users.get(name) is original:
            patch.setitem(users, name, vars(module)[name])
    for kind in [kind for kind, rule in _rounding._RULES.items() if rule is original]:
        patch.setitem(_rounding._RULES, kind, vars(module)[name])


def check_id(value):
    return value.__name__ if callable(value) else f"{value[1]}: {value[2]} -> {value[3]}"


def test_checks_hold_without_mutants():
    check_honest()
    check_formats()
    for check in {**MUTANTS, **VALUES}:
        check()


@pytest.mark.parametrize(
    ("check", "mutant"), [(c, m) for c, mutants in MUTANTS.items() for m in mutants], ids=check_id
)
def test_mutant_is_killed(check, mutant):
    with pytest.MonkeyPatch.context() as patch:
        changed(patch, *mutant)
        assert not survives([check])


@pytest.mark.parametrize(
    ("check", "table", "key", "value"), [(c, *m) for c, ms in VALUES.items() for m in ms]
)
def test_another_value_is_noticed(check, table, key, value):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(table, key, value)
        assert not survives([check])


@pytest.mark.parametrize("mutant", EQUIVALENT, ids=check_id)
def test_equivalent_mutant_is_sound(mutant):
    with pytest.MonkeyPatch.context() as patch:
        changed(patch, *mutant)
        assert survives(SOUND)
