"""Private training: bounds of gradients by attack, noise and batches by statistics, refusals."""

import copy
import math
from fractions import Fraction
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor, nn

import taut
from taut.private import (
    ClippedCrossEntropy,
    SampledGaussian,
    loss_bound,
    project_,
    sensitivities,
    train,
)
from taut.private._losses import image_losses, shortened
from taut.private._sensitivity import Sensitivities
from taut.private._training import add_noise_, sampled

pytest.importorskip("opacus")

MaxMin = taut.nn.MaxMin
NETS = {
    "linear": ((6,), lambda: [nn.Linear(6, 3, bias=False)]),
    "biases": ((6,), lambda: [nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)]),
    "rows": ((3, 5), lambda: [nn.Linear(5, 4), MaxMin(dim=-1), nn.Flatten(), nn.Linear(12, 3)]),
    "conv": ((2, 5, 7), lambda: [nn.Conv2d(2, 4, 3, 1, 1), MaxMin(), nn.Flatten(),
                                 nn.Linear(140, 3, bias=False)]),
    "stride": ((1, 7, 5), lambda: [nn.Conv2d(1, 4, (4, 3), (3, 2), 2, bias=False), nn.ReLU(),
                                   nn.Conv2d(4, 2, 2, 1, bias=False), nn.Flatten(),
                                   nn.LazyLinear(3)]),
    "groups": ((4, 6, 5), lambda: [nn.Conv2d(4, 6, 3, 2, 1, groups=2), MaxMin(),
                                   taut.nn.ScaledAvgPool2d(2), nn.Flatten(), nn.LazyLinear(3)]),
    "circular": ((2, 4, 6), lambda: [nn.Conv2d(2, 3, 3, 2, 2, dilation=2, bias=False,
                                               padding_mode="circular"),
                                     nn.AvgPool2d(2), nn.Flatten(), nn.LazyLinear(3)]),
    "one axis": ((2, 9), lambda: [nn.Conv1d(2, 4, 4, 2, 1), nn.Tanh(), nn.Flatten(),
                                  nn.LazyLinear(3)]),
}  # fmt: skip
LOSSES = [
    nn.CrossEntropyLoss(),
    ClippedCrossEntropy(0.2, temperature=0.5),
    taut.losses.OffsetCrossEntropy(0.3, temperature=0.4),
    taut.losses.MultiMargin(1.0),
]


def built(name: str, seed: int = 0) -> tuple[tuple[int, ...], nn.Sequential]:
    torch.manual_seed(seed)
    shape, layers = NETS[name]
    model = nn.Sequential(*layers()).double()
    model(torch.zeros(1, *shape, dtype=torch.float64))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return shape, model


def inside(x: Tensor, norm: float) -> Tensor:
    return x * (norm / x.norm()).clamp(max=1.0)


def gradients(model: nn.Module, x: Tensor, label: int, loss) -> list[Tensor]:
    """Of one example, differentiable in the example where the loss is."""
    value = image_losses(loss, model(x[None]), torch.tensor([label])).sum()
    return list(torch.autograd.grad(value, list(model.parameters()), create_graph=True))


def ascended(model: nn.Module, x: Tensor, label: int, loss, place: int, norm: float) -> Tensor:
    """Ascent on the norm of the gradient of one parameter, over the ball of inputs."""
    x = inside(x, norm)
    for step in range(15):
        x = x.detach().requires_grad_()
        size = gradients(model, x, label, loss)[place].norm()
        (up,) = torch.autograd.grad(size, x, allow_unused=True)
        if up is None or not bool(up.any()):
            break
        x = inside(x + norm * up / up.norm() / (1 + step), norm)
    return x.detach()


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_no_gradient_of_an_example_exceeds_its_bound(name, loss):
    shape, model = built(name)
    norm = 1.7
    bounds = list(sensitivities(model, shape, input_norm=norm, loss=loss).values())
    inputs = [torch.zeros(shape).double(), torch.ones(shape).double()]
    inputs += list(torch.randn(3, *shape, dtype=torch.float64) * 10)
    for place in range(len(bounds)) if isinstance(loss, nn.CrossEntropyLoss) else ():
        start = torch.randn(shape, dtype=torch.float64)
        inputs.append(ascended(model, start, place % 3, loss, place, norm))
    for x in inputs:
        for label in range(3):
            for found, bound in zip(gradients(model, inside(x, norm), label, loss), bounds,
                                    strict=True):  # fmt: skip
                assert found.norm().item() <= bound * (1 + 1e-12)


