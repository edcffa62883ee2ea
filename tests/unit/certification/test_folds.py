"""Convolutions with the batch norms around them, as one, in certificates and both verifiers."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import taut
from experiments import _nets as nets
from taut.certification import certify, prove
from taut.certification.verifier import Refused
from taut.certification.verifier import verify as verify_alone
from taut.program import canonical, verifiable_bound


def conv(c_in, c_out, kernel=3, **options):
    return nn.Conv2d(c_in, c_out, kernel, **{"padding": kernel // 2, **options})


class Tokens(nn.Module):
    """A matrix on the last axis, with factors of features."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 5)
        self.register_buffer("scale", torch.tensor([1.0, -2, 3, 0.5, 7]))

    def forward(self, x):
        return (self.scale * self.fc((x - 0.5) / 0.25)).mean(1)


FOLDED = {
    "conv and norm": (nn.Sequential(conv(3, 6), nn.BatchNorm2d(6), nn.ReLU()), (3, 5, 4)),
    "grouped": (nn.Sequential(conv(4, 4, groups=2), nn.BatchNorm2d(4)), (4, 5, 4)),
    "norm, conv, norm": (
        nn.Sequential(nn.BatchNorm2d(3), conv(3, 4, stride=2), nn.BatchNorm2d(4)), (3, 6, 5),
    ),
    "transposed": (
        nn.Sequential(nn.BatchNorm2d(3), nn.ConvTranspose2d(3, 4, 2, 2), nn.BatchNorm2d(4)),
        (3, 3, 4),
    ),
    "circular": (
        nn.Sequential(conv(3, 4, padding_mode="circular"), nn.BatchNorm2d(4)), (3, 4, 6),
    ),
    "matrix": (
        nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(),
                      nn.Linear(4, 3)), (5,),
    ),
    "tokens": (Tokens(), (4, 6)),
    "one axis": (nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4)), (2, 9)),
}  # fmt: skip


def made(name):
    model, shape = FOLDED[name]
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return nets.settled(model), shape


@pytest.fixture(params=FOLDED)
def saved(request, tmp_path):
    model, shape = made(request.param)
    certificate = prove(model, shape)
    path, weights = certificate.save(tmp_path / "certificate.json")
    return model, shape, certificate, path, weights


def test_folded_bounds_are_proven_by_both_verifiers(saved):
    model, shape, certificate, path, weights = saved
    assert certificate.folds
    sharp = float(taut.lipschitz_bound(model, shape, passes=("compose_affine",)))
    product = float(verifiable_bound(model, shape))
    assert sharp * (1 - 1e-9) <= float(certificate.bound) < product * (1 - 1e-6)
    assert taut.verify(path, weights).bound == float(certificate.bound)
    assert taut.verify(path, model).bound == float(certificate.bound)
    assert "Proven" not in verify_alone(path, weights)  # a sentence without the word


def test_a_bound_is_not_below_the_slope(saved):
    model, shape, certificate, *_ = saved
    wide, most = model.double(), 0.0
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(1, *shape, generator=generator, dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(lambda x: wide(x).flatten(), x)
        matrix = jacobian.reshape(jacobian.shape[0], -1)
        most = max(most, torch.linalg.matrix_norm(matrix, 2).item())
    model.float()
    assert most <= float(certificate.bound)


def changed(path: Path, change) -> None:
    file = json.loads(path.read_text())
    change(file)
    path.write_text(canonical(file) + "\n")


def lower(key, factor=1 - 1e-6):
    def change(file):
        file["folds"][0][key] *= factor

    return change


def renamed(key, name):
    def change(file):
        file["folds"][0][key] = name

    return change


FORGED = {
    "a lower gain": lower("gain"),
    "lower moduli": lower("absolute"),
    "moduli of 0": lower("absolute", 0.0),
    "another source": renamed("input", "input_"),
    "itself": lambda file: file["folds"][0].update(input=file["folds"][0]["name"]),
    "an unknown value": renamed("name", "nothing"),
    "twice": lambda file: file["folds"].append(file["folds"][0]),
    "no proof": lambda file: file["folds"][0].pop("proof"),
    "a key more": lambda file: file["folds"][0].update(more=1.0),
    "a bound below": lambda file: file.update(bound=file["bound"] * (1 - 1e-6)),
    "no folds": lambda file: file.pop("folds"),
    "a text": renamed("gain", "1e9"),
    "a whole number": renamed("gain", 10**9),
    "a number below 0": lower("gain", -1.0),
}


@pytest.mark.parametrize("forgery", FORGED)
def test_forged_folds_are_refused(forgery, tmp_path):
    model, shape = made("norm, conv, norm")
    path, weights = prove(model, shape).save(tmp_path / "certificate.json")
    changed(path, FORGED[forgery])
    with pytest.raises(ValueError, match=r"fold|smaller|number|damaged|proven"):
        taut.verify(path, weights)
    if forgery != "a whole number":  # which says no less than the number does
        with pytest.raises(Refused):
            verify_alone(path, weights)


def test_folds_of_numbers_that_underflow_are_refused(tmp_path):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 2, bias=False, dtype=torch.float64)
            self.fc.weight.data = 1e200 * torch.eye(2, dtype=torch.float64)

        def forward(self, x):
            return self.fc(x * 1e-200 * 1e-200) * 1e250 * 1e50

    certificate = prove(Scaled(), (2,))
    assert not certificate.folds
    assert float(certificate.bound) >= 1e100
    path, weights = certificate.save(tmp_path / "certificate.json")

    def forge(file):
        last = file["graph"]["output"]
        fold = {"name": last, "input": "input", "gain": 1.1, "absolute": 0.0, "proof": "none"}
        file.update(folds=[fold], bound=1.1)

    changed(path, forge)
    for verify in (taut.verify, verify_alone):
        with pytest.raises(ValueError, match=r"fold|smaller"):
            verify(path, weights)


