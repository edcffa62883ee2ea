"""Weights of each method may be assigned to another layer of it; other weights change nothing."""

import pytest
import torch

import taut
from taut.linalg.convolution import ConvOperator
from theory_oracles import random_factors, sigma

# Channels in and out, taps, stride, groups.
SIZES = [
    (4, 4, (), (), 1),
    (3, 5, (4,), (1,), 1),
    (8, 1, (3,), (1,), 1),
    (5, 5, (3, 2), (1, 1), 1),
    (3, 7, (3, 3), (1, 1), 1),
    (7, 3, (3, 3), (1, 1), 1),
    (6, 9, (3, 3), (1, 1), 3),
    (3, 4, (3, 3), (2, 2), 1),  # input projectors
    (4, 20, (4, 4), (2, 2), 1),  # more outputs than channels times phases
    (4, 20, (5, 4), (2, 2), 1),
    (4, 6, (3, 5), (2, 2), 2),
    (4, 6, (2, 3), (3, 2), 1),  # a patch in one axis
    (2, 7, (8,), (5,), 1),
    (1, 4, (3, 3), (2, 2), 1),  # projectors of rank 0
    (3, 4, (2, 3, 2), (1, 1, 1), 1),
    (3, 5, (3, 2, 3), (2, 2, 2), 1),
]
PRECISIONS = [torch.float32, torch.float64]


def pair(method, size, dtype):
    torch.manual_seed(0)
    (inputs, outputs, taps, stride, groups) = size
    options = {"stride": stride, "groups": groups, "dtype": dtype}
    return [method(inputs, outputs, taps, **options) for _ in range(2)]


def train(method):
    goal = torch.randn_like(method.weight())
    optimiser = torch.optim.SGD(list(method.parameters()), lr=0.1)
    for _ in range(5):
        optimiser.zero_grad()
        (method.weight() - goal).square().sum().backward()
        optimiser.step()


