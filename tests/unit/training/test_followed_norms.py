"""The constant that losses are given while it trains, against dense operators and proofs."""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import taut
from taut.certification import prove
from taut.data import Augment, load
from taut.losses import EMMA, Margins
from taut.models import AbstractModel
from taut.training import CHOICES, Recipe, TrainingInterrupted, train
from training_runs import outcome, stop_after

LiResConv2d = partial(taut.nn.Conv2d, parametrization=taut.LiRes)

LAYERS = {
    "circular": (lambda: LiResConv2d(3, 4, 3), (3, 5, 6)),
    "zeros": (lambda: LiResConv2d(3, 2, 3, padding_mode="zeros"), (3, 5, 4)),
    "reflect": (lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), (2, 5, 4)),
    "stride": (lambda: LiResConv2d(2, 4, 3, 2), (2, 7, 6)),
    "dilation": (lambda: LiResConv2d(2, 3, 3, dilation=2), (2, 7, 6)),
    "groups": (lambda: LiResConv2d(4, 4, 3, groups=2), (4, 5, 4)),
    "transposed": (
        lambda: taut.nn.ConvTranspose2d(2, 3, 3, 2, parametrization=taut.LiRes),
        (2, 4, 3),
    ),
    "one axis": (lambda: taut.nn.Conv1d(3, 3, 3, parametrization=taut.LiRes), (3, 7)),
    "three axes": (lambda: taut.nn.Conv3d(2, 2, 2, parametrization=taut.OSSN), (2, 3, 4, 3)),
    "matrix": (lambda: taut.nn.Linear(5, 4, parametrization=taut.LiRes), (5,)),
    "torch's": (lambda: nn.Conv2d(3, 4, 3, 2, 1, groups=1), (3, 5, 6)),
    "torch's circular": (lambda: nn.Conv2d(2, 3, 3, padding=2, padding_mode="circular"), (2, 5, 6)),
    "torch's transposed": (lambda: nn.ConvTranspose2d(2, 4, 3, 2, 1, 1, groups=2), (2, 4, 3)),
    "torch's matrix": (lambda: nn.Linear(4, 6), (3, 4)),
    "normalised": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)), (4,)),
}


def differentiable_matrix(layer, shape):
    """The dense operator, its columns with gradients."""
    x = torch.eye(int(np.prod(shape)), dtype=torch.float64).unflatten(1, shape)
    return (layer(x) - layer(torch.zeros_like(x))).flatten(1).T


def proven(model, shape):
    """The constant that a certificate has."""
    return float(prove(model.eval(), shape, arithmetic="real").bound)


def gradients(value, model):
    found = torch.autograd.grad(value, list(model.parameters()), allow_unused=True)
    pairs = zip(found, model.parameters(), strict=True)
    return [torch.zeros_like(p) if g is None else g for g, p in pairs]


@pytest.mark.parametrize("name", LAYERS)
def test_the_gradient_is_that_of_the_norm_of_the_dense_operator(name):
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    model = nn.Sequential(make(), nn.Tanh()).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    taut.update_(model, 1)
    margins = Margins(model, shape, iterations=1000)
    bound = margins()["bound"]
    assert len(margins.layers) == 1
    assert bound.dtype == torch.float64
    assert bound == margins.bound == pytest.approx(proven(model, shape))
    norm = torch.linalg.matrix_norm(differentiable_matrix(model[0], shape), 2)
    expected = gradients(norm.log(), model)
    assert any(bool(g.any()) for g in expected)
    for found, wanted in zip(gradients(bound.log(), model), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def check_differences(model, shape):
    """Of the proven constant along a direction of each parameter, against the estimate."""

    def moved(parameter, by):
        before = parameter.detach().clone()
        with torch.no_grad():
            parameter += by
            value = proven(model, shape)
            parameter.copy_(before)
        return value

    margins = Margins(model, shape, iterations=1000)
    estimate = margins.estimate()
    step, some = 1e-5, 0
    for parameter, gradient in zip(model.parameters(), gradients(estimate, model), strict=True):
        direction = torch.randn_like(parameter)
        ahead, back = moved(parameter, step * direction), moved(parameter, -step * direction)
        expected = (ahead - back) / (2 * step)
        assert float((gradient * direction).sum()) == pytest.approx(expected, rel=1e-4, abs=1e-6)
        some += bool(gradient.any())
    return some


def test_layers_in_series_have_the_gradient_of_the_proven_constant():
    torch.manual_seed(1)
    layers = LiResConv2d(2, 3, 3), taut.nn.MaxMin(), LiResConv2d(3, 2, 3, 2), taut.nn.Abs()
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(18, 5)).double()
    assert check_differences(model[:-2], (2, 6, 6)) == 4
    # The last layer is no part of the constant of the features.
    margins = Margins(model, (2, 6, 6))
    assert margins.head == "5"
    assert margins.layers == ("0", "2")


