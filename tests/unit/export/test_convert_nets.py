"""Whole nets as their authors write them: converted, trained, frozen, exported, verified."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import taut
from experiments import _nets as nets
from taut.certification import prove
from taut.certification.verifier import verify as verify_alone
from taut.export import export
from thinning import one_in

NETS = {
    "VGG": (lambda: nets.VGG(width=4, classes=5, hidden=16, norm=True), (3, 32, 32)),
    "ResNet-18": (lambda: nets.resnet18(width=4, classes=5), (3, 32, 32)),
    "ResNet-50": (
        lambda: nets.ResNet(nets.Bottleneck, (1, 1, 1, 1), width=4, classes=5), (3, 32, 32),
    ),
    "DnCNN": (lambda: nets.DnCNN(width=4, depth=4), (1, 8, 9)),
    "U-Net": (lambda: nets.UNet(width=4, depth=2), (3, 8, 8)),
    "MobileNet": (lambda: nets.MobileNetV2(width=0.1, classes=5, last=16), (3, 32, 32)),
}  # fmt: skip


def trained(model, shape, steps=3):
    torch.manual_seed(0)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    x = torch.rand(2, *shape)
    for step in range(1, steps + 1):
        optimiser.zero_grad()
        (model(x) - torch.rand_like(model(x))).square().mean().backward()
        optimiser.step()
        taut.after_step(model, step)
    return model.eval()


@pytest.mark.parametrize("name", one_in(2, NETS))
def test_net_is_converted_trained_frozen_exported_and_verified(name, tmp_path):
    make, shape = NETS[name]
    torch.manual_seed(0)
    model = make()
    x = torch.rand(2, *shape)
    expected = model.eval()(x).shape
    converted = taut.convert(model.train())
    assert not converted.left, str(converted)
    assert converted.model(x).shape == expected
    frozen = taut.freeze(trained(converted.model, shape))
    taut.export.shrink_(frozen, shape)
    assert float(taut.lipschitz_bound(frozen, shape)) <= 1 + 1e-9
    for suffix in (".onnx", ".pt2", ".safetensors"):
        path = tmp_path / f"model{suffix}"
        taut.export.export(frozen, path, shape)
        read = taut.load(path)
        torch.testing.assert_close(read(x), frozen(x), rtol=1e-5, atol=1e-6)
        assert float(taut.lipschitz_bound(read, shape)) <= 1 + 1e-6
    certificate, weights = prove(frozen, shape).save(tmp_path / "certificate.json")
    assert taut.verify(certificate, weights).bound <= 1 + 1e-6
    assert "bound" in verify_alone(certificate, weights)


def jacobian_norm(model, shape):
    x = torch.randn(1, *shape, dtype=torch.float64)
    wide = model.double()
    jacobian = torch.autograd.functional.jacobian(lambda x: wide(x).flatten(), x)
    model.float()
    return torch.linalg.matrix_norm(jacobian.reshape(jacobian.shape[0], -1), 2).item()


class Forward(nn.Module):
    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x):
        return self.function(self, x)


def linear(n=6):
    return nn.Linear(n, n)


REWRITTEN = {
    "a sum": (lambda m, x: x + m.a(x), {"a": linear()}, (6,)),
    "a difference": (lambda m, x: x - m.a(x), {"a": linear()}, (6,)),
    "in place": (lambda m, x: m.a(x).add_(x), {"a": linear()}, (6,)),
    "a half of a sum": (lambda m, x: (x + m.a(x)) / 2, {"a": linear()}, (6,)),
    "branches": (lambda m, x: torch.cat([m.a(x), m.b(x)], 1), {"a": linear(), "b": linear()}, (6,)),
    "a factor": (lambda m, x: 5 * m.a(x), {"a": linear()}, (6,)),
    "a quotient": (lambda m, x: m.a((x - 0.4) / 0.2), {"a": linear()}, (6,)),
    "a mean": (lambda m, x: x.mean((2, 3)), {}, (2, 3, 4)),
    "pools": (lambda m, x: F.avg_pool2d(F.max_pool2d(x, 2), 2), {}, (2, 8, 8)),
    "an adaptive pool": (lambda m, x: F.adaptive_avg_pool2d(x, 3), {}, (2, 7, 5)),
    "copies": (lambda m, x: F.interpolate(x, scale_factor=2), {}, (2, 3, 4)),
    "functions": (lambda m, x: F.gelu(F.relu(m.a(x), inplace=True)), {"a": linear()}, (6,)),
    "reflected": (lambda m, x: F.pad(x, (1, 1), mode="reflect"), {}, (2, 5)),
    "coupled": (lambda m, x: torch.cat([x.chunk(2, 1)[0], m.a(x.chunk(2, 1)[1])], 1),
                {"a": linear(3)}, (6,)),
}  # fmt: skip


@pytest.mark.parametrize("name", REWRITTEN)
def test_functions_of_a_forward_are_rewritten(name):
    function, layers, shape = REWRITTEN[name]
    model = Forward(function, **layers).eval()
    expected = model(torch.rand(2, *shape)).shape
    converted = taut.convert(model)
    assert not converted.left, str(converted)
    assert converted.model(torch.rand(2, *shape)).shape == expected
    assert 0.3 < float(taut.lipschitz_bound(converted.model, shape)) <= 1 + 2e-6
    assert jacobian_norm(converted.model, shape) <= 1 + 2e-6


LEFT = {
    "a product": (lambda m, x: m.a(x) * torch.sigmoid(m.b(x)), "product of two values"),
    "an exponential": (lambda m, x: torch.exp(m.a(x)), "not known to be 1-Lipschitz"),
    "a sum with itself": (lambda m, x: x + x, "gain is 2"),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_is_named_with_the_reason(name):
    function, words = LEFT[name]
    converted = taut.convert(Forward(function, a=linear(), b=linear()))
    assert len(converted.left) == 1
    assert words in converted.left[0].note


def test_modules_that_stretch_are_converted_or_named_with_their_gain():
    model = nn.Sequential(nn.ReflectionPad2d(1), nn.Upsample(scale_factor=2), nn.Conv2d(2, 2, 3))
    converted = taut.convert(model)
    assert not converted.left
    assert float(taut.lipschitz_bound(converted.model, (2, 4, 4))) <= 1 + 1e-5
    left = taut.convert(nn.Sequential(nn.Upsample(size=(9, 9)), nn.MaxPool2d(3, 1))).left
    assert [change.name for change in left] == ["0", "1"]


def test_gains_are_listed_for_an_input_shape():
    converted = taut.convert(nn.Sequential(nn.Embedding(3, 4)), (2,))
    assert converted.left
    clean = taut.convert(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Dropout()).train(), (4,))
    assert not clean.left


def test_activations_pair_features_of_tokens():
    model = Forward(lambda m, x: m.b(F.relu(m.a(x))), a=linear(), b=linear())
    new = taut.convert(model).model.eval()
    x = torch.randn(1, 5, 6)
    moved = x.clone()
    moved[:, 4] += 1
    before, after = new(x), new(moved)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.equal(before[:, 4], after[:, 4])
    assert float(taut.lipschitz_bound(new, (5, 6))) <= 1 + 1e-5


def test_a_forward_that_cannot_be_followed_is_named():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x):
            return self.fc(x) if x.sum() > 0 else x

    (left,) = taut.convert(Branching()).left
    assert "torch.fx cannot follow it" in left.note


def test_start_near_the_old_weights():
    torch.manual_seed(0)
    old = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
                        nn.Flatten(), nn.Linear(64, 8)).eval()  # fmt: skip
    near, far = (taut.convert(old, init=init).model for init in ("nearest", "random"))

    def share(new, layer):
        """The cosine of the angle between the old weight and the new."""
        a, b = old[layer].weight.flatten(), new[layer].weight.flatten()
        return (F.normalize(a, dim=0) @ F.normalize(b, dim=0)).item()

    left, _, right = torch.linalg.svd(old[4].weight.detach(), full_matrices=False)
    torch.testing.assert_close(near[4].weight, left @ right, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(near[4].bias, old[4].bias)
    assert share(near, 0) > max(0.4, share(far, 0) + 0.2)
    assert float(taut.lipschitz_bound(near, (4, 4, 4))) <= 1 + 1e-5
    with pytest.raises(ValueError, match=r"`init` must be 'random' or 'nearest'; got 'best'"):
        taut.convert(old, init="best")


@pytest.mark.parametrize(("groups", "stride"), [(2, 1), (2, 2), (4, 1), (4, 2)])
def test_grouped_convolutions_are_converted(groups, stride):
    old = nn.Conv2d(4, 8, 3, stride, 1, groups=groups)
    (change,) = (converted := taut.convert(old)).changes
    assert change.after == "taut.nn.Conv2d"
    assert converted.model(torch.zeros(1, 4, 7, 7)).shape == old(torch.zeros(1, 4, 7, 7)).shape
    assert float(taut.lipschitz_bound(converted.model, (4, 7, 7))) <= 1 + 1e-6


PROMISED = {  # forwards that once gave a bound above 1 with nothing left
    "a broadcast sum": lambda m, x: x + F.adaptive_avg_pool2d(m.a(x), 1),
    "a maximum of branches": lambda m, x: torch.maximum(m.a(x), m.b(x)),
    "copies": lambda m, x: m.a(x)[:, [0, 0, 0, 0]],
    "overlapping parts": lambda m, x: torch.cat([x.chunk(2, 1)[1], x.chunk(2, 1)[-1]], 1),
}


@pytest.mark.parametrize("name", PROMISED)
def test_nothing_left_means_a_bound_of_at_most_1(name):
    layers = {key: nn.Conv2d(4, 4, 3, padding=1) for key in "ab"}
    converted = taut.convert(Forward(PROMISED[name], **layers))
    bound = float(taut.lipschitz_bound(converted.model, (4, 5, 5)))
    assert bound <= 1 + 1e-5 or converted.left
    assert bound <= 1 + 1e-5 or taut.convert(Forward(PROMISED[name], **layers), (4, 5, 5)).left


def test_batch_norms_are_folded_in_the_order_of_the_forward():
    class Crossed(nn.Module):
        def __init__(self):
            super().__init__()
            self.c1, self.c2 = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)
            self.b1, self.b2 = nn.BatchNorm2d(2), nn.BatchNorm2d(2)

        def forward(self, x):
            return self.b2(self.c2(self.b1(self.c1(x))))

    old = Crossed().eval()
    nn.init.constant_(old.b1.bias, 10.0)
    new = taut.convert(old, init="nearest").model
    assert bool((new.c1.bias > 8).all())
    assert bool((new.c2.bias < 8).all())


class WithConstant(nn.Module):
    """A function of what a layer gives, or of the input, and of a constant."""

    def __init__(self, function, constant, layer=None):
        super().__init__()
        self.function, self.layer = function, nn.Identity() if layer is None else layer
        self.register_buffer("constant", constant)

    def forward(self, x):
        return self.function(self.layer(x), self.constant)


def conv():
    return nn.Conv2d(3, 4, 3)


SPREAD = {  # whether the signal may get larger, without its shape
    "sum at the input": (lambda x, c: x + c, torch.zeros(3, 1, 1), None, True),
    "quotient at the input": (lambda x, c: x / (1 + c), torch.ones(1, 3, 1, 1), None, True),
    "places": (lambda x, c: x + c, torch.zeros(4, 5, 5), conv, True),
    "product": (lambda x, c: x * c, torch.ones(4, 1, 1), conv, False),
    "more channels": (lambda x, c: x * c, torch.ones(8, 1, 1), lambda: nn.Conv2d(3, 1, 3),
                                   True),
    "one number": (lambda x, c: x - c, torch.zeros(1), None, False),
    "maximum": (lambda x, c: torch.maximum(x, c), torch.zeros(3, 1, 1), None, True),
    "subtraction of channels": (lambda x, c: x - c, torch.zeros(1, 4, 1, 1), conv, False),
}  # fmt: skip


@pytest.mark.parametrize("name", SPREAD)
def test_constants_that_may_spread_the_signal_are_named(name):
    function, constant, layer, named = SPREAD[name]
    model = WithConstant(function, constant, layer and layer())
    left = taut.convert(model).left
    assert bool(left) == named
    if left and name != "quotient at the input":
        assert "may spread the signal to a larger shape; give `input_shape`" in left[0].note
    if name not in ("more channels", "quotient at the input"):
        converted = taut.convert(model, (3, 7, 7))
        assert not converted.left
        assert float(taut.lipschitz_bound(converted.model, (3, 7, 7))) <= 1 + 1e-5


def test_a_part_that_cannot_be_followed_is_named_and_the_rest_is_rewritten():
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.part, self.fc = Branching(), nn.Linear(4, 4)

        def forward(self, x):
            return x + F.relu(self.fc(self.part(x)))

    converted = taut.convert(Whole())
    (left,) = converted.left
    assert (left.name, left.before) == ("part", "Branching")
    assert "torch.fx cannot follow it (symbolically traced variables" in left.note
    after = [change.after for change in converted.changes]
    assert "taut.nn.ConvexSum" in after
    assert "taut.nn.MaxMin" in after


def test_what_files_cannot_hold_is_named_before_training(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanhshrink(), nn.Flatten())
    converted = taut.convert(model, (3, 8, 8))
    assert [change.name for change in converted.unwritten] == ["1"]
    (change,) = converted.unwritten
    assert change.unwritten == ".onnx"
    assert "1: Tanhshrink -> NOT FOR .onnx FILES (" in str(converted)
    assert not converted.left
    frozen = taut.freeze(converted.model.eval())
    with pytest.raises(ValueError, match="cannot be exported"):
        export(frozen, tmp_path / "model.onnx", (3, 8, 8))
    export(frozen, tmp_path / "model.safetensors", (3, 8, 8))
    clean = taut.convert(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()), (3, 8, 8))
    assert clean.unwritten == ()