def state(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_refused(method, weight, message):
    before = state(method)
    with pytest.raises(ValueError, match=message):
        method.assign_(weight)
    assert all(torch.equal(tensor, before[name]) for name, tensor in method.state_dict().items())


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_kernels_of_bcop_are_assigned(size, dtype):
    one, other = pair(taut.BCOP, size, dtype)
    for prepare in (lambda _: None, train):
        prepare(one)
        other.reset_parameters()
        weight = one.weight().detach()
        other.assign_(weight)
        atol = 20 * torch.finfo(dtype).eps
        torch.testing.assert_close(other.weight(), weight, rtol=0, atol=atol)
        assert list(other.state_dict()) == list(one.state_dict())


@pytest.mark.parametrize("size", [(2, 12, (5,)), (12, 2, (5,)), (2, 12, (2, 2))], ids=str)
def test_directions_that_few_rows_leave_free_change_nothing(size):
    one, other = pair(taut.BCOP, (*size, (1,) * len(size[2]), 1), torch.float64)
    other.assign_(one.weight())
    assert not torch.allclose(_last_projector(other), _last_projector(one))
    torch.testing.assert_close(other.weight(), one.weight(), rtol=0, atol=1e-14)


def _last_projector(method):
    basis = method.raw_projectors[-1]
    return basis @ basis.T


@pytest.mark.parametrize("channels", [4, 5])
def test_the_identity_is_assigned(channels):
    kernel = torch.zeros(channels, channels, 3, 5, dtype=torch.float64)
    kernel[:, :, 1, 2] = torch.eye(channels)
    layer = taut.nn.Conv2d(channels, channels, (3, 5), dtype=torch.float64)
    layer.weight = kernel
    torch.testing.assert_close(layer.weight, kernel, rtol=0, atol=1e-13)


def test_a_layer_with_a_gain_and_gradients():
    one, other = (taut.nn.Conv2d(4, 6, 3, bias=False, gain=3.0) for _ in range(2))
    other.weight = one.weight
    torch.testing.assert_close(other.weight, one.weight)
    assert all(p.requires_grad and p.is_leaf for p in other.parameters())


def test_orthogonal_kernels_out_of_the_family_are_refused():
    method = taut.BCOP(4, 4, (3, 3), dtype=torch.float64)
    other_ranks = random_factors(4, (3, 3), 1, ranks=(1, 3, 2, 2)).kernel()
    shift = torch.zeros(4, 4, 3, 3, dtype=torch.float64)
    shift[:, :, 0, 0] = torch.eye(4)
    for kernel in (other_ranks, shift, 2 * method.weight(), torch.randn(4, 4, 3, 3)):
        assert_refused(method, kernel, "must be one that BCOP can have and that determines .* off")


def test_kernels_that_do_not_determine_the_projectors_are_refused():
    one, other = pair(taut.BCOP, (3, 32, (3, 3), (1, 1), 1), torch.float64)
    said = r"off by .* \(kernels with over 4 times .* load_state_dict .* taut.BCOPFixed holds"
    assert_refused(other, one.weight(), said)
    other.load_state_dict(one.state_dict())
    assert torch.equal(other.weight(), one.weight())
    fixed = taut.BCOPFixed(3, 32, (3, 3), dtype=torch.float64)  # as the sentence says
    fixed.assign_(one.weight())
    assert torch.equal(fixed.weight(), one.weight())


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("method", [taut.AOL, taut.RKL2NE, taut.SVCM, taut.OSSN, taut.RKO])
def test_weights_of_other_methods_are_assigned(method, size, dtype):
    one, other = pair(method, size, dtype)
    train(one)
    one.update_(1)
    if method is taut.SVCM:
        one.project_()
    weight = one.weight().detach()
    other.assign_(weight)
    atol = 20 * torch.finfo(dtype).eps * weight.abs().max().item()
    torch.testing.assert_close(other.weight(), weight, rtol=0, atol=atol)


@pytest.mark.parametrize("method", [taut.AOL, taut.RKL2NE, taut.OSSN])
def test_weights_above_the_norm_are_refused(method):
    one, other = pair(method, SIZES[4], torch.float64)
    weight = one.weight().detach()
    other.load_state_dict(one.state_dict())  # OSSN estimates along the direction of `one`
    norm = ConvOperator(weight, (8, 8)).norm_bound().value
    assert_refused(other, 3 * weight / norm, "`weight` must (have a norm of at most 1|be one that)")


def test_orthogonal_kernels_are_assigned_to_aol():
    kernel = taut.BCOP(4, 4, (3, 3), dtype=torch.float64).weight()
    method = taut.AOL(4, 4, (3, 3), dtype=torch.float64)
    method.assign_(kernel)
    torch.testing.assert_close(method.weight(), kernel)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_any_orthogonal_kernel_is_assigned_to_a_fixed_layer(size, dtype):
    one, other = pair(taut.BCOPFixed, size, dtype)
    other.assign_(one.weight())
    assert torch.equal(other.weight(), one.weight())
    weight = one.weight()
    weight[0] *= 1.01
    assert_refused(other, weight, "`weight` must be orthogonal: .* is off by 0.0")


def is_orthogonal(kernel):
    values = sigma(kernel)
    return torch.allclose(values, torch.ones_like(values))


def test_a_fixed_layer_takes_what_bcop_cannot_have_and_what_the_dense_operator_says():
    method = taut.BCOPFixed(4, 4, (3, 3), dtype=torch.float64)
    for seed in range(3):
        kernel = random_factors(4, (3, 3), seed).kernel()
        assert is_orthogonal(kernel)
        method.assign_(kernel)
        assert torch.equal(method.weight(), kernel)
    for scale in (0, 1 / 6):
        kernel = scale * torch.randn(4, 4, 3, 3, dtype=torch.float64)
        assert not is_orthogonal(kernel)
        assert_refused(method, kernel, "`weight` must be orthogonal")


@pytest.mark.parametrize("method", [taut.AOL, taut.BCOP, taut.BCOPFixed, taut.OSSN, taut.RKL2NE])
@pytest.mark.parametrize("dtype", PRECISIONS)
def test_huge_weights_are_refused_and_change_nothing(method, dtype):
    layer = method(4, 4, (3, 3), dtype=dtype)
    for size in (1e30, 1e300):
        weight = size * torch.randn(4, 4, 3, 3, dtype=torch.float64)
        assert_refused(layer, weight, "`weight` must ")