class Branches(nn.Module):
    """A residual block whose branch calls one layer twice, and branches side by side."""

    def __init__(self):
        super().__init__()
        self.first, self.inner = nn.Linear(4, 4), nn.Linear(4, 4)
        self.left, self.right = nn.Linear(2, 3), nn.Linear(2, 1)

    def forward(self, x):
        x = torch.relu(self.first(x))
        x = x + 0.3 * torch.relu(self.inner(torch.relu(self.inner(x))))
        a, b = x[:, :2], x[:, 2:]
        return torch.relu(torch.cat([torch.relu(self.left(a)), 0.1 * torch.relu(self.right(b))], 1))


def test_branches_have_the_gradient_of_the_proven_constant():
    torch.manual_seed(2)
    model = Branches().double()
    margins = Margins(model, (4,))
    assert margins.layers == ("first", "inner", "inner_1", "left", "right")
    assert check_differences(model, (4,)) == 4


class Coupled(nn.Module):
    """One half as it is, the other through a layer: the larger of both counts."""

    def __init__(self, factor):
        super().__init__()
        self.inner, self.factor = nn.Linear(2, 2), factor

    def forward(self, x):
        kept, moved = x[:, :2], self.factor * torch.relu(self.inner(x[:, 2:]))
        return torch.relu(torch.cat([kept, moved], 1))


def test_of_parts_side_by_side_the_larger_counts():
    torch.manual_seed(2)
    assert Margins(Coupled(0.5).double(), (4,)).layers == ()
    large = Coupled(20.0).double()
    assert Margins(large, (4,)).layers == ("inner",)
    assert check_differences(large, (4,)) == 1


def test_a_layer_in_front_of_a_batch_norm_counts_with_its_factors():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Tanh()).double()
    model[1].running_var.copy_(torch.tensor([1.0, 0.25, 4.0]))
    margins = Margins(model, (2, 5, 5))
    before = proven(model, (2, 5, 5))
    assert float(margins.estimate().detach()) == pytest.approx(before)
    model.train()
    with torch.no_grad():
        model[0].weight *= 1.7
    assert float(margins.estimate().detach()) == pytest.approx(1.7 * before)


def test_the_estimate_follows_the_constant_as_it_moves():
    torch.manual_seed(4)
    model = nn.Sequential(LiResConv2d(3, 3, 3), nn.ReLU(), LiResConv2d(3, 4, 3), nn.ReLU())
    margins = Margins(model, (3, 6, 6))
    for _ in range(60):
        with torch.no_grad():
            for layer in model[::2]:
                layer.parametrization.raw_kernel += 0.01 * torch.randn(
                    layer.parametrization.raw_kernel.shape
                )
        margins.update_()
    now = proven(model, (3, 6, 6))
    assert now > 1.2 * margins.bound
    assert 0.98 * now < float(margins.estimate().detach()) < 1.001 * now


