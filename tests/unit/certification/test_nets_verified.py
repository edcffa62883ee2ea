"""Nets of many kinds, plain and converted: what certify and predict say, both verifiers prove."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import forgery
import taut
from experiments import _file_nets as small
from experiments import _nets as nets
from taut.certification import certify, prove, verifier
from taut.program import canonical

HEAVY = {
    "VGG-16": (lambda: nets.vgg16(width=2, classes=5, hidden=8), (3, 32, 32)),
    "ResNet-18": (lambda: nets.resnet18(width=2, classes=5), (3, 32, 32)),
    "ResNet-50": (lambda: nets.resnet50(width=2, classes=5), (3, 32, 32)),
    "MobileNetV2": (lambda: nets.MobileNetV2(width=0.1, classes=5, last=16), (3, 32, 32)),
    "U-Net": (lambda: nets.UNet(width=2, depth=2), (3, 8, 8)),
    "DnCNN": (lambda: nets.DnCNN(width=4, depth=5), (1, 8, 8)),
}
QUICK = ("unet transposed", "mlp prelu", "signals", "one number", "pooled")
SLOW = (
    "vgg",
    "resnet",
    "mobilenet",
    "dncnn",
    "unet upsampled",
    "mlp",
    "mlp leaky",
    "paper",
    "mlp normalised",
    "volumes",
    "buffers",
    "reflected",
    "transposed groups",
    "maxmin",
    *HEAVY,
)
SMOOTH = ("wavenet", "decoder", "autoencoder")
"""With tanh or sigmoid, whose rounding is not specified: bounded in real arithmetic alone."""


class OneNumber(nn.Module):
    """A classifier of two classes by the sign of one number, normalised inside."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 1))
        self.register_buffer("mean", torch.rand(1, 3, 1))

    def forward(self, x):
        return self.body((x - self.mean) / 0.25).squeeze(1)


def made(name):
    torch.manual_seed(0)
    if name == "one number":
        return OneNumber().eval(), (3, 4)
    if name == "pooled":  # from 3 to 4 positions
        layers = nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d((4, 2)), nn.Flatten(), nn.Linear(16, 3)
        return nn.Sequential(*layers), (1, 5, 6)
    if name in HEAVY:
        make, shape = HEAVY[name]
        return nets.settled(make()), shape
    return small.made(name)


