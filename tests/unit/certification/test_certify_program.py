"""Certified predictions of the running program: searched at the boundary, planted, transformed."""

import math
import operator
from fractions import Fraction

import pytest
import torch
from torch import nn

import taut
from experiments._rounding_search import NETS, deep, dense, linear, rounding_search
from taut.certification import certify, prove
from taut.certification._radius import executed_radius
from taut.linalg.matrix import MatrixOperator
from taut.models import Small
from taut.program import AbstractOp, Composed, LipschitzBound, UnprovenError, op


@pytest.mark.parametrize(
    ("name", "arithmetic", "dtype"),
    [
        ("linear", "float64", torch.float64),
        ("dense", "float64", torch.float64),
        ("deep", "float64", torch.float64),
        ("linear", "float32", torch.float32),
    ],
)
def test_rounding_search_breaks_naive_radii_and_no_sound_one(name, arithmetic, dtype):
    found = rounding_search(name, arithmetic, points=12, tries=8, dtype=dtype)
    assert found["sound"].flips == 0
    assert found["sound"].inside >= 30
    if name != "dense":  # whose bound is not tight: nothing comes near the boundary
        assert found["naive"].flips >= 10


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_rounding_search_long(name):
    found = rounding_search(name, "float64", points=60, tries=40, dtype=torch.float64)
    assert found["sound"].inside >= 1000
    assert found["sound"].flips == 0
    if name != "dense":
        assert found["naive"].flips >= 100


def hadamard(order):
    h = torch.ones(1, 1, dtype=torch.float64)
    while len(h) < order:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)], 0)
    return h / math.sqrt(order)


def planted(dtype=torch.float32):
    """z = (|u - v|, 1) of coordinates u, v after orthogonal layers: the boundary is known."""
    mix = nn.Linear(16, 16, bias=False)
    head = nn.Linear(16, 2)
    with torch.no_grad():
        mix.weight.copy_(hadamard(16))  # entries of 1/4, exact
        head.weight.zero_()
        head.bias.copy_(torch.tensor([0.0, 1.0]))
        head.weight[0, 0], head.weight[0, 8] = 1.0, -1.0  # max minus min of a pair
    return nn.Sequential(mix, taut.nn.MaxMin(), head).to(dtype)


def test_planted_counterexamples_are_found_just_above_and_certified_just_below():
    model = planted()
    torch.manual_seed(0)
    x = 3 * torch.randn(200, 16)
    u = (x.double() @ hadamard(16).T)[:, [0, 8]]
    # |u - v| = 1 is the boundary; it moves fastest along (1, -1) / sqrt(2).
    gap = (u[:, 0] - u[:, 1]).abs()
    labels = (gap < 1).long()
    distance = (gap - 1).abs() / math.sqrt(2)
    result = certify(model, x, labels)
    assert (result.radius > distance * (1 - 1e-4)).all()
    assert (result.radius < distance).all()


@pytest.mark.parametrize("arithmetic", ["float64", "float32"])
def test_no_radius_where_the_margin_is_within_the_error(arithmetic):
    model = linear(100)
    certificate = prove(model, (100,), arithmetic=arithmetic)
    x = torch.rand(1, 100)
    error = certificate.composed.error[0] * x.norm().item() + certificate.composed.error[1]
    for margin, safe in ((error, False), (3.9 * error, False), (10 * error, True)):
        z = torch.tensor([[margin, *[0.0] * 9]], dtype=torch.float64)
        assert bool(certificate.radius(z, torch.tensor([0]), x) > 0) == safe
    tied = torch.zeros(1, 10)
    assert certificate.radius(tied, torch.tensor([0]), x).item() == 0.0


def test_radius_is_the_formula_rounded_down():
    generator = torch.Generator().manual_seed(0)
    logits = 20 * torch.rand(50, 3, generator=generator, dtype=torch.float64)
    norms = torch.rand(50, generator=generator, dtype=torch.float64)
    a, b = 0.3, 0.7
    composed = Composed(1.1, error=(a, b), norm_limit=1e9)
    labels = logits.argmax(1)
    radius = executed_radius(logits, labels, norms, LipschitzBound(1.1), composed)
    assert (radius > 0).sum() > 20
    for z, norm, r in zip(logits.tolist(), norms.tolist(), radius.tolist(), strict=True):
        top, second, _ = sorted(z, reverse=True)
        room = Fraction(top) - Fraction(second) - 4 * (Fraction(a) * Fraction(norm) + Fraction(b))
        slope = Fraction(math.sqrt(2)) * Fraction(1.1) + Fraction(a)
        assert r == 0 or slope * Fraction(r) < room
        assert slope * Fraction(r) >= room * (1 - Fraction(1, 10**12))


def test_radius_stays_within_the_norm_limit():
    composed = Composed(1.0, norm_limit=10.0)
    logits = torch.tensor([[1e6, 0.0]]).repeat(3, 1)
    norms = torch.tensor([2.0, 9.5, 11.0], dtype=torch.float64)
    radius = executed_radius(logits, torch.zeros(3).long(), norms, LipschitzBound(1.0), composed)
    assert radius[0].item() == pytest.approx(8.0, rel=1e-12)
    assert (radius[:2] + norms[:2] <= 10).all()
    assert radius[2].item() == 0.0


