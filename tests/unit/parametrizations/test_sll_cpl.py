"""SLL and CPL: norms of dense operators, scales of hidden channels, strides, groups and raws."""

import pytest
import torch

import taut
from convolution_layers import matrix_of, set_raw_
from convolution_oracles import Case
from taut import CPL, SLL
from taut.parametrizations import read_scaled_weight

METHODS = [SLL, CPL]
CASES = [
    Case(4, 4, (3, 3), (1, 1), (5, 4)),
    Case(4, 8, (3, 2), (2, 1), (6, 5), groups=2),
    Case(4, 4, (3, 3), (1, 1), (4, 4), groups=4, mode="zeros"),
    Case(6, 3, (3, 3), (2, 2), (5, 6), groups=3, mode="zeros"),
    Case(3, 5, (5,), (1,), (4,), dilation=(2, 1, 1)),  # larger than its periodic domain
    Case(3, 2, (4,), (3,), (7,), mode="zeros"),
    Case(2, 3, (2, 2, 2), (1, 2, 1), (3, 2, 3)),
]
RAWS = ["gaussian", "huge", "tiny", "12 decades", "rank-deficient"]


def made(method, case, raw="gaussian", dtype=torch.float64):
    sizes = {"stride": case.stride, "groups": case.groups}
    module = method(case.c_in, case.c_out, case.kernel, **sizes, dtype=dtype)
    set_raw_(module, raw)
    return module


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("raw", RAWS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_norm_is_at_most_1(method, case, raw):
    for dtype, above in ((torch.float64, 1e-9), (torch.float32, 3e-6)):
        weight, scale = made(method, case, raw, dtype).scaled_weight()
        assert torch.linalg.matrix_norm(matrix_of(case, weight), 2) <= 1 + above
        assert scale.dtype == dtype
        assert scale.shape == (case.c_out,)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_scale_times_the_weight_is_the_raw_kernel(method, case):
    module = made(method, case)
    weight, scale = module.scaled_weight()
    scaled = weight * scale.reshape(-1, *[1] * (weight.dim() - 1))
    torch.testing.assert_close(scaled, module.raw_kernel, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bound_of_cpl_is_not_far_above_the_norm(case):
    module = made(CPL, case)
    exact = torch.linalg.matrix_norm(matrix_of(case, module.raw_kernel), 2)
    bound = module.scaled_weight()[1].max()
    assert exact <= bound < 3 * exact


def test_weights_of_sll_are_those_of_a_slow_sum():
    module = SLL(2, 3, (3,), dtype=torch.float64)
    with torch.no_grad():
        module.raw_q.copy_(torch.tensor([0.3, -1.0, 2.0]))
    w, q = module.raw_kernel.detach(), torch.exp(8 * torch.tanh(module.raw_q.detach() / 8))
    for i in range(3):
        total = 0.0
        for j in range(3):
            for shift in range(-2, 3):
                taps = [t for t in range(3) if 0 <= t + shift < 3]
                total += (
                    abs(sum(float(w[i, :, t] @ w[j, :, t + shift]) for t in taps)) * q[j] / q[i]
                )
        torch.testing.assert_close(module.weight()[i], w[i] / total**0.5, rtol=1e-12, atol=0)
        torch.testing.assert_close(module.scaled_weight()[1][i], total**0.5, rtol=1e-12, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_orthogonal_kernels_stay_as_they_are(method):
    weight = taut.BCOP(6, 4, (3, 3), dtype=torch.float64).weight().detach()
    module = method(6, 4, (3, 3), dtype=torch.float64)
    module.raw_kernel.data.copy_(5 * weight)
    if method is CPL:
        torch.testing.assert_close(module.weight(), weight, rtol=1e-12, atol=1e-12)
    start = torch.zeros(4, 6, 3, 3, dtype=torch.float64)
    start[:, :4, 1, 1] = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    module.assign_(start)
    torch.testing.assert_close(module.weight(), start)
    with pytest.raises(ValueError, match="must be one that"):
        module.assign_(start / 2)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_keeps_the_norm_to_its_rounding(method, dtype):
    layer = taut.nn.PotentialResidual2d(4, 6, 3, parametrization=method).to(dtype)
    bound = float(taut.lipschitz_bound(layer, (4, 5, 5)))
    assert layer(torch.randn(2, 4, 5, 5, dtype=dtype)).isfinite().all()
    assert bound <= 1 + 16 * torch.finfo(dtype).eps


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [0.0, 1e-38, 1e-30, 1e38])
def test_any_size_of_the_raw_kernel_gives_finite_numbers(method, size):
    module = method(4, 4, (3, 3))
    with torch.no_grad():
        module.raw_kernel.copy_(size * torch.randn(4, 4, 3, 3).clamp(-3, 3) / 3)
    weight, scale = module.scaled_weight()
    (weight.sum() + scale.sum()).backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())
    assert weight.isfinite().all()
    assert ((scale >= 2.0**-16) & (scale <= 2.0**16)).all()


@pytest.mark.parametrize("method", METHODS)
def test_gradients_of_weight_and_scale_are_those_of_finite_differences(method):
    module = method(2, 3, (2, 2), stride=(1, 2), dtype=torch.float64)
    names = [name for name, _ in module.named_parameters()]

    def both(*raws):
        return torch.func.functional_call(_Both(module), dict(zip(names, raws, strict=True)), ())

    names = [f"of.{name}" for name in names]
    raws = tuple(p.detach().clone().requires_grad_() for p in module.parameters())
    assert torch.autograd.gradcheck(both, raws)


class _Both(torch.nn.Module):
    def __init__(self, of):
        super().__init__()
        self.of = of

    def forward(self):
        return self.of.scaled_weight()


@pytest.mark.parametrize("method", METHODS)
def test_cached_serves_weight_and_scale(method):
    module = method(2, 3, (3,))
    with torch.no_grad(), taut.cached():
        one, other = read_scaled_weight(module), read_scaled_weight(module)
        assert one[0] is other[0]
        assert one[1] is other[1]
        expected = module.scaled_weight()
        torch.testing.assert_close(one, expected, rtol=0, atol=0)
        module.raw_kernel.mul_(3)
        torch.testing.assert_close(read_scaled_weight(module)[1], 3 * expected[1])
    with pytest.raises(ValueError, match="`kernel_size` must have at most 3 axes"):
        method(2, 2, (1, 1, 1, 1))
