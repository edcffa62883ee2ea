"""Bounds of models: above what any pair or attack shows, refused where nothing is proven."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import taut
from oracles import dense_operator
from taut._display import rounded_up
from taut.linalg.operator import NormBound
from taut.program import AbstractOp, lipschitz_bound, op, singular_values


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def randomised(model, seed=0):
    """The same model in float64, eval mode, with random weights and statistics."""
    model = model.double().eval()
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(random(*p.shape, seed=seed + i) / math.sqrt(max(1, p[0].numel())))
        for name, b in model.named_buffers():
            if name.endswith("running_var"):
                b.uniform_(0.2, 2.0)
    return model


def attacked(model, shape, points=8, steps=8):
    """Largest Jacobian norm found by power iteration at random points, and of random pairs."""
    x = random(points, *shape)
    best = 0.0
    v = random(points, *shape, seed=1)
    for _ in range(steps):
        v = v / v.flatten(1).norm(dim=1).clamp(min=1e-300).reshape(-1, *[1] * len(shape))
        _, u = torch.autograd.functional.jvp(model, x, v)
        _, v = torch.autograd.functional.vjp(model, x, u)
        best = max(best, u.flatten(1).norm(dim=1).max().item())
    y = x + random(points, *shape, seed=2) * 0.3
    moved = (model(x) - model(y)).flatten(1).norm(dim=1) / (x - y).flatten(1).norm(dim=1)
    return max(best, moved.max().item())


def assert_holds(model, shape, tight=None):
    bound = float(lipschitz_bound(model, shape))
    found = attacked(model, shape)
    assert found <= bound * (1 + 1e-12)
    if tight is not None:
        assert bound <= found * tight
    return bound


class Forward(nn.Module):
    """A module whose forward is a function of it and x."""

    def __init__(self, forward, **parts):
        super().__init__()
        self.function = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.function(self, x)


def linear(m=6, n=6):
    return nn.Linear(m, n, bias=True)


# Layers against the dense operator.


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(2, 4, 3, 2, 1), (2, 5, 6)),
        (nn.Conv2d(4, 4, 3, padding="same", groups=2, dilation=2), (4, 6, 5)),
        (nn.Conv2d(2, 3, (2, 3), padding="same", dilation=(2, 1)), (2, 4, 4)),
        (nn.Conv2d(2, 3, 3, padding=(1, 2), padding_mode="circular"), (2, 4, 5)),
        (nn.Conv2d(2, 3, 5, padding=2, padding_mode="reflect"), (2, 5, 4)),
        (nn.Conv2d(2, 3, 5, padding=2, padding_mode="replicate"), (2, 5, 4)),
        (nn.Conv1d(3, 2, 4, stride=2), (3, 9)),
        (nn.Conv3d(1, 2, 2), (1, 3, 3, 3)),
        (nn.ConvTranspose2d(3, 2, 3, 2, 1, output_padding=1), (3, 4, 3)),
        (nn.ConvTranspose2d(4, 4, 2, 1, 0, groups=2, dilation=2), (4, 3, 3)),
        (nn.ConvTranspose1d(3, 2, 4, 2, 1), (3, 5)),
        (nn.Linear(5, 3), (5,)),
        (nn.Linear(5, 3), (4, 5)),
        (nn.AvgPool2d(2), (3, 4, 6)),
        (nn.AvgPool2d(3, 2, 1), (2, 5, 5)),
        (nn.AvgPool2d(2, 1), (2, 5, 4)),
        (nn.AvgPool1d(3, 1), (2, 7)),
        (nn.AdaptiveAvgPool2d(1), (3, 4, 5)),
        (nn.AdaptiveAvgPool2d((2, None)), (3, 4, 5)),
        (nn.BatchNorm2d(3), (3, 2, 2)),
        (nn.BatchNorm1d(4), (4,)),
        (nn.Flatten(), (2, 3)),
        (nn.PixelUnshuffle(2), (1, 4, 4)),
        (nn.PixelShuffle(2), (4, 2, 2)),
        (nn.ZeroPad2d(1), (1, 3, 3)),
        (nn.CircularPad2d(1), (1, 3, 3)),
        (nn.ReflectionPad2d(2), (1, 3, 4)),
        (nn.ReplicationPad2d(2), (1, 3, 3)),
        (nn.Upsample(scale_factor=2), (2, 3, 3)),
        (nn.Upsample(size=(5, 4)), (1, 3, 4)),
        (nn.ConvTranspose2d(2, 2, 2, 1, dilation=3, output_padding=2), (2, 3, 3)),
        (nn.Dropout(0.5), (4,)),
        (nn.Identity(), (4,)),
    ],
    ids=lambda value: str(value),
)
def test_linear_layers_against_their_dense_operator(layer, shape):
    layer = randomised(layer)
    sigma = torch.linalg.svdvals(dense_operator(layer, shape))
    bound = float(lipschitz_bound(layer, shape))
    assert sigma[0] * (1 - 1e-13) <= bound <= 2.5 * sigma[0]
    torch.testing.assert_close(singular_values(layer, shape), sigma, rtol=1e-10, atol=1e-10)


def test_nearest_upsampling_has_gain_two():
    assert float(lipschitz_bound(nn.Upsample(scale_factor=2), (1, 3, 3))) == 2.0


@pytest.mark.parametrize(
    "activation",
    [
        nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.2), nn.LeakyReLU(-3.0), nn.Tanh(), nn.Sigmoid(),
        nn.Softplus(3.0), nn.ELU(2.0), nn.SELU(), nn.SiLU(), nn.GELU(),
        nn.Hardtanh(), nn.Softsign(), nn.LogSigmoid(), nn.PReLU(init=-1.5),
    ],
    ids=str,
)  # fmt: skip
def test_slopes_of_activations(activation):
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64).requires_grad_()
    activation = activation.double()
    (slopes,) = torch.autograd.grad(activation(x).sum(), x)
    bound = float(lipschitz_bound(activation, (4,)))
    assert slopes.abs().max() <= bound <= slopes.abs().max() * (1 + 1e-4)


@pytest.mark.parametrize(
    ("k", "s", "p", "d"), [(2, 2, 0, 1), (3, 2, 1, 1), (3, 1, 1, 1), (3, 2, 0, 2)]
)
def test_max_pools_count_windows_that_share_an_entry(k, s, p, d):
    pool = nn.MaxPool2d(k, s, p, d)
    bound = float(lipschitz_bound(pool, (1, 12, 12)))
    # One entry that is the maximum of every window it is in.
    gains = []
    for i in range(144):
        x = torch.zeros(1, 1, 144, dtype=torch.float64)
        x[..., i] = 1.0
        gains.append(pool(x.reshape(1, 1, 12, 12)).norm().item())
    assert max(gains) == pytest.approx(bound, rel=1e-12)
    if k <= s:
        assert bound == 1.0


def test_per_channel_std_counts_its_smallest():
    std = torch.tensor([0.5, 0.25, 1.0]).reshape(3, 1, 1)
    model = Forward(lambda m, x: (x - 0.5) / m.std)
    model.register_buffer("std", std)
    assert float(lipschitz_bound(model, (3, 4, 4))) == 4.0


# Graphs.


def test_compositions_multiply():
    model = randomised(nn.Sequential(linear(), nn.ReLU(), linear()))
    one, two = (torch.linalg.matrix_norm(model[i].weight, 2).item() for i in (0, 2))
    assert assert_holds(model, (6,)) == pytest.approx(one * two, rel=1e-9)


def test_residual_sums_add():
    model = randomised(Forward(lambda m, x: x + 0.5 * m.f(x).relu(), f=linear()))
    norm = torch.linalg.matrix_norm(model.f.weight, 2).item()
    assert assert_holds(model, (6,)) == pytest.approx(1 + norm / 2, rel=1e-9)


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: torch.cat([m.f(x), x, m.g(x)], dim=1),
        lambda m, x: torch.stack([m.f(x), m.g(x)], 1).flatten(1),
        lambda m, x: m.f(m.f(m.f(x))),
        lambda m, x: m.f(x) - m.g(x),
        lambda m, x: torch.sub(m.f(x), m.g(x), alpha=3),
        lambda m, x: -m.f(x) / 3 + 2 * x + m.g.weight[0],
        lambda m, x: (m.f.weight[0] * x).abs(),
        lambda m, x: torch.maximum(m.f(x), m.g(x)),
        lambda m, x: m.f(x)[:, None] + m.g(x)[:, :, None],
        lambda m, x: F.leaky_relu(m.f(x), -2.0) + F.relu(m.g(x)) + torch.tanh(x),
        lambda m, x: m.f(x).view(x.shape[0], 2, -1).permute(0, 2, 1).mean(1),
        lambda m, x: m.f(x).reshape(x.size(0), 3, 2).sum(dim=-1),
        lambda m, x: torch.cat(m.f(x).chunk(2, dim=1)[::-1], 1),
        lambda m, x: m.f(x)[:, [0, 0, 1, 2, 2, 2]],
        lambda m, x: m.f(x).unsqueeze(1).expand(-1, 4, -1).flatten(1),
        lambda m, x: F.pad(m.f(x), (1, 2), value=0.5).clamp(-1, 1),
        lambda m, x: F.max_pool1d(m.f(x)[:, None], 2, 1),
        lambda m, x: F.dropout(m.f(x), 0.5, m.training),
        lambda m, x: m.f.weight.sum() * x,
    ],
)
def test_graphs_hold_against_attacks(forward):
    assert_holds(randomised(Forward(forward, f=linear(), g=linear())), (6,), tight=8)


def test_concatenation_takes_the_root_of_the_sum_of_squares():
    model = Forward(lambda m, x: torch.cat([3 * x, 4 * x], 1))
    assert float(lipschitz_bound(model, (5,))) == pytest.approx(5.0, rel=1e-12)


def test_copies_are_counted():
    model = Forward(lambda m, x: x[:, [0, 1, 1, 1, 1]])
    assert float(lipschitz_bound(model, (2,))) == 2.0


def test_convolutional_residual_network():
    def block(c):
        def forward(m, x):
            out = m.bn1(m.conv1(x))
            out = m.relu(out)
            out = m.bn2(m.conv2(out))
            out += x
            return m.relu(out)

        return Forward(
            forward,
            conv1=nn.Conv2d(c, c, 3, padding=1, bias=False), bn1=nn.BatchNorm2d(c),
            conv2=nn.Conv2d(c, c, 3, padding=1, bias=False), bn2=nn.BatchNorm2d(c),
            relu=nn.ReLU(inplace=True),
        )  # fmt: skip

    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), block(3), nn.MaxPool2d(3, 2, 1), block(3),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4),
    )  # fmt: skip
    assert_holds(randomised(model), (1, 6, 6))


def test_table_names_every_layer():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    bound = lipschitz_bound(model, (1, 4, 4))
    assert [row.name for row in bound.layers] == ["0", "1", "2", "3"]
    assert [row.type for row in bound.layers] == ["Conv2d", "ReLU", "Flatten", "Linear"]
    assert math.prod(row.bound for row in bound.layers) == pytest.approx(float(bound))
    assert "dense operator" in str(bound)
    assert str(bound).count("\n") == 5


def test_pairwise_constants_come_from_the_last_rows():
    model = randomised(nn.Sequential(linear(), nn.ReLU(), linear(6, 3)))
    bound = lipschitz_bound(model, (6,))
    features = torch.linalg.matrix_norm(model[0].weight, 2).item()
    weight = model[2].weight
    for i in range(3):
        for j in range(3):
            want = features * (weight[i] - weight[j]).norm().item()
            want = min(want, math.sqrt(2) * float(bound))
            assert bound.pairwise[i, j].item() == pytest.approx(want, rel=1e-9)
            assert bound.pairwise[i, j] >= want * (1 - 1e-13)
    assert lipschitz_bound(nn.Sequential(linear(), nn.ReLU()), (6,)).pairwise is None


def test_bound_reads_the_weight_as_it_is():
    layer = nn.Linear(2, 2)
    before = float(lipschitz_bound(layer, (2,)))
    with torch.no_grad():
        layer.weight *= 3
    assert float(lipschitz_bound(layer, (2,))) == pytest.approx(3 * before)


def test_bounding_changes_nothing():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(inplace=True)).eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    torch.manual_seed(3)
    rng = torch.get_rng_state()
    lipschitz_bound(model, (1, 5, 5))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(rng, torch.get_rng_state())
    assert not model.training


# Refusals.


class Custom(nn.Linear):
    def forward(self, x):
        return 100 * super().forward(x)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Forward(lambda m, x: torch.lgamma(x)), r"lgamma has no rule.*register an op"),
        (nn.Sequential(nn.LayerNorm(6, eps=0.0)), "LayerNorm.*`eps` is above 0"),
        (nn.Sequential(nn.Softmax(0)), "`dim`"),
        (Forward(lambda m, x: x * x), "product of two signals"),
        (Forward(lambda m, x: x / x), "constants"),
        (Forward(lambda m, x: 1 / x), "constants"),
        (Forward(lambda m, x: x / 0), "divides by 0"),
        (Forward(lambda m, x: x**2), "pow"),
        (Forward(lambda m, x: m.w.weight @ x.T, w=linear()), "batch first"),
        (Forward(lambda m, x: x.fill_(3)), "no rule"),
        (Forward(lambda m, x: x - x.mean(0)), "broadcasts over the batch"),
        (Forward(lambda m, x: x.mean()), "batch"),
        (Forward(lambda m, x: x.flip(0)), "mixes samples"),
        (Forward(lambda m, x: x.reshape(-1)), "batch"),
        (Forward(lambda m, x: torch.cat([x, x])), "batch"),
        (Forward(lambda m, x: x if x.sum() > 0 else -x), "branch"),
        (Forward(lambda m, x: F.dropout(x)), "random"),
        (Forward(lambda m, x: F.normalize(x, eps=0.0)), "`eps` is above 0"),
        (Forward(lambda m, x: (x, x)), "one tensor"),
        (Forward(lambda m, x: x * m.t, t=nn.Parameter(torch.tensor(math.nan))), "NaN"),
        (nn.Sequential(nn.LazyLinear(3)), "lazy"),
        (nn.Sequential(nn.Flatten(0)), "batch"),
        (nn.Sequential(nn.Unflatten(1, (2, 3)), nn.MaxPool2d(2, 1)), "channels"),
        (nn.Sequential(nn.Unflatten(1, (2, 3)), nn.AvgPool2d(2, 1)), "channels"),
        (Forward(lambda m, x: torch.add(x, x, alpha=math.nan)), "NaN"),
        (Forward(lambda m, x: x[0] + x), "batch"),
        (Forward(lambda m, x: x * x.size(0)), "size of the batch"),
        (Forward(lambda m, x: x / x.shape[0]), "size of the batch"),
        (Forward(lambda m, x: x.reshape(3, -1)), "batches of any size"),
        (Forward(lambda m, x: x.view(torch.float64)), "bits"),
        (Forward(lambda m, x: torch.sum(x, (1,), True, dtype=torch.int64) / 2), "dtype"),
        (Forward(lambda m, x: x * 1j), "real number"),
        (Forward(lambda m, x: x * (1 + 1e-4 * torch.rand(1))), "random"),
        (nn.Sequential(nn.Softplus(threshold=1.0)), "jumps"),
        (Forward(lambda m, x: F.softplus(x, 1.0, math.inf)), "overflow"),
        (nn.Sequential(nn.MultiheadAttention(6, 1)), "MultiheadAttention"),
    ],
)  # fmt: skip
def test_what_is_not_proven_is_refused_by_name(model, message):
    with pytest.raises(NotImplementedError, match=message):
        lipschitz_bound(model, (6,))


@pytest.mark.parametrize("calls", [0, 1])
def test_a_lack_of_memory_is_said_as_it_is(calls):
    """In the call that is followed, or in one that it is compared with."""
    seen = []

    def forward(_, x):
        seen.append(x)
        return x + torch.ones(1 << 50)[0] if len(seen) > calls else x + 1

    with pytest.raises(RuntimeError, match="DefaultCPUAllocator") as raised:
        lipschitz_bound(Forward(forward), (6,))
    assert not isinstance(raised.value, NotImplementedError)


@pytest.mark.parametrize("kind", [nn.BatchNorm2d(2), nn.Dropout(), nn.Dropout2d()])
def test_training_mode_is_refused_where_it_matters(kind):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), kind)
    with pytest.raises(NotImplementedError, match=r"`1` .*model.eval\(\)"):
        lipschitz_bound(model, (1, 4, 4))
    lipschitz_bound(model.eval(), (1, 4, 4))
    lipschitz_bound(nn.Sequential(nn.Linear(2, 2), nn.ReLU()).train(), (2,))


def test_batch_norm_without_statistics_is_refused():
    with pytest.raises(NotImplementedError, match="statistics"):
        lipschitz_bound(nn.BatchNorm1d(2, track_running_stats=False).eval(), (2,))


WRAPS = [
    getattr(nn.utils.parametrizations, f) for f in ("spectral_norm", "weight_norm", "orthogonal")
]


@pytest.mark.parametrize("wrap", WRAPS)
def test_torch_parametrizations_are_bounded_by_the_weight_in_use(wrap):
    model = nn.Sequential(wrap(nn.Linear(5, 3))).eval()
    norm = torch.linalg.matrix_norm(model[0].weight.double(), 2).item()
    assert float(lipschitz_bound(model, (5,))) == pytest.approx(norm, rel=1e-6)


REALLY = {
    "a subclass": (lambda: nn.Sequential(Custom(6, 6)), 100),
    "a function with a weight": (lambda: Forward(lambda m, x: F.linear(x, m[0].weight)), 1),
    "a product with a weight": (lambda: Forward(lambda m, x: x @ m[0].weight.T), 1),
    "a keyword": (lambda: Forward(lambda m, x: m[0](input=x).div(other=2)), 0.5),
    "a factor in place": (lambda: Forward(lambda m, x: m[0](x).mul_(3)), 3),
    "data": (lambda: Forward(lambda m, x: m[0](x.data) * 5), 5),
    "a steep slope in place": (lambda: nn.Sequential(nn.Linear(6, 6), nn.ELU(3.0, True)), 3),
}


@pytest.mark.parametrize("case", REALLY)
def test_what_really_runs_is_followed(case):
    make, factor = REALLY[case]
    model = make()
    if isinstance(model, Forward):
        model = Forward(model.function, **{"0": linear()})
        model.__class__ = type(
            "Indexed", (Forward,), {"__getitem__": lambda m, i: getattr(m, str(i))}
        )
    model = randomised(model)
    norm = torch.linalg.matrix_norm(model[0].weight, 2).item()
    assert assert_holds(model, (6,)) == pytest.approx(factor * norm, rel=1e-9)


def test_hooks_and_replaced_forwards_run_and_are_followed():
    model = randomised(nn.Sequential(linear(2, 2)))
    norm = torch.linalg.matrix_norm(model[0].weight, 2).item()
    model[0].register_forward_hook(lambda module, args, output: 3 * output)
    model[0].register_forward_pre_hook(lambda module, args: args[0] / 2)
    assert float(lipschitz_bound(model, (2,))) == pytest.approx(1.5 * norm)
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].forward = lambda x: 9 * x
    assert float(lipschitz_bound(model, (2,))) == pytest.approx(9)
    for name in ("forward", "_call_impl", "extra_repr"):
        model = nn.Sequential(taut.nn.MaxMin())
        setattr(model[0], name, lambda x: 9 * x)
        with pytest.raises(NotImplementedError, match=f"replaced {name}"):
            lipschitz_bound(model, (2,))
    model = nn.Sequential(taut.nn.MaxMin())
    model[0].register_forward_hook(lambda module, args, output: 3 * output)
    with pytest.raises(NotImplementedError, match=r"`0` .*hooks"):
        lipschitz_bound(model, (2,))


def test_a_type_whose_forward_was_replaced_is_followed_or_refused(monkeypatch):
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: 9 * x)
    assert float(lipschitz_bound(nn.Sequential(nn.Linear(2, 2)), (2,))) == 9
    monkeypatch.setattr(taut.nn.MaxMin, "forward", lambda self, x: 9 * x)
    with pytest.raises(NotImplementedError, match=r"`0` .*replaced forward"):
        lipschitz_bound(nn.Sequential(taut.nn.MaxMin()), (2,))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(value):
    model = nn.Sequential(nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        model[1].weight[0, 0] = value
    with pytest.raises(NotImplementedError, match=r"`1` .*NaN or Inf"):
        lipschitz_bound(model, (2,))


def test_results_may_not_be_written_to_constants():
    def forward(m, x):
        torch.mul(x, 10.0, out=m.constant)
        return x + m.constant

    model = Forward(forward)
    model.register_buffer("constant", torch.zeros(0))
    with pytest.raises(NotImplementedError, match="writes to a constant"):
        lipschitz_bound(model, (4,))


def test_a_forward_that_changes_a_buffer_is_refused():
    def grown(m, x):
        m.scale.mul_(1.0005)
        return x * m.scale

    def replaced(m, x):
        m.scale = m.scale * 1.0005
        return x * m.scale

    for forward in (grown, replaced):
        model = Forward(forward)
        model.register_buffer("scale", torch.ones(()))
        with pytest.raises(NotImplementedError, match="writes to parameters or buffers"):
            lipschitz_bound(model, (4,))


def test_autocast_runs_other_weights_than_the_bound_reads():
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(NotImplementedError, match="autocast"),
    ):
        lipschitz_bound(nn.Linear(2, 2), (2,))


def overwritten(m, x):
    h = 0.1 * x
    g = h
    g += 10 * x
    return h + g


def test_in_place_sums_are_followed_and_may_not_overwrite_what_is_read_later():
    def aliased(m, x):
        h = m.f(x)
        part = h[:, :2]
        part += 10 * x[:, :2]
        return h

    assert assert_holds(Forward(overwritten), (6,)) == pytest.approx(20.2)
    with pytest.raises(NotImplementedError, match="in place"):
        lipschitz_bound(Forward(aliased, f=linear()), (6,))


def test_rows_of_a_head_that_is_overwritten_do_not_count():
    def forward(m, x):
        logits = m.head(x)
        m.activation(logits)
        return logits

    model = Forward(forward, head=nn.Linear(1, 2), activation=nn.ReLU(inplace=True))
    with torch.no_grad():
        model.head.weight.fill_(1.0)  # equal rows: before ReLU the margin never moves
    assert lipschitz_bound(model, (1,)).pairwise is None


def test_rows_so_small_that_their_squares_underflow_still_differ():
    model = nn.Sequential(linear(2, 2), linear(2, 2)).double()
    with torch.no_grad():
        model[0].weight.copy_(1e200 * torch.eye(2, dtype=torch.float64))
        model[1].weight.copy_(1e-200 * torch.eye(2, dtype=torch.float64))
    pairwise = lipschitz_bound(model, (2,)).pairwise
    assert pairwise[0, 1].item() == pytest.approx(math.sqrt(2))


def test_padding_and_weight_set_later_count():
    kernel = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
    layer = nn.Conv2d(1, 1, 3, bias=False)
    layer.weight = nn.Parameter((kernel[:, None] * kernel / 9)[None, None])
    layer.padding = (1, 1)
    assert_holds(layer, (1, 5, 5), tight=1.3)
    transposed = nn.ConvTranspose1d(1, 1, 1, bias=False).double()
    transposed.weight = nn.Parameter(kernel[None, None])
    assert_holds(transposed, (1, 5), tight=1.1)


@pytest.mark.parametrize("factor", [47, 55, 61])
def test_upsampling_counts_copies_as_float32_rounds_places(factor):
    layer = nn.Upsample(scale_factor=(factor, 1))
    x = torch.tensor([[[[0.0], [1.0], [0.0]]]])
    for entry in range(3):
        gain = layer(x.roll(entry, 2)).norm().item()
        assert gain <= float(lipschitz_bound(layer, (1, 3, 1))) * (1 + 1e-6)


def test_batch_norm_bounds_every_way_to_add_its_eps():
    layer = nn.BatchNorm1d(1, eps=1e-7, affine=False).half().eval()
    layer.running_var.zero_()  # float16 rounds 1e-7 up; the kernel adds it in float32
    gain = layer(torch.tensor([[0.0], [1.0]]).half())[1].item()
    assert gain <= float(lipschitz_bound(layer, (1,))) * (1 + 1e-3)


def test_a_model_that_is_not_its_graph_is_refused():
    calls = []

    def forward(m, x):
        calls.append(0)
        return x * len(calls)

    with pytest.raises(NotImplementedError, match="counts its calls"):
        lipschitz_bound(Forward(forward), (2,))


def test_wrong_input_shape_is_one_sentence():
    with pytest.raises(ValueError, match="`input_shape` does not fit the model at `0`"):
        lipschitz_bound(nn.Sequential(nn.Linear(3, 3)), (4,))


# Registration and spectra.


def test_a_registered_op_is_used_for_its_exact_type_only():
    class Twice(nn.Module):
        def forward(self, x):
            return torch.cummax(x, dim=-1).values * 2

    class Thrice(Twice):
        pass

    with pytest.raises(NotImplementedError, match="cummax has no rule"):
        lipschitz_bound(Twice(), (3,))

    @op(Twice)
    class TwiceOp(AbstractOp):
        def gains(self, site):
            return (NormBound(4.0, f"of {site.shapes[0]}"),)

    bound = lipschitz_bound(nn.Sequential(Twice()), (3,))
    assert (float(bound), bound.layers[0].proof) == (4.0, "of (3,)")
    with pytest.raises(NotImplementedError, match="cummax"):
        lipschitz_bound(nn.Sequential(Thrice()), (3,))
    with pytest.raises(NotImplementedError, match="not linear"):
        singular_values(Twice(), (3,))


def test_singular_values_of_whole_linear_maps():
    model = randomised(
        nn.Sequential(
            nn.Conv2d(1, 2, 3, padding=1), nn.PixelUnshuffle(2), nn.Flatten(), linear(32, 5)
        )
    )
    sigma = torch.linalg.svdvals(dense_operator(model, (1, 4, 4)))
    torch.testing.assert_close(singular_values(model, (1, 4, 4)), sigma)
    residual = randomised(Forward(lambda m, x: x - 2 * m.f(x) + 1, f=linear()))
    sigma = torch.linalg.svdvals(dense_operator(residual, (6,)))
    torch.testing.assert_close(singular_values(residual, (6,)), sigma)


@pytest.mark.parametrize(
    "model",
    [nn.ReLU(), nn.Sequential(linear(), nn.Tanh()), Forward(lambda m, x: x.abs()), nn.MaxPool1d(2)],
)
def test_nonlinear_maps_have_no_singular_values(model):
    with pytest.raises(NotImplementedError, match="not linear"):
        singular_values(model, (1, 6))


def test_a_bound_is_shown_in_three_lines_and_as_a_table():
    bound = taut.lipschitz_bound(nn.Sequential(*(nn.Linear(3, 3) for _ in range(9))), (3,))
    assert len(repr(bound).splitlines()) == 3
    assert rounded_up(bound) in repr(bound)
    assert bound._repr_html_().count("<tr>") == 2 + len(bound.layers)
    assert len(str(bound).splitlines()) == 2 + len(bound.layers)


@pytest.mark.parametrize("pad", [nn.ZeroPad2d((0, 2, 1, 0)), nn.ZeroPad2d(1)])
@pytest.mark.parametrize(
    "layer",
    [
        taut.nn.PotentialResidual2d(3, parametrization=taut.SLL),
        taut.nn.SOC2d(3, 3, 3),
        taut.nn.Sandwich2d(3, 4, parametrization=taut.AOL),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_zeros_before_a_layer_of_branches_change_no_proof(pad, layer, tmp_path):
    model = nn.Sequential(pad, layer).eval()
    bound = float(taut.lipschitz_bound(model, (3, 8, 9)))
    assert bound <= 1 + 1e-6
    taut.export.export(model, tmp_path / "net.onnx", (3, 8, 9))
    read = taut.load(tmp_path / "net.onnx")
    assert float(taut.lipschitz_bound(read, (3, 8, 9))) == pytest.approx(bound, rel=1e-6)
