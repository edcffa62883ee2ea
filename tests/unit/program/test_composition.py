"""Bounds of composed and split affine maps, against dense operators and plain products."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import taut
from experiments import _nets as nets
from taut.program import PASSES, lipschitz_bound


class Forward(nn.Module):
    def __init__(self, forward, **modules):
        super().__init__()
        self.function = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.function(self, x)


def jacobian_norm(model, shape, *, seed=0, points=4):
    """The largest norm of a Jacobian at random points: a bound may not be below it."""
    generator, most = torch.Generator().manual_seed(seed), 0.0
    wide = model.double()
    for scale in (0.1, 1.0, 10.0, 100.0)[:points]:
        x = scale * torch.randn(1, *shape, generator=generator, dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(lambda x: wide(x).flatten(), x)
        matrix = jacobian.reshape(jacobian.shape[0], -1)
        most = max(most, torch.linalg.matrix_norm(matrix, 2).item())
    model.float()
    return most


def randomised(model, seed=0):
    torch.manual_seed(seed)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data.normal_()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_var.uniform_(0.1, 4)
    return model.eval()


def assert_sharp(model, shape, *, rel=1e-4):
    """Of an affine model the bound is its norm, and no more than the product."""
    norm = taut.singular_values(model, shape)[0].item()
    bound, product = lipschitz_bound(model, shape), lipschitz_bound(model, shape, passes=())
    assert norm * (1 - 1e-9) <= float(bound) <= norm * (1 + rel)
    assert float(bound) <= float(product) * (1 + 1e-9)
    assert product.passes == ()
    return bound


def conv(c_in, c_out, kernel=3, **options):
    return nn.Conv2d(c_in, c_out, kernel, **{"padding": kernel // 2, **options})


SHARP = {
    "a convolution and its norm": nn.Sequential(conv(3, 8), nn.BatchNorm2d(8)),
    "a norm in front": nn.Sequential(nn.BatchNorm2d(3), conv(3, 8)),
    "depthwise and pointwise": nn.Sequential(
        conv(3, 3, groups=3), nn.BatchNorm2d(3), conv(3, 8, 1), nn.BatchNorm2d(8)
    ),
    "a pool behind": nn.Sequential(conv(3, 4), nn.AvgPool2d(2)),
    "a circular pair": nn.Sequential(
        conv(3, 4, padding_mode="circular"), conv(4, 2, padding_mode="circular")
    ),
    "a transposed convolution and its norm": nn.Sequential(
        nn.ConvTranspose2d(3, 4, 2, stride=2), nn.BatchNorm2d(4)
    ),
    "matrices": nn.Sequential(
        nn.Flatten(), nn.Linear(192, 9), nn.BatchNorm1d(9), nn.Linear(9, 5), nn.Linear(5, 7)
    ),
    "a residual": Forward(lambda m, x: x + m.g(x), g=conv(3, 3)),
    "a mask": Forward(lambda m, x: m.g(x * torch.arange(64).reshape(8, 8)), g=conv(3, 3)),
    "zeros between": nn.Sequential(conv(3, 4), conv(4, 2)),
    "a Haar-like mix": Forward(
        lambda m, x: torch.cat([(a := x[:, :, ::2]) + (b := x[:, :, 1::2]), a - b], 1) * 0.5**0.5
    ),
    "branches of one value": Forward(
        lambda m, x: torch.cat([m.a(x), m.b(x)], 1), a=conv(3, 2), b=conv(3, 4)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHARP)
def test_affine_neighbours_are_one_map(name):
    bound = assert_sharp(randomised(SHARP[name]), (3, 8, 8))
    assert "compose_affine" in bound.passes


def test_blocks_of_convolution_and_norm():
    """Six blocks: each is bounded as the one convolution that it is."""
    blocks = []
    for i in range(6):
        blocks += [conv(8 if i else 3, 8), nn.BatchNorm2d(8), nn.ReLU()]
    model = nets.settled(nn.Sequential(*blocks))
    norms = 1.0
    for i in range(0, 18, 3):
        norms *= taut.singular_values(model[i : i + 2], (8 if i else 3, 8, 8))[0].item()
    bound = float(lipschitz_bound(model, (3, 8, 8)))
    assert norms <= bound <= norms * (1 + 1e-4)


def maxmin(m, x):
    a, b = x.chunk(2, 1)
    return torch.cat([torch.maximum(a, b), torch.minimum(a, b)], 1)


def interleaved(m, x):
    a, b = x[:, ::2], x[:, 1::2]
    return torch.stack([torch.maximum(a, b), torch.minimum(a, b)], 2).flatten(1, 2)


ISOMETRIES = {
    "MaxMin": (maxmin, {}),
    "MaxMin of neighbours": (interleaved, {}),
    "CReLU": (lambda m, x: torch.cat([F.relu(x), F.relu(-x)], 1), {}),
    "a swap": (lambda m, x: torch.cat([x[:, 2:], x[:, :2]], 1), {}),
    "a coupling": (
        lambda m, x: torch.cat([x[:, :2], m.g(x[:, 2:])], 1), {"g": nn.Tanh()},
    ),
    "both halves": (
        lambda m, x: torch.cat([F.relu(x[:, 2:]), torch.tanh(x[:, :2])], 1), {},
    ),
    "halves of a height": (
        lambda m, x: torch.cat([torch.tanh(x[:, :, 3:]), x[:, :, :3]], 2), {},
    ),
    "a convex sum": (lambda m, x: 0.25 * x + 0.75 * F.relu(x), {}),
    "a half of a sum": (lambda m, x: (x + F.relu(x)) / 2, {}),
    "a mean of two halves": (
        lambda m, x: 0.5**0.5 * (F.relu(x[:, :2]) + F.relu(x[:, 2:])), {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ISOMETRIES)
def test_what_is_split_and_joined_is_followed(name):
    function, modules = ISOMETRIES[name]
    model = Forward(function, **modules).eval()
    value = float(lipschitz_bound(model, (4, 5, 6)))
    assert jacobian_norm(model, (4, 5, 6)) <= value * (1 + 1e-9)
    assert value == pytest.approx(1.0, abs=1e-9)
    assert value <= float(lipschitz_bound(model, (4, 5, 6), passes=())) * (1 + 1e-9)


def test_ten_orthogonal_layers_with_maxmin_by_hand():
    layers = []
    for _ in range(10):
        layers += [taut.nn.Conv2d(4, 4, 3), Forward(maxmin)]
    bound = float(lipschitz_bound(nn.Sequential(*layers).eval(), (4, 6, 6)))
    assert bound == pytest.approx(1.0, abs=1e-5)


def test_overlapping_parts_count_twice():
    model = Forward(lambda m, x: torch.cat([F.relu(x[:, :3]), F.relu(x[:, 1:])], 1))
    assert float(lipschitz_bound(model, (4,))) == pytest.approx(2**0.5)
    model = Forward(lambda m, x: F.relu(x[:, :3]) + F.relu(x[:, 1:]))
    assert float(lipschitz_bound(model, (4,))) == pytest.approx(2.0)


def test_spread_extrema_are_no_pair():
    """A maximum of values that are broadcast copies entries."""

    def forward(m, x):
        a, b = x[:, :1], x[:, 1:]
        return torch.cat([torch.maximum(a, b), torch.minimum(a, b)], 1)

    model = Forward(forward).eval()
    assert jacobian_norm(model, (4,)) <= float(lipschitz_bound(model, (4,)))


def test_the_negative_part_of_another_value_is_no_pair():
    model = Forward(lambda m, x: torch.cat([F.relu(x), F.relu(-2 * x)], 1))
    assert jacobian_norm(model, (4,)) <= float(lipschitz_bound(model, (4,)))


ALIGNED = {  # what adds up at one point: a bound that takes parts for independent is false
    "a sum": (lambda m, x: F.relu(x) + torch.tanh(x), 2.0),
    "a weighted sum": (lambda m, x: torch.add(F.relu(x), torch.tanh(x), alpha=3), 4.0),
    "a part of a concatenation": (lambda m, x: torch.cat([3 * x, x], 1)[:, :3], 3.0),
    "a difference": (lambda m, x: x - m.g(x), 2.0),
}


@pytest.mark.parametrize("name", ALIGNED)
def test_what_adds_up_is_counted(name):
    function, constant = ALIGNED[name]
    model = Forward(function, g=nn.Hardtanh(-1e9, 1e9)).eval()
    if name == "a difference":
        model.g = Forward(lambda m, x: F.relu(-x))
    bound = float(lipschitz_bound(model, (3,)))
    x = torch.full((1, 3), 1e-6, dtype=torch.float64)
    jacobians = [torch.autograd.functional.jacobian(model, sign * x)[0, :, 0] for sign in (1, -1)]
    most = max(torch.linalg.matrix_norm(j, 2).item() for j in jacobians)
    assert most == pytest.approx(constant)
    assert most * (1 - 1e-9) <= bound <= constant * (1 + 1e-9)


@st.composite
def random_nets(draw):
    """Convolutions, norms, factors, splits and sums in any order."""
    steps = draw(st.lists(st.sampled_from(list(STEPS)), min_size=2, max_size=6))
    return steps, draw(st.integers(0, 10**6))


def _conv(**options):
    return lambda: conv(4, 4, **options)


STEPS = {
    "conv": _conv(), "circular": _conv(padding_mode="circular"), "grouped": _conv(groups=2),
    "pointwise": _conv(kernel=1), "depthwise": _conv(groups=4), "norm": lambda: nn.BatchNorm2d(4),
    "relu": nn.ReLU, "tanh": nn.Tanh, "maxmin": lambda: Forward(maxmin),
    "residual": lambda: Forward(lambda m, x: x - 0.5 * m.g(x), g=conv(4, 4)),
    "coupling": lambda: Forward(
        lambda m, x: torch.cat([x[:, 2:], x[:, :2] + m.g(x[:, 2:])], 1), g=conv(2, 2)
    ),
    "split": lambda: Forward(
        lambda m, x: torch.cat([F.relu(m.g(x[:, :1])), m.h(x[:, 1:])], 1),
        g=conv(1, 2), h=conv(3, 2),
    ),
    "scale": lambda: Forward(lambda m, x: (x - 0.5) / torch.tensor([0.2, 1, 3, 7])[:, None, None]),
    "merge": lambda: Forward(lambda m, x: F.relu(m.g(x[:, :2])) + m.h(x[:, 2:]),
                             g=conv(2, 4), h=conv(2, 4)),
    "crelu": lambda: Forward(lambda m, x: torch.cat([F.relu(x[:, :2]), F.relu(-x[:, :2])], 1)),
}  # fmt: skip


def check_random_net(case):
    names, seed = case
    model = randomised(nn.Sequential(*(STEPS[name]() for name in names)), seed)
    shape = (4, 4, 3)
    bound, product = lipschitz_bound(model, shape), lipschitz_bound(model, shape, passes=())
    assert jacobian_norm(model, shape, seed=seed, points=2) <= float(bound) * (1 + 1e-9)
    assert float(bound) <= float(product) * (1 + 1e-9)


@pytest.mark.parametrize("examples", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_no_bound_of_a_random_net_is_below_its_slope(examples):
    settings(deadline=None, max_examples=examples)(given(random_nets())(check_random_net))()


def cancelling(x):
    """What is left of a difference is lost in float64, and grown again."""
    return (torch.add(x, x, alpha=1e-17) - x) * 1e17


def eye(n=2):
    layer = nn.Linear(n, n, bias=False, dtype=torch.float64)
    nn.init.eye_(layer.weight)
    return layer


EXTREME = {  # a forward, and its constant in real arithmetic
    "a difference that cancels": (lambda m, x: cancelling(x), 1.0),
    "a relu behind it": (
        lambda m, x: F.relu(torch.add(x, x, alpha=1e-17) - x) * 1e17, 1.0,
    ),
    "factors that underflow": (lambda m, x: x * 1e-200 * 1e-200 * 1e200 * 1e250, 1e50),
    "subnormal factors": (lambda m, x: x * 1e-160 * 1e-160 * 1e160 * 1e160, 1.0),
    "factors around a matrix": (lambda m, x: m.g(x * 1e-200 * 1e-200) * 1e300 * 1e200, 1e100),
    "small and large": (lambda m, x: m.g(x * 1e-150 * 1e-100) * 1e150 * 1e100, 1.0),
}  # fmt: skip


@pytest.mark.parametrize("name", EXTREME)
def test_numbers_far_from_1_are_not_lost(name):
    function, constant = EXTREME[name]
    for passes in (None, ("compose_affine",), ("follow_parts",), ()):
        bound = float(lipschitz_bound(Forward(function, g=eye()), (2,), passes=passes))
        assert constant * (1 - 1e-12) <= bound


def test_many_small_matrices_are_bounded_by_no_more_than_their_product():
    layers = [nn.Linear(1, 1, bias=False) for _ in range(18)]
    for i, layer in enumerate(layers):
        nn.init.constant_(layer.weight, 1e-36 if i < 9 else 1e36)
    model = nn.Sequential(*layers)
    bound, product = lipschitz_bound(model, (1,)), lipschitz_bound(model, (1,), passes=())
    assert 1 - 1e-6 <= float(bound) <= float(product) * (1 + 1e-9)


def test_names_of_modules_are_any_text():
    """A module that is called as the key of a composed map has a bound of its own."""
    steep, flat = conv(2, 2, bias=False), conv(2, 2, bias=False)
    nn.init.constant_(steep.weight, 100.0)
    nn.init.constant_(flat.weight, 1e-3)
    model = nn.Sequential()
    for name, module in (
        ("a", flat), ("an", nn.BatchNorm2d(2)), ("r", nn.ReLU()), ("input -> an", steep),
    ):  # fmt: skip
        model.add_module(name, module)
    model.eval()
    assert jacobian_norm(model, (2, 3, 3)) <= float(lipschitz_bound(model, (2, 3, 3)))


def test_passes_by_name():
    model = nn.Sequential(conv(3, 3), nn.BatchNorm2d(3)).eval()
    for name in PASSES:
        assert float(lipschitz_bound(model, (3, 4, 4), passes=(name,))) > 0
    with pytest.raises(ValueError, match=r"`passes` must be .*; got 'compose'"):
        lipschitz_bound(model, (3, 4, 4), passes=("compose",))


def test_time_for_tight_bounds_and_progress():
    model = nn.Sequential(conv(3, 3), nn.ReLU(), conv(3, 3))
    told = []
    shape = (3, 24, 24)
    tight = lipschitz_bound(model, shape, tight=True, progress=lambda *args: told.append(args))
    loose = lipschitz_bound(model, shape, seconds=0.0)
    assert float(tight) < float(loose) < 1.5 * float(tight)
    assert all(row.excess is None or 1.0 <= row.excess < 1.5 for row in loose.layers)
    assert any(row.excess is not None for row in loose.layers)
    assert {"0", "2"} <= {name for name, _ in told}
    assert all(0.0 <= share <= 1.0 for _, share in told)
