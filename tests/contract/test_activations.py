"""What every activation promises: one row of `ACTIVATIONS` buys all checks."""

import copy
import itertools
import math
from dataclasses import dataclass
from typing import Any

import jaxtyping
import numpy as np
import onnx
import pytest
import torch
from torch import fx, nn

import forgery
import taut
from exported_nets import in_onnxruntime, run
from oracles import rounding_of
from taut.certification import verifier
from taut.export import export, load
from taut.linalg.rounding import U32, gamma
from taut.nn import activations
from taut.program import operation, trace
from thinning import one_in


@dataclass(frozen=True)
class Activation:
    """How an activation is made for so many channels, and what it does to a list of numbers."""

    make: Any
    oracle: Any
    orthogonal: bool = True


def maxmin(_, z):
    half = len(z) // 2
    pairs = [(z[i], z[half + i]) for i in range(half)]
    return [*map(max, pairs), *map(min, pairs), *z[2 * half :]]


def group_sort(layer, z):
    size, whole = layer.group_size, len(z) - len(z) % layer.group_size
    groups = (sorted(z[i : i + size]) for i in range(0, whole, size))
    return [*itertools.chain(*groups), *z[whole:]]


def absolute(layer, z):
    count = round(layer.beta * len(z))
    return [abs(v) if i < count else v for i, v in enumerate(z)]


def folded(layer, z):
    """By the formula of the docstring, one channel after the other."""
    z = list(z)
    for directions in layer.raw.tolist():
        for group, raw in enumerate(directions):
            length = math.hypot(*raw)
            v = [entry / length for entry in raw]
            start = group * layer.group
            inner = sum(a * b for a, b in zip(v, z[start : start + layer.group], strict=True))
            for i, entry in enumerate(v):
                z[start + i] += (abs(inner) - inner) * entry
    return z


def pieces(layer, z):
    """The three lines, by cases."""
    values = []
    for x, pair in zip(z, layer.raw.tolist(), strict=True):
        low, high = sorted(pair)
        values.append(x - 2 * low if x < low else x - 2 * high if x > high else -x)
    return values


def spline(layer, z):
    """From 0 to x, piece by piece."""
    values = []
    for x, raw in zip(z, layer.raw.tolist(), strict=True):
        slopes, half = [min(max(s, -1.0), 1.0) for s in raw], len(raw) // 2
        outwards = slopes[half:] if x > 0 else slopes[:half][::-1]
        rest, total = abs(x), 0.0
        for slope in outwards[:-1]:
            step = min(rest, layer.step)
            total, rest = total + step * slope, rest - step
        values.append(math.copysign(1.0, x) * (total + rest * outwards[-1]))
    return values


N = taut.nn
ACTIVATIONS = {
    "Abs": Activation(lambda _, **k: N.Abs(0.6, **k), absolute),
    "FullSort": Activation(lambda _, **k: N.FullSort(**k), lambda _, z: sorted(z)),
    "GroupSort": Activation(lambda _, **k: N.GroupSort(3, **k), group_sort),
    "HouseHolder": Activation(lambda c, **k: N.HouseHolder(c, **k), folded),
    "HouseHolder 3 of 3": Activation(lambda c, **k: N.HouseHolder(c, 3, 3, **k), folded),
    "LinearSpline": Activation(lambda c, **k: N.LinearSpline(c, 7, **k), spline, False),
    "MaxMin": Activation(lambda _, **k: N.MaxMin(**k), maxmin),
    "NActivation": Activation(lambda c, **k: N.NActivation(c, **k), pieces),
}
NAMES = sorted(ACTIVATIONS)
LEARNED = [name for name in NAMES if list(ACTIVATIONS[name].make(2).parameters())]


def moved(name, channels, **options):
    """In float64, its parameters away from where they start."""
    torch.manual_seed(0)
    layer = ACTIVATIONS[name].make(channels, **options).double()
    generator = torch.Generator().manual_seed(channels)
    with torch.no_grad():
        for tensor in layer.parameters():
            tensor += 0.4 * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
    return layer.requires_grad_(False)


def random(*shape, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def jacobian(layer, x):
    """Of one sample, as a matrix."""
    dense = torch.autograd.functional.jacobian(layer, x[None])
    return dense.reshape(x.numel(), x.numel())


def test_every_activation_has_a_row():
    assert {name.split()[0] for name in NAMES} == set(activations.__all__)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 2, 5, 7])