def test_bounds_are_reached_by_a_linear_layer():
    layer = nn.Linear(4, 3, bias=False).double()
    x = torch.tensor([2.0, 0, 0, 0]).double()
    with torch.no_grad():
        layer.weight.zero_()[1, 0] = 20.0
    (bound,) = sensitivities(layer, (4,), input_norm=2.0, loss=nn.CrossEntropyLoss()).values()
    (found,) = gradients(layer, x, 0, nn.CrossEntropyLoss())
    assert bound == pytest.approx(2 * math.sqrt(2), rel=1e-12)
    assert 0.999 * bound < found.norm().item() <= bound


def test_orthogonal_layers_nearly_reach_their_bounds():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, 8, bias=False), MaxMin(), nn.Linear(8, 8, bias=False), MaxMin(),
        nn.Linear(8, 8, bias=False),
    ).double()  # fmt: skip
    project_(model, (8,))
    loss = ClippedCrossEntropy(0.05)
    bounds = sensitivities(model, (8,), input_norm=1.0, loss=loss).values()
    x = torch.randn(8, dtype=torch.float64)
    for found, bound in zip(gradients(model, x / x.norm(), 0, loss), bounds, strict=True):
        assert found.norm().item() == pytest.approx(bound, rel=1e-6)


@pytest.mark.parametrize("name", ["conv", "stride", "groups", "circular", "one axis"])
def test_windows_of_a_pixel_are_counted(name):
    shape, model = built(name)
    layer = model[0]
    assert isinstance(layer, nn.Conv1d | nn.Conv2d)
    count = Sensitivities(model, shape).windows["0"]
    with torch.no_grad():
        layer.weight.fill_(1.0)
    pixels = torch.eye(math.prod(shape[1:]), dtype=torch.float64)
    images = torch.zeros(len(pixels), *shape, dtype=torch.float64)
    images[:, 0] = pixels.unflatten(1, shape[1:])
    bias = 0.0 if layer.bias is None else layer.bias.detach().view(-1, *[1] * (len(shape) - 1))
    reads = (layer(images).detach() - bias)[:, 0].flatten(1).sum(1)
    assert count == pytest.approx(reads.max().item(), rel=1e-12)


def test_a_layer_that_is_used_twice_has_the_sum():
    layer = nn.Linear(3, 3, bias=False).double()
    loss = nn.CrossEntropyLoss()
    with torch.no_grad():
        layer.weight.copy_(torch.eye(3))
    (once,) = sensitivities(layer, (3,), input_norm=1.0, loss=loss).values()
    (twice,) = sensitivities(nn.Sequential(layer, layer), (3,), input_norm=1.0, loss=loss).values()
    assert twice == pytest.approx(2 * once, rel=1e-9)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_losses_have_their_slopes(loss):
    logits = (20 * torch.randn(500, 4, dtype=torch.float64)).requires_grad_()
    total = image_losses(loss, logits, torch.arange(500) % 4).sum()
    (slopes,) = torch.autograd.grad(total, logits)
    steepest = slopes.norm(dim=1).max().item()
    assert 0.7 * loss_bound(loss) < steepest <= loss_bound(loss)


def test_clipped_cross_entropy_has_the_clipped_gradient():
    logits = torch.randn(50, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.arange(50) % 4
    plain = nn.functional.cross_entropy(logits / 0.5, labels, reduction="sum")
    other = ClippedCrossEntropy(0.9, temperature=0.5)(logits, labels).sum()
    (expected,), (found,) = (torch.autograd.grad(value, logits) for value in (plain, other))
    expected = expected * (0.9 / expected.norm(dim=1)).clamp(max=1)[:, None]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6, 1e30])
def test_inputs_are_scaled_into_the_ball(dtype, scale):
    images = scale * torch.randn(50, 1, 7, 5, dtype=dtype)
    images[0] = 0
    for image, short in zip(images, shortened(images, 0.7), strict=True):
        square = sum(Fraction(v) ** 2 for v in short.flatten().tolist())
        assert square <= Fraction(0.7) ** 2
        if image.norm() < 0.69:
            assert torch.equal(image, short)
        else:
            assert short.norm().item() == pytest.approx(0.7, rel=1e-5)


def test_inputs_near_the_largest_number_are_scaled_into_the_ball():
    images = 3e38 * torch.rand(20, 784, generator=torch.Generator().manual_seed(0))
    for short in shortened(images, 0.7):
        assert sum(Fraction(v) ** 2 for v in short.tolist()) <= Fraction(0.7) ** 2


