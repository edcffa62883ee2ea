"""AOL: norms of dense operators, fixed points, groups and strides."""

import copy
from functools import partial

import pytest
import torch

import taut
from convolution_layers import layer_of, set_raw_
from convolution_oracles import Case
from oracles import dense_operator
from taut import AOL

CASES = [  # in, out, kernel size, stride, groups
    (4, 4, (3, 3), (1, 1), 4),
    (4, 4, (3, 3), (2, 2), 4),
    (4, 8, (3, 3), (2, 1), 2),
    (6, 3, (3, 3), (2, 2), 3),
    (3, 5, (3, 2), (2, 3), 1),
    (2, 6, (3,), (2,), 2),
    (2, 2, (2, 2, 2), (1, 2, 1), 2),
    (6, 4, (), (), 2),
]


def kernel(case, raw=None):
    c_in, c_out, size, stride, groups = case
    torch.manual_seed(0)
    module = AOL(c_in, c_out, size, stride=stride, groups=groups, dtype=torch.float64)
    with torch.no_grad():
        module.raw_kernel.normal_() if raw is None else module.raw_kernel.copy_(raw)
    return module.weight().detach()


def norm(weight, stride, groups, *, n=7, circular=False):
    """The norm of the dense operator on an image of n positions an axis."""
    axes = weight.dim() - 2
    if not axes:
        return torch.linalg.matrix_norm(torch.block_diag(*weight.chunk(groups)), 2).item()
    kind = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)[axes - 1]
    n = n if axes < 3 else 3
    layer = kind(
        weight.shape[1] * groups, len(weight), tuple(weight.shape[2:]), stride, 1, groups=groups,
        bias=False, padding_mode="circular" if circular else "zeros", dtype=torch.float64,
    )  # fmt: skip
    with torch.no_grad():
        layer.weight.copy_(weight)
        shape = (weight.shape[1] * groups, *[n] * axes)
        units = torch.eye(torch.Size(shape).numel(), dtype=torch.float64)
        dense = layer(units.reshape(-1, *shape)).flatten(1)
    return torch.linalg.matrix_norm(dense, 2).item()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("n", [6, 7])
def test_norm_is_at_most_1(case, n):
    weight, stride, groups = kernel(case), case[3], case[4]
    assert 0.2 < norm(weight, stride, groups, n=n) <= 1 + 1e-12
    # Circular operators of torch repeat outputs for even kernels, and where a stride does not fit.
    if all(k == 3 for k in case[2]) and all(6 % s == 0 for s in stride):
        assert norm(weight, stride, groups, n=6, circular=True) <= 1 + 1e-12


def test_orthogonal_kernels_stay_as_they_are():
    weight = taut.BCOP(4, 4, (3, 3), dtype=torch.float64).weight().detach()
    found = kernel((4, 4, (3, 3), (1, 1), 1), weight)
    torch.testing.assert_close(found, weight, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-30, 1e20])
def test_scale_of_the_raw_kernel_does_not_matter(scale):
    case = (4, 4, (3, 3), (1, 1), 2)
    raw = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(kernel(case, raw * scale), kernel(case, raw))


def test_depthwise_layer():
    layer = taut.nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4, padding_mode="zeros",
                           parametrization=AOL)  # fmt: skip
    assert layer(torch.zeros(1, 4, 9, 9)).shape == (1, 4, 5, 5)
    assert float(taut.lipschitz_bound(layer, (4, 9, 9))) <= 1 + 1e-6
    frozen = taut.freeze(layer)
    x = torch.rand(2, 4, 9, 9)
    torch.testing.assert_close(frozen(x), layer(x))