def test_the_start_is_the_norm_that_was_proven():
    """SVCM's, which grows between its projections: the proof is of the projected kernel."""
    torch.manual_seed(0)
    model = taut.nn.Conv2d(3, 4, 3, bias=False, parametrization=taut.SVCM).double()
    with torch.no_grad():
        raw = model.parametrization.raw_matrix
        raw.mul_(2).add_(0.1 * torch.randn_like(raw))
    margins = Margins(model, (3, 5, 6))
    norm = torch.linalg.matrix_norm(differentiable_matrix(model, (3, 5, 6)), 2)
    assert margins.bound < 1.1 < 1.5 < norm
    assert float(margins()["bound"].detach()) == pytest.approx(float(norm.detach()), rel=0.1)


def test_directions_leave_a_frequency():
    """Power iteration alone would stay at the first direction."""
    layer = taut.nn.Conv1d(1, 1, 3, parametrization=taut.LiRes, bias=False)
    with torch.no_grad():
        layer.parametrization.assign_(torch.tensor([[[1.0, 1.0, 1.0]]]))  # largest at 0
    model = nn.Sequential(layer, nn.Tanh())
    margins = Margins(model, (1, 8))
    with torch.no_grad():
        layer.parametrization.assign_(torch.tensor([[[-1.0, 1.5, -1.0]]]))  # largest at pi
    for _ in range(20):
        margins.update_()
    assert float(margins.estimate().detach()) == pytest.approx(3.5, rel=1e-4)