def test_sound_radii_are_below_those_in_real_numbers_and_float64_by_nothing():
    model = deep()
    torch.manual_seed(0)
    x = torch.rand(60, 1, 8, 8)
    y = model(x).argmax(1)
    real, double, single = (
        certify(model, x, y, arithmetic=a).radius for a in ("real", "float64", "float32")
    )
    assert (double <= real + 1e-6).all()
    assert (single <= double).all()
    live = real > 1e-3
    assert ((real - double)[live] < 1e-4 * real[live]).all()
    assert single.max() < real.max()


def test_program_is_what_freeze_runs_in_float64():
    for shape, method in (((1, 9, 7), taut.BCOP), ((3, 8, 8), taut.RKO)):
        torch.manual_seed(0)
        model = Small().build(shape, 10, parametrization=method).eval()
        frozen = taut.freeze(model)
        x = torch.rand(5, *shape)
        certificate = prove(model, shape)
        theirs = frozen.double()(x.double())
        ours = certificate.logits(x)
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-13)
        exported = certificate.program.tensors
        assert {t.dtype for t in exported.values()} == {torch.float32}
        state = {name: t.float() for name, t in frozen.state_dict().items()}
        assert all(torch.equal(t, state[n]) for n, t in exported.items() if n in state)
        assert len(exported) == len(state)


def test_classes_batches_and_translations_do_not_matter():
    model = deep()
    torch.manual_seed(1)
    x = torch.rand(40, 1, 8, 8)
    y = model(x).argmax(1)
    whole = certify(model, x, y).radius
    parts = torch.cat(
        [certify(model, a, b).radius for a, b in zip(x.split(9), y.split(9), strict=True)]
    )
    torch.testing.assert_close(whole, parts, rtol=1e-10, atol=1e-12)
    order = torch.randperm(10)
    with torch.no_grad():
        model[-1].weight.copy_(model[-1].weight[order].clone())
        model[-1].bias.copy_(model[-1].bias[order].clone())
    permuted = certify(model, x, order.argsort()[y]).radius
    torch.testing.assert_close(whole, permuted, rtol=1e-8, atol=1e-12)


def test_scaling_one_layer_up_and_the_next_down_changes_nothing():
    """gloro 8: a small layer hid behind a large one."""
    model = dense()
    torch.manual_seed(0)
    x = torch.rand(40, 20)
    y = model(x).argmax(1)
    before = certify(model, x, y).radius
    with torch.no_grad():
        for p in model[0].parameters():
            p.mul_(2.0**-30)
        model[2].weight.mul_(2.0**30)
    torch.testing.assert_close(certify(model, x, y).radius, before, rtol=1e-9, atol=0)


def test_tiny_weights_do_not_underflow_to_a_bound_of_zero():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1e-120)
    x = torch.rand(5, 4).double()
    result = certify(model, x, model(x).argmax(1))
    assert float(result.bound) > 0
    assert result.radius.isfinite().all()


def test_radius_is_zero_at_ties_and_not_infinite():
    """gloro certified ties, at any radius."""
    model = nn.Linear(3, 4)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.zero_()
    result = certify(model, torch.rand(2, 3), torch.zeros(2).long())
    assert result.radius.tolist() == [0.0, 0.0]