def test_a_chain_with_two_kernels_is_no_fold(tmp_path):
    """Zeros at the border lie between: their product is no convolution."""
    model = nets.settled(nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), conv(4, 2)))
    path, weights = prove(model, (3, 5, 5)).save(tmp_path / "certificate.json")

    def whole(file):
        file["folds"][0]["name"] = file["graph"]["output"]

    changed(path, whole)
    for verify in (taut.verify, verify_alone):
        with pytest.raises(ValueError, match=r"fold|single"):
            verify(path, weights)


def test_radii_with_folds_hold(tmp_path):
    model, shape = made("matrix")
    images, labels = torch.rand(20, *shape), torch.zeros(20).long()
    result = certify(model, images, labels, eps=(0.1,), input_shape=shape)
    path, weights = result.save(tmp_path / "certificate.json")
    assert taut.verify(path, weights).bound == float(result.bound)
    product = prove(nn.Sequential(*model, nn.Identity()), shape)
    assert float(result.bound) <= float(product.bound) * (1 + 1e-9)
    direction = torch.nn.functional.normalize(torch.randn(500, *shape).flatten(1)).reshape(
        500, *shape
    )
    for image, radius in zip(images, result.radius, strict=True):
        if radius > 0:
            near = image.double() + 0.999 * radius.item() * direction.double()
            assert bool((model.double()(near).argmax(1) == 0).all())
        model.float()


class Split(nn.Module):
    """The first half as it is, and a function of the second."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(2, 2, 1)

    def forward(self, x):
        a, b = x.chunk(2, 1)
        return torch.cat([a, self.conv(b).relu()], 1)


class Meeting(Split):
    """The second part reads the first, too."""

    def forward(self, x):
        a, b = x.chunk(2, 1)
        return torch.cat([a, self.conv(a + b).relu()], 1)


@pytest.mark.parametrize("change", ["gain", "absolute", "input", "no split"])
def test_forged_splits_are_refused(change, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(taut.nn.Times(0.9), Split(), nn.ReLU(), Meeting())
    path, weights = prove(model, (4, 3)).save(tmp_path / "c.json")
    file = json.loads(path.read_text())
    (fold,) = file["folds"]
    assert taut.verify(path, weights).bound == file["bound"]
    assert "Lipschitz bound" in verify_alone(path, weights)
    concats = [node["name"] for node in file["graph"]["nodes"] if node["op"] == "concat"]
    if change == "no split":  # of the second one, whose parts read the same slice
        readers = [n["inputs"][0] for n in file["graph"]["nodes"] if n["op"] == "slice"]
        file["folds"].append(fold | {"name": concats[1], "input": readers[-1]})
    else:
        fold[change] = {"gain": 0.99 * fold["gain"], "absolute": -1.0, "input": "input"}[change]
    path.write_text(canonical(file))
    with pytest.raises(ValueError, match=r"fold|smaller|number"):
        taut.verify(path, weights)
    with pytest.raises(Refused, match=r"fold|damaged"):
        verify_alone(path, weights)


class Twice(nn.Module):
    """A value with itself, and factors."""

    def __init__(self, join):
        super().__init__()
        self.fc, self.join = nn.Linear(5, 6), join
        self.register_buffer("factors", torch.linspace(0.1, 2.0, 6))

    def forward(self, x):
        z = self.fc(x)
        return self.join(z) * self.factors


@pytest.mark.parametrize(
    "join", [lambda z: torch.cat([z[:, :3], z[:, :3]], 1), lambda z: z + z, lambda z: z + 0.5]
)
def test_both_verifiers_confirm_values_that_are_read_twice(join, tmp_path):
    torch.manual_seed(0)
    files = prove(Twice(join), (5,)).save(tmp_path / "certificate.json")
    taut.verify(*files)
    verify_alone(*files)


def test_a_value_beside_itself_is_confirmed(tmp_path):
    torch.manual_seed(0)
    model = Twice(lambda z: torch.cat([z, z], 1))
    model.factors = torch.linspace(0.1, 2.0, 12)
    verify_alone(*prove(model, (5,)).save(tmp_path / "certificate.json"))
