"""Gradient norms at every depth and spectra of Jacobians, against other routes to the same."""

import copy
import math
import sys
from collections.abc import Callable

import jaxtyping
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import taut
from taut import plot
from taut.diagnostics import (
    GradientProfile,
    gradient_norms,
    gradient_profile,
    histogram,
    inspect,
    jacobian_singular_values,
    orthogonality_defects,
    spectra,
)


class Branching(nn.Module):
    """A stem, a residual sum, a module that is called twice, a concatenation, functions between."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 3, padding=1)
        self.a, self.c = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 3, 3, padding=1)
        self.act = nn.Tanh()
        self.b = nn.Conv2d(2, 2, 3, padding=1)
        self.head = nn.Linear(5 * 9, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = F.softplus(self.stem(images))
        y = x + self.b(self.act(self.a(x)))
        return self.head(torch.cat([self.a(y), self.c(y)], 1).flatten(1).sin())


def branching_by_hand(net: Branching, image: Tensor) -> dict[str, tuple[Tensor, Callable]]:
    """What enters each call, and the output as a function of that alone."""

    def end(y: Tensor) -> Tensor:
        return net.head(torch.cat([net.a(y), net.c(y)], 1).flatten(1).sin())

    def after_x(x: Tensor) -> Tensor:
        return end(x + net.b(net.act(net.a(x))))

    x = F.softplus(net.stem(image))
    hidden = net.a(x)
    y = x + net.b(net.act(hidden))
    flat = torch.cat([net.a(y), net.c(y)], 1).flatten(1).sin()
    return {
        "stem": (image, net),
        "a": (x, after_x),
        "act": (hidden, lambda h: end(x + net.b(net.act(h)))),
        "b": (net.act(hidden), lambda h: end(x + net.b(h))),
        "a #2": (y, end),
        "c": (y, end),
        "head": (flat, net.head),
    }


def jacobian(f: Callable, x: Tensor) -> Tensor:
    rows = torch.func.jacrev(f)(x)
    return rows.reshape(-1, x.numel()).detach()


def margin_direction(logits: Tensor, label: int) -> Tensor:
    others = logits.clone()
    others[label] = -math.inf
    direction = torch.zeros_like(logits)
    direction[label], direction[others.argmax()] = 1, -1
    return direction


@pytest.mark.parametrize("labelled", [True, False])
def test_norms_are_those_of_the_jacobian_from_each_depth(labelled):
    net, images = Branching().double(), torch.rand(3, 1, 3, 3).double()
    labels = torch.tensor([2, 0, 3])
    found = gradient_norms(net, images, labels if labelled else None)
    squares: dict[str, list[tuple[float, float]]] = {}
    for image, label in zip(images.split(1), labels, strict=True):
        logits = net(image)[0].detach()
        direction = margin_direction(logits, int(label if labelled else logits.argmax()))
        for name, (x, f) in branching_by_hand(net, image).items():
            slopes = jacobian(f, x.detach())
            one = (direction @ slopes).square().sum() / 2, slopes.square().sum() / 4
            squares.setdefault(name, []).append((float(one[0]), float(one[1])))
    assert [layer.label for layer in found] == list(squares)
    for layer in found:
        margin, random = (math.sqrt(sum(s) / 3) for s in zip(*squares[layer.label], strict=True))
        assert layer.margin == pytest.approx(margin, rel=1e-9)
        assert layer.random == pytest.approx(random, rel=1e-9)


def test_branches_are_told_from_the_whole_signal():
    found = gradient_norms(Branching(), torch.rand(2, 1, 3, 3))
    assert {x.label for x in found if not x.whole} == {"act", "b"}


def test_a_sum_of_two_branches_is_passed_in_neither():
    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.end = nn.Tanh(), nn.Tanh(), nn.Tanh()

        def forward(self, x: Tensor) -> Tensor:
            first, second = x.chunk(2, 1)
            return self.end(self.left(first) + self.right(second))

    found = gradient_norms(Split(), torch.rand(2, 4))
    # The model itself: nothing else is given the images whole.
    assert [(x.name, x.whole) for x in found] == [
        ("", True),
        ("left", False),
        ("right", False),
        ("end", True),
    ]
    assert found[0].label == "(input)"


def test_jacobian_is_that_of_finite_differences():
    net, images = Branching().double(), torch.rand(2, 1, 3, 3).double()
    step = 1e-5
    for image, values in zip(images, jacobian_singular_values(net, images), strict=True):
        units = step * torch.eye(9).double().reshape(9, 1, 3, 3)
        with torch.no_grad():
            columns = (net(image + units) - net(image - units)) / (2 * step)
        torch.testing.assert_close(values, torch.linalg.svdvals(columns.T), rtol=1e-7, atol=1e-9)


def test_known_diagonal():
    diagonal = torch.tensor([4.0, -2.0, 0.5, 0.0]).double()
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.diag(diagonal))
        net[1].weight.copy_(3 * torch.eye(4))
    values = jacobian_singular_values(net, torch.ones(2, 4).double())
    assert values.tolist() == [[12.0, 6.0, 1.5, 0.0]] * 2
    first, second = gradient_norms(net, torch.ones(1, 4).double(), torch.tensor([1]))
    assert second.random == second.margin == 3.0
    assert first.random == pytest.approx(3 * float(diagonal.norm()) / 2, rel=1e-12)
    # The runner-up of logit 1 (-6) is logit 0 (12).
    assert first.margin == pytest.approx(3 * math.sqrt((4**2 + 2**2) / 2), rel=1e-12)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_orthogonal_nets_are_isometries(dtype, error):
    layers = [layer for _ in range(5) for layer in (taut.nn.Conv2d(4, 4, 3), taut.nn.MaxMin())]
    net = nn.Sequential(*layers, nn.Flatten(), taut.nn.Linear(64, 6)).to(dtype)
    images = torch.rand(3, 4, 4, 4).to(dtype)
    assert (jacobian_singular_values(net, images) - 1).abs().max() < error
    for layer in gradient_norms(net, images):
        assert layer.whole
        assert abs(layer.margin - 1) < error
        assert abs(layer.random - 1) < error


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_residual_nets_lose_nothing_where_branches_are_silent(scale):
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
            nn.init.zeros_(self.inner[2].weight)

        def forward(self, x: Tensor) -> Tensor:
            return scale * (x + self.inner(x))

    found = gradient_norms(nn.Sequential(*(Residual() for _ in range(3))), torch.rand(2, 4))
    whole = [x.random for x in found if x.whole]
    assert whole == pytest.approx([scale**3, scale**2, scale], rel=1e-6)
    assert [x.random for x in found if x.name.endswith("1")] == [0.0] * 3


@pytest.mark.parametrize("dead", ["relu", "detached", "constant", "integers"])
def test_a_gradient_that_vanishes_is_zero(dead, tmp_path):
    class Dead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            if dead == "constant":
                return torch.arange(3.0).expand(len(x), 3)
            y = self.first(x)
            y = {
                "relu": lambda: F.relu(-1 - y.abs()),
                "detached": lambda: y.detach(),
                "integers": lambda: y.long().float(),
            }[dead]()
            return self.last(y)

    net, images = Dead(), torch.rand(2, 4)
    found = inspect(net, images)
    assert (found.layers[0].margin, found.layers[0].random) == (0.0, 0.0)
    assert found.jacobian.eq(0).all()
    assert found.jacobian.shape == (2, 3)
    plot.inspection(found, spectra(net, (4,))).savefig(tmp_path / "a.png")
    plot.profiles({"": {"dead": gradient_profile(found)}}).savefig(tmp_path / "b.png")


def test_modules_that_work_in_place():
    def net(inplace: bool) -> nn.Module:
        torch.manual_seed(3)
        layers = nn.ReLU(inplace), nn.Linear(5, 5), nn.LeakyReLU(0.1, inplace), nn.Linear(5, 3)
        return nn.Sequential(*layers)

    images = torch.randn(4, 5)
    before = images.clone()
    assert gradient_norms(net(True), images) == gradient_norms(net(False), images)
    assert torch.equal(images, before)


def test_the_model_is_left_alone():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten())
    net.append(nn.utils.parametrizations.orthogonal(nn.Linear(16, 3)))
    state = copy.deepcopy(net.state_dict())
    net[0].weight.grad = torch.ones_like(net[0].weight)
    found = inspect(net, torch.rand(3, 1, 4, 4))
    assert [layer.name for layer in found.layers] == ["0", "1", "2", "3", "4"]
    assert all(m.training for m in net.modules())
    assert all(p.requires_grad for p in net.parameters())
    assert net[0].weight.grad.eq(1).all()
    assert net[4].parametrizations.weight.original.grad is None
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in state.items())


def test_hooks_of_a_model_that_fails_are_removed():
    class Failing(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("no")

    net = Failing(2, 2)
    with pytest.raises(RuntimeError, match="no"):
        gradient_norms(net, torch.ones(1, 2))
    assert not net._forward_hooks
    assert not net._forward_pre_hooks


def test_sequences_and_several_inputs():
    """A transformer whose layers take (sequence, batch, features), and one output."""

    class Product(nn.Module):
        def forward(self, left: Tensor, *, right: Tensor) -> Tensor:
            return left * right.sin()

    class Sequences(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=False)
            self.pair, self.end = Product(), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.layer(x.transpose(0, 1)).transpose(0, 1)
            return self.end(self.pair(y[:, 0], right=y[:, 1]))

    net, images = Sequences().double(), torch.randn(3, 5, 4).double()
    found = {layer.label: layer for layer in gradient_norms(net, images)}
    net.eval()
    whole, pairs = 0.0, 0.0
    for image in images.split(1):
        whole += float(torch.autograd.functional.jacobian(net, image).square().sum())
        pair = net.layer(image.transpose(0, 1))[:2, 0].detach()
        end = jacobian(lambda z: net.end(net.pair(z[:1], right=z[1:])), pair)
        pairs += float(end.square().sum())
    assert found["(input)"].margin == found["(input)"].random
    assert found["(input)"].margin == pytest.approx((whole / 3) ** 0.5, rel=1e-9)
    assert found["pair"].random == pytest.approx((pairs / 3) ** 0.5, rel=1e-9)
    assert not found["pair"].whole


def test_directions_beyond_their_number_are_drawn():
    """A quarter of the directions of a net with singular values 1 and 3: mean square 5."""
    net = nn.Linear(64, 64, bias=False).double()
    with torch.no_grad():
        net.weight.copy_(torch.diag(1.0 + 2 * (torch.arange(64) % 2)))
    images = torch.rand(50, 64).double()
    one, again, other = (
        gradient_norms(net, images, directions=16, seed=s)[0].random for s in (0, 0, 1)
    )
    assert one == again != other
    assert one == pytest.approx(5**0.5, rel=0.02)
    exact = gradient_norms(net, images, directions=64)[0].random
    assert exact == pytest.approx(5**0.5, rel=1e-12)


def test_spectra_are_of_leaves_alone():
    layers = inspect(Branching(), torch.rand(1, 1, 3, 3)).layers
    assert [layer.name for layer in layers if layer.spectrum is not None] == [
        "stem",
        "a",
        "b",
        "a",
        "c",
        "head",
    ]
    for layer in layers:
        if layer.spectrum is not None:
            assert sum(histogram(layer.spectrum)) == len(layer.spectrum)


def test_spectra_that_would_take_minutes_are_left_out():
    """A dense operator of 4096 x 4096; on a torus the same size is quick."""
    wrapped = nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")
    net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), wrapped, nn.Flatten(), nn.Linear(4096, 2))
    layers = inspect(net, torch.rand(1, 1, 64, 64)).layers
    counts = [None if layer.spectrum is None else len(layer.spectrum) for layer in layers]
    assert counts == [None, 4096, None, 2]


def test_models_that_cannot_be_copied_are_refused():
    class Fixed(nn.Linear):
        def __deepcopy__(self, memo):
            raise RuntimeError("no\ncopies")

    with pytest.raises(ValueError, match="copied and frozen; got no copies"):
        gradient_norms(Fixed(2, 2), torch.ones(1, 2))


def test_too_many_outputs_have_no_jacobian():
    net = nn.Linear(2, 1025)
    with pytest.raises(ValueError, match=r"at most 1024 outputs.*got 1025"):
        jacobian_singular_values(net, torch.ones(1, 2))
    assert inspect(net, torch.ones(1, 2)).jacobian is None


class Centred(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class Returning(nn.Module):
    def __init__(self, value) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor):
        return self.value(x)


@pytest.mark.parametrize(
    ("net", "options", "message"),
    [
        (nn.Linear(2, 2), {"images": torch.ones(2, 2).long()}, "floating point.*int64"),
        (nn.Linear(2, 2), {"images": torch.ones(2)}, "batch.*\\(2,\\)"),
        (nn.Linear(2, 2), {"images": torch.ones(0, 2)}, "must hold an image.*\\(0, 2\\)"),
        (nn.Linear(2, 2), {"labels": torch.tensor([0])}, "`labels`.*\\(1,\\) for 2"),
        (nn.Linear(2, 2), {"labels": torch.tensor([0, 2])}, "`labels`.*0..1; got 0..2"),
        (nn.Linear(2, 1), {"labels": torch.tensor([0])}, "one class per image.*\\(1,\\)"),
        (nn.Linear(2, 2), {"directions": 0}, "`directions`.*at least 1; got 0"),
        (Centred(), {}, "each image by itself"),
        (Returning(lambda x: (x, x)), {}, "one floating point tensor; got tuple"),
        (Returning(lambda x: x.argmax(1)), {}, "floating point tensor; got torch.int64"),
        (Returning(lambda x: x.sum()), {}, "floating point tensor; got torch.float32"),
        (Returning(lambda x: x[:1]), {}, "one row per image; got \\(1, 2\\) for 2"),
        (Returning(lambda x: x / 0), {}, "finite"),
    ],
)
def test_misuse_is_one_sentence(net, options, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    arguments = {"images": torch.ones(2, 2), **options}
    with pytest.raises(ValueError, match=message) as caught:
        gradient_norms(net, arguments.pop("images"), **arguments)
    assert "\n" not in str(caught.value)


def test_comparisons_need_a_model():
    with pytest.raises(ValueError, match="must hold a model"):
        plot.profiles({"empty": {}})


@pytest.mark.parametrize("columns", [1, 2])
def test_long_names_leave_the_curves_their_room(columns):
    figures = []
    for name in ("a", "fashion-mnist-subset-small-bcop-seed0"):
        named = {name: GradientProfile([0.5, 1.0], [0.1, 0.2, 0.3, 0.4, 0.5])}
        figures.append(plot.profiles({str(i): named for i in range(columns)}))
    short, long = ([axes.get_window_extent().width for axes in f.axes] for f in figures)
    assert min(long) > 0.9 * min(short)


def test_comparisons_show_every_value():
    """Columns share their scales, and the scales hold all that is drawn."""
    small = {"a": GradientProfile([0.9, 1.0], [0.8, 0.85, 0.9, 0.95, 1.0])}
    for deep in ([1e-9, 1e-5, 1.0], [0.5, 0.7, 1.0], [0.0, 1e3, 1.0]):
        jacobian = sorted([*deep, *deep[:2]])
        alike = {name: GradientProfile(deep, jacobian) for name in "bc"}
        columns = {"x": small, "y": alike}
        figure = plot.profiles(columns)
        upper, lower = figure.axes[:2], figure.axes[2:]
        assert upper[0].get_ylim() == upper[1].get_ylim()
        assert lower[0].get_xlim() == lower[1].get_xlim()
        drawn = 0
        for row, ends in ((upper, "get_ydata"), (lower, "get_xdata")):
            for axes in row:
                low, high = axes.get_ylim() if row is upper else axes.get_xlim()
                for line in axes.lines:
                    values = torch.tensor(getattr(line, ends)(), dtype=torch.float64).flatten()
                    assert (values >= low).all()
                    assert (values <= high).all()
                    drawn += len(values)
        assert drawn >= 2 + 3 * 2 + 3 * 5


def test_figures_are_pictures(tmp_path):
    net = nn.Sequential(taut.nn.Conv2d(2, 2, 3), taut.nn.MaxMin(), nn.Flatten(), nn.Linear(32, 3))
    found = inspect(net, torch.rand(4, 2, 4, 4))
    one = gradient_profile(found)
    assert one.gradient[-1] == 1.0
    assert len(one.gradient) == 5
    quantiles = [found.jacobian.quantile(q).item() for q in (0, 0.25, 0.5, 0.75, 1)]
    assert one.jacobian == pytest.approx(quantiles, rel=1e-12)
    columns = {
        "shallow": {
            "mine": one,
            "steep": GradientProfile([1e-9, 1e-4, 1.0], [0.0, 1e-9, 1e-5, 0.1, 2.0]),
        },
        "deep": {"steep": GradientProfile([0.0] * 30 + [1.0])},
    }
    for draw, arguments in ((plot.inspection, found), (plot.profiles, columns)):
        files = [tmp_path / "a.png", tmp_path / "b.png"]
        for file in files:
            draw(arguments).savefig(file)
        assert files[0].read_bytes()[:4] == b"\x89PNG"
        assert files[0].read_bytes() == files[1].read_bytes()


def test_figures_without_matplotlib_are_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    found = inspect(nn.Linear(2, 2), torch.ones(1, 2))
    for draw in (
        lambda: plot.inspection(found),
        lambda: plot.profiles({"": {"": gradient_profile(found)}}),
    ):
        with pytest.raises(ImportError, match=r"need matplotlib: pip install 'taut\[cli\]'"):
            draw()


def test_spectra_by_name_are_those_of_the_dense_layers():
    net = Branching().double()
    found = spectra(net, (1, 3, 3))
    assert list(found) == ["stem", "a", "b", "a #2", "c", "head"]
    dense = jacobian(net.stem, torch.zeros(1, 1, 3, 3).double())
    torch.testing.assert_close(found["stem"], torch.linalg.svdvals(dense), rtol=0, atol=1e-12)
    torch.testing.assert_close(found["head"], torch.linalg.svdvals(net.head.weight.detach()))
    defects = orthogonality_defects(net, (1, 3, 3))
    assert defects == {name: float((s - 1).abs().max()) for name, s in found.items()}
    with pytest.raises(ValueError, match=r"`input_shape` must fit the model; with \(2, 3, 3\): "):
        spectra(net, (2, 3, 3))


def test_margin_of_one_output_has_the_gradient_of_the_output():
    model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)), torch.rand(5, 3)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(model(x).sum(), x)
    expected = gradient.square().sum().div(5).sqrt().item()
    for labels in (None, torch.tensor([0, 1, 1, 0, 1])):
        first = gradient_norms(model, x.detach(), labels)[0]
        assert first.margin == pytest.approx(expected, rel=1e-5)
