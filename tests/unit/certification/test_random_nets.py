"""Random nets: what is certified is above each slope, and both verifiers prove it of the files."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import forgery
import taut
from experiments import _nets as nets
from taut.certification import prove, verifier
from taut.program import ProgramModule, checked_program, lipschitz_bound

SHAPE = (4, 4, 3)


class Forward(nn.Module):
    def __init__(self, forward, **modules):
        super().__init__()
        self.function = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.function(self, x)


def conv(c_in=4, c_out=4, **options):
    return nn.Conv2d(c_in, c_out, 3, padding=1, **options)


def maxmin(m, x):
    a, b = x.chunk(2, 1)
    return torch.cat([torch.maximum(a, b), torch.minimum(a, b)], 1)


def crelu(m, x):
    return torch.cat([F.relu(x[:, :2]), F.relu(-x[:, :2])], 1)


STEPS = {
    "conv": conv, "grouped": lambda: conv(groups=2), "norm": lambda: nn.BatchNorm2d(4),
    "reflect": lambda: conv(padding_mode="reflect"), "prelu": lambda: nn.PReLU(4),
    "replicate": lambda: conv(padding_mode="replicate"), "relu": nn.ReLU,
    "transposed": lambda: nn.ConvTranspose2d(4, 4, 3, padding=1),
    "strided": lambda: nn.Sequential(conv(stride=2), nn.Upsample(scale_factor=2),
                                     Forward(lambda m, x: x[..., :3])),
    "adaptive": lambda: nn.AdaptiveAvgPool2d((4, 3)), "pool": lambda: nn.MaxPool2d(3, 1, 1),
    "coarse": lambda: nn.Sequential(nn.AdaptiveAvgPool2d((3, 2)), nn.AdaptiveAvgPool2d((4, 3))),
    "residual": lambda: Forward(lambda m, x: x - 0.5 * m.g(x).relu(), g=conv()),
    "sum": lambda: Forward(lambda m, x: m.g(x) + x, g=conv()),
    "maxmin": lambda: Forward(maxmin), "crelu": lambda: Forward(crelu),
    "scale": lambda: Forward(lambda m, x: (x - 0.5) / torch.tensor([0.2, 1, 3, 7])[:, None, None]),
}  # fmt: skip


def randomised(names, seed):
    torch.manual_seed(seed)
    model = nn.Sequential(*(STEPS[name]() for name in names))
    for parameter in model.parameters():
        parameter.data.normal_()
    return nets.settled(model, seed=seed)


def check_net(names, seed):
    model = randomised(names, seed)
    found = prove(model, SHAPE)
    bound, sharp = float(found.bound), float(lipschitz_bound(model, SHAPE))
    before = float(lipschitz_bound(model, SHAPE, passes=()))
    assert sharp <= bound * (1 + 1e-6) or sharp <= before * (1 + 1e-9)
    assert sharp <= before * (1 + 1e-9)
    program = checked_program(found.program.content(), SHAPE, found.program.tensors)
    assert float(lipschitz_bound(ProgramModule(program), SHAPE)) == pytest.approx(sharp, rel=1e-9)
    x = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(seed))
    with tempfile.TemporaryDirectory() as folder:
        predicted = taut.predict(model, x)
        path, weights = predicted.save(Path(folder, "predictions.json"))
        points = forgery.points_file(folder, x)
        assert taut.verify(path, weights).bound == bound
        assert "answers of 2 images" in verifier.verify(path, weights, points)
        file = verifier.read_certificate(path)
        runs = verifier.check_graph(file, verifier.read_weights(weights, file))
        own = [verifier.logits_of(file, runs, image) for image in x.double().numpy()]
    wide = model.double()
    expected = wide(x.double()).detach().numpy()
    np.testing.assert_allclose(own, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
    for image in x.double():
        jacobian = torch.autograd.functional.jacobian(lambda x: wide(x).flatten(), image[None])
        matrix = jacobian.reshape(jacobian.shape[0], -1)
        assert torch.linalg.matrix_norm(matrix, 2).item() <= min(sharp, bound) * (1 + 1e-9)


RANDOM = settings(deadline=None, derandomize=True, database=None)
LESS, MORE = settings(RANDOM, max_examples=5), settings(RANDOM, max_examples=60)


@pytest.mark.parametrize("drawn", [LESS, pytest.param(MORE, marks=pytest.mark.slow)])
def test_certificates_of_random_nets_are_proven_and_above_each_slope(drawn):
    steps = st.lists(st.sampled_from(list(STEPS)), min_size=2, max_size=5)
    drawn(given(steps, st.integers(0, 10**6))(check_net))()


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_each_step_alone_and_behind_a_convolution(name):
    check_net([name], 0)
    check_net(["conv", name], 1)


LOOSER = {  # what a certificate may be above the bound, and why: see docs/certificates.md
    "MaxMin by hand": ([taut.nn.Conv2d(4, 4, 3), Forward(maxmin)] * 2, 1.0),
    "CReLU": ([Forward(lambda m, x: torch.cat([F.relu(x), F.relu(-x)], 1))] * 2, 2.0),
    "a sum with a convolution": ([Forward(lambda m, x: x - m.g(x), g=nn.Conv2d(4, 4, 1))], 2.0),
}


@pytest.mark.parametrize("name", LOOSER)
def test_how_much_a_certificate_is_above_the_bound(name):
    layers, ratio = LOOSER[name]
    model = nn.Sequential(*layers).eval()
    if name.startswith("a sum"):  # x - x / 3: 1 + 1/3 for 2/3
        nn.init.constant_(model[0].g.bias, 0.0)
        model[0].g.weight.data = (torch.eye(4) / 3)[:, :, None, None]
    bound = float(prove(model, SHAPE).bound)
    sharp = float(lipschitz_bound(model, SHAPE))
    assert bound == pytest.approx(ratio * sharp, rel=1e-5)