class Counted(TorchDispatchMode):
    """How many operations of torch run inside."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


def operations(function):
    with Counted() as counted:
        function()
    return counted.count


def test_layers_that_promise_a_constant_cost_nothing():
    layers = taut.nn.Conv2d(1, 4, 3), taut.nn.MaxMin(), nn.Flatten(), taut.nn.Linear(64, 3)
    margins = Margins(nn.Sequential(*layers), (1, 4, 4))
    assert margins.layers == ()
    assert isinstance(margins()["bound"], float)
    assert margins()["bound"] == margins.bound
    assert set(margins.state_dict()) == {"bound"}
    assert operations(margins.update_) == 0
    assert operations(margins) == operations(margins.rows)
    # Nor do those that do not learn.
    frozen = nn.Sequential(nn.Linear(4, 4).requires_grad_(False), nn.ReLU(), nn.Linear(4, 2))
    assert Margins(frozen, (4,)).layers == ()
    followed = Margins(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), (4,))
    assert operations(followed.update_) > 0


@pytest.mark.parametrize("empty", [0, 1])
def test_layers_of_zeros_have_finite_gradients(empty):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU())
    with torch.no_grad():
        model[2 * empty].weight.zero_()
    margins = Margins(model, (4,))
    assert margins.layers == ()
    assert margins.estimate() == 0
    model = Branches()
    margins = Margins(model, (4,))
    with torch.no_grad():
        model.inner.weight.zero_()
    margins.update_()
    for gradient in gradients(margins.estimate(), model):
        assert bool(gradient.isfinite().all())


def test_a_state_of_numbers_alone_follows_no_layer():
    """As in checkpoints of earlier versions."""
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    margins = Margins(model, (4,))
    margins.load_state_dict({"bound": torch.tensor(3.0)})
    assert margins.layers == ()
    assert margins()["bound"] == 3.0
    with pytest.raises(ValueError, match=r"^`state` must be of this model; got "):
        margins.load_state_dict(Margins(Branches(), (4,)).state_dict())
    for missing in ("bound", "0.direction", "0.numbers"):
        state = Margins(model, (4,)).state_dict()
        del state[missing]
        with pytest.raises(ValueError, match=r"^`state` must be of this model; got "):
            margins.load_state_dict(state)
    with pytest.raises(ValueError, match=r"^`iterations` must be a positive integer; got 0\."):
        Margins(model, (4,), iterations=0)


# In training.


@dataclass(frozen=True)
class Followed(AbstractModel):
    """Two convolutions, and a matrix."""

    def build(self, input_shape, classes, *, parametrization=taut.LiRes, **options):  # pyright: ignore[reportIncompatibleMethodOverride]
        channels, height, width = input_shape
        return nn.Sequential(
            taut.nn.Conv2d(channels, 8, 3, parametrization=parametrization),
            taut.nn.MaxMin(),
            taut.nn.Conv2d(8, 8, 3, parametrization=parametrization),
            taut.nn.MaxMin(),
            nn.Flatten(),
            taut.nn.UnitRowLinear(8 * height * width, classes),
        )


RECIPE = Recipe(
    name="followed",
    dataset="npz",
    input_shape=(1, 4, 4),
    classes=3,
    model=Followed(),
    parametrization=taut.LiRes,
    loss=EMMA(eps=1.0, ramp=0.5),
    lr=3e-2,
    epochs=4,
    batch_size=10,
    eps=("0.1",),
)  # 6 steps an epoch


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rng, labels = np.random.default_rng(0), np.arange(60) % 3
    images = rng.integers(0, 160, (60, 1, 4, 4))
    images[np.arange(60), 0, labels] += 90  # the row of the class is brighter
    images = images.astype(np.uint8)
    np.savez(folder / "tiny.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    return folder


@pytest.fixture(autouse=True)
def _own_model(monkeypatch):
    monkeypatch.setitem(CHOICES["model"].known, "followed", Followed)
    monkeypatch.setattr(Followed, "kind", "followed", raising=False)


MORE = {"ema": 0.9, "clip_norm": 1.0, "augment": Augment(mixup=0.4)}


@pytest.mark.parametrize(
    ("method", "step", "settings"),
    [(taut.LiRes, 6, {}), (taut.LiRes, 9, MORE), (taut.OSSN, 9, {}), (taut.SVCM, 9, {})],
)
def test_runs_resume_bitwise(method, step, settings, data_dir, tmp_path):
    """At the end of an epoch, and within it, with the directions that it has come to."""
    recipe = replace(RECIPE, parametrization=method, epochs=3, **settings)
    whole = train(recipe, tmp_path / "whole", data_dir=data_dir)
    with pytest.raises(TrainingInterrupted):
        train(recipe, tmp_path / "run", data_dir=data_dir, on_progress=stop_after(step))
    assert outcome(train(recipe, tmp_path / "run")) == outcome(whole)


def test_parts_of_a_batch_add_up(data_dir, tmp_path):
    recipe = replace(RECIPE, epochs=1)
    whole = train(recipe, tmp_path / "whole", data_dir=data_dir).model()
    parts = train(replace(recipe, accumulate=3), tmp_path / "parts", data_dir=data_dir).model()
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_mixed_precision_follows_in_that_of_the_weights(data_dir, tmp_path, monkeypatch):
    seen, estimate = [], Margins.estimate

    def watched(margins):
        with torch.autocast("cpu", torch.bfloat16):  # as a loop may have it
            seen.append(estimate(margins))
        return seen[-1]

    monkeypatch.setattr(Margins, "estimate", watched)
    recipe = replace(RECIPE, epochs=1, precision="bf16-mixed", channels_last=True)
    train(recipe, tmp_path / "run", data_dir=data_dir)
    assert len(seen) == 6
    assert {bound.dtype for bound in seen} == {torch.float32}
    assert seen[-1] != seen[0]


def test_the_gradient_keeps_the_constant_small(data_dir, tmp_path, monkeypatch):
    recipe = replace(RECIPE, loss=EMMA(eps=0.3), epochs=7, batch_size=2, lr=3e-3)  # 210 steps
    followed = train(recipe, tmp_path / "followed", data_dir=data_dir)
    estimate = Margins.estimate
    monkeypatch.setattr(Margins, "estimate", lambda margins: float(estimate(margins).detach()))
    plain = train(recipe, tmp_path / "plain", data_dir=data_dir)
    bounds = [float(run.history()[-1]["bound"]) for run in (followed, plain)]
    assert 10 * bounds[0] < bounds[1]
    # Radii, in which the constant is divided out, are no smaller for it.
    split = load("npz", data_dir).train
    followed, plain = (
        taut.certify(run.model(), split.float_images(), split.labels, arithmetic="real")
        for run in (followed, plain)
    )
    assert followed.radius.mean() > plain.radius.mean()