@pytest.mark.parametrize("name", [n for n in NETS if n != "linear"])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_projected_layers_have_a_norm_of_at_most_1(name, scale):
    shape, model = built(name)
    model.float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    project_(model, shape)
    places = {}
    hooks = [layer.register_forward_pre_hook(lambda layer, x: places.update({layer: x[0].shape}))
             for layer in model]  # fmt: skip
    model(torch.zeros(1, *shape))
    for hook in hooks:
        hook.remove()
    for layer, size in places.items():
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
            values = taut.singular_values(layer, tuple(size[1:]))
            assert values[0] <= 1 + 3e-6
            if isinstance(layer, nn.Linear):
                assert values[0] >= 1 - 3e-6


# Noise and batches.


def test_noise_has_the_scale_of_sensitivities():
    parameters = {"a": nn.Parameter(torch.zeros(300, 400)), "b": nn.Parameter(torch.zeros(90000))}
    generator = torch.Generator().manual_seed(0)
    add_noise_(parameters, {"a": 0.5, "b": 3.0}, 1.5, 1.0, generator)
    for name, size in (("a", 0.5), ("b", 3.0)):
        noise = parameters[name].grad
        assert noise is not None
        assert noise.std().item() == pytest.approx(1.5 * math.sqrt(2) * size, rel=0.01)
        assert abs(noise.mean().item()) < 4 * noise.std().item() / noise.numel() ** 0.5


def stepped(model, images, labels, mechanism, loss) -> list[dict[str, Tensor]]:
    """The gradients that an optimiser sees, in each step."""
    seen = []
    optimiser = torch.optim.SGD(model.parameters(), lr=0.0)
    named = dict(model.named_parameters())
    optimiser.register_step_pre_hook(
        lambda *_: seen.append({name: p.grad.clone() for name, p in named.items()})
    )
    train(model, images, labels, mechanism, loss=loss, optimiser=optimiser, input_norm=2.0,
          generator=torch.Generator().manual_seed(1))  # fmt: skip
    return seen


def test_gradients_without_a_signal_are_noise_of_the_promised_scale():
    model = nn.Sequential(nn.Linear(50, 40, bias=False), MaxMin(), nn.Linear(40, 10, bias=False))
    images, labels = torch.zeros(100, 50), torch.zeros(100, dtype=torch.int64)
    loss = nn.CrossEntropyLoss()
    seen = stepped(model, images, labels, SampledGaussian(1.3, 0.2, 8), loss)
    bounds = sensitivities(model, (50,), input_norm=2.0, loss=loss)
    for name, bound in bounds.items():
        values = torch.stack([step[name] for step in seen])
        assert values.std().item() == pytest.approx(1.3 * math.sqrt(2) * bound / 20, rel=0.03)


def test_gradients_of_parts_of_a_batch_add_up(monkeypatch):
    monkeypatch.setattr("taut.private._training._PART", 7)
    model = nn.Linear(5, 3)
    project_(model, (5,))
    images, labels = torch.randn(30, 5), torch.arange(30) % 3
    (seen,) = stepped(model, images, labels, SampledGaussian(1e-9, 1.0, 1), nn.CrossEntropyLoss())
    loss = nn.functional.cross_entropy(model(shortened(images, 2.0)), labels)
    expected = torch.autograd.grad(loss, list(model.parameters()))
    for found, gradient in zip(seen.values(), expected, strict=True):
        torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-5)


def test_batches_have_each_example_independently_at_the_rate():
    generator = torch.Generator().manual_seed(0)
    draws = torch.zeros(2000, 50)
    for row in draws:
        row[sampled(50, 0.3, generator)] = 1
    rates, sizes = draws.mean(0), draws.sum(1)
    assert bool(((rates - 0.3).abs() < 5 * (0.21 / 2000) ** 0.5).all())
    assert sizes.var().item() == pytest.approx(50 * 0.21, rel=0.15)  # not of a fixed size
    correlation = torch.corrcoef(draws.T) - torch.eye(50)
    assert correlation.abs().max() < 5 / 2000**0.5
    assert len(sampled(50, 1.0, generator)) == 50