def test_per_channel_normalisation_counts_by_its_largest_factor():
    class Normalise(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("std", torch.tensor([0.2, 0.4, 0.1]).reshape(1, 3, 1, 1))

        def forward(self, x):
            return x / self.std

    model = nn.Sequential(Normalise(), nn.Flatten())
    largest = Fraction(1) / Fraction(model[0].std.min().item())
    bound = Fraction(prove(model, (3, 4, 4)).bound.value)
    assert largest <= bound < largest * (1 + Fraction(1, 10**9))


class Computed(nn.Module):
    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x * (self.log_scale * 0.3).exp()


def test_constants_that_a_forward_computes_are_exported(tmp_path):
    model, x = nn.Sequential(Computed(), nn.Linear(20, 10)), torch.rand(5, 20)
    certificate = prove(model, (20,))
    factor = (torch.ones(1) * 0.3).exp()
    assert any(torch.equal(t, factor) for t in certificate.program.tensors.values())
    expected = model[1].double()(x.double() * factor.double())
    torch.testing.assert_close(certificate.logits(x), expected, rtol=1e-13, atol=1e-13)
    path, weights = certificate.save(tmp_path / "c.json")
    assert taut.verify(path, weights).bound == float(certificate.bound)


def test_hooks_of_plain_layers_are_followed_by_what_they_do():
    model, x = dense(), torch.rand(5, 20)
    before = float(prove(model, (20,)).bound)
    model[0].register_forward_hook(lambda module, args, output: 3 * output)
    model.register_forward_pre_hook(lambda module, args: args[0] / 2)
    after = prove(model, (20,))
    assert float(after.bound) == pytest.approx(1.5 * before, rel=1e-9)
    torch.testing.assert_close(after.logits(x).float(), model(x), rtol=1e-5, atol=1e-6)


def hooked(model, register):
    """A layer that is followed as a whole, and that a hook may change."""
    getattr(model.append(taut.nn.MaxMin())[-1], register)(lambda *a: None)


REFUSED = {
    "NaN": (lambda m: m[0].weight.data.fill_(math.nan), "NaN"),
    "Inf bias": (lambda m: m[0].bias.data.fill_(math.inf), "NaN or Inf"),
    "hook": (lambda m: hooked(m, "register_forward_hook"), "`3` .*hook"),
    "pre-hook": (lambda m: hooked(m, "register_forward_pre_hook"), "`3` .*hook"),
    "unknown": (lambda m: m.append(nn.Tanh()), r"`3` \(Tanh\).*state `rounding` in its op"),
    "softmax": (lambda m: m.append(nn.Softmax(1)), r"`3` \(Softmax\) .*no proven rounding"),
    "unproven": (lambda m: m.append(nn.GLU()), r"`3` \(GLU\)"),
    "statistics": (lambda m: m.append(nn.LayerNorm(10, 0.1)), "LayerNorm.*no proven rounding"),
    "train mode": (lambda m: m.append(nn.BatchNorm1d(10).train()), r"model\.eval\(\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_proof_is_refused_in_one_sentence(case):
    change, words = REFUSED[case]
    model = dense()
    change(model)
    with pytest.raises(ValueError, match=words) as caught:
        certify(model, torch.rand(2, 20), torch.zeros(2).long())
    assert "\n" not in str(caught.value)


def test_smooth_activations_are_certified_in_real_numbers():
    model = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 3))
    found = certify(model, torch.rand(4, 5), torch.zeros(4).long(), arithmetic="real")
    assert found.arithmetic == "real"
    assert found.content()["error"] is None
    assert found.content()["layers"][1].keys() == {
        "name", "type", "bound", "proof", "inputs", "combine", "gains",
    }  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_float32_needs_float32_weights(dtype):
    with pytest.raises(UnprovenError, match=r"must be float32 for arithmetic='float32'"):
        prove(nn.Linear(3, 2).to(dtype), (3,), arithmetic="float32")
    assert prove(nn.Linear(3, 2).to(dtype), (3,)).program.tensors["weight"].dtype == dtype


def test_reduced_precision_products_are_refused_in_float32_only():
    x, y = torch.rand(2, 20), torch.zeros(2).long()
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with pytest.raises(UnprovenError, match="set_float32_matmul_precision"):
            certify(dense(), x, y, arithmetic="float32")
        certify(dense(), x, y)
    finally:
        torch.set_float32_matmul_precision(before)
    with torch.autocast("cpu"), pytest.raises(UnprovenError, match="autocast"):
        certify(dense(), x, y)


@pytest.mark.parametrize("value", ["bf16", "tf32"])
@pytest.mark.parametrize("backend", ["", "mkldnn", "mkldnn.matmul", "mkldnn.conv"])
def test_reduced_precision_of_a_backend_is_refused_in_float32_only(backend, value):
    owner = operator.attrgetter(backend)(torch.backends) if backend else torch.backends
    if not hasattr(owner, "fp32_precision"):
        pytest.skip("this torch has no such setting")
    x, y, before = torch.rand(2, 20), torch.zeros(2).long(), owner.fp32_precision
    try:
        owner.fp32_precision = value
        with pytest.raises(UnprovenError, match=f"mkldnn.*fp32_precision is '{value}'"):
            certify(dense(), x, y, arithmetic="float32")
        certify(dense(), x, y)
    finally:
        owner.fp32_precision = before
    certify(dense(), x, y, arithmetic="float32")


def test_tf32_is_refused_on_cuda():
    from taut.certification._arithmetic import check_arithmetic

    tensors = {"w": torch.ones(2)}
    assert torch.backends.cudnn.allow_tf32
    with pytest.raises(UnprovenError, match="allow_tf32 = False"):
        check_arithmetic("float32", tensors, torch.device("cuda"))
    check_arithmetic("float64", tensors, torch.device("cuda"))


def test_unknown_arithmetic_is_refused():
    with pytest.raises(ValueError, match="`arithmetic` must be one of"):
        prove(nn.Linear(2, 2), (2,), arithmetic="float16")


def test_settings_of_torch_are_left_as_they_were():
    cudnn, nnpack = torch.backends.cudnn.enabled, torch.backends.nnpack.is_available()
    certify(dense(), torch.rand(2, 20), torch.zeros(2).long(), arithmetic="float32")
    assert (torch.backends.cudnn.enabled, torch.backends.nnpack.is_available()) == (cudnn, nnpack)


def test_rules_that_are_not_the_forward_are_refused():
    class Wrong(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.eye(3)), None

        def forward(self, x):
            return x @ self.weight * 2

    @op(Wrong)
    class WrongOp(AbstractOp):
        def operator(self, site):
            return MatrixOperator(site.tensors["weight"])

    with pytest.raises(UnprovenError, match="its op and its forward disagree"):
        prove(Wrong(), (3,))
