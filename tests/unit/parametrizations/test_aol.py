"""AOL: norms of dense operators, fixed points, groups and strides."""

import pytest
import torch

import taut
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