def test_training_learns_and_empty_batches_are_steps():
    torch.manual_seed(0)
    labels = torch.arange(2000) % 2
    images = torch.randn(2000, 4) + 3 * labels[:, None]
    images -= 1.5
    model = nn.Linear(4, 2, bias=False)
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    train(model, images, labels, SampledGaussian.within(2.0, 1e-5, sampling_rate=0.1, steps=20),
          loss=nn.CrossEntropyLoss(), optimiser=optimiser, input_norm=4.0)  # fmt: skip
    assert (model(images).argmax(1) == labels).float().mean() > 0.95
    for loss in LOSSES:
        train(model, images[:1], labels[:1], SampledGaussian(1.0, 1e-9, 1), loss=loss,
              optimiser=optimiser)  # fmt: skip


# The accountant.


def gaussian_delta(epsilon: float, sigma: float) -> float:
    """Exact, of one Gaussian mechanism: Balle and Wang (2018), theorem 8, sensitivity 1."""
    phi = lambda x: 0.5 * math.erfc(-x / math.sqrt(2))  # noqa: E731
    first = phi(1 / (2 * sigma) - epsilon * sigma)
    return first - math.exp(epsilon) * phi(-1 / (2 * sigma) - epsilon * sigma)


@pytest.mark.parametrize(("sigma", "steps"), [(1.0, 1), (3.0, 1), (10.0, 100), (20.0, 25)])
def test_epsilon_of_whole_batches_is_that_of_the_formula(sigma, steps):
    delta, single = 1e-5, sigma / math.sqrt(steps)  # steps of the whole data are one
    epsilon = SampledGaussian(sigma, 1.0, steps).epsilon(delta)
    assert gaussian_delta(epsilon, single) <= delta
    assert gaussian_delta(0.8 * epsilon, single) > delta
    orders = [1 + n / 100 for n in range(1, 40000)]
    by_hand = min(
        a / (2 * single**2) + math.log1p(-1 / a) - (math.log(delta) + math.log(a)) / (a - 1)
        for a in orders
    )
    assert by_hand <= epsilon <= by_hand * 1.01


@pytest.mark.parametrize(("sigma", "rate"), [(0.7, 0.05), (1.0, 0.3), (2.0, 0.01)])
def test_epsilon_of_one_random_batch_holds_by_integration(sigma, rate):
    delta = 1e-5
    epsilon = SampledGaussian(sigma, rate, 1).epsilon(delta)
    x = torch.linspace(-40, 41, 800001, dtype=torch.float64)
    without = torch.exp(-((x / sigma) ** 2) / 2)
    with_one = (1 - rate) * without + rate * torch.exp(-(((x - 1) / sigma) ** 2) / 2)
    scale = (x[1] - x[0]).item() / (sigma * math.sqrt(2 * math.pi))
    for p, q in ((with_one, without), (without, with_one)):  # add and remove
        assert ((p - math.exp(epsilon) * q).clamp(min=0).sum() * scale).item() <= delta


def test_noise_is_found_for_a_budget():
    for epsilon in (0.1, 3.0):
        mechanism = SampledGaussian.within(epsilon, 1e-5, sampling_rate=0.02, steps=200)
        assert 0.99 * epsilon < mechanism.epsilon(1e-5) <= epsilon
        assert mechanism.epsilon(1e-5, steps=100) < mechanism.epsilon(1e-5)
        assert mechanism.epsilon(1e-5, steps=0) == 0.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epsilon": 0.0}, "`epsilon` must be a positive number; got 0.0"),
        ({"epsilon": -1.0}, "`epsilon` must be a positive number"),
        ({"epsilon": 1e300}, "`epsilon` must be at most 1000000: more is no privacy; got 1e"),
        ({"delta": "1e-5"}, "`delta` must be between 0 and 1; got '1e-5'"),
        ({"epsilon": 1e-9}, "`epsilon` must be larger: no noise stays within 1e-09"),
        ({"delta": 0.0}, "`delta` must be between 0 and 1"),
        ({"delta": 1.0}, "`delta` must be between 0 and 1"),
        ({"sampling_rate": 0.0}, "`sampling_rate` must be above 0"),
        ({"sampling_rate": 1.5}, "`sampling_rate` must be above 0"),
        ({"steps": 0}, "`steps` must be a positive integer"),
    ],
)
def test_budgets_that_are_none_are_refused(change, words, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    arguments = {"epsilon": 1.0, "delta": 1e-5, "sampling_rate": 0.1, "steps": 10} | change
    with pytest.raises(ValueError, match=words):
        SampledGaussian.within(**arguments)


# Refusals.


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) @ self.layer.weight.T


class Rescaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * 2 * self.layer.weight.sum()