LEARNED = [False, True]
RAWS = ["gaussian", "huge", "tiny", "12 decades", "rank-deficient", "zero"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("learn", LEARNED)
@pytest.mark.parametrize("case", CASES)
def test_norm_on_domains_smaller_than_the_kernel(case, learn, dtype):
    """For each q, however large; zeros, and circular as the layer wraps them."""
    c_in, c_out, size, stride, groups = case
    if not size:
        return
    method = partial(AOL, learn_scale=learn)
    for i, raw in enumerate(RAWS):
        for n in (1, 2, 3):
            layer = layer_of(
                Case(c_in, c_out, size, stride, (n,) * len(size), "same", groups=groups,
                     mode="zeros" if i % 2 else "circular"),
                method, dtype=dtype,
            )  # fmt: skip
            set_raw_(layer.parametrization, raw)
            if learn:  # ratios of q from 1 to the largest
                with torch.no_grad():
                    layer.parametrization.raw_scale.mul_(10.0 ** (i - 2))
            dense = dense_operator(layer.double(), (c_in, *[n] * len(size)))
            limit = 1e-12 if dtype == torch.float64 else 3e-6
            assert torch.linalg.matrix_norm(dense, 2) <= 1 + limit, (raw, n)


@pytest.mark.parametrize("learn", LEARNED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_at_zero_are_finite(dtype, learn):
    for size, stride in (((3, 3), (1, 1)), ((3, 3), (2, 2)), ((), ())):
        module = AOL(3, 4, size, stride=stride, learn_scale=learn, dtype=dtype)
        for channels in (slice(0, 1), slice(None)):  # of a channel, and of all
            with torch.no_grad():
                module.raw_kernel[:, channels] = 0
            module.zero_grad()
            weight = module.weight()
            (weight * torch.randn_like(weight)).sum().backward()
            for raw in module.parameters():
                assert raw.grad.isfinite().all()
                assert raw.grad.abs().max() < 1e3
        assert not weight.any()


def test_the_learned_scale_is_that_of_the_weighted_sums():
    """T_i = sum_j A_ij q_j / q_i, term by term; it starts as the paper's, with q = 1."""
    torch.manual_seed(0)
    module = AOL(3, 4, learn_scale=True, dtype=torch.float64)
    plain = AOL(3, 4, dtype=torch.float64)
    plain.raw_kernel = module.raw_kernel
    torch.testing.assert_close(module.weight(), plain.weight())
    with torch.no_grad():
        module.raw_scale.copy_(torch.tensor([0.5, -1.0, 2.0]))
    raw, q = module.raw_kernel.detach(), (8 * (module.raw_scale.detach() / 8).tanh()).exp()
    gram, expected = raw.T @ raw, torch.empty_like(raw)
    for i in range(3):
        t = sum(gram[i, j].abs() * q[j] / q[i] for j in range(3))
        expected[:, i] = raw[:, i] / t.sqrt()
    torch.testing.assert_close(module.weight().detach(), expected)
    assert torch.linalg.matrix_norm(expected, 2) <= 1 + 1e-12
    assert not torch.allclose(module.weight(), plain.weight(), atol=0.01)


@pytest.mark.parametrize("case", CASES)
def test_a_learned_scale_has_the_same_kernels_and_gradients_of_its_own(case):
    c_in, c_out, size, stride, groups = case
    options = {"stride": stride, "groups": groups, "dtype": torch.float64}
    module = AOL(c_in, c_out, size, learn_scale=True, **options)
    with torch.no_grad():
        for raw in module.parameters():
            raw.normal_()
    weight = module.weight().detach()
    for other in (AOL(c_in, c_out, size, **options), copy.deepcopy(module)):
        other.reset_parameters()
        other.assign_(weight)
        torch.testing.assert_close(other.weight().detach(), weight, rtol=0, atol=1e-13)
    names = list(dict(module.named_parameters()))

    def made(*raws):
        tensors = {f"of.{name}": raw for name, raw in zip(names, raws, strict=True)}
        return torch.func.functional_call(_Weight(module), tensors, ())

    raws = tuple(p.detach().clone().requires_grad_() for p in module.parameters())
    assert torch.autograd.gradcheck(made, raws)


class _Weight(torch.nn.Module):
    def __init__(self, of):
        super().__init__()
        self.of = of

    def forward(self):
        return self.of.weight()


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_reflection_does_not_raise_the_norm_as_it_does_where_it_copies(mode):
    """Kernels that are 1-Lipschitz with zeros are not with torch's reflection: peers have 1.27."""
    kernel = taut.BCOP(4, 4, (3, 3), init="uniform", dtype=torch.float64).weight().detach()
    layer = taut.nn.Conv2d(4, 4, 3, bias=False, padding_mode=mode, parametrization=AOL).double()
    layer.weight = kernel  # orthogonal: a fixed point of AOL
    plain = torch.nn.Conv2d(4, 4, 3, padding=1, bias=False, padding_mode=mode, dtype=torch.float64)
    with torch.no_grad():
        plain.weight.copy_(layer.weight)
    copied, ours = (
        torch.linalg.matrix_norm(dense_operator(each, (4, 6, 6)), 2).item()
        for each in (plain, layer)
    )
    assert copied > 1.27
    assert ours <= 1 + 1e-9
    bound = float(taut.lipschitz_bound(layer, (4, 6, 6)))
    assert ours - 1e-12 <= bound <= 1 + 1e-6


@pytest.mark.parametrize("learn", LEARNED)
def test_layers_start_near_the_identity(learn):
    torch.manual_seed(0)
    layer = taut.nn.Conv2d(8, 8, 3, bias=False, parametrization=partial(AOL, learn_scale=learn))
    x = torch.randn(2, 8, 6, 6)
    assert (layer(x) - x).norm() < 0.5 * x.norm()
    assert torch.linalg.svdvals(dense_operator(layer.double(), (8, 4, 4))).min() > 0.3


def test_it_starts_at_the_identity_or_near_it():
    torch.manual_seed(0)
    weight = taut.AOL(3, 3, (3, 3), init="identity").weight()
    delta = torch.nn.init.dirac_(torch.empty(3, 3, 3, 3))
    torch.testing.assert_close(weight, delta, rtol=0, atol=1e-6)
    near = taut.AOL(3, 3, (3, 3)).weight()
    assert 0 < (near - delta).abs().max() < 0.5
    with pytest.raises(ValueError, match="`init` must be 'near-identity' or 'identity'; got 'no'"):
        taut.AOL(3, 3, init="no")