def answered(model, shape, folder, arithmetic="float64", **options):
    """Predictions and their files; the images as users save them."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(2, *shape, generator=generator) - 0.3
    found = taut.predict(model, x, arithmetic=arithmetic, **options)
    return found, *found.save(folder / "predictions.json"), forgery.points_file(folder, x), x


ROWS = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


@pytest.mark.parametrize("kind", ["plain", "converted"])
@pytest.mark.parametrize("name", ROWS)
def test_predictions_and_certifications_are_proven(name, kind, tmp_path):
    model, shape = made(name)
    model = taut.convert(model).model.eval() if kind == "converted" else model
    found, path, weights, points, x = answered(model, shape, tmp_path)
    assert taut.verify(path, weights).bound == found.bound.value
    assert verifier.verify(path, weights).endswith("arithmetic float64")
    assert "answers of 2 images" in verifier.verify(path, weights, points)
    if found.classes.dim() == 1:
        result = certify(model, x, found.classes, 0.01)
        path, weights = result.save(tmp_path / "certificate.json")
        assert taut.verify(path, weights).bound == found.bound.value
        assert "clean accuracy 1.0" in verifier.verify(path, weights, points)


@pytest.mark.parametrize("kind", ["plain", "converted"])
@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_nets_are_proven_in_real_numbers(name, kind, tmp_path):
    model, shape = made(name)
    model = taut.convert(model).model.eval() if kind == "converted" else model
    found, path, weights, points, _ = answered(model, shape, tmp_path, "real")
    assert taut.verify(path, weights).bound == found.bound.value
    assert verifier.verify(path, weights).endswith("arithmetic real")
    with pytest.raises(verifier.Refused, match="real numbers prove no radius"):
        verifier.verify(path, weights, points)
    with pytest.raises(ValueError, match="certif"):
        prove(model, shape)


def test_predictions_are_proven_by_the_file_alone(tmp_path):
    model, shape = made("dncnn")
    _, path, weights, points, _ = answered(model, shape, tmp_path)
    copy = tmp_path / "verifier.py"
    copy.write_bytes(Path(verifier.__file__).read_bytes())
    for given in ([path, weights], [path, weights, points]):
        command = [sys.executable, "-I", str(copy), *map(str, given)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert (done.returncode, done.stdout[:24]) == (0, "Proven: Lipschitz bound "), done.stderr


# Weights and masks of what may change.


def conv_net():
    torch.manual_seed(2)
    layers = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)
    return nets.settled(nn.Sequential(*layers)), (3, 4, 3)


def table_net():
    torch.manual_seed(2)
    layers = nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)
    return nets.settled(nn.Sequential(*layers)), (5,)


WEIGHTED = {
    "features that may change": (table_net, {"mask": torch.tensor([1, 0, 1, 0, 0])}),
    "units of features": (table_net, {"weights": torch.tensor([0.1, 4.0, 0.5, 0.0, 1.0])}),
    "channels": (conv_net, {"weights": torch.tensor([2.0, 0.25, 0.0]).reshape(3, 1, 1)}),
    "a patch": (conv_net, {"mask": torch.tensor([0, 1, 1])}),
    "pixels": (conv_net, {"weights": torch.arange(12.0).reshape(4, 3) + 0.5}),
    "one output": (lambda: (OneNumber().eval(), (3, 4)), {"mask": torch.eye(3, 4)}),
}


def weighted(name, folder, arithmetic="float64"):
    make, options = WEIGHTED[name]
    torch.manual_seed(0)
    model, shape = make()
    full = torch.ones(shape).double()
    for factors in options.values():
        full = full * factors
    return model, full, answered(model, shape, folder, arithmetic, **options)


@pytest.mark.parametrize("name", WEIGHTED)
def test_predictions_of_weighted_changes_are_proven(name, tmp_path):
    model, full, (found, path, weights, points, x) = weighted(name, tmp_path)
    taut.verify(path, weights)
    assert "answers of 2 images" in verifier.verify(path, weights, points)
    wide = model.double()
    for image in x.double():
        jacobian = torch.autograd.functional.jacobian(lambda x: wide(x).flatten(), image[None])
        slope = jacobian.reshape(jacobian.shape[0], -1) * full.flatten()
        assert torch.linalg.matrix_norm(slope, 2).item() <= found.bound.value
    most = full.max().item() * found.certificate.bound.value
    if name in ("features that may change", "units of features", "channels"):
        assert found.bound.value < most * 0.99  # as one map with the first layer
    else:
        assert found.bound.value == pytest.approx(most, rel=1e-6)


def nested(content, key, change):
    """The first number of nested lists, changed."""
    place = content[key]
    while isinstance(place[0], list):
        place = place[0]
    at = next(i for i, value in enumerate(place) if value is not None)
    place[at] = change(place[at])


def with_weights(value):
    return lambda c: c["changes"].update(weights=value)


FORGED = {
    "a larger radius": lambda c: nested(c, "radii", lambda r: r * 1.01),
    "a radius below 0": lambda c: nested(c, "radii", lambda r: -r),
    "a radius in words": lambda c: nested(c, "radii", str),
    "a truth value for a radius": lambda c: nested(c, "radii", lambda r: True),
    "a list for a radius": lambda c: nested(c, "radii", lambda r: [r]),
    "no radius": lambda c: nested(c, "radii", lambda r: None),
    "a giant radius": lambda c: nested(c, "radii", lambda r: 10**4000),
    "radii of one image": lambda c: c["radii"].pop(),
    "no images": lambda c: [c[key].clear() for key in ("radii", "classes", "margin")]
    + [c["images"]["sha256"].clear()],
    "another class": lambda c: nested(c, "classes", lambda v: 1 - v),
    "a class that is none": lambda c: nested(c, "classes", lambda v: 7),
    "a class below 0": lambda c: nested(c, "classes", lambda v: v - 3),
    "a class in floats": lambda c: nested(c, "classes", float),
    "a larger margin": lambda c: nested(c, "margin", lambda m: m * 1.01),
    "no margin": lambda c: nested(c, "margin", lambda m: None),
    "other images": lambda c: c["images"]["sha256"].reverse(),
    "labels, too": lambda c: c.update(labels=[0, 0]),
    "no answers": lambda c: [c.pop(key) for key in ("radii", "classes", "margin", "images")],
    "smaller weights": lambda c: nested(c["changes"], "weights", lambda w: w * 10),
    "weights of 0": lambda c: nested(c["changes"], "weights", lambda w: 0.0),
    "weights below 0": lambda c: nested(c["changes"], "weights", lambda w: -w),
    "giant weights": lambda c: nested(c["changes"], "weights", lambda w: 1e308),
    "weights in words": lambda c: nested(c["changes"], "weights", str),
    "one weight": with_weights(1.0),
    "no weights": with_weights([]),
    "more weights": with_weights([1.0] * 6),
    "deep weights": with_weights([[1.0] * 5]),
    "ragged weights": with_weights([[1.0], 1.0, 1.0, 1.0, 1.0]),
    "a lower bound": lambda c: c["changes"].update(
        bound=c["changes"]["bound"] * (1 - 1e-6), pairwise=None
    ),
    "lower pairs": lambda c: nested(
        {"row": c["changes"]["pairwise"][0][1:]}, "row", float
    ) or c["changes"]["pairwise"][0].__setitem__(1, c["changes"]["pairwise"][0][1] * (1 - 1e-6)),
    "no folds": lambda c: c["changes"].update(folds=[]),
    "folds with a lower gain": lambda c: c["changes"]["folds"][0].update(
        gain=c["changes"]["folds"][0]["gain"] * (1 - 1e-6)
    ),
    "folds of the plain map": lambda c: c["changes"].update(
        folds=[fold | {"input": "input"} for fold in c["changes"]["folds"]]
    ),
    "another key": lambda c: c["changes"].update(more=1.0),
    "a list of changes": lambda c: c.update(changes=[c["changes"]]),
}  # fmt: skip
WITH_POINTS = (
    "a larger radius", "a giant radius", "another class", "a larger margin", "other images",
    "no margin",
)  # fmt: skip
"""What only the images show."""


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    return weighted("units of features", tmp_path_factory.mktemp("weighted"))[2]


@pytest.mark.parametrize("forgery_", FORGED)
def test_forged_predictions_are_refused(forgery_, honest, tmp_path):
    _, path, weights, points, _ = honest
    content = json.loads(path.read_text())
    before = canonical(content)
    FORGED[forgery_](content)
    assert canonical(content) != before
    copy = tmp_path / "predictions.json"
    copy.write_text(canonical(content))
    with pytest.raises(verifier.Refused, match=r"^[^\n]+$"):
        verifier.verify(copy, weights, points)
    if forgery_ not in WITH_POINTS:
        with pytest.raises(verifier.Refused, match=r"^[^\n]+$"):
            verifier.verify(copy, weights)
        with pytest.raises(ValueError, match=r"^[^\n]+$"):
            taut.verify(copy, weights)