@pytest.mark.parametrize(
    ("model", "shape", "words"),
    [
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten()), (1, 5, 5), "BatchN"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten()).eval(), (1, 5, 5),
         "`1.(weight|bias)` is a parameter of"),
        (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), (4,), "`1"),
        (taut.nn.Linear(4, 3), (4,), "is no weight or bias that a layer uses as it is"),
        (nn.Sequential(nn.Linear(4, 4), nn.Sigmoid()), (4,), "`1` .* does not map 0 to 0"),
        (nn.Sequential(nn.Linear(4, 3), nn.Dropout()), (4,), "`1"),
        (nn.ConvTranspose1d(2, 2, 3), (2, 5), "one row of logits"),
        (nn.Sequential(nn.ConvTranspose1d(2, 2, 3), nn.Flatten()), (2, 5), "`0.(weight|bias)` is"),
        (nn.ReLU(), (4,), "`model` must have a parameter"),
        (Tied(), (4,), "`layer.weight` is used in more ways"),
        (Rescaled(), (4,), "layer.weight"),
    ],
)  # fmt: skip
def test_what_has_no_bound_is_refused_by_name(model, shape, words):
    with pytest.raises(ValueError, match=words):
        sensitivities(model, shape, input_norm=1.0, loss=nn.CrossEntropyLoss())


def test_frozen_layers_need_no_rule():
    model = nn.Sequential(taut.nn.Linear(4, 4).requires_grad_(False), MaxMin(), nn.Linear(4, 3))
    nn.init.zeros_(model.get_parameter("0.bias"))
    bounds = sensitivities(model, (4,), input_norm=1.0, loss=nn.CrossEntropyLoss())
    assert list(bounds) == ["2.weight", "2.bias"]


def test_hooks_on_gradients_are_refused():
    # One could take a step before there is noise, or make a gradient larger than its bound.
    for hook in ("register_hook", "register_post_accumulate_grad_hook"):
        model = nn.Linear(4, 3)
        handle = getattr(model.weight, hook)(lambda gradient: None)
        with pytest.raises(ValueError, match="`weight` has a hook on its gradient"):
            sensitivities(model, (4,), input_norm=1.0, loss=nn.CrossEntropyLoss())
        handle.remove()
        sensitivities(model, (4,), input_norm=1.0, loss=nn.CrossEntropyLoss())


def test_arguments_that_do_not_fit_are_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    model, loss = nn.Linear(4, 3), nn.CrossEntropyLoss()
    optimiser = torch.optim.SGD(model.parameters())
    images, labels = torch.randn(6, 4), torch.arange(6) % 3
    mechanism = SampledGaussian(1.0, 0.5, 1)
    for bad, words in (
        ((images * math.nan, labels), "`images` must be finite"),
        ((images, labels[:5]), "`labels` must be"),
        ((images, nn.functional.one_hot(labels).float()), "`labels` must be"),
        ((images.long(), labels), "`images` must be one floating-point tensor"),
        ((images.double(), labels), r"`images` must be torch.float32 like the model"),
        ((images, labels > 0), "`labels` must be class indices"),
        ((images, labels + 1), r"`labels` must be in 0\.\.2; got 3"),
        ((images, labels - 1), r"`labels` must be in 0\.\.2; got -1"),
    ):
        with pytest.raises(ValueError, match=words):
            train(model, *bad, mechanism, loss=loss, optimiser=optimiser)
    other: Any = None
    with pytest.raises(ValueError, match="`mechanism` must be a SampledGaussian; got NoneType"):
        train(model, images, labels, other, loss=loss, optimiser=optimiser)
    before = copy.deepcopy(model.state_dict())
    for other in (torch.optim.LBFGS(model.parameters()), "adam"):
        with pytest.raises(ValueError, match="`optimiser` must be an optimiser of torch whose"):
            train(model, images, labels, mechanism, loss=loss, optimiser=other)
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())
    train(model, images, labels.int(), mechanism, loss=loss, optimiser=optimiser)
    train(model, images, labels * 0 - 100, mechanism, loss=loss, optimiser=optimiser)  # ignored
    with pytest.raises(ValueError, match="`input_norm` must be a positive number"):
        sensitivities(model, (4,), input_norm=0.0, loss=loss)
    for other in (nn.CrossEntropyLoss(torch.ones(3)), nn.MSELoss(), taut.losses.KR()):
        with pytest.raises(ValueError, match="`loss` must be"):
            loss_bound(other)
    with pytest.raises(ValueError, match="`clip` must be a positive number"):
        ClippedCrossEntropy(0.0)