@pytest.mark.parametrize("places", [(), (2,), (2, 3)])
def test_against_a_loop(name, channels, places):
    layer, x = moved(name, channels), random(4, channels, *places)
    columns = x.movedim(1, -1).reshape(-1, channels).tolist()
    values = [ACTIVATIONS[name].oracle(layer, z) for z in columns]
    expected = torch.tensor(values, dtype=torch.float64).reshape(4, *places, channels)
    torch.testing.assert_close(layer(x), expected.movedim(-1, 1), rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("dim", "shape"), [(-1, (2, 3, 5)), (2, (2, 3, 5)), (-3, (5, 4, 3)), (0, (5, 4)), (-1, (2, 5))]
)
def test_along_every_axis(name, dim, shape):
    x = random(*shape)
    expected = moved(name, 5)(x.movedim(dim, 1)).movedim(1, dim)
    assert torch.equal(moved(name, 5, dim=dim)(x), expected)
    assert f"dim={dim}" in repr(moved(name, 5, dim=dim))
    assert "dim" not in repr(moved(name, 5))


@pytest.mark.parametrize("name", NAMES)
def test_vectors_without_a_batch(name):
    x, layer = random(5), moved(name, 5, dim=-1)
    assert torch.equal(layer(x), layer(x[None])[0])
    assert torch.equal(moved(name, 5, dim=0)(x), layer(x))
    with pytest.raises(ValueError, match=r"`input` must have .* axis 1.*\(5,\)"):
        moved(name, 5)(x)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [2, 5])
