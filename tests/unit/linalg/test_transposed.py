"""Transposed convolutions: the adjoint of an operator, certified for the program that runs."""

import copy
import itertools

import pytest
import torch
from torch import nn

from oracles import dense_operator, rounding_of
from taut.certification import certify, prove, verifier, verify
from taut.linalg.convolution import ConvOperator
from taut.linalg.padding import MODES, Padding
from taut.linalg.rounding import U32, gamma
from taut.program import lipschitz_bound, replay, trace

LAYERS = [
    (nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1), (2, 4, 3)),
    (nn.ConvTranspose2d(4, 6, (2, 3), dilation=(1, 2), groups=2, bias=False), (4, 3, 4)),
    (nn.ConvTranspose1d(3, 2, 4, stride=3, padding=2), (3, 5)),
    (nn.ConvTranspose1d(2, 2, 2, stride=3, output_padding=2), (2, 4)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=str)
def test_program_is_the_layer_in_float64(layer, shape):
    x = torch.rand(3, *shape, dtype=torch.float64)
    program = trace(layer, shape)
    wide = copy.deepcopy(layer).double()
    with torch.no_grad():
        torch.testing.assert_close(replay(program, x), wide(x), rtol=1e-13, atol=1e-13)
    norm = torch.linalg.matrix_norm(dense_operator(wide, shape), 2).item()
    assert norm * (1 - 1e-13) <= float(lipschitz_bound(layer, shape)) <= norm * (1 + 1e-6)


@pytest.mark.parametrize(("stride", "dilation"), list(itertools.product([1, 2, 3], [1, 2])))
@pytest.mark.parametrize("mode", MODES)
def test_adjoint_is_the_transposed_matrix(mode, stride, dilation):
    generator = torch.Generator().manual_seed(stride)
    kernel = torch.randn(4, 2, 3, 2, generator=generator, dtype=torch.float64)
    padding = Padding(mode, (1, 0), (2, 1), (0, 1))
    op = ConvOperator(kernel, (7, 6), (stride, 1), (dilation, 1), 2, padding)
    matrix = dense_operator(op, (4, 7, 6))
    other = dense_operator(op.adjoint, (4, *op.output_size))
    torch.testing.assert_close(matrix.T, other, rtol=1e-14, atol=1e-14)
    assert torch.equal(matrix.T, other) or mode != "zeros"
    flat = ConvOperator(kernel[:, :, 0, 0], ())
    assert torch.equal(flat.adjoint(torch.eye(4)), flat.kernel)


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=str)
def test_rounding_counts_every_product_of_an_output(layer, shape):
    rounding = rounding_of(layer, shape)
    ones = copy.deepcopy(layer)
    with torch.no_grad():
        ones.weight.fill_(1.0)
        bias = 0.0 if ones.bias is None else ones.bias.reshape(-1, *[1] * (len(shape) - 1))
        most = (ones(torch.ones(1, *shape)) - bias).max().item()
        assert rounding.count >= round(most) + 2
        x = torch.rand(20, *shape) - 0.5
        error = (layer(x).double() - replay(trace(layer, shape), x.double())).flatten(1).norm(dim=1)
    size = rounding.absolute * x.double().flatten(1).norm(dim=1) + rounding.constant
    assert (error <= gamma(rounding.count, U32) * size).all()
    assert error.max() > 0


def test_decoders_are_certified_and_verified(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 2, stride=2), nn.ReLU(), nn.ConvTranspose2d(4, 2, 2, stride=2),
        nn.ReLU(), nn.Flatten(), nn.Linear(2 * 36, 3),
    )  # fmt: skip
    x = torch.rand(8, 1, 6, 6)
    found = certify(model, x, model(x).argmax(1))
    assert (found.radius > 0).any()
    path, weights = found.save(tmp_path / "certificate.json")
    assert verify(path, weights).bound == verify(path, model).bound == float(found.bound)
    assert [node.op for node in found.certificate.program.nodes][2] == "conv_transpose"
    assert "float64" in verifier.verify(path, weights)
    one = nn.Sequential(nn.Conv1d(2, 3, 3, padding=1), nn.ReLU(), nn.ConvTranspose1d(3, 2, 3))
    path, weights = prove(one, (2, 6)).save(tmp_path / "one.json")
    assert verify(path, weights).input_shape == (2, 6)