def test_lipschitz_along_segments_and_between_distant_points(name, channels):
    layer = moved(name, channels)
    ends = random(2, 8, channels, 2, scale=3.0)
    steps = torch.linspace(0, 1, 400, dtype=torch.float64)[:, None, None, None]
    path = ends[0] + steps * (ends[1] - ends[0])  # (400, 8, c, 2)
    values = layer(path.flatten(0, 1)).reshape(path.shape)
    for gap in (1, 7, 100):
        there, here = (t[gap:] - t[:-gap] for t in (values, path))
        ratio = there.flatten(2).norm(dim=2) / here.flatten(2).norm(dim=2)
        assert ratio.max() <= 1 + 1e-11


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 4, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_jacobian_at_random_points_and_at_ties(name, channels, dtype):
    layer = moved(name, channels).to(dtype)
    knots = layer.raw.flatten()[:channels] if name == "NActivation" else torch.zeros(channels)
    points = [*random(3, channels, 2), torch.zeros(channels, 2), torch.ones(channels, 2)]
    points.append(knots[:, None].expand(-1, 2))
    above, below = (1e-9, 1e-9) if dtype == torch.float64 else (3e-6, 1e-5)
    for x in points:
        values = torch.linalg.svdvals(jacobian(layer, x.to(dtype)).double())
        assert values.max() <= 1 + above
        assert values.min() >= 1 - below or not ACTIVATIONS[name].orthogonal


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("raw", ["x1e6", "x1e-6", "decades", "equal", "zero", "fresh", "steps"])
def test_any_parameters(name, dtype, raw):
    layer = ACTIVATIONS[name].make(6).to(dtype)
    x = random(5, 6, 2).to(dtype)
    with torch.no_grad():
        gaussian = random(*layer.raw.shape, seed=2)
        decades = torch.logspace(-6, 6, gaussian.numel(), dtype=torch.float64)
        values = {
            "x1e6": 1e6 * gaussian, "x1e-6": 1e-6 * gaussian, "equal": torch.ones_like(gaussian),
            "decades": gaussian * decades.reshape(gaussian.shape), "zero": 0 * gaussian,
        }  # fmt: skip
        layer.raw.copy_(values.get(raw, layer.raw))
    if raw == "steps":
        optimiser = torch.optim.SGD(layer.parameters(), lr=0.3)
        for step in range(20):
            optimiser.zero_grad()
            (layer(x) - random(5, 6, 2, seed=step).to(dtype)).square().mean().backward()
            optimiser.step()
    layer(x).square().sum().backward()
    assert layer.raw.grad is not None
    assert layer.raw.grad.isfinite().all()
    assert float(taut.lipschitz_bound(layer, (6, 2))) <= 1
    above, below = (1e-9, 1e-9) if dtype == torch.float64 else (3e-6, 1e-5)
    for sample in x[:2]:
        values = torch.linalg.svdvals(jacobian(layer, sample).double())
        assert values.max() <= 1 + above
        assert values.min() >= 1 - below or not ACTIVATIONS[name].orthogonal


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dim", [1, -1])
def test_gradients(name, dim):
    """Numbers far from where pieces meet, as `gradcheck` moves them by 1e-6."""
    layer = moved(name, 4, dim=dim)
    if name == "LinearSpline":
        layer.raw.clamp_(-0.9, 0.9)  # beyond 1 the gradient is one-sided
    layer.requires_grad_()
    x = random(4, 4, 4, seed=3).requires_grad_()

    def function(x, *tensors):
        names = dict(zip(dict(layer.named_parameters()), tensors, strict=True))
        return torch.func.functional_call(layer, names, (x,))

    inputs = (x, *layer.parameters())
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("name", NAMES)
def test_transforms_and_traces(name, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # for proxies
    layer, x = moved(name, 5), random(3, 5, 2)
    expected = torch.stack([jacobian(layer, sample) for sample in x])
    batched = torch.func.vmap(torch.func.jacrev(lambda z: layer(z[None])[0]))(x)
    assert torch.equal(batched.reshape(expected.shape), expected)
    graph = fx.symbolic_trace(nn.Sequential(layer))
    assert torch.equal(graph(x), layer(x))


COMPILED = """
import torch
from contract.test_activations import NAMES, moved, random
for name in NAMES:
    layer, x = moved(name, 5).requires_grad_(), random(3, 5, 2).requires_grad_()
    torch.compiler.reset()
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), layer(x)), name
    inputs = (x, *layer.parameters())
    pairs = (torch.autograd.grad(f(x).square().sum(), inputs) for f in (compiled, layer))
    for one, other in zip(*pairs, strict=True):
        torch.testing.assert_close(one, other)
"""


@pytest.mark.slow
def test_compiled():
    """In a process of its own: torch.compile cannot see through the shape checks of the tests."""
    run(COMPILED)


@pytest.mark.parametrize("name", NAMES)
def test_no_hidden_state(name):
    layer, x = moved(name, 6), random(2, 6, 3)
    before = {key: tensor.clone() for key, tensor in layer.state_dict().items()}
    first = layer.train()(x)
    assert torch.equal(first, layer.eval()(x))
    assert before.keys() == layer.state_dict().keys()
    assert all(torch.equal(tensor, layer.state_dict()[key]) for key, tensor in before.items())
    other = ACTIVATIONS[name].make(6).double()
    other.load_state_dict(before)
    for same in (other, copy.deepcopy(layer), taut.freeze(layer)):
        assert torch.equal(same(x), first)
    frozen = taut.freeze(nn.Sequential(layer.requires_grad_()))
    assert not any(tensor.requires_grad for tensor in frozen.parameters())


@pytest.mark.parametrize("name", LEARNED)
def test_arguments(name, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    make = ACTIVATIONS[name].make
    assert make(np.int64(5)).raw.shape == make(5).raw.shape
    assert make(4, device="meta", dtype=torch.float64).raw.dtype == torch.float64
    with pytest.raises(ValueError, match="`channels` must be a positive integer; got 0"):
        make(0)
    for x, dim in ((random(2, 3, 4), 1), (random(2, 3, 3), -1), (random(3), 1)):
        with pytest.raises(ValueError, match=f"`input` must have 4 channels along axis {dim}"):
            make(4, dim=dim)(x.float())


def net(name, channels=5):
    torch.manual_seed(0)
    layer = moved(name, channels).float()
    return nn.Sequential(nn.Conv2d(2, channels, 2), layer, nn.Flatten(), nn.Linear(9 * channels, 3))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("arithmetic", ["float32", "float64"])
def test_certificates_are_verified(name, arithmetic, tmp_path):
    model, x = net(name).eval(), torch.rand(3, 2, 4, 4)
    result = taut.certify(model, x, model(x).argmax(1), eps=(0.001,), arithmetic=arithmetic)
    assert result.certified_accuracy[0.001] == 1.0
    path, weights = result.save(tmp_path / "certificate.json")
    verifier.verify(path, weights, forgery.points_file(tmp_path, x))
    taut.verify(path, weights)
    steepest = 1.0 if ACTIVATIONS[name].orthogonal else model[1].slopes().abs().max().item()
    assert float(taut.lipschitz_bound(model[1], (5, 3, 3))) == steepest


@pytest.mark.parametrize(
    ("dim", "shape", "name"), one_in(3, itertools.product([1, -1], [(5,), (3, 2, 2)], NAMES))
)
def test_exports_are_read_back(name, shape, dim, tmp_path):
    channels = shape[0] if dim == 1 else shape[-1]
    model = taut.freeze(nn.Sequential(moved(name, channels, dim=dim).float(), nn.Flatten())).eval()
    x = random(4, *shape, seed=5).float()
    for suffix in ("onnx", "safetensors"):
        path = tmp_path / f"model.{suffix}"
        export(model, path, shape)
        back = load(path)
        torch.testing.assert_close(back.model(x), model(x), rtol=0, atol=2e-7)
        assert float(taut.lipschitz_bound(*back)) == 1.0
    found = in_onnxruntime(tmp_path / "model.onnx", x)
    torch.testing.assert_close(found, model(x), rtol=0, atol=1e-6)
    space: dict[str, Any] = {"__file__": str(tmp_path / "model.py")}
    exec((tmp_path / "model.py").read_text(), space)
    torch.testing.assert_close(space["load"]()(x), model(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_files_of_open_sizes(name, tmp_path):
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 5, 3), moved(name, 5).float(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    model, path = taut.freeze(nn.Sequential(*layers)).eval(), tmp_path / "model.onnx"
    export(model, path, (2, 8, 8), any_size=True)
    x = random(2, 2, 12, 10).float()
    torch.testing.assert_close(in_onnxruntime(path, x), model(x), rtol=0, atol=1e-6)
    torch.testing.assert_close(load(path, (2, 12, 10)).model(x), model(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_rounding_is_within_its_bound(name, scale):
    layer = moved(name, 6).float()
    x = random(2000, 6, 1, scale=scale).float()
    for site in trace(layer, (6, 1)).sites():
        kind, shape = operation(site), (2000, *site.shapes[0])
        if kind.exact or site.node.op in ("reshape", "pad", "slice"):
            continue
        z = x.reshape(shape)
        errors = (kind.run(site, z).double() - kind.run(site, z.double())).flatten(1).norm(dim=1)
        rounding = kind.rounding(site)
        reach = rounding.absolute * z.double().flatten(1).norm(dim=1) + rounding.constant
        assert errors.max() > 0
        assert (errors <= gamma(rounding.count, U32) * reach).all()


@pytest.mark.parametrize(("order", "group"), one_in(2, itertools.product([1, 2, 4], [1, 2, 3, 6])))
def test_folds_preserve_norms_without_a_factor(order, group):
    layer = N.HouseHolder(12, order, group).double().requires_grad_(False)
    torch.nn.init.normal_(layer.raw)
    x = random(50, 12, 2)
    torch.testing.assert_close(layer(x).norm(dim=1), x.norm(dim=1), rtol=1e-12, atol=0)
    ratio = (layer(x) - layer(1.0001 * x)).norm() / (1e-4 * x.norm())
    assert ratio == pytest.approx(1, abs=1e-9)  # with a factor of 1 / sqrt 2 it would be 0.707


@pytest.mark.parametrize("channels", [2, 6, 7])
def test_folds_start_as_the_maximum_and_the_minimum_of_neighbours(channels):
    x, layer = random(9, channels, 2), N.HouseHolder(channels).double()
    groups = x[:, : channels - channels % 2].unflatten(1, (-1, 2))
    expected = groups.sort(2, descending=True).values.flatten(1, 2)
    found = layer(x)
    torch.testing.assert_close(found[:, : expected.shape[1]], expected, rtol=0, atol=1e-13)
    assert torch.equal(found[:, expected.shape[1] :], x[:, expected.shape[1] :])


def test_parameters_that_are_no_numbers_are_seen():
    """They pass on to the output, and no bound is proven of them."""
    for name in LEARNED:
        layer = moved(name, 4)
        layer.raw[:] = math.nan
        assert layer(random(2, 4)).isnan().any()
        with pytest.raises(ValueError, match="NaN"):
            taut.lipschitz_bound(layer, (4,))


def test_angles_of_the_paper():
    """Their sigma of angle theta: the identity above the line of half the angle, else reflected."""
    for theta in (0.3, 1.0, math.pi / 2, 2.5):
        layer = N.HouseHolder(2).double()
        half = torch.tensor([math.sin(theta / 2), -math.cos(theta / 2)])
        with torch.no_grad():
            layer.raw.copy_(half.double())
        x = random(20, 2)
        reflection = torch.tensor(
            [[math.cos(theta), math.sin(theta)], [math.sin(theta), -math.cos(theta)]]
        ).double()
        kept = x[:, :1] * math.sin(theta / 2) > x[:, 1:] * math.cos(theta / 2)
        expected = torch.where(kept, x, x @ reflection)
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-6)


def test_directions_that_are_too_long_are_bounded():
    """The constant of the op is that of the direction as it is."""
    (site,) = (s for s in trace(N.HouseHolder(2).double(), (2,)).sites() if s.node.op[0] == "H")
    site.tensors["direction"].mul_(1.2)
    kind, v = operation(site), site.tensors["direction"][0]
    norm = torch.linalg.matrix_norm(torch.eye(2) - 2 * torch.outer(v, v), 2).item()
    assert norm <= kind.bounds(site)[0].value <= norm * (1 + 1e-12)


def test_half_of_absolute_values_is_maxmin_in_another_basis():
    mix = torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=torch.float64) / math.sqrt(2)
    x = random(50, 2)  # mixed: the difference, then the sum
    torch.testing.assert_close(N.Abs(0.5)(x @ mix.T), N.MaxMin()(x) @ mix.T)


@pytest.mark.parametrize("beta", [-0.1, 1.5, math.nan])
def test_shares_of_channels(beta):
    with pytest.raises(ValueError, match="`beta` must be a number from 0 to 1; got"):
        N.Abs(beta)
    for share, count in ((0.0, 0), (0.25, 2), (0.5, 3), (1.0, 6)):
        assert int((N.Abs(share)(-torch.ones(1, 6)) > 0).sum()) == count


def test_starts_of_splines():
    x = random(100, 3, scale=2.0)
    for init, function in (("abs", torch.abs), ("relu", torch.relu), ("identity", lambda x: x)):
        torch.testing.assert_close(N.LinearSpline(3, init=init).double()(x), function(x))
    for arguments, words in (
        ({"knots": 4}, "`knots` must be odd, from 3 to 2047; got 4"),
        ({"knots": 1}, "`knots` must be odd"),
        ({"range": 0.0}, "`range` must be a positive number; got 0.0"),
        ({"range": math.inf}, "`range` must be a positive number; got inf"),
        ({"init": "elu"}, "`init` must be one of abs, relu, identity; got 'elu'"),
    ):
        with pytest.raises(ValueError, match=words):
            N.LinearSpline(3, **arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("knots", [3, 21, 2047])
def test_knots_are_exact_and_values_are_never_clamped(dtype, knots):
    layer = N.LinearSpline(1, knots, range=3.7, init="abs", dtype=dtype).requires_grad_(False)
    places = layer.step * torch.arange(-(knots // 2), knots // 2 + 1, dtype=torch.float64)
    assert torch.equal(places.to(dtype).double(), places)
    far = torch.tensor([[-1e30], [1e30], [math.inf], [0.0]], dtype=dtype)
    assert torch.equal(layer(far), far.abs())
    assert layer(torch.tensor([[math.nan]], dtype=dtype)).isnan()


def test_numbers_far_below_the_step_are_within_the_rounding():
    """The quotient by the step underflows: a negative number counts as positive."""
    layer, x = N.LinearSpline(1, 3, range=2.0**60), torch.tensor([[-(2.0**-100)]])
    rounding, error = rounding_of(layer, (1,)), (layer(x) - x.abs()).abs().item()
    assert error == 2.0**-99
    assert error <= gamma(rounding.count, U32) * (rounding.absolute * 2.0**-100 + rounding.constant)


def test_slopes_outside_come_back():
    """Their gradient passes only where a step against it leads into [-1, 1]."""
    layer = N.LinearSpline(1, 3)
    with torch.no_grad():
        layer.raw.copy_(torch.tensor([[1.5, 1.5]]))
    for sign in (1.0, -1.0):
        layer.raw.grad = None
        (sign * layer(torch.tensor([[2.0]]))).sum().backward()
        assert layer.raw.grad.tolist() == [[0.0, 2.0 if sign > 0 else 0.0]]


def test_thresholds_of_a_pair_learn_where_both_are_equal():
    layer = N.NActivation(2)  # (-1, 0) and (0, 0)
    layer(torch.tensor([[-3.0, -3.0], [2.0, 2.0], [-0.5, 0.0]])).sum().backward()
    assert layer.raw.grad.tolist() == [[-2.0, -2.0], [-2.0, -2.0]]


@pytest.mark.parametrize("change", ["v", "twice", "low", "anchor", "first", "stop"])
def test_files_with_other_numbers_are_no_activation(change, tmp_path):
    """One number of what is written out is changed: it is another function, without its bound."""
    name = {"v": "HouseHolder", "twice": "HouseHolder"}.get(change, "LinearSpline")
    model = taut.freeze(nn.Sequential(moved(name, 4).float())).eval()
    path = tmp_path / "model.onnx"
    export(model, path, (4, 2))
    graph = onnx.load(path)
    _change(graph.graph, change)
    onnx.save(graph, path)
    back = load(path)
    assert name not in [site.node.op for site in trace(*back).sites()]
    assert float(taut.lipschitz_bound(*back)) > 1


def _change(graph, change):
    constants = {tensor.name: tensor for tensor in graph.initializer}
    if change == "v":  # two directions that are not the same
        node = next(n for n in graph.node if n.name.endswith(".product"))
        raw = onnx.numpy_helper.to_array(constants[node_source(graph, node.input[1])])
        constants["other"] = onnx.numpy_helper.from_array(2 * raw[..., None], "other")
        graph.initializer.append(constants["other"])
        node.input[1] = "other"
        return
    suffix = {"twice": ".two", "first": ".first.place", "stop": ".stop"}.get(change, f".{change}")
    key = next(key for key in constants if key.endswith(suffix))
    values = onnx.numpy_helper.to_array(constants[key]).copy()
    values += 1 if change == "first" else values.dtype.type(0.25)
    constants[key].CopyFrom(onnx.numpy_helper.from_array(values, key))


def node_source(graph, name):
    return next((n.input[0] for n in graph.node if name in n.output), name)


# Those of torch that have slopes below 0.

SLOPES = {
    "PReLU": (lambda: nn.PReLU(3, -0.7), 1.0),
    "steep PReLU": (lambda: nn.PReLU(3, -1.75), 1.75),
    "one PReLU": (lambda: nn.PReLU(init=2.5), 2.5),
    "LeakyReLU": (lambda: nn.LeakyReLU(-3.0), 3.0),
    "RReLU": (lambda: nn.RReLU(-4.0, -1.0), 2.5),
}


@pytest.mark.parametrize("name", SLOPES)
@pytest.mark.parametrize("arithmetic", ["float32", "float64"])
def test_slopes_of_torch_are_bounded_sharply(name, arithmetic, tmp_path):
    make, steepest = SLOPES[name]
    model = nn.Sequential(make(), nn.Flatten(), nn.Identity()).eval()
    assert float(taut.lipschitz_bound(model, (3, 2))) == steepest
    x = torch.rand(4, 3, 2, generator=torch.Generator().manual_seed(0)) - 0.5
    step = model(torch.full((1, 3, 2), -1.0)) - model(torch.full((1, 3, 2), -2.0))
    assert max(1.0, step.norm().item() / math.sqrt(6)) == pytest.approx(steepest, rel=1e-6)
    result = taut.certify(model, x, model(x).argmax(1), arithmetic=arithmetic)
    path, weights = result.save(tmp_path / "certificate.json")
    verifier.verify(path, weights, forgery.points_file(tmp_path, x))
    for suffix in ("onnx", "safetensors"):
        file = tmp_path / f"model.{suffix}"
        export(taut.freeze(model), file, (3, 2))
        assert float(taut.lipschitz_bound(*load(file))) == steepest
        assert torch.equal(load(file).model(x), model(x))
    assert torch.equal(in_onnxruntime(tmp_path / "model.onnx", x), model(x))


def test_only_signs_are_not_rounded():
    """Of a PReLU with slopes of 0, 1 and -1 nothing is rounded, of others the product."""
    for slope, count in ((-1.0, 0), (0.0, 0), (1.0, 0), (-0.5, 1)):
        assert rounding_of(nn.PReLU(2, slope), (2,)).count == count
